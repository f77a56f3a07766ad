"""`cai constitution try`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
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
from cai.data.records import JudgementRow, RevisionRow
from cai.engines import Engine
from cai.errors import CaiError
from cai.pipeline.validation import validated
from cai.report.wording import visible
from cai.revise import Reviser
from cai.revise.quality import Assessor
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
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of `revise`: `few_shot=1`, …"),
    ] = None,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SETTINGS",
            help="Revise the same response also with these settings of `revise`: `few_shot=0`, "
            "`'few_shot=0 asking=question'`; can be given several times.",
        ),
    ] = None,
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
    sampled = {"temperature": temperature, "max_new_tokens": max_new_tokens}
    given = {**sampled, "rounds": rounds, "critique": critique}
    revise = validated(ReviseSettings, given, changes or [])
    ways = _ways(revise, beside or [])
    thinking = {"reasoning": reasoning, "reasoning_tokens": max_new_tokens}
    judged = CompareSettings.model_validate({**sampled, **thinking})

    judge = FeedbackJudge(constitution, judged, seed) if compare else None
    reviser = Reviser(constitution, revise, seed)
    shown = _Shown(console, constitution)
    with_engine(console, asked, partial(_try, shown, prompt, reviser, ways, judge))


async def _try(
    shown: _Shown,
    prompt: str,
    reviser: Reviser,
    ways: Mapping[str, ReviseSettings],
    judge: FeedbackJudge | None,
    engine: Engine,
) -> None:
    """Answer a prompt, revise the answer in each way, and compare the two if there is a judge."""
    console, messages = shown.console, user(prompt)
    shown.line("Prompt", prompt, "bold")
    with console.status("Waiting for the model …"):
        first = await try_chain(reviser.responder, messages, engine, shown.step)
    for name, settings in ways.items():
        shown.way(name, first.response)
        with console.status("Waiting for the model …"):
            way = replace(reviser, settings=settings)
            chain = await try_chain(way, messages, engine, shown.step, first)
        shown.flaws(chain)
        if chain.state != "ok":
            console.print(f"\nStopped: {chain.state}, {chain.error}", style="red")
        elif judge is not None:
            with console.status("Waiting for the verdict …"):
                judgement = await try_comparison(judge, chain, engine)
            shown.verdict(judgement)


def _ways(revise: ReviseSettings, beside: Sequence[str]) -> dict[str, ReviseSettings]:
    """Return all settings to revise with, by what to call them; without a name if alone.

    Raises:
        CaiError: A setting is unknown, its value is wrong, or it changes the first response.
    """
    if not beside:
        return {"": revise}
    others = [
        validated(ReviseSettings, revise.model_dump(), one.split(), flag="--beside")
        for one in beside
    ]
    if any(other.sampling != revise.sampling for other in others):
        raise CaiError(
            "`--beside` revises the same response, so it cannot change how it was sampled. "
            "Change `temperature` and `max_new_tokens` for all, by their own options."
        )
    plain = revise.model_dump()
    changed = {k: None for other in others for k, v in other.model_dump().items() if v != plain[k]}
    return {
        ", ".join(f"{key}={getattr(settings, key)}" for key in changed): settings
        for settings in (revise, *others)
    }


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

    def way(self, name: str, response: str) -> None:
        """Begin the revisions of the response with other settings."""
        self._text, self._round = response, 0
        if name:
            self._rule(f"With {name}", "")

    def flaws(self, chain: RevisionRow) -> None:
        """Show what the texts of the chain show to be wrong with them."""
        for one in Assessor(self.constitution, ()).rounds(chain):
            for found in one.found:
                quote = f": “{visible(found.quote)}”" if found.quote else ""
                place = f"{found.where} {one.number}"
                self.line("Flaw", f"{found.flaw}, {place}{quote}", "yellow")

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
