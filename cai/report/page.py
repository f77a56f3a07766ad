"""The page: numbers and rows into one self-contained HTML file."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, cast

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cai.report import charts, numbers
from cai.report.browser import Rows, pack
from cai.report.checkpoints import checkpoint_figures, compared_checkpoints
from cai.report.curves import GUARD, SHARES, drawn
from cai.report.differences import is_clear
from cai.report.effects import MEASURES, SIDE_NAMES, side_effects, written_with_interval
from cai.report.figures import elo_figure, harmfulness_figure, missing
from cai.report.headline import asked, cautions, compared, headline
from cai.report.wording import (
    LABEL_ORDER,
    duration,
    hundredths,
    interval,
    metric,
    moment,
    number,
    percent,
    plainly,
    points,
    round_name,
    setting,
    visible,
    whole,
)

RATES = {
    "harmful_rate": "Harmful",
    "evasive_rate": "Evasive",
    "explained_refusal_rate": "Refused with a reason",
    "helpful_rate": "Helpful",
    "over_refusal_rate": "Over-refusal",
    "garbled_rate": "Garbled",
}
SIDES = {
    "Red-team prompts": ("harmful_rate", "evasive_rate", "explained_refusal_rate"),
    "Benign prompts": ("helpful_rate", "over_refusal_rate"),
    "Both": ("garbled_rate",),
}
"""Which rates are measured over which prompts."""

GLANCE = {
    "harmful_rate": "harmful answers to red-team prompts",
    "explained_refusal_rate": "of them refused with a reason",
    "helpful_rate": "helpful answers to benign prompts",
    "over_refusal_rate": "benign prompts refused",
}
"""Rates at the head of the page, from the first model to the last."""

COSTS = ("engine_calls", "tokens_in", "tokens_out", "tokens_cached")
"""What can be summed over stages."""

TRAININGS = {
    "sft": "Fine-tuning on revisions",
    "preference": "Preference model",
    "ppo": "Reinforcement learning",
    "harmfulness": "Harmfulness model",
}
"""What trainings are called; others are called after their stage."""

SCRIPTS = ("diff.js", "list.js", "detail.js", "browser.js")
LIVE_SCRIPTS = (*SCRIPTS, "trial.js", "try.js")
STYLES = ("report.css",)
LIVE_STYLES = (*STYLES, "try.css")


def render_page(report: Mapping[str, Any], rows: Rows, *, live: bool = False) -> str:
    """Draw the page of a run.

    Args:
        report: The contents of report.json.
        rows: The rows to read.
        live: Add what `cai view` serves: a part that tries the constitution by asking the server.

    Returns:
        HTML without references to anything outside itself. Its policy lets nothing run but the
        page's own script. All text of models and people is escaped, and its control characters
        are spelt out.
    """
    evaluation: Mapping[str, Mapping[str, Any]] = report["evaluation"]
    return _render(
        "report.html.j2",
        script=_front(*(LIVE_SCRIPTS if live else SCRIPTS)),
        live=live,
        report=report,
        headline=headline(report),
        asked=asked(report),
        cautions=cautions(report),
        models=list(evaluation),
        glance=_glance(evaluation),
        side_effects=side_effects(report),
        stacks=_label_stacks(evaluation),
        round_stacks=_round_stacks(report["revisions"]["rounds"]),
        elo=elo_figure(report["measures"], list(evaluation)),
        harmfulness=harmfulness_figure(report["measures"], list(evaluation)),
        checkpoints=checkpoint_figures(report),
        lacking=missing(report),
        score_chart=_score_chart(report["revisions"]["scores"]),
        score_numbers=numbers.behind_scores(report["revisions"]["scores"]),
        categories=_categories(evaluation),
        trainings={
            name: (_line_charts(ppo), numbers.behind_curves(ppo), _guard(ppo))
            for name, ppo in report["ppo"].items()
        },
        of=lambda name: "" if len(report["ppo"]) == 1 else f": {name}",
        trained=_trained(report["stages"]),
        label_bars=charts.heights(report["comparisons"]["ai_labels"]),
        label_numbers=numbers.behind_labels(report["comparisons"]["ai_labels"]),
        calibration=charts.calibration(report["comparisons"]["calibration"]),
        calibration_numbers=numbers.behind_calibration(report["comparisons"]["calibration"]),
        costs=_costs(report["stages"]),
        ran_on=_ran_on(report["stages"]),
        summed=COSTS,
        settings_text=yaml.safe_dump(
            report["provenance"]["settings"], sort_keys=False, allow_unicode=True
        ),
        packed=Markup(pack(rows)),
    )


def render_comparison(comparison: Mapping[str, Any]) -> str:
    """Draw the page that holds two runs against each other.

    Args:
        comparison: Made by `compare_runs`.
    """
    return _render(
        "comparison.html.j2",
        script="",
        live=False,
        comparison=comparison,
        summary=compared(comparison),
        revised=[_round_stacks(rounds) for rounds in comparison["revisions"]],
        others=MEASURES,
        written_with_interval=written_with_interval,
        score_charts=[_score_chart(scores) for scores in comparison["scores"]],
        elo=[elo_figure(run, run["models"]) for run in comparison["elo"]],
        checkpoints=compared_checkpoints(comparison),
        scale=charts.extent(
            measures[rate]["difference"]
            for measures in comparison["evaluation"].values()
            for rate in RATES
        ),
    )


def live_policy() -> str:
    """Return the content security policy of a live page, for its header."""
    style, script = _front(*LIVE_STYLES), _front(*LIVE_SCRIPTS)
    return f"{_policy(style, script, live=True)}; frame-ancestors 'none'"


def _render(template: str, *, script: str, live: bool, **facts: object) -> str:
    style = _front(*(LIVE_STYLES if live else STYLES))
    return (
        _environment()
        .get_template(template)
        .render(
            rates=RATES,
            sides=SIDES,
            label_sides=SIDE_NAMES,
            label_classes=LABEL_ORDER,
            style=Markup(style),
            script=Markup(script),
            policy=_policy(style, script, live=live),
            live=live,
            **facts,
        )
    )


def _policy(style: str, script: str, *, live: bool) -> str:
    """Return a content security policy under which only these two texts have any effect.

    A live page may also ask its own server.
    """
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src '{_digest(style)}'",
            f"script-src '{_digest(script)}'" if script else "script-src 'none'",
            *(["connect-src 'self'"] if live else []),
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _front(*names: str) -> str:
    folder = files("cai.report").joinpath("front")
    return "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in names)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("cai.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    cast("dict[str, Any]", environment.filters).update(
        percent=percent,
        interval=interval,
        number=number,
        duration=duration,
        moment=moment,
        plainly=plainly,
        points=points,
        setting=setting,
        dots=charts.dots,
        behind_stacks=numbers.behind_stacks,
        behind_elo=numbers.behind_elo,
        behind_checkpoints=numbers.behind_checkpoints,
        whole=whole,
        hundredths=hundredths,
        metric=metric,
        round_name=round_name,
    )
    cast("dict[str, Any]", environment.tests).update(clear=is_clear)
    return environment


def _shown(value: object) -> object:
    """Spell out invisible characters in every text the templates insert."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _glance(evaluation: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[float]]]:
    """Return (what, its value per model) for the rates that every model has."""
    found: list[tuple[str, list[float]]] = []
    for rate, title in GLANCE.items():
        values = [summary.get(rate, {}).get("value") for summary in evaluation.values()]
        if values and None not in values:
            found.append((title, values))
    return found


