"""Differences between two rates or means, each known with its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Known = Mapping[str, Any]
"""A rate or mean as in report.json: `value`, `low`, `high`, `n`."""


def difference(before: Known, after: Known) -> dict[str, float | None]:
    """Return after - before with a 95% interval, from the two values' own intervals.

    Newcombe's hybrid score interval (1998, method 10; in general form Zou and Donner's MOVER,
    2008): the lower end lies sqrt((a - low_a)^2 + (high_b - b)^2) under the difference a - b. It
    keeps the values' own intervals asymmetric near 0 and 1 and clustered by task. It takes the two
    as independent: for answers to the same prompts it is a little too wide.

    Returns:
        `value`, `low`, `high`; all None when either was not measured, the ends None when either
        has no interval.
    """
    b, a = before.get("value"), after.get("value")
    if a is None or b is None:
        return {"value": None, "low": None, "high": None}
    ends = [known.get(end) for known in (before, after) for end in ("low", "high")]
    if any(end is None for end in ends):
        return {"value": a - b, "low": None, "high": None}
    low_b, high_b, low_a, high_a = (float(end) for end in ends if end is not None)
    return {
        "value": a - b,
        "low": a - b - math.hypot(a - low_a, high_b - b),
        "high": a - b + math.hypot(high_a - a, b - low_b),
    }


def is_clear(change: Mapping[str, float | None]) -> bool:
    """Say whether the interval of a difference leaves zero out."""
    low, high = change["low"], change["high"]
    return low is not None and high is not None and (low > 0 or high < 0)
