"""What commands print on, and how they ask a model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from cai.data.rows import Task
    from cai.engines import Engine
    from cai.evaluate.rates import Rate
    from cai.settings import ModelSettings

T = TypeVar("T")


def plain_console(*, stderr: bool = False, soft_wrap: bool = False) -> Console:
    """Return a console that prints every text as it is: no markup, no emoji, no colours of numbers.

    Args:
        stderr: Print on standard error.
        soft_wrap: Do not break long lines, so that a path can be copied.
    """
    return Console(markup=False, emoji=False, highlight=False, stderr=stderr, soft_wrap=soft_wrap)


def bar(console: Console, title: str) -> Task:
    """Return what shows progress as a bar, on a terminal alone."""

    @contextmanager
    def task(total: int) -> Generator[Callable[[], None]]:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as shown:
            number = shown.add_task(title, total=total)
            yield lambda: shown.advance(number)

    return task


def with_engine(
    console: Console, model: ModelSettings, work: Callable[[Engine], Awaitable[T]]
) -> T:
    """Load a model, return what `work` does with it, and close it."""
    from cai.engines.opening import open_engine

    with console.status(f"Loading {model.path} …"):
        engine = open_engine(model)

    async def run() -> T:
        try:
            return await work(engine)
        finally:
            await engine.close()

    return asyncio.run(run())


def plain_table(first: str, *numbers: str, no_wrap: bool = False) -> Table:
    """Return a table without lines: a column of names, then columns of numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first, overflow="fold")
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=no_wrap)
    return table


def labelled(label: str, text: str, width: int, style: str = "") -> Table:
    """Return a text beside its label, which has a column of its own."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="cyan", width=width, no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(label, Text(text, style=style))
    return grid


def rate_cells(rate: Rate) -> tuple[str, str, str]:
    """Return the cells of a rate: its value, its 95% interval, and from how many rows it is."""
    if rate.value is None:
        return ("not measured", "", "0")
    known = rate.low is not None and rate.high is not None
    interval = f"{rate.low:.3f} to {rate.high:.3f}" if known else ""
    return (f"{rate.value:.3f}", interval, f"{rate.n:,}")
