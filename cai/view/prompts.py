"""Prompts of the run to try a constitution on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from cai.data.conversation import Conversation
from cai.data.records import Kind, PromptRow
from cai.report.browser import KINDS
from cai.report.reading import stage_rows
from cai.report.wording import visible

MOST_ALIKE = 20
MOST = 400
OPENING = 160
"""Characters of a prompt in the list of them."""


@dataclass(frozen=True)
class Choice:
    """A prompt on the page."""

    key: str
    kind: Kind
    category: str
    messages: Conversation

    def told(self) -> dict[str, Any]:
        """Return it as JSON."""
        last = self.messages[-1].content if self.messages else ""
        return {
            "key": self.key,
            "kind": KINDS[self.kind],
            "category": visible(self.category[:OPENING]),
            "opening": visible(last[:OPENING]),
            "turns": len(self.messages),
        }


def run_prompts(run: Path, stages: Iterable[str]) -> dict[str, Choice]:
    """Return training prompts by key, some of each kind and category, red-team prompts first.

    Held-out prompts are left out, since they must stay unseen for the evaluation.
    """
    kept: dict[str, Choice] = {}
    alike: Counter[tuple[str, str]] = Counter()
    for row in chain.from_iterable(stage_rows(run / stage, PromptRow) for stage in stages):
        category = row.tags.get("category", "")
        if row.split != "train" or alike[row.kind, category] >= MOST_ALIKE:
            continue
        alike[row.kind, category] += 1
        kept[row.key] = Choice(row.key, row.kind, category, row.messages)
    found = sorted(kept.values(), key=lambda c: (c.kind != "red_team", c.category, c.key))
    return {choice.key: choice for choice in found[:MOST]}
