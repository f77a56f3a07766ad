"""The console that commands print on."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

from cai.data.rows import Task


def plain_console(*, stderr: bool = False, soft_wrap: bool = False) -> Console:
    """Return a console that prints text as it is, whoever wrote it.

    Brackets (`cai[vllm]`, a model's words, a path) are no markup there, `:fire:` is no emoji, and
    numbers have no colours of their own.

    Args:
        stderr: Print on standard error.
        soft_wrap: Leave long lines whole, so that a path can be copied.
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
