"""Stop texts: they end a completion as soon as they are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence


class StopTexts:
    """Tells, token by token, whether a completion holds a stop text.

    Only the tail is decoded, and only after tokens whose own text has the last character of a stop
    text.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], texts: Sequence[str]) -> None:
        """Prepare for texts, at least one and none empty; `decode` skips special tokens."""
        self._decode = decode
        self._texts = tuple(texts)
        # No token but the specials is shorter than a byte; the rest is for those.
        self._tail = max(len(text.encode()) for text in texts) + 8
        self._last = {text[-1] for text in texts}
        self._can_end: dict[int, bool] = {}

    def __call__(self, token_ids: Sequence[int]) -> bool:
        """Return whether the completion holds a stop text, given that it did not a token ago."""
        token = token_ids[-1]
        if token not in self._can_end:
            self._can_end[token] = self._may_complete(self._decode([token]))
        if not self._can_end[token]:
            return False
        tail = self._decode(token_ids[-self._tail :])
        return any(text in tail for text in self._texts)

    def _may_complete(self, piece: str) -> bool:
        # A lone piece may lack its blanks or be part of a character.
        doubtful = "\ufffd" in piece or any(last.isspace() for last in self._last)
        return doubtful or not self._last.isdisjoint(piece)
