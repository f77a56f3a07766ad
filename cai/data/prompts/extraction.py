"""A record to the prompt in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from cai.data.conversation import Conversation, Message
from cai.data.prompts.record import PROMPT_COLUMNS, Record
from cai.data.prompts.transcripts import ROLES, is_transcript, join_turns, split_turns, strip_markup
from cai.data.records import Kind, PromptRow, content_hash
from cai.errors import CaiError
from cai.settings import SourceSettings

_TAGS = ("category", "stratum", "type", "label")
_ALTERNATING = ("conversation", "conversations", "messages")


def prompt_row(record: Record, source: SourceSettings, kind: Kind) -> PromptRow | None:
    """Return the prompt in a record, not yet split, or None when it is blank.

    Raises:
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

    Args:
        record: A row of a source.
        column: Where the prompt stands; one of `PROMPT_COLUMNS` that the record has, if None.

    Returns:
        The conversation, or None when it is blank.

    Raises:
        CaiError: The column is missing, or what it holds is no prompt.
    """
    name = column or _usual_column(record)
    if column is not None and not record.has(column):
        raise CaiError(
            f"{record.where} has no column `{column}`; it has {record.columns()}. Correct `column`."
        )
    if column is None and name == "instruction":
        turns = [Message(role="user", content=instruction_of(record))]
    else:
        value = _whole_chosen(record) if name == "chosen" else record.get(name)
        turns = turns_of(value, name, record.where)
    return until_user(turns, record.where)


def tags_of(record: Record) -> dict[str, str]:
    """Return what the record says of its prompt in the usual tag columns."""
    values = {name: record.get(name) for name in _TAGS}
    return {
        name: checked_text(value, name, record.where)
        for name, value in values.items()
        if isinstance(value, str) and value.strip()
    }


def turns_of(value: object, name: str, where: str) -> list[Message]:
    """Read a text, a transcript, a list of messages or a list of turns; turns are not joined.

    A list of texts holds the user's turns, of which only the first can be asked: the answers that
    the later ones refer to are not there. Under the names `conversation`, `conversations` and
    `messages`, it holds both sides in turn, the user first.

    Raises:
        CaiError: The value is nothing of the kind.
    """
    if value is None:
        return []
    if isinstance(value, str):
        text = checked_text(value, name, where)
        return split_turns(text) if is_transcript(text) else [_user(text)]
    if isinstance(value, list):
        items = cast("list[object]", value)
        if all(isinstance(item, Mapping) for item in items):
            return [_message(cast("Mapping[str, object]", item), name, where) for item in items]
        texts = [checked_text(item, name, where) for item in items]
        if name.lower() not in _ALTERNATING:
            return [_user(texts[0])]
        roles = ("user", "assistant")
        return [Message(role=roles[i % 2], content=text) for i, text in enumerate(texts)]
    raise _not_text(value, name, where)


def until_user(turns: list[Message], where: str) -> Conversation | None:
    """Cut a conversation after the user's last turn; None when that turn is blank.

    Raises:
        CaiError: There are turns, but none of the user's.
    """
    last = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=None)
    if last is None:
        if any(turn.content for turn in turns):
            raise CaiError(f"{where} has no turn of the user's, so there is nothing to answer.")
        return None
    conversation = join_turns(turns[: last + 1])
    return conversation if conversation[-1].content else None


def instruction_of(record: Record) -> str:
    """Return the instruction and its input (`input`, `context` or `instances[0].input`).

    Raises:
        CaiError: They are not texts.
    """
    parts = [record.get("instruction"), _instruction_input(record)]
    texts = ["" if p is None else checked_text(p, "instruction", record.where) for p in parts]
    return "\n\n".join(text for text in texts if text)


def checked_text(value: object, name: str, where: str) -> str:
    """Return a text, stripped.

    Raises:
        CaiError: It is not a text, or no valid one.
    """
    if not isinstance(value, str):
        raise _not_text(value, name, where)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise CaiError(
            f"{where}: `{name}` holds half a character (a lone surrogate at position "
            f"{error.start}). Fix the text or delete the row."
        ) from error
    return strip_markup(value)


def _usual_column(record: Record) -> str:
    present = [name for name in PROMPT_COLUMNS if record.has(name)]
    if present:
        return next((name for name in present if record.get(name) is not None), present[0])
    raise CaiError(
        f"{record.where} has none of the usual columns of a prompt; it has {record.columns()}. "
        "Name the right one in the source's `column`."
    )


def _whole_chosen(record: Record) -> object:
    """Return `chosen` if it is a conversation; a bare response would pass for a prompt."""
    value = record.get("chosen")
    if isinstance(value, str) and not is_transcript(value):
        raise CaiError(
            f"{record.where}: `chosen` holds a response, and nothing says to which prompt. Name "
            "the prompt's column in `column`."
        )
    return value


def _instruction_input(record: Record) -> object:
    instances = record.get("instances")
    if isinstance(instances, list) and instances and isinstance(instances[0], Mapping):
        return cast("Mapping[str, object]", instances[0]).get("input")
    return record.get("input") or record.get("context")


def _message(item: Mapping[str, object], name: str, where: str) -> Message:
    """Read {role, content} or {from, value}."""
    role = ROLES.get(str(item.get("role", item.get("from"))).lower())
    if role is None:
        raise CaiError(
            f"{where}: a message in `{name}` has no known `role` (it has "
            f"{', '.join(f'{key}={str(item[key])[:20]!r}' for key in item)}). Use system, user or "
            "assistant."
        )
    content = item.get("content", item.get("value"))
    return Message(role=role, content="" if content is None else checked_text(content, name, where))


def _user(text: str) -> Message:
    return Message(role="user", content=text)


def _not_text(value: object, name: str, where: str) -> CaiError:
    return CaiError(
        f"{where}: `{name}` holds {str(value)[:40]!r} ({type(value).__name__}), not a text. Fix "
        "the row, or name another column in `column`."
    )
