"""Rated conversations from files: what the harmfulness model learns from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

from cai.conversation import Conversation
from cai.errors import CaiError
from cai.prompts.extraction import checked_text, prompt_of, turns_of, until_user
from cai.prompts.loading import draw_limit
from cai.prompts.record import Record
from cai.prompts.sources import read_source
from cai.records import HIGHEST, LOWEST, RatedRow, content_hash
from cai.settings import SourceSettings


def read_ratings(source: SourceSettings, *, seed: int, base_dir: Path) -> list[RatedRow]:
    """Read transcripts with ratings, each once.

    Args:
        source: A file whose rows have a `rating` from 0 (harmless) to 4, and either a whole
            conversation that ends with the assistant's turn (`transcript`, `messages`, …) or a
            prompt and a `response`. Anthropic's red-team attempts are such a file.
        seed: Draws the rows of a source with a `limit`.
        base_dir: Relative paths start here.

    Raises:
        CaiError: The file cannot be read, or a row has no conversation or no such rating.
    """
    rows = [_rated(record) for record in read_source(source, base_dir)]
    return draw_limit(list({row.key: row for row in rows}.values()), source.limit, seed)


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
