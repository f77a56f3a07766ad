"""The paper's figures of models and checkpoints: what is drawn, and what there is to see in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cai.report.charts import LEFT, WIDTH, PointChart, end_of, point_chart, ticks, written
from cai.report.differences import Known, difference, is_clear
from cai.report.numbers import Numbers, behind_checkpoints
from cai.report.wording import percent

LEAST_SPAN = 200.0
"""Elo points that an axis spans at least (odds of three to one): chance should not look large."""
LABEL_HEIGHT = 7.0
"""Of a label in the plane of Elo, in percent of its height."""
HARMFULNESS = (0.0, 1.0, 2.0, 3.0, 4.0)
SHARES = (0.0, 0.5, 1.0)
UNKNOWN: Known = {"value": None, "low": None, "high": None, "n": 0}

FOLLOWED = {
    "harmful_rate": "Harmful answers",
    "evasive_rate": "Evasive answers",
    "explained_refusal_rate": "Refused with a reason",
    "helpful_rate": "Helpful answers, benign prompts",
    "over_refusal_rate": "Benign prompts refused",
}
"""Rates that are followed over the steps of PPO, and what their charts are called."""


@dataclass(frozen=True)
class Place:
    """A model in the plane of two ratings, in percent of the plane, y from the top.

    Attributes:
        name: Of the model.
        series: Its place among the models; None for a checkpoint.
        x: Helpful Elo.
        y: Harmless Elo.
        across: The ends of the interval of x.
        upright: The ends of the interval of y.
        label: Where its name stands, so that names do not lie on each other.
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
    """Models by helpful and harmless Elo; ticks are (place in percent, text)."""

    places: list[Place]
    path: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


@dataclass(frozen=True)
class Rated:
    """A model or checkpoint, by name, with what it was rated; `series` as in `Place`."""

    name: str
    series: int | None
    values: list[Known]


@dataclass(frozen=True)
class EloFigure:
    """Harmless against helpful Elo (paper, figure 2): the drawing, the numbers, a sentence."""

    plane: Plane | None
    rated: list[Rated]
    said: str


@dataclass(frozen=True)
class HarmfulnessFigure:
    """Absolute harmfulness from 0 to 4 (paper, figure 10), by model and checkpoint."""

    rated: list[Rated]
    said: str


@dataclass(frozen=True)
class CheckpointFigure:
    """What policies did on the way of PPO: a chart a measure, the numbers by step, a sentence.

    `frame` says what the ends of the charts and their dotted line are.
    """

    charts: list[PointChart]
    numbers: Numbers
    said: str
    frame: str


def elo_figure(measures: Mapping[str, Any], models: Sequence[str]) -> EloFigure | None:
    """Place the models by their Elo; None where there is no Elo.

    Args:
        measures: As in report.json.
        models: The evaluated models, in order.
    """
    elo = measures.get("elo")
    if not elo:
        return None
    harmless, helpful = elo["harmless"], elo["helpful"]
    rated = [
        Rated(_shown(name, measures), _series(name, models), [harmless[name], helpful[name]])
        for name in harmless
    ]
    first, last = models[0], models[-1]
    told = [
        _apart(f"On {prompts} prompts", last, ratings[last], first, ratings[first])
        for prompts, ratings in (("red-team", harmless), ("benign", helpful))
        if first in ratings and last in ratings
    ]
    return EloFigure(_plane(rated), rated, " ".join(filter(None, told)))


def harmfulness_figure(
    measures: Mapping[str, Any], models: Sequence[str]
) -> HarmfulnessFigure | None:
    """List the models by their mean harmfulness; None where it was not measured."""
    found = measures.get("harmfulness")
    if not found:
        return None
    by_name: Mapping[str, Known] = found["models"]
    rated = [
        Rated(_shown(name, measures), _series(name, models), [mean])
        for name, mean in by_name.items()
    ]
    first, last = models[0], models[-1]
    change = difference(by_name.get(first, {}), by_name.get(last, {}))
    said = ""
    if change["value"] is not None and first != last:
        said = f"There is no clear difference between {last} and {first}."
        if is_clear(change):
            way = "less" if change["value"] < 0 else "more"
            size = _with_interval(change, 0.01)
            said = f"Answers of {last} are rated {size} {way} harmful than those of {first}."
    return HarmfulnessFigure(rated, said)


