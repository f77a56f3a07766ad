"""YAML with the positions of all keys and values."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import SafeConstructor
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from cai.constitution.findings import ConstitutionError, Finding, Place, error

Location = tuple[str | int, ...]
"""Keys and indices from the top of the file, as in pydantic's errors."""

_TAG = "tag:yaml.org,2002:"
_TEXT_TAGS = {_TAG + name for name in ("str", "timestamp", "value", "merge")}
_PLAIN_TAGS = {_TAG + name for name in ("bool", "int", "float")}
_NULL_TAG = _TAG + "null"
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass
class Document:
    """The data of a YAML file and the place of every key and value."""

    path: Path
    data: Any = None
    values: dict[Location, Place] = field(default_factory=dict[Location, Place])
    keys: dict[Location, Place] = field(default_factory=dict[Location, Place])
    findings: list[Finding] = field(default_factory=list[Finding])
    """What is wrong with the YAML beyond its syntax: duplicate keys, empty values, odd tags."""
    faulty: set[Location] = field(default_factory=set[Location])
    """Where those findings are; what validation says of these values adds nothing."""

    def place(self, location: Location, *, of_key: bool = False) -> Place:
        """Return where `location` stands, or the innermost part of it that is in the file."""
        if of_key and location in self.keys:
            return self.keys[location]
        while location and location not in self.values:
            location = location[:-1]
        return self.values.get(location, Place(self.path))


def read_document(path: Path, text: str | None = None) -> Document:
    """Parse a YAML file, or `text` in its place.

    Raises:
        ConstitutionError: When it cannot be read, is not UTF-8, is empty or is broken YAML.
            Smaller faults are put into `findings`, to be listed with the others.
    """
    text = read_text(path) if text is None else text
    root = _compose(path, text)
    if root is None:
        message = "the file is empty: `cai constitution new FILE` writes one to start from"
        raise ConstitutionError([error(Place(path), "empty-file", message)])
    builder = _Builder(Document(path))
    builder.document.data = builder.build(root, ())
    return builder.document


def read_text(path: Path) -> str:
    """Read a UTF-8 file, with or without a byte order mark.

    Raises:
        ConstitutionError: When it is missing, a folder, unreadable or not UTF-8.
    """
    try:
        raw = path.read_bytes()
    except OSError as problem:
        reason = problem.strerror or str(problem)
        message = f"the file cannot be read ({reason}): give the path of a file that can"
        raise ConstitutionError([error(Place(path), "unreadable", message)]) from problem
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = raw.count(b"\n", 0, problem.start) + 1
        column = problem.start - raw.rfind(b"\n", 0, problem.start)
        message = f"byte {raw[problem.start]:#04x} is not UTF-8: save the file as UTF-8 text"
        raise ConstitutionError(
            [error(Place(path, line, column), "encoding", message)]
        ) from problem


def _compose(path: Path, text: str) -> Node | None:
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as problem:
        before = text[: problem.position]
        place = Place(path, before.count("\n") + 1, len(before) - before.rfind("\n"))
        message = f"character U+{ord(text[problem.position]):04X} cannot stand in YAML: remove it"
        finding = error(place, "bad-character", message)
    except yaml.MarkedYAMLError as problem:
        finding = _broken(path, text, problem)
    except (ValueError, OverflowError) as problem:
        finding = error(Place(path), "bad-yaml", f"an escape in the file is wrong: {problem}")
    except RecursionError:
        finding = error(Place(path), "bad-yaml", "the file is nested too deeply: flatten it")
    raise ConstitutionError([finding])


def _broken(path: Path, text: str, problem: yaml.MarkedYAMLError) -> Finding:
    mark = problem.problem_mark or problem.context_mark
    place = Place(path, mark.line + 1, mark.column + 1) if mark else Place(path)
    what = problem.problem or problem.context or "it cannot be parsed"
    lines = text.splitlines()
    line = lines[place.line - 1] if place.line <= len(lines) else ""
    return error(place, "bad-yaml", f"the YAML is broken, {what}: {_fix(what, line)}")


def _fix(problem: str, line: str) -> str:
    if "\t" in line:
        return "indent with spaces, YAML allows no tabs there"
    if "mapping values" in problem:
        return 'put a text that holds ": " in quotes, or on the lines after `>-`'
    if problem.startswith("expected ',' or"):
        return "close the bracket; between brackets, put texts with any of , ? : in quotes"
    if "another document" in problem:
        return "keep one document, without a second `---`"
    if "undefined alias" in problem or "cannot start any token" in problem:
        return "put a text that begins with a special character in quotes"
    return "look at the indentation, and put texts with special characters in quotes"


class _Builder:
    """Turns YAML nodes into plain data, and notes the places and the faults on the way."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self._seen: set[int] = set()

    def build(self, node: Node, location: Location) -> Any:  # noqa: ANN401
        self.document.values[location] = self._place(node)
        if isinstance(node, ScalarNode):
            return self._scalar(node, location)
        if id(node) in self._seen:
            message = "an alias may repeat a text only: write this out"
            return self._fault(node, location, "alias", message)
        self._seen.add(id(node))
        if isinstance(node, SequenceNode):
            return [self.build(item, (*location, i)) for i, item in enumerate(node.value)]
        return self._mapping(node, location) if isinstance(node, MappingNode) else None

    def _mapping(self, node: MappingNode, location: Location) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode) or _SURROGATE.search(key_node.value):
                message = "a key must be a plain word: remove this one"
                self._fault(key_node, location, "bad-key", message)
                continue
            key = key_node.value
            here = (*location, key)
            if key in data:
                first = self.document.keys[here].line
                message = f"the key `{key}` stands here and in line {first}: keep one of the two"
                self._fault(key_node, here, "duplicate-key", message)
                continue
            self.document.keys[here] = self._place(key_node)
            data[key] = self.build(value_node, here)
        return data

    def _scalar(self, node: ScalarNode, location: Location) -> Any:  # noqa: ANN401
        kind = node.tag.removeprefix(_TAG)
        if _SURROGATE.search(node.value):
            code, message = "bad-character", "half a character (a surrogate) stands here: remove it"
        elif node.tag in _TEXT_TAGS:
            return node.value
        elif node.tag == _NULL_TAG:
            code, message = "empty", "nothing stands here: write a value or drop the key"
        elif node.tag not in _PLAIN_TAGS:
            code, message = "tag", f"the tag {node.tag!r} is not allowed: remove it"
        else:
            try:
                return SafeConstructor().construct_object(node)
            except (yaml.YAMLError, ValueError, KeyError, IndexError):
                code, message = "bad-value", f"this is no {kind}: put it in quotes"
        return self._fault(node, location, code, message)

    def _fault(self, node: Node, location: Location, code: str, message: str) -> None:
        self.document.faulty.add(location)
        self.document.findings.append(error(self._place(node), code, message))

    def _place(self, node: Node) -> Place:
        return Place(self.document.path, node.start_mark.line + 1, node.start_mark.column + 1)
