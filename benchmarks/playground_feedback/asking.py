"""Asking the playground's model for feedback, and what that costs."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from typing import Any

from cai.compare import FeedbackJudge
from cai.constitution import Constitution
from cai.data.records import JudgementRow, PairRow
from cai.data.rows import run_rows
from cai.engines import Engine, Usage
from cai.settings import CompareSettings

FORMS: dict[str, dict[str, Any]] = {
    "comparison": {},
    "comparison, reasoned": {"reasoning": True},
    "comparison, 3 reasonings": {"reasoning": True, "reasoning_samples": 3},
    "rating": {"form": "rating"},
    "rating, reasoned": {"form": "rating", "reasoning": True},
    "critique": {"form": "critique"},
}
MEASURED = "comparison, reasoned"
"""The form that the bounds are for: the quickstart's."""
ASKED = {"principles": "all", "reasoning_tokens": 64, "labels": {"ignore_within": 0.2}}


class Judge:
    """The playground's model, and what it has cost so far."""

    def __init__(self, engine: Engine, seed: int) -> None:
        self.engine = engine
        self.seed = seed

    def ask(
        self, pairs: Iterable[PairRow], constitution: Constitution, settings: CompareSettings
    ) -> tuple[list[JudgementRow], Usage, float]:
        """Return the judgements, and the calls, tokens and seconds that they took."""
        before, started = asdict(self.engine.usage), time.perf_counter()
        judge = FeedbackJudge(constitution, settings, self.seed)
        items = judge.items(pairs, self.engine)
        make = partial(judge.row, engine=self.engine)
        result = asyncio.run(run_rows(items, make, concurrency=settings.concurrency))
        after = asdict(self.engine.usage)
        used = Usage(**{name: after[name] - before[name] for name in after})
        return result.rows, used, time.perf_counter() - started


def settings_of(form: dict[str, Any]) -> CompareSettings:
    """Return the settings of a form, as the benchmark asks it."""
    return CompareSettings.model_validate({**ASKED, **form})


def cost(used: Usage, seconds: float, rows: int) -> dict[str, float]:
    """Return what one row cost."""
    return {
        "calls": used.engine_calls / rows,
        "tokens_in": used.tokens_in / rows,
        "tokens_out": used.tokens_out / rows,
        "seconds": seconds / rows,
    }
