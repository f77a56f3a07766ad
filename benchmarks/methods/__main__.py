"""Every method of docs/methods.md on the playground, on three seeds, in one table.

    python -m benchmarks.methods                     # seeds 5, 6 and 7, two at a time
    python -m benchmarks.methods --folder DIR        # keep the runs, and continue those in DIR
    python -m benchmarks.methods --show DIR          # the table of finished runs

The settings (`benchmarks/methods/pipeline.yaml`) were written before the first run and not tuned.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from benchmarks.methods.measures import measured
from benchmarks.methods.shown import markdown
from benchmarks.runs import RESULTS

NAME = "methods"
SEEDS = (5, 6, 7)
PIPELINE = Path(__file__).parent / "pipeline.yaml"


def run(folder: Path, seed: int) -> Path:
    """Run the pipeline on one seed with one thread; returns the run's folder."""
    out = folder / str(seed)
    command = [sys.executable, "-m", "cai", "run", str(PIPELINE), "--out", str(out)]
    with (folder / f"{seed}.log").open("w") as log:
        done = subprocess.run(
            [*command, "--set", f"seed={seed}"],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"failed; see {log.name}")
    return out


def main() -> None:
    """Run the seeds that have not finished, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the runs are")
    parser.add_argument("--show", type=Path, help="measure finished runs in this folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time")
    given = parser.parse_args()
    folder = given.show or given.folder or Path(tempfile.mkdtemp(prefix="methods-"))
    folder.mkdir(parents=True, exist_ok=True)
    if not given.show:
        with ThreadPoolExecutor(given.jobs) as pool:
            list(pool.map(lambda seed: run(folder, seed), given.seeds))
    result: dict[str, Any] = {
        "machine": machine(),
        "seeds": {str(seed): measured(folder / str(seed)) for seed in given.seeds},
    }
    RESULTS.joinpath(f"{NAME}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(markdown(result))


if __name__ == "__main__":
    main()
