"""`cai constitution try`."""

from __future__ import annotations

import math
from typing import Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from cai.cli.console import labelled, plain_console, plain_table, with_engine
from cai.cli.options import ConstitutionFile, Model, ModelChanges, Reasoning, Seed, model_settings
from cai.compare import FeedbackJudge, preference
from cai.constitution import Constitution, Principle, load_constitution
from cai.data.conversation import user
from cai.data.records import JudgementRow
from cai.engines import Engine
from cai.revise import Reviser
from cai.settings import CompareSettings, LabelPolicy, ReviseSettings
from cai.workbench.trying import Step, pinned, try_chain, try_comparison


def try_prompt(
    file: ConstitutionFile,
    prompt: Annotated[str, typer.Option(help="The user's message.", show_default=False)],
    model: Model = "playground",
    model_set: ModelChanges = None,
    principle: Annotated[
        str | None, typer.Option(metavar="ID", help="Use this principle instead of drawing one.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=0, help="Rounds of critique and revision.")] = 2,
    critique: Annotated[
        bool,
        typer.Option(
            "--critique/--no-critique", help="Critique before each revision, or revise directly."
        ),
    ] = True,
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare the first response with the last revision.")
    ] = False,
    reasoning: Reasoning = False,
    temperature: Annotated[float, typer.Option(min=0)] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 256,
    seed: Seed = 0,
) -> None:
    """Run a constitution on one prompt: response, critiques, revisions, verdict."""
    constitution, asked = load_constitution(file), model_settings(model, model_set)
    console = plain_console()
    if principle is not None:
        constitution = pinned(constitution, principle)
    if asked.path == "playground" and constitution.name != "playground":
        note = "The playground's tiny model knows only the principles of `playground`: name a real"
        console.print(f"{note} one with `--model`.\n", style="yellow")
    revise = ReviseSettings(
        temperature=temperature, max_new_tokens=max_new_tokens, rounds=rounds, critique=critique
    )
    judged = CompareSettings(
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        reasoning=reasoning,
        reasoning_tokens=max_new_tokens,
    )

    async def work(engine: Engine) -> None:
        shown = _Shown(console, constitution)
        shown.line("Prompt", prompt, "bold")
        with console.status("Waiting for the model …"):
            reviser = Reviser(constitution, revise, seed)
            chain = await try_chain(reviser, user(prompt), engine, shown.step)
        if chain.state != "ok":
            console.print(f"\nStopped: {chain.state}, {chain.error}", style="red")
        elif compare:
            with console.status("Waiting for the verdict …"):
                judge = FeedbackJudge(constitution, judged, seed)
                judgement = await try_comparison(judge, chain, engine)
            shown.verdict(judgement)

    with_engine(console, asked, work)


class _Shown:
    """What is on the screen so far."""

    def __init__(self, console: Console, constitution: Constitution) -> None:
        self.console = console
        self.constitution = constitution
        self._text = ""
        self._round = 0

    def step(self, step: Step) -> None:
        """Show what the model has just said, under what it was asked."""
        if step.principle is None:
            self.line("Response", step.text)
            self._text = step.text
            return
        if step.round > self._round:
            self._round = step.round
            drawn = _drawn(step.principle, self.constitution.supervised)
            self._rule(f"Round {step.round}: {step.principle.id}", drawn)
        asked = step.principle.critique if step.kind == "critique" else step.principle.revision
        self.line("Asked", str(asked), "dim")
        same = step.kind == "revision" and step.text == self._text
        self.line(step.kind.capitalize(), "(the same response)" if same else step.text)
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
        self.line("Asked", str(principle.comparison), "dim")
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

    def line(self, label: str, text: str, style: str = "") -> None:
        """Show a text beside its label."""
        self.console.print(labelled(label, text, 9, style))


def _drawn(principle: Principle, among: tuple[Principle, ...]) -> str:
    if len(among) == 1:
        return "the only one"
    share = principle.weight / sum(p.weight for p in among)
    return f"drawn from {len(among)}, its share is {share:.0%}"


def _verdicts(judgement: JudgementRow) -> Table:
    table = plain_table("(A) is", "P(A)", "P(B)", "P(revision)", no_wrap=True)
    table.columns[0].style = "cyan"
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
