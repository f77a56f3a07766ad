"""What is measured of a model beside the rates: Elo, harmfulness, lengths, wording, skill kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cai.report.differences import Known
from cai.report.wording import NOTHING, hundredths, interval, percent, points, tenths, whole

SIDE_NAMES = {
    "red_team": "Red-team prompts",
    "helpful": "Benign prompts",
}

Write = Callable[[float | None], str]


@dataclass(frozen=True)
class Measure:
    """What a measure is called, how it is written, and how a difference of two is."""

    title: str
    write: Write
    write_change: Write


def _signed(write: Write) -> Write:
    def signed(value: float | None) -> str:
        shown = write(value)
        return f"+{shown}" if value is not None and value > 0 and shown.strip("0.") else shown

    return signed


def _plain(title: str, write: Write = hundredths) -> Measure:
    return Measure(title, write, _signed(write))


ELO = {
    "elo/harmless": _plain("Harmless Elo", whole),
    "elo/helpful": _plain("Helpful Elo", whole),
}
HARMFULNESS = {"harmfulness": _plain("Absolute harmfulness, 0 to 4")}
SIDE_EFFECTS = {
    "mean_words/red_team": _plain("Words, red-team prompts", tenths),
    "mean_words/helpful": _plain("Words, benign prompts", tenths),
    "mean_preference_score/red_team": _plain("Preference score, red-team prompts"),
    "mean_preference_score/helpful": _plain("Preference score, benign prompts"),
    "alignment_tax/helpful_change": Measure("Change of helpful answers, points", points, points),
    "alignment_tax/perplexity": _plain("Perplexity of benign texts"),
    "alignment_tax/perplexity_ratio": _plain("Perplexity, times the first model’s"),
    "style/boilerplate": Measure("Boilerplate", percent, points),
    "style/preachy": Measure("Preachy answers", percent, points),
    "style/repeated_openings": Measure("Opened like another answer", percent, points),
}
MEASURES = {**ELO, **HARMFULNESS, **SIDE_EFFECTS}
"""All of them, by what `measured` calls them."""


def measured(report: Mapping[str, Any], model: str) -> dict[str, Known]:
    """Return what report.json says of an evaluated model beside its rates.

    Returns:
        Values with their intervals by the names of `MEASURES`, without those that were not
        measured. A plain number has no interval.
    """
    found: dict[str, Any] = {}
    measures: Mapping[str, Any] = report["measures"]
    for side in ("harmless", "helpful"):
        found[f"elo/{side}"] = ((measures.get("elo") or {}).get(side) or {}).get(model)
    found["harmfulness"] = (measures.get("harmfulness") or {}).get("models", {}).get(model)
    summary = report["evaluation"][model]
    for name in SIDE_EFFECTS:
        part, _, inner = name.partition("/")
        within = summary.get(part, {}) if part in summary else measures.get(part, {}).get(model, {})
        found[name] = within.get(inner)
    known = {
        name: value if isinstance(value, Mapping) else {"value": value, "low": None, "high": None}
        for name, value in found.items()
    }
    return {name: value for name, value in known.items() if value["value"] is not None}


def side_effects(report: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """List (title, a value and its interval per evaluated model, written) of what was measured."""
    of_models = [measured(report, model) for model in report["evaluation"]]
    return [
        (measure.title, [written_with_interval(found.get(name), measure) for found in of_models])
        for name, measure in SIDE_EFFECTS.items()
        if any(name in found for found in of_models)
    ]


def written_with_interval(found: Known | None, measure: Measure) -> tuple[str, str]:
    """Write a value and, if there is one, its interval."""
    if not found:
        return NOTHING, ""
    low, high = found.get("low"), found.get("high")
    if low is None or high is None or low == high:
        return measure.write(found["value"]), ""
    if measure.write is percent:
        return percent(found["value"]), interval(found)
    return measure.write(found["value"]), f"{measure.write(low)} to {measure.write(high)}"
