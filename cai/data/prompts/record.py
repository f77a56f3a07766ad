"""One row of a source, before anything is made of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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


@dataclass(frozen=True)
class Record:
    """A row as its file has it.

    Attributes:
        fields: Column names to values.
        where: File and line (or row), for messages.
        form: The format of its file in words, for messages.
        used: The columns that have been read, in lower case.
    """

    fields: Mapping[str, object]
    where: str
    form: str = "rows"
    used: set[str] = field(default_factory=set[str], compare=False, repr=False)

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


def _named(names: Sequence[str]) -> str:
    shown = [f"`{name}`" for name in names[:30]]
    return ", ".join(shown) + (f" and {len(names) - 30} more" if len(names) > 30 else "")
