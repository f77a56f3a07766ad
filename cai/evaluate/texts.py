"""The log-probability of benign texts that the models did not write."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cai.data.conversation import Conversation, Prompt
from cai.data.records import Row
from cai.data.rows import Item, run_rows
from cai.engines import Engine, PromptTooLong, ScoreRequest, Unanswered, Unscored


@dataclass(frozen=True)
class BenignText:
    """A text for the measure of perplexity, with its prompt and the task of this."""

    messages: Conversation
    response: str
    task: str


class _TextRow(Row):
    logprob: float | None


async def text_logprobs(
    engine: Engine, texts: Sequence[BenignText], concurrency: int
) -> list[float | None]:
    """Return log P(response | messages) of each text, nats; `concurrency` requests at a time.

    None if it does not fit, or the model's server does not score it.
    """

    async def make(item: Item[BenignText]) -> _TextRow:
        return _TextRow(key=item.key, logprob=await _logprob(engine, item.inputs))

    items = [Item(str(number), "", text) for number, text in enumerate(texts)]
    made = await run_rows(items, make, concurrency=concurrency)
    return [row.logprob for row in made.rows]


async def _logprob(engine: Engine, text: BenignText) -> float | None:
    try:
        scores = await engine.score(ScoreRequest(Prompt(text.messages), (text.response,)))
    except (PromptTooLong, Unanswered, Unscored):
        return None
    return scores.logprobs[0] if math.isfinite(scores.logprobs[0]) else None
