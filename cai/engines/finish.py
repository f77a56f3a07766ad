"""Why an answer ended: one table of the words that servers and engines use, for all stages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

End = Literal["ended", "cut_off", "failed", "refused"]

ENDS: dict[str, End] = {
    "stop": "ended",
    "eos": "ended",
    "eos_token": "ended",
    "end_turn": "ended",
    "end_of_turn": "ended",
    "stop_sequence": "ended",
    "stop_token": "ended",
    "stop_word": "ended",
    "end": "ended",
    "done": "ended",
    "complete": "ended",
    "completed": "ended",
    "finished": "ended",
    "length": "cut_off",
    "max_tokens": "cut_off",
    "max_output_tokens": "cut_off",
    "max_new_tokens": "cut_off",
    "max_length": "cut_off",
    "model_length": "cut_off",
    "model_context_window_exceeded": "cut_off",
    "time_limit": "cut_off",
    "incomplete": "cut_off",
    "content_filter": "refused",
    "content_filtered": "refused",
    "guardrail_intervened": "refused",
    "refusal": "refused",
    "safety": "refused",
    "recitation": "refused",
    "blocklist": "refused",
    "prohibited_content": "refused",
    "spii": "refused",
    "sensitive": "refused",
    "error": "failed",
    "error_finish": "failed",
    "abort": "failed",
    "aborted": "failed",
    "cancelled": "failed",
    "insufficient_system_resource": "failed",
    "network_error": "failed",
    "other": "failed",
    "tool_calls": "failed",
    "tool_use": "failed",
    "function_call": "failed",
    "malformed_function_call": "failed",
    "pause_turn": "failed",
}
"""A finish reason, in lower case, to what it means. Of those that are not here, one that names a
refusal (`content_filter: RECITATION`, `IMAGE_SAFETY`) is one, and the others are `failed`."""


@dataclass(frozen=True)
class Said:
    """One answer of a server.

    Attributes:
        text: Empty where it said none.
        end: How it ended.
        why: In words, where it is no answer (`refused` or `failed`).
    """

    text: str
    end: End
    why: str = ""


def end_of(reason: object) -> End:
    """Return what a finish reason means; servers that tell none have come to the end.

    Raises:
        TypeError: It is neither a text nor missing.
    """
    if reason is None:
        return "ended"
    if not isinstance(reason, str):
        raise TypeError(f"the finish reason is {reason!r}")
    name = _normal(reason)
    refused = any(end == "refused" and known in name for known, end in ENDS.items())
    return ENDS.get(name, "refused" if refused else "failed")


def _normal(reason: str) -> str:
    return re.sub(r"\W+", "_", reason.strip().lower())


def said_by(choice: Any) -> Said:  # noqa: ANN401
    """Read one choice of a server's answer.

    Raises:
        TypeError: It holds no text, and nothing in place of one.
        AttributeError: It is no choice.
    """
    message = choice.message if hasattr(choice, "message") else None
    text = _text_of(choice.text if message is None else message.content)
    refusal = getattr(message, "refusal", None)
    reason = choice.finish_reason
    end = end_of(reason)
    if end in ("refused", "failed"):
        known = end == "refused" or _normal(reason) in ENDS
        told = f"the answer ended with `{reason}`{'' if known else ', which is not known'}"
        return Said(text, end, f"{told}{_more(choice, refusal)}")
    if not text.strip() and isinstance(refusal, str) and refusal:
        return Said("", "refused", f"the answer is a refusal: {_short(refusal)}")
    if not text.strip() and getattr(choice, "error", None):
        return Said("", "failed", f"there is an error in place of an answer{_more(choice, None)}")
    return Said(text, end)


def _text_of(content: Any) -> str:  # noqa: ANN401
    """Return a text, or the texts among the parts of one (thoughts are none)."""
    if isinstance(content, list):
        parts: list[Any] = content
        texts = [part.get("text") for part in parts if part.get("type") == "text"]
        return "".join(_text_of(text) for text in texts)
    if not isinstance(content, str | None):
        raise TypeError("a choice has no text")
    return content or ""


def _more(choice: Any, refusal: object) -> str:  # noqa: ANN401
    error = getattr(choice, "error", None)
    told = error.get("message") if isinstance(error, dict) else error  # pyright: ignore
    words: object = told or refusal  # pyright: ignore[reportUnknownVariableType]
    return f" ({_short(str(words))})" if words else ""


def _short(text: str) -> str:
    return " ".join(text.split())[:200]
