"""The effect of an edit of a constitution on a run: the rows and labels that change."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from cai.compare import FORMS, FeedbackJudge, JudgementInputs, by_pair, label_all
from cai.constitution import Constitution
from cai.data.conversation import Conversation
from cai.data.records import (
    ComparisonRow,
    JudgementRow,
    PairRow,
    PromptRow,
    RevisionRow,
    Row,
)
from cai.data.rows import Item, Task, run_rows, silent
from cai.data.store import RowStore, read_rows
from cai.engines import Engine
from cai.errors import CaiError
from cai.revise import ChainInputs, Reviser
from cai.settings import (
    CompareSettings,
    PipelineSettings,
    PromptsSettings,
    ReviseSettings,
    StageSettings,
)
from cai.workbench.witness import Replay

R = TypeVar("R", bound=Row)


@dataclass(frozen=True)
class StoredRun:
    """The rows of a run's `prompts`, `revise` and `compare` stages; none of a missing stage.

    `responses` are the first responses that another model has revised.
    """

    folder: Path
    settings: PipelineSettings
    prompts: list[PromptRow]
    responses: list[RevisionRow]
    chains: list[RevisionRow]
    pairs: list[PairRow]
    judgements: list[JudgementRow]
    fallback: list[JudgementRow]
    comparisons: list[ComparisonRow]

    @property
    def revise(self) -> ReviseSettings:
        """The settings of the chains."""
        return self.settings.of(ReviseSettings)

    @property
    def compare(self) -> CompareSettings:
        """The settings of the comparisons."""
        return self.settings.of(CompareSettings)

    def reviser(self, constitution: Constitution) -> Reviser:
        """Return the maker of this run's chains under a constitution."""
        return Reviser(constitution, self.revise, self.settings.seed)

    def judge(self, constitution: Constitution) -> FeedbackJudge:
        """Return the maker of this run's judgements under a constitution."""
        return FeedbackJudge(constitution, self.compare, self.settings.seed)

    def chain_fingerprints(self, constitution: Constitution) -> dict[str, str]:
        """Return key and fingerprint of each chain under this constitution."""
        if not self.chains or (self.revise.rounds and not constitution.supervised):
            return {}
        revised = (row for row in self.chains if row.responder or row.steps)
        made_by = Replay(next(revised, self.chains[0]).provenance)
        items = self.chain_items(constitution, made_by)
        return {item.key: item.fingerprint for item in items}

    def chain_items(
        self, constitution: Constitution, made_by: Replay, messages: Conversation | None = None
    ) -> list[Item[ChainInputs]]:
        """Return the chains under this constitution, from first responses as they are.

        With `messages`, only those of prompts with these messages.
        """
        reviser = self.reviser(constitution)
        prompts = [p for p in self.prompts if messages is None or p.messages == messages]
        if not self.responses:
            return reviser.items(prompts, made_by)
        first = {row.key: row for row in self.responses}
        asked = reviser.responder.items(prompts, made_by)
        without = {item.inputs[0].key for item in asked if item.key not in first}
        return reviser.items([p for p in prompts if p.key not in without], made_by, first)

    def judgement_items(self, constitution: Constitution) -> list[Item[JudgementInputs]]:
        """Return the judgements under this constitution, for the pairs as they are."""
        several = 1 if self.compare.principles == "all" else self.compare.principles
        fitting = FORMS[self.compare.form].principles(constitution)
        if not self.judgements or len(fitting) < several:
            return []
        made_by = Replay(self.judgements[0].provenance)
        return self.judge(constitution).items(self.pairs, made_by)


def read_run(folder: Path, settings: PipelineSettings) -> StoredRun:
    """Read the rows of a run's data stages.

    Raises:
        CaiError: None of its data stages has finished, or a file is damaged.
    """

    def rows(kind: type[StageSettings], row_type: type[R], name: str = "rows") -> list[R]:
        stage = next(iter(settings.named(kind)), None)
        path = folder / (stage or "") / f"{name}.jsonl"
        return read_rows(path, row_type) if stage and path.exists() else []

    run = StoredRun(
        folder,
        settings,
        rows(PromptsSettings, PromptRow),
        rows(ReviseSettings, RevisionRow, "responses"),
        rows(ReviseSettings, RevisionRow),
        rows(CompareSettings, PairRow, "pairs"),
        rows(CompareSettings, JudgementRow, "judgements"),
        rows(CompareSettings, JudgementRow, "fallback"),
        rows(CompareSettings, ComparisonRow),
    )
    if not run.chains and not run.judgements:
        raise CaiError(
            f"{folder} has no finished `revise` or `compare` stage: run its pipeline first."
        )
    return run


@dataclass(frozen=True)
class Touched:
    """The number of rows that an edit changes; None if the run has no such rows.

    Attributes:
        chains: Critique-revision chains that must be made again.
        judgements: Judgements that must be made again.
        labels: Labels with other judgements or other weights.
    """

    chains: int | None
    judgements: int | None
    labels: int | None