def checkpoint_figure(report: Mapping[str, Any]) -> CheckpointFigure | None:
    """Follow the rates over the steps of PPO; None where no checkpoint was evaluated."""
    series = checkpoint_series(report)
    if not series:
        return None
    models = list(report["evaluation"])
    first, start, end = models[0], models[max(len(models) - 2, 0)], models[-1]
    evaluation: Mapping[str, Mapping[str, Any]] = report["evaluation"]
    drawn: list[PointChart] = []
    for name, (title, points) in series.items():
        before = evaluation[first].get(name, {}).get("value")
        if name == "harmfulness":
            before = report["measures"]["harmfulness"]["models"].get(first, {}).get("value")
        chart = step_chart(name, title, {"": points}, reference=before if first != start else None)
        drawn += [chart] if chart else []
    return CheckpointFigure(
        drawn,
        behind_checkpoints(series),
        _fall(series.get("harmful_rate", ("", []))[1]),
        _frame(first, start, end, _steps_done(report)),
    )


Points = list[tuple[int, Known]]


def checkpoint_series(report: Mapping[str, Any]) -> dict[str, tuple[str, Points]]:
    """Return, by measure, its title and its values over the steps of PPO, both ends included.

    Empty where no checkpoint was evaluated.
    """
    measures: Mapping[str, Any] = report.get("measures", {})
    kept: Sequence[Mapping[str, Any]] = measures.get("checkpoints", [])
    if not kept:
        return {}
    models: list[tuple[str, Mapping[str, Any]]] = list(report["evaluation"].items())
    steps = {one["step"]: (one["name"], one["evaluation"]) for one in kept}
    done = _steps_done(report)
    if done and len(models) > 1:
        steps = {0: models[-2], **steps, done: models[-1]}
    found: dict[str, tuple[str, Points]] = {}
    for rate, title in FOLLOWED.items():
        points = [
            (step, summary.get(rate, UNKNOWN)) for step, (_, summary) in sorted(steps.items())
        ]
        found[rate] = title, points
    rated: Mapping[str, Known] = (measures.get("harmfulness") or {}).get("models", {})
    found["harmfulness"] = (
        "Absolute harmfulness, 0 to 4",
        [(step, rated.get(name, UNKNOWN)) for step, (name, _) in sorted(steps.items())],
    )
    return {
        name: (title, points)
        for name, (title, points) in found.items()
        if any(value["value"] is not None for _, value in points)
    }


def compared_checkpoints(comparison: Mapping[str, Any]) -> list[PointChart]:
    """Draw the checkpoints of two runs into the same charts.

    Args:
        comparison: Made by `compare_runs`.
    """
    names = [run["name"] for run in comparison["runs"]]
    if names[0] == names[1]:
        names[1] += " (2)"
    known = {
        name: title for series in comparison["checkpoints"] for name, (title, _) in series.items()
    }
    charts = [
        step_chart(
            name,
            title,
            {
                run: series[name][1]
                for run, series in zip(names, comparison["checkpoints"], strict=True)
                if name in series
            },
        )
        for name, title in known.items()
    ]
    return [chart for chart in charts if chart]


def step_chart(
    name: str, title: str, series: Mapping[str, Points], *, reference: float | None = None
) -> PointChart | None:
    """Draw a measure of `checkpoint_series` over steps, on the whole of its scale."""
    if name == "harmfulness":
        return point_chart(title, series, unit="step", marks=HARMFULNESS, reference=reference)
    return point_chart(title, series, unit="step", marks=SHARES, write=percent, reference=reference)


def _plane(rated: Sequence[Rated]) -> Plane | None:
    """Place whoever has both ratings; None with fewer than two."""
    known = [one for one in rated if all(value["value"] is not None for value in one.values)]
    if len(known) < 2:
        return None
    up, right = (_marks([one.values[side] for one in known]) for side in (0, 1))

    def x(value: float) -> float:
        return LEFT + WIDTH * (value - right[0]) / (right[-1] - right[0])

    def y(value: float) -> float:
        return 100 - 100 * (value - up[0]) / (up[-1] - up[0])

    labels = dict(_labels([(one.name, y(one.values[0]["value"])) for one in _models(known)]))
    places = [
        Place(
            name=one.name,
            series=one.series,
            x=x(one.values[1]["value"]),
            y=y(one.values[0]["value"]),
            across=(x(end_of(one.values[1], "low")), x(end_of(one.values[1], "high"))),
            upright=(y(end_of(one.values[0], "low")), y(end_of(one.values[0], "high"))),
            label=labels.get(one.name, 0.0),
        )
        for one in known
    ]
    return Plane(
        # Checkpoints lie close together: the models are drawn on top of them.
        places=sorted(places, key=lambda place: place.series is not None),
        path=" ".join(f"{place.x:.2f},{place.y:.2f}" for place in places),
        x_ticks=[(x(mark), written(mark, right[1] - right[0])) for mark in right],
        y_ticks=[(y(mark), written(mark, up[1] - up[0])) for mark in up],
    )


