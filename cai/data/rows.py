"""The scheduler: run one async function over many rows, bounded, resumable, with progress."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from cai.data.records import Row
from cai.data.states import StateLimit, Watch, owed
from cai.data.store import RowStore

T = TypeVar("T")
R = TypeVar("R", bound=Row)

Task = Callable[[int], AbstractContextManager[Callable[[], None]]]
"""Shows progress: gets how many units of work there are, and yields what to call after each."""


@contextmanager
def silent(total: int) -> Generator[Callable[[], None]]:  # noqa: ARG001
    """Show no progress."""
    yield lambda: None


@dataclass(frozen=True)
class Item(Generic[T]):
    """A row to be made.

    Attributes:
        key: The row's key.
        fingerprint: Everything that determines the row; equal to that of an earlier row, the
            earlier row is reused.
        inputs: What the row function gets.
    """

    key: str
    fingerprint: str
    inputs: T


@dataclass
class RowsResult(Generic[R]):
    """All rows of a stage, and how many are new or reused.

    Attributes:
        rows: Sorted by key, as a store keeps them; without a store, in the items' order.
        reused: Keys of those that were kept from an earlier execution.
        states: How many rows ended in each state; they sum to the number of items.
        waited: Rows that could not start at once, because `concurrency` others were under way.
    """

    rows: list[R]
    reused: frozenset[str]
    states: dict[str, int]
    waited: int = 0


async def run_rows(
    items: Iterable[Item[T]],
    make: Callable[[Item[T]], Awaitable[R]],
    *,
    store: RowStore[R] | None = None,
    concurrency: int,
    task: Task = silent,
    last: bool = True,
    limit: StateLimit | None = None,
) -> RowsResult[R]:
    """Make every row that is not there yet; each proceeds through its chain on its own.

    Args:
        items: The rows to make; keys are unique.
        make: The row function. What it raises ends the run; rows already finished stay on disk.
        store: Where rows are kept, and where earlier ones are found; None keeps them in memory.
        concurrency: At most so many rows are under way at once.
        task: Shows how many of the rows to make are done.
        last: False if more rows of this store are to follow; its file is then not written yet, and
            the result has all rows so far.
        limit: How many rows may end in one state. Items are taken in their order, so this should
            not put those first that are likely to end in the same.

    Raises:
        ValueError: Two items have the same key.
        CaiError: More rows than `limit` allows have ended in one state.
    """
    pending, kept = _to_make([*_distinct(items)], store, limit)
    watch = limit and Watch(limit, kept, len(pending), is_stored=store is not None)

    queue = iter(pending)
    made: dict[str, R] = {}

    async def worker(advance: Callable[[], None]) -> None:
        for item in queue:
            if watch:
                watch.begin()
            row = (await make(item)).model_copy(update={"fingerprint": item.fingerprint})
            if store is None:
                made[item.key] = row
            else:
                store.append(row)
            advance()
            if watch:
                watch.end(row)

    try:
        with task(len(pending)) as advance:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(concurrency, len(pending))):
                    group.create_task(worker(advance))
    except BaseExceptionGroup as group_error:
        # One cause is enough for a person; the others are nearly always the same one again.
        raise _first(group_error) from None
    if store is None:
        rows = [made[item.key] for item in pending]
    else:
        rows = store.finish() if last else store.rows
    reused = frozenset(row.key for row in kept)
    states = dict(Counter(row.state for row in rows))
    return RowsResult(rows, reused, states, waited=max(0, len(pending) - concurrency))


def _distinct(items: Iterable[Item[T]]) -> Iterator[Item[T]]:
    seen: set[str] = set()
    for item in items:
        if item.key in seen:
            raise ValueError(f"two rows have the key {item.key}")
        seen.add(item.key)
        yield item


def _to_make(
    items: Collection[Item[T]], store: RowStore[R] | None, limit: StateLimit | None
) -> tuple[list[Item[T]], list[R]]:
    """Return the items whose rows are to be made, and the earlier rows of the others."""
    if store is None:
        return [*items], []
    earlier = {item.key: store.reusable(item.key, item.fingerprint) for item in items}
    not_kept = owed(limit, filter(None, earlier.values()))
    kept = [
        row
        for item in items
        if (row := earlier[item.key])
        and row.state not in not_kept
        and store.reuse(item.key, item.fingerprint)
    ]
    keys = {row.key for row in kept}
    return [item for item in items if item.key not in keys], kept


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner
