"""`cai chat`."""

from __future__ import annotations

import asyncio

from rich.console import Console
from rich.text import Text

from cai.cli.console import plain_console
from cai.data.conversation import Message, Prompt
from cai.data.records import derive_seed
from cai.engines import Engine, GenerateRequest, PromptTooLong, Unanswered
from cai.errors import CaiError
from cai.settings import ModelSettings


def chat_command(
    settings: ModelSettings, *, max_new_tokens: int, temperature: float, seed: int
) -> None:
    """Read a person's turns from the terminal until end of input, and print the model's."""
    from cai.engines.opening import open_engine

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
