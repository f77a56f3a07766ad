"""The page: numbers and rows in one HTML file."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, cast

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cai.evaluate.results import ModelSummary, RoundScore
from cai.report import charts, numbers
from cai.report.browser import Rows, pack
from cai.report.checkpoints import checkpoint_figures, checkpoint_series, compared_checkpoints
from cai.report.curves import GUARD, drawn
from cai.report.effects import MEASURES, SIDE_NAMES, show_measure, side_effects
from cai.report.facts import Comparison, PPOFacts, Report, RoundFacts, StageFacts
from cai.report.figures import elo_figure, harmfulness_figure, lineages, missing
from cai.report.headline import asked, cautions, compared, headline
from cai.report.wording import (
    HUNDREDTHS,
    LABEL_ORDER,
    POINTS,
    WHOLE,
    duration,
    metric,
    moment,
    number,
    percent,
    plainly,
    points,
    round_name,
    setting,
    show,
    visible,
)
from cai.revise.flaws import FLAWS

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
"""The rates by their prompts."""

GLANCE = {
    "harmful_rate": "harmful answers to red-team prompts",
    "explained_refusal_rate": "of them refused with a reason",
    "helpful_rate": "helpful answers to benign prompts",
    "over_refusal_rate": "benign prompts refused",
}
"""The rates at the top of the page."""

COSTS = ("engine_calls", "tokens_in", "tokens_out", "tokens_cached")
"""Metrics that are summed over stages."""

TRAININGS = {
    "sft": "Fine-tuning on revisions",
    "preference": "Preference model",
    "ppo": "Reinforcement learning",
    "harmfulness": "Harmfulness model",
}
"""Titles of trainings; others have the name of their stage."""

SCRIPTS = ("diff.js", "list.js", "detail.js", "browser.js")
LIVE_SCRIPTS = (*SCRIPTS, "trial.js", "try.js")
STYLES = ("report.css",)
LIVE_STYLES = (*STYLES, "try.css")


def render_page(report: Report, rows: Rows, *, live: bool = False) -> str:
    """Return the page of a run as one HTML file; `live` adds the section of `cai view`.

    The page needs no other files, and its policy allows only its own script. All text of models and
    people is escaped, and its control characters are shown as codes.
    """
    evaluation, revisions, comparisons = report.evaluation, report.revisions, report.comparisons
    return _render(
        "report.html.j2",
        script=_front(*(LIVE_SCRIPTS if live else SCRIPTS)),
        live=live,
        report=report,
        headline=headline(report),
        asked=asked(report),
        cautions=cautions(report),
        models=report.models,
        one_line=len(lineages(report.measures, list(evaluation))) == 1,
        glance=_glance(evaluation),
        side_effects=side_effects(report),
        stacks=_label_stacks(evaluation),
        round_stacks=_round_stacks(revisions.rounds),
        elo=elo_figure(report.measures, report.models),
        harmfulness=harmfulness_figure(report.measures, report.models),
        checkpoints=checkpoint_figures(report),
        lacking=missing(report),
        flaw_names=FLAWS,
        scored={one.round: one.better for one in revisions.scores},
        score_chart=_score_chart(revisions.scores),
        score_numbers=numbers.behind_scores(revisions.scores),
        categories=_categories(evaluation),
        trainings={
            name: (_line_charts(ppo), numbers.behind_curves(ppo), _guard(ppo))
            for name, ppo in report.ppo.items()
        },
        of=lambda name: "" if len(report.ppo) == 1 else f": {name}",
        trained=_trained(report.stages),
        label_numbers=numbers.behind_labels(comparisons.ai_labels),
        calibration=charts.calibration(comparisons.calibration),
        calibration_numbers=numbers.behind_calibration(comparisons.calibration),
        costs=_costs(report.stages.values()),
        ran_on=_ran_on(report.stages.values()),
        summed=COSTS,
        settings_text=yaml.safe_dump(
            report.provenance.settings, sort_keys=False, allow_unicode=True
        ),
        packed=Markup(pack(rows)),
    )


def render_comparison(comparison: Comparison) -> str:
    """Return the page that compares two runs."""
    reports = comparison.reports
    return _render(
        "comparison.html.j2",
        script="",
        live=False,
        comparison=comparison,
        summary=compared(comparison),
        revised=[_round_stacks(report.revisions.rounds) for report in reports],
        others=MEASURES,
        score_charts=[_score_chart(report.revisions.scores) for report in reports],
        elo=[elo_figure(report.measures, report.models) for report in reports],
        checkpoints=compared_checkpoints(
            comparison.names, [checkpoint_series(report) for report in reports]
        ),
        scale=charts.extent(
            change
            for measures in comparison.evaluation.values()
            for rate in RATES
            if (change := measures[rate].difference)
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
    """Return a content security policy for these two texts, and for the server of a live page."""
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
        number=number,
        duration=duration,
        moment=moment,
        plainly=plainly,
        points=points,
        setting=setting,
        dots=charts.dots,
        behind_stacks=numbers.behind_stacks,
        metric=metric,
        round_name=round_name,
    )
    cast("dict[str, Any]", environment.globals).update(
        show=show,
        show_measure=show_measure,
        scales={"whole": WHOLE, "hundredths": HUNDREDTHS, "points": POINTS},
    )
    return environment


def _shown(value: object) -> object:
    """Show the invisible characters of all inserted texts as codes."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _glance(evaluation: Mapping[str, ModelSummary]) -> list[tuple[str, list[float | None]]]:
    """Return (title, value per model) of the rates that all models have."""
    found: list[tuple[str, list[float | None]]] = []
    for rate, title in GLANCE.items():
        values = [summary.rates[rate].value for summary in evaluation.values()]
        if values and None not in values:
            found.append((title, values))
    return found


