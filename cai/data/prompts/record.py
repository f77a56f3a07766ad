"""One row of a source, before anything is made of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from cai.errors import CaiError

log = logging.getLogger(__name__)

PROMPT_COLUMNS = (
    "prompt",
    "messages",
    "conversation",
    "conversations",
    "turns",
    "instruction",
    "question",
    "query",
    "goal",
    "behavior",
    "input",
    "chosen",
    "text",
)
"""Where a prompt usually stands, the most telling name first; upper and lower case are the same."""


LeftOutFor = Literal["assistant", "unreadable"]

_LEFT_OUT: dict[LeftOutFor, str] = {
    "assistant": "messages of the assistant's or the system's, which are no prompts (in a tree "
    "they stand before the user's messages that follow them)",
    "unreadable": "conversations of which not everything is text between user and assistant",
}

T = TypeVar("T")


class LeftOut(CaiError):  # noqa: N818 (a row's state)
    """One row cannot be used; the other rows of its source can.

    Attributes:
        reason: What the row is.
    """

    def __init__(self, message: str, reason: LeftOutFor) -> None:
        """Say what is wrong, and what the row is."""
        super().__init__(message)
        self.reason: LeftOutFor = reason


@dataclass(frozen=True)
class Record:
    """A row as its file has it.

    Attributes:
        fields: Column names to values.
        where: File and line (or row), for messages.
        form: The format of its file in words, for messages.
        used: The columns that have been read, in lower case.
        thinking: Not empty if a model's thinking was removed from the row.
    """

    fields: Mapping[str, object]
    where: str
    form: str = "rows"
    used: set[str] = field(default_factory=set[str], compare=False, repr=False)
    thinking: set[str] = field(default_factory=set[str], compare=False, repr=False)

    @classmethod
    def of(cls, value: object, where: str) -> Record:
        """Name the value's parts: an object keeps its names, a bare text or list gets one."""
        if isinstance(value, dict):
            return cls({str(name): part for name, part in value.items()}, where)
        return cls({"messages" if isinstance(value, list) else "prompt": value}, where)

    def get(self, name: str) -> object:
        """Return the value of a column whatever its case, or None; it counts as used."""
        self.used.add(name.lower())
        if name in self.fields:
            return self.fields[name]
        return next((v for k, v in self.fields.items() if k.lower() == name.lower()), None)

    def peek(self, name: str) -> object:
        """Return what `get` does, without counting it as used."""
        return next((v for k, v in self.fields.items() if k.lower() == name.lower()), None)

    def has(self, *names: str) -> bool:
        """Say whether all columns are there, whatever their case."""
        return {name.lower() for name in names} <= {name.lower() for name in self.fields}

    def columns(self) -> str:
        """List the column names for a message."""
        return ", ".join(f"`{name}`" for name in self.fields) or "none"


def read_each(
    path: str, records: Sequence[Record], read: Callable[[Record], T | None]
) -> list[T | LeftOut | None]:
    """Read every record; those that must be left out are counted, and the first is named.

    Args:
        path: The source.
        records: All of its rows.
        read: Reads a row; None if it is blank.

    Returns:
        What was read, in order.
    """
    found: list[T | LeftOut | None] = []
    for record in records:
        try:
            found.append(read(record))
        except LeftOut as error:
            found.append(error)
    for reason, what in _LEFT_OUT.items():
        these = [one for one in found if isinstance(one, LeftOut) and one.reason == reason]
        if these:
            log.warning(
                "%s: left out %d of %d rows: %s. The first: %s",
                path,
                len(these),
                len(records),
                what,
                these[0],
            )
    return found


def say_what_was_read(path: str, records: Sequence[Record], layouts: Sequence[str]) -> None:
    """Say in one line how the rows of a source were read, and which columns were not used."""
    columns = list(dict.fromkeys(name for record in records for name in record.fields))
    used = {name for record in records for name in record.used}
    unused = [name for name in columns if name.lower() not in used]
    kinds = " and ".join(dict.fromkeys(layouts)) or "rows"
    log.warning(
        "%s: read as %s of %s, %d row%s, columns %s%s.",
        path,
        records[0].form,
        kinds,
        len(records),
        "" if len(records) == 1 else "s",
        _named([name for name in columns if name not in unused]),
        f"; not used: {_named(unused)}" if unused else "",
    )
    thought = sum(bool(record.thinking) for record in records)
    if thought:
        log.warning("%s: models' thinking was removed from %d of the rows.", path, thought)


def _named(names: Sequence[str]) -> str:
    shown = [f"`{name}`" for name in names[:30]]
    return ", ".join(shown) + (f" and {len(names) - 30} more" if len(names) > 30 else "")
