"""The console that commands print on."""

from __future__ import annotations

from rich.console import Console


def plain_console(*, stderr: bool = False, soft_wrap: bool = False) -> Console:
    """Return a console that prints text as it is, whoever wrote it.

    Brackets (`cai[vllm]`, a model's words, a path) are no markup there, `:fire:` is no emoji, and
    numbers have no colours of their own.

    Args:
        stderr: Print on standard error.
        soft_wrap: Leave long lines whole, so that a path can be copied.
    """
    return Console(markup=False, emoji=False, highlight=False, stderr=stderr, soft_wrap=soft_wrap)
