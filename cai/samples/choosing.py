"""Choose from the samples of a prompt: what to imitate, and what to compare."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from cai.data.records import ComparisonRow, SampledResponse, SamplesRow, content_hash
from cai.settings import PairSettings, SelectSettings
from cai.settings.samples import PREFERENCE


def usable(row: SamplesRow) -> list[SampledResponse]:
    """Return the samples that can be trained on, each text once, best first.

    Samples with equal scores keep their order.
    """
    once: dict[str, SampledResponse] = {}
    for sample in row.samples:
        if sample.is_usable:
            once.setdefault(sample.text, sample)
    return sorted(once.values(), key=lambda sample: -(sample.score or 0.0))


def selected(row: SamplesRow, settings: SelectSettings) -> list[SampledResponse]:
    """Return the best samples of a prompt, best first.

    `share` counts all samples of the prompt, so that a prompt with many failed ones does not give
    worse samples than another.
    """
    count = max(1, round(settings.share * len(row.samples)))
    if settings.most is not None:
        count = min(count, settings.most)
    above = -math.inf if settings.above is None else settings.above
    return [sample for sample in usable(row)[:count] if (sample.score or 0.0) > above]


def pairs(row: SamplesRow, settings: PairSettings) -> list[ComparisonRow]:
    """Return the best sample against the worst, the second best against the second worst.

    The label is σ(score difference) of a preference model, 1 of a grader.
    """
    ranked = usable(row)
    found: list[ComparisonRow] = []
    for number in range(min(settings.pairs_per_prompt, len(ranked) // 2)):
        better, worse = ranked[number], ranked[-1 - number]
        difference = (better.score or 0.0) - (worse.score or 0.0)
        if difference <= settings.margin:
            break
        label = 1 / (1 + math.exp(-difference)) if row.scored_by == PREFERENCE else 1.0
        found.append(
            ComparisonRow(
                key=content_hash("sampled pair", row.key, number),
                fingerprint=content_hash(row.fingerprint, better.text, worse.text, label),
                kind=row.kind,
                source="ai",
                messages=row.messages,
                task=row.task,
                responses=(better.text, worse.text),
                label=label,
            )
        )
    return found


def tally(rows: Iterable[SamplesRow]) -> Counter[str]:
    """Count samples: `usable`, or why not (`empty`, `cut_off`, `unscored`)."""
    return Counter(
        "usable"
        if sample.is_usable
        else "empty"
        if not sample.text
        else "unscored"
        if sample.ended
        else "cut_off"
        for row in rows
        for sample in row.samples
    )
