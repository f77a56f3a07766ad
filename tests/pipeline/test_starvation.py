"""The hint that an engine had too little to do."""

import pytest

from cai.engines import Usage
from cai.pipeline.runner import hint
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
