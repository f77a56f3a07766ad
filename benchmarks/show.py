"""Tables in Markdown, from results."""

from collections.abc import Iterable, Mapping
from typing import Any

RATES = {
    "harmful_rate": "harmful",
    "evasive_rate": "evasive",
    "explained_refusal_rate": "explained",
    "helpful_rate": "benign helpful",
    "over_refusal_rate": "benign refused",
    "garbled_rate": "garbled",
}
"""The rates of an evaluation, as the tables name them."""


def markdown_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Lay out a table; the first column is text, the others numbers."""
    titles = list(head)
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def share(rate: Mapping[str, Any]) -> str:
    """Write a rate; a dash when nothing was measured."""
    return "-" if rate["value"] is None else f"{rate['value']:.2f}"


def interval(rate: Mapping[str, Any]) -> str:
    """Write a rate with its 95% interval, if it has one."""
    if rate["low"] is None:
        return share(rate)
    return f"{share(rate)} [{rate['low']:.2f}, {rate['high']:.2f}]"


def rates_table(runs: Mapping[str, Mapping[str, Any]], models: Iterable[str]) -> str:
    """Show the rates of some models in every run, a row each."""
    rows = [
        (name, model, *(share(run["evaluation"][model][rate]) for rate in RATES))
        for name, run in runs.items()
        for model in models
    ]
    return markdown_table(("run", "model", *RATES.values()), rows)
