"""What training may have cost beside the rates: lengths, wording, perplexity, skill."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cai.report.differences import Known
from cai.report.wording import NOTHING, hundredths, interval, percent, points

SIDE_NAMES = {
    "red_team": "Red-team prompts",
    "helpful": "Benign prompts",
}
MEANS = {"mean_words": "Words", "mean_preference_score": "Preference score"}
"""What is averaged per side, where it was measured."""

Cell = tuple[str, str]
"""A value and its interval, written."""


def side_effects(report: Mapping[str, Any]) -> list[tuple[str, list[Cell]]]:
    """List (title, a cell per evaluated model) of whatever was measured."""
    models: Sequence[str] = list(report["evaluation"])
    means = [
        (
            f"{title}, {side.lower()}",
            [_cell(report["evaluation"][m].get(mean, {}).get(kind), hundredths) for m in models],
        )
        for mean, title in MEANS.items()
        for kind, side in SIDE_NAMES.items()
    ]
    told = [
        *means,
        *(
            (title, [_cell(_measured(report, part, name, model), write) for model in models])
            for (part, name), (title, write) in EFFECTS.items()
        ),
    ]
    return [(title, cells) for title, cells in told if any(shown != NOTHING for shown, _ in cells)]


def _measured(report: Mapping[str, Any], part: str, name: str, model: str) -> Known | None:
    found = report["measures"].get(part, {}).get(model, {}).get(name)
    return found if isinstance(found, Mapping) or found is None else {"value": found}


def _cell(found: Known | None, write: Callable[[float | None], str]) -> Cell:
    if not found:
        return NOTHING, ""
    low, high = found.get("low"), found.get("high")
    if low is None or high is None or low == high:
        return write(found["value"]), ""
    if write is percent:
        return percent(found["value"]), interval(found)
    return write(found["value"]), f"{write(low)} to {write(high)}"


EFFECTS: dict[tuple[str, str], tuple[str, Callable[[float | None], str]]] = {
    ("alignment_tax", "helpful_change"): ("Change of helpful answers, points", points),
    ("alignment_tax", "perplexity"): ("Perplexity of benign texts", hundredths),
    ("alignment_tax", "perplexity_ratio"): ("Perplexity, times the first model’s", hundredths),
    ("style", "boilerplate"): ("Boilerplate", percent),
    ("style", "preachy"): ("Preachy answers", percent),
    ("style", "repeated_openings"): ("Opened like another answer", percent),
}
"""Measures by their place in report.json, what they are called, and how they are written."""
