"""The method: its stages in order, and which of them a section of a pipeline file is.

Everything else about stages is derived from `METHOD`. A new stage is a module with its `STAGE`, the
class of its settings, and one line here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from cai.constitution.explain import did_you_mean
from cai.errors import CaiError
from cai.pipeline.context import LOGS, SWEEP
from cai.pipeline.extending import EXTENDS, WITHOUT
from cai.pipeline.stage import GIVEN, Stage
from cai.pipeline.stages import (
    compare,
    demonstrations,
    evaluate,
    ppo,
    prompts,
    report,
    revise,
    samples,
    training,
)
from cai.settings import PipelineSettings
from cai.settings.wording import shown

METHOD: tuple[Stage[Any], ...] = (
    prompts.STAGE,
    revise.STAGE,
    training.SFT,
    compare.STAGE,
    demonstrations.STAGE,
    training.DPO,
    training.KTO,
    training.PREFERENCE,
    samples.SAMPLE,
    samples.SELECT,
    samples.PAIR,
    training.VERIFIER,
    samples.BEST_OF_N,
    ppo.STAGE,
    training.HARMFULNESS,
    evaluate.STAGE,
    report.STAGE,
)

NAME = re.compile(r"[a-z][a-z0-9-]*")
"""A stage's name in a pipeline: it is a folder's and an option's, too."""
TAKEN = (LOGS, SWEEP, EXTENDS, WITHOUT, *GIVEN, *PipelineSettings.model_fields)
"""Names of other things in a run, or in a pipeline file."""

Where = Callable[[tuple[str | int, ...]], str]
"""Writes the place of keys in a pipeline file."""


def stages_by_name() -> dict[str, Stage[Any]]:
    """Return the stages of the method by name, in order."""
    return {stage.name: stage for stage in METHOD}


def stage_of(name: str, section: object, where: Where) -> Stage[Any] | None:
    """Return the stage of a section of a pipeline file, by its key and value; None if it is none.

    Raises:
        CaiError: The section's `stage:` is unknown, or its name is already used.
    """
    known = stages_by_name()
    wanted = section.get("stage") if isinstance(section, Mapping) else None  # pyright: ignore
    if not isinstance(wanted, str):
        if name not in known and isinstance(section, Mapping) and "stage" in section:
            raise CaiError(
                f"{where((name, 'stage'))}: `{name}.stage` must be the name of a stage (it is "
                f"{shown(wanted)}): {', '.join(known)}."
            )
        return known.get(name)
    if wanted not in known:
        raise CaiError(
            f"{where((name, 'stage'))}: there is no stage `{wanted:.60}`, "
            f"{did_you_mean(wanted, known)}"
        )
    taken = {*TAKEN, *known, *(stage.makes.name for stage in METHOD if stage.makes)} - {wanted}
    if name in taken:
        raise CaiError(
            f"{where((name,))}: `{name}` already has another meaning in a run. Give this "
            f"`{wanted}` stage another, such as `second-{wanted}`."
        )
    if not NAME.fullmatch(name):
        raise CaiError(
            f"{where((name,))}: a stage cannot be called `{name}`. Use lower-case letters, digits "
            f"and hyphens, such as `second-{wanted}`."
        )
    return known[wanted]
