"""Rated conversations: what the harmfulness model learns from."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, cast

from cai.data.conversation import Conversation
from cai.data.prompts.extraction import checked_text, prompt_of, turns_of, until_user
from cai.data.prompts.record import Record
from cai.data.prompts.splitting import draw_limit
from cai.data.records import HIGHEST, LOWEST, RatedRow, content_hash
from cai.errors import CaiError
from cai.settings import SourceSettings


def rated_rows(records: Iterable[Record], source: SourceSettings, seed: int) -> list[RatedRow]:
    """Read transcripts with ratings, each once.

    Args:
        records: Each has a `rating` from 0 (harmless) to 4, and either a whole conversation that
            ends with the assistant's turn (`transcript`, `messages`, …) or a prompt and a
            `response`. Anthropic's red-team attempts are such records.
        source: Where they are from; its `limit` is drawn.
        seed: Draws the rows of a source with a `limit`.

    Raises:
        CaiError: A record has no conversation or no such rating.
    """
    rows = {row.key: row for row in map(_rated, records)}
    return draw_limit(list(rows.values()), source.limit, seed)


def _rated(record: Record) -> RatedRow:
    value = record.get("rating")
    try:
        rating = float(cast("Any", value))
    except (TypeError, ValueError):
        rating = math.nan
    if isinstance(value, bool) or not LOWEST <= rating <= HIGHEST:
        raise CaiError(
            f"{record.where}: `rating` is {value!r:.40}; it must be a number from 0 (harmless) to "
            "4. Rescale it, or remove the row."
        )
    messages, response = _conversation(record)
    return RatedRow(
        key=content_hash("rated", messages, response, rating),
        messages=messages,
        response=response,
        rating=rating,
    )


def _conversation(record: Record) -> tuple[Conversation, str]:
    if record.has("response"):
        messages = prompt_of(record)
        response = checked_text(record.get("response"), "response", record.where)
    else:
        name = next((n for n in ("transcript", "messages", "conversation") if record.has(n)), None)
        turns = turns_of(record.get(name), name, record.where) if name else []
        messages = until_user(turns, record.where)
        response = turns[-1].content if turns and turns[-1].role == "assistant" else ""
    if messages is None or not response:
        raise CaiError(
            f"{record.where} holds no conversation that ends with an answer (it has "
            f"{record.columns()}). Give a `transcript`, `messages`, or a prompt and a `response`."
        )
    return messages, response
