"""Errors and warnings about a constitution file, with their places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cai.errors import CaiError

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Place:
    """A position in a file; lines and columns count from 1."""

    path: Path
    line: int = 1
    column: int = 1

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Finding:
    """One thing to fix or to know.

    Attributes:
        place: Where it is.
        severity: `error`: the file is unusable; `warning`: better fixed; `note`: good to know.
        code: A short name for scripts (`near-duplicate`).
        message: What is wrong and how to fix it.
    """

    place: Place
    severity: Severity
    code: str
    message: str


class ConstitutionError(CaiError):
    """A constitution that cannot be used: all the errors of its file, one line each."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = sorted(findings, key=lambda f: (f.place.line, f.place.column))
        super().__init__("\n".join(f"{f.place}: {f.message}" for f in self.findings))


def error(place: Place, code: str, message: str) -> Finding:
    """Return a finding of severity `error`."""
    return Finding(place, "error", code, message)
