"""`evaluate`: responses to held-out prompts, and their grader."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from cai.settings.base import Fraction, Positive, SamplingSettings, StageSettings
from cai.settings.models import ModelSettings

OWN_GRADER = r"([A-Za-z_][\w.]*|.+\.py):[A-Za-z_]\w*"
"""A function as `module:function` or `file.py:function`."""


def _grader(name: str) -> str:
    """Accept the name of a grader, or of a function."""
    known = ("playground", "refusals", "judge")
    if name not in known and not re.fullmatch(OWN_GRADER, name):
        raise ValueError(
            f"there is no grader `{name}`; use {', '.join(known)}, or your own function "
            "as `file.py:function` or `module:function`"
        )
    return name


class EvaluateSettings(SamplingSettings, StageSettings, frozen=True):
    """How the models are evaluated on held-out prompts."""

    samples_per_side: Positive = 300
    """The least number of responses per model to red-team prompts, and to helpful prompts."""
    checkpoint_samples: Annotated[int, Field(ge=0)] = 60
    """The same for each policy kept by `ppo.snapshot_steps`; 0 leaves them out."""
    grader: Annotated[str, AfterValidator(_grader)] = "refusals"
    """`playground` (the small world's ground truth), `refusals` (string match), `judge` (a model
    with a rubric), or your own function as `file.py:function` or `module:function`."""
    judge: ModelSettings | None = None
    """The model for `grader: judge` and `elo: judge`. If left out, it is the feedback model; the
    results then have a note, because this model also made the labels."""
    judge_min_mass: Fraction = 0.1
    """There is no verdict if the judge's options have less probability together."""
    elo: Literal["preference", "judge"] = "preference"
    """Harmless and helpful Elo from the preference model's scores (174 points per unit), or from
    matches decided by the judge."""
    elo_pairing: Literal["all", "swiss"] = "all"
    """Which models are matched: all pairs, or each with a few opponents of about the same strength
    (for many models)."""
    elo_prompts: Positive = 100
    """The largest number of prompts per side for each pair of models; with `swiss`, for each model
    with all of its opponents together."""
    harmfulness: str | None = None
    """Absolute harmfulness, 0 to 4, of responses to red-team prompts: the folder of a model trained
    by `cai harmfulness`, or `judge`; if left out, the model of the stage `harmfulness`."""
    benign_texts: Annotated[int, Field(ge=0)] = 100
    """The number of preferred responses from the helpfulness comparisons whose perplexity is
    compared between models."""
    stratum: str | None = None
    """Evaluate only held-out prompts with this `stratum` tag."""
    concurrency: Positive = 256
    """Rows processed at the same time; changes speed and memory, not results."""
