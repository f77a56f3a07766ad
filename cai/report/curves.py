"""The metrics of PPO that the report shows over the training steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from cai.report.facts import PPOFacts
from cai.report.wording import number, percent

LONGEST_CURVE = 400
"""The largest number of points of a curve."""

CURVES: dict[str, dict[str, str]] = {
    "Preference score and reward": {
        "objective/scores_red_team": "red-team",
        "objective/scores_helpful": "helpful",
        "objective/scores": "all",
        "objective/rlhf_reward": "reward",
    },
    "KL from SL-CAI, nats per response": {"objective/kl": ""},
    "Response length, tokens": {"response/length": ""},
    "Entropy, nats per token": {"policy/entropy_avg": ""},
    "Tokens clipped, percent": {"policy/clipfrac_avg": ""},
    "Responses that end in time, percent": {"response/ended": ""},
}
"""By title of a chart: its curves, by their name in `steps.jsonl`, with their name in the chart."""

GUARD = {
    "guard/score": ("Preference score", number),
    "guard/independent": ("Independent score", number),
    "guard/kl": ("KL from SL-CAI, nats per response", number),
    "guard/length": ("Length, tokens", number),
    "guard/ended": ("Ended in time", percent),
    "guard/evasive": ("Evasive", percent),
    "guard/over_refusal": ("Benign prompts refused", percent),
    "guard/repeated_openings": ("Same opening as another answer", percent),
    "guard/repeated_ngrams": ("Phrases of another answer", percent),
}
"""The guard's measures on held-out prompts: the title of each, and how it is written."""

MOST_CHECKS = 6
"""Columns of the table of checks."""

Points = list[tuple[float, float]]


def drawn(ppo: PPOFacts) -> dict[str, dict[str, Points]]:
    """Return the curves by the title of the chart and their name, in the unit of the title."""
    known = ppo.curves
    return {
        title: {
            name: [(step, 100 * y if title.endswith("percent") else y) for step, y in known[metric]]
            for metric, name in names.items()
            if metric in known
        }
        for title, names in CURVES.items()
    }


def curves(steps: Sequence[Mapping[str, float | None]]) -> dict[str, Points]:
    """Return (step, value) pairs by metric; long runs are averaged over equal intervals.

    Steps are counted from 1. Missing and infinite values are left out, and so are metrics with
    fewer than two values.
    """
    names = [name for chart in CURVES.values() for name in chart]
    found = {name: _points([step.get(name) for step in steps]) for name in names}
    return {name: points for name, points in found.items() if len(points) > 1}


def guard_checks(steps: Sequence[Mapping[str, float | None]]) -> list[dict[str, float | None]]:
    """Return the guard's checks as `{"step", "guard/…"}`: the first, the last, some between."""
    checks = [
        {"step": float(n), **{name: value for name, value in step.items() if name in GUARD}}
        for n, step in enumerate(steps, start=1)
        if any(name in step for name in GUARD)
    ]
    last = len(checks) - 1
    if last < MOST_CHECKS:
        return checks
    return [checks[round(place * last / (MOST_CHECKS - 1))] for place in range(MOST_CHECKS)]


def _points(values: Sequence[float | None]) -> Points:
    known = [(float(n), value) for n, value in enumerate(values, start=1) if value is not None]
    size = max(1, math.ceil(len(known) / LONGEST_CURVE))
    return [_centre(known[start : start + size]) for start in range(0, len(known), size)]


def _centre(stretch: Sequence[tuple[float, float]]) -> tuple[float, float]:
    n = len(stretch)
    return sum(step for step, _ in stretch) / n, sum(value for _, value in stretch) / n
