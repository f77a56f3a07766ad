"""Commands that are imported when they are asked for, so that each loads only what it needs."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup

Place = str
"""`module:name` of a command's function, or of a `typer.Typer` with more commands."""


class DeferredGroup(TyperGroup):
    """A group with commands of its own, and with `deferred` ones of other modules.

    Only `--help`, which prints the first line of each command, imports all of them.
    """

    deferred: ClassVar[Mapping[str, Place]] = {}
    """Places by the name of the command."""

    def __init__(self, *args: Any, **given: Any) -> None:  # noqa: ANN401 (Typer's own)
        """Take what Typer gives a group."""
        super().__init__(*args, **given)
        self.commands = _Commands([*self.commands.items(), *self.deferred.items()])


class _Commands(UserDict[str, Any]):
    """Commands by name; a place becomes the command when it is read."""

    def __init__(self, items: Iterable[tuple[str, Any]]) -> None:
        super().__init__()
        self.data = dict(items)

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 (whichever click it is)
        found = self.data[name]
        if isinstance(found, str):
            found = self.data[name] = _command(name, found)
        return found


def _command(name: str, place: Place) -> Any:  # noqa: ANN401
    module, _, attribute = place.partition(":")
    found = getattr(import_module(module), attribute)
    if isinstance(found, typer.Typer):
        command = typer.main.get_group(found)
        command.name = name
        return command
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(name)(found)
    return typer.main.get_command(app)
