"""Runs of the quickstart, measured, and runs that start from a copy of another."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from cai.constitution.schema import FewShot, Principle
from cai.constitution.write import to_yaml
from cai.pipeline.manifest import usable_cores

RESULTS = Path(__file__).parent / "results"
"""What the tables in `docs/experiments.md` are made from."""


def run_quickstart(
    folder: Path, changes: Sequence[str] = (), threads: int | None = None
) -> dict[str, Any]:
    """Run the quickstart in a process of its own, with so many threads (None: as it likes).

    Returns:
        `seconds` (wall clock), `peak_memory_gib`, `stages` (of each stage that ran now: `seconds`,
        `rows`, `rows_reused`), and `evaluation`, as in report.json.
    """
    command = _command(folder, changes)
    began, started = time.time(), time.monotonic()
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    process = subprocess.Popen(command, env=environment)
    # wait4 gives the peak memory of this one child; the resource module only that of all of them.
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    return {
        "seconds": round(time.monotonic() - started, 1),
        "peak_memory_gib": round(usage.ru_maxrss / 2**20, 2),
        "stages": {
            path.parent.name: _stage(json.loads(path.read_text()))
            for path in sorted(folder.glob("*/metrics.json"))
            if path.stat().st_mtime > began
        },
        "evaluation": evaluation(folder),
    }


def _command(folder: Path, changes: Sequence[str]) -> list[str]:
    command = [sys.executable, "-m", "cai", "run", "quickstart", "--out", str(folder)]
    for change in changes:
        command += ["--set", change]
    return command


def evaluation(folder: Path) -> dict[str, Any]:
    """Return the rates of a finished run, by model."""
    return json.loads((folder / "report.json").read_text())["evaluation"]


def _stage(metrics: dict[str, Any]) -> dict[str, Any]:
    wanted = ("seconds", "rows", "rows_reused")
    return {name: metrics[name] for name in wanted if name in metrics}


def write_constitution(path: Path, principles: Sequence[Principle]) -> Path:
    """Write a constitution of these principles; named after the file."""
    path.write_text(to_yaml(path.stem, "", principles, FewShot()), encoding="utf-8")
    return path


@dataclass
class Experiment:
    """Runs that each differ from one baseline in one thing, with one seed.

    A variant starts from a copy of the baseline's folder, so only what depends on the difference
    is made again.

    Attributes:
        name: Names the result.
        seed: The seed of all runs.
        folder: Where the runs are.
        changes: Settings of all runs, as `KEY=VALUE`.
        jobs: How many variants run at once, each on its share of the cores.
        runs: What was measured, by the run's name.
    """

    name: str
    seed: int
    folder: Path
    changes: list[str]
    jobs: int = 1
    runs: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    _waiting: list[tuple[str, tuple[str, ...]]] = field(
        default_factory=list[tuple[str, tuple[str, ...]]]
    )

    def baseline(self, *changes: str) -> Path:
        """Run the quickstart, as it is or with changed settings; returns the run's folder."""
        if "baseline" not in self.runs:
            self._run("baseline", changes)
        return self._folder("baseline")

    def preference_model(self, seed: int) -> Path:
        """Run the quickstart with another seed as far as its preference model; returns that."""
        folder = self._folder(f"preference model of seed {seed}")
        settings = [f"seed={seed}", "compare.gate=null", *self.changes, "ppo=null", "evaluate=null"]
        subprocess.run(_command(folder, settings), check=True)
        return folder / "preference" / "model"

    def variant(
        self,
        name: str,
        *changes: str,
        principles: Sequence[Principle] | None = None,
        like: str = "baseline",
    ) -> Path:
        """Plan a run with changed settings or principles; returns the folder that it will have.

        It starts from a copy of the run `like`, which must have ended.
        """
        folder = self.prepare(name, like)
        if principles is not None:
            path = write_constitution(folder.with_suffix(".yaml"), principles)
            changes = (*changes, f"constitution={path}")
        self._waiting.append((name, changes))
        return folder

    def prepare(self, name: str, like: str = "baseline") -> Path:
        """Copy a run for a variant; returns the copy, whose files may be edited."""
        folder = self._folder(name)
        if not folder.exists():
            shutil.copytree(self.baseline() if like == "baseline" else self._folder(like), folder)
        return folder

    def run_variants(self) -> None:
        """Run everything that was planned and has not run yet."""
        # In the order they were planned, whichever ends first.
        order = [*self.runs, *(name for name, _ in self._waiting)]
        with ThreadPoolExecutor(self.jobs) as pool:
            list(pool.map(lambda planned: self._run(*planned), self._waiting))
        self.runs = {name: self.runs[name] for name in order}
        self._waiting.clear()

    def result(self, **more: object) -> dict[str, Any]:
        """Return everything for the JSON file."""
        return {
            "name": self.name,
            "seed": self.seed,
            "changes": self.changes,
            "machine": machine(),
            "runs": self.runs,
            **more,
        }

    def _folder(self, name: str) -> Path:
        return self.folder / name.replace(" ", "-").replace(",", "")

    def _run(self, name: str, changes: Sequence[str]) -> None:
        print(f"\n{self.name}, seed {self.seed}: {name}", flush=True)
        # Experiments change what the gate would stop for.
        changes = [f"seed={self.seed}", "compare.gate=null", *self.changes, *changes]
        threads = max(1, (usable_cores() or 1) // self.jobs) if name != "baseline" else None
        self.runs[name] = run_quickstart(self._folder(name), changes, threads)


@contextmanager
def experiment(name: str, description: str) -> Generator[Experiment]:
    """Read the command line and give the experiment a folder that is gone afterwards."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes")
    parser.add_argument("--folder", type=Path, help="keep the runs here, and use what is there")
    parser.add_argument("--jobs", type=int, default=1, help="variants that run at once")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = (options.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        yield Experiment(name, options.seed, folder, options.changes, options.jobs)


def save(result: dict[str, Any]) -> None:
    """Write a result where `python -m benchmarks.tables` finds it."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{result['name']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"Wrote {path}. Now: python -m benchmarks.tables", flush=True)


def finish(result: dict[str, Any], markdown: Callable[[dict[str, Any]], str]) -> int:
    """Print and save a result; returns the exit status, 1 if its bounds are not `met`."""
    print(markdown(result))
    save(result)
    return 0 if result.get("met", True) else 1
