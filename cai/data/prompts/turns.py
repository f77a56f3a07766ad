"""Values of a cell to turns: texts, transcripts, lists of messages, pairs, JSON text, trees."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import cast

from cai.data.conversation import Conversation, Message, Role, strip_thinking
from cai.data.prompts.record import LeftOut, Record
from cai.data.prompts.transcripts import ROLES, is_transcript, join_turns, split_turns, strip_markup
from cai.errors import CaiError
from cai.settings.wording import shown

ALTERNATING = ("conversation", "conversations", "messages", "history")
"""Columns whose lists of texts hold both sides in turn, the user first."""

_ROLE_KEYS = ("role", "from", "speaker")
_TEXT_KEYS = ("content", "value", "text")
TOOL_ROLES = (
    "environment",
    "function",
    "function_call",
    "function_response",
    "ipython",
    "observation",
    "tool",
    "tool_call",
    "tool_response",
    "tool_result",
)
_CALLS = ("tool_calls", "function_call")
_WRAPPERS = ("messages", "conversation", "conversations")
_LIST_OF_MESSAGES = re.compile(
    r"\s*\[?\s*\{\s*(['\"])(?:role|from|content|value|messages|message_id|text)\1\s*:"
)
_ROLES_AS_TEXT = re.compile(
    r"\s*\[\s*\{(?=.*?['\"](?:role|from)['\"]\s*:)(?=.*?['\"](?:content|value)['\"]\s*:)", re.DOTALL
)
_LIST = re.compile(r"\s*\[\s*[\[{\"'\]]")


def turns_of(value: object, name: str, where: str) -> list[Message]:
    """Read a text, a transcript, messages or turns, also as JSON text; turns are not joined.

    A list of texts holds the user's turns, of which only the first can be asked: the answers that
    the later ones refer to are not there. Under the names in `ALTERNATING`, it holds both sides in
    turn, the user first. A list of pairs holds the user's and the assistant's turn in each. Of a
    tree, only its first message is read.

    Raises:
        CaiError: The value is nothing of the kind.
    """
    if value is None:
        return []
    if isinstance(value, str):
        return _turns_of_text(value, name, where)
    if isinstance(value, list):
        return _turns_of_list(cast("list[object]", value), name, where)
    if isinstance(value, Mapping):
        item = cast("Mapping[str, object]", value)
        inner = next((item[key] for key in _WRAPPERS if item.get(key) is not None), None)
        if inner is not None:
            return turns_of(inner, "messages", where)
        if _first(item, _ROLE_KEYS) is not None:
            return [message_of(item, name, where)]
    raise not_text(value, name, where)


def message_of(item: Mapping[str, object], name: str, where: str) -> Message:
    """Read {role, content}, {from, value} or {role, text}; null keys count as missing.

    Raises:
        LeftOut: It is a tool's turn, calls a tool, or has a part that is no text.
        CaiError: The role is not known, or the content is not text.
    """
    given = _first(item, _ROLE_KEYS)
    if is_tool(given) or any(item.get(name) for name in _CALLS):
        what = "a turn of a tool's" if is_tool(given) else "a turn that calls a tool"
        raise LeftOut(
            f"{where}: `{name}` has {what} (role {str(given)[:20]!r}); only what user, assistant "
            "and system say can be read.",
            "unreadable",
        )
    role = role_of(given)
    if role is None:
        raise CaiError(
            f"{where}: a message in `{name}` has no known `role` (it has "
            f"{', '.join(f'{key}={str(item[key])[:20]!r}' for key in item)}). Use system, user or "
            "assistant."
        )
    return Message(role=role, content=_content(_first(item, _TEXT_KEYS), name, where))


def role_of(given: object) -> Role | None:
    """Return `user`, `assistant` or `system` for any usual name of a role; None if unknown."""
    return ROLES.get(str(given).strip().lower())


def is_tool(given: object) -> bool:
    """Say whether this is a usual name of a tool's role."""
    return str(given).strip().lower() in TOOL_ROLES


def spoken(turns: Sequence[Message], record: Record) -> list[Message]:
    """Remove the thinking of models from the assistant's turns; the record keeps that it was so."""
    return [
        turn.model_copy(update={"content": said(turn.content, record)})
        if turn.role == "assistant"
        else turn
        for turn in turns
    ]


def said(answer: str, record: Record) -> str:
    """Remove thinking blocks from an answer; the record keeps that it had some."""
    without = strip_thinking(answer)
    if without != answer.strip():
        record.thinking.add("removed")
    return without


def until_user(turns: Sequence[Message], record: Record) -> Conversation | None:
    """Cut a conversation after the user's last turn; None when that turn is blank.

    The thinking of models is removed from the turns of the assistant's.

    Raises:
        LeftOut: There are turns, but none of the user's.
    """
    last = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=None)
    if last is None:
        if any(turn.content for turn in turns):
            raise LeftOut(
                f"{record.where} has no turn of the user's, so there is nothing to answer.",
                "assistant",
            )
        return None
    conversation = join_turns(spoken(turns[: last + 1], record))
    return conversation if conversation[-1].content else None


