"""`sft`: fine-tuning data in, SL-CAI out."""

from __future__ import annotations

from typing import Any

from cai.pipeline.context import Context
from cai.pipeline.stage import BASE, POLICY, REVISIONS, Need, Output, Stage
from cai.pipeline.training_stage import check_launcher, train_model
from cai.settings import SftSettings

TRAIN = "cai.training.sft:train_sft"


def _run(context: Context[SftSettings]) -> dict[str, Any]:
    return train_model(context, TRAIN, context.source(REVISIONS) / "train.parquet")


STAGE = Stage(
    name="sft",
    settings=SftSettings,
    makes=Output("sl-cai", POLICY),
    needs=(Need(REVISIONS, ("revisions",)), Need(POLICY, (BASE,))),
    run=_run,
    outputs=("model",),
    check=check_launcher,
    trains=True,
)
