"""Where the marks of the charts go; the templates draw them as inline SVG.

Positions are percentages of the chart's width, so that a chart narrows on a phone while its text
keeps its size. Line charts live in a box of 100 by 100 that is stretched to its frame.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LONGEST_LINE = 400
"""Points of a line that are worth drawing."""


@dataclass(frozen=True)
class Dot:
    """A rate of one model: value and interval ends in percent of the width."""

    series: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Bar:
    """A stretch of a stacked bar: start and width in percent of the width."""

    label: str
    count: int
    start: float
    width: float


@dataclass(frozen=True)
class Line:
    """A curve in a box of 100 by 100, y downwards, and the values at its edges."""

    title: str
    points: str
    first: float
    last: float
    low: float
    high: float
    steps: int


def dots(rates: Sequence[Mapping[str, Any] | None]) -> list[Dot]:
    """Place one rate per model; rates that were not measured have no mark."""
    return [
        Dot(series, 100 * rate["value"], 100 * rate["low"], 100 * rate["high"])
        for series, rate in enumerate(rates)
        if rate and rate["value"] is not None
    ]


def stack(counts: Mapping[str, int]) -> list[Bar]:
    """Lay counts side by side, together 100% wide; empty if there are none."""
    total, start = sum(counts.values()), 0.0
    bars: list[Bar] = []
    for label, count in counts.items():
        width = 100 * count / total if total else 0.0
        bars.append(Bar(label, count, start, width))
        start += width
    return bars if total else []


def heights(counts: Sequence[int]) -> list[float]:
    """Scale histogram bars so that the highest is 100."""
    highest = max(counts, default=0)
    return [100 * count / highest if highest else 0.0 for count in counts]


def line(title: str, values: Sequence[float | None]) -> Line | None:
    """Draw a curve over training steps; None with fewer than two finite values.

    Long runs are averaged over equal stretches of steps. Unmeasured steps are bridged.
    """
    known = [(step, value) for step, value in enumerate(values) if value is not None]
    if len(known) < 2:
        return None
    size = math.ceil(len(known) / LONGEST_LINE)
    marks = [_centre(known[start : start + size]) for start in range(0, len(known), size)]
    low, high = min(y for _, y in marks), max(y for _, y in marks)
    span = high - low or 1.0
    width = max(len(values) - 1, 1)
    points = " ".join(f"{100 * x / width:.2f},{100 * (high - y) / span:.2f}" for x, y in marks)
    return Line(title, points, known[0][1], known[-1][1], low, high, len(values))


def _centre(stretch: Sequence[tuple[int, float]]) -> tuple[float, float]:
    n = len(stretch)
    return sum(step for step, _ in stretch) / n, sum(value for _, value in stretch) / n
