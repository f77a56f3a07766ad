"""`sft`: fine-tuning data in, SL-CAI out."""

from __future__ import annotations

from cai.pipeline.stage import BASE, POLICY, REVISIONS, Need, Output, Stage
from cai.pipeline.training_stage import check_launcher, trained_on
from cai.settings import SftSettings

STAGE = Stage(
    name="sft",
    settings=SftSettings,
    makes=Output("sl-cai", POLICY),
    needs=(Need(REVISIONS, ("revisions",)), Need(POLICY, (BASE,))),
    run=trained_on(REVISIONS, "cai.training.sft:train_sft"),
    outputs=("model",),
    check=check_launcher,
    trains=True,
)
