"""`cai chat`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from cai.cli.console import plain_console
from cai.cli.options import MODEL_HELP, ModelChanges, model_settings
from cai.data.conversation import Message, Prompt
from cai.data.records import derive_seed
from cai.engines import Engine, GenerateRequest, PromptTooLong, Unanswered
from cai.errors import CaiError


def chat(
    model: Annotated[str, typer.Argument(help=MODEL_HELP, metavar="MODEL")],
    model_set: ModelChanges = None,
    transcript: Annotated[
        bool, typer.Option("--transcript", help="Use Human/Assistant transcripts (base models).")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 256,
    temperature: Annotated[float, typer.Option(min=0)] = 1.0,
    seed: Annotated[
        int, typer.Option(help="The seed; the same seed gives the same responses.")
    ] = 0,
) -> None:
    """Chat with a model."""
    from cai.engines.opening import open_engine

    form = ["format=transcript"] if transcript else []
    settings = model_settings(model, [*(model_set or []), *form])
    console = plain_console()
    engine = open_engine(settings)
    console.print("Type a message; an empty line ends the conversation.", style="dim")
    messages: tuple[Message, ...] = ()
    # An engine belongs to one event loop.
    with asyncio.Runner() as runner:
        try:
            while text := _ask(console):
                messages = (*messages, Message(role="user", content=text))
                request = GenerateRequest(
                    Prompt(messages),
                    seed=derive_seed(seed, "chat", len(messages)),
                    max_tokens=max_new_tokens,
                    temperature=temperature,
                )
                answer = runner.run(_answer(engine, request))
                console.print(answer)
                messages = (*messages, Message(role="assistant", content=answer))
        finally:
            runner.run(engine.close())


async def _answer(engine: Engine, request: GenerateRequest) -> str:
    try:
        return (await engine.generate(request)).text
    except (PromptTooLong, Unanswered) as problem:
        raise CaiError(f"The model gives no answer: {problem}") from problem


def _ask(console: Console) -> str:
    try:
        return console.input(Text("You: ", style="bold")).strip()
    except EOFError:
        return ""
