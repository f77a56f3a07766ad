"""`cai revisions`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, get_args

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cai.cli.console import bar, plain_console, plain_table, with_engine
from cai.cli.options import JsonFile, model_settings, spelling
from cai.compare import FeedbackJudge
from cai.constitution import Constitution, load_constitution
from cai.data.records import RevisionRow, content_hash
from cai.data.store import read_rows, write_json
from cai.engines import Engine
from cai.errors import CaiError
from cai.evaluate.rates import Rate
from cai.report.wording import visible
from cai.revise.flaws import FLAWS, Where
from cai.revise.quality import Assessed, Assessor, FlawShare, RevisionQuality, measure_revisions
from cai.settings import CompareSettings, ModelSettings, PipelineSettings, ReviseSettings
from cai.settings.paths import user_path
from cai.settings.revise import Flaw
from cai.workbench.judging import RevisionVerdicts, judge_revisions

Chain = tuple[RevisionRow, Sequence[Assessed]]
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
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Ask this model whether each revision is better than the text before it; "
            "`feedback` is the feedback model of the run.",
        ),
    ] = None,
    judge_set: Annotated[
        list[str] | None,
        typer.Option("--judge-set", metavar="KEY=VALUE", help="A setting of the judge."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="The number of chains to judge, drawn at random.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Show whether critiques and revisions are fit to train on, and what is wrong with them."""
    wanted = next((name for name in get_args(Flaw) if name == flaw), None)
    if flaw and not wanted:
        raise CaiError(f"There is no flaw `{flaw}`. There are: {', '.join(FLAWS)}.")
    if judge is None and (judge_set or limit):
        raise CaiError("`--judge-set` and `--limit` need a judge: give one with `--judge MODEL`.")
    source = _read(target, constitution_)
    chains = source.assessed()
    if not chains:
        raise CaiError(f"{target}: there is no chain with a revision.")
    rounds = [of_chain for _, of_chain in chains]
    quality = measure_revisions(rounds)
    console = plain_console()
    _show(console, quality, source)
    if wanted:
        _show_all(console, rounds, wanted)
    elif quality.examples:
        _show_examples(console, quality)
    found, verdicts = {**asdict(quality)}, None
    if judge is not None:
        model = source.judge(judge, judge_set)
        verdicts = _judged(console, source, model, drawn(chains, limit))
        _show_verdicts(console, verdicts, spelling(model))
        found["judge"] = {"model": spelling(model), **asdict(verdicts)}
    if json_file is not None:
        write_json(json_file, found)
    if verdicts and not verdicts.better.n:
        raise CaiError(f"The judge has no verdict on any revision ({_counts(verdicts.states)}).")


@dataclass(frozen=True)
class _Source:
    """The chains of a run or a file.

    Attributes:
        stages: The rows of each stage, and the flaws that make its revisions unfit.
        constitution: What the model was shown; None if that is not known.
        run: The settings of the run; None for a file.
    """

    stages: Mapping[str, tuple[Sequence[RevisionRow], Collection[Flaw]]]
    constitution: Constitution | None
    run: PipelineSettings | None

    def assessed(self) -> list[Chain]:
        """Return the chains with their rounds, each by the flaws of its own stage."""
        return [
            (row, assessor.rounds(row))
            for rows, counted in self.stages.values()
            for assessor in (Assessor(self.constitution, counted),)
            for row in rows
            if row.state == "ok" and row.steps
        ]

    def counted_only(self, flaw: Flaw) -> str:
        """Return a flaw and the stages in which it keeps nothing out; empty if there are none."""
        without = [name for name, (_, counted) in self.stages.items() if flaw not in counted]
        if not without:
            return ""
        return flaw if len(without) == len(self.stages) else f"{flaw} (in {', '.join(without)})"

    def judge(self, name: str, changes: list[str] | None) -> ModelSettings:
        """Return the settings of the judge."""
        like = None
        if self.run and name == "feedback":
            like = self.run.models.feedback or self.run.models.helpful
        return model_settings(like.path if like else name, changes, like, flag="--judge-set")


def _read(target: str, constitution: str | None) -> _Source:
    from cai.pipeline.load import read_resolved
    from cai.revise.recorded import read_chains

    folder = user_path(target)
    if not folder.is_dir():
        own = load_constitution(constitution) if constitution else None
        return _Source({target: (read_chains(target), ReviseSettings().flaws)}, own, None)
    settings = read_resolved(folder)
    stages = {
        name: (read_rows(folder / name / "rows.jsonl", RevisionRow), section.flaws)
        for name, section in settings.named(ReviseSettings).items()
    }
    own = load_constitution(constitution or folder / "constitution.yaml")
    return _Source(stages, own, settings)


def drawn(chains: Sequence[Chain], limit: int | None) -> Sequence[Chain]:
    """Return at most so many chains, by a hash of each."""
    if limit is None:
        return chains
    return sorted(chains, key=lambda chain: content_hash("judged", chain[0].key))[:limit]


def _judged(
    console: Console, source: _Source, model: ModelSettings, chains: Sequence[Chain]
) -> RevisionVerdicts:
    """Ask the judge as the run's `compare` stage does.

    Raises:
        CaiError: There is no principle with a comparison, or no verdict at all.
    """
    constitution, run = source.constitution, source.run
    if constitution is None or not constitution.comparisons:
        raise CaiError(
            "The judge is asked by the comparisons of principles. Name a constitution that has "
            "some with `--constitution`."
        )
    settings = run.of(CompareSettings) if run else CompareSettings()
    judge = FeedbackJudge(constitution, settings, run.seed if run else 0)

    async def ask(engine: Engine) -> RevisionVerdicts:
        return await judge_revisions(chains, judge, engine, task=bar(console, "Judging"))

    return with_engine(console, model, ask)


def _show_verdicts(console: Console, verdicts: RevisionVerdicts, judge: str) -> None:
    states = verdicts.states
    console.print(f"\nJudged by {judge}, of {sum(states.values()):,} revisions: {_counts(states)}.")
    for state, error in verdicts.errors.items():
        if state != "tie":
            console.print(f"The first `{state}`: {visible(error)}")
    table = plain_table("better than the text before", "share", "95% interval", "n", no_wrap=True)
    table.add_row("all", *_cells(verdicts.better))
    for number, share in verdicts.by_round.items():
        table.add_row(f"round {number}", *_cells(share))
    shares = [one for one in verdicts.by_principle.items() if one[1].value is not None]
    for name, share in sorted(shares, key=lambda one: one[1].value or 0.0):
        table.add_row(Text(visible(name) or "(not named)"), *_cells(share))
    console.print(table)


def _counts(states: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {state}" for state, count in states.items())


def _cells(share: Rate) -> tuple[str, str, str]:
    if share.value is None:
        return ("not measured", "", "0")
    low, high = share.interval or (share.value, share.value)
    return (f"{share.value:.0%}", f"{low:.0%} to {high:.0%}", f"{share.n:,}")


def _show(console: Console, quality: RevisionQuality, source: _Source) -> None:
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
        if bad or also:
            table.add_row(f"{name}: they {said}", f"{bad:,}", f"{also:,}")
    if table.row_count:
        console.print()
        console.print(table)
    if noted := ", ".join(filter(None, map(source.counted_only, quality.flaws))):
        console.print(f"\nCounted only; they keep no revision out of training: {noted}.")
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
