"""The table of the methods, over seeds, in Markdown."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.show import markdown_table

COLUMNS = {
    "harmful_rate": "harmful",
    "evasive_rate": "evasive",
    "explained_refusal_rate": "explained",
    "helpful_rate": "helpful",
    "over_refusal_rate": "over-refusal",
    "garbled_rate": "garbled",
    "reward": "reward",
    "kl": "KL to SL-CAI",
    "sampled_tokens": "sampled",
    "gradient_tokens": "trained on",
    "processor_seconds": "processor",
}


def markdown(result: Mapping[str, Any]) -> str:
    """Return the table: means over seeds; of rates also the lowest and the highest seed."""
    seeds = [*result["seeds"].values()]
    rows = [
        (name, *(cell(column, [seed[name] for seed in seeds]) for column in COLUMNS))
        for name in seeds[0]
    ]
    return markdown_table(("method", *COLUMNS.values()), rows)


def cell(column: str, found: Sequence[Mapping[str, float]]) -> str:
    """Write one measure of one method, of all seeds."""
    if column == "kl" and "kl_at_most" in found[0]:
        return f"≤ {found[0]['kl_at_most']:.1f}"
    values = [one[column] for one in found if not math.isnan(one.get(column, math.nan))]
    if not values:
        return "-"
    mean = sum(values) / len(values)
    if column.endswith("_rate"):
        return percent(values)
    if column.endswith("_tokens"):
        return f"{mean / 1000:.0f}k" if mean else "-"
    return f"{mean:.0f} s" if column == "processor_seconds" else f"{mean:.1f}"


def percent(values: Sequence[float]) -> str:
    """Write the mean of shares in percent, with the lowest and the highest seed."""
    mean, low, high = (
        round(100 * x) for x in (sum(values) / len(values), min(values), max(values))
    )
    return f"{mean} ({low}–{high})" if len(values) > 1 else f"{mean}"