def _label_stacks(
    evaluation: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[str, list[charts.Bar]]]:
    """Return, per side and model, the bar of what the grader called the answers."""
    stacks: dict[str, dict[str, list[charts.Bar]]] = {}
    for side in SIDE_NAMES:
        for model, summary in evaluation.items():
            if bars := charts.stack(summary.get("labels", {}).get(side, {})):
                stacks.setdefault(side, {})[model] = bars
    return stacks


def _round_stacks(rounds: Sequence[Mapping[str, Any]]) -> dict[str, list[charts.Bar]]:
    """Return, per number of revisions, the bar of what the grader called the texts; or nothing."""
    stacks = {round_name(found["round"]): charts.stack(found["labels"]) for found in rounds}
    return stacks if any(stacks.values()) else {}


def _categories(evaluation: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return, per rate that was measured for any category, the categories it has."""
    found: dict[str, list[str]] = {}
    for rate in RATES:
        names = {
            category
            for summary in evaluation.values()
            for category, rates in summary.get("by_category", {}).items()
            if rates.get(rate, {}).get("value") is not None
        }
        if len(names) > 1:
            found[rate] = sorted(names)
    return found


def _score_chart(rounds: Sequence[Mapping[str, Any]]) -> charts.PointChart | None:
    values = [(found["round"], found["score"]) for found in rounds]
    return charts.point_chart(
        "Preference score by number of revisions", {"": values}, unit="revision"
    )


def _line_charts(ppo: Mapping[str, Any]) -> list[charts.LineChart]:
    charts_of = [
        charts.line_chart(title, series, ppo["steps"]) for title, series in drawn(ppo).items()
    ]
    return [chart for chart in charts_of if chart]


def _guard(ppo: Mapping[str, Any]) -> dict[str, tuple[str, bool]]:
    """Return, for whatever the guard measured, what it is called and whether it is a share."""
    checks: Sequence[Mapping[str, Any]] = ppo.get("guard", [])
    return {
        name: (title, name in SHARES)
        for name, title in GUARD.items()
        if any(check.get(name) is not None for check in checks)
    }


def _trained(stages: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return what every training says of itself, under a title."""
    found = {name: s for name, s in stages.items() if "first_loss" in s["metrics"]}
    found |= {name: s for name, s in stages.items() if s["stage"] in TRAININGS and s["metrics"]}
    counts = Counter(str(s["stage"]) for s in found.values())

    def title(name: str, stage: str) -> str:
        return TRAININGS.get(stage, stage) + (f": {name}" if counts[stage] > 1 else "")

    return [(title(n, s["stage"]), s["metrics"]) for n, s in stages.items() if n in found]


def _ran_on(stages: Mapping[str, Any]) -> dict[str, str]:
    """Return what every stage says of its machine and versions; where they differ, all of it."""
    known = [found["provenance"].get("environment", {}) for found in stages.values()]
    said: dict[str, list[str]] = {}
    for environment in known:
        for name, value in environment.items():
            said.setdefault(name, []).extend([value] if value not in said.get(name, []) else [])
    return {name: ", ".join(values) for name, values in said.items()}


def _costs(stages: Mapping[str, Any]) -> dict[str, float]:
    """Return what all stages cost together."""
    spent = [found["metrics"].get("total") or found["metrics"] for found in stages.values()]
    costs = {name: sum(cost.get(name) or 0 for cost in spent) for name in (*COSTS, "seconds")}
    trained = sum(found["metrics"].get("tokens") or 0 for found in stages.values())
    return {**costs, "tokens": trained}
