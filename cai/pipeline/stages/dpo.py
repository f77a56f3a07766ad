"""`dpo`: comparisons in, a policy out, without a preference model."""

from __future__ import annotations

from cai.pipeline.stage import COMPARISONS, HELPFUL, POLICY, Need, Output, Stage
from cai.pipeline.training_stage import check_launcher, trained_on
from cai.settings import DpoSettings

STAGE = Stage(
    name="dpo",
    settings=DpoSettings,
    makes=Output("dpo-cai", POLICY),
    needs=(Need(COMPARISONS, ("comparisons",)), Need(POLICY, ("sl-cai", HELPFUL))),
    run=trained_on(COMPARISONS, "cai.training.dpo:train_dpo"),
    outputs=("model",),
    check=check_launcher,
    trains=True,
)
