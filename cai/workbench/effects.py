"""The effect of an edit to a constitution on a run: the rows and labels that change."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from cai.compare import FORMS, FeedbackJudge, JudgementInputs, by_pair, label_all
from cai.constitution import Constitution
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
from cai.revise import Reviser
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
    """What a run folder holds of its first two data stages; one that is not there has no rows."""

    folder: Path
    settings: PipelineSettings
    prompts: list[PromptRow]
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
        """Return what makes the chains of this run under a constitution."""
        return Reviser(constitution, self.revise, self.settings.seed)

    def judge(self, constitution: Constitution) -> FeedbackJudge:
        """Return what makes the judgements of this run under a constitution."""
        return FeedbackJudge(constitution, self.compare, self.settings.seed)

    def chain_fingerprints(self, constitution: Constitution) -> dict[str, str]:
        """Return key and fingerprint of every chain as this constitution would have it."""
        if not self.chains or (self.revise.rounds and not constitution.supervised):
            return {}
        made_by = Replay(self.chains[0].provenance)
        items = self.reviser(constitution).items(self.prompts, made_by)
        return {item.key: item.fingerprint for item in items}

    def judgement_items(self, constitution: Constitution) -> list[Item[JudgementInputs]]:
        """Return every judgement that this constitution asks for, of the pairs as they are."""
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
        rows(ReviseSettings, RevisionRow),
        rows(CompareSettings, PairRow, "pairs"),
        rows(CompareSettings, JudgementRow, "judgements"),
        rows(CompareSettings, JudgementRow, "fallback"),
        rows(CompareSettings, ComparisonRow),
    )
    if not run.chains and not run.judgements:
        raise CaiError(
            f"{folder} holds no finished `revise` or `compare` stage: run its pipeline first."
        )
    return run


@dataclass(frozen=True)
class Touched:
    """How many rows an edit touches; None where the run has no such rows.

    Attributes:
        chains: Critique-revision chains that would be made anew.
        judgements: Judgements that would be made anew.
        labels: Labels that would be derived from other judgements, or with other weights.
    """

    chains: int | None
    judgements: int | None
    labels: int | None


def touched(run: StoredRun, before: Constitution, after: Constitution) -> Touched:
    """Count the rows that `after` would make otherwise than `before`. Asks no model.

    Chains are counted as if the prompts, judgements as if the pairs stayed what they are.
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
    """Count the rows of a run that this constitution would not make as they are."""
    chains = run.chain_fingerprints(constitution)
    judgements = {item.key: item.fingerprint for item in run.judgement_items(constitution)}
    return sum(row.fingerprint != chains.get(row.key) for row in run.chains) + sum(
        row.fingerprint != judgements.get(row.key) for row in run.judgements
    )


def _votes(items: Iterable[Item[JudgementInputs]]) -> dict[str, object]:
    """Return what each pair's label is derived from; a vote alone has all the weight."""
    votes: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for item in items:
        pair, principle, _ = item.inputs
        votes[pair.key][item.fingerprint] = principle.weight
    return {key: set(v) if len(v) == 1 else v for key, v in votes.items()}


def _differing(before: Mapping[str, object], after: Mapping[str, object]) -> int:
    return sum(before.get(key) != value for key, value in after.items())


@dataclass(frozen=True)
class Relabelled:
    """The labels of a run under another constitution.

    Attributes:
        judgements: Those that the run did not hold.
        reused: How many of them an earlier relabelling had made.
        labels: Each pair with its label before and after, those that changed most first; a label
            is None where there is none.
    """

    judgements: list[JudgementRow]
    reused: int
    labels: list[tuple[PairRow, ComparisonRow, ComparisonRow]]

    @property
    def flipped(self) -> list[tuple[PairRow, ComparisonRow, ComparisonRow]]:
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
        """How many labels differ, those gained and lost included."""
        return sum(old.label != new.label for _, old, new in self.labels)


async def relabel(
    run: StoredRun,
    constitution: Constitution,
    *,
    engine: Engine,
    task: Task = silent,
) -> Relabelled:
    """Make the judgements that the run does not hold, and derive every label anew.

    What is made is kept in `relabel/NAME.jsonl` of the run folder and reused; the run itself is
    left as it is.

    Args:
        run: The run.
        constitution: The edited constitution.
        engine: The run's feedback model.
        task: Shows how many of the judgements to make are done.

    Raises:
        CaiError: The run has no labels, or the engine is another model than made them.
    """
    if not run.judgements:
        raise CaiError(f"{run.folder} holds no judgements: run its `compare` stage first.")
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
) -> list[tuple[PairRow, ComparisonRow, ComparisonRow]]:
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


def _shift(labels: Sequence[PairRow | ComparisonRow]) -> float:
    old, new = (row.label for row in labels[1:] if isinstance(row, ComparisonRow))
    if old is None or new is None:
        return 0.0 if old is new else 0.5
    return abs(old - new)
