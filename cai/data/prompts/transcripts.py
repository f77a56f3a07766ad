"""Human/Assistant transcripts to messages: the inverse of `cai.data.conversation.to_transcript`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cai.data.conversation import Conversation, Message, Role
from cai.errors import CaiError

ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "ai": "assistant",
    "chatbot": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "system": "system",
    "developer": "system",
}
"""The names of roles in data sets, in lower case, and our names of them."""

# A speaker opens a turn only at the start of the text or after a blank line. Blank lines alone
# separate paragraphs of one turn.
_SPEAKER = re.compile(r"(?:\A\s*|\r?\n\r?\n)(Human|Assistant|System):")
_EXTRA_ID = re.compile(r"(?:\A\s*|\n)<extra_id_[01]>(System|User|Assistant)[ \t]*(?:\r?\n|\Z)")
_HUMAN_LATER = re.compile(r"\n\r?\nHuman:")

_SWALLOWED = re.compile(r"\A(?:[ \t]*(?:Human|Assistant):)+")
_EXTRA_ID_END = re.compile(r"\s*<extra_id_\d+>\s*\Z")


def is_transcript(text: str) -> bool:
    """Say whether `text` is a transcript rather than a prompt that happens to hold a colon.

    It is one if it opens with `Human:` or with an `<extra_id_…>` turn, or with another speaker when
    a `Human:` turn follows.
    """
    if _EXTRA_ID.match(text):
        return True
    opening = _SPEAKER.match(text)
    if opening is None:
        return False
    return opening[1] == "Human" or _HUMAN_LATER.search(text) is not None


def parse_transcript(text: str) -> Conversation:
    r"""Read "Human: … Assistant: …" (or `<extra_id_1>User …`) as messages.

    A speaker counts at the start of the text and after a blank line; other blank lines belong to
    the turn. Turns are stripped of surrounding whitespace. Neighbouring turns of one speaker are
    joined by a blank line. A marker that stands again at the start of a turn
    (`Assistant: Human: Sure`) is noise and removed: the turn stays with its first speaker. An empty
    last turn (`…\n\nAssistant:`) is kept, as an empty message.

    Raises:
        CaiError: The text opens with no speaker.
    """
    return join_turns(split_turns(text))


def split_turns(text: str) -> list[Message]:
    """Return the turns of a transcript as `parse_transcript` does, but none joined.

    Raises:
        CaiError: The text opens with no speaker.
    """
    marker = _EXTRA_ID if _EXTRA_ID.match(text) else _SPEAKER
    if marker.match(text) is None:
        raise CaiError(
            f"This is not a transcript: it opens with {text.strip()[:40]!r}. A transcript opens "
            'with "Human:" (or "System:") and has a blank line before each further speaker.'
        )
    _, *parts = marker.split(text)
    turns = [
        Message(role=ROLES[speaker.lower()], content=_clean(content))
        for speaker, content in zip(parts[::2], parts[1::2], strict=True)
    ]
    return [turn for turn in turns if turn.content or turn.role != "system"]


def join_turns(turns: Sequence[Message]) -> Conversation:
    """Join neighbouring turns of one role by a blank line."""
    joined: list[Message] = []
    for turn in turns:
        if joined and joined[-1].role == turn.role:
            content = "\n\n".join(part for part in (joined[-1].content, turn.content) if part)
            joined[-1] = Message(role=turn.role, content=content)
        else:
            joined.append(turn)
    return tuple(joined)


def strip_markup(text: str) -> str:
    """Strip whitespace and the `<extra_id_…>` that closes a turn."""
    return _EXTRA_ID_END.sub("", text).strip()


def _clean(content: str) -> str:
    return strip_markup(_SWALLOWED.sub("", content))
