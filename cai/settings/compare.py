"""`compare`: response pairs, AI feedback, and the gate for its labels."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from cai.settings.base import Fraction, Positive, SamplingSettings, Settings, StageSettings
from cai.settings.prompts import Sources


class LabelPolicy(Settings, frozen=True):
    """How verdicts become labels. A change needs no model calls: the verdicts are stored."""

    kind: Literal["soft", "hard"] = "soft"
    """`soft` keeps the probability; `hard` makes it 0 or 1, before `clamp`."""
    orders: Literal["average", "first"] = "average"
    """`average` of both orders, which cancels position bias; or the first order only."""
    reasonings: Positive | None = None
    """How many reasonings are averaged; null: all of them (`compare.reasoning_samples`)."""
    consistent_only: bool = False
    """A verdict that changes with the order of the responses has no vote."""
    ignore_within: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Principles whose probability is this close to one half have no vote."""
    min_mass: Fraction = 0.0
    """Verdicts with less probability on the two options together count as unparsed."""
    clamp: tuple[Fraction, Fraction] = (0.0, 1.0)
    """Labels are clamped to this range."""


LABEL_POLICIES: dict[str, dict[str, Any]] = {
    "recommended": {},
    "paper": {"orders": "first"},
    "paper-cot": {"orders": "first", "clamp": (0.4, 0.6)},
}
"""Named policies. The paper uses one order of the responses; with reasoning it clamps to 40-60%."""


def _label_policy(value: Any) -> Any:  # noqa: ANN401
    """Accept the name of a policy instead of its settings."""
    if not isinstance(value, str):
        return value
    if value not in LABEL_POLICIES:
        raise ValueError(f"there is no policy `{value}`; use one of {', '.join(LABEL_POLICIES)}")
    return LABEL_POLICIES[value]


class GateSettings(Settings, frozen=True):
    """Bounds that the labels must meet on known comparisons before preference training."""

    comparisons: Sources
    """Comparisons whose better response is known: files, or `playground:feedback`."""
    accuracy: Fraction | None = 0.7
    """The smallest share of labels that favour the better response; null: not checked."""
    calibration_error: Fraction | None = None
    """The largest expected calibration error of the labels."""
    swap_flips: Fraction | None = None
    """The largest share of opinions that change with the order of the responses."""
    position_bias: Annotated[float, Field(ge=0, le=0.5)] | None = None
    """How far the mean probability of the response shown first may be from one half."""
    option_mass: Fraction | None = None
    """The smallest mean probability on the options together."""
    action: Literal["stop", "warn"] = "stop"
    """What happens when a bound is missed."""


class CompareSettings(SamplingSettings, StageSettings, frozen=True):
    """Response pairs and AI feedback (paper, section 4.1)."""

    form: Literal["comparison", "ranking", "rating", "critique"] = "comparison"
    """The question to the feedback model: which of two responses is better; which of all is best;
    a rating of each from 1 to 7; whether a critique of each finds a fault. See docs/feedback.md."""
    responses: Annotated[int, Field(ge=2, le=9)] = 2
    """Responses that are compared with each other; K responses give K·(K-1)/2 labels."""
    against_helpful: Fraction = 0.0
    """The share of pairs whose last response is from the helpful-only model, not SL-CAI."""
    pairs_per_prompt: Positive = 1
    """Response pairs (or sets of `responses`) per red-team prompt."""
    principles: Positive | Literal["all"] = 1
    """Principles under which each pair is judged; their log-odds are averaged by weight."""
    reasoning: bool = False
    """Chain of thought before the verdict (the paper's second method); always on for `critique`."""
    reasoning_tokens: Positive = 128
    """The longest chain of thought, or critique of a response, in tokens."""
    reasoning_samples: Positive = 1
    """Chains of thought per question; their probabilities are averaged."""
    layout: Literal["recommended", "paper"] = "recommended"
    """`paper`: the principle is before the responses; `recommended`: after, to share the prefix."""
    both_orders: bool = True
    """Ask in the reverse order too, which cancels position bias and doubles the cost."""
    labels: Annotated[LabelPolicy, BeforeValidator(_label_policy)] = LabelPolicy()
    """How verdicts become labels: `recommended`, `paper`, `paper-cot`, or your own settings."""
    gate: GateSettings | None = None
    """Measure the feedback model on known comparisons first, and stop if its labels are poor."""
    few_shot: Annotated[int, Field(ge=0)] = 5
    """The largest number of examples from the constitution (of comparisons or critiques)."""
    few_shot_principles: Literal["same", "drawn"] = "same"
    """Examples of comparisons show the same principle as the question, or one `drawn` for each (as
    in the paper: rewording a principle then changes every judgement whose prompt shows it)."""
    concurrency: Positive = 256
    """Rows processed at the same time; changes speed and memory, not results."""
