"""The tables behind the charts: their heads, and rows with a name and cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cai.evaluate.rates import Rate
from cai.evaluate.results import RoundScore
from cai.report.charts import Bar
from cai.report.curves import drawn
from cai.report.effects import FOLLOWED
from cai.report.facts import ConfidenceBin, PPOFacts
from cai.report.wording import HUNDREDTHS, plainly, show

Numbers = tuple[list[str], list[tuple[str, list[Any]]]]

MOST_STEPS = 8
"""Columns of a table over steps."""


def behind_stacks(stacks: Mapping[str, Sequence[Bar]]) -> Numbers:
    """Return the counts of stacked bars, by the name of each bar."""
    labels = list(dict.fromkeys(plainly(bar.label) for bars in stacks.values() for bar in bars))
    rows = [
        (name, [sum(bar.count for bar in bars if plainly(bar.label) == label) for label in labels])
        for name, bars in stacks.items()
    ]
    return ["", *labels], rows


def behind_scores(rounds: Sequence[RoundScore]) -> Numbers:
    """Return the preference scores of chains by number of revisions."""
    rows = [
        (str(found.round), [told.value, told.ends, found.score.n])
        for found in rounds
        for told in [show(found.score, HUNDREDTHS)]
    ]
    return ["Revisions", "score", "95% interval", "chains"], rows


def behind_labels(counts: Sequence[int]) -> Numbers:
    """Return AI labels in equal bins of probability."""
    bins = len(counts)
    rows = [(f"{n / bins:.2f} to {(n + 1) / bins:.2f}", [count]) for n, count in enumerate(counts)]
    return ["Probability", "pairs"], rows


def behind_calibration(bins: Sequence[ConfidenceBin]) -> Numbers:
    """Return right labels by confidence."""
    rows = [
        (HUNDREDTHS.write(found.confidence), [told.value, told.ends, found.right.n])
        for found in bins
        for told in [show(found.right)]
    ]
    return ["Mean confidence", "right", "95% interval", "pairs"], rows


def behind_curves(ppo: PPOFacts) -> Numbers:
    """Return the value of each curve of PPO at the first, the last and some other steps."""
    known = {
        f"{title}: {name}" if name else title: dict(points)
        for title, series in drawn(ppo).items()
        for name, points in series.items()
    }
    longest = [*max(known.values(), key=len, default={})]
    places = range(min(MOST_STEPS, len(longest)))
    steps = [longest[round(n * (len(longest) - 1) / max(len(places) - 1, 1))] for n in places]
    rows = [
        (name, [round(points[step], 4) + 0.0 if step in points else None for step in steps])
        for name, points in known.items()
    ]
    return ["Step", *(f"{step:,.0f}" for step in steps)], rows


def behind_checkpoints(series: Mapping[str, Sequence[tuple[int, Rate]]]) -> Numbers:
    """Return every measure of `checkpoint_series` by step."""
    rows: dict[int, list[str]] = {}
    for name, points in series.items():
        for step, value in points:
            rows.setdefault(step, []).append(str(show(value, FOLLOWED[name].scale)))
    heads = ["Step", *(FOLLOWED[name].title for name in series)]
    return heads, [(f"{step:,}", shown) for step, shown in rows.items()]