def _label_stacks(
    evaluation: Mapping[str, ModelSummary],
) -> dict[str, dict[str, list[charts.Bar]]]:
    """Return, by side and model, the bar of the answers' labels."""
    stacks: dict[str, dict[str, list[charts.Bar]]] = {}
    for side in SIDE_NAMES:
        for model, summary in evaluation.items():
            if bars := charts.stack(summary.labels.get(side, {})):
                stacks.setdefault(side, {})[model] = bars
    return stacks


def _round_stacks(rounds: Sequence[RoundFacts]) -> dict[str, list[charts.Bar]]:
    """Return, by number of revisions, the bar of the texts' labels; empty without labels."""
    stacks = {round_name(found.round): charts.stack(found.labels) for found in rounds}
    return stacks if any(stacks.values()) else {}


def _categories(evaluation: Mapping[str, ModelSummary]) -> dict[str, list[str]]:
    """Return, by rate, its categories, if there are several."""
    found: dict[str, list[str]] = {}
    for rate in RATES:
        names = {
            category
            for summary in evaluation.values()
            for category, rates in summary.by_category.items()
            if rate in rates and rates[rate].value is not None
        }
        if len(names) > 1:
            found[rate] = sorted(names)
    return found


def _score_chart(rounds: Sequence[RoundScore]) -> charts.PointChart | None:
    values = [(found.round, found.score) for found in rounds]
    return charts.point_chart(
        "Preference score by number of revisions", {"": values}, unit="revision"
    )


def _line_charts(ppo: PPOFacts) -> list[charts.LineChart]:
    charts_of = [
        charts.line_chart(title, series, ppo.steps) for title, series in drawn(ppo).items()
    ]
    return [chart for chart in charts_of if chart]


def _guard(ppo: PPOFacts) -> list[tuple[str, list[str]]]:
    """Return the title of each measure of the guard, and its value at each check."""
    return [
        (title, [write(check.get(name)) for check in ppo.guard])
        for name, (title, write) in GUARD.items()
        if any(check.get(name) is not None for check in ppo.guard)
    ]


def _trained(stages: Mapping[str, StageFacts]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the title and the metrics of each training."""
    found = {
        name: one
        for name, one in stages.items()
        if "first_loss" in one.metrics or (one.stage in TRAININGS and one.metrics)
    }
    counts = Counter(one.stage for one in found.values())

    def title(name: str, stage: str) -> str:
        return TRAININGS.get(stage, stage) + (f": {name}" if counts[stage] > 1 else "")

    return [(title(name, one.stage), one.metrics) for name, one in found.items()]


def _ran_on(stages: Iterable[StageFacts]) -> dict[str, str]:
    """Return the machine and the versions of the stages; all of them where they differ."""
    said: dict[str, dict[str, None]] = {}
    for found in stages:
        for name, value in found.provenance.get("environment", {}).items():
            said.setdefault(name, {})[value] = None
    return {name: ", ".join(values) for name, values in said.items()}


def _costs(stages: Iterable[StageFacts]) -> dict[str, float]:
    """Return the costs of all stages together."""
    metrics = [found.metrics for found in stages]
    spent = [one.get("total") or one for one in metrics]
    costs = {name: sum(cost.get(name) or 0 for cost in spent) for name in (*COSTS, "seconds")}
    return {**costs, "tokens": sum(one.get("tokens") or 0 for one in metrics)}
