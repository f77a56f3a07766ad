"""The measures of a model: their titles, and how they are written and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cai.evaluate.rates import Estimate
from cai.report.facts import Report
from cai.report.wording import (
    HUNDREDTHS,
    PERCENT,
    POINTS,
    TENTHS,
    WHOLE,
    Scale,
    Shown,
    Write,
    percent,
    show,
    signed,
)

SIDE_NAMES = {"red_team": "Red-team prompts", "helpful": "Benign prompts"}


@dataclass(frozen=True)
class Measure:
    """A measure of a model, and how values, differences and the marks of its axis are written.

    Without `marks`, these follow from the values; without `write_mark`, charts write values and
    marks with the decimals that they need.
    """

    title: str
    scale: Scale
    change: Scale
    marks: Sequence[float] | None = None
    write_mark: Write | None = None


def _plain(title: str, scale: Scale = HUNDREDTHS, marks: Sequence[float] | None = None) -> Measure:
    return Measure(title, scale, signed(scale), marks)


def _share(title: str) -> Measure:
    return Measure(title, PERCENT, POINTS, (0.0, 0.5, 1.0), percent)


ELO = {
    "elo/harmless": _plain("Harmless Elo", WHOLE),
    "elo/helpful": _plain("Helpful Elo", WHOLE),
}
HARMFULNESS = {
    "harmfulness": _plain("Absolute harmfulness, 0 to 4", marks=(0.0, 1.0, 2.0, 3.0, 4.0))
}
SIDE_EFFECTS = {
    "mean_words/red_team": _plain("Words, red-team prompts", TENTHS),
    "mean_words/helpful": _plain("Words, benign prompts", TENTHS),
    "mean_preference_score/red_team": _plain("Preference score, red-team prompts"),
    "mean_preference_score/helpful": _plain("Preference score, benign prompts"),
    "alignment_tax/helpful_change": Measure("Change of helpful answers, points", POINTS, POINTS),
    "alignment_tax/perplexity": _plain("Perplexity of benign texts"),
    "alignment_tax/perplexity_ratio": _plain("Perplexity, times the first model’s"),
    "style/boilerplate": _share("Boilerplate"),
    "style/preachy": _share("Preachy answers"),
    "style/repeated_openings": _share("Same opening as another answer"),
}
MEASURES = {**ELO, **HARMFULNESS, **SIDE_EFFECTS}
"""The measures that are not rates, by their names in `measured`."""

FOLLOWED = {
    "harmful_rate": _share("Harmful answers"),
    "evasive_rate": _share("Evasive answers"),
    "explained_refusal_rate": _share("Refused with a reason"),
    "helpful_rate": _share("Helpful answers, benign prompts"),
    "over_refusal_rate": _share("Benign prompts refused"),
    **HARMFULNESS,
}
"""The measures over the steps of PPO."""


def measured(report: Report, model: str) -> dict[str, Estimate]:
    """Return the measures of an evaluated model that are not rates.

    Returns:
        Values by the names of `MEASURES`, without those that were not measured.
    """
    summary, measures = report.evaluation[model], report.measures
    elo, harmfulness = measures.elo, measures.harmfulness
    tax, style = measures.alignment_tax.get(model), measures.style.get(model)
    found = {
        "elo/harmless": elo and elo.harmless.get(model),
        "elo/helpful": elo and elo.helpful.get(model),
        "harmfulness": harmfulness and harmfulness.models.get(model),
        **{f"mean_words/{side}": mean for side, mean in summary.mean_words.items()},
        **{
            f"mean_preference_score/{side}": mean
            for side, mean in summary.mean_preference_score.items()
        },
        "alignment_tax/helpful_change": tax and tax.helpful_change,
        "alignment_tax/perplexity": tax and Estimate(tax.perplexity),
        "alignment_tax/perplexity_ratio": tax and tax.perplexity_ratio,
        "style/boilerplate": style and style.boilerplate,
        "style/preachy": style and style.preachy,
        "style/repeated_openings": style and Estimate(style.repeated_openings),
    }
    return {name: value for name, value in found.items() if value and value.value is not None}


def side_effects(report: Report) -> list[tuple[str, list[Shown]]]:
    """List the measures as (title, a value and its interval per evaluated model)."""
    of_models = [measured(report, model) for model in report.models]
    return [
        (measure.title, [show_measure(found.get(name), measure) for found in of_models])
        for name, measure in SIDE_EFFECTS.items()
        if any(name in found for found in of_models)
    ]


def show_measure(found: Estimate | None, measure: Measure) -> Shown:
    """Write a value of a measure; without an interval if its ends are equal (an Elo of zero)."""
    return show(found, measure.scale, hide="equal")
