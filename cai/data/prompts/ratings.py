"""Rated conversations: what the harmfulness model learns from."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, cast

from cai.data.prompts.demonstrations import answered
from cai.data.prompts.record import Record, read_each, say_what_was_read
from cai.data.prompts.splitting import draw_limit
from cai.data.records import HIGHEST, LOWEST, RatedRow, content_hash
from cai.errors import CaiError
from cai.settings import SourceSettings


def rated_rows(records: Iterable[Record], source: SourceSettings, seed: int) -> list[RatedRow]:
    """Read transcripts with ratings, each once, without the thinking of models.

    Rows with turns of tools, or with an answer that is thinking alone, are left out, and said.

    Args:
        records: Each has a `rating` from 0 (harmless) to 4, and either a whole conversation that
            ends with the assistant's turn (`transcript`, `messages`, …) or a prompt and a
            `response`. Anthropic's red-team attempts are such records.
        source: Where they are from; its `limit` is drawn.
        seed: Draws the rows of a source with a `limit`.

    Raises:
        CaiError: A record has no conversation or no such rating.
    """
    records = list(records)
    found = read_each(source.path, records, lambda record: _rated(record, source.column))
    rows = {row.key: row for row in found if isinstance(row, RatedRow)}
    say_what_was_read(source.path, records, ["rated conversations"])
    if not rows:
        raise CaiError(f"{source.path}: none of its {len(records)} rows can be used.")
    return draw_limit(list(rows.values()), source.limit, seed)


def _rated(record: Record, column: str | None) -> RatedRow:
    if not record.has("rating"):
        raise CaiError(
            f"{record.where} has no column `rating`: it has {record.columns()}. Name the column of "
            "the ratings from 0 (harmless) to 4 so."
        )
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
    messages, response = answered(record, column)
    return RatedRow(
        key=content_hash("rated", messages, response, rating),
        messages=messages,
        response=response,
        rating=rating,
    )
