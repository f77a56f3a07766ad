"""`compare`: response pairs, AI feedback, and the gate it has to pass."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from cai.settings.base import Fraction, Positive, SamplingSettings, Settings, StageSettings
from cai.settings.prompts import Sources, as_sources


class LabelPolicy(Settings, frozen=True):
    """How verdicts become labels. Changing it asks no model: the verdicts are kept as they are."""

    kind: Literal["soft", "hard"] = "soft"
    """`soft` keeps the probability; `hard` makes it 0 or 1, before `clamp`."""
    orders: Literal["average", "first"] = "average"
    """`average` of both orders, which cancels a liking for a position; or the first order alone."""
    reasonings: Positive | None = None
    """Of several reasonings, average so many; null averages all (`compare.reasoning_samples`)."""
    consistent_only: bool = False
    """A verdict that changes with the order of the responses has no vote."""
    ignore_within: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Principles whose probability is this close to one half have no vote."""
    min_mass: Fraction = 0.0
    """Verdicts that put less probability on the two options together count as unparsed."""
    clamp: tuple[Fraction, Fraction] = (0.0, 1.0)
    """Labels are clamped to this range."""


LABEL_POLICIES: dict[str, dict[str, Any]] = {
    "recommended": {},
    "paper": {"orders": "first"},
    "paper-cot": {"orders": "first", "clamp": (0.4, 0.6)},
}
"""Named policies. The paper shows responses in one order; with reasoning it clamps to 40-60%."""


def _label_policy(value: Any) -> Any:  # noqa: ANN401
    """Accept the name of a policy for its settings."""
    if not isinstance(value, str):
        return value
    if value not in LABEL_POLICIES:
        raise ValueError(f"there is no policy `{value}`; use one of {', '.join(LABEL_POLICIES)}")
    return LABEL_POLICIES[value]


class GateSettings(Settings, frozen=True):
    """What labels must be like on labelled comparisons before preference training may use them."""

    comparisons: Sources
    """Comparisons whose better response is known: files, or `playground:feedback`."""
    accuracy: Fraction | None = 0.7
    """The least share of labels on the side of the better response; null: not looked at."""
    calibration_error: Fraction | None = None
    """The largest expected calibration error of the labels."""
    swap_flips: Fraction | None = None
    """The largest share of opinions that change when asked the other way round."""
    position_bias: Annotated[float, Field(ge=0, le=0.5)] | None = None
    """How far the mean probability of the response shown first may be from one half."""
    option_mass: Fraction | None = None
    """The least mean probability on the options together."""
    action: Literal["stop", "warn"] = "stop"
    """What happens when a bound is missed."""

    @field_validator("comparisons", mode="before")
    @classmethod
    def _short_form(cls, data: Any) -> Any:  # noqa: ANN401
        return as_sources(data)


class CompareSettings(SamplingSettings, StageSettings, frozen=True):
    """Response pairs and AI feedback (paper, section 4.1)."""

    form: Literal["comparison", "ranking", "rating", "critique"] = "comparison"
    """What the feedback model is asked: which of two responses is better; which of all is best;
    a rating of each from 1 to 7; whether a critique of each finds fault. See docs/feedback.md."""
    responses: Annotated[int, Field(ge=2, le=9)] = 2
    """Responses that are compared with each other; of K come K·(K-1)/2 labels."""
    against_helpful: Fraction = 0.0
    """The share of pairs whose last response is the helpful-only model's, not SL-CAI's."""
    pairs_per_prompt: Positive = 1
    """Response pairs (or sets of `responses`) per red-team prompt."""
    principles: Positive | Literal["all"] = 1
    """Principles each pair is judged under; their log-odds are averaged by weight."""
    reasoning: bool = False
    """Chain of thought before the verdict (the paper's second method); critiques always do."""
    reasoning_tokens: Positive = 128
    """The longest chain of thought, or critique of a response, in tokens."""
    reasoning_samples: Positive = 1
    """Chains of thought per question, whose probabilities are averaged."""
    layout: Literal["recommended", "paper"] = "recommended"
    """`paper` puts the principle before the responses; `recommended` after, to share the prefix."""
    both_orders: bool = True
    """Ask the other way round too: twice the cost, and a liking for a position shows."""
    labels: Annotated[LabelPolicy, BeforeValidator(_label_policy)] = LabelPolicy()
    """`recommended`, `paper`, `paper-cot`, or settings of your own: from verdicts to labels."""
    gate: GateSettings | None = None
    """Measure the feedback model on known comparisons first, and stop if its labels are bad."""
    few_shot: Annotated[int, Field(ge=0)] = 5
    """At most so many of the constitution's examples (of comparisons, or of critiques)."""
    few_shot_principles: Literal["same", "drawn"] = "same"
    """Examples of comparisons stand under the principle asked about, or under one `drawn` for each
    (the paper's way: rewording a principle then touches every judgement that has it in sight)."""
    concurrency: Positive = 256
    """Rows under way at once; changes speed and memory, not results."""
