"""The results on a terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from cai.evaluate.rates import UNKNOWN, Estimate
from cai.evaluate.results import Rates
from cai.report.effects import ELO, HARMFULNESS, show_measure
from cai.report.facts import Comparison
from cai.report.page import RATES, SIDES
from cai.report.wording import POINTS, Scale, show, visible

MOST_COLUMNS = 4
"""With more models, each has a row."""


def results_table(
    evaluation: Mapping[str, Rates],
    title: str = "Held-out prompts, share of answers (95% interval)",
) -> Table:
    """Return a table of rates with 95% intervals, one column per model, or one row if many.

    Rates that were not measured for any model are left out.
    """
    measured = {
        side: [
            name for name in names if any(own.get(name, UNKNOWN).n for own in evaluation.values())
        ]
        for side, names in SIDES.items()
    }
    table = Table(title=title, title_justify="left", collapse_padding=True)
    table.add_column("", overflow="fold", no_wrap=True)
    if len(evaluation) > MOST_COLUMNS:
        shown = [rate for rates in measured.values() for rate in rates]
        for rate in shown:
            table.add_column(RATES[rate], justify="right", overflow="fold")
        for model, own in evaluation.items():
            table.add_row(Text(visible(model)), *(str(show(own.get(rate))) for rate in shown))
        return table
    for model in evaluation:
        table.add_column(Text(visible(model)), justify="right", overflow="fold")
    for side, rates in measured.items():
        if not rates:
            continue
        table.add_row(Text(side, style="bold"))
        for rate in rates:
            cells = [str(show(own.get(rate))) for own in evaluation.values()]
            table.add_row(f"  {RATES[rate]}", *cells)
        table.add_section()
    return table


def comparison_table(comparison: Comparison) -> Table:
    """Return a table of two runs' rates and their differences, one section per model.

    Differences whose 95% interval does not include zero are bold.
    """
    table = Table(
        title="Held-out prompts, share of answers and difference in points (95% intervals)",
        title_justify="left",
    )
    table.add_column("")
    for name in comparison.names:
        table.add_column(Text(visible(name)), justify="right")
    table.add_column("difference", justify="right")
    for model, measures in comparison.evaluation.items():
        table.add_row(Text(visible(model), style="bold"))
        for rate, title in RATES.items():
            found = measures[rate]
            cells = [str(show(found.before)), str(show(found.after))]
            table.add_row(f"  {title}", *cells, _change(found.difference, POINTS))
        for name, measure in (ELO | HARMFULNESS).items():
            if name in measures:
                found = measures[name]
                cells = [str(show_measure(own, measure)) for own in (found.before, found.after)]
                change = _change(found.difference, measure.change)
                table.add_row(f"  {measure.title}", *cells, change)
        table.add_section()
    return table


def _change(found: Estimate | None, scale: Scale) -> Text | str:
    if found is None:
        return "two scales"
    return Text(str(show(found, scale)), style="bold" if found.is_clear else "")
