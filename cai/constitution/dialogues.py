"""Worked examples of critique and revision in the two forms that other projects write them."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ValidationError

from cai.constitution.schema import CritiqueExample
from cai.data.conversation import Message
from cai.errors import CaiError
from cai.settings.wording import first_in_words

_TURN = re.compile(
    r"(?:\A|\n\n)(Human|Assistant|Critique ?Request|Critique|Revision ?Request|Revision):"
)
_TAIL = ["critiquerequest", "critique", "revisionrequest", "revision"]


class _Turn(BaseModel):
    role: str
    content: str


def transcript_example(text: str, where: str) -> CritiqueExample:
    """Read "Human: … Assistant: … CritiqueRequest: … Critique: … RevisionRequest: … Revision: …".

    A speaker at the end who says nothing (`Human:`, left for the next example) is dropped.

    Turns are separated by blank lines.

    Raises:
        CaiError: When the turns are others, or one is empty.
    """
    pieces = _TURN.split("\n\n" + text.strip())
    speakers = [name.replace(" ", "").lower() for name in pieces[1::2]]
    texts = [said.strip() for said in pieces[2::2]]
    if speakers[-1:] == ["human"] and not texts[-1]:
        del speakers[-1], texts[-1]
    roles = {"human": "user", "assistant": "assistant"}
    if speakers[-4:] != _TAIL or any(s not in roles for s in speakers[:-4]) or pieces[0].strip():
        raise CaiError(
            f"{where}: a worked example is Human: and Assistant: turns, then CritiqueRequest:,"
            f" Critique:, RevisionRequest: and Revision:, but this one has {', '.join(speakers)}"
        )
    turns = [_Turn(role=roles[s], content=t) for s, t in zip(speakers[:-4], texts, strict=False)]
    return _example(turns, texts[-4:], where)


def chat_example(chat: Any, where: str) -> CritiqueExample:  # noqa: ANN401
    """Read a chat: a conversation, then critique request, critique, revision request, revision.

    It is a list of at least six `{role, content}`, with roles in upper or lower case.

    Raises:
        CaiError: When it is no such chat.
    """
    try:
        turns = [_Turn.model_validate(turn) for turn in chat]
    except (ValidationError, TypeError) as problem:
        raise CaiError(f"{where}: it must be a list of {{role, content}} messages") from problem
    tail = [turn.role.lower() for turn in turns[-6:]]
    if tail != ["user", "assistant"] * 3:
        raise CaiError(
            f"{where}: a worked example ends with six messages of user and assistant in turn"
            " (prompt, response, critique request, critique, revision request, revision), but"
            f" this one ends with {', '.join(tail) or 'nothing'}"
        )
    return _example(turns[:-4], [turn.content for turn in turns[-4:]], where)


def _example(turns: list[_Turn], rest: list[str], where: str) -> CritiqueExample:
    """Build the example; the conversation's last turn is the response."""
    critique_request, critique, revision_request, revision = rest
    try:
        *messages, response = [
            Message.model_validate({"role": t.role.lower(), "content": t.content}) for t in turns
        ]
        if response.role != "assistant":
            raise CaiError(f"{where}: the turn before the critique request must be the assistant's")
        return CritiqueExample(
            messages=tuple(messages),
            response=response.content,
            critique_request=critique_request,
            critique=critique,
            revision_request=revision_request,
            revision=revision,
        )
    except ValidationError as problem:
        raise CaiError(
            f"{where}: it is not a valid worked example, {first_in_words(problem)}. Fix or remove "
            "it"
        ) from problem
