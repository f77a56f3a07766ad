"""The effect of each principle in a run, from its stored rows, without a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from cai.compare import by_pair, label_pair, orders_agree, preference, twos_of
from cai.compare.labels import Two
from cai.constitution import Constitution
from cai.data.records import JudgementRow, PairRow, RevisionRow
from cai.evaluate.rates import Rate, rate
from cai.settings import LabelPolicy

ALIKE = 0.9
"""Two principles look redundant if the lower end of their agreement's interval is above this."""
IDLE = 0.05
"""A principle does little if the upper end of its share of changed responses is below this."""


@dataclass(frozen=True)
class PrincipleStatistics:
    """The effect of one principle.

    Attributes:
        id: The principle.
        weight: Its weight.
        rounds: The number of rounds of critique and revision that drew it.
        changed: The share of these rounds whose revision differs from the text before.
        verdicts: The number of judgements under it with a verdict.
        opinions: The share of them that have a vote under the label policy.
        orders: The share of opinions, of those asked in both orders, that agree in both.
        sharpness: Mean of |2 P - 1| over its verdicts, in [0, 1]; None without verdicts.
        flipped_without: How many labels prefer the other response without its votes; None if no
            pair was judged under several principles.
        lost_without: How many pairs have no label without its votes; None likewise.
    """

    id: str
    weight: float
    rounds: int
    changed: Rate
    verdicts: int
    opinions: Rate
    orders: Rate
    sharpness: float | None
    flipped_without: int | None
    lost_without: int | None


@dataclass(frozen=True)
class Agreement:
    """How often two principles prefer the same response, over pairs where both have a vote."""

    first: str
    second: str
    same: Rate


@dataclass(frozen=True)
class Statistics:
    """The effect of the principles of a run, in the constitution's order.

    `agreements` are of each two principles that voted on the same pair; `suggestions` are possible
    edits, in words.
    """

    principles: list[PrincipleStatistics]
    agreements: list[Agreement]
    suggestions: list[str]


@dataclass(frozen=True)
class _Vote:
    """One judgement of two responses: P(the first is better), and whether it has a vote.

    `agree` says whether both orders prefer the same response; None without an opinion.
    """

    task: str
    probability: float
    counted: bool
    agree: bool | None


def principle_statistics(
    constitution: Constitution,
    chains: Iterable[RevisionRow],
    pairs: Iterable[PairRow],
    judgements: Iterable[JudgementRow],
    policy: LabelPolicy,
) -> Statistics:
    """Measure the effect of each principle of a constitution in a run.

    Rates have 95% intervals clustered by task. The judgements include those of the fallback judge;
    the label policy says which verdicts have a vote.
    """
    rows_of = by_pair(judgements, policy)
    judged = [
        (pair, two, rows_of[pair.key])
        for pair in pairs
        if pair.key in rows_of
        for two in twos_of(pair)
    ]
    votes: defaultdict[str, dict[tuple[str, Two], _Vote]] = defaultdict(dict)
    for pair, two, rows in judged:
        for row in rows:
            vote = _vote(pair, two, row, policy)
            if vote is not None:
                votes[row.principle.id][pair.key, two] = vote
    rounds = _rounds(chains)
    without = _without(constitution, judged, policy)
    principles = [
        _one(p.id, p.weight, rounds[p.id], list(votes[p.id].values()), without.get(p.id))
        for p in constitution.principles
    ]
    agreements = _agreements([p.id for p in constitution.principles], votes)
    return Statistics(principles, agreements, _suggestions(principles, agreements))


def _rounds(chains: Iterable[RevisionRow]) -> dict[str, list[tuple[str, bool]]]:
    """Return, by principle, the task of each round and whether it changed the text."""
    rounds: defaultdict[str, list[tuple[str, bool]]] = defaultdict(list)
    for row in chains:
        text = row.response
        for step in row.steps:
            rounds[step.principle.id].append((row.task, step.revision != text))
            text = step.revision
    return rounds


