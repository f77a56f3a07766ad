"""`preference`: comparisons in, the preference model out."""

from __future__ import annotations

from typing import Any

from cai.pipeline.manifest import significant
from cai.pipeline.stage import Context, Stage, check_launcher, train_model
from cai.settings import PreferenceSettings

VERSION = 1
TRAIN = "cai.training.preference:train_preference"


def _settings(context: Context) -> PreferenceSettings:
    return context.settings.preference or PreferenceSettings()


def _run(context: Context) -> dict[str, Any]:
    data, settings = context.stage_dir("compare") / "train.parquet", _settings(context)
    return train_model(context, "preference", TRAIN, settings, data, context.sl_cai)


STAGE = Stage(
    name="preference",
    version=VERSION,
    settings=lambda context: {**significant(_settings(context)), "seed": context.settings.seed},
    needs=lambda settings: ("compare", "sft") if settings.sft else ("compare",),
    inputs=lambda context: (
        {} if context.settings.sft else {"helpful model": context.fingerprint(context.helpful)}
    ),
    run=_run,
    outputs=("model",),
    check=lambda context: check_launcher(context, "preference", _settings(context)),
)
