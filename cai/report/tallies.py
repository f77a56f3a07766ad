"""Counts over the rows of a run, each row looked at once."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from cai.records import ComparisonRow, JudgementRow, OrderEvidence, PromptRow, RevisionRow

LABEL_BINS = 20


def tally_prompts(rows: Iterable[PromptRow]) -> dict[str, Any]:
    """Count prompts and tasks by kind and split."""
    prompts: Counter[tuple[str, str]] = Counter()
    tasks: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        prompts[row.kind, row.split] += 1
        tasks[row.kind, row.split].add(row.task)
    return {
        f"{kind}/{split}": {"prompts": count, "tasks": len(tasks[kind, split])}
        for (kind, split), count in sorted(prompts.items())
    }


def tally_revisions(rows: Iterable[RevisionRow]) -> dict[str, Any]:
    """Count chains, principle draws, and what each round did to the text.

    Returns:
        `chains` with at least one round; `principles` (id to critiques under it); `rounds`, one
        entry for the first response and each revision, with mean words, the share that differs
        from the text before, and how many were measured.
    """
    principles: Counter[str] = Counter()
    words: defaultdict[int, list[int]] = defaultdict(list)
    changed: Counter[int] = Counter()
    chains = 0
    for row in rows:
        if not row.steps:
            continue
        chains += 1
        texts = [row.response, *(step.revision for step in row.steps)]
        principles.update(step.principle.id for step in row.steps)
        for number, text in enumerate(texts):
            words[number].append(len(text.split()))
            changed[number] += number > 0 and text != texts[number - 1]
    rounds = [
        {
            "round": number,
            "mean_words": sum(counts) / len(counts),
            "changed": changed[number] / len(counts) if number else None,
            "n": len(counts),
        }
        for number, counts in sorted(words.items())
    ]
    return {"chains": chains, "principles": dict(principles), "rounds": rounds}


def tally_comparisons(rows: Iterable[ComparisonRow]) -> dict[str, Any]:
    """Count labelled pairs by source, and the AI labels in equal bins of [0, 1]."""
    labelled: Counter[str] = Counter()
    bins = [0] * LABEL_BINS
    for row in rows:
        if row.label is None:
            continue
        labelled[row.source] += 1
        if row.source == "ai":
            bins[min(int(row.label * LABEL_BINS), LABEL_BINS - 1)] += 1
    return {"labelled": dict(sorted(labelled.items())), "ai_labels": bins}


def tally_judgements(rows: Iterable[JudgementRow]) -> dict[str, Any]:
    """Say how much the feedback model can be trusted.

    Returns:
        `judgements`; `principles` (id to judgements under it); and over verdicts asked in both
        orders (`n`): `order_agreement`, the share that prefers the same response both times;
        `first_preferred`, the mean probability of whichever response is shown first (0.5 is fair);
        `mean_mass`, the probability on the two options together. None when nothing was measured.
    """
    principles: Counter[str] = Counter()
    agree: list[float] = []
    first: list[float] = []
    mass: list[float] = []
    for row in rows:
        principles[row.principle.id] += 1
        if row.forward is None or row.backward is None:
            continue
        forward, backward = first_preferred(row.forward), first_preferred(row.backward)
        agree.append((forward > 0.5) == (backward < 0.5))
        first.append((forward + backward) / 2)
        mass.append((row.forward.mass + row.backward.mass) / 2)
    return {
        "judgements": principles.total(),
        "principles": dict(principles),
        "order_agreement": _mean(agree),
        "first_preferred": _mean(first),
        "mean_mass": _mean(mass),
        "n": len(agree),
    }


def first_preferred(evidence: OrderEvidence) -> float:
    """Return P(the response shown first is better) over the two options, in [0, 1]."""
    odds = evidence.logp_first - evidence.logp_second
    return 1 / (1 + math.exp(-odds)) if odds >= 0 else 1 - 1 / (1 + math.exp(odds))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
