"""The quickstart on several seeds: its table, its time by stage, its peak memory.

    python -m benchmarks.quickstart --seeds 5 6 7 --json quickstart.json

Each seed runs in a process of its own and a folder of its own, from nothing. Exit status 1 when a
run takes more than 6 minutes or 4 GiB.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine

WANTED = {"seconds": 360.0, "peak_memory_gib": 4.0}
RATES = (
    "harmful_rate",
    "evasive_rate",
    "explained_refusal_rate",
    "helpful_rate",
    "over_refusal_rate",
    "garbled_rate",
)


def run(seed: int, folder: Path, changes: list[str]) -> dict[str, Any]:
    """Run the quickstart once; returns its evaluation, seconds by stage and peak memory."""
    command = [sys.executable, "-m", "cai", "run", "quickstart", "--out", str(folder)]
    for change in [f"seed={seed}", *changes]:
        command += ["--set", change]
    started = time.monotonic()
    process = subprocess.Popen(command)
    # wait4 gives the peak memory of this one child; the resource module only that of all of them.
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"seed {seed} failed: {' '.join(command)}")
    facts = json.loads((folder / "report.json").read_text())
    stages = {
        path.parent.name: json.loads(path.read_text())["seconds"]
        for path in sorted(folder.glob("*/metrics.json"))
    }
    return {
        "seed": seed,
        "seconds": round(time.monotonic() - started, 1),
        "peak_memory_gib": round(usage.ru_maxrss / 2**20, 2),
        "stages": stages,
        "evaluation": facts["evaluation"],
    }


def table(runs: list[dict[str, Any]]) -> Table:
    """Show every rate of every model and seed, with its interval."""
    shown = Table(title="Quickstart on held-out tasks", box=None)
    shown.add_column("model")
    shown.add_column("seed", justify="right")
    for name in RATES:
        shown.add_column(name.removesuffix("_rate").replace("_", " "), justify="right")
    for model in runs[0]["evaluation"]:
        for one in runs:
            rates = [one["evaluation"][model][name] for name in RATES]
            cells = [f"{r['value']:.2f} [{r['low']:.2f}, {r['high']:.2f}]" for r in rates]
            shown.add_row(model, str(one["seed"]), *cells)
    return shown


def main() -> int:
    """Run, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[5, 6, 7])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = [run(seed, Path(folder) / str(seed), options.changes) for seed in options.seeds]
    console = Console(width=150)
    console.print(table(runs))
    for one in runs:
        stages = ", ".join(f"{name} {seconds:.0f}" for name, seconds in one["stages"].items())
        console.print(
            f"seed {one['seed']}: {one['seconds']:.0f} s ({stages}), "
            f"peak memory {one['peak_memory_gib']:.2f} GiB"
        )
    met = all(one[name] <= most for one in runs for name, most in WANTED.items())
    result = {
        "name": "quickstart",
        "machine": machine(),
        "changes": options.changes,
        "runs": runs,
        "wanted": WANTED,
        "met": met,
    }
    console.print(f"machine: {result['machine']}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
