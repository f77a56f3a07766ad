"""Asking a feedback model about responses outside a pipeline, with nothing kept on disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from cai.compare import JudgementInputs, judge, judgement_items
from cai.constitution import Constitution
from cai.engines import Engine
from cai.records import JudgementRow, PairRow
from cai.rows import Item
from cai.settings import CompareSettings


async def ask_about(
    pairs: Iterable[PairRow],
    *,
    constitution: Constitution,
    settings: CompareSettings,
    engine: Engine,
    model: str,
    seed: int,
    tell: Callable[[int, int], None] | None = None,
) -> list[JudgementRow]:
    """Judge every pair under the principles that the settings draw for it.

    Args:
        pairs: The responses.
        constitution: Where the principles are.
        settings: The form of feedback, and how it is asked for.
        engine: The feedback model.
        model: Its name in the rows.
        seed: Decides draws and samples.
        tell: Called after each judgement, with how many there are so far and will be.

    Returns:
        The judgements, in the order of the pairs.
    """
    items = judgement_items(
        pairs,
        constitution=constitution,
        settings=settings,
        model_fingerprint=engine.fingerprint,
        seed=seed,
    )
    limit, done = asyncio.Semaphore(settings.concurrency), 0

    async def one(item: Item[JudgementInputs]) -> JudgementRow:
        nonlocal done
        async with limit:
            row = await judge(
                item,
                constitution=constitution,
                settings=settings,
                engine=engine,
                model=model,
                seed=seed,
            )
        done += 1
        if tell:
            tell(done, len(items))
        return row

    return list(await asyncio.gather(*map(one, items)))
