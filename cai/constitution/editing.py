"""Change single texts of a YAML file and leave every other character as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from textwrap import TextWrapper
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from cai.constitution.document import Location
from cai.errors import CaiError

WIDE = 100
"""Columns that a text may reach before it is folded over several lines."""
NARROW = 72
"""Columns that lines of a folded text reach at least."""
_TEXT = "tag:yaml.org,2002:str"


@dataclass(frozen=True)
class _Spot:
    """A text in the file: its node, and the column of the key before it."""

    node: ScalarNode
    column: int


def replace_texts(source: str, edits: Mapping[Location, str]) -> str:
    """Return the YAML with other texts at some places; comments and layout stay.

    A text keeps its style (plain, quoted, folded, literal) where the new words allow it. Space
    around a text is dropped, as it is when a constitution is read.

    Args:
        source: YAML that can be parsed.
        edits: Where, from keys and indices, and what to say there.

    Raises:
        CaiError: There is no text at a place, or it cannot be changed alone (an alias repeats it).
    """
    for location, text in edits.items():
        source = _replace(source, location, text.strip())
    return source


def _replace(source: str, location: Location, text: str) -> str:
    root = yaml.compose(source, Loader=yaml.SafeLoader)
    spot = _find(root, location)
    start, end = spot.node.start_mark.index, spot.node.end_mark.index
    wanted = _plain(root, location, text)
    for written in _ways(source[start:end], spot, text, "\r\n" if "\r\n" in source else "\n"):
        changed = source[:start] + written + source[end:]
        if _means(changed, wanted):
            return changed
    where = ".".join(map(str, location))
    raise CaiError(f"{where} shares its text with another place: edit the file by hand there.")


def _find(node: Node | None, location: Location) -> _Spot:
    column = 0
    for step in location:
        inner = None
        if isinstance(node, MappingNode):
            for key, value in node.value:
                if isinstance(key, ScalarNode) and key.value == step:
                    column, inner = key.start_mark.column, value
        elif isinstance(node, SequenceNode) and isinstance(step, int) and step < len(node.value):
            inner = node.value[step]
        node = inner
    if not isinstance(node, ScalarNode):
        raise CaiError(f"The file has no text at {'.'.join(map(str, location))}: add it by hand.")
    return _Spot(node, column)


def _plain(node: Node | None, location: Location | None, text: str) -> Any:  # noqa: ANN401
    """Return tags and values of a document as plain data, with `text` at `location`."""
    if location == ():
        return _TEXT, text

    def below(step: str | int) -> Location | None:
        return location[1:] if location and location[0] == step else None

    if isinstance(node, MappingNode):
        return [
            (_plain(k, None, ""), _plain(v, below(getattr(k, "value", "")), text))
            for k, v in node.value
        ]
    if isinstance(node, SequenceNode):
        return [_plain(item, below(n), text) for n, item in enumerate(node.value)]
    return None if node is None else (node.tag, node.value.strip())


def _means(source: str, wanted: Any) -> bool:  # noqa: ANN401
    try:
        return _plain(yaml.compose(source, Loader=yaml.SafeLoader), None, "") == wanted
    except (yaml.YAMLError, ValueError):
        return False


def _ways(old: str, spot: _Spot, text: str, newline: str) -> Iterator[str]:
    """Yield ways to write `text` in place of `old`, the most similar first; some may be wrong.

    Blank lines after a block are part of `old`. `newline` is the line end of the file.
    """
    if spot.node.style in ("|", ">"):
        return _ways_of_block(old, spot.node.style, text, newline)
    return _ways_of_line(old, spot, text, newline)


def _ways_of_block(old: str, style: str, text: str, newline: str) -> Iterator[str]:
    header, *lines = old.splitlines()
    body = [line for line in lines if line.strip()]
    blank = len(lines) - max((n for n, line in enumerate(lines, 1) if line.strip()), default=0)
    indent = min((len(line) - len(line.lstrip()) for line in body), default=0)
    width = max(NARROW, *map(len, body)) if body else NARROW
    tail = newline * (blank + old.endswith(("\n", "\r")))
    yield header + _block(text, style, indent, width, newline) + tail
    yield "|-" + _block(text, "|", indent, width, newline) + tail
    yield _quoted(text) + tail


def _ways_of_line(old: str, spot: _Spot, text: str, newline: str) -> Iterator[str]:
    anchor = old.split()[0] + " " if old[:1] in ("&", "!") else ""
    written = {None: text, "'": "'" + text.replace("'", "''") + "'", '"': _quoted(text)}
    line = written[spot.node.style]
    if "\n" not in text and spot.node.start_mark.column + len(line) <= max(WIDE, len(old)):
        yield anchor + line
    for style in ("|", ">") if "\n" in text else (">", "|"):
        yield f"{anchor}{style}-" + _block(text, style, spot.column + 2, WIDE, newline)
    yield anchor + _quoted(text)


def _block(text: str, style: str, indent: int, width: int, newline: str) -> str:
    """Return the lines of a block, each after a line end."""
    lines = text.split("\n")
    if style == ">":  # A blank line stands for a line end, a line end for a space.
        wrap = TextWrapper(max(width - indent, 20), break_long_words=False, break_on_hyphens=False)
        folded = [["", *wrap.wrap(paragraph)] for paragraph in lines]
        lines = [line for paragraph in folded for line in paragraph][1:]
    return "".join(newline + (" " * indent + line if line else "") for line in lines)


def _quoted(text: str) -> str:
    """Return a text in double quotes, on one line, with escapes where YAML needs them."""
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=10**9).strip()
