"""The data of the pages: the models of report.json, and of the comparison of two runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_serializer, field_validator

from cai.compare.quality import LabelQuality
from cai.evaluate.rates import Estimate, Rate
from cai.evaluate.results import Counts, Measures, ModelSummary, Result, RoundScore
from cai.workbench.statistics import PrincipleStatistics

SCHEMA = 2

Metrics = Mapping[str, float | None]
"""Of one step of a training."""


class StageFacts(Result):
    """What a stage (of the sort `stage`) says of itself; `outputs` are hashes by file."""

    stage: str
    complete: bool
    metrics: Mapping[str, Any]
    provenance: Mapping[str, Any]
    outputs: Mapping[str, str | None]


class PromptCount(Result):
    """Prompts of one kind and split, and the tasks among them."""

    prompts: int
    tasks: int


@dataclass(frozen=True)
class PrincipleFacts(PrincipleStatistics):
    """The effect of a principle, and its critique, revision, comparison and weight."""

    text: Mapping[str, Any]


class RoundFacts(Result):
    """Texts after so many revisions; `changed` is the share unlike the text before."""

    round: int
    mean_words: float
    changed: float | None
    labels: Counts
    n: int


class RevisionFacts(Result):
    """The effect of critiques and revisions; `chains` are those with at least one round."""

    chains: int
    rounds: Sequence[RoundFacts]
    scores: Sequence[RoundScore] = ()


class ConfidenceBin(Result):
    """Labels of similar confidence: its mean, and the share that favours the right response."""

    confidence: float
    right: Rate


class ComparisonFacts(Result):
    """Two runs held against each other; `names` are what to call them, the measure first.

    `evaluation` has, per model that both evaluated, every rate, and every other measure that either
    run has of it; `alone` are other models. `settings` and `principles` list (key, before, after)
    of whatever differs.
    """

    labelled: Counts
    ai_labels: Sequence[int]
    right: Rate
    calibration: Sequence[ConfidenceBin]


class JudgementFacts(Result):
    """The consistency of the feedback model; `n` judgements were asked in both orders.

    `opinions` of these lean to a side in either order, and `order_agreement` is the share that
    lean to the same one. `first_preferred` (0.5 is fair) and `mean_mass` are mean probabilities, of
    whichever response is shown first and of the two options together.
    """

    judgements: int
    opinions: int
    order_agreement: float | None
    first_preferred: float | None
    mean_mass: float | None
    n: int


@dataclass(frozen=True)
class KnownLabels(LabelQuality):
    """Labels of known comparisons, and which bounds of the run they miss."""

    missed: Sequence[str]


class PPOFacts(Result):
    """A training with PPO: how many steps, the first and last one's metrics, curves, checks."""

    steps: int
    first: Metrics = Field(default={})
    last: Metrics = Field(default={})
    curves: Mapping[str, Sequence[tuple[float, float]]] = Field(default={})
    guard: Sequence[Metrics] = ()


class Provenance(Result):
    """The version of cai, the time of the report, and the run's settings as resolved."""

    cai: str
    written: str
    settings: Mapping[str, Any]


class Report(Result):
    """The file report.json; `evaluation` and `measures` are files of the first evaluation."""

    schema_number: Literal[2] = Field(alias="schema")
    name: str
    seed: int
    constitution: str
    grader: str | None
    evaluation: Mapping[str, ModelSummary]
    measures: Measures
    stages: Mapping[str, StageFacts]
    states: Mapping[str, Counts]
    prompts: Mapping[str, PromptCount]
    principles: Mapping[str, PrincipleFacts]
    suggestions: Sequence[str]
    revisions: RevisionFacts
    comparisons: ComparisonFacts
    judgements: JudgementFacts
    label_quality: KnownLabels | None
    ppo: Mapping[str, PPOFacts]
    provenance: Provenance

    @field_validator("label_quality", mode="before")
    @classmethod
    def _read_quality(cls, found: object) -> object:
        return found or None

    @field_serializer("label_quality")
    def _write_quality(self, found: KnownLabels | None) -> object:
        return found or {}

    @property
    def models(self) -> list[str]:
        """The evaluated models, in order."""
        return [*self.evaluation]

    def stages_of(self, stage: str) -> dict[str, StageFacts]:
        """Return the sections of a stage (`ppo`), by name."""
        return {name: found for name, found in self.stages.items() if found.stage == stage}


@dataclass(frozen=True)
class Compared:
    """A measure of one model in two runs; no difference if their scales differ."""

    before: Estimate | None
    after: Estimate | None
    difference: Estimate | None


@dataclass(frozen=True)
class Comparison:
    """Two runs held against each other.

    Attributes:
        names: What to call them: the one that is the measure, and the other.
        reports: Theirs.
        evaluation: Per model that both evaluated, every rate, and every other measure that either
            run has of it.
        alone: The models that one run has alone.
        settings: (key, before, after) of whatever differs.
        principles: The same.
    """

    names: tuple[str, str]
    reports: tuple[Report, Report]
    evaluation: Mapping[str, Mapping[str, Compared]]
    alone: Sequence[str]
    settings: Sequence[tuple[str, Any, Any]]
    principles: Sequence[tuple[str, Any, Any]]
