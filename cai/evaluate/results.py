"""The results of an evaluation, as in its JSON files; docs/evaluate.md describes each field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cai.evaluate.rates import UNKNOWN, Rate

SCHEMA = 2
"""Of `measures.json`."""

Rates = Mapping[str, Rate]
Counts = Mapping[str, int]


class Result(BaseModel):
    """A section of a JSON file. Fields that are not set are not written, and have their default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def plain(self) -> dict[str, Any]:
        """Return what JSON has of it."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class ModelSummary(Result):
    """The measures of one model's answers: shares, and means and counts by side."""

    harmful_rate: Rate = UNKNOWN
    evasive_rate: Rate = UNKNOWN
    explained_refusal_rate: Rate = UNKNOWN
    helpful_rate: Rate = UNKNOWN
    over_refusal_rate: Rate = UNKNOWN
    garbled_rate: Rate = UNKNOWN
    mean_words: Rates = {}
    labels: Mapping[str, Counts] = {}
    states: Counts = {}
    by_category: Mapping[str, Rates] = {}
    by_set: Mapping[str, Rates] = {}
    mean_preference_score: Rates = {}

    @property
    def rates(self) -> Rates:
        """The rates by name."""
        return {name: value for name, value in self if isinstance(value, Rate)}


class RoundScore(Result):
    """The mean preference score of texts after so many revisions.

    `better` is the share, among revisions that changed the text, of those with a higher score than
    the text before them.
    """

    round: int
    score: Rate
    better: Rate = UNKNOWN


class RevisionScores(Result):
    """The file `revisions.json` (paper, figure 5); `by_principle` has `better` for each."""

    rounds: Sequence[RoundScore] = ()
    by_principle: Mapping[str, Rate] = {}


class Elo(Result):
    """Ratings in points against the anchor, by model: over red-team and over benign prompts."""

    method: Literal["preference", "judge"]
    pairing: str | None = None
    anchor: str
    harmless: Rates
    helpful: Rates
    matches: Counts = {}
    order_agreement: float | None = None


class Style(Result):
    """The wording of a model's answers; `flags` are changes from the first model."""

    boilerplate: Rate
    preachy: Rate
    phrases: Sequence[str]
    """The runs of words behind `boilerplate`."""
    repeated_openings: float
    repeated_ngrams: float
    words: Rate
    length_ratio: float | None
    flags: Sequence[str]


class AlignmentTax(Result):
    """The abilities that a model has lost compared with the first one."""

    perplexity: float | None
    """Per word of benign texts, so models with other tokenizers compare."""
    perplexity_ratio: Rate
    helpful_change: Rate
    """Of the share of helpful answers to the same questions."""
    flags: Sequence[str]


class Harmfulness(Result):
    """Mean harmfulness of answers to red-team prompts by model, 0 to 4; intervals end there."""

    method: Literal["judge", "model"]
    models: Rates
    states: Counts


class Confidence(Result):
    """Choices of about the same confidence: their mean confidence, and the share that are right."""

    confidence: float
    right: Rate


class Chosen(Result):
    """A model's choices among options.

    The probabilities are shares of what the model puts on all options of a question together.
    """

    accuracy: Rate
    """Of the likeliest option; equally likely ones do not count."""
    answered: Rate = UNKNOWN
    """The share of the questions with probabilities."""
    first_share: Rate
    """The share of (A)."""
    right_probability: Rate = UNKNOWN
    """The mean probability of the right options together."""
    calibration_error: Rate = UNKNOWN
    """Expected calibration error of the likeliest option's probability, in ten bins from 0 to 1."""
    position_bias: Rate = UNKNOWN
    """The mean probability of (A), minus the share of the right options that are (A)."""
    length_bias: Rate = UNKNOWN
    """The same for the longest option, on questions that have one."""
    mean_mass: float | None
    reliability: Sequence[Confidence] = ()
    letters: Counts = {}
    """How often each letter is chosen."""
    states: Counts


class Choices(Result):
    """A set of multiple-choice questions."""

    questions: int
    baselines: Rates
    """Accuracies of `always_first` (A), of `longest`, without questions of equal length, and of
    `most_frequent`, the letter that is right most often in this set."""
    letters: Counts = {}
    """How often each letter is a right option."""
    models: Mapping[str, Chosen]


class CheckpointSummary(Result):
    """A checkpoint of a policy: the final policy, its stage, and the number of steps."""

    policy: str
    stage: str
    step: int
    name: str
    evaluation: ModelSummary


class Measures(Result):
    """The file `measures.json`; without this file, all fields have their defaults."""

    schema_number: Literal[2] = Field(default=SCHEMA, alias="schema")
    grader: str = ""
    judge: str | None = None
    starts: Mapping[str, str] | None = None
    elo: Elo | None = None
    style: Mapping[str, Style] = {}
    alignment_tax: Mapping[str, AlignmentTax] = {}
    harmfulness: Harmfulness | None = None
    choices: Mapping[str, Choices] = {}
    checkpoints: Sequence[CheckpointSummary] = ()
    flags: Sequence[str] = ()


class Results(Result):
    """All of one evaluation."""

    evaluation: Mapping[str, ModelSummary]
    measures: Measures
