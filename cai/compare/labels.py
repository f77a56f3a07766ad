"""From evidence to labels: pure functions of rows and of the label policy, without a model."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations

from cai.data.records import ComparisonRow, Evidence, JudgementRow, PairRow, content_hash
from cai.settings import LabelPolicy

OPINION = 0.1
"""A probability this far from one half is an opinion."""
NO_VERDICT = "no verdict put enough probability on its options"

Two = tuple[int, int]
"""The numbers of two responses that are compared."""


def preference(judgement: JudgementRow, policy: LabelPolicy, two: Two = (0, 1)) -> float | None:
    """Return P(the first of two responses is better) by one judgement.

    If questions show both, it is the probability of the first one's option, divided by that of both
    options (paper, section 4.1; with more options, Luce's choice rule). If each is graded alone (a
    rating, the finding of a critique), it is the probability of superiority, P(X > Y) +
    P(X = Y) / 2 for independent draws X, Y from the two distributions over grades: it uses only the
    order of the grades, and two equal distributions give one half.

    Samples of the reasoning are averaged, and then the two orders of asking: the mean cancels a
    judge's preference for a position or a letter.

    Args:
        judgement: Some responses under one principle.
        policy: Its `orders`, `reasonings` and `min_mass` are used.
        two: Which responses.

    Returns:
        A probability in [0, 1]; None if a question, asked one way round, has no usable verdict.
    """
    used = [e for e in judgement.evidence if policy.orders == "average" or not e.turned]
    if policy.reasonings is not None:
        used = [e for e in used if e.sample < policy.reasonings]
    return _superiority(used, two, policy.min_mass)


def by_order(judgement: JudgementRow, two: Two = (0, 1)) -> tuple[float | None, float | None]:
    """Return P(the first of two is better) as asked at first, and as asked the other way round.

    Each is None if it was not asked or has no usable verdict.
    """
    straight, turned = (
        _superiority([e for e in judgement.evidence if e.turned == way], two, 0.0)
        for way in (False, True)
    )
    return straight, turned


def orders_agree(judgement: JudgementRow, two: Two = (0, 1)) -> bool | None:
    """Say whether a verdict is the same in both orders of asking.

    Returns:
        None if it was asked in one order only, or if both are within `OPINION` of one half.
    """
    straight, turned = by_order(judgement, two)
    if straight is None or turned is None:
        return None
    if max(abs(straight - 0.5), abs(turned - 0.5)) < OPINION:
        return None
    return (straight > 0.5) == (turned > 0.5)


def first_preferred(judgement: JudgementRow) -> float | None:
    """Return the mean P(the response shown first is better); None where each is shown alone."""
    if any(len(evidence.shown) == 1 for evidence in judgement.evidence):
        return None
    straight, turned = by_order(judgement)
    shown = [straight, None if turned is None else 1 - turned]
    there = [p for p in shown if p is not None]
    return sum(there) / len(there) if there else None


def evidence_on(judgement: JudgementRow, two: Two = (0, 1)) -> list[Evidence]:
    """Return the evidence that tells which of two responses is better."""
    ones = [(number,) for number in two]
    return [e for e in judgement.evidence if set(two) <= set(e.shown) or e.shown in ones]


def grades(judgement: JudgementRow, response: int, policy: LabelPolicy) -> list[float] | None:
    """Return the distribution over the grades of one response, worst first; it sums to 1.

    Returns:
        None if the judgement grades no responses, or has no usable verdict on this one.
    """
    used = [e for e in judgement.evidence if policy.orders == "average" or not e.turned]
    return _averaged([e for e in used if e.shown == (response,)], distribution, policy.min_mass)


def expected_grade(judgement: JudgementRow, response: int, policy: LabelPolicy) -> float | None:
    """Return the mean grade of one response, counted from 1; None as in `grades`."""
    found = grades(judgement, response, policy)
    return None if found is None else sum(n * p for n, p in enumerate(found, start=1))


def twos_of(pair: PairRow) -> list[Two]:
    """Return every two responses of a row that are compared with each other."""
    return list(combinations(range(len(pair.responses)), 2))


def comparison_key(pair: PairRow, two: Two = (0, 1)) -> str:
    """Return the key of the comparison of two responses."""
    return content_hash("comparison", pair.key, *(() if two == (0, 1) else two))


def label_pair(
    pair: PairRow,
    judgements: Sequence[JudgementRow],
    *,
    weights: Mapping[str, float],
    policy: LabelPolicy,
    two: Two = (0, 1),
) -> ComparisonRow:
    """Derive the label of two responses from judgements: a pure function of rows and policy.

    The label is the weighted mean of the principles' log-odds, as a probability. Principles
    without an opinion (`policy.ignore_within`, `policy.consistent_only`) have no vote.

    Args:
        pair: The responses.
        judgements: Its judgements.
        weights: Principle id to weight.
        policy: How verdicts become labels.
        two: Which responses.

    Returns:
        A comparison; its label is None unless its state is `ok`. Never an invented label.
    """
    first, second = (pair.responses[number].text for number in two)
    row = ComparisonRow(
        key=comparison_key(pair, two),
        state=pair.state,
        error=pair.error,
        kind=pair.kind,
        source="ai",
        messages=pair.messages,
        task=pair.task,
        responses=(first, second),
        label=None,
        judgements=[judgement.key for judgement in judgements],
    )
    if pair.state == "ok" and first == second:
        row.state, row.error = "tie", "the two responses are the same"
    if row.state != "ok":
        return row
    votes: list[tuple[float, float]] = []
    problems: list[JudgementRow] = []
    for judgement in judgements:
        probability = preference(judgement, policy, two)
        if judgement.state != "ok" or probability is None:
            problems.append(judgement)
        elif abs(probability - 0.5) >= policy.ignore_within and (
            not policy.consistent_only or orders_agree(judgement, two) is not False
        ):
            votes.append((weights[judgement.principle.id], _logit(probability)))
    if votes:
        total = sum(weight for weight, _ in votes)
        label = _sigmoid(sum(weight * odds for weight, odds in votes) / total)
        if policy.kind == "hard":
            label = label if label == 0.5 else float(label > 0.5)
        low, high = policy.clamp
        row.label = min(max(label, low), high)
    elif len(problems) == len(judgements):
        bad = problems[0] if problems else None
        row.state = bad.state if bad and bad.state != "ok" else "unparsed"
        row.error = (bad.error if bad else None) or NO_VERDICT
    else:
        row.state, row.error = "tie", "no principle prefers either response"
    return row


def label_all(
    pair: PairRow,
    judgements: Sequence[JudgementRow],
    *,
    weights: Mapping[str, float],
    policy: LabelPolicy,
) -> list[ComparisonRow]:
    """Label every two responses of a row."""
    return [
        label_pair(pair, judgements, weights=weights, policy=policy, two=two)
        for two in twos_of(pair)
    ]


def is_usable(judgement: JudgementRow, policy: LabelPolicy) -> bool:
    """Whether a judgement has a verdict on every two responses that it is about."""
    if judgement.state != "ok":
        return False
    numbers = sorted({number for evidence in judgement.evidence for number in evidence.shown})
    return all(preference(judgement, policy, two) is not None for two in combinations(numbers, 2))


def by_pair(
    judgements: Iterable[JudgementRow], policy: LabelPolicy
) -> dict[str, list[JudgementRow]]:
    """Group judgements by the key of their pair, each group sorted by key.

    If a judgement is not usable under this policy, that of the fallback judge replaces it, if there
    is one. All other judgements of the fallback judge are left out.
    """
    rows = sorted(judgements, key=lambda row: row.key)
    fallback = {row.instead_of: row for row in rows if row.instead_of is not None}
    groups: defaultdict[str, list[JudgementRow]] = defaultdict(list)
    for row in rows:
        if row.instead_of is None:
            other = None if is_usable(row, policy) else fallback.get(row.key)
            groups[row.pair].append(other or row)
    return groups


def _superiority(used: Sequence[Evidence], two: Two, min_mass: float) -> float | None:
    both = [e for e in used if set(two) <= set(e.shown)]
    if both:
        found = _averaged(both, lambda e: [chosen(e, two)], min_mass)
        return None if found is None else found[0]
    one, other = (
        _averaged([e for e in used if e.shown == (number,)], distribution, min_mass)
        for number in two
    )
    if one is None or other is None:
        return None
    return sum(
        p * q * (1.0 if x > y else 0.5 if x == y else 0.0)
        for x, p in enumerate(one)
        for y, q in enumerate(other)
    )


def chosen(evidence: Evidence, two: Two) -> float:
    """Return the probability of the one's option over both options'."""
    first, second = (evidence.logprobs[evidence.shown.index(number)] for number in two)
    return _sigmoid(first - second)


def distribution(evidence: Evidence) -> list[float]:
    """Return the options' probabilities over those of all options (a softmax)."""
    most = max(evidence.logprobs)
    shares = [math.exp(logprob - most) for logprob in evidence.logprobs]
    return [share / sum(shares) for share in shares]


def _averaged(
    asked: Sequence[Evidence], read: Callable[[Evidence], list[float]], min_mass: float
) -> list[float] | None:
    """Average over usable samples, then over the two ways of asking; None if one way has none."""
    ways: list[list[float]] = []
    for turned in sorted({e.turned for e in asked}):
        usable = [
            read(e) for e in asked if e.turned == turned and e.state == "ok" and e.mass >= min_mass
        ]
        if not usable:
            return None
        ways.append(_mean(usable))
    return _mean(ways) if ways else None


def _mean(vectors: Sequence[Sequence[float]]) -> list[float]:
    return [sum(column) / len(vectors) for column in zip(*vectors, strict=True)]


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else 1 - 1 / (1 + math.exp(x))


def _logit(probability: float) -> float:
    """Log-odds, bounded where float64 would overflow them to infinity."""
    bounded = min(max(probability, 1e-12), 1 - 1e-12)
    return math.log(bounded) - math.log1p(-bounded)