def _vote(pair: PairRow, two: Two, judgement: JudgementRow, policy: LabelPolicy) -> _Vote | None:
    probability = preference(judgement, policy, two)
    if judgement.state != "ok" or probability is None:
        return None
    alone = {judgement.principle.id: 1.0}
    lone = label_pair(pair, [judgement], weights=alone, policy=policy, two=two)
    agree = orders_agree(judgement, two)
    return _Vote(pair.task, probability, counted=lone.state == "ok", agree=agree)


def _one(
    name: str,
    weight: float,
    rounds: Sequence[tuple[str, bool]],
    votes: Sequence[_Vote],
    without: tuple[int, int] | None,
) -> PrincipleStatistics:
    tasks = [vote.task for vote in votes]
    sharp = [abs(2 * vote.probability - 1) for vote in votes]
    return PrincipleStatistics(
        id=name,
        weight=weight,
        rounds=len(rounds),
        changed=rate([changed for _, changed in rounds], [task for task, _ in rounds]),
        verdicts=len(votes),
        opinions=rate([vote.counted for vote in votes], tasks),
        orders=rate([vote.agree for vote in votes], tasks),
        sharpness=sum(sharp) / len(sharp) if sharp else None,
        flipped_without=without[0] if without else None,
        lost_without=without[1] if without else None,
    )


def _without(
    constitution: Constitution,
    judged: Sequence[tuple[PairRow, Two, list[JudgementRow]]],
    policy: LabelPolicy,
) -> dict[str, tuple[int, int]]:
    """Return, by principle, how many labels flip and how many are lost without its votes.

    Pairs judged under one principle are left out: without it, another one would be drawn, whose
    verdict is not known.
    """
    weights = {p.id: p.weight for p in constitution.principles}
    counts: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for pair, two, rows in judged:
        known = [row for row in rows if row.principle.id in weights]
        if len(known) < 2:
            continue
        whole = label_pair(pair, known, weights=weights, policy=policy, two=two).label
        for row in known:
            others = [other for other in known if other is not row]
            rest = label_pair(pair, others, weights=weights, policy=policy, two=two).label
            count = counts[row.principle.id]
            if whole is not None and rest is not None:
                count[0] += (whole - 0.5) * (rest - 0.5) < 0
            count[1] += whole is not None and rest is None
    return {name: (flipped, lost) for name, (flipped, lost) in counts.items()}


def _agreements(
    names: Iterable[str], votes: Mapping[str, Mapping[tuple[str, Two], _Vote]]
) -> list[Agreement]:
    agreements: list[Agreement] = []
    for first, second in combinations(names, 2):
        one, other = votes.get(first, {}), votes.get(second, {})
        shared = [k for k in one if k in other and one[k].counted and other[k].counted]
        if shared:
            same = [(one[k].probability > 0.5) == (other[k].probability > 0.5) for k in shared]
            tasks = [one[k].task for k in shared]
            agreements.append(Agreement(first, second, rate(same, tasks)))
    return agreements


def _suggestions(
    principles: Iterable[PrincipleStatistics], agreements: Iterable[Agreement]
) -> list[str]:
    said = [
        f"{a.first} and {a.second} agree in {a.same.value:.0%} of {a.same.n} pairs: one of them"
        " may be enough."
        for a in agreements
        if a.same.value is not None and a.same.low is not None and a.same.low > ALIKE
    ]
    said += [
        f"{a.first} and {a.second} agree in only {a.same.value:.0%} of {a.same.n} pairs: check that"
        " their weights are what you want."
        for a in agreements
        if a.same.value is not None and a.same.high is not None and a.same.high < 1 - ALIKE
    ]
    return said + [
        f"{p.id} changed {p.changed.value:.0%} of the {p.rounds} responses it was drawn for: its"
        " critique may be too weak."
        for p in principles
        if p.changed.value is not None and p.changed.high is not None and p.changed.high < IDLE
    ]
