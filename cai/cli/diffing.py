"""`cai constitution diff`."""

from __future__ import annotations

from difflib import SequenceMatcher
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cai.cli.console import bar, labelled, plain_console, with_engine
from cai.constitution import Constitution, load_constitution
from cai.constitution.diff import HALVES, Change, changes
from cai.data.conversation import to_transcript
from cai.data.records import ComparisonRow, PairRow
from cai.settings import CompareSettings, SftSettings
from cai.workbench.effects import (
    Relabelled,
    StoredRun,
    Touched,
    foreign,
    read_run,
    relabel,
    touched,
)


def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", show_default=False)],
    new: Annotated[str, typer.Argument(metavar="NEW", show_default=False)],
    run_folder: Annotated[
        Path | None,
        typer.Option("--run", metavar="RUN", help="Count the rows of this run that change."),
    ] = None,
    relabelling: Annotated[
        bool, typer.Option("--relabel", help="Judge the changed rows again; show flipped labels.")
    ] = False,
    examples: Annotated[int, typer.Option(min=0, help="How many flipped labels to show.")] = 3,
) -> None:
    """Show what an edit changes, and its effect on a run. Only `--relabel` uses a model.

    The constitution of a run is constitution.yaml in its folder.
    """
    from cai.pipeline.load import read_resolved

    if relabelling and run_folder is None:
        raise typer.BadParameter("`--relabel` needs a run: name its folder with `--run`")
    before, after, console = load_constitution(old), load_constitution(new), plain_console()
    found = changes(before, after)
    run = None if run_folder is None else read_run(run_folder, read_resolved(run_folder))
    if not found:
        console.print("The two say the same.")
        return
    console.print(_table(found, run))
    for change in found:
        _show_texts(console, change)
    if run is None:
        return
    _show_remarks(console, run, before, after)
    if relabelling:
        model = run.settings.models.feedback or run.settings.models.helpful
        task = bar(console, "Judging")
        result = with_engine(
            console, model, lambda engine: relabel(run, after, engine=engine, task=task)
        )
        _show_labels(console, result, examples)


def _table(found: list[Change], run: StoredRun | None) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("change")
    table.add_column("principle", overflow="fold")
    table.add_column("what")
    if run is None:
        for change in found:
            table.add_row(change.kind, change.subject, _what(change))
        return table
    for heading in ("chains", "judgements", "labels"):
        table.add_column(heading, justify="right", no_wrap=True)
    for change in found:
        counts = touched(run, change.before, change.alone())
        table.add_row(change.kind, change.subject, _what(change), *_counts(counts))
    every = touched(run, found[0].before, found[0].after)
    table.add_row("all together", "", "", *_counts(every), style="bold")
    totals = Touched(
        len(run.chains) or None,
        len(run.judgement_items(found[0].after)) or None,
        sum(pair.state == "ok" for pair in run.pairs) or None,
    )
    table.add_row("of", "", "", *_counts(totals), style="dim")
    return table


def _counts(counts: Touched) -> list[str]:
    numbers = (counts.chains, counts.judgements, counts.labels)
    return ["none" if number is None else str(number) for number in numbers]


def _what(change: Change) -> str:
    old, new = change.old, change.new
    if change.kind == "reweighted" and old and new:
        return f"{old.weight:g} to {new.weight:g}"
    if change.kind == "examples":
        counts = [len(getattr(c.few_shot, change.subject)) for c in (change.before, change.after)]
        return f"{counts[0]} to {counts[1]}"
    return ", ".join(change.fields)


def _show_texts(console: Console, change: Change) -> None:
    """Show the words that went and came; an added principle in full."""
    if change.kind not in ("added", "reworded"):
        return
    halves = [half for half in HALVES if change.kind == "added" or half in change.fields]
    for half in halves:
        old, new = (getattr(p, half, None) or "" for p in (change.old, change.new))
        if old or new:
            console.print(f"\n{change.subject}, {half}:", style="cyan")
            console.print(Padding(_marked(str(old), str(new)), (0, 0, 0, 2)))


def _marked(old: str, new: str) -> Text:
    """Mark words that went as [-old-] and words that came as {+new+}."""
    before, after = old.split(), new.split()
    pieces: list[Text] = []
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    for _, start, stop, new_start, new_stop in matcher.get_opcodes():
        gone, come = " ".join(before[start:stop]), " ".join(after[new_start:new_stop])
        if gone == come:
            pieces.append(Text(come))
            continue
        if gone:
            pieces.append(Text(f"[-{gone}-]", style="red"))
        if come:
            pieces.append(Text(f"{{+{come}+}}", style="green"))
    return Text(" ").join(pieces)


def _show_remarks(
    console: Console, run: StoredRun, before: Constitution, after: Constitution
) -> None:
    strange = foreign(run, before)
    if strange:
        total = len(run.chains) + len(run.judgements)
        text = (
            f"{strange} of the {total} rows in {run.folder} were not made under"
            f" {before.name!r} as it is here, so `cai run` would make those anew as well. The"
            f" constitution that the run was made with is {run.folder / 'constitution.yaml'}."
        )
        console.print(f"\n{text}", style="yellow")
    # The pairs of such a run are answers of a model that its chains have trained.
    retrains = run.settings.named(SftSettings) and run.settings.named(CompareSettings)
    if touched(run, before, after).chains and retrains:
        text = (
            "SL-CAI is trained on the chains: as some change, `cai run` trains it anew, and every"
            " pair and judgement follows. The counts above are of today's pairs."
        )
        console.print(f"\n{text}", style="yellow")


def _show_labels(console: Console, result: Relabelled, examples: int) -> None:
    kept = f" ({result.reused} of them made earlier)" if result.reused else ""
    console.print(
        f"\n{len(result.judgements)} judgements made anew{kept}. Of {len(result.labels)} labels,"
        f" {result.changed} changed and {len(result.flipped)} flipped.",
        style="bold",
    )
    for pair, old, new in result.flipped[:examples]:
        _show_flip(console, pair, old, new)


def _show_flip(console: Console, pair: PairRow, old: ComparisonRow, new: ComparisonRow) -> None:
    console.print(f"\n{new.key}", style="cyan")
    said = {
        "Prompt": to_transcript(pair.messages),
        **{f"Response {n}": sample.text for n, sample in enumerate(pair.responses)},
        "Label": f"{old.label:.3f} to {new.label:.3f}: P(response 0 is better)",
    }
    for label, text in said.items():
        console.print(Padding(labelled(label, text, 10), (0, 0, 0, 2)))