def _models(rated: Sequence[Rated]) -> list[Rated]:
    return [one for one in rated if one.series is not None]


def _labels(names: Sequence[tuple[str, float]]) -> Iterator[tuple[str, float]]:
    """Yield where names stand: beside their point, or as far above as keeps them apart."""
    above = float("inf")
    for name, y in sorted(names, key=lambda found: -found[1]):
        above = min(y, above - LABEL_HEIGHT)
        yield name, above


def _marks(values: Sequence[Known]) -> list[float]:
    low = min(end_of(value, "low") for value in values)
    high = max(end_of(value, "high") for value in values)
    missing = max(0.0, LEAST_SPAN - (high - low)) / 2
    return ticks(low - missing, high + missing)


def _series(name: str, models: Sequence[str]) -> int | None:
    return models.index(name) if name in models else None


def _shown(name: str, measures: Mapping[str, Any]) -> str:
    steps = {one["name"]: one["step"] for one in measures.get("checkpoints", [])}
    return f"PPO, step {steps[name]:,}" if name in steps else name


def _apart(where: str, last: str, now: Known, first: str, before: Known) -> str:
    """Say how far the last model's Elo is from the first's, whose own is the zero of the scale."""
    change = difference(before, now)
    if change["value"] is None or last == first:
        return ""
    if not is_clear(change):
        return f"{where} there is no clear difference between {last} and {first}."
    way = "above" if change["value"] > 0 else "below"
    wins = 1 / (1 + 10 ** (-change["value"] / 400))
    return (
        f"{where} {last} is {_with_interval(change, 1, ' points')} {way} {first}: of two answers "
        f"its own would be preferred {percent(wins)} of the time."
    )


def _with_interval(change: Known, step: float, unit: str = "") -> str:
    """Write the size of a clear change: `655 points (605 to 705)`."""
    ends = sorted(abs(change[end]) for end in ("low", "high"))
    size, low, high = (written(end, step) for end in (abs(change["value"]), *ends))
    return f"{size}{unit} ({low} to {high})"


def _steps_done(report: Mapping[str, Any]) -> int:
    """Return after how many steps of PPO the last model was taken; 0 if that is not known."""
    kept = report["stages"].get("ppo", {}).get("metrics", {}).get("kept_step")
    return int(report["ppo"]["steps"] if kept is None else kept)


def _frame(first: str, start: str, end: str, steps: int) -> str:
    said = [f"Step 0 is {start}, step {steps:,} is {end}."] if steps else []
    return " ".join([*said, *([f"The dotted line is {first}."] if first != start else [])])


def _fall(harmful: Points) -> str:
    """Say how far harmful answers fall, and by which checkpoint nine tenths of it are done."""
    known = [(step, found) for step, found in harmful if found["value"] is not None]
    if len(known) < 3:
        return ""
    (_, before), (last, after) = known[0], known[-1]
    change = difference(before, after)
    if change["value"] is None or change["value"] > 0 or not is_clear(change):
        return ""
    enough = before["value"] + 0.9 * change["value"]
    step = next(step for step, found in known[1:] if found["value"] <= enough)
    said = f"Harmful answers fall from {percent(before['value'])} to {percent(after['value'])}"
    return f"{said}, nine tenths of it by step {step:,}." if step != last else f"{said}."


def missing(report: Mapping[str, Any]) -> list[str]:
    """Say which of the paper's figures an evaluated run lacks, and which setting makes them."""
    measures = report.get("measures", {})
    settings = report["provenance"]["settings"]
    asked = {
        "Elo (a stage `preference`, or `evaluate.elo: judge`)": measures.get("elo"),
        "absolute harmfulness (a section `harmfulness`, or `evaluate.harmfulness`)": measures.get(
            "harmfulness"
        ),
        "checkpoints (`ppo.snapshot_steps`)": measures.get("checkpoints")
        or not settings.get("ppo"),
    }
    return [what for what, there in asked.items() if not there]
