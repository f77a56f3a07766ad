"""`ppo.reward`: the principles of the constitution as the reward of policy optimisation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from cai.settings.base import Fraction, NotNegative, Positive, PositiveFloat, Settings

ALONE = ("rating", "critique")
"""The forms that show one response at a time."""


def _ids(value: Any) -> Any:  # noqa: ANN401
    """Accept one id for a list of them; `all` is no id."""
    return (value,) if isinstance(value, str) and value != "all" else value


class RewardSettings(Settings, frozen=True):
    """The feedback model judges the samples of each step under principles of the constitution."""

    principles: Annotated[
        Literal["all"] | Annotated[tuple[str, ...], Field(min_length=1)], BeforeValidator(_ids)
    ] = "all"
    """The ids of the principles that are trained on; `all`: every one but those in `held_out`."""
    held_out: Annotated[tuple[str, ...], BeforeValidator(_ids)] = ()
    """Principles that only the guard asks about: they are its independent score."""
    form: Literal["comparison", "ranking", "rating", "critique"] = "comparison"
    """As in `compare.form`: the samples of a prompt are compared in pairs, or all at once; or each
    one is rated from 1 to 7, or a critique of it finds a fault or none."""
    weights: dict[str, PositiveFloat] = Field(default={})
    """Weights of principles by id, in place of those of the constitution."""
    weight: PositiveFloat = 1.0
    """The weight of this score in the reward."""
    preference_weight: NotNegative = 0.0
    """The weight of the preference model's score beside it; 0: the model is not needed."""
    reasoning: bool = False
    """Chain of thought before the verdict; always on for `critique`."""
    reasoning_tokens: Positive = 128
    """The longest chain of thought, or critique of a response, in tokens."""
    few_shot: Annotated[int, Field(ge=0)] = 5
    """The largest number of examples from the constitution."""
    ignore_within: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Principles whose probability is this close to one half have no vote."""
    min_mass: Fraction = 0.0
    """Verdicts with less probability on their options together count as unparsed."""
    clamp: Annotated[float, Field(gt=0, lt=0.5)] = 0.01
    """Probabilities are kept this far from 0 and 1; at 0.01, log-odds are at most 4.6."""
    concurrency: Positive = 256
    """Judgements made at the same time; changes speed and memory, not results."""

    @property
    def compares(self) -> bool:
        """Whether a response is judged beside the other samples of its prompt."""
        return self.form not in ALONE

    @model_validator(mode="after")
    def _fit_together(self) -> RewardSettings:
        """Refuse settings that contradict each other."""
        if self.principles != "all" and (both := {*self.principles} & {*self.held_out}):
            raise ValueError(
                f"`principles` and `held_out` both name `{min(both)}`. A principle that is trained "
                "on tells nothing independent: keep it in one of them."
            )
        if self.ignore_within and not self.compares:
            raise ValueError(
                f"`ignore_within` is for comparisons, and `form` is `{self.form}`. Leave one of "
                "them out."
            )
        return self
