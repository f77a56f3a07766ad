"""`sft`: fine-tuning data in, SL-CAI out."""

from __future__ import annotations

from typing import Any

from cai.pipeline.manifest import significant
from cai.pipeline.stage import Context, Stage, check_launcher, train_model
from cai.settings import SftSettings

VERSION = 1
TRAIN = "cai.training.sft:train_sft"


def _settings(context: Context) -> SftSettings:
    return context.settings.sft or SftSettings()


def _run(context: Context) -> dict[str, Any]:
    data = context.stage_dir("revise") / "train.parquet"
    return train_model(context, "sft", TRAIN, _settings(context), data, context.base)


STAGE = Stage(
    name="sft",
    version=VERSION,
    settings=lambda context: {**significant(_settings(context)), "seed": context.settings.seed},
    needs=lambda _: ("revise",),
    inputs=lambda context: {"base model": context.fingerprint(context.base)},
    run=_run,
    outputs=("model",),
    check=lambda context: check_launcher(context, "sft", _settings(context)),
)
