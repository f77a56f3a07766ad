"""The results of a run in sentences, and its warnings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cai.evaluate.rates import difference
from cai.evaluate.results import ModelSummary
from cai.report.facts import Comparison, Report
from cai.report.wording import POINTS, Scale, joined, percent, points, show

ENOUGH_ANSWERS = 300
ALARMING_SHARE = 0.1
POOR_AGREEMENT = 0.7
COMPARED = {
    "harmful_rate": "answers harmfully",
    "evasive_rate": "evades",
    "explained_refusal_rate": "refuses with a reason",
    "helpful_rate": "helps",
    "over_refusal_rate": "refuses a benign request",
    "garbled_rate": "garbles its answer",
}
"""A sentence part for each rate."""
WRAPPED = {
    "revisions_unchanged": "say that no change is needed",
    "revisions_wrapped": "have words about the revision around it",
}
SIZES = Scale(lambda value: points(value).removeprefix("+"))
"""The size of a difference of rates, in percentage points."""


def headline(report: Report) -> str:
    """Return the results in sentences, from the numbers of report.json."""
    evaluation = report.evaluation
    if not evaluation:
        return _progress(report)
    last = list(evaluation)[-1]
    sentences = (
        _path("On held-out red-team prompts", "answers harmfully", "harmful_rate", evaluation),
        _change("harmful_rate", evaluation),
        _refusals(last, evaluation[last]),
        _path("On benign prompts", "is helpful", "helpful_rate", evaluation),
        _change("helpful_rate", evaluation),
        _over_refusal(last, evaluation[last].over_refusal_rate.value),
    )
    said = " ".join(filter(None, sentences))
    return said or "The models were evaluated, but the grader measured nothing."


def asked(report: Report) -> str:
    """Return the setup of the run in a sentence, from its settings and the size of its data."""
    settings = report.provenance.settings
    model = settings["models"]["helpful"]["path"]
    principles = len(report.principles)
    under = f" of {principles} principles" if principles else ""
    said = f"Make {model} harmless and keep it helpful, under the constitution "
    said += f"{report.constitution}{under}"
    prompts = [
        f"{count.prompts:,} {name}"
        for key, name in (("red_team/train", "red-team"), ("helpful/train", "benign"))
        if (count := report.prompts.get(key))
    ]
    steps = [
        f"{settings[name][key]} {what}"
        for stage, key, what in (
            ("revise", "rounds", "revisions of each answer"),
            ("ppo", "steps", "PPO steps"),
        )
        for name in _sections(settings, stage)
    ]
    trained = [f"{joined(prompts)} prompts"] if prompts else []
    return f"{said}: {joined([*trained, *steps])}." if trained or steps else f"{said}."


def cautions(report: Report) -> list[str]:
    """List the warnings."""
    said: list[str] = []
    for model, summary in report.evaluation.items():
        said += _model_cautions(model, summary)
    agreement = report.judgements.order_agreement
    if agreement is not None and agreement < POOR_AGREEMENT:
        said.append(
            f"The feedback model prefers the same response in both orders in only "
            f"{percent(agreement)} of its judgements with an opinion; labels are the mean of both."
        )
    for missed in report.label_quality.missed if report.label_quality else ():
        said.append(f"The labels of known comparisons miss a bound of the run: {missed}.")
    quality = report.revisions.quality
    if quality and quality.flawed > ALARMING_SHARE * quality.revisions:
        said.append(
            f"{quality.flawed:,} of {quality.revisions:,} revisions have flaws that their texts "
            "show (see Critiques and revisions)."
        )
    for name, found in report.stages_of("revise").items():
        for missed in found.metrics.get("gate_missed", ()):
            said.append(f"The revisions of `{name}` miss a bound of the run: {missed}.")
        for metric, what in WRAPPED.items():
            if count := found.metrics.get(metric, 0):
                decides = "`revise.wrappers` decides what is trained on"
                said.append(f"{count:,} revisions {what}; {decides}.")
    for name, found in report.stages_of("ppo").items():
        if alarms := found.metrics.get("alarms", 0):
            of = "" if name == "ppo" else f" of `{name}`"
            said.append(f"PPO's guard{of} raised {alarms} alarms (see Checks of the guard).")
    said += report.measures.flags
    for where, states in report.states.items():
        total = sum(states.values())
        lost = total - states.get("ok", 0)
        if lost > ALARMING_SHARE * total:
            said.append(
                f"{lost:,} of {total:,} rows in {where} are not usable (see States of the rows)."
            )
    unfinished = [stage for stage, found in report.stages.items() if not found.complete]
    if unfinished:
        said.append(f"Not finished yet, so the results may change: {joined(unfinished)}.")
    return said


def compared(comparison: Comparison) -> str:
    """Return in a sentence how two runs differ, for the last model of both."""
    if not comparison.evaluation:
        return "No model was evaluated in both runs, so there is nothing to compare."
    model, measures = list(comparison.evaluation.items())[-1]
    before, after = comparison.names
    clear: list[str] = []
    for rate, does in COMPARED.items():
        found = measures[rate].difference
        if found and found.is_clear:
            way = "more" if (found.value or 0.0) > 0 else "less"
            clear.append(f"{does} {show(found.size, SIZES).value} points {way} often")
    if not clear:
        return (
            f"No clear difference between {before} and {after}: for {model}, the intervals of all "
            "differences include zero."
        )
    said = f"Compared with {before}, {model} of {after} {joined(clear)}"
    return f"{said}; other differences may be chance."


def _sections(settings: Mapping[str, Any], stage: str) -> list[str]:
    """Name the sections of a stage in a pipeline file."""
    return [
        name
        for name, section in settings.items()
        if isinstance(section, dict) and section.get("stage", name) == stage  # pyright: ignore
    ]


def _progress(report: Report) -> str:
    done = [name for name, found in report.stages.items() if found.complete]
    if not done:
        return "No stage of this run has finished yet, so there are no results."
    return f"This run has not been evaluated yet. Finished stages: {joined(done)}."


def _path(where: str, does: str, rate: str, evaluation: Mapping[str, ModelSummary]) -> str:
    """Follow one rate from model to model."""
    known = [(model, summary.rates[rate].value) for model, summary in evaluation.items()]
    steps = [f"{model} {percent(value)}" for model, value in known if value is not None]
    if not steps:
        return ""
    first, share = steps[0].rsplit(" ", 1)
    return f"{where}, {joined([f'{first} {does} {share} of the time', *steps[1:]])}."


def _change(rate: str, evaluation: Mapping[str, ModelSummary]) -> str:
    """Say how far the last model is from the first, and whether the difference is clear."""
    models = list(evaluation.items())
    (first, before), (last, after) = models[0], models[-1]
    found = difference(before.rates[rate], after.rates[rate])
    if first == last or found.value is None or found.interval is None:
        return ""
    if not found.is_clear:
        return (
            f"From {first} to {last} there is no clear change "
            f"(95% interval {show(found, POINTS).ends} points)."
        )
    far, way = show(found.size, SIZES), "lower" if found.value < 0 else "higher"
    return f"From {first} to {last}, this is {far.value} points {way} ({far.ends})."


def _refusals(model: str, summary: ModelSummary) -> str:
    explained, evasive = summary.explained_refusal_rate.value, summary.evasive_rate.value
    if explained is None or evasive is None:
        return ""
    return (
        f"Asked for harm, {model} refuses with a reason {percent(explained)} of the time and "
        f"evades {percent(evasive)}."
    )


def _over_refusal(model: str, refused: float | None) -> str:
    return "" if refused is None else f"{model} refuses {percent(refused)} of benign requests."


def _model_cautions(model: str, summary: ModelSummary) -> list[str]:
    said: list[str] = []
    over, garbled = summary.over_refusal_rate.value, summary.garbled_rate.value
    if over is not None and over > ALARMING_SHARE:
        said.append(_over_refusal(model, over))
    if garbled is not None and garbled > ALARMING_SHARE:
        said.append(f"{percent(garbled)} of the answers of {model} are garbled.")
    n = min(summary.evasive_rate.n, summary.over_refusal_rate.n)
    if n < ENOUGH_ANSWERS:
        said.append(f"{model} has only {n} graded answers per side.")
    return said
