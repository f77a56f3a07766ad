"""Constitution files as YAML that people like to read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from textwrap import indent
from typing import Any

import yaml
from pydantic import BaseModel

from cai.constitution.schema import FewShot, Principle

_WIDTH = 88
_LONG = 72
"""Texts of one line that are longer are folded."""
_ODD_BREAK = re.compile("[\x85\u2028\u2029]")
"""Line breaks that YAML blocks would turn into ordinary ones."""


class _Dumper(yaml.SafeDumper):
    """Writes long texts as blocks and indents lists."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, False)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    if _ODD_BREAK.search(text):
        style = '"'
    elif "\n" in text:
        style = "|"
    else:
        style = ">" if len(text) > _LONG else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def to_yaml(
    name: str,
    description: str,
    principles: Sequence[Principle],
    few_shot: FewShot,
    comments: Sequence[str] = (),
) -> str:
    """Write a constitution file, with comments on top and a blank line between the parts."""
    head: dict[str, Any] = {"schema": 1, "name": name}
    if description:
        head["description"] = description
    sections = ["".join(f"# {_printable(line)}\n" for line in comments) + _dump(head)]
    sections.append(_listing("principles", principles))
    if few_shot != FewShot():
        examples = {"critique": few_shot.critique, "comparison": few_shot.comparison}
        parts = [indent(_listing(key, items), "  ") for key, items in examples.items() if items]
        sections.append("few_shot:\n" + "\n".join(parts))
    return "\n".join(sections)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _listing(key: str, items: Sequence[BaseModel]) -> str:
    dumped = [_dump([item.model_dump(mode="json", exclude_defaults=True)]) for item in items]
    return f"{key}:\n" + "\n".join(indent(text, "  ") for text in dumped)


def _dump(data: Mapping[str, Any] | Sequence[Any]) -> str:
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH)
