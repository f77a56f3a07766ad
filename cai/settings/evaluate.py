"""`evaluate`: answers to held-out prompts, and who grades them."""

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
    """What the models do on held-out prompts."""

    samples_per_side: Positive = 300
    """At least so many answers to red-team and to helpful prompts each, of every model."""
    checkpoint_samples: Annotated[int, Field(ge=0)] = 60
    """The same of every policy that `ppo.snapshot_steps` has kept; 0 leaves them out."""
    grader: Annotated[str, AfterValidator(_grader)] = "refusals"
    """`playground` (the small world's ground truth), `refusals` (string match), `judge` (a model
    with a rubric), or a function of your own as `file.py:function` or `module:function`."""
    judge: ModelSettings | None = None
    """The model behind `grader: judge` and `elo: judge`; the feedback model if left out, and then
    the results say so: it has made the labels."""
    judge_min_mass: Fraction = 0.1
    """A judge that puts less probability on its options together gives no verdict."""
    elo: Literal["preference", "judge"] = "preference"
    """Harmless and helpful Elo from the preference model's scores (174 points a unit), or from
    matches that the judge decides."""
    elo_pairing: Literal["all", "swiss"] = "all"
    """Who meets whom before the judge: everyone everyone, or a few opponents of the same strength
    (for many models)."""
    elo_prompts: Positive = 100
    """At most so many prompts a side on which any two models meet; with `swiss`, on which each
    model meets all of its opponents together."""
    harmfulness: str | None = None
    """Absolute harmfulness, 0 to 4, of answers to red-team prompts: the folder of a model that
    `cai harmfulness` trained, or `judge`; the model of the run's own `harmfulness:` if left out."""
    benign_texts: Annotated[int, Field(ge=0)] = 100
    """Responses that people preferred, from the helpfulness comparisons: the perplexity of so many
    is compared between models."""
    stratum: str | None = None
    """Evaluate only held-out prompts with this `stratum` tag."""
    concurrency: Positive = 256
    """Rows under way at once; changes speed and memory, not results."""
