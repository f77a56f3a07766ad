"""The results on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from cai.report.differences import is_clear
from cai.report.effects import ELO, HARMFULNESS, Measure, Write, written_with_interval
from cai.report.page import RATES, SIDES
from cai.report.wording import interval, percent, points, visible

MOST_COLUMNS = 4
"""More models than these get a row each."""


def results_table(
    report_json: Mapping[str, Any], title: str = "Held-out prompts, share of answers (95% interval)"
) -> Table:
    """Lay out the rates of report.json, one column per model, with 95% intervals.

    Many models get a row each. Rates that were measured of no model are left out.

    Args:
        report_json: The contents of report.json.
        title: Of the table.

    Returns:
        A table; without rows when the run was not evaluated.
    """
    evaluation: Mapping[str, Mapping[str, Any]] = report_json["evaluation"]
    measured = {
        side: [rate for rate in rates if any(_told(s, rate) for s in evaluation.values())]
        for side, rates in SIDES.items()
    }
    table = Table(title=title, title_justify="left")
    table.add_column("", overflow="fold")
    if len(evaluation) > MOST_COLUMNS:
        shown = [rate for rates in measured.values() for rate in rates]
        for rate in shown:
            table.add_column(RATES[rate], justify="right")
        for model, summary in evaluation.items():
            cells = [_cell(summary.get(rate, {})) for rate in shown]
            table.add_row(Text(visible(model)), *cells)
        return table
    for model in evaluation:
        table.add_column(Text(visible(model)), justify="right", overflow="fold")
    for side, rates in measured.items():
        if not rates:
            continue
        table.add_row(Text(side, style="bold"))
        for rate in rates:
            cells = [_cell(summary.get(rate, {})) for summary in evaluation.values()]
            table.add_row(f"  {RATES[rate]}", *cells)
        table.add_section()
    return table


def comparison_table(comparison: Mapping[str, Any]) -> Table:
    """Lay out two runs' rates and their differences, one section per model.

    Args:
        comparison: Made by `compare_runs`.

    Returns:
        A table; differences whose 95% interval leaves zero out are bold.
    """
    table = Table(
        title="Held-out prompts, share of answers and difference in points (95% intervals)",
        title_justify="left",
    )
    table.add_column("")
    for run in comparison["runs"]:
        table.add_column(Text(visible(run["name"])), justify="right")
    table.add_column("difference", justify="right")
    for model, measures in comparison["evaluation"].items():
        table.add_row(Text(visible(model), style="bold"))
        for rate, title in RATES.items():
            found = measures[rate]
            cells = [_cell(found["before"]), _cell(found["after"])]
            table.add_row(f"  {title}", *cells, _change(found["difference"], points))
        for name, measure in (ELO | HARMFULNESS).items():
            if name in measures:
                found = measures[name]
                cells = [_measured(found[side], measure) for side in ("before", "after")]
                change = found["difference"]
                shown = _change(change, measure.write_change) if change else "two scales"
                table.add_row(f"  {measure.title}", *cells, shown)
        table.add_section()
    return table


def _told(summary: Mapping[str, Any], rate: str) -> bool:
    return bool(summary.get(rate, {}).get("n"))


def _cell(rate: Mapping[str, Any]) -> str:
    ends = interval(rate)
    shown = percent(rate.get("value"))
    return f"{shown} ({ends})" if ends else shown


def _measured(found: Mapping[str, Any], measure: Measure) -> str:
    shown, ends = written_with_interval(found, measure)
    return f"{shown} ({ends})" if ends else shown


def _change(found: Mapping[str, Any], write: Write) -> Text:
    shown = write(found["value"])
    if found["low"] is not None and found["high"] is not None:
        shown += f" ({write(found['low'])} to {write(found['high'])})"
    return Text(shown, style="bold" if is_clear(found) else "")
