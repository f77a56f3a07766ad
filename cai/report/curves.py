"""Which of PPO's metrics the report follows over the steps of training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

LONGEST_CURVE = 400
"""Points of a curve that are worth drawing."""

CURVES: dict[str, dict[str, str]] = {
    "Preference score": {
        "objective/scores_red_team": "red-team",
        "objective/scores_helpful": "helpful",
        "objective/scores": "all",
    },
    "KL from SL-CAI, nats per response": {"objective/kl": ""},
    "Response length, tokens": {"response/length": ""},
    "Entropy, nats per token": {"policy/entropy_avg": ""},
    "Share of tokens clipped": {"policy/clipfrac_avg": ""},
    "Share of responses that end in time": {"response/ended": ""},
}
"""Title of a chart, to what `steps.jsonl` calls its curves, to what the chart calls them."""

Points = list[tuple[float, float]]


def curves(steps: Sequence[Mapping[str, float | None]]) -> dict[str, Points]:
    """Return (step, value) pairs by metric; long runs are averaged over equal stretches.

    Steps count from 1. Steps at which a metric is missing or not finite are left out, and so are
    metrics with fewer than two values.
    """
    names = [name for chart in CURVES.values() for name in chart]
    found = {name: _points([step.get(name) for step in steps]) for name in names}
    return {name: points for name, points in found.items() if len(points) > 1}


def _points(values: Sequence[float | None]) -> Points:
    known = [(float(n), value) for n, value in enumerate(values, start=1) if value is not None]
    size = max(1, math.ceil(len(known) / LONGEST_CURVE))
    return [_centre(known[start : start + size]) for start in range(0, len(known), size)]


def _centre(stretch: Sequence[tuple[float, float]]) -> tuple[float, float]:
    n = len(stretch)
    return sum(step for step, _ in stretch) / n, sum(value for _, value in stretch) / n
