"""Prompts with the answer that a model should learn to give."""

from __future__ import annotations

from collections.abc import Iterable

from cai.data.conversation import Conversation
from cai.data.prompts.extraction import prompt_of, with_earlier_turns
from cai.data.prompts.record import LeftOut, Record, read_each, say_what_was_read
from cai.data.prompts.splitting import draw_limit
from cai.data.prompts.turns import checked_text, said, turns_of, until_user
from cai.data.records import DemonstrationRow, content_hash
from cai.errors import CaiError
from cai.settings import SourceSettings

CONVERSATIONS = ("transcript", "messages", "conversation", "conversations")
"""Columns of whole conversations, the answer included."""
ANSWERS = ("response", "completion", "answer", "output")
"""Columns of the answer alone."""


def demonstration_rows(
    records: Iterable[Record], source: SourceSettings, seed: int
) -> list[DemonstrationRow]:
    """Read prompts with answers, each pair once, without the thinking of models.

    Rows with turns of tools, or with an answer that is thinking alone, are left out, and said.

    Args:
        records: Each has either a whole conversation that ends with the assistant's turn
            (`CONVERSATIONS`), or a prompt and an answer (`ANSWERS`).
        source: Where they are from; its `limit` is drawn.
        seed: Draws the rows of a source with a `limit`.

    Raises:
        CaiError: A record has no conversation with an answer.
    """
    records = list(records)
    found = read_each(source.path, records, lambda record: _row(record, source.column))
    rows = {row.key: row for row in found if isinstance(row, DemonstrationRow)}
    say_what_was_read(source.path, records, ["prompts with answers"])
    if not rows:
        raise CaiError(f"{source.path}: none of its {len(records)} rows can be used.")
    return draw_limit(list(rows.values()), source.limit, seed)


def answered(record: Record, column: str | None) -> tuple[Conversation, str]:
    """Return a record's conversation up to the user's turn, and the answer to it.

    Raises:
        CaiError: It has none.
        LeftOut: The answer is thinking alone.
    """
    whole = next((name for name in CONVERSATIONS if record.has(name)), None)
    answer = next((name for name in ANSWERS if record.has(name)), None)
    if answer == "response" or (answer and not whole):
        messages = prompt_of(record, column)
        response = checked_text(record.get(answer), answer, record.where)
    else:
        name = column or whole
        turns = turns_of(record.get(name), name, record.where) if name else []
        messages = until_user(with_earlier_turns(record, turns), record)
        response = turns[-1].content if turns and turns[-1].role == "assistant" else ""
    if messages is None or not response:
        raise CaiError(
            f"{record.where} holds no conversation that ends with an answer (it has "
            f"{record.columns()}). Give a `transcript`, `messages`, or a prompt and a `response`."
        )
    text = said(response, record)
    if not text:
        raise LeftOut(f"{record.where}: the response has thinking and no answer.", "unreadable")
    return messages, text


def _row(record: Record, column: str | None) -> DemonstrationRow:
    messages, response = answered(record, column)
    key = content_hash("demonstration", messages, response)
    return DemonstrationRow(key=key, messages=messages, response=response)
