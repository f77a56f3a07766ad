"""Messages and exit statuses for all that commands raise."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import typer

from cai.cli.console import plain_console
from cai.cli.deferred import DeferredGroup
from cai.errors import CaiError

# Newer Typers carry a click of their own: its errors are reached through Typer's public names.
_CLICK_ERROR = cast(
    "type[Exception]",
    next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException"),
)


_ERRORS = plain_console(stderr=True, soft_wrap=True)


class Terminated(KeyboardInterrupt):
    """The process was told to end (SIGTERM), as schedulers do; it ends as at Ctrl-C."""


@contextmanager
def _termination_is_raised() -> Generator[None]:
    """Raise `Terminated` at SIGTERM, so that locks, engines and processes are released."""

    def end(*_: object) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Commands(DeferredGroup):
    """Turns what a command raises into a message and an exit status."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 (whichever click it is)
        """Run the command; errors are one paragraph, the exit status says whose they are.

        Status 0 is success, 2 a wrong command line, 130 Ctrl-C, 143 SIGTERM, 1 everything else.
        """
        given = [*ctx._protected_args, *ctx.args]
        try:
            with _termination_is_raised():
                return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except _CLICK_ERROR as error:
            if type(error).__name__ == "NoSuchOption":
                cast("Any", error).message += _file_hint(given)
            raise
        except KeyboardInterrupt as stop:
            told = isinstance(stop, Terminated)
            _ERRORS.print(
                f"Stopped{' by SIGTERM' if told else ''}. What is finished is kept: run the same "
                "command to continue."
            )
            raise typer.Exit(143 if told else 130) from None
        except BrokenPipeError:
            # Nobody reads the output any more (`cai … | head`).
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except Exception as error:
            if os.environ.get("CAI_DEBUG"):
                raise
            fault = (
                f"{type(error).__name__}: {error}. This is a fault of cai, not yours. Run the "
                "command again as `cai --debug …` for the traceback; what is finished is kept."
            )
            _ERRORS.print(f"Error: {error if isinstance(error, CaiError) else fault}")
            raise typer.Exit(1) from None


def _file_hint(given: Sequence[str]) -> str:
    """Say how to write a file whose name begins like an option."""
    short = [text for text in given if re.match(r"-[^-].", text)]
    file = next((text for text in given if text[:1] == "-" and Path(text).exists()), None)
    name = file or next(iter(short), None)
    return f". For a file of the name {name}, write ./{name}" if name else ""
