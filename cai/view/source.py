"""The constitution file of the page: read it, apply edits, check it, save it."""

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
    """A new text of a principle."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    principle: str
    half: Half
    text: str


class FileChangedError(CaiError):
    """The file on disk is not the version on the page."""


@dataclass(frozen=True)
class Source:
    """The constitution file to read, and the file to write: the same, or a new one."""

    path: Path
    target: Path


def source_of(ref: str | None, run: Path, named: str, folder: Path) -> Source:
    """Find the file to edit.

    Built-in constitutions and the run's copy do not change: they are saved as a new file.

    Args:
        ref: A file or a built-in name; None for the constitution of the run.
        run: The run folder, which has a copy of its constitution.
        named: The constitution in the run's pipeline file.
        folder: The folder of a new file.

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
    """The text of the file with unsaved edits, and the findings of `cai constitution check`.

    `resolved` is the constitution, or None if a finding is an error.
    """

    text: str
    findings: list[Finding]
    resolved: Resolved | None

    def whole(self) -> Resolved:
        """Return the constitution.

        Raises:
            ConstitutionError: The file has an error.
        """
        if self.resolved is None:
            raise ConstitutionError(self.findings)
        return self.resolved


def read(source: Source) -> dict[str, Any]:
    """Return the file as JSON: its principles, its version and its findings.

    Raises:
        CaiError: It cannot be read, or has an error.
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
        edits: New texts of its own principles.
        version: The version on the page; None for any.

    Raises:
        FileChangedError: The file has another version.
        CaiError: It cannot be read, or does not have the text of an edit.
    """
    text = read_text(source.path)
    if version is not None and version != _version(text):
        raise FileChangedError(
            f"{source.path} was changed or replaced since this page read it. Read it again; your "
            "edits on this page are kept."
        )
    if edits:
        text = replace_texts(text, _places(read_document(source.path, text), edits))
    try:
        resolved = resolve(source.path, text=text)
    except ConstitutionError as problem:
        return Draft(text, problem.findings, None)
    return Draft(text, doubts(resolved), resolved)


def save(source: Source, edits: Sequence[Edit], version: str) -> tuple[Source, Draft]:
    """Write the file with its edits, atomically, if it has no error.

    Returns:
        The new source, and the draft; it was not written if it has an error.

    Raises:
        FileChangedError: The file has another version, or the new file exists already.
        CaiError: It cannot be written.
    """
    found = draft(source, edits, version)
    if found.resolved is None:
        return source, found
    target = source.target.resolve()
    if source.target != source.path and target.exists():
        raise FileChangedError(
            f"{source.target} exists already. Move it, or open it: "
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
    """Return the findings as JSON, each with its principle and text.

    Findings of other files, and of the whole file, have no principle.
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
    """Return the ids of the file's own principles, with their index in the list."""
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
