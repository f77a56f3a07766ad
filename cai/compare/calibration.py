"""Whether confidence is what it says: reliability by confidence, and the calibration error."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from cai.evaluate.rates import UNKNOWN, Rate, rate

BINS = 10
"""Equal bins of confidence, from the lowest that there can be to 1."""
RESAMPLES = 500
"""Bootstrap samples of tasks, for the interval of the calibration error."""


@dataclass(frozen=True)
class Told:
    """A verdict beside the truth.

    Attributes:
        task: Verdicts of one task are not independent of each other.
        confidence: The probability of the option that was picked, in [0, 1].
        right: Whether that is a right option; None if several are equally likely.
        credit: The share of right ones among the likeliest options: 0 or 1 unless there are
            several.
    """

    task: str
    confidence: float
    right: bool | None
    credit: float


@dataclass(frozen=True)
class ReliabilityBin:
    """Verdicts of about the same confidence.

    Attributes:
        confidence: Their mean confidence.
        right: The share of them that are right.
    """

    confidence: float
    right: Rate


def reliability(told: Sequence[Told], *, lowest: float) -> list[ReliabilityBin]:
    """Return the verdicts by confidence, in `BINS` equal bins from `lowest` to 1."""
    bins: defaultdict[int, list[Told]] = defaultdict(list)
    for one in told:
        bins[_bin(one.confidence, lowest)].append(one)
    return [
        ReliabilityBin(
            sum(one.confidence for one in some) / len(some),
            rate([one.right for one in some], [one.task for one in some]),
        )
        for _, some in sorted(bins.items())
    ]


def calibration(told: Sequence[Told], *, lowest: float) -> Rate:
    """Return the calibration error with the bootstrap's percentile interval over tasks."""
    if not told:
        return UNKNOWN
    by_task: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for one in told:
        by_task[one.task].append((one.confidence, one.credit))
    tasks, rng = list(by_task.values()), random.Random(0)
    values = sorted(
        calibration_error(
            [one for task in rng.choices(tasks, k=len(tasks)) for one in task], lowest=lowest
        )
        for _ in range(RESAMPLES)
    )
    low, high = (values[round(q * (RESAMPLES - 1))] for q in (0.025, 0.975))
    whole = calibration_error([one for task in tasks for one in task], lowest=lowest)
    return Rate(whole, min(low, whole), max(high, whole), len(told))


def calibration_error(verdicts: Sequence[tuple[float, float]], *, lowest: float) -> float:
    """Return the expected calibration error of (confidence in [`lowest`, 1], credit) pairs.

    Equal bins (Naeini, Cooper and Hauskrecht 2015).
    """
    bins: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
    for confidence, credit in verdicts:
        bins[_bin(confidence, lowest)].append((confidence, credit))
    gaps = [abs(sum(c for c, _ in some) - sum(r for _, r in some)) for some in bins.values()]
    return sum(gaps) / len(verdicts)


def _bin(confidence: float, lowest: float) -> int:
    return min(int((confidence - lowest) / (1 - lowest) * BINS), BINS - 1)
