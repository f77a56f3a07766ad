"""Checkpoints of PPO; each is written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cai.data.store import whole_folder
from cai.training.checkpoints import newest_first, step_of
from cai.training.processes import ALONE, Processes

logger = logging.getLogger(__name__)

KEEP = 2
FORMAT = 2
"""Of the state; raised when an older one cannot be read."""
_STATE = "state.pt"
_META = "meta.json"


def save_checkpoint(
    folder: Path, step: int, run: str, state: Mapping[str, Any], *, keep: int = KEEP
) -> None:
    """Save the state after `step` steps, and keep only the `keep` newest checkpoints.

    `run` is the fingerprint of the run: no other run resumes from it.
    """
    with whole_folder(folder / f"step-{step:06d}") as partial:
        with (partial / _STATE).open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        meta = {"format": FORMAT, "step": step, "run": run, "digest": _digest(partial / _STATE)}
        (partial / _META).write_text(json.dumps(meta), encoding="utf-8")
    for old in newest_first(folder, "step-*")[keep:]:
        shutil.rmtree(old)


def load_checkpoint(
    folder: Path, run: str, device: torch.device, processes: Processes = ALONE
) -> tuple[int, dict[str, Any]] | None:
    """Return steps done and state of the newest whole checkpoint of this run, or None.

    Damaged checkpoints and those of another run are removed with a warning, or they would count
    among the newest two. The main process chooses; all processes read its choice.
    """
    path = processes.from_main(lambda: _newest_whole(folder, run))
    if path is None:
        return None
    # Sharded weights may not fit on the device before they are split.
    where = torch.device("cpu") if processes.sharded else device
    return step_of(path), torch.load(path / _STATE, map_location=where, weights_only=True)


def _newest_whole(folder: Path, run: str) -> Path | None:
    for path in newest_first(folder, "step-*"):
        problem = _problem(path, run)
        if problem is None:
            return path
        logger.warning("PPO cannot resume from %s and removes it: %s.", path, problem)
        shutil.rmtree(path)
    return None


def _problem(path: Path, run: str) -> str | None:
    """Return why a run cannot resume from a checkpoint, or None."""
    try:
        meta = json.loads((path / _META).read_text(encoding="utf-8"))
        if meta.get("format") != FORMAT:
            return "another version of cai wrote it"
        if meta["run"] != run:
            return "its settings, seed, models or prompts are others"
        if meta["step"] != step_of(path) or meta["digest"] != _digest(path / _STATE):
            return "it is damaged"
    except (OSError, ValueError, KeyError, TypeError):
        return "it is incomplete"
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()
