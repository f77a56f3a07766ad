"""Where the marks of the charts go; the templates draw them as inline SVG.

Positions are percentages of the chart's width and height, so that a chart narrows on a phone while
its text keeps its size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cai.report.wording import LABEL_ORDER, number

EXTENTS = (0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True)
class Dot:
    """A rate: which series it belongs to, its value and interval ends in percent."""

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
class Curve:
    """A line in a box of 100 by 100, y downwards, with its first and last value in words."""

    name: str
    points: str
    first: str
    last: str


@dataclass(frozen=True)
class LineChart:
    """Curves that share their axes; ticks are (place from the top in percent, text)."""

    title: str
    curves: list[Curve]
    ticks: list[tuple[float, str]]
    steps: int


@dataclass(frozen=True)
class Point:
    """A value with its interval, in percent of the axes, y from the top."""

    x: float
    y: float
    low: float
    high: float
    told: str


@dataclass(frozen=True)
class ScoreChart:
    """Points with whiskers that share a y axis; ticks as in `LineChart`."""

    points: list[Point]
    ticks: list[tuple[float, str]]


def dots(rates: Sequence[Mapping[str, Any] | None]) -> list[Dot]:
    """Place one rate per model; rates that were not measured have no mark."""
    return [
        Dot(series, 100 * rate["value"], 100 * rate["low"], 100 * rate["high"])
        for series, rate in enumerate(rates)
        if rate and rate["value"] is not None
    ]


def stack(counts: Mapping[str, int]) -> list[Bar]:
    """Lay a grader's labels side by side, together 100% wide; empty if there are none."""
    total, start = sum(counts.values()), 0.0
    bars: list[Bar] = []
    known = [name for name in LABEL_ORDER if name in counts]
    for label in [*known, *sorted({*counts} - {*known})]:
        width = 100 * counts[label] / total if total else 0.0
        bars.append(Bar(label, counts[label], start, width))
        start += width
    return bars if total else []


def heights(counts: Sequence[int]) -> list[float]:
    """Scale histogram bars so that the highest is 100."""
    highest = max(counts, default=0)
    return [100 * count / highest if highest else 0.0 for count in counts]


def line_chart(
    title: str, series: Mapping[str, Sequence[tuple[float, float]]], steps: int
) -> LineChart | None:
    """Draw (step, value) pairs, steps from 1; None when no series has any.

    Args:
        title: What is measured, with its unit.
        series: Name to points; those without points are left out.
        steps: How many steps the axis has.
    """
    values = [y for points in series.values() for _, y in points]
    if not values:
        return None
    marks = ticks(min(values), max(values))
    low, span, step = marks[0], marks[-1] - marks[0], marks[1] - marks[0]
    width = max(steps - 1, 1)

    def curve(name: str, points: Sequence[tuple[float, float]]) -> Curve:
        places = (
            f"{100 * (x - 1) / width:.2f},{100 - 100 * (y - low) / span:.2f}" for x, y in points
        )
        ends = [_written(points[end][1], step / 10) for end in (0, -1)]
        return Curve(name, " ".join(places), *ends)

    return LineChart(
        title,
        [curve(name, points) for name, points in series.items() if points],
        [(100 - 100 * (mark - low) / span, _written(mark, step)) for mark in marks],
        steps,
    )


def score_chart(rounds: Sequence[Mapping[str, Any]]) -> ScoreChart | None:
    """Draw mean scores by number of revisions, with their intervals; None with fewer than two."""
    known = [found for found in rounds if found["score"]["value"] is not None]
    if len(known) < 2:
        return None
    values = [found["score"] for found in known]
    ends = [end for v in values for end in (v["low"], v["high"], v["value"]) if end is not None]
    marks = ticks(min(ends), max(ends))
    low, span, step = marks[0], marks[-1] - marks[0], marks[1] - marks[0]

    def y(value: float | None, instead: float) -> float:
        return 100 - 100 * ((instead if value is None else value) - low) / span

    last = known[-1]["round"]
    return ScoreChart(
        points=[
            Point(
                x=10 + 86 * found["round"] / last,
                y=y(score["value"], 0.0),
                low=y(score["low"], score["value"]),
                high=y(score["high"], score["value"]),
                told=f"{_written(score['value'], step / 10)} after {found['round']} revisions",
            )
            for found, score in zip(known, values, strict=True)
        ],
        ticks=[(y(mark, 0.0), _written(mark, step)) for mark in marks],
    )


def ticks(low: float, high: float) -> list[float]:
    """Return three to six round numbers, evenly spaced, the first and last around both ends."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = (min(low, 0.0), max(high, 0.0)) if low else (-1.0, 1.0)
    rough = (high - low) / 3
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(scale * nice for nice in (1, 2, 2.5, 5, 10) if scale * nice >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [place * step for place in range(first, last + 1)]


def extent(changes: Iterable[Mapping[str, float | None]]) -> float:
    """Return a round bound that no interval of these differences of proportions goes beyond."""
    ends = [abs(end) for change in changes for end in change.values() if end is not None]
    return next(bound for bound in EXTENTS if bound >= min(1.0, max(ends, default=1.0)))


def calibration(bins: Sequence[Mapping[str, Any]]) -> list[Point]:
    """Place a bin's mean confidence (x, from 0.5 to 1) and share of right labels (y, from 0)."""
    return [
        Point(
            x=200 * (found["confidence"] - 0.5),
            y=100 - 100 * found["right"]["value"],
            low=100 - 100 * found["right"]["low"],
            high=100 - 100 * found["right"]["high"],
            told=f"{found['right']['value']:.0%} of {found['right']['n']:,} right "
            f"at a mean confidence of {found['confidence']:.2f}",
        )
        for found in bins
    ]


def _written(value: float, step: float) -> str:
    """Write a value with the decimals that tell it from one a step away."""
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if decimals > 4:
        return number(value)
    written = f"{value:,.{decimals}f}"
    if float(f"{step:.{decimals}f}") != step:
        written = f"{value:,.{decimals + 1}f}"
    written = written.rstrip("0").rstrip(".") if "." in written else written
    return "0" if written == "-0" else written.replace("-", "−")
