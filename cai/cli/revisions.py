"""`cai revisions`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, get_args

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cai.cli.console import plain_console, plain_table
from cai.cli.options import JsonFile
from cai.constitution import Constitution, load_constitution
from cai.data.records import RevisionRow
from cai.data.store import read_rows, write_json
from cai.errors import CaiError
from cai.report.wording import visible
from cai.revise.flaws import FLAWS, Where
from cai.revise.quality import Assessed, Assessor, FlawShare, RevisionQuality, measure_revisions
from cai.settings import ReviseSettings
from cai.settings.paths import user_path
from cai.settings.revise import Flaw

MOST_PRINCIPLES = 20


def revisions(
    target: Annotated[
        str, typer.Argument(help="A run folder, or a file of chains (docs/revisions.md).")
    ],
    constitution_: Annotated[
        str | None,
        typer.Option(
            "--constitution",
            help="Whose worked examples and principles were shown; a run's own if left out.",
        ),
    ] = None,
    flaw: Annotated[
        str | None, typer.Option(help="Show every text with this flaw: `copied`, `echo`, …")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Show whether critiques and revisions are fit to train on, and what is wrong with them."""
    wanted = next((name for name in get_args(Flaw) if name == flaw), None)
    if flaw and not wanted:
        raise CaiError(f"There is no flaw `{flaw}`. There are: {', '.join(FLAWS)}.")
    rows, own, counted = _read(target, constitution_)
    assessor = Assessor(own)
    chains = [assessor.rounds(row) for row in rows if row.state == "ok" and row.steps]
    if not chains:
        raise CaiError(f"{target}: there is no chain with a revision.")
    quality = measure_revisions(chains, counted)
    console = plain_console()
    _show(console, quality, counted)
    if wanted:
        _show_all(console, chains, wanted)
    elif quality.examples:
        _show_examples(console, quality)
    if json_file is not None:
        write_json(json_file, asdict(quality))


def _read(
    target: str, constitution: str | None
) -> tuple[Iterable[RevisionRow], Constitution | None, Collection[Flaw]]:
    from cai.pipeline.load import read_resolved
    from cai.revise.recorded import read_chains

    folder = user_path(target)
    if not folder.is_dir():
        own = load_constitution(constitution) if constitution else None
        return read_chains(target), own, ReviseSettings().flaws
    settings = read_resolved(folder)
    stages = settings.named(ReviseSettings)
    rows = [row for name in stages for row in read_rows(folder / name / "rows.jsonl", RevisionRow)]
    own = load_constitution(constitution or folder / "constitution.yaml")
    return rows, own, settings.of(ReviseSettings).flaws


def _show(console: Console, quality: RevisionQuality, counted: Collection[Flaw]) -> None:
    console.print(
        f"{quality.revisions:,} revisions in {quality.chains:,} chains: "
        f"{_share(quality.flawed, quality.revisions)} have a flaw that keeps them out of training, "
        f"{_share(quality.unchanged, quality.revisions)} change nothing, "
        f"{_share(quality.wrapped, quality.revisions)} have words about themselves around them, "
        f"{_share(quality.cut_off, quality.revisions)} were cut off."
    )
    table = plain_table("flaw", "revisions", "critiques", no_wrap=True)
    for name, said in FLAWS.items():
        bad, also = quality.flaws.get(name, 0), quality.critique_flaws.get(name, 0)
        noted = "" if name in counted else " (counted only)"
        if bad or also:
            table.add_row(f"{name}: they {said}{noted}", f"{bad:,}", f"{also:,}")
    if table.row_count:
        console.print()
        console.print(table)
    for title, shares in (("round", quality.by_round), ("principle", quality.by_principle)):
        if len(shares) > 1 and quality.flawed:
            console.print()
            console.print(_by(title, {str(name): share for name, share in shares.items()}))


def _by(title: str, shares: Mapping[str, FlawShare]) -> Table:
    """Lay out shares of flawed revisions, of principles the worst first."""
    table = plain_table(title, "flawed", "revisions", no_wrap=True)
    ranked = [*shares.items()]
    if title == "principle":
        ranked.sort(key=lambda one: -one[1].flawed / one[1].revisions)
    for name, share in ranked[:MOST_PRINCIPLES]:
        cells = _share(share.flawed, share.revisions), f"{share.revisions:,}"
        table.add_row(Text(visible(name) or "(not named)"), *cells)
    return table


def _show_examples(console: Console, quality: RevisionQuality) -> None:
    """Print the first example of each flaw."""
    seen: set[tuple[Where, Flaw]] = set()
    for one in quality.examples:
        if (one.where, one.flaw) not in seen:
            seen.add((one.where, one.flaw))
            _show_text(console, one.flaw, one.where, one.key, one.round, one.quote, one.text)


def _show_all(console: Console, chains: Sequence[Sequence[Assessed]], flaw: Flaw) -> None:
    for chain in chains:
        for one in chain:
            for found in one.found:
                if found.flaw == flaw:
                    text = one.text(found.where)
                    _show_text(console, flaw, found.where, one.key, one.number, found.quote, text)


def _show_text(
    console: Console, flaw: Flaw, where: Where, key: str, number: int, quote: str, text: str
) -> None:
    console.print()
    shown = f": “{visible(quote)}”" if quote else ""
    console.print(Text(f"{flaw}, {where} {number} of {key}{shown}", style="bold"))
    console.print(Text(visible(text)))


def _share(count: int, total: int) -> str:
    return f"{count / total:.0%}"
