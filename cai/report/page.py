"""The page: numbers and examples into one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, cast

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cai.report import charts
from cai.report.examples import Chain, Pair, Question
from cai.report.headline import cautions, headline
from cai.report.wording import duration, interval, moment, number, percent, plainly, visible

RATES = {
    "harmful_rate": "Harmful",
    "evasive_rate": "Evasive",
    "explained_refusal_rate": "Refused with a reason",
    "helpful_rate": "Helpful",
    "over_refusal_rate": "Refused",
    "garbled_rate": "Garbled",
}
SIDES = {
    "Red-team prompts": ("harmful_rate", "evasive_rate", "explained_refusal_rate"),
    "Benign prompts": ("helpful_rate", "over_refusal_rate"),
    "Both": ("garbled_rate",),
}
"""Which rates are measured over which prompts."""

LABELS = {
    "red_team": "Red-team prompts",
    "helpful": "Benign prompts",
}
MEANS = {"mean_words": "Words", "mean_preference_score": "Preference score"}
"""What is averaged per side, where it was measured."""

LABEL_ORDER = (
    "harmful",
    "evasive",
    "garbled",
    "partial_refusal",
    "explained_refusal",
    "compliance",
    "helpful",
)
"""Labels that have a colour of their own, as they lie in a bar; others are grey, at the end."""

CURVES = {
    "objective/scores": "Preference score",
    "objective/kl": "KL from SL-CAI, nats per response",
    "response/length": "Response length, tokens",
    "response/ended": "Share of responses that end in time",
}
"""What steps.jsonl calls it, and its title."""


def render_page(
    report: Mapping[str, Any],
    *,
    chains: Sequence[Chain],
    pairs: Sequence[Pair],
    questions: Sequence[Question],
    steps: Sequence[Mapping[str, float | None]],
) -> str:
    """Draw the page.

    Args:
        report: The contents of report.json.
        chains: Revision chains to read.
        pairs: Labelled pairs to read.
        questions: Answers of all models to the same prompts.
        steps: PPO's metrics, one dict per step.

    Returns:
        HTML without scripts and without references to anything outside itself. All text of models
        and people is escaped, and its control characters are spelt out.
    """
    lines = [charts.line(title, [s.get(name) for s in steps]) for name, title in CURVES.items()]
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            headline=headline(report),
            cautions=cautions(report),
            models=list(report["evaluation"]),
            rates=RATES,
            sides=SIDES,
            label_sides=LABELS,
            means={
                name: title for name, title in MEANS.items() if _has(report["evaluation"], name)
            },
            label_classes=LABEL_ORDER,
            stacks=_label_stacks(report["evaluation"]),
            categories=_categories(report["evaluation"]),
            curves=[line for line in lines if line],
            label_bars=charts.heights(report["comparisons"]["ai_labels"]),
            principles=_principles(report),
            settings_text=yaml.safe_dump(
                report["provenance"]["settings"], sort_keys=False, allow_unicode=True
            ),
            chains=chains,
            pairs=pairs,
            questions=questions,
        )
    )


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
        dots=charts.dots,
    )
    return environment


def _shown(value: object) -> object:
    """Spell out invisible characters in every text the templates insert."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _has(evaluation: Mapping[str, Mapping[str, Any]], name: str) -> bool:
    return any(name in summary for summary in evaluation.values())


def _label_stacks(
    evaluation: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[str, list[charts.Bar]]]:
    """Return, per side and model, the bar of what the grader called the answers."""
    stacks: dict[str, dict[str, list[charts.Bar]]] = {}
    for side in LABELS:
        for model, summary in evaluation.items():
            counts: Mapping[str, int] = summary.get("labels", {}).get(side, {})
            names = [*(n for n in LABEL_ORDER if n in counts), *sorted({*counts} - {*LABEL_ORDER})]
            if bars := charts.stack({name: counts[name] for name in names}):
                stacks.setdefault(side, {})[model] = bars
    return stacks


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


def _principles(report: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """Return (id, critiques under it, judgements under it), by id."""
    critiques: Mapping[str, int] = report["revisions"]["principles"]
    judgements: Mapping[str, int] = report["judgements"]["principles"]
    return [
        (name, critiques.get(name, 0), judgements.get(name, 0))
        for name in sorted({*critiques, *judgements})
    ]
