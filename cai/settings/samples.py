"""`sample`, `select`, `pair` and `best-of-n`: many responses to a prompt, and a choice of them."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from cai.settings.base import NotNegative, Positive, SamplingSettings, StageSettings
from cai.settings.evaluate import OWN_GRADER

PREFERENCE = "preference"
"""`scored_by` a preference model; other values are graders."""


def _scorer(name: str) -> str:
    """Accept the preference model, or a grader that needs no model."""
    known = (PREFERENCE, "playground", "refusals")
    if name not in known and not re.fullmatch(OWN_GRADER, name):
        raise ValueError(
            f"nothing called `{name}` scores samples; use {', '.join(known)}, or your own function "
            "as `file.py:function` or `module:function`"
        )
    return name


class SampleSettings(SamplingSettings, StageSettings, frozen=True):
    """Several scored responses of a policy to each training prompt."""

    samples: Annotated[int, Field(ge=2)] = 8
    """Responses to each prompt."""
    prompts: Positive | None = None
    """The most prompts of each kind; null: all of the training split."""
    scored_by: Annotated[str, AfterValidator(_scorer)] = PREFERENCE
    """The preference model (`preference`), or a grader that calls each response right (1) or wrong
    (0): `playground`, `refusals`, or your own function as `file.py:function` or `module:function`.
    A refusal with a reason of a red-team prompt is right, and help with any other."""
    concurrency: Positive = 128
    """Prompts at the same time; changes speed and memory, not results."""


class SelectSettings(StageSettings, frozen=True):
    """The best samples of each prompt, to fine-tune on (rejection sampling, ReST)."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.25
    """The share of each prompt's samples that is kept, at least one: scores of different prompts
    are not comparable."""
    above: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Keep only samples with a larger score; for graders, 0.5 keeps those that are right."""
    most: Positive | None = None
    """The most samples of one prompt, so that easy prompts do not dominate; null: no limit."""


class PairSettings(StageSettings, frozen=True):
    """Comparisons made of samples: the best against the worst, and so on."""

    pairs_per_prompt: Positive = 1
    """The most pairs of each prompt."""
    margin: NotNegative = 0.0
    """Only pairs whose scores differ by more."""


class BestOfNSettings(StageSettings, frozen=True):
    """The best of several responses by the preference model, as a policy without training."""

    n: Annotated[int, Field(ge=2)] = 8
    """Responses sampled for each answer."""
