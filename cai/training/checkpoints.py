"""Checkpoints of a training: which run they belong to, whether they are whole, the newest."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path

from cai.data.records import content_hash
from cai.models.loading import fingerprint_model
from cai.settings import OptimizerSettings
from cai.training.arguments import Run

logger = logging.getLogger(__name__)

_STATE = "trainer_state.json"
_IDENTITY = "identity.txt"
_FORMAT = 2
"""Of the checkpoints; raised when an older one cannot be read."""
_NO_EFFECT = {"micro_batch_size", "checkpoint_steps", "snapshot_steps", "launch", "processes"}


def training_identity(settings: OptimizerSettings, run: Run) -> str:
    """Hash everything that determines the weights after a training.

    Settings of memory and speed are left out: a run that ran out of memory can be resumed with a
    smaller `micro_batch_size`, or on more processes.
    """
    with run.data.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    plain = settings.model_dump(exclude=_NO_EFFECT)
    kind = type(settings).__name__
    model = fingerprint_model(run.base)
    return content_hash(_FORMAT, kind, plain, digest, model, run.base.dtype, run.seed)


def open_checkpoints(folder: Path, identity: str) -> Path | None:
    """Prepare the folder of checkpoints and return the newest one to resume from, if any.

    Incomplete checkpoints and those of another identity are removed with a warning.
    """
    mark = folder / _IDENTITY
    ours = mark.is_file() and mark.read_text(encoding="utf-8") == identity
    checkpoints = newest_first(folder, "checkpoint-*")
    whole = [checkpoint for checkpoint in checkpoints if ours and _is_whole(checkpoint)]
    for checkpoint in checkpoints:
        if checkpoint not in whole:
            reason = "was not written to its end" if ours else "belongs to another training"
            logger.warning("Checkpoint %s %s; it is removed.", checkpoint, reason)
            shutil.rmtree(checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(identity, encoding="utf-8")
    return whole[0] if whole else None


def newest_first(folder: Path, pattern: str) -> list[Path]:
    """Return the checkpoints in a folder, those of later steps first."""
    return sorted(folder.glob(pattern), key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    """Return the number that a checkpoint's name ends in; -1 if there is none."""
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def _is_whole(checkpoint: Path) -> bool:
    """Whether the trainer's state is there: it is written last."""
    try:
        state = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return state.get("global_step") == step_of(checkpoint)
