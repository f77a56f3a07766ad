"""`cai constitution stats`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cai.cli.console import plain_console, plain_table
from cai.constitution import load_constitution
from cai.evaluate.rates import Rate
from cai.workbench.effects import read_run
from cai.workbench.statistics import Agreement, Statistics, principle_statistics

MOST = 5
"""Of agreements that do not fit a matrix, so many at either end are shown."""


def stats(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", show_default=False)],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as JSON, with intervals.")
    ] = False,
) -> None:
    """Show the effect of each principle in a run.

    The rounds it was drawn for, and the share of them that changed the response. The verdicts under
    it: the share with a vote, their sharpness (0 undecided, 1 certain), and the share of opinions
    that are the same in both orders. The labels that would flip or be lost without its votes.
    """
    from cai.pipeline.load import read_resolved

    run = read_run(run_folder, read_resolved(run_folder))
    statistics = principle_statistics(
        load_constitution(run_folder / "constitution.yaml"),
        run.chains,
        run.pairs,
        [*run.judgements, *run.fallback],
        run.compare.labels,
    )
    if as_json:
        typer.echo(json.dumps(asdict(statistics), indent=2))
        return
    console = plain_console()
    console.print(_table(statistics))
    _show_agreements(console, statistics)
    for suggestion in statistics.suggestions:
        console.print(f"\n{suggestion}", style="yellow")


def _table(statistics: Statistics) -> Table:
    headings = ("rounds", "changed", "verdicts", "votes", "sharp", "orders", "flips", "lost")
    table = plain_table("principle", *headings, no_wrap=True)
    for p in statistics.principles:
        table.add_row(
            p.id,
            str(p.rounds),
            _share(p.changed),
            str(p.verdicts),
            _share(p.opinions),
            "" if p.sharpness is None else f"{p.sharpness:.2f}",
            _share(p.orders),
            "" if p.flipped_without is None else str(p.flipped_without),
            "" if p.lost_without is None else str(p.lost_without),
        )
    return table


def _show_agreements(console: Console, statistics: Statistics) -> None:
    found = statistics.agreements
    if not found:
        return
    console.print("\nHow often two principles that both vote prefer the same response:")
    names = [p.id for p in statistics.principles]
    names = [n for n in names if any(n in (a.first, a.second) for a in found)]
    longest = max(map(len, names))
    if longest + 6 + 6 * len(names) <= console.width:
        console.print(_matrix(names, found))
        return
    ranked = sorted(found, key=lambda a: a.same.value or 0.0)
    for agreement in [*ranked[:MOST], *ranked[MOST:][-MOST:]]:
        share, n = _share(agreement.same), agreement.same.n
        console.print(f"{share}  {agreement.first}, {agreement.second} (of {n})")


def _matrix(names: list[str], found: list[Agreement]) -> Table:
    """Lay out agreements, a numbered row and column for each principle."""
    same = {frozenset((a.first, a.second)): _share(a.same) for a in found}
    table = plain_table("", *map(str, range(1, len(names))), no_wrap=True)
    for number, name in enumerate(names):
        cells = [same.get(frozenset((name, other)), "") for other in names[:number]]
        table.add_row(f"{number + 1} {name}", *cells)
    return table


def _share(rate: Rate) -> str:
    return "" if rate.value is None else f"{rate.value:.2f}"
