"""`cai constitution try`."""

from __future__ import annotations

import asyncio
import math

from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from cai.cli.console import plain_console
from cai.compare import FeedbackJudge, preference
from cai.constitution import Constitution, Principle
from cai.data.conversation import user
from cai.data.records import JudgementRow
from cai.engines import Engine
from cai.revise import Reviser
from cai.settings import CompareSettings, LabelPolicy, ModelSettings, ReviseSettings
from cai.workbench.trying import Step, pinned, try_chain, try_comparison


def try_command(
    constitution: Constitution,
    prompt: str,
    *,
    model: ModelSettings,
    principle: str | None,
    revise: ReviseSettings,
    compare: CompareSettings | None,
    seed: int,
) -> None:
    """Show one prompt's response, critiques, revisions and verdict, each as soon as it is there."""
    from cai.engines.opening import open_engine

    console = plain_console()
    if principle is not None:
        constitution = pinned(constitution, principle)
    if model.path == "playground" and constitution.name != "playground":
        note = "The playground's tiny model knows only the principles of `playground`: name a real"
        console.print(f"{note} one with `--model`.\n", style="yellow")
    with console.status(f"Loading {model.path} …"):
        engine = open_engine(model)
    shown = _Shown(console, constitution, prompt)

    async def run() -> None:
        try:
            await _run(shown, engine, revise, compare, seed)
        finally:
            await engine.close()

    asyncio.run(run())


async def _run(
    shown: _Shown,
    engine: Engine,
    revise: ReviseSettings,
    compare: CompareSettings | None,
    seed: int,
) -> None:
    console, constitution = shown.console, shown.constitution
    with console.status("Waiting for the model …"):
        reviser = Reviser(constitution, revise, seed)
        chain = await try_chain(reviser, user(shown.prompt), engine, shown.step)
    if chain.state != "ok":
        console.print(f"\nStopped: {chain.state}, {chain.error}", style="red")
    elif compare is not None:
        with console.status("Waiting for the verdict …"):
            judge = FeedbackJudge(constitution, compare, seed)
            judgement = await try_comparison(judge, chain, engine)
        shown.verdict(judgement)


class _Shown:
    """What is on the screen so far."""

    def __init__(self, console: Console, constitution: Constitution, prompt: str) -> None:
        self.console = console
        self.constitution = constitution
        self.prompt = prompt
        self._text = ""
        self._round = 0
        self._line("Prompt", prompt, "bold")

    def step(self, step: Step) -> None:
        """Show what the model has just said, under what it was asked."""
        if step.principle is None:
            self._line("Response", step.text)
            self._text = step.text
            return
        if step.round > self._round:
            self._round = step.round
            drawn = _drawn(step.principle, self.constitution.supervised)
            self._rule(f"Round {step.round}: {step.principle.id}", drawn)
        asked = step.principle.critique if step.kind == "critique" else step.principle.revision
        self._line("Asked", str(asked), "dim")
        same = step.kind == "revision" and step.text == self._text
        self._line(step.kind.capitalize(), "(the same response)" if same else step.text)
        if step.kind == "revision":
            self._text = step.text

    def verdict(self, judgement: JudgementRow | None) -> None:
        """Show which of the first response and the last revision is better, and how surely."""
        if judgement is None:
            self._rule("Comparison", "")
            self.console.print("Nothing to compare: the response was not changed.")
            return
        (principle,) = (p for p in self.constitution.comparisons if p.id == judgement.principle.id)
        self._rule(f"Comparison: {principle.id}", _drawn(principle, self.constitution.comparisons))
        self._line("Asked", str(principle.comparison), "dim")
        if judgement.state != "ok":
            self.console.print(f"No verdict: {judgement.state}, {judgement.error}")
            return
        self.console.print(Padding(_verdicts(judgement), (1, 0, 0, 0)))
        probability = preference(judgement, LabelPolicy())
        if probability is not None:
            shown = f"{1 - probability:.3f}"
            better = "revision" if probability < 0.5 else "first response"
            better = "neither" if shown == "0.500" else better
            said = f"P(revision is better) = {shown}, both orders averaged: {better}"
            self.console.print(said, style="bold")

    def _rule(self, title: str, note: str) -> None:
        self.console.print()
        line = Text.assemble((title, "bold"), (f"  {note}" if note else "", "dim"))
        self.console.print(Rule(line, align="left", style="dim"))

    def _line(self, label: str, text: str, style: str = "") -> None:
        grid = Table.grid(padding=(0, 2), expand=False)
        grid.add_column(style="cyan", width=9, no_wrap=True)
        grid.add_column(overflow="fold")
        grid.add_row(label, Text(text, style=style))
        self.console.print(grid)


def _drawn(principle: Principle, among: tuple[Principle, ...]) -> str:
    if len(among) == 1:
        return "the only one"
    share = principle.weight / sum(p.weight for p in among)
    return f"drawn from {len(among)}, its share is {share:.0%}"


def _verdicts(judgement: JudgementRow) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("(A) is", style="cyan", no_wrap=True)
    for heading in ("P(A)", "P(B)", "P(revision)"):
        table.add_column(heading, justify="right", no_wrap=True)
    reasoned = any(evidence.reasoning is not None for evidence in judgement.evidence)
    if reasoned:
        table.add_column("reasoning", overflow="fold")
    for evidence in judgement.evidence:
        first, second = map(math.exp, evidence.logprobs)
        shown_first = ("first response", "revision")[evidence.shown[0]]
        revision = (first if shown_first == "revision" else second) / max(evidence.mass, 1e-300)
        cells = [shown_first, f"{first:.4f}", f"{second:.4f}", f"{revision:.4f}"]
        reasoning = [Text(evidence.reasoning or "", style="dim")] if reasoned else []
        table.add_row(*cells, *reasoning)
    return table