def touched(run: StoredRun, before: Constitution, after: Constitution) -> Touched:
    """Count the rows that differ between two constitutions, without a model.

    The count of chains assumes the same prompts, and that of judgements the same pairs.
    """
    chains = judgements = labels = None
    if run.chains:
        chains = _differing(run.chain_fingerprints(before), run.chain_fingerprints(after))
    if run.judgements:
        old, new = run.judgement_items(before), run.judgement_items(after)
        judgements = _differing(
            {item.key: item.fingerprint for item in old},
            {item.key: item.fingerprint for item in new},
        )
        labels = _differing(_votes(old), _votes(new))
    return Touched(chains, judgements, labels)


def foreign(run: StoredRun, constitution: Constitution) -> int:
    """Count the rows of a run that are not from this constitution."""
    chains = run.chain_fingerprints(constitution)
    judgements = {item.key: item.fingerprint for item in run.judgement_items(constitution)}
    return sum(row.fingerprint != chains.get(row.key) for row in run.chains) + sum(
        row.fingerprint != judgements.get(row.key) for row in run.judgements
    )


def _votes(items: Iterable[Item[JudgementInputs]]) -> dict[str, object]:
    """Return the votes of each pair's label; the weight of a single vote does not count."""
    votes: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for item in items:
        pair, principle, _ = item.inputs
        votes[pair.key][item.fingerprint] = principle.weight
    return {key: set(v) if len(v) == 1 else v for key, v in votes.items()}


def _differing(before: Mapping[str, object], after: Mapping[str, object]) -> int:
    return sum(before.get(key) != value for key, value in after.items())


Relabel = tuple[PairRow, ComparisonRow, ComparisonRow]
"""A pair, its label before and its label after."""


@dataclass(frozen=True)
class Relabelled:
    """The labels of a run under another constitution, the largest change first.

    `judgements` are those that the run does not have; `reused` of them are from an earlier call.
    """

    judgements: list[JudgementRow]
    reused: int
    labels: list[Relabel]

    @property
    def flipped(self) -> list[Relabel]:
        """Those that now prefer the other response."""
        return [
            (pair, old, new)
            for pair, old, new in self.labels
            if old.label is not None
            and new.label is not None
            and (old.label - 0.5) * (new.label - 0.5) < 0
        ]

    @property
    def changed(self) -> int:
        """The number of labels that differ, also those that are new or missing now."""
        return sum(old.label != new.label for _, old, new in self.labels)


async def relabel(
    run: StoredRun,
    constitution: Constitution,
    *,
    engine: Engine,
    task: Task = silent,
) -> Relabelled:
    """Make the judgements that the run does not have, and derive all labels again.

    New judgements are written to `relabel/NAME.jsonl` of the run folder and reused. The files of
    the run do not change.

    Raises:
        CaiError: The run has no labels, or another model made them.
    """
    if not run.judgements:
        raise CaiError(f"{run.folder} has no judgements: run its `compare` stage first.")
    stored = run.judgements[0].provenance.model_fingerprint
    if engine.fingerprint != stored:
        raise CaiError(
            f"The feedback model {engine.name} is not the one that judged {run.folder} (fingerprint"
            f" {engine.fingerprint}, then {stored}): labels of two models cannot be compared. Use"
            " the model of the run, or run the pipeline again."
        )
    held = {row.key: row for row in run.judgements}
    wanted = run.judgement_items(constitution)
    missing = [i for i in wanted if i.key not in held or held[i.key].fingerprint != i.fingerprint]
    result = await run_rows(
        missing,
        partial(run.judge(constitution).row, engine=engine),
        store=RowStore(run.folder / "relabel", JudgementRow, constitution.name),
        concurrency=run.compare.concurrency,
        task=task,
    )
    made = {row.key: row for row in result.rows}
    judgements = [made.get(item.key) or held[item.key] for item in wanted]
    judgements += [row for row in run.fallback if row.instead_of not in made]
    labels = _labels(run, constitution, judgements)
    return Relabelled(result.rows, len(result.reused), labels)


def _labels(
    run: StoredRun, constitution: Constitution, judgements: Iterable[JudgementRow]
) -> list[Relabel]:
    """Return each pair with its old and new label, the largest change first."""
    weights, policy = {p.id: p.weight for p in constitution.principles}, run.compare.labels
    judged = by_pair(judgements, policy)
    old = {row.key: row for row in run.comparisons}
    labelled = [
        (pair, old[new.key], new)
        for pair in run.pairs
        for new in label_all(pair, judged.get(pair.key, ()), weights=weights, policy=policy)
    ]
    return sorted(labelled, key=_shift, reverse=True)


def _shift(found: Relabel) -> float:
    _, old, new = found
    if old.label is None or new.label is None:
        return 0.0 if old.label is new.label else 0.5
    return abs(old.label - new.label)
