"""Functions shared by the stages that train a model on rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cai.pipeline.context import Context
from cai.pipeline.launch import launcher_of, run_training


def trained_on(kind: str, train: str) -> Callable[[Context[Any]], dict[str, Any]]:
    """Return the function of a stage that trains on the `train.parquet` of another stage."""

    def run(context: Context[Any]) -> dict[str, Any]:
        return train_model(context, train, context.source(kind) / "train.parquet")

    return run


def train_model(context: Context[Any], train: str, data: Path) -> dict[str, Any]:
    """Train a stage's model from the policy that it reads; return the metrics.

    Args:
        context: Of the stage, whose folder gets `model/`.
        train: `MODULE:FUNCTION`, such as `cai.training.sft:train_sft`.
        data: The rows.
    """
    return run_training(
        train,
        context.settings,
        stage=context.name,
        data=data,
        base=context.policy,
        out=context.folder / "model",
        seed=context.seed,
        log_dir=context.log_dir,
        base_dir=context.base_dir,
        progress=context.progress,
    )


def check_launcher(context: Context[Any]) -> None:
    """Raise a CaiError if a training stage cannot be launched with its settings."""
    launcher_of(context.settings, stage=context.name, base_dir=context.base_dir)
