"""Words about a revision around it: an introduction, quotation marks, a remark, "no change".

Chat models often answer a request for a revision as they would answer a person. The words around a
revision are not part of it, and "No revisions needed." is not a revision.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Wrapping = Literal["none", "unchanged", "wrapped"]

LONGEST_REMARK = 40
"""Words; a longer text is more than a remark."""

_THING = r"(?:revisions?|changes?|edits?|modifications?|rewrit(?:e|ing)|adjustments?|improvements?)"
_NEEDED = r"(?:needed|required|necessary|made|called for)"
_RESPONSE = r"(?:response|answer|reply|version|text|rewrite|revision|message)"
_UNCHANGED = re.compile(
    rf"(?:there (?:is|are) )?no (?:further |more |additional )?{_THING}"
    rf"(?: (?:is|are|was|were|needs? to be))? ?{_NEEDED}\b"
    rf"|(?:the |this |that |my )?(?:original |previous |current )?{_RESPONSE} "
    rf"(?:does not|doesn't|did not|didn't) (?:need|require) (?:any |a |further )?{_THING}"
    rf"|(?:the |this )?(?:original |previous |current )?{_RESPONSE} (?:is|was) already "
    r"(?:harmless|appropriate|safe|good|fine|acceptable|respectful|helpful|ethical)",
    re.I,
)
_INTRODUCTION = re.compile(
    r"\A\s*(?:(?:sure|certainly|of course|absolutely|okay|ok|understood|yes)\b[,!. ]*)?"
    r"(?:(?:here(?:'s|’s| is| are)|below is|this is|i(?:'ve| have) (?:revised|rewritten))\b"
    r"[^\n:]{0,160}"
    rf"|(?:\*\*|#+ *)?(?:my |the )?(?:revised|rewritten|improved|updated) {_RESPONSE}(?:\*\*)?)"
    r" ?:(?:\*\*)?\s*",
    re.I,
)
_OF_A_REVISION = re.compile(rf"revis|rewr|\b{_RESPONSE}\b", re.I)
"""In introductions of revisions; others ("Here is what you can do:") belong to the answer."""
_REMARK = re.compile(
    rf"\n\s*\n\(?(?:note: |\*)?(?:this|the|my|i)\b[^\n]*\b(?:revis|rewr|{_RESPONSE}|remov|chang)"
    r"[^\n]*\)?\s*\Z",
    re.I,
)
_QUOTES = {'"': '"', "“": "”", "'": "'", "«": "»"}


@dataclass(frozen=True)
class Unwrapped:
    """A revision without the words about it.

    Attributes:
        text: The revision; if it says that no change is needed, the response before it.
        kind: `none` if nothing was removed.
    """

    text: str
    kind: Wrapping


def unwrap(revision: str, before: str) -> Unwrapped:
    """Remove the words that a model wrote about its revision of the response `before`."""
    said = revision.strip()
    if len(said.split()) <= LONGEST_REMARK and ":\n" not in said and _UNCHANGED.match(said):
        return Unwrapped(before, "unchanged")
    text = _without_introduction(said)
    introduced = text != said
    if introduced:
        text = _REMARK.sub("", text).strip()
    text = _without_quotes(text)
    if text == said or not text:
        return Unwrapped(revision, "none")
    return Unwrapped(text, "wrapped")


def _without_introduction(text: str) -> str:
    found = _INTRODUCTION.match(text)
    if not found or not _OF_A_REVISION.search(found.group()):
        return text
    rest = text[found.end() :].strip()
    return rest or text


def _without_quotes(text: str) -> str:
    """Remove quotation marks around the whole text, if there are no such marks inside."""
    close = _QUOTES.get(text[:1])
    if close is None or len(text) < 3 or not text.endswith(close):
        return text
    inner = text[1:-1]
    return text if text[0] in inner or close in inner else inner.strip()
