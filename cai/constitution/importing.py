"""Constitutions in other projects' files, recognised by shape and turned into one of ours."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cai.constitution.compared import comparison_examples, looks_compared
from cai.constitution.dialogues import chat_example, transcript_example
from cai.constitution.document import read_text
from cai.constitution.schema import ComparisonExample, CritiqueExample, FewShot, Principle
from cai.constitution.write import to_yaml
from cai.errors import CaiError

_OPENING = re.compile(r"^\s*(Critique|Revision) ?Request:\s*")
_CLOSING = re.compile(r"\s*\b(Critique|Revision|Options):\s*$")
_NUMBERED = re.compile(r"^\s*(\d{1,9})[.)]\s+(\S.*)$")


@dataclass
class Imported:
    """The contents of foreign files, and `notes` about them for the user."""

    principles: list[Principle] = field(default_factory=list[Principle])
    examples: list[CritiqueExample] = field(default_factory=list[CritiqueExample])
    compared: list[ComparisonExample] = field(default_factory=list[ComparisonExample])
    notes: list[str] = field(default_factory=list[str])


def read_foreign(files: Sequence[str | Path]) -> Imported:
    """Read JSON or text files of the shapes in `SHAPES` into one collection with distinct ids.

    Instructions, comparisons and worked examples in different files go together.

    Raises:
        CaiError: When a file has no known shape or is broken, or no file holds a principle.
    """
    merged = Imported()
    taken: set[str] = set()
    for path in map(Path, files):
        part = _read_one(path)
        for principle in part.principles:
            unique = _unique(principle.id, taken)
            taken.add(unique)
            merged.principles.append(principle.model_copy(update={"id": unique}))
        merged.examples += part.examples
        merged.compared += part.compared
        merged.notes += [f"{path.name}: {note}" for note in part.notes]
    if not merged.principles:
        raise CaiError(
            f"there is no principle in {', '.join(str(f) for f in files)}, only worked examples:"
            " import them together with the file that holds the instructions"
        )
    return merged


def imported_yaml(imported: Imported, name: str) -> str:
    """Write what was imported as a constitution file."""
    comments = ["Written by `cai constitution import`; from here on this file is yours to edit."]
    comments += imported.notes
    few_shot = FewShot(critique=imported.examples, comparison=imported.compared)
    return to_yaml(name, "", imported.principles, few_shot, comments)


def _read_one(path: Path) -> Imported:
    text = read_text(path)
    try:
        data = json.loads(text)
    except json.JSONDecodeError as problem:
        if text.lstrip().startswith(("{", "[")):
            raise CaiError(
                f"{path}:{problem.lineno}:{problem.colno}: the JSON is broken ({problem.msg}):"
                " fix it, or fetch the file again"
            ) from problem
        data = text
    except RecursionError as problem:
        raise CaiError(f"{path}: the JSON is nested too deeply to be a constitution") from problem
    for shape in SHAPES.values():
        imported = shape(data, path)
        if imported is not None:
            return imported
    known = "; ".join(SHAPES)
    raise CaiError(
        f"{path} has none of the layouts that can be imported: {known}. Convert it to"
        " one of them. A file with `schema: 1` needs no import: try `cai constitution check`"
    )


def _instructions(data: Any, path: Path) -> Imported | None:  # noqa: ANN401
    entries = list(data.values()) if isinstance(data, dict) else None
    if not _records(entries, "prompt", "edit_request"):
        return None
    principles = [
        _principle(
            path,
            id=_slug(key),
            critique=_only(path, key, data[key]["prompt"]),
            revision=data[key]["edit_request"],
        )
        for key in sorted(data, key=_numerically)
    ]
    return Imported(principles, notes=[f"{len(principles)} critiques and revisions"])


def _recipe(data: Any, path: Path) -> Imported | None:  # noqa: ANN401
    pairs: Any = data.get("constitutions") if isinstance(data, dict) else None
    if not _records(pairs, "critic", "revision"):
        return None
    principles = [
        _principle(path, id=f"principle-{i}", critique=pair["critic"], revision=pair["revision"])
        for i, pair in enumerate(pairs)
    ]
    notes = [f"{len(principles)} critiques and revisions"]
    return _with_chats(Imported(principles, notes=notes), data.get("system_chat", []), path)


def _chats(data: Any, path: Path) -> Imported | None:  # noqa: ANN401
    chats = data.get("samples") if isinstance(data, dict) else None
    return _with_chats(Imported(), chats, path) if isinstance(chats, list) and chats else None


def _compared(data: Any, path: Path) -> Imported | None:  # noqa: ANN401
    if not isinstance(data, list) or not any(map(looks_compared, data)):
        return None
    examples, notes = comparison_examples(data, str(path))
    return Imported(compared=examples, notes=notes)


def _comparisons(data: Any, path: Path) -> Imported | None:  # noqa: ANN401
    if not _texts(data) or any("Revision:" in text for text in data):
        return None
    return _as_comparisons(list(enumerate(data)), path, "comparisons")


def _transcripts(data: Any, path: Path) -> Imported | None:  # noqa: ANN401
    if not _texts(data) or not all("Revision:" in text for text in data):
        return None
    examples = [transcript_example(text, f"{path}: item {i}") for i, text in enumerate(data)]
    return Imported(examples=examples, notes=[f"{len(examples)} worked examples of critiques"])


def _numbered_text(data: Any, path: Path) -> Imported | None:  # noqa: ANN401
    if not isinstance(data, str):
        return None
    items: list[tuple[int, str]] = []
    left_out: list[str] = []
    after_blank = True
    for line in data.splitlines():
        if start := _NUMBERED.match(line):
            items.append((int(start[1]), start[2].strip()))
        elif items and line.strip() and (line[0].isspace() or not after_blank):
            number, text = items[-1]
            items[-1] = (number, f"{text} {line.strip()}")
        elif line.strip():
            left_out.append(line.strip())
        after_blank = not line.strip()
    if not items:
        return None
    imported = _as_comparisons(items, path, "numbered lines, read as comparisons")
    if left_out:
        imported.notes.append(f"left out, for it has no number: {' '.join(left_out)}")
    return imported


Shape = Callable[[Any, Path], Imported | None]

SHAPES: dict[str, Shape] = {
    "JSON {NAME: {prompt: [TEXT], edit_request: TEXT}} (critiques and revisions)": _instructions,
    "JSON {constitutions: [{critic, revision}], system_chat: [CHAT]}": _recipe,
    "JSON {samples: [CHAT]} (worked examples; a chat is a list of {role, content})": _chats,
    "JSON [TRANSCRIPT] with Human:, Assistant:, CritiqueRequest:, Critique:, RevisionRequest:"
    " and Revision: turns (worked examples)": _transcripts,
    "JSON [{prompt: TRANSCRIPT, corrects: [RESPONSE], incorrects: [RESPONSE]}], or [{prompt:"
    " QUESTION}] with a conversation, {}, the options (A) and (B), and a reasoning and the answer"
    " (worked examples of comparisons)": _compared,
    "JSON [TEXT] (comparisons)": _comparisons,
    'plain text with lines "1. TEXT" (comparisons)': _numbered_text,
}
"""What each shape looks like, and the function that reads it or returns None."""


def _with_chats(imported: Imported, chats: Any, path: Path) -> Imported:  # noqa: ANN401
    if not isinstance(chats, list):
        raise CaiError(f"{path}: `system_chat` must be a list of chats")
    imported.examples = [chat_example(c, f"{path}: chat {i}") for i, c in enumerate(chats)]
    if chats:
        imported.notes.append(f"{len(chats)} worked examples of critiques")
    return imported


def _as_comparisons(items: list[tuple[int, str]], path: Path, what: str) -> Imported:
    principles = [_principle(path, id=f"comparison-{n}", comparison=text) for n, text in items]
    return Imported(principles, notes=[f"{len(principles)} {what}"])


def _principle(path: Path, **fields: Any) -> Principle:  # noqa: ANN401
    """Build a principle, the prompt scaffolding around its texts removed."""
    texts = {
        key: _CLOSING.sub("", _OPENING.sub("", text)) if isinstance(text, str) else text
        for key, text in fields.items()
    }
    try:
        return Principle.model_validate(texts)
    except ValidationError as problem:
        first = problem.errors()[0]
        what = ".".join(map(str, first["loc"]))
        raise CaiError(
            f"{path}: item {fields['id']!r} is not a valid principle, {what}: {first['msg']}. Fix "
            "or remove it"
        ) from problem


def _only(path: Path, key: str, prompt: Any) -> Any:  # noqa: ANN401
    """Take the text out of a list of one text."""
    if not isinstance(prompt, list):
        return prompt
    if len(prompt) != 1:
        raise CaiError(
            f"{path}: `prompt` of {key!r} lists {len(prompt)} texts: split it into entries of one"
        )
    return prompt[0]


def _records(items: Any, *keys: str) -> bool:  # noqa: ANN401
    """Whether `items` is a list of mappings that all have these keys."""
    rows: list[Any] = items if isinstance(items, list) else []
    return bool(rows) and all(isinstance(row, dict) and set(keys) <= set(row) for row in rows)


def _texts(data: Any) -> bool:  # noqa: ANN401
    return isinstance(data, list) and bool(data) and all(isinstance(t, str) for t in data)


def _numerically(name: str) -> str:
    """Sort harmful2 before harmful10."""
    return re.sub(r"\d+", lambda digits: digits[0].zfill(20), name)


def _slug(name: str) -> str:
    """Make an identifier of a name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "principle"


def _unique(name: str, taken: set[str]) -> str:
    names = chain([name], (f"{name}-{number}" for number in count(2)))
    return next(one for one in names if one not in taken)
