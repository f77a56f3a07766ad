"""Whether each revision is better than the text before it, by a feedback model.

The questions are those of the `compare` stage, so the two texts are responses to one prompt, shown
in both orders.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from cai.compare import FeedbackJudge, by_pair, label_pair
from cai.data.records import ComparisonRow, PairRow, RevisionRow
from cai.data.rows import Task, run_rows, silent
from cai.engines import Engine
from cai.evaluate.rates import Rate, rate
from cai.revise.quality import Assessed
from cai.workbench.trying import pair_of

UNCHANGED = "unchanged"
"""The state of a revision that is the text before it; nobody is asked about it."""


@dataclass(frozen=True)
class RevisionVerdicts:
    """What a feedback model says of revisions; intervals are clustered by task.

    Attributes:
        better: Of the revisions with a verdict, the share of those that it prefers to the text
            before them.
        by_round: That share by number of the round, from 1.
        by_principle: That share by the principle of the round.
        states: Revisions by the state of their verdict; their sum is the number of revisions.
            `tie` and all other states but `ok` are in no share.
        errors: The first error of each state that has one.
    """

    better: Rate
    by_round: dict[int, Rate]
    by_principle: dict[str, Rate]
    states: dict[str, int]
    errors: dict[str, str]


@dataclass(frozen=True)
class _Revision:
    """A revision, and the question about it; None if it changes nothing."""

    task: str
    seen: Assessed
    pair: PairRow | None


async def judge_revisions(
    chains: Sequence[tuple[RevisionRow, Sequence[Assessed]]],
    judge: FeedbackJudge,
    engine: Engine,
    *,
    task: Task = silent,
) -> RevisionVerdicts:
    """Ask a feedback model about each revision and the text before it.

    Args:
        chains: Each with its rounds. Words around revisions are left out of the question.
        judge: Its constitution and settings decide the question, the principles and the label.
        engine: The feedback model.
        task: Shows how many of the judgements are made.
    """
    asked = [
        _Revision(row.task, one, _pair(row, one) if one.new else None)
        for row, rounds in chains
        for one in rounds
    ]
    pairs = {one.pair.key: one.pair for one in asked if one.pair}
    made = await run_rows(
        judge.items(pairs.values(), engine),
        partial(judge.row, engine=engine),
        concurrency=judge.settings.concurrency,
        task=task,
    )
    policy = judge.settings.labels
    groups = by_pair(made.rows, policy)
    weights = {p.id: p.weight for p in judge.constitution.principles}
    labels = {
        key: label_pair(pair, groups.get(key, ()), weights=weights, policy=policy)
        for key, pair in pairs.items()
    }
    return _verdicts(asked, labels)


def _pair(row: RevisionRow, one: Assessed) -> PairRow:
    return pair_of(row.messages, one.before, one.revision, provenance=row.provenance)


def _verdicts(asked: Sequence[_Revision], labels: dict[str, ComparisonRow]) -> RevisionVerdicts:
    told = [(one, labels[one.pair.key] if one.pair else None) for one in asked]
    better = [None if label is None else _prefers_second(label) for _, label in told]
    tasks = [one.task for one in asked]

    def share(group: object, groups: Sequence[object]) -> Rate:
        inside = [n for n, other in enumerate(groups) if other == group]
        return rate([better[n] for n in inside], [tasks[n] for n in inside])

    rounds = [one.seen.number for one in asked]
    principles = [one.seen.principle for one in asked]
    states = [UNCHANGED if label is None else _state(label) for _, label in told]
    return RevisionVerdicts(
        better=rate(better, tasks),
        by_round={number: share(number, rounds) for number in sorted(set(rounds))},
        by_principle={name: share(name, principles) for name in sorted(set(principles))},
        states=dict(sorted(Counter(states).items())),
        errors={label.state: label.error for _, label in reversed(told) if label and label.error},
    )


def _prefers_second(row: ComparisonRow) -> bool | None:
    """Return whether a label prefers the second response; None without a preference."""
    return None if row.label is None or row.label == 0.5 else row.label < 0.5


def _state(row: ComparisonRow) -> str:
    return "tie" if row.label == 0.5 else row.state
