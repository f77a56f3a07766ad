"""Save policies: at the end of a training, and during it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from transformers import PreTrainedModel

from cai.data.store import whole_folder
from cai.models.chat import ChatFormat
from cai.settings import OptimizerSettings, PolicySettings
from cai.training.arguments import Snapshots


def save_policy(model: PreTrainedModel, out: Path, chat: ChatFormat) -> dict[str, float]:
    """Write a model and its tokenizer, whole or not at all; returns no measures."""
    with whole_folder(out) as folder:
        model.save_pretrained(folder)
        chat.tokenizer.save_pretrained(folder)
    return {}


def snapshots_of(settings: OptimizerSettings, chat: ChatFormat, stage: Path) -> Snapshots | None:
    """Return the policies to keep of a training; None if it makes no policy."""
    if not isinstance(settings, PolicySettings):
        return None
    return Snapshots(stage, settings.snapshot_steps, partial(save_policy, chat=chat))
