"""The scheduler: bounded, resumable, no row made twice, none lost."""

import asyncio
from contextlib import contextmanager

import pytest

from cai.data.records import Row
from cai.data.rows import Item, run_rows
from cai.data.store import RowStore, read_rows


class Square(Row):
    value: int


def items(count, fingerprint="f"):
    return [Item(f"{n:03}", fingerprint, n) for n in range(count)]


async def square(item):
    await asyncio.sleep(0)
    return Square(key=item.key, value=item.inputs**2)


def run(folder, wanted, make=square, concurrency=4):
    return asyncio.run(
        run_rows(wanted, make, store=RowStore(folder, Square), concurrency=concurrency)
    )


def test_every_item_becomes_one_row(tmp_path):
    result = run(tmp_path, items(20))
    assert [row.value for row in result.rows] == [n**2 for n in range(20)]
    assert result.states == {"ok": 20}
    assert not result.reused


def test_a_second_run_makes_nothing(tmp_path):
    run(tmp_path, items(5))

    async def never(item):
        raise AssertionError(f"made {item.key} again")

    assert len(run(tmp_path, items(5), never).reused) == 5


def test_only_rows_with_another_fingerprint_are_made_again(tmp_path):
    run(tmp_path, items(5))
    changed = [*items(4), Item("004", "g", 9)]
    made = []

    async def record(item):
        made.append(item.key)
        return await square(item)

    result = run(tmp_path, changed, record)
    assert made == ["004"]
    assert result.rows[-1].value == 81


def test_an_error_ends_the_run_and_keeps_finished_rows(tmp_path):
    async def fails_late(item):
        if item.inputs == 7:
            raise RuntimeError("the engine broke")
        return await square(item)

    with pytest.raises(RuntimeError, match="the engine broke"):
        run(tmp_path, items(10), fails_late, concurrency=1)
    assert not (tmp_path / "rows.jsonl").exists()
    made = []

    async def record(item):
        made.append(item.inputs)
        return await square(item)

    run(tmp_path, items(10), record)
    assert sorted(made) == [7, 8, 9]
    assert len(read_rows(tmp_path / "rows.jsonl", Square)) == 10


def test_cancellation_leaves_whole_rows_only(tmp_path):
    async def main():
        finished = asyncio.Event()

        async def make(item):
            if item.inputs < 3:
                return await square(item)
            finished.set()
            await asyncio.Event().wait()
            raise AssertionError("never reached")

        store = RowStore(tmp_path, Square)
        task = asyncio.create_task(run_rows(items(9), make, store=store, concurrency=2))
        await finished.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    store = RowStore(tmp_path, Square)
    kept = [n for n in range(9) if store.reuse(f"{n:03}", "f")]
    assert kept == [0, 1, 2]


def test_at_most_the_allowed_number_is_under_way(tmp_path):
    under_way = highest = 0

    async def make(item):
        nonlocal under_way, highest
        under_way += 1
        highest = max(highest, under_way)
        for _ in range(3):
            await asyncio.sleep(0)
        under_way -= 1
        return await square(item)

    run(tmp_path, items(30), make, concurrency=5)
    assert highest == 5


def test_rows_do_not_wait_for_each_other(tmp_path):
    """A row with a long chain does not hold up the others: there is no round barrier."""
    order = []

    async def make(item):
        for _ in range(10 if item.inputs == 0 else 1):
            await asyncio.sleep(0)
        order.append(item.inputs)
        return await square(item)

    run(tmp_path, items(6), make, concurrency=2)
    assert order[-1] == 0


def test_two_items_with_one_key_are_refused(tmp_path):
    with pytest.raises(ValueError, match="000"):
        run(tmp_path, [*items(1), *items(1)])


def test_without_a_store_rows_are_kept_in_memory_in_the_items_order():
    backwards = items(20)[::-1]

    async def slow_at_first(item):
        for _ in range(item.inputs):
            await asyncio.sleep(0)
        return await square(item)

    result = asyncio.run(run_rows(backwards, slow_at_first, concurrency=4))
    assert [row.value for row in result.rows] == [n**2 for n in range(20)][::-1]
    assert {row.fingerprint for row in result.rows} == {"f"}
    assert (result.states, result.reused) == ({"ok": 20}, frozenset())


def test_progress_is_told_of_the_rows_that_are_made_and_of_no_others(tmp_path):
    run(tmp_path, items(3))
    told = []

    @contextmanager
    def task(total):
        told.append(total)
        yield lambda: told.append("one")

    store = RowStore(tmp_path, Square)
    asyncio.run(run_rows(items(5), square, store=store, concurrency=2, task=task))
    assert told == [2, "one", "one"]
