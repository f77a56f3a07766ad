"""Checkpoints of a training: whose they are, whether they are whole, and the newest one."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path

from cai.data.records import content_hash
from cai.models.loading import fingerprint_model
from cai.settings import ModelSettings, OptimizerSettings

logger = logging.getLogger(__name__)

_STATE = "trainer_state.json"
_IDENTITY = "identity.txt"
_FORMAT = 2
"""Of the checkpoints; raised when an older one cannot be read."""
_NO_EFFECT = {"micro_batch_size", "checkpoint_steps", "launch", "processes"}


def training_identity(
    settings: OptimizerSettings, *, data: Path, base: ModelSettings, seed: int
) -> str:
    """Name everything that determines the weights a training ends with.

    Settings that change only memory, speed or safety are not part of it, so a run that ran out of
    memory resumes with a smaller `micro_batch_size`, or on more processes.
    """
    with data.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    plain = settings.model_dump(exclude=_NO_EFFECT)
    kind = type(settings).__name__
    return content_hash(_FORMAT, kind, plain, digest, fingerprint_model(base), base.dtype, seed)


def open_checkpoints(folder: Path, identity: str) -> Path | None:
    """Prepare the folder of checkpoints and return the newest one to resume from, if any.

    Checkpoints of another training (other data, settings, base model or seed) are removed, and so
    are torn ones, with a warning.
    """
    mark = folder / _IDENTITY
    ours = mark.is_file() and mark.read_text(encoding="utf-8") == identity
    checkpoints = sorted(folder.glob("checkpoint-*"), key=_step, reverse=True)
    whole = [checkpoint for checkpoint in checkpoints if ours and _is_whole(checkpoint)]
    for checkpoint in checkpoints:
        if checkpoint not in whole:
            reason = "was not written to its end" if ours else "belongs to another training"
            logger.warning("Checkpoint %s %s; it is removed.", checkpoint, reason)
            shutil.rmtree(checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(identity, encoding="utf-8")
    return whole[0] if whole else None


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def _is_whole(checkpoint: Path) -> bool:
    """The trainer's state is written last, so a checkpoint that has it whole has everything."""
    try:
        state = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return state.get("global_step") == _step(checkpoint)
