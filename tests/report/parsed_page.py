"""A report as a reader gets it: its tags, its text and the rows that its script unpacks."""

import base64
import gzip
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic_run import pipeline

from cai.report.write import write_report


class Page(HTMLParser):
    """The tags, attributes and visible text of a page, and whether its tags are balanced."""

    VOID = ("meta", "br", "link", "img", "input")

    def __init__(self, html: str):
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.pieces: list[str] = []
        self.open: list[str] = []
        self.scripts: list[dict[str, str]] = []
        self.packed = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag == "script":
            self.scripts.append(dict(attrs))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["script"]:
            self.packed = data if "id" in self.scripts[-1] else self.packed
        elif self.open[-1:] != ["style"]:
            self.pieces.append(data)

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def rows(self) -> dict:
        """What the page's script unpacks."""
        return strict_json(gzip.decompress(base64.b64decode(self.packed)).decode())

    @property
    def row_text(self) -> str:
        """All text of the page's rows."""
        found, waiting = [], [self.rows]
        while waiting:
            item = waiting.pop()
            if isinstance(item, str):
                found.append(item)
            elif isinstance(item, dict):
                waiting += [*item.values()]
            elif isinstance(item, list):
                waiting += item
        return "\n".join(found)


def report_on(folder: Path, settings=None) -> tuple[Page, dict]:
    path = write_report(folder, settings or pipeline())
    assert path == folder / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    assert page.scripts == [
        {"type": "text/plain", "id": "packed-rows"},
        {"type": "module"},
    ]
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "xlink:href", "action", "data", "poster"):
            assert value.startswith("#")
    return page, json.loads((folder / "report.json").read_text(encoding="utf-8"))


def strict_json(text: str):
    return json.loads(text, parse_constant=pytest.fail)
