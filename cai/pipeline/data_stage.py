"""Functions shared by the stages that make rows."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

from cai.data.prompts import exclude_held_out
from cai.data.records import DemonstrationRow, PromptRow, RatedRow, Row
from cai.data.rows import Item, RowsResult, run_rows
from cai.data.states import StateLimit
from cai.data.store import RowStore, read_rows
from cai.engines import Usage
from cai.pipeline.context import Context
from cai.pipeline.engines import Engines
from cai.pipeline.stage import PROMPTS
from cai.settings import PromptsSettings
from cai.settings.base import SamplingSettings

T = TypeVar("T")
R = TypeVar("R", bound=Row)
A = TypeVar("A", DemonstrationRow, RatedRow)


def make_rows(
    context: Context[Any],
    engines: Engines,
    items: Iterable[Item[T]],
    make: Callable[[Item[T]], Awaitable[R]],
    *,
    store: RowStore[R],
    concurrency: int,
    title: str,
    normal: Collection[str] = (),
    together: int = 1,
) -> RowsResult[R]:
    """Make the missing rows of a data stage with its engines; return all of them (`run_rows`).

    `normal` and `together` are as in `StateLimit`.
    """
    task = partial(context.progress.rows, title, tokens=engines.tokens)
    limit = None
    if isinstance(context.settings, SamplingSettings):
        limit = StateLimit(
            context.settings.max_state_share,
            what=title,
            setting=f"{context.name}.max_state_share",
            normal=normal,
            together=together,
        )
    return engines.run(
        run_rows(items, make, store=store, concurrency=concurrency, task=task, limit=limit)
    )


def not_held_out(context: Context[Any], rows: Sequence[A]) -> list[A]:
    """Leave out rows of a file that answer held-out prompts of the run."""
    prompts = read_rows(context.source(PROMPTS) / "rows.jsonl", PromptRow)
    near = context.section_of(PROMPTS, PromptsSettings).near_duplicate
    return exclude_held_out(rows, prompts, near)


def data_metrics(
    rows: RowsResult[Any], usage: Usage, started: float, **more: object
) -> dict[str, Any]:
    """Return the figures that every data stage writes, and `more` of this stage only.

    `started` is `time.monotonic()` at the start. `errors` has the first error of each state.
    """
    seconds = time.monotonic() - started
    done = {
        name: round(value, 6 if name == "cost" else 2) if isinstance(value, float) else value
        for name, value in asdict(usage).items()
    }
    return {
        "rows": len(rows.rows),
        "rows_reused": len(rows.reused),
        "rows_waited": rows.waited,
        "states": rows.states,
        "errors": {row.state: row.error for row in reversed(rows.rows) if row.error},
        **done,
        **more,
        "seconds": round(seconds, 2),
        "tokens_per_second": round((usage.tokens_in + usage.tokens_out) / max(seconds, 1e-9), 1),
        "rows_per_second": round((len(rows.rows) - len(rows.reused)) / max(seconds, 1e-9), 2),
    }
