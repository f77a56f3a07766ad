"""One row of a source, before anything is made of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

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
        fields: Column names, in lower case too, to values.
        where: File and line (or row), for messages.
    """

    fields: Mapping[str, object]
    where: str

    @classmethod
    def of(cls, value: object, where: str) -> Record:
        """Name the value's parts: an object keeps its names, a bare text or list gets one."""
        if isinstance(value, dict):
            return cls({str(name): part for name, part in value.items()}, where)
        return cls({"messages" if isinstance(value, list) else "prompt": value}, where)

    def get(self, name: str) -> object:
        """Return the value of a column whatever its case, or None."""
        if name in self.fields:
            return self.fields[name]
        return next((v for k, v in self.fields.items() if k.lower() == name.lower()), None)

    def has(self, *names: str) -> bool:
        """Say whether all columns are there, whatever their case."""
        return {name.lower() for name in names} <= set(self._lower())

    def columns(self) -> str:
        """List the column names for a message."""
        return ", ".join(f"`{name}`" for name in self.fields) or "none"

    def _lower(self) -> Iterator[str]:
        return (name.lower() for name in self.fields)
