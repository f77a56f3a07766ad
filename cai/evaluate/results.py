"""What an evaluation finds, as its JSON files have it: rates by model, and all other measures."""

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
    """A part of a JSON file. What was not given is not written, and has its default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def plain(self) -> dict[str, Any]:
        """Return what JSON has of it."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class ModelSummary(Result):
    """What the answers of one model are like.

    Attributes:
        harmful_rate: Of answers to red-team prompts, as the next two are.
        evasive_rate: Refusals without a reason.
        explained_refusal_rate: Refusals with one.
        helpful_rate: Of answers to benign prompts, as the next one is.
        over_refusal_rate: Refusals, explained or not.
        garbled_rate: Of all answers.
        mean_words: By side.
        labels: The grader's words for the answers, counted by side.
        states: All rows, counted; only those that are `ok` enter anything else.
        by_category: The rates by the tag `category`, as far as they were measured.
        by_set: The same by prompt set.
        mean_preference_score: By side, normalised.
    """

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
    """The mean preference score of texts after so many revisions."""

    round: int
    score: Rate


class RevisionScores(Result):
    """The file `revisions.json` (paper, figure 5)."""

    rounds: Sequence[RoundScore] = ()


class Elo(Result):
    """Ratings against the first model, in points.

    Attributes:
        method: Who decides.
        pairing: Who met whom, of a judge's matches.
        anchor: The model whose ratings are 0.
        harmless: Over red-team prompts, by model.
        helpful: Over benign prompts, by model.
        matches: Those of a judge, counted by state.
        order_agreement: How often the judge names the same winner in both orders.
    """

    method: Literal["preference", "judge"]
    pairing: str | None = None
    anchor: str
    harmless: Rates
    helpful: Rates
    matches: Counts = {}
    order_agreement: float | None = None


class Style(Result):
    """How a model's answers are worded.

    Attributes:
        boilerplate: The share that has a run of words in common with answers to other prompts.
        preachy: The share that lectures.
        phrases: The runs of words behind the first.
        repeated_openings: A share, in [0, 1].
        repeated_ngrams: A share, in [0, 1].
        words: Per answer.
        length_ratio: To the first model.
        flags: What has changed since the first model, in words.
    """

    boilerplate: Rate
    preachy: Rate
    phrases: Sequence[str]
    repeated_openings: float
    repeated_ngrams: float
    words: Rate
    length_ratio: float | None
    flags: Sequence[str]


class AlignmentTax(Result):
    """What a model has unlearnt since the first one.

    Attributes:
        perplexity: Per word of benign texts, so models with other tokenizers compare.
        perplexity_ratio: To the first model.
        helpful_change: Of the share of helpful answers to the same questions.
        flags: What is worse, in words.
    """

    perplexity: float | None
    perplexity_ratio: Rate
    helpful_change: Rate
    flags: Sequence[str]


class Harmfulness(Result):
    """Absolute harmfulness of answers to red-team prompts, from 0 to 4.

    Attributes:
        method: Who rates: a judge, or a trained model.
        models: The mean by model; intervals end where the scale does.
        states: The answers, counted.
    """

    method: Literal["judge", "model"]
    models: Rates
    states: Counts


class Chosen(Result):
    """What a model chooses among options.

    Attributes:
        accuracy: Clustered by conversation.
        first_share: How often it chooses (A).
        mean_mass: The probability on the options together.
        states: The questions, counted.
    """

    accuracy: Rate
    first_share: Rate
    mean_mass: float | None
    states: Counts


class Choices(Result):
    """A set of multiple-choice questions.

    Attributes:
        questions: How many there are.
        baselines: The accuracy of `always_first` (A) and of `longest` (the longer option;
            questions with equally long ones are left out).
        models: What each model chooses.
    """

    questions: int
    baselines: Rates
    models: Mapping[str, Chosen]


class CheckpointSummary(Result):
    """A policy on the way of its training: what it ended in, where and after how many steps."""

    policy: str
    stage: str
    step: int
    name: str
    evaluation: ModelSummary


class Measures(Result):
    """The file `measures.json`; docs/evaluate.md says more. Without that file all is left out.

    Attributes:
        schema_number: Of the file.
        grader: Who says what the answers are.
        judge: The judge's name, if there is one.
        starts: What each model was trained from, where that is one of them.
        elo: In the models' order, each after the checkpoints of its training.
        style: By model.
        alignment_tax: By model.
        harmfulness: In the order of `elo`.
        choices: By set.
        checkpoints: In the order of training.
        flags: Sentences that a careful reader should know.
    """

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
    """All of one evaluation.

    Attributes:
        evaluation: By model, in order.
        measures: All else.
    """

    evaluation: Mapping[str, ModelSummary]
    measures: Measures
