"""Policies during PPO: all kept checkpoints between the start and the end of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cai.evaluate.rates import UNKNOWN, Rate, difference
from cai.evaluate.results import CheckpointSummary, ModelSummary
from cai.report.charts import PointChart, point_chart
from cai.report.effects import FOLLOWED
from cai.report.facts import Report
from cai.report.numbers import Numbers, behind_checkpoints
from cai.report.wording import percent

Points = Sequence[tuple[int, Rate]]
Followed = Mapping[str, Points]
"""Values over the steps of a training, by the names of `FOLLOWED`."""


@dataclass(frozen=True)
class CheckpointFigure:
    """The measures over the steps of trainings: a chart per measure, a line and table per training.

    `said` is a summary; `frame` says what the ends of the charts and the dotted line are.
    """

    title: str
    names: list[str]
    charts: list[PointChart]
    numbers: list[Numbers]
    said: str = ""
    frame: str = ""


def checkpoint_figures(report: Report) -> list[CheckpointFigure]:
    """Return a figure for each training whose checkpoints were evaluated."""
    followed = checkpoint_series(report)
    first = next(iter(report.evaluation), "")
    figures: list[CheckpointFigure] = []
    for policy, series in followed.items():
        start = _start(report, policy)
        figures.append(
            _figure(
                "Checkpoints of PPO" + (f": {policy}" if len(followed) > 1 else ""),
                {"": series},
                reference=_known(report, first) if first != start else {},
                said=_fall(series.get("harmful_rate", ())),
                frame=_frame(first, start, policy, _steps_done(report, policy)),
            )
        )
    return figures


def compared_checkpoints(
    names: Sequence[str], runs: Sequence[Mapping[str, Followed]]
) -> CheckpointFigure:
    """Return one figure for the trainings of two runs, from the `checkpoint_series` of each."""
    before, after = names
    lines = {
        f"{run}: {policy}" if len(followed) > 1 else run: series
        for run, followed in zip((before, after + " (2)" * (before == after)), runs, strict=True)
        for policy, series in (followed or {"": {}}).items()
    }
    return _figure("Checkpoints of PPO", lines)


def _figure(
    title: str,
    lines: Mapping[str, Followed],
    *,
    reference: Mapping[str, Rate] | None = None,
    said: str = "",
    frame: str = "",
) -> CheckpointFigure:
    """Draw each measure of `lines` over the steps, on the whole of its scale."""
    charts: list[PointChart] = []
    for name in dict.fromkeys(name for series in lines.values() for name in series):
        measure = FOLLOWED[name]
        chart = point_chart(
            measure.title,
            {line: series.get(name, ()) for line, series in lines.items()},
            unit="step",
            marks=measure.marks,
            write=measure.write_mark,
            reference=(reference or {}).get(name, UNKNOWN).value,
        )
        charts += [chart] if chart else []
    numbers = [behind_checkpoints(series) for series in lines.values()]
    return CheckpointFigure(title, [*lines], charts, numbers, said, frame)


def checkpoint_series(report: Report) -> dict[str, Followed]:
    """Return, by policy, the measures over the steps of its training.

    Both ends of the training are included. Empty if no checkpoint was evaluated.
    """
    kept: dict[str, list[CheckpointSummary]] = {}
    for one in report.measures.checkpoints:
        kept.setdefault(one.policy, []).append(one)
    return {policy: _series(report, policy, found) for policy, found in kept.items()}


def _series(report: Report, policy: str, kept: Sequence[CheckpointSummary]) -> Followed:
    steps = {one.step: _known(report, one.name, one.evaluation) for one in kept}
    done, start = _steps_done(report, policy), _start(report, policy)
    if done and start in report.evaluation and policy in report.evaluation:
        steps = {0: _known(report, start), **steps, done: _known(report, policy)}
    found = {
        measure: [(step, known[measure]) for step, known in sorted(steps.items())]
        for measure in FOLLOWED
    }
    return {
        measure: points
        for measure, points in found.items()
        if any(value.value is not None for _, value in points)
    }


def _known(report: Report, name: str, summary: ModelSummary | None = None) -> Mapping[str, Rate]:
    """Return the measures of a model, or of a checkpoint with its summary, as in `FOLLOWED`."""
    rated = report.measures.harmfulness
    harm = rated.models.get(name, UNKNOWN) if rated else UNKNOWN
    return {**(summary or report.evaluation[name]).rates, "harmfulness": harm}


def _start(report: Report, policy: str) -> str:
    """Return the model that a policy was trained from."""
    models = report.models
    before = models[max(models.index(policy) - 1, 0)] if policy in models else ""
    return (report.measures.starts or {}).get(policy, before)


def _steps_done(report: Report, policy: str) -> int:
    """Return the number of training steps of a policy; 0 if it is not known."""
    stage = next(one.stage for one in report.measures.checkpoints if one.policy == policy)
    step = report.stages[stage].metrics.get("kept_step") if stage in report.stages else None
    ppo = report.ppo.get(stage)
    return int((ppo.steps if ppo else 0) if step is None else step)


def _frame(first: str, start: str, end: str, steps: int) -> str:
    said = [f"Step 0 is {start}, step {steps:,} is {end}."] if steps else []
    return " ".join([*said, *([f"The dotted line is {first}."] if first != start else [])])


def _fall(harmful: Points) -> str:
    """Say how far harmful answers fall, and the first checkpoint with nine tenths of the fall."""
    known = [(step, found.value, found) for step, found in harmful if found.value is not None]
    if len(known) < 3:
        return ""
    (_, start, before), (last, end, after) = known[0], known[-1]
    change = difference(before, after)
    if end > start or not change.is_clear:
        return ""
    enough = start + 0.9 * (end - start)
    step = next(step for step, value, _ in known[1:] if value <= enough)
    said = f"Harmful answers fall from {percent(start)} to {percent(end)}"
    return f"{said}, nine tenths of it by step {step:,}." if step != last else f"{said}."
