"""A record to the prompt in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

from cai.data.conversation import Conversation, Message, Role
from cai.data.prompts.record import PROMPT_COLUMNS, LeftOut, Record
from cai.data.prompts.turns import (
    checked_text,
    earlier_turns,
    is_conversation,
    is_tool,
    role_of,
    texts_of,
    turns_of,
    until_user,
)
from cai.data.records import Kind, PromptRow, content_hash
from cai.errors import CaiError
from cai.settings import SourceSettings

SYSTEM_COLUMNS = ("system", "system_prompt", "system_message")
_SPEAKER_COLUMNS = ("role", "from", "speaker", "author")
CONTEXT_COLUMNS = ("context", "contextstring")
CONVERSATIONS: dict[str, str] = {
    "prompt": "prompts",
    "messages": "messages",
    "conversation": "conversations",
    "conversations": "ShareGPT conversations",
    "conversation_a": "Arena conversations",
    "turns": "turns",
    "instruction": "Alpaca instructions",
    "question": "questions",
    "query": "questions",
    "goal": "behaviours",
    "behavior": "behaviours",
    "input": "prompts",
    "chosen": "preferred conversations",
    "text": "texts",
    "context": "conversations",
    "history": "conversations",
}
"""The column in which a conversation stands to the name of the layout."""

_TAGS = ("category", "stratum", "type", "label")
# Texts that a chat template has already written: their answers would pass for the user's words.
_TEMPLATED = re.compile(
    r"\s*(?:<\|im_start\|>|<\|start_header_id\|>|<start_of_turn>|<s>\s*\[INST\]|\[INST\]|<\|user\|>"
    r"|#{2,3} (?:Human|User|Instruction|Assistant):)"
)


def prompt_row(record: Record, source: SourceSettings, kind: Kind) -> PromptRow | None:
    """Return the prompt in a record, not yet split, or None when it is blank.

    Raises:
        LeftOut: As `prompt_of`.
        CaiError: The source's column is missing, or what it holds is no prompt.
    """
    messages = prompt_of(record, source.column)
    if messages is None:
        return None
    key = content_hash(messages)
    return PromptRow(
        key=key,
        kind=kind,
        split="train",
        messages=messages,
        source=source.path,
        task=key,
        tags=tags_of(record),
    )


def prompt_of(record: Record, column: str | None = None) -> Conversation | None:
    """Return the prompt in a record: its conversation up to the user's last turn.

    System prompts and earlier turns in columns of their own stand before it.

    Args:
        record: A row of a source.
        column: The column of the prompt; by default the first usual one that the record has.

    Returns:
        The conversation, without the thinking of models; None when it is blank or null.

    Raises:
        LeftOut: The row is one message that is not the user's, or has turns of tools or parts that
            are no text.
        CaiError: The column is missing, or what it holds is no prompt.
    """
    name = prompt_column(record, column)
    if column is None and isinstance(record.peek(name), str):
        speaker = _speaker(record, name)
        if speaker != "user":
            raise LeftOut(f"{record.where} is a message of the {speaker}'s.", "assistant")
    if column is None and name == "instruction":
        turns = _instruction_turns(record)
    else:
        turns = _turns_in(record, name)
    if until_user(turns, record) is None:
        return None
    if column is None and name != "instruction":
        turns = _with_context(record, name, turns)
    return until_user(with_earlier_turns(record, turns), record)


def prompt_column(record: Record, column: str | None = None) -> str:
    """Return the name of the column in which the prompt stands.

    Raises:
        CaiError: The column is missing, or the record has none of the usual ones.
    """
    if column is not None:
        if record.has(column):
            return column
        raise CaiError(
            f"{record.where} has no column `{column}`; it has {record.columns()}. Correct `column`."
        )
    names = [*PROMPT_COLUMNS, "conversation_a"]
    if record.has("role"):
        names.append("content")
    # Alone, these are the conversation; beside a prompt, they are what stands before it.
    names += [name for name in ("context", "history") if is_conversation(record.peek(name))]
    if record.has("history", "human_ref_a"):
        names.append("history")
    found = next((name for name in names if record.has(name)), None)
    if found is None:
        raise CaiError(
            f"{record.where} has none of the usual columns of a prompt; it has {record.columns()}. "
            "Name the right one in the source's `column`."
        )
    return found


def layout_name(record: Record, column: str | None = None) -> str:
    """Return what the layout of a conversation is called."""
    name = prompt_column(record, column)
    if column is not None:
        return f"prompts in `{column}`"
    return "single messages" if _is_single_message(record, name) else CONVERSATIONS[name]


def with_earlier_turns(record: Record, turns: list[Message]) -> list[Message]:
    """Put the system prompt and the history that have columns of their own before the turns.

    Raises:
        CaiError: They cannot be read.
    """
    first: list[Message] = []
    for name in SYSTEM_COLUMNS:
        value = record.get(name) if record.has(name) else None
        text = "" if value is None else checked_text(value, name, record.where)
        message = Message(role="system", content=text)
        if text and message not in [*first, *turns[:1]]:
            first.append(message)
    history: list[Message] = []
    if record.has("history") and prompt_column(record) != "history":
        history = earlier_turns(record.get("history"), "history", record.where)
    if history and turns and turns[0].role == "system":
        return [*first, turns[0], *history, *turns[1:]]
    return [*first, *history, *turns]


def tags_of(record: Record) -> dict[str, str]:
    """Return what the record says of its prompt in the usual tag columns."""
    values = {name: record.get(name) for name in _TAGS}
    return {
        name: checked_text(value, name, record.where)
        for name, value in values.items()
        if isinstance(value, str) and value.strip()
    }


def _turns_in(record: Record, name: str) -> list[Message]:
    value = record.get(name)
    if name == "chosen" and isinstance(value, str) and not is_conversation(value):
        # A bare response would pass for a prompt.
        raise CaiError(
            f"{record.where}: `chosen` holds a response, and nothing says to which prompt. Name "
            "the prompt's column in `column`."
        )
    if name == "text" and isinstance(value, str) and _TEMPLATED.match(value):
        raise CaiError(
            f"{record.where}: `text` holds a conversation that a chat template has already written "
            f"({value.strip()[:20]!r}). Give the messages that it was made of."
        )
    if name == "prompt" and record.has("response_a", "response_b"):
        texts = texts_of(value, name, record.where)
        return [Message(role="user", content=text) for text in texts[:1]]
    return turns_of(value, name, record.where)


def _instruction_turns(record: Record) -> list[Message]:
    """Read the instruction, and its input and context after blank lines.

    The input stands in `input` or `instances[0].input`.
    """
    value = record.get("instruction")
    if value is None or is_conversation(value):
        return turns_of(value, "instruction", record.where)
    parts = [value, _instruction_input(record), *_context_texts(record)]
    texts = ["" if p is None else checked_text(p, "instruction", record.where) for p in parts]
    own = Message(role="user", content="\n\n".join(text for text in texts if text))
    return [*_context_turns(record), own]


def _instruction_input(record: Record) -> object:
    instances = record.get("instances") if record.has("instances") else None
    if isinstance(instances, list) and instances and isinstance(instances[0], Mapping):
        return cast("Mapping[str, object]", instances[0]).get("input")
    return record.get("input") if record.has("input") else None


def _with_context(record: Record, name: str, turns: list[Message]) -> list[Message]:
    """Put a `context` of turns before the prompt, and one of text after it."""
    if name in CONTEXT_COLUMNS or len(turns) != 1:
        return turns
    texts = [checked_text(text, "context", record.where) for text in _context_texts(record)]
    content = "\n\n".join(text for text in (turns[0].content, *texts) if text)
    return [*_context_turns(record), Message(role="user", content=content)]


def _context_texts(record: Record) -> list[str]:
    texts = {name: record.peek(name) for name in CONTEXT_COLUMNS}
    return [
        str(record.get(name))
        for name, value in texts.items()
        if isinstance(value, str) and not is_conversation(value) and value.strip() != "[]"
    ]


def _context_turns(record: Record) -> list[Message]:
    if not is_conversation(record.peek("context")):
        return []
    return earlier_turns(record.get("context"), "context", record.where)


def _speaker(record: Record, name: str) -> Role:
    """Return whose text this is, by a role beside it; the user's without one.

    Raises:
        LeftOut: It is a tool's.
        CaiError: The row is one message, and its role is not known.
    """
    if is_tool(record.peek("role")):
        raise LeftOut(f"{record.where} is a message of a tool's.", "unreadable")
    known: Role | None = None
    for column in _SPEAKER_COLUMNS:
        if known is None and role_of(record.peek(column)) is not None:
            known = role_of(record.get(column))
    if known is None and _is_single_message(record, name):
        raise CaiError(
            f"{record.where}: `role` is {record.get('role')!r:.40}, no known role, so nobody knows "
            f"whose text `{name}` is. Use user or assistant, or name `column`."
        )
    return "user" if known is None else known


def _is_single_message(record: Record, name: str) -> bool:
    """Say whether the row is one message of a conversation, with its role beside it."""
    if name not in ("text", "content") or not record.has("role"):
        return False
    return record.get("role") is not None
