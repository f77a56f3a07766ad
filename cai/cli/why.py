"""`cai why`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from cai.cli.console import labelled, plain_console, plain_table
from cai.data.conversation import to_transcript
from cai.data.records import ComparisonRow
from cai.engines import GenerateRequest
from cai.models.chat import ChatFormat
from cai.pipeline.context import Run
from cai.pipeline.progress import Progress
from cai.pipeline.stage import FEEDBACK, HELPFUL
from cai.settings import LabelPolicy, ModelSettings
from cai.workbench.effects import read_run
from cai.workbench.tracing import Asked, Origin, Vote, trace


def why(
    run_folder: Annotated[Path, typer.Argument(help="A run folder.")],
    row: Annotated[str, typer.Argument(help="The key of a chain, a pair, a judgement or a label.")],
    prompts: Annotated[
        bool, typer.Option("--prompts/--no-prompts", help="Print every prompt in full.")
    ] = True,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Print prompts as the model's chat template writes them."),
    ] = False,
) -> None:
    """Show how a revision or a label was made: prompts, principles, numbers, policy, result."""
    from cai.pipeline.load import open_run

    console = plain_console()
    opened = open_run(run_folder, Progress(console))
    run = read_run(run_folder, opened.pipeline.settings)
    origin = trace(run, opened.pipeline.constitution, row)
    write = Templates(models_by_name(opened)).write if exact else _plainly
    _Shown(console, policy=run.compare.labels, prompts=prompts, write=write).origin(origin)


class _Shown:
    """Prints origins one after the other."""

    def __init__(
        self,
        console: Console,
        *,
        policy: LabelPolicy,
        prompts: bool,
        write: Callable[[Asked], str],
    ) -> None:
        self.console = console
        self.policy = policy
        self.prompts = prompts
        self.write = write

    def origin(self, origin: Origin) -> None:
        """Print one row and all that it came from."""
        row = origin.row
        self.console.print(Rule(Text(f"{origin.title}  {row.key}", style="bold"), align="left"))
        if row.state != "ok":
            self._fact("State", f"{row.state}: {row.error}")
        if origin.provenance is not None:
            made = origin.provenance
            sampling = ", ".join(f"{name} {value}" for name, value in made.sampling.items())
            self._fact("Model", f"{made.model} (weights and format {made.model_fingerprint})")
            self._fact("Settings", f"{sampling}; seed {made.seed}; templates {made.template_hash}")
        if isinstance(row, ComparisonRow):
            self._label(row, origin.votes)
        if origin.current and origin.asked:
            self._fact("Prompts", "rebuilt; by the row's fingerprint they are those that were sent")
        if origin.current is False:
            said = "the row was made from other texts or settings than the run folder holds now"
            if isinstance(row, ComparisonRow):
                said = "the run folder now gives another label: its settings or files were changed"
            self.console.print(f"Beware: {said}.", style="yellow")
        for asked in origin.asked:
            self._asked(asked)
        self.console.print()
        for source in origin.sources:
            self.origin(source)

    def _label(self, row: ComparisonRow, votes: list[Vote]) -> None:
        if row.source != "ai":
            self._fact("Label", f"{row.label}: of a person, or simulated; no model was asked")
            return
        self._fact("Prompt", to_transcript(row.messages))
        for number, text in enumerate(row.responses):
            self._fact(f"Response {number}", text)
        self._fact("Policy", ", ".join(f"{k} {_value(v)}" for k, v in self.policy))
        self.console.print(Padding(_votes(votes), (1, 0)))
        label = f"{row.label:.4f} = P(response 0 is better)" if row.label is not None else "none"
        self._fact("Label", label, "bold")

    def _asked(self, asked: Asked) -> None:
        request = asked.request
        self.console.print()
        line = Text(asked.what, style="bold cyan")
        if isinstance(request, GenerateRequest):
            facts = f"seed {request.seed}, at most {request.max_tokens} tokens"
            line.append(f"  {asked.model}, {facts}, temperature {request.temperature:g}", "dim")
        else:
            line.append(f"  {asked.model}, scored options", "dim")
        self.console.print(line)
        if self.prompts:
            text = Text(self.write(asked), style="dim")
            self.console.print(Padding(text, (0, 0, 0, 2)))
        self.console.print(Padding(_answer(asked), (0, 0, 0, 2)))

    def _fact(self, name: str, text: str, style: str = "") -> None:
        self.console.print(labelled(name, text, 10, style))


def _value(value: object) -> str:
    return " to ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _votes(votes: list[Vote]) -> Table:
    table = plain_table("principle", "weight", "P(response 0)", "log-odds")
    graded = any(grade is not None for vote in votes for grade in vote.grades)
    if graded:
        table.add_column("mean grades", justify="right")
    table.add_column("vote")
    for vote in votes:
        p = vote.probability
        odds = "" if p is None or not 0 < p < 1 else f"{math.log(p / (1 - p)):+.3f}"
        why_not = "none: no verdict" if p is None else "none: no opinion"
        cells = ["" if p is None else f"{p:.4f}", odds]
        if graded:
            cells.append(", ".join("-" if g is None else f"{g:.2f}" for g in vote.grades))
        cells.append("yes" if vote.counted else why_not)
        table.add_row(vote.principle, f"{vote.weight:g}", *cells)
    return table


def _answer(asked: Asked) -> Text:
    if asked.answer is None:
        return Text("(the row does not hold the answer)", style="yellow")
    if isinstance(asked.answer, str):
        return Text(asked.answer or "(nothing)", style="bold")
    options = getattr(asked.request, "options", ())
    pieces = [
        f"log P({option.strip(' ()')}) = {logp:.4f}, P = {math.exp(logp):.4f}"
        for option, logp in zip(options, asked.answer, strict=True)
    ]
    return Text("; ".join(pieces), style="bold")


def _plainly(asked: Asked) -> str:
    prompt = asked.request.prompt
    opening = f"{prompt.speaker}: {prompt.prefill}".rstrip()
    return f"{to_transcript(prompt.messages)}\n\n{opening}"


def models_by_name(run: Run) -> dict[str, ModelSettings]:
    """Return the models of a run by all that rows call them: names, and paths of those given."""
    others = run.pipeline.settings.models.fallback, run.pipeline.settings.models.reviser
    given = [*filter(None, others), *(run.models[name] for name in (FEEDBACK, HELPFUL))]
    return {**{model.path: model for model in given}, **run.models}


class Templates:
    """Writes prompts as each model's own chat template does, control tokens included."""

    def __init__(self, models: Mapping[str, ModelSettings]) -> None:
        self._models = models
        self._formats: dict[str, ChatFormat] = {}

    def write(self, asked: Asked) -> str:
        """Return the prompt as the model saw it."""
        if asked.model not in self._formats:
            from cai.models.loading import load_chat_format

            self._formats[asked.model] = load_chat_format(self._models[asked.model])
        chat = self._formats[asked.model]
        return chat.tokenizer.decode(chat.prompt_ids(asked.request.prompt))
