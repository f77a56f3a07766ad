"""The data of the pages: the contents of report.json, and the comparison of two runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_serializer, field_validator

from cai.compare.quality import LabelQuality
from cai.evaluate.rates import Estimate, Rate
from cai.evaluate.results import (
    Counts,
    Measures,
    ModelSummary,
    Rates,
    Result,
    RoundScore,
)
from cai.revise.quality import RevisionQuality
from cai.workbench.statistics import PrincipleStatistics

SCHEMA = 2

Metrics = Mapping[str, float | None]
"""Of one training step."""


class StageFacts(Result):
    """The manifest and metrics of a stage of the kind `stage`; `outputs` are hashes by file."""

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
    """The effect of a principle, and its `text`: critique, revision, comparison, weight, tags."""

    text: Mapping[str, Any]


class RoundFacts(Result):
    """Texts after `round` revisions; `changed` is the share that differs from the text before."""

    round: int
    mean_words: float
    changed: float | None
    labels: Counts
    n: int


class RevisionFacts(Result):
    """The effect of critiques and revisions; `chains` have at least one round.

    `better` is by principle: the share of its revisions, among those that changed the text, that
    the preference model scores higher than the text before them.
    """

    chains: int
    rounds: Sequence[RoundFacts]
    scores: Sequence[RoundScore] = ()
    better: Rates = Field(default={})
    quality: RevisionQuality | None = None


class ConfidenceBin(Result):
    """Labels of similar confidence: its mean, and the share that prefers the right response."""

    confidence: float
    right: Rate


class ComparisonFacts(Result):
    """Labelled pairs by source; AI labels in equal bins of probability, and how often right."""

    labelled: Counts
    ai_labels: Sequence[int]
    right: Rate
    calibration: Sequence[ConfidenceBin]


class JudgementFacts(Result):
    """The consistency of the feedback model; `n` judgements have both orders.

    `opinions` of these prefer a response in at least one order, and `order_agreement` is the share
    that prefer the same in both. `first_preferred` (0.5 is fair) is the mean probability of the
    response shown first, and `mean_mass` that of the two options together.
    """

    judgements: int
    opinions: int
    order_agreement: float | None
    first_preferred: float | None
    mean_mass: float | None
    n: int


@dataclass(frozen=True)
class KnownLabels(LabelQuality):
    """Labels of known comparisons, and the bounds of the run that they miss."""

    missed: Sequence[str]


class PPOFacts(Result):
    """A training with PPO: its steps, the metrics of the first and last one, curves, checks."""

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
    """A measure of one model in two runs; no `difference` if their scales differ."""

    before: Estimate | None
    after: Estimate | None
    difference: Estimate | None


@dataclass(frozen=True)
class Comparison:
    """Two runs compared; the first is the baseline.

    `evaluation` has, for each model in both runs, all rates and the other measures of either run.
    `alone` are models of only one run. `settings` and `principles` are (key, before, after) of all
    that differ.
    """

    names: tuple[str, str]
    reports: tuple[Report, Report]
    evaluation: Mapping[str, Mapping[str, Compared]]
    alone: Sequence[str]
    settings: Sequence[tuple[str, Any, Any]]
    principles: Sequence[tuple[str, Any, Any]]
