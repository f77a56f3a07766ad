"""The stages by name, in the method's order."""

from __future__ import annotations

from cai.pipeline.stage import Stage
from cai.pipeline.stages import (
    compare,
    evaluate,
    harmfulness,
    ppo,
    preference,
    prompts,
    report,
    revise,
    sft,
)

STAGES: dict[str, Stage] = {
    module.STAGE.name: module.STAGE
    for module in (
        prompts,
        revise,
        sft,
        compare,
        preference,
        ppo,
        harmfulness,
        evaluate,
        report,
    )
}
