"""How much of the labels is made again when one principle is reworded."""

import asyncio
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.playground_feedback.asking import Judge
from cai.compare import FeedbackJudge, JudgementInputs
from cai.compare.quality import gold_pair
from cai.constitution import Constitution, load_constitution
from cai.data.records import JudgementRow
from cai.data.rows import Item, run_rows
from cai.data.store import RowStore
from cai.playground.sources import feedback_comparisons
from cai.settings import CompareSettings


def relabelling(judge_: Judge, count: int) -> dict[str, Any]:
    """Reword one `comparison` of a constitution of 16 principles; count the engine's calls."""
    constitution = load_constitution("harmless")
    settings = CompareSettings(few_shot=0)
    pairs = [gold_pair(row) for row in feedback_comparisons(seed=judge_.seed, limit=count)]
    engine, seed = judge_.engine, judge_.seed

    def items_under(edited: Constitution) -> list[Item[JudgementInputs]]:
        return FeedbackJudge(edited, settings, seed).items(pairs, engine)

    def reworded(number: int) -> Constitution:
        principles = list(constitution.principles)
        changed = f"{principles[number].comparison} Say which."
        principles[number] = principles[number].model_copy(update={"comparison": changed})
        return constitution.model_copy(update={"principles": tuple(principles)})

    def calls(edited: Constitution, folder: Path) -> int:
        before = engine.usage.engine_calls
        make = partial(FeedbackJudge(edited, settings, seed).row, engine=engine)
        store = RowStore(folder, JudgementRow)
        asyncio.run(run_rows(items_under(edited), make, store=store, concurrency=64))
        return engine.usage.engine_calls - before

    whole = {item.fingerprint for item in items_under(constitution)}
    numbers = [n for n, p in enumerate(constitution.principles) if p.comparison is not None]
    shares = [
        sum(item.fingerprint not in whole for item in items_under(reworded(n))) / len(whole)
        for n in numbers
    ]
    with tempfile.TemporaryDirectory() as folder:
        full = calls(constitution, Path(folder))
        edited = calls(reworded(numbers[1]), Path(folder))
    return {
        "principles": len(numbers),
        "edited": constitution.principles[numbers[1]].id,
        "full_pass_calls": full,
        "relabelling_calls": edited,
        "share": edited / full,
        "mean_share": statistics.fmean(shares),
        "largest_share": max(shares),
    }
