"""Prompts as token ids, and what a prompt is that cannot be written."""

from __future__ import annotations

from cai.data.conversation import Prompt
from cai.engines import Unanswered
from cai.models.chat import ChatFormat, UnwritableError


def prompt_ids(chat: ChatFormat, prompt: Prompt) -> list[int]:
    """Return a prompt as the model reads it.

    Raises:
        Unanswered: The chat template cannot write this conversation; others it may.
    """
    try:
        return chat.prompt_ids(prompt)
    except UnwritableError as error:
        raise Unanswered("failed", str(error)) from error
