"""What policies did on the way of PPO: every kept checkpoint between its start and its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cai.report.charts import PointChart, point_chart
from cai.report.differences import Known, difference, is_clear
from cai.report.numbers import Numbers, behind_checkpoints
from cai.report.wording import percent

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

Points = list[tuple[int, Known]]


@dataclass(frozen=True)
class CheckpointFigure:
    """What policies did on the way of PPO: a chart a measure, the numbers by step, a sentence.

    `frame` says what the ends of the charts and their dotted line are.
    """

    charts: list[PointChart]
    numbers: Numbers
    said: str
    frame: str


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
                run: series.get(name, (title, []))[1]
                for run, series in zip(names, comparison["checkpoints"], strict=True)
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
