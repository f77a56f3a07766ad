"""Rows of a file, written and read."""

import json

from cai.data.prompts.readers import reader_of
from cai.data.prompts.record import LeftOut
from cai.settings import SourceSettings


def source(folder, rows, **settings):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return reader_of(SourceSettings(path=str(path), **settings), folder)


def said_in(messages):
    return [(message.role, message.content) for message in messages]


def prompts(folder, rows, **settings):
    found = source(folder, rows, **settings).prompts("helpful", seed=0)
    return [
        row.reason
        if isinstance(row, LeftOut)
        else row and [(m.role, m.content) for m in row.messages]
        for row in found
    ]


def pairs(folder, rows, **settings):
    """Return prompt, better and worse of each pair, or its state."""
    found = source(folder, rows, **settings).comparisons("helpfulness", seed=0)
    return [
        (row.messages[-1].content, row.responses[row.label == 0], row.responses[row.label == 1])
        if row.state == "ok"
        else row.state
        for row in found
    ]


OASST = [
    {"message_id": "1", "parent_id": None, "text": "Hi", "role": "prompter", "lang": "en"},
    {"message_id": "2", "parent_id": "1", "text": "Hello", "role": "assistant", "rank": 0},
    {"message_id": "3", "parent_id": "1", "text": "Go away", "role": "assistant", "rank": 1},
    {"message_id": "4", "parent_id": "2", "text": "Why?", "role": "prompter"},
    {"message_id": "5", "parent_id": "4", "text": "So.", "role": "assistant", "rank": 1},
    {"message_id": "6", "parent_id": "4", "text": "Because.", "role": "assistant", "rank": 0},
]
