"""The positions of the marks in the charts; the templates draw them as inline SVG.

Positions are percentages of the chart's width and height, so that a chart gets narrower on a phone
and its text keeps its size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from cai.evaluate.rates import Estimate
from cai.report.facts import ConfidenceBin
from cai.report.wording import LABEL_ORDER, number

LEFT, WIDTH = 14.0, 83.0
"""The start and the width of the space for points, in percent; the ticks are left of it."""
EXTENTS = (0.05, 0.1, 0.2, 0.5, 1.0)
MOST_LETTERS = 20
"""Of all labels of an x axis together, so that they do not overlap on a phone."""

Ticks = list[tuple[float, str]]
"""(place in percent from the left or the top, text)."""


@dataclass(frozen=True)
class Axis:
    """An axis whose first mark is at `start`, and its last one `length` further (percent)."""

    marks: Sequence[float]
    start: float = 100.0
    length: float = -100.0

    @property
    def step(self) -> float:
        """The distance of two marks."""
        return self.marks[1] - self.marks[0]

    def place(self, value: float) -> float:
        """Return the position of a value."""
        span = self.marks[-1] - self.marks[0]
        return self.start + self.length * (value - self.marks[0]) / span

    def ticks(self, write: Callable[[float], str] | None = None) -> Ticks:
        """Return the marks, with as many decimals as they need if nothing else writes them."""
        write = write or (lambda mark: written(mark, self.step))
        return [(self.place(mark), write(mark)) for mark in self.marks]


@dataclass(frozen=True)
class Dot:
    """A rate: its series, its value and the ends of its interval in percent."""

    series: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Bar:
    """A part of a stacked bar: start and width in percent of the width."""

    label: str
    count: int
    start: float
    width: float


@dataclass(frozen=True)
class Curve:
    """A line in a box of 100 by 100, y downwards, with its first and last value as text."""

    name: str
    points: str
    first: str
    last: str


@dataclass(frozen=True)
class LineChart:
    """Curves with the same axes."""

    title: str
    curves: list[Curve]
    ticks: Ticks
    steps: int


@dataclass(frozen=True)
class Point:
    """A value with its interval, in percent of the axes, y from the top; `told` is its text."""

    x: float
    y: float
    low: float
    high: float
    told: str


@dataclass(frozen=True)
class Series:
    """Points, and the line through them in a box of 100 by 100; `place` is its colour."""

    place: int
    name: str
    points: list[Point]
    path: str


@dataclass(frozen=True)
class PointChart:
    """Points with intervals and the same axes; one series, or one per run.

    `places` are the ticks of the x axis; `reference` is the position of a value to compare with.
    """

    title: str
    series: list[Series]
    ticks: Ticks
    places: Ticks
    unit: str
    reference: float | None


def dots(rates: Sequence[Estimate | None], most: float = 1.0) -> list[Dot]:
    """Place one value per model on a scale from 0 to `most`; missing values have no mark."""
    return [
        Dot(series, *(100 * place / most for place in rate.spread))
        for series, rate in enumerate(rates)
        if rate and rate.spread
    ]


def stack(counts: Mapping[str, int]) -> list[Bar]:
    """Return the parts of a bar of labels, together 100% wide; empty if there are none."""
    total, start = sum(counts.values()), 0.0
    bars: list[Bar] = []
    known = [name for name in LABEL_ORDER if name in counts]
    for label in [*known, *sorted({*counts} - {*known})]:
        width = 100 * counts[label] / total if total else 0.0
        bars.append(Bar(label, counts[label], start, width))
        start += width
    return bars if total else []


def line_chart(
    title: str, series: Mapping[str, Sequence[tuple[float, float]]], steps: int
) -> LineChart | None:
    """Draw (step, value) pairs, steps from 1; None if there are none.

    Args:
        title: The measure, with its unit.
        series: Name to points; those without points are left out.
        steps: The last step of the axis.
    """
    values = [y for points in series.values() for _, y in points]
    if not values:
        return None
    axis, width = Axis(ticks(min(values), max(values))), max(steps - 1, 1)

    def curve(name: str, points: Sequence[tuple[float, float]]) -> Curve:
        places = (f"{100 * (x - 1) / width:.2f},{axis.place(y):.2f}" for x, y in points)
        ends = [written(points[end][1], axis.step / 10) for end in (0, -1)]
        return Curve(name, " ".join(places), *ends)

    curves = [curve(name, points) for name, points in series.items() if points]
    return LineChart(title, curves, axis.ticks(), steps)


def point_chart(
    title: str,
    series: Mapping[str, Sequence[tuple[int, Estimate]]],
    *,
    unit: str,
    marks: Sequence[float] | None = None,
    write: Callable[[float], str] | None = None,
    reference: float | None = None,
) -> PointChart | None:
    """Draw values with their intervals over a count, such as revisions or steps.

    Args:
        title: The measure, with its unit.
        series: Name to (count, value with its interval); unknown values are left out.
        unit: Of the count.
        marks: The ticks of the y axis, if they do not follow from the values.
        write: Writes a value and a tick; if left out, both have the decimals that they need.
        reference: A value to compare with.

    Returns:
        None if no series has two values.
    """
    measured = {
        name: [(count, found.spread) for count, found in values if found.spread]
        for name, values in series.items()
    }
    known = {name: values for name, values in measured.items() if values}
    if max(map(len, known.values()), default=0) < 2:
        return None
    ends = [end for values in known.values() for _, (_, *ends) in values for end in ends]
    axis = Axis(marks or ticks(min(ends), max(ends)))
    counts = sorted({count for values in known.values() for count, _ in values})

    def x(count: int) -> float:
        return LEFT + WIDTH * (count - counts[0]) / max(counts[-1] - counts[0], 1)

    def point(count: int, spread: tuple[float, float, float]) -> Point:
        shown = write(spread[0]) if write else written(spread[0], axis.step / 10)
        value, low, high = map(axis.place, spread)
        return Point(x(count), value, low, high, f"{shown} at {unit} {count:,}")

    def drawn(name: str, values: Sequence[tuple[int, tuple[float, float, float]]]) -> Series:
        points = [point(count, spread) for count, spread in values]
        place = [*series].index(name) if len(series) > 1 else 1
        return Series(place, name, points, " ".join(f"{p.x:.2f},{p.y:.2f}" for p in points))

    return PointChart(
        title,
        [drawn(name, values) for name, values in known.items()],
        axis.ticks(write),
        [(x(count), f"{count:,}") for count in _labelled(counts)],
        unit,
        None if reference is None else axis.place(reference),
    )


def _labelled(counts: Sequence[int]) -> Sequence[int]:
    """Return the places of an x axis with a label: all if they fit, else the ends."""
    fits = sum(len(f"{count:,}") for count in counts) <= MOST_LETTERS
    return counts if fits else list(dict.fromkeys((counts[0], counts[-1])))


def ticks(low: float, high: float) -> list[float]:
    """Return three to six round numbers, evenly spaced, from below `low` to above `high`.

    A value may be outside by a fiftieth of a step: −0.001 needs no tick.
    """
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = (min(low, 0.0), max(high, 0.0)) if low else (-1.0, 1.0)
    rough = (high - low) / 3
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(scale * nice for nice in (1, 2, 2.5, 5, 10) if scale * nice >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 0.02), math.ceil(high / step - 0.02)
    return [place * step for place in range(first, last + 1)]


def extent(changes: Iterable[Estimate]) -> float:
    """Return a round bound of all intervals of these differences of proportions."""
    ends = [abs(end) for change in changes for end in change.spread or ()]
    return next(bound for bound in EXTENTS if bound >= min(1.0, max(ends, default=1.0)))


def calibration(bins: Sequence[ConfidenceBin]) -> list[Point]:
    """Place a bin's mean confidence (x, from 0.5 to 1) and share of right labels (y, from 0)."""
    across, up = Axis((0.5, 1.0), LEFT, WIDTH), Axis((0.0, 1.0))
    points: list[Point] = []
    for found in bins:
        spread = found.right.spread or (0.0, 0.0, 0.0)
        told = f"{spread[0]:.0%} of {found.right.n:,} right"
        told += f" at a mean confidence of {found.confidence:.2f}"
        value, low, high = map(up.place, spread)
        points.append(Point(across.place(found.confidence), value, low, high, told))
    return points


def written(value: float, step: float) -> str:
    """Write a value with the decimals that show a difference of one `step`."""
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if decimals > 4:
        return number(value)
    shown = f"{value:,.{decimals}f}"
    if float(f"{step:.{decimals}f}") != step:
        shown = f"{value:,.{decimals + 1}f}"
    shown = shown.rstrip("0").rstrip(".") if "." in shown else shown
    return "0" if shown == "-0" else shown.replace("-", "−")
