"""Messages, prompts and Human/Assistant transcripts: what people and models say to each other.

In a transcript a speaker's label at the beginning of a line begins a turn. If a line of a message
begins like that, a blank is put before it (`one_turn`), here and in `cai.models.chat`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_serializer

Role = Literal["system", "user", "assistant"]

SPEAKERS: dict[Role, str] = {"system": "System", "user": "Human", "assistant": "Assistant"}
"""Who speaks each role in a transcript, unless a message brings its own `label`."""

TRANSCRIPT_LABELS = (
    *SPEAKERS.values(),
    "Critique Request",
    "Critique",
    "Revision Request",
    "Revision",
)
"""Who can speak in a transcript: at the beginning of a line, with a colon, these begin a turn."""

LINE_BREAK = r"(?:\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029])"
"""A regular expression: whatever any reader may take for the end of a line (`str.splitlines`)."""

_FALSE_TURN = re.compile(f"({LINE_BREAK})(?=(?:{'|'.join(TRANSCRIPT_LABELS)}):)")

_THINKING = re.compile(
    r"<(think|thinking|thought|reasoning)>.*?(</\1>|\Z)", re.DOTALL | re.IGNORECASE
)
_THINKING_TAIL = re.compile(
    r"\A.*?</(think|thinking|thought|reasoning)>", re.DOTALL | re.IGNORECASE
)


class Message(BaseModel):
    """One turn of a conversation.

    Attributes:
        role: `system`, `user` or `assistant`.
        content: The text of the turn.
        label: The speaker's name in a transcript (`Critique Request`); None for that of the role.
            Chat templates of chat models do not use it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role
    content: str
    label: str | None = None

    @model_serializer
    def _plain(self) -> dict[str, Any]:
        plain = {"role": self.role, "content": self.content}
        return plain if self.label is None else {**plain, "label": self.label}


class TemplateMessage(Message):
    """A turn that a template wrote, with quoted text of others inside it.

    Speakers at the beginning of its lines are the template's own, so transcripts do not change it.
    When it is read from a file it is a plain `Message`.
    """


Conversation = tuple[Message, ...]


@dataclass(frozen=True)
class Prompt:
    """What an engine is asked to continue.

    Attributes:
        messages: The conversation so far; the last message is usually the user's.
        prefill: How the answer already begins; it is part of the prompt, not of the completion.
        speaker: Who answers, in a transcript (`Critique`). Chat templates ignore it.
    """

    messages: Conversation
    prefill: str = ""
    speaker: str = SPEAKERS["assistant"]


def user(content: str) -> Conversation:
    """Return the conversation in which a user says `content` and nothing else was said."""
    return (Message(role="user", content=content),)


def one_turn(text: str) -> str:
    """Put a blank before each line, except the first, that begins as a turn ("Human: …").

    Applying it again changes nothing, so a model that repeats what it read is trained on exactly
    the text that it wrote.
    """
    return _FALSE_TURN.sub(r"\1 ", text)


def turns_kept(messages: Conversation) -> Conversation:
    """Return messages of which none can begin another turn of a transcript."""
    return tuple(
        message
        if isinstance(message, TemplateMessage)
        else message.model_copy(update={"content": one_turn(message.content)})
        for message in messages
    )


def to_transcript(messages: Sequence[Message]) -> str:
    """Write messages as "Human: … Assistant: …", blank lines between turns, none around.

    Each message is one turn, whatever its text (`one_turn`).
    """
    return "\n\n".join(
        f"{message.label or SPEAKERS[message.role]}: {message.content}"
        for message in turns_kept(tuple(messages))
    )


def strip_thinking(text: str) -> str:
    """Remove the thinking blocks of reasoning models.

    A block without a closing tag (cut off by the token limit) ends with the text. One without an
    opening tag (the template opened it in the prompt) begins with the text.
    """
    text = _THINKING.sub("", text)
    return _THINKING_TAIL.sub("", text).strip()
