"""What a revision changed, word by word."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

# A word keeps the space after it: single spaces that both versions share tell nothing.
_WORDS = re.compile(r"\S{1,200}\s*|\s+")


class Segment(NamedTuple):
    """A stretch of text that both versions share, or that one of them has alone."""

    change: Literal["same", "removed", "added"]
    text: str


def word_diff(before: str, after: str) -> list[Segment]:
    """Compare two texts by words.

    Returns:
        Segments in reading order; those `same` or `removed` make up `before`, those `same` or
        `added` make up `after`.
    """
    old, new = _WORDS.findall(before), _WORDS.findall(after)
    segments: list[Segment] = []
    for _, i, i_end, j, j_end in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if old[i:i_end] == new[j:j_end]:
            segments.append(Segment("same", "".join(old[i:i_end])))
            continue
        if i < i_end:
            segments.append(Segment("removed", "".join(old[i:i_end])))
        if j < j_end:
            segments.append(Segment("added", "".join(new[j:j_end])))
    return segments
