"""Messages, prompts and Human/Assistant transcripts: what people and models say to each other."""

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
        label: The speaker's name in a transcript (`Critique Request`); None for the role's own
            name. Chat templates of real chat models never look at it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role
    content: str
    label: str | None = None

    @model_serializer
    def _plain(self) -> dict[str, Any]:
        plain = {"role": self.role, "content": self.content}
        return plain if self.label is None else {**plain, "label": self.label}


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


def to_transcript(messages: Sequence[Message]) -> str:
    """Write messages as "Human: … Assistant: …", blank lines between turns, none around."""
    return "\n\n".join(
        f"{message.label or SPEAKERS[message.role]}: {message.content}" for message in messages
    )


def strip_thinking(text: str) -> str:
    """Remove the thinking blocks of reasoning models, unclosed or unopened ones included.

    A block that was cut off by the token limit runs to the end of the text; a template that opens
    the block inside the prompt leaves only the closing tag, and all before it is thinking.
    """
    text = _THINKING.sub("", text)
    return _THINKING_TAIL.sub("", text).strip()
