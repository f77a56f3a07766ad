"""A stage stops where one state has more than its share of the rows, and not by chance."""

import asyncio
import random
from collections import Counter

import pytest

from cai.data.records import Row
from cai.data.rows import Item, run_rows
from cai.data.states import StateLimit
from cai.data.store import RowStore, read_rows
from cai.errors import CaiError

LIMIT = StateLimit(0.5, what="revise", setting="revise.max_state_share")


def run(folder, states, *, limit=LIMIT, concurrency=4, asked=None, slow=("ok",)):
    """Make one row for each state; those that are lost end at once, and others take longer."""

    async def make(item):
        if asked is not None:
            asked.append(item.key)
        for _ in range(5 if item.inputs in slow else 1):
            await asyncio.sleep(0)
        error = None if item.inputs == "ok" else f"message of {item.key}."
        return Row(key=item.key, state=item.inputs, error=error)

    items = [Item(f"{n:04}", "f", state) for n, state in enumerate(states)]
    store = folder and RowStore(folder, Row)
    return asyncio.run(run_rows(items, make, store=store, concurrency=concurrency, limit=limit))


def mixed(share, count, state="refused", seed=0):
    draw = random.Random(seed)
    return [state if draw.random() < share else "ok" for _ in range(count)]


def stored(folder):
    """Return the states of the rows that a run would find, by key."""
    store = RowStore(folder, Row)
    found = {f"{n:04}": store.reusable(f"{n:04}", "f") for n in range(200)}
    return {key: row.state for key, row in found.items() if row}


@pytest.mark.parametrize("state", ["refused", "unparsed", "too_long", "failed"])
def test_a_state_that_all_rows_have_stops_the_stage_soon_and_is_named(tmp_path, state):
    asked = []
    with pytest.raises(CaiError) as caught:
        run(tmp_path, [state] * 500, asked=asked)
    said = str(caught.value)
    assert said.startswith(
        f"revise: {len(asked) - 3} of {len(asked)} rows are `{state}`, more than"
    )
    assert 20 <= len(asked) < 30
    assert f"The other {500 - len(asked)} were not begun. The first: message of 0000. " in said
    assert "set `revise.max_state_share` to 1" in said
    assert not (tmp_path / "rows.jsonl").exists()


@pytest.mark.parametrize("state", ["ok", "tie"])
def test_results_never_stop_a_stage(tmp_path, state):
    assert run(tmp_path, [state] * 100).states == {state: 100}


def test_what_is_normal_for_a_stage_does_not_stop_it(tmp_path):
    limit = StateLimit(0.5, "evaluate", "x", normal=("refused",))
    assert run(tmp_path, ["refused"] * 100, limit=limit).states == {"refused": 100}
    with pytest.raises(CaiError, match="`unparsed`"):
        run(tmp_path / "other", ["unparsed"] * 100, limit=limit)


def test_few_rows_and_a_share_of_one_never_stop(tmp_path):
    assert run(tmp_path / "few", ["refused"] * 19).states == {"refused": 19}
    never = StateLimit(1.0, "x", "x")
    assert run(tmp_path / "never", ["refused"] * 90, limit=never).states == {"refused": 90}


@pytest.mark.parametrize("concurrency", [1, 8, 64, 256])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.4])
def test_rows_below_the_share_are_all_made_however_they_arrive(share, concurrency):
    """Lost rows end first: of those that have ended, they are nearly all for a while."""
    for seed in range(8):
        states = mixed(share, 300, seed=seed)
        made = run(None, states, concurrency=concurrency)
        assert made.states == dict(Counter(states))


def test_rows_of_one_prompt_count_as_one(tmp_path):
    """Sixteen judgements of each pair share its fate: two refused pairs are no sign."""
    states = [state for state in mixed(0.3, 100, seed=3) for _ in range(16)]
    states = ["refused"] * 48 + states
    together = StateLimit(0.5, "x", "x", together=16)
    assert run(tmp_path / "a", states, limit=together).states["refused"] < len(states) / 2
    with pytest.raises(CaiError):
        run(tmp_path / "b", states)


def test_at_the_end_the_share_is_exact(tmp_path):
    states = (["refused"] * 15 + ["ok"] * 15)[::-1]
    assert run(tmp_path / "half", states).states == {"ok": 15, "refused": 15}
    with pytest.raises(CaiError, match=r"16 of 31 rows are `refused`.*\(0\.5\)\. The first"):
        run(tmp_path / "more", ["ok", *(["refused", "ok"] * 14), "refused", "refused"][:31])


def test_the_next_run_keeps_what_is_finished_and_makes_what_is_owed(tmp_path):
    lost = mixed(0.8, 200)
    first = []
    with pytest.raises(CaiError):
        run(tmp_path, lost, asked=first)
    kept = {key for key, state in stored(tmp_path).items() if state == "ok"}
    assert kept
    # The cause is gone: those that were lost are asked again, and those that were not begun.
    second = []
    made = run(tmp_path, ["ok"] * 200, asked=second)
    assert made.states == {"ok": 200}
    assert set(second) == {f"{n:04}" for n in range(200)} - kept
    assert made.reused == kept
    assert len(read_rows(tmp_path / "rows.jsonl", Row)) == 200


def test_a_cause_that_stays_stops_the_next_run_too_and_a_higher_share_keeps_all(tmp_path):
    lost = mixed(0.8, 200)
    for _ in range(2):
        asked = []
        with pytest.raises(CaiError, match="`refused`"):
            run(tmp_path, lost, asked=asked)
        assert len(asked) < 100
    there = stored(tmp_path)
    asked = []
    made = run(tmp_path, lost, asked=asked, limit=StateLimit(0.9, "x", "x"))
    assert made.states == dict(Counter(lost))
    assert not {*there} & {*asked}


def test_rows_that_are_there_count(tmp_path):
    run(tmp_path, ["ok"] * 100)
    more = run(tmp_path, ["ok"] * 100 + ["too_long"] * 60)
    assert more.states == {"ok": 100, "too_long": 60}


def test_without_a_store_nothing_is_promised_to_be_kept():
    with pytest.raises(CaiError) as caught:
        run(None, ["unparsed"] * 40)
    assert "kept" not in str(caught.value)
