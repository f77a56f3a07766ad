"""Proportions, means and their differences, with 95% intervals clustered by task."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Estimate:
    """A value and its 95% interval.

    Attributes:
        value: None if nothing was measured.
        low: Lower end of the interval; None if it cannot be estimated.
        high: Upper end of the interval; None if it cannot be estimated.
    """

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends, if there is an interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def spread(self) -> tuple[float, float, float] | None:
        """Value, low and high (all the value without an interval); None if not measured."""
        if self.value is None:
            return None
        return (self.value, *(self.interval or (self.value, self.value)))

    @property
    def is_clear(self) -> bool:
        """Whether the interval of a difference excludes zero."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)

    @property
    def size(self) -> Estimate:
        """The absolute size of a clear difference."""
        value = None if self.value is None else abs(self.value)
        return Estimate(value, *sorted(map(abs, self.interval or ())))


@dataclass(frozen=True)
class Rate(Estimate):
    """An estimate from `n` rows: a proportion, a mean or a rating."""

    n: int = 0


UNKNOWN = Rate(None)
"""Of what was not measured."""


def rate(values: Sequence[bool | None], clusters: Sequence[str]) -> Rate:
    """Estimate a proportion; answers to one task are not independent of each other.

    The interval is Wilson's, with the effective sample size n / deff. The design effect deff is
    the ratio estimator's between-task variance over the binomial one, at least 1. It is a mean
    with its worst case (all answers to a task are the same), which has the weight of one task; the
    other weight is the number of tasks with the rarer outcome. So 0 of 300 answers over 20 tasks
    counts as 20 draws: without a task that has the rarer outcome, its clustering is not known.

    Args:
        values: One outcome per row; None is left out.
        clusters: The task of each row.

    Returns:
        The proportion in [0, 1], its interval, and the number of measured rows.
    """
    tasks = _by_cluster([None if v is None else float(v) for v in values], clusters)
    n = sum(len(task) for task in tasks)
    if n == 0:
        return UNKNOWN
    hits = [sum(task) for task in tasks]
    p = sum(hits) / n
    low, high = _wilson(p, n / _design_effect(hits, [len(task) for task in tasks]))
    return Rate(p, low, high, n)


def mean(values: Sequence[float | None], clusters: Sequence[str]) -> Rate:
    """Estimate a mean with the cluster-robust standard error and Student's t, tasks - 1 degrees.

    Args:
        values: One number per row; None is left out.
        clusters: The task of each row.

    Returns:
        The mean in the values' unit; no interval when all measured rows are of one task.
    """
    tasks = _by_cluster(values, clusters)
    n = sum(len(task) for task in tasks)
    if n == 0:
        return UNKNOWN
    centre = sum(sum(task) for task in tasks) / n
    if len(tasks) == 1:
        return Rate(centre, n=n)
    sums, sizes = [sum(task) for task in tasks], [len(task) for task in tasks]
    half = _student_t(len(tasks) - 1) * math.sqrt(_ratio_variance(sums, sizes))
    return Rate(centre, centre - half, centre + half, n)


def difference(before: Estimate | None, after: Estimate | None) -> Estimate:
    """Return after - before with a 95% interval, from the two values' own intervals.

    Newcombe's hybrid score interval (1998, method 10; in general form Zou and Donner's MOVER,
    2008): the lower end is sqrt((a - low_a)^2 + (high_b - b)^2) below the difference a - b. So it
    is asymmetric near 0 and 1 and clustered by task, as the two intervals are. It assumes that the
    two are independent: for answers to the same prompts it is a little too wide.

    Returns:
        No value if one of the two has none; no ends if one has no interval.
    """
    b, a = before and before.value, after and after.value
    if a is None or b is None:
        return Estimate(None)
    one, other = before and before.interval, after and after.interval
    if one is None or other is None:
        return Estimate(a - b)
    (low_b, high_b), (low_a, high_a) = one, other
    return Estimate(
        a - b,
        a - b - math.hypot(a - low_a, high_b - b),
        a - b + math.hypot(high_a - a, b - low_b),
    )


def _by_cluster(values: Sequence[float | None], clusters: Sequence[str]) -> list[list[float]]:
    groups: defaultdict[str, list[float]] = defaultdict(list)
    for value, cluster in zip(values, clusters, strict=True):
        if value is not None:
            groups[cluster].append(value)
    return list(groups.values())


def _ratio_variance(sums: Sequence[float], sizes: Sequence[int]) -> float:
    """Return the variance of sum(sums) / sum(sizes) over tasks (two or more) drawn at random."""
    tasks, n = len(sizes), sum(sizes)
    centre = sum(sums) / n
    residuals = sum((s - centre * size) ** 2 for s, size in zip(sums, sizes, strict=True))
    return tasks / (tasks - 1) * residuals / n**2


def _design_effect(hits: Sequence[float], sizes: Sequence[int]) -> float:
    if max(sizes) == 1:
        return 1.0
    n = sum(sizes)
    p = sum(hits) / n
    worst = sum(size**2 for size in sizes) / n
    some = sum(hit > 0 for hit in hits)
    not_all = sum(hit < size for hit, size in zip(hits, sizes, strict=True))
    informative = min(some, not_all)
    if informative == 0 or len(sizes) == 1:
        return worst
    seen = max(1.0, _ratio_variance(hits, sizes) / (p * (1 - p) / n))
    return (informative * seen + worst) / (informative + 1)


def _wilson(p: float, n: float) -> tuple[float, float]:
    """Return Wilson's score interval for a proportion of `n` (effective) draws."""
    scale = 1 + Z**2 / n
    centre = (p + Z**2 / (2 * n)) / scale
    half = Z * math.sqrt(p * (1 - p) / n + (Z / (2 * n)) ** 2) / scale
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))


def _student_t(degrees: int) -> float:
    """Return the 0.975 quantile of Student's t.

    Closed forms for 1 and 2 degrees, else the Cornish-Fisher expansion, within 1%.
    """
    if degrees == 1:
        return math.tan(math.pi * 0.475)
    if degrees == 2:
        return 0.95 / math.sqrt(2 * 0.975 * 0.025)
    return (
        Z
        + (Z**3 + Z) / (4 * degrees)
        + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * degrees**2)
        + (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / (384 * degrees**3)
    )
