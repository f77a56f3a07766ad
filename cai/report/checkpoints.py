"""What policies did on the way of PPO: every kept checkpoint between their start and their end."""

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
    """What a policy did on the way of its training.

    Attributes:
        title: Of the figure.
        charts: A chart a measure.
        numbers: The same by step.
        said: What they show, in a sentence.
        frame: What the ends of the charts and their dotted line are.
    """

    title: str
    charts: list[PointChart]
    numbers: Numbers
    said: str
    frame: str


def checkpoint_figures(report: Mapping[str, Any]) -> list[CheckpointFigure]:
    """Follow the rates over the steps of each training whose checkpoints were evaluated."""
    followed = checkpoint_series(report)
    evaluation: Mapping[str, Mapping[str, Any]] = report["evaluation"]
    first = next(iter(evaluation), "")
    figures: list[CheckpointFigure] = []
    for policy, series in followed.items():
        start = _start(report, policy)
        drawn: list[PointChart] = []
        for name, (title, points) in series.items():
            before = evaluation[first].get(name, {}).get("value")
            if name == "harmfulness":
                before = report["measures"]["harmfulness"]["models"].get(first, {}).get("value")
            reference = before if first != start else None
            chart = step_chart(name, title, {"": points}, reference=reference)
            drawn += [chart] if chart else []
        figures.append(
            CheckpointFigure(
                "Checkpoints of PPO" + (f": {policy}" if len(followed) > 1 else ""),
                drawn,
                behind_checkpoints(series),
                _fall(series.get("harmful_rate", ("", []))[1]),
                _frame(first, start, policy, _steps_done(report, policy)),
            )
        )
    return figures


def checkpoint_series(report: Mapping[str, Any]) -> dict[str, dict[str, tuple[str, Points]]]:
    """Return, by policy and measure, its title and its values over the steps of the training.

    Both ends of the training are included. Empty where no checkpoint was evaluated.
    """
    kept: dict[str, list[Mapping[str, Any]]] = {}
    for one in report.get("measures", {}).get("checkpoints", []):
        kept.setdefault(one["policy"], []).append(one)
    return {policy: _series(report, policy, found) for policy, found in kept.items()}


def _series(
    report: Mapping[str, Any], policy: str, kept: Sequence[Mapping[str, Any]]
) -> dict[str, tuple[str, Points]]:
    evaluation: Mapping[str, Mapping[str, Any]] = report["evaluation"]
    steps = {one["step"]: (one["name"], one["evaluation"]) for one in kept}
    done, start = _steps_done(report, policy), _start(report, policy)
    if done and start in evaluation and policy in evaluation:
        ends = {0: (start, evaluation[start]), done: (policy, evaluation[policy])}
        steps = {0: ends[0], **steps, done: ends[done]}
    found: dict[str, tuple[str, Points]] = {}
    for rate, title in FOLLOWED.items():
        points = [
            (step, summary.get(rate, UNKNOWN)) for step, (_, summary) in sorted(steps.items())
        ]
        found[rate] = title, points
    rated: Mapping[str, Known] = (report["measures"].get("harmfulness") or {}).get("models", {})
    found["harmfulness"] = (
        "Absolute harmfulness, 0 to 4",
        [(step, rated.get(name, UNKNOWN)) for step, (name, _) in sorted(steps.items())],
    )
    return {
        name: (title, points)
        for name, (title, points) in found.items()
        if any(value["value"] is not None for _, value in points)
    }


@dataclass(frozen=True)
class ComparedCheckpoints:
    """The trainings of two runs in the same charts.

    Attributes:
        names: What each line is called: the run, and the policy where a run has several.
        charts: A chart a measure.
        numbers: The same by step, for each line.
    """

    names: list[str]
    charts: list[PointChart]
    numbers: list[Numbers]


def compared_checkpoints(comparison: Mapping[str, Any]) -> ComparedCheckpoints | None:
    """Draw the checkpoints of two runs into the same charts; None where neither has any.

    Args:
        comparison: Made by `compare_runs`.
    """
    names = [run["name"] for run in comparison["runs"]]
    if names[0] == names[1]:
        names[1] += " (2)"
    lines = {
        f"{run}: {policy}" if len(followed) > 1 else run: series
        for run, followed in zip(names, comparison["checkpoints"], strict=True)
        for policy, series in (followed or {"": {}}).items()
    }
    known = {name: title for series in lines.values() for name, (title, _) in series.items()}
    charts = [
        step_chart(
            name, title, {line: series.get(name, (title, []))[1] for line, series in lines.items()}
        )
        for name, title in known.items()
    ]
    drawn = [chart for chart in charts if chart]
    return (
        ComparedCheckpoints([*lines], drawn, [*map(behind_checkpoints, lines.values())])
        if drawn
        else None
    )


def step_chart(
    name: str, title: str, series: Mapping[str, Points], *, reference: float | None = None
) -> PointChart | None:
    """Draw a measure of `checkpoint_series` over steps, on the whole of its scale."""
    if name == "harmfulness":
        return point_chart(title, series, unit="step", marks=HARMFULNESS, reference=reference)
    return point_chart(title, series, unit="step", marks=SHARES, write=percent, reference=reference)


def _start(report: Mapping[str, Any], policy: str) -> str:
    """Return what a policy was trained from."""
    models = [*report["evaluation"]]
    before = models[max(models.index(policy) - 1, 0)] if policy in models else ""
    return report["measures"].get("starts", {}).get(policy, before)


def _steps_done(report: Mapping[str, Any], policy: str) -> int:
    """Return after how many steps of its training a policy was taken; 0 if that is not known."""
    kept = next(one for one in report["measures"]["checkpoints"] if one["policy"] == policy)
    stage = kept["stage"]
    step = report["stages"].get(stage, {}).get("metrics", {}).get("kept_step")
    return int(report["ppo"].get(stage, {}).get("steps", 0) if step is None else step)


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
