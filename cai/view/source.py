"""The constitution file that the page edits: read, changed in memory, checked, saved."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from cai.constitution.check import doubts
from cai.constitution.document import Document, Location, read_document, read_text
from cai.constitution.editing import replace_texts
from cai.constitution.findings import ConstitutionError, Finding
from cai.constitution.load import Resolved, find, resolve, shipped_folder
from cai.data.store import write_atomically
from cai.errors import CaiError
from cai.report.wording import visible

Half = Literal["critique", "revision", "comparison"]
HALVES: tuple[Half, ...] = ("critique", "revision", "comparison")
_BOM = b"\xef\xbb\xbf"


class Edit(BaseModel):
    """Other words for a text of a principle."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    principle: str
    half: Half
    text: str


class FileChangedError(CaiError):
    """The file on disk is not the one that the page was made from."""


@dataclass(frozen=True)
class Source:
    """Where the constitution is read from and saved to.

    Attributes:
        path: The file that is read.
        target: The file that is written: the same, or one that is not there yet.
    """

    path: Path
    target: Path


def source_of(ref: str | None, run: Path, named: str, folder: Path) -> Source:
    """Find the file to edit.

    Built-in constitutions and a run's own copy are not changed: what is saved is a new file.

    Args:
        ref: A file or a built-in name; None to go by the run.
        run: The run folder, which has a copy of the constitution it was made with.
        named: What the run's pipeline calls its constitution.
        folder: Where a new file would go.

    Raises:
        CaiError: There is no such constitution.
    """
    if ref is not None:
        path = find(ref)
    else:
        try:
            path = find(named)
        except CaiError:
            path = find(run / "constitution.yaml")
    kept = {shipped_folder().resolve(), run.resolve()}
    if path.resolve().parent in kept:
        name = path.stem if ref is not None or path.parent == shipped_folder() else Path(named).stem
        return Source(path, folder / f"{name}-edited.yaml")
    return Source(path, path)


@dataclass(frozen=True)
class Draft:
    """The file with edits that are not saved yet.

    Attributes:
        text: What would be saved.
        findings: What `cai constitution check` would say of it.
        resolved: The constitution; None when a finding is an error.
    """

    text: str
    findings: list[Finding]
    resolved: Resolved | None

    def whole(self) -> Resolved:
        """Return the constitution.

        Raises:
            ConstitutionError: There is none.
        """
        if self.resolved is None:
            raise ConstitutionError(self.findings)
        return self.resolved


def read(source: Source) -> dict[str, Any]:
    """Return what the page shows of the file: its principles, its version and what is wrong.

    Raises:
        CaiError: It cannot be read, or is wrong already.
    """
    found = draft(source, [])
    resolved = found.whole()
    own = _own(read_document(source.path, found.text))
    return {
        "path": visible(str(source.path)),
        "target": visible(str(source.target)),
        "copy": source.target != source.path,
        "version": _version(found.text),
        "name": visible(resolved.constitution.name),
        "principles": [
            {
                "id": principle.id,
                "weight": principle.weight,
                "tags": principle.tags,
                "description": visible(principle.description or ""),
                "own": principle.id in own,
                "from": visible(str(resolved.places[principle.id].path.name)),
                "texts": {
                    half: {"text": written, "hidden": visible(written) != written}
                    for half in HALVES
                    if (written := getattr(principle, half)) is not None
                },
            }
            for principle in resolved.constitution.principles
        ],
        "findings": placed(found, source),
    }


def draft(source: Source, edits: Sequence[Edit], version: str | None = None) -> Draft:
    """Apply edits to the file as it is on disk, and check the result.

    Args:
        source: The file.
        edits: Other words for texts of its own principles.
        version: What the page was made from; None for whatever is there.

    Raises:
        FileChangedError: The file is not of this version any more.
        CaiError: It cannot be read, or an edit is of a text that the file does not have.
    """
    text = read_text(source.path)
    if version is not None and version != _version(text):
        raise FileChangedError(
            f"{source.path} was changed or replaced since this page read it. Read it again; what "
            "you have typed here stays."
        )
    if edits:
        text = replace_texts(text, _places(read_document(source.path, text), edits))
    try:
        resolved = resolve(source.path, text=text)
    except ConstitutionError as problem:
        return Draft(text, problem.findings, None)
    return Draft(text, doubts(resolved), resolved)


def save(source: Source, edits: Sequence[Edit], version: str) -> tuple[Source, Draft]:
    """Write the file with its edits, atomically, unless they are wrong.

    Returns:
        Where the constitution is from now on, and what was written; nothing was if the draft is
        wrong.

    Raises:
        FileChangedError: The file is not of this version any more, or a new one is there already.
        CaiError: It cannot be written.
    """
    found = draft(source, edits, version)
    if found.resolved is None:
        return source, found
    target = source.target.resolve()
    if source.target != source.path and target.exists():
        raise FileChangedError(
            f"{source.target} is there already. Move it away, or open it: "
            f"`cai view RUN --constitution {source.target}`."
        )
    raw = found.text.encode()
    if source.path.read_bytes().startswith(_BOM):
        raw = _BOM + raw
    try:
        write_atomically(target, [raw])
    except CaiError as problem:
        reason = getattr(problem.__cause__, "strerror", None) or problem
        message = f"{source.target} cannot be written ({reason}): nothing was saved."
        raise CaiError(message) from None
    return Source(source.target, source.target), found


def placed(draft: Draft, source: Source) -> list[dict[str, Any]]:
    """Say of each finding which principle, and which of its texts, it is about.

    Those of other files, and of the file as a whole, are about no principle.
    """
    if not draft.findings:
        return []
    document = read_document(source.path, draft.text)
    return [
        {
            "severity": found.severity,
            "message": visible(found.message),
            "where": visible(str(found.place)),
            **_about(found, document, source.path),
        }
        for found in draft.findings
    ]


def _about(found: Finding, document: Document, path: Path) -> dict[str, str | None]:
    if found.place.path != path:
        return {"principle": None, "half": None}
    at = (found.place.line, found.place.column)
    here = [where for where, place in document.values.items() if (place.line, place.column) == at]
    where = max(here, key=len, default=())
    numbers = {number: name for name, number in _own(document).items()}
    if len(where) < 2 or where[0] != "principles":
        return {"principle": None, "half": None}
    half = where[2] if len(where) > 2 and where[2] in HALVES else None
    return {"principle": numbers.get(where[1]), "half": half if half is None else str(half)}


def _own(document: Document) -> dict[str, str | int]:
    """Return the ids of the file's own principles, and where in its list they stand."""
    listed: Any = document.data.get("principles") if isinstance(document.data, dict) else None
    items: list[dict[str, Any]] = listed if isinstance(listed, list) else []
    return {item["id"]: n for n, item in enumerate(items) if "id" in item}


def _places(document: Document, edits: Sequence[Edit]) -> Mapping[Location, str]:
    own = _own(document)
    for edit in edits:
        if edit.principle not in own:
            raise CaiError(
                f"The principle {visible(edit.principle)!r} is not in this file, so it cannot be "
                "changed here."
            )
    return {("principles", own[edit.principle], edit.half): edit.text for edit in edits}


def _version(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
