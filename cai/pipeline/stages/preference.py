"""`preference`: comparisons in, the preference model out."""

from __future__ import annotations

from cai.pipeline.stage import COMPARISONS, HELPFUL, POLICY, PREFERENCE_MODEL, Need, Output, Stage
from cai.pipeline.training_stage import check_launcher, trained_on
from cai.settings import PreferenceSettings

STAGE = Stage(
    name="preference",
    settings=PreferenceSettings,
    makes=Output("preference-model", PREFERENCE_MODEL),
    needs=(Need(COMPARISONS, ("comparisons",)), Need(POLICY, ("sl-cai", HELPFUL))),
    run=trained_on(COMPARISONS, "cai.training.preference:train_preference"),
    outputs=("model",),
    check=check_launcher,
    trains=True,
)