def structure(value: object) -> object:
    """Return the list or object that a cell holds as JSON text; other values as they are."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        parsed = _parsed(value)
        return parsed if isinstance(parsed, list | dict) else value
    return value


def earlier_turns(value: object, name: str, where: str) -> list[Message]:
    """Read the turns before a prompt (`history`).

    Raises:
        CaiError: It is not a conversation that ends with an answer.
    """
    if value is None or (isinstance(value, str) and value.strip() in ("", "null")):
        return []
    turns = turns_of(value, name, where)
    if turns and turns[-1].role != "assistant":
        raise CaiError(
            f"{where}: `{name}` does not end with an answer, so it cannot stand before the prompt. "
            "Write it as a list of messages, or of pairs of a question and its answer."
        )
    return turns


def is_conversation(value: object) -> bool:
    """Say whether a value holds turns with roles: a transcript or messages, also as JSON text."""
    if isinstance(value, str):
        return is_transcript(value) or _LIST_OF_MESSAGES.match(value) is not None
    return isinstance(value, list) and _has_roles(cast("object", value))


def texts_of(value: object, name: str, where: str) -> list[str]:
    """Read a text, or a list of texts, also as JSON text; nulls are empty texts.

    Raises:
        CaiError: It holds something else.
    """
    if isinstance(value, str) and _LIST.match(value):
        value = _parsed(value)
    items = cast("list[object]", value) if isinstance(value, list) else [value]
    return [checked_text("" if item is None else item, name, where) for item in items]


def checked_text(value: object, name: str, where: str) -> str:
    """Return a text, stripped.

    Raises:
        CaiError: It is not a text, or no valid one.
    """
    if not isinstance(value, str):
        raise not_text(value, name, where)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise CaiError(
            f"{where}: `{name}` holds half a character (a lone surrogate at position "
            f"{error.start}). Fix the text or delete the row."
        ) from error
    return strip_markup(value)


def not_text(value: object, name: str, where: str) -> CaiError:
    """Say that a value is no text."""
    return CaiError(
        f"{where}: `{name}` holds {shown(value)}, not a text. Fix the row, or name another column "
        "in `column`."
    )


def _turns_of_text(value: str, name: str, where: str) -> list[Message]:
    listed = _LIST if name.lower() in (*ALTERNATING, "turns") else _LIST_OF_MESSAGES
    if listed.match(value):
        parsed = structure(value)
        if not isinstance(parsed, str) and (listed is _LIST or _has_roles(parsed)):
            return turns_of(parsed, name, where)
        if isinstance(parsed, str) and _ROLES_AS_TEXT.match(value):
            raise CaiError(
                f"{where}: `{name}` looks like a list of messages as text, but is not valid JSON. "
                "Write the column with `json.dumps`."
            )
    text = checked_text(value, name, where)
    return split_turns(text) if is_transcript(text) else [Message(role="user", content=text)]


def _turns_of_list(items: list[object], name: str, where: str) -> list[Message]:
    if all(isinstance(item, Mapping) for item in items):
        return [message_of(cast("Mapping[str, object]", item), name, where) for item in items]
    if all(isinstance(item, list | tuple) for item in items):
        pairs = [cast("Sequence[object]", item) for item in items]
        if any(len(pair) != 2 for pair in pairs):
            raise CaiError(
                f"{where}: `{name}` is a list of lists, not all of them a question and its answer. "
                "Write it as a list of messages."
            )
        items = [part for pair in pairs for part in pair]
        name = ALTERNATING[0]
    texts = [checked_text(item, name, where) for item in items]
    if name.lower() not in ALTERNATING:
        return [Message(role="user", content=texts[0])]
    roles: tuple[Role, Role] = ("user", "assistant")
    return [Message(role=roles[i % 2], content=text) for i, text in enumerate(texts)]


def _content(value: object, name: str, where: str) -> str:
    """Read a text, or a list of parts of type text."""
    if value is None:
        return ""
    if not isinstance(value, list):
        return checked_text(value, name, where)
    texts: list[str] = []
    for part in cast("list[object]", value):
        inner: object = part
        if isinstance(part, Mapping):
            fields = cast("Mapping[str, object]", part)
            if fields.get("type") not in ("text", "input_text", "output_text"):
                raise LeftOut(
                    f"{where}: a message in `{name}` holds a part of type "
                    f"{fields.get('type')!r:.40}; only text can be read.",
                    "unreadable",
                )
            inner = fields.get("text")
        texts.append(checked_text(inner, name, where))
    return "\n".join(texts)


def _has_roles(value: object) -> bool:
    """Say whether a value is a message, messages, or an object around them."""
    items = cast("list[object]", value) if isinstance(value, list) else [value]
    return bool(items) and all(
        isinstance(item, Mapping)
        and _first(cast("Mapping[str, object]", item), (*_ROLE_KEYS, *_WRAPPERS)) is not None
        for item in items
    )


def _first(item: Mapping[str, object], keys: Sequence[str]) -> object:
    return next((item[key] for key in keys if item.get(key) is not None), None)


def _parsed(text: str) -> object:
    """Read JSON, or the same as Python writes it; None if it is neither."""
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None
