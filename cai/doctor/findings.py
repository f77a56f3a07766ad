"""The results of an examination, as `cai doctor MODEL --json` writes them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

Area = Literal["model", "chat template", "engines", "training", "memory", "stages"]
State = Literal["ok", "limited", "no", "not tried"]
"""`ok`: checked, and it holds. `limited`: it works, with what the detail says. `no`: it does not.
`not tried`: nothing here tells."""


class Finding(BaseModel, frozen=True):
    """One fact about a model."""

    area: Area
    name: str
    state: State
    detail: str


class Examination(BaseModel, frozen=True):
    """All that was found out about a model."""

    model: str
    engine: str
    """The engine in its settings."""
    findings: tuple[Finding, ...]

    @property
    def usable(self) -> bool:
        """Whether any stage can use the model."""
        return any(f.area == "stages" and f.state != "no" for f in self.findings)

    def state(self, area: Area, name: str) -> State:
        """Return the state of a finding; `not tried` if there is none."""
        for one in self.findings:
            if (one.area, one.name) == (area, name):
                return one.state
        return "not tried"
