"""Counts over the rows of a run; each row is read once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

from cai.compare import by_order, first_preferred, orders_agree
from cai.data.records import ComparisonRow, JudgementRow, PromptRow, RevisionRow
from cai.evaluate.rates import Rate, rate
from cai.report.facts import (
    ComparisonFacts,
    ConfidenceBin,
    JudgementFacts,
    PromptCount,
    RevisionFacts,
    RoundFacts,
)
from cai.report.truth import Grade, better, word

LABEL_BINS = 20
CONFIDENCE_BINS = 5


def tally_prompts(rows: Iterable[PromptRow]) -> dict[str, PromptCount]:
    """Count prompts and tasks by kind and split."""
    prompts: Counter[tuple[str, str]] = Counter()
    tasks: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        prompts[row.kind, row.split] += 1
        tasks[row.kind, row.split].add(row.task)
    return {
        f"{kind}/{split}": PromptCount(prompts=count, tasks=len(tasks[kind, split]))
        for (kind, split), count in sorted(prompts.items())
    }


def tally_revisions(rows: Iterable[RevisionRow], grade: Grade) -> RevisionFacts:
    """Measure the effect of critiques and revisions by round; rows without a round are left out."""
    words: defaultdict[int, list[int]] = defaultdict(list)
    changed: Counter[int] = Counter()
    labels: defaultdict[int, Counter[str]] = defaultdict(Counter)
    chains = 0
    for row in rows:
        if not row.steps:
            continue
        chains += 1
        texts = [row.response, *(step.revision for step in row.steps)]
        for number, text in enumerate(texts):
            words[number].append(len(text.split()))
            label = word(grade(row.kind, row.messages, text))
            if label is not None:
                labels[number][label] += 1
        for number, (old, new) in enumerate(pairwise(texts), start=1):
            changed[number] += new != old
    rounds = [
        RoundFacts(
            round=number,
            mean_words=sum(counts) / len(counts),
            changed=changed[number] / len(counts) if number else None,
            labels=dict(sorted(labels[number].items())),
            n=len(counts),
        )
        for number, counts in sorted(words.items())
    ]
    return RevisionFacts(chains=chains, rounds=rounds)


def tally_comparisons(rows: Iterable[ComparisonRow], grade: Grade) -> ComparisonFacts:
    """Count labels, and compare the AI's with the grader's verdicts.

    Comparisons without a label are left out; pairs of equal rank are not in `right` and
    `calibration`.
    """
    labelled: Counter[str] = Counter()
    bins = [0] * LABEL_BINS
    told: list[tuple[float, bool, str]] = []
    for row in rows:
        if row.label is None:
            continue
        labelled[row.source] += 1
        if row.source != "ai":
            continue
        bins[min(int(row.label * LABEL_BINS), LABEL_BINS - 1)] += 1
        truth = better(row.kind, [grade(row.kind, row.messages, text) for text in row.responses])
        if truth is not None and row.label != 0.5:
            told.append((max(row.label, 1 - row.label), (row.label < 0.5) == bool(truth), row.task))
    return ComparisonFacts(
        labelled=dict(sorted(labelled.items())),
        ai_labels=bins,
        right=_share(told),
        calibration=_calibration(told),
    )


def tally_judgements(rows: Iterable[JudgementRow]) -> JudgementFacts:
    """Measure the consistency of the feedback model."""
    count = 0
    verdicts: list[bool | None] = []
    first: list[float] = []
    mass: list[float] = []
    for row in rows:
        count += 1
        if None in by_order(row):
            continue
        verdicts.append(orders_agree(row))
        shown_first = first_preferred(row)
        if shown_first is not None:
            first.append(shown_first)
        mass.append(sum(e.mass for e in row.evidence) / len(row.evidence))
    opinions = [agree for agree in verdicts if agree is not None]
    return JudgementFacts(
        judgements=count,
        opinions=len(opinions),
        order_agreement=_mean(opinions),
        first_preferred=_mean(first),
        mean_mass=_mean(mass),
        n=len(verdicts),
    )


def _calibration(told: Sequence[tuple[float, bool, str]]) -> list[ConfidenceBin]:
    bins: defaultdict[int, list[tuple[float, bool, str]]] = defaultdict(list)
    for confidence, right, task in told:
        place = int((confidence - 0.5) * 2 * CONFIDENCE_BINS)
        bins[min(place, CONFIDENCE_BINS - 1)].append((confidence, right, task))
    return [
        ConfidenceBin(confidence=sum(c for c, _, _ in found) / len(found), right=_share(found))
        for _, found in sorted(bins.items())
    ]


def _share(told: Sequence[tuple[float, bool, str]]) -> Rate:
    return rate([right for _, right, _ in told], [task for _, _, task in told])


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
