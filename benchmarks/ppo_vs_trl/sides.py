"""The two sides, each in a process of its own, on one thread."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.peers import ON_ONE_THREAD, ROOT, peer_python

REQUIREMENTS = ("torch==2.13.0", "transformers==5.19.0", "trl==1.12.0")
TRL_SIDE = Path(__file__).with_name("trl_side.py")


def trl_python() -> Path:
    """Return the Python of TRL's environment, which is made first if need be."""
    return peer_python("trl", REQUIREMENTS)


def train(side: str, folder: Path, micro_batch: int) -> tuple[dict[str, Any], float]:
    """Train one side as the folder's `workload.json` says.

    Args:
        side: `cai` or `TRL`.
        folder: Models, prompts and workload; the result and a log are written there.
        micro_batch: Rows of TRL's forward and backward passes.

    Returns:
        What it measured of each step, and its peak memory in GiB.
    """
    result = folder / "result.json"
    if side == "cai":
        command = [sys.executable, "-m", "benchmarks.ppo_vs_trl.ours", folder, result]
    else:
        command = [trl_python(), TRL_SIDE, folder, result, str(micro_batch)]
    memory = run(command, folder / "log")
    return json.loads(result.read_text()), memory


def run(command: list[str | Path], log: Path) -> float:
    """Run one side on one thread; return its peak memory in GiB."""
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | ON_ONE_THREAD,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        # wait4 gives the peak memory of this one child.
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{log.read_text()[-3000:]}\nfailed: {' '.join(map(str, command))}")
    return usage.ru_maxrss / 2**20
