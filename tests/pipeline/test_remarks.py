"""What a run says of a stage beside its states."""

import asyncio

import pytest

from cai.data.records import Row
from cai.data.rows import Item, RowsResult, run_rows
from cai.engines import Usage
from cai.engines.in_flight import InFlight
from cai.pipeline.data_stage import data_metrics
from cai.pipeline.runner import hint, losses


@pytest.mark.parametrize(
    ("seconds", "starved", "waited", "said"),
    [
        (60.0, 45.0, 1_244, True),
        (60.0, 45.0, 0, False),  # all rows were under way: there is nothing to raise
        (60.0, 20.0, 1_244, False),
        (5.0, 5.0, 1_244, False),
    ],
)
def test_only_rows_that_waited_for_a_starved_engine_are_worth_a_hint(
    seconds, starved, waited, said
):
    usage = Usage(engine_seconds=seconds, engine_starved_seconds=starved)
    metrics = data_metrics(RowsResult([], frozenset(), {}, waited), usage, started=0.0)
    text = hint("compare", metrics)
    assert (text is not None) == said
    if text:
        assert all(part in text for part in ("45 of 60 s", "1,244", "`compare.concurrency`"))


@pytest.mark.parametrize(("count", "concurrency", "waited"), [(11, 256, 0), (11, 4, 7), (4, 4, 0)])
def test_rows_wait_only_beyond_the_limit(count, concurrency, waited):
    async def make(item):
        return Row(key=item.key)

    items = [Item(str(number), "", None) for number in range(count)]
    assert asyncio.run(run_rows(items, make, concurrency=concurrency)).waited == waited


@pytest.mark.parametrize("few", [1, 2])
def test_time_without_a_request_is_no_time_of_an_engine(monkeypatch, few):
    now = [0.0]
    monkeypatch.setattr("cai.engines.in_flight.time.perf_counter", lambda: now[0])
    usage = Usage()
    in_flight = InFlight(usage, few=few)
    for start, end in ((1.0, 3.0), (100.0, 104.0)):  # another engine is at work in between
        now[0] = start
        with in_flight:
            now[0] = end
    assert usage.engine_seconds == 6.0
    assert usage.engine_starved_seconds == (6.0 if few > 1 else 0.0)


def test_stages_without_an_engine_have_no_hint():
    assert hint("sft", {"steps": 3}) is None


def test_why_rows_were_lost_is_said_where_many_were():
    metrics = {
        "rows": 20,
        "states": {"ok": 12, "tie": 4, "too_long": 3, "failed": 1},
        "errors": {"tie": "the same", "too_long": "2067 tokens", "failed": "a timeout"},
    }
    (said,) = losses("revise", metrics)
    assert "3 of 20" in said
    assert "`too_long`" in said
    assert "2067 tokens" in said
    assert losses("sft", {"steps": 3}) == []
