"""`preference`: comparisons in, the preference model out."""

from __future__ import annotations

from typing import Any

from cai.pipeline.context import Context
from cai.pipeline.stage import COMPARISONS, HELPFUL, POLICY, PREFERENCE_MODEL, Need, Output, Stage
from cai.pipeline.training_stage import check_launcher, train_model
from cai.settings import PreferenceSettings

TRAIN = "cai.training.preference:train_preference"


def _run(context: Context[PreferenceSettings]) -> dict[str, Any]:
    return train_model(context, TRAIN, context.source(COMPARISONS) / "train.parquet")


STAGE = Stage(
    name="preference",
    settings=PreferenceSettings,
    makes=Output("preference-model", PREFERENCE_MODEL),
    needs=(Need(COMPARISONS, ("comparisons",)), Need(POLICY, ("sl-cai", HELPFUL))),
    run=_run,
    outputs=("model",),
    check=check_launcher,
    trains=True,
)
