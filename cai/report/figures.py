"""Figures of Elo and harmfulness by model, as in the paper: the marks, and a summary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from cai.evaluate.rates import Estimate, Rate, difference
from cai.evaluate.results import Measures
from cai.report.charts import LEFT, WIDTH, Axis, Ticks, ticks
from cai.report.facts import Report
from cai.report.wording import HUNDREDTHS, WHOLE, percent, show

LEAST_SPAN = 200.0
"""The smallest span of an axis in Elo points (odds of three to one): chance must not look large."""
LABEL_HEIGHT = 7.0
"""Of a label in the plane of Elo, in percent of its height."""


@dataclass(frozen=True)
class Place:
    """A model or checkpoint by helpful (x) and harmless (y) Elo, in percent, y from the top.

    `series` is None for a checkpoint; `across` and `upright` are the ends of the intervals of x and
    y; `label` is the y of the name, so that names do not overlap.
    """

    name: str
    series: int | None
    x: float
    y: float
    across: tuple[float, float]
    upright: tuple[float, float]
    label: float


@dataclass(frozen=True)
class Plane:
    """Models by helpful and harmless Elo.

    Each of the `paths` leads from the first model, through checkpoints, to a model at the end of a
    line of trainings.
    """

    places: list[Place]
    paths: list[str]
    x_ticks: Ticks
    y_ticks: Ticks


@dataclass(frozen=True)
class Rated:
    """A model or checkpoint with its ratings; `series` as in `Place`."""

    name: str
    series: int | None
    ratings: list[Rate]


@dataclass(frozen=True)
class RatedFigure:
    """Models and checkpoints with their ratings, a summary in words, and a drawing."""

    rated: list[Rated]
    said: str
    plane: Plane | None = None


def elo_figure(measures: Measures, models: Sequence[str]) -> RatedFigure | None:
    """Draw harmless against helpful Elo (paper, figure 2); None where there is no Elo."""
    if not measures.elo:
        return None
    harmless, helpful = measures.elo.harmless, measures.elo.helpful
    rated = [
        Rated(shown(name, measures), _series(name, models), [harmless[name], helpful[name]])
        for name in harmless
    ]
    first, last = models[0], models[-1]
    told = [
        _apart(f"On {prompts} prompts", last, ratings[last], first, ratings[first])
        for prompts, ratings in (("red-team", harmless), ("benign", helpful))
        if first in ratings and last in ratings
    ]
    said = " ".join(filter(None, told))
    return RatedFigure(rated, said, _plane(rated, lineages(measures, models)))


def harmfulness_figure(measures: Measures, models: Sequence[str]) -> RatedFigure | None:
    """List absolute harmfulness, 0 to 4 (paper, figure 10); None where it was not measured."""
    if not measures.harmfulness:
        return None
    by_name = measures.harmfulness.models
    rated = [
        Rated(shown(name, measures), _series(name, models), [mean])
        for name, mean in by_name.items()
    ]
    first, last = models[0], models[-1]
    change = difference(by_name.get(first), by_name.get(last))
    said = ""
    if change.value is not None and first != last:
        said = f"There is no clear difference between {last} and {first}."
        if change.is_clear:
            way = "less" if change.value < 0 else "more"
            far = show(change.size, HUNDREDTHS)
            said = f"Answers of {last} are rated {far} {way} harmful than those of {first}."
    return RatedFigure(rated, said)


def lineages(measures: Measures, models: Sequence[str]) -> list[list[str]]:
    """Return the lines of trainings as names of models and checkpoints, each from its start."""
    known: Mapping[str, str] = measures.starts or dict(pairwise(reversed(models)))
    starts = {name: start for name, start in known.items() if name in models}
    kept: dict[str, list[str]] = {}
    for one in measures.checkpoints:
        kept.setdefault(one.policy, []).append(shown(one.name, measures))
    found: list[list[str]] = []
    for end in (name for name in models if name not in starts.values()):
        line, name = list[str](), end
        while name is not None:
            line = [*kept.get(name, []), name, *line]
            name = starts.get(name)
        found.append(line)
    return found


def _plane(rated: Sequence[Rated], lines: Sequence[Sequence[str]]) -> Plane | None:
    """Place the models and checkpoints with both ratings; None if there are fewer than two."""
    known = [
        (one, up, right)
        for one in rated
        for up, right in [[rating.spread for rating in one.ratings]]
        if up and right
    ]
    if len(known) < 2:
        return None
    y_axis = Axis(_marks([up for _, up, _ in known]))
    x_axis = Axis(_marks([right for _, _, right in known]), LEFT, WIDTH)
    x, y = x_axis.place, y_axis.place
    labels = dict(_labels([(one.name, y(up[0])) for one, up, _ in known if one.series is not None]))
    places = [
        Place(
            name=one.name,
            series=one.series,
            x=x(right[0]),
            y=y(up[0]),
            across=(x(right[1]), x(right[2])),
            upright=(y(up[1]), y(up[2])),
            label=labels.get(one.name, 0.0),
        )
        for one, up, right in known
    ]
    by_name = {place.name: place for place in places}
    return Plane(
        # Checkpoints are close together, so the models are drawn over them.
        places=sorted(places, key=lambda place: place.series is not None),
        paths=[
            " ".join(
                f"{by_name[name].x:.2f},{by_name[name].y:.2f}" for name in line if name in by_name
            )
            for line in lines
        ],
        x_ticks=x_axis.ticks(),
        y_ticks=y_axis.ticks(),
    )


def _labels(names: Sequence[tuple[str, float]]) -> Iterator[tuple[str, float]]:
    """Yield the y of each name: beside its point, or higher if names would overlap."""
    above = float("inf")
    for name, y in sorted(names, key=lambda found: -found[1]):
        above = min(y, above - LABEL_HEIGHT)
        yield name, above


def _marks(spreads: Sequence[tuple[float, float, float]]) -> list[float]:
    low, high = min(low for _, low, _ in spreads), max(high for *_, high in spreads)
    missing = max(0.0, LEAST_SPAN - (high - low)) / 2
    return ticks(low - missing, high + missing)


def _series(name: str, models: Sequence[str]) -> int | None:
    return models.index(name) if name in models else None


def shown(name: str, measures: Measures) -> str:
    """Write the name of a model, or the policy and the step of a checkpoint."""
    kept = {one.name: one for one in measures.checkpoints}
    if name not in kept:
        return name
    several = len({one.policy for one in kept.values()}) > 1
    training = kept[name].policy if several else "PPO"
    return f"{training}, step {kept[name].step:,}"


def _apart(where: str, last: str, now: Estimate, first: str, before: Estimate) -> str:
    """Say how far the last model's Elo is from the first one's, which is zero."""
    change = difference(before, now)
    if change.value is None or last == first:
        return ""
    if not change.is_clear:
        return f"{where}, there is no clear difference between {last} and {first}."
    way = "above" if change.value > 0 else "below"
    wins = 1 / (1 + 10 ** (-change.value / 400))
    far = show(change.size, WHOLE)
    return (
        f"{where}, {last} is {far.value} points ({far.ends}) {way} {first}: its answer would be "
        f"preferred {percent(wins)} of the time."
    )


def missing(report: Report) -> list[str]:
    """List the paper's figures that an evaluated run does not have, with their settings."""
    measures = report.measures
    asked = {
        "Elo (a stage `preference`, or `evaluate.elo: judge`)": measures.elo,
        "absolute harmfulness (a section `harmfulness`, or `evaluate.harmfulness`)": (
            measures.harmfulness
        ),
        "checkpoints (`ppo.snapshot_steps`)": measures.checkpoints or not report.ppo,
    }
    return [what for what, there in asked.items() if not there]
