"""Policies that a stage keeps of its training, for the evaluation."""

from __future__ import annotations

import shutil
from pathlib import Path

SNAPSHOTS = "snapshots"
"""Their folder in that of the stage."""


def snapshot_folder(stage: Path, step: int) -> Path:
    """Return the folder of the policy after some steps of a stage's training."""
    return stage / SNAPSHOTS / f"step-{step:06d}"


def snapshots(stage: Path) -> dict[int, Path]:
    """Return the policies kept of a stage's training, by step, ascending."""
    found = {path.name.removeprefix("step-"): path for path in (stage / SNAPSHOTS).glob("step-*")}
    return dict(sorted((int(step), path) for step, path in found.items() if step.isdigit()))


def tidy_snapshots(stage: Path, every: int | None, *, last: int) -> None:
    """Remove the snapshots that a training of `last` steps with these settings would not keep."""
    for step, path in snapshots(stage).items():
        if every is None or step % every or step > last:
            shutil.rmtree(path)
