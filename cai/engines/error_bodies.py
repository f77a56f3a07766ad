"""What the body of a server's error says, whatever its shape: one walk for all who ask."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html import unescape
from typing import Any, NamedTuple, cast

_WORDS = ("message", "error", "errors", "detail", "msg", "error_description", "status_msg")
"""Where servers put the words of an error, or what holds them; the usual places first."""
_PAGE = re.compile(
    r"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head)\b", re.I | re.S
)
_TITLE = re.compile(r"<(title|h1)\b[^>]*>(.*?)</\1", re.I | re.S)
_TAG = re.compile(r"<[^>]*>")


class Complaint(NamedTuple):
    """What an error says of a request.

    Attributes:
        field: The field that it names apart from its words; empty if it names none.
        words: Its words, with the names of its kind.
        text: Its words alone.
    """

    field: str
    words: str
    text: str


def complaints_in(body: object) -> Iterator[Complaint]:
    """Find what a body says, the most telling words first: texts, lists, objects in each other."""
    if isinstance(body, str):
        if body:
            yield Complaint("", body, body)
    elif isinstance(body, list):
        for one in cast("list[object]", body):
            yield from complaints_in(one)
    elif isinstance(body, Mapping):
        told = cast("Mapping[str, Any]", body)
        place = told.get("loc") or told.get("param") or ""
        field = place[-1] if isinstance(place, list) else place
        kinds = [
            kind for key in ("type", "code") if isinstance(kind := told.get(key), str) and kind
        ]
        for key in _WORDS:
            value: object = told.get(key)
            if isinstance(value, str) and value:
                yield Complaint(str(field), " ".join([*kinds, value]), value)
            else:
                yield from complaints_in(value)


def words_of(body: object) -> str:
    """Return the most telling words of an error's body; empty if it has none."""
    return next((complaint.text for complaint in complaints_in(body)), "")


def page_title(body: object, content_type: str = "") -> str | None:
    """Return the title of a web page; None if a body is none.

    An API answers with JSON. A page is from what stands before it: a firewall, a proxy, a log-in.
    """
    if not isinstance(body, str) or not (_PAGE.match(body) or "text/html" in content_type.lower()):
        return None
    found = _TITLE.search(body)
    return " ".join(unescape(_TAG.sub(" ", found[2] if found else "")).split())
