"""What a run says of a stage beside its states."""

import pytest

from cai.engines import Usage
from cai.pipeline.runner import hint, losses
from cai.pipeline.stage import data_metrics
from cai.rows import RowsResult


@pytest.mark.parametrize(
    ("seconds", "starved", "said"), [(60.0, 45.0, True), (60.0, 20.0, False), (5.0, 5.0, False)]
)
def test_only_an_engine_that_was_starved_for_long_is_worth_a_hint(seconds, starved, said):
    usage = Usage(engine_seconds=seconds, engine_starved_seconds=starved)
    metrics = data_metrics(RowsResult([], frozenset(), {}), usage, started=0.0)
    text = hint("compare", metrics)
    assert (text is not None) == said
    assert not said or ("45 of 60 s" in text and "`compare.concurrency`" in text)


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
