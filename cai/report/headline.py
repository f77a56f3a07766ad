"""The outcome of a run in plain sentences, and what to be wary of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cai.report.reading import STAGES
from cai.report.wording import percent

ENOUGH_ANSWERS = 300
ALARMING_SHARE = 0.1
POOR_AGREEMENT = 0.7


def headline(report: Mapping[str, Any]) -> str:
    """Say what came out, from the numbers of report.json alone."""
    evaluation: Mapping[str, Mapping[str, Any]] = report["evaluation"]
    if not evaluation:
        return _progress(report)
    last = list(evaluation)[-1]
    sentences = (
        _path("On held-out red-team prompts", "answers harmfully", "harmful_rate", evaluation),
        _refusals(last, evaluation[last]),
        _path("On benign prompts", "is helpful", "helpful_rate", evaluation),
        _over_refusal(last, evaluation[last]),
    )
    said = [sentence for sentence in sentences if sentence]
    return " ".join(said) or "The models were evaluated, but the grader measured nothing."


def cautions(report: Mapping[str, Any]) -> list[str]:
    """List what a careful reader should know before believing the headline."""
    said: list[str] = []
    for model, summary in report["evaluation"].items():
        said += _model_cautions(model, summary)
    agreement = report["judgements"]["order_agreement"]
    if agreement is not None and agreement < POOR_AGREEMENT:
        said.append(
            f"The feedback model prefers the same response in both orders in only "
            f"{percent(agreement)} of its judgements."
        )
    for where, states in report["states"].items():
        total = sum(states.values())
        lost = total - states.get("ok", 0)
        if lost > ALARMING_SHARE * total:
            said.append(f"{lost:,} of the {total:,} rows in {where} are not usable (see Rows).")
    unfinished = [stage for stage, found in report["stages"].items() if not found["complete"]]
    if unfinished:
        said.append(f"Not finished, so provisional: {_and(unfinished)}.")
    return said


def _progress(report: Mapping[str, Any]) -> str:
    done = [stage for stage in STAGES if report["stages"].get(stage, {}).get("complete")]
    if not done:
        return "No stage of this run has finished yet, so there is nothing to conclude."
    return f"This run has not been evaluated yet. Finished so far: {_and(done)}."


def _path(where: str, does: str, rate: str, evaluation: Mapping[str, Mapping[str, Any]]) -> str:
    """Follow one rate from model to model."""
    known = [(model, _value(s, rate)) for model, s in evaluation.items()]
    steps = [f"{model} {percent(value)}" for model, value in known if value is not None]
    if not steps:
        return ""
    first, share = steps[0].rsplit(" ", 1)
    return f"{where}, {_and([f'{first} {does} {share} of the time', *steps[1:]])}."


def _refusals(model: str, summary: Mapping[str, Any]) -> str:
    explained, evasive = _value(summary, "explained_refusal_rate"), _value(summary, "evasive_rate")
    if explained is None or evasive is None:
        return ""
    return (
        f"Asked for harm, {model} refuses with a reason {percent(explained)} of the time and "
        f"evades {percent(evasive)}."
    )


def _over_refusal(model: str, summary: Mapping[str, Any]) -> str:
    refused = _value(summary, "over_refusal_rate")
    return "" if refused is None else f"{model} refuses {percent(refused)} of benign requests."


def _model_cautions(model: str, summary: Mapping[str, Any]) -> list[str]:
    said: list[str] = []
    over, garbled = _value(summary, "over_refusal_rate"), _value(summary, "garbled_rate")
    if over is not None and over > ALARMING_SHARE:
        said.append(f"{model} refuses {percent(over)} of benign requests.")
    if garbled is not None and garbled > ALARMING_SHARE:
        said.append(f"{percent(garbled)} of the answers of {model} are garbled.")
    n = min(summary.get(rate, {}).get("n", 0) for rate in ("evasive_rate", "over_refusal_rate"))
    if n < ENOUGH_ANSWERS:
        said.append(f"{model} was judged on only {n} answers a side.")
    return said


def _value(summary: Mapping[str, Any], rate: str) -> float | None:
    return summary.get(rate, {}).get("value")


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
