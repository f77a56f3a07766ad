"""Differences between two rates or means, each known with its interval."""

from __future__ import annotations

import math

from cai.evaluate.rates import Estimate


def difference(before: Estimate | None, after: Estimate | None) -> Estimate:
    """Return after - before with a 95% interval, from the two values' own intervals.

    Newcombe's hybrid score interval (1998, method 10; in general form Zou and Donner's MOVER,
    2008): the lower end lies sqrt((a - low_a)^2 + (high_b - b)^2) under the difference a - b. It
    keeps the values' own intervals asymmetric near 0 and 1 and clustered by task. It takes the two
    as independent: for answers to the same prompts it is a little too wide.

    Returns:
        Without a value when either was not measured, without ends when either has no interval.
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


def is_clear(change: Estimate) -> bool:
    """Say whether the interval of a difference leaves zero out."""
    return change.interval is not None and (change.interval[0] > 0 or change.interval[1] < 0)


def size(change: Estimate) -> Estimate:
    """Return how large a clear difference is, whichever way it goes."""
    value = None if change.value is None else abs(change.value)
    return Estimate(value, *sorted(map(abs, change.interval or ())))
