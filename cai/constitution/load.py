"""Reading a constitution: find it, validate it, resolve `extends`."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from cai.constitution.document import Document, read_document
from cai.constitution.explain import did_you_mean, explain
from cai.constitution.findings import ConstitutionError, Finding, Place, error
from cai.constitution.schema import (
    Constitution,
    ConstitutionFile,
    Extension,
    FewShot,
    Principle,
)
from cai.errors import CaiError
from cai.settings.paths import user_path

T = TypeVar("T")
SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Resolved:
    """A constitution, and where each of its principles stands (by id)."""

    constitution: Constitution
    places: dict[str, Place]
    path: Path


def load_constitution(ref: str | Path) -> Constitution:
    """Load a constitution by built-in name (`harmless`) or from a file.

    Raises:
        ConstitutionError: When the file is wrong: all its errors, with line and column.
        CaiError: When there is no such constitution.
    """
    return resolve(find(ref)).constitution


def shipped(name: str) -> Path:
    """Return a folder of files that come with cai, in the wheel or beside the package."""
    package = Path(__file__).parents[1]
    installed = package / "_shipped" / name
    return installed if installed.is_dir() else package.parent / name


def shipped_folder() -> Path:
    """Return the folder of the built-in constitutions."""
    return shipped("constitutions")


def shipped_constitutions() -> list[str]:
    """Return the names of the built-in constitutions, sorted."""
    return sorted(path.stem for path in shipped_folder().glob("*.yaml"))


def find(ref: str | Path, folder: Path | None = None) -> Path:
    """Return the file of a constitution.

    Args:
        ref: A built-in name, or a path (it has a slash or ends in `.yaml`).
        folder: What relative paths start from; the working directory if None.

    Raises:
        CaiError: When there is no such file or name.
    """
    if isinstance(ref, str) and ref in shipped_constitutions():
        return shipped_folder() / f"{ref}.yaml"
    path = user_path(ref)
    path = path if folder is None else folder / path
    if path.is_dir():
        inside = ", ".join(sorted(p.name for p in path.glob("*.yaml"))) or "no YAML file"
        raise CaiError(
            f"{path} is a folder: give the constitution file itself (the folder has {inside})"
        )
    if path.is_file():
        return path
    built_in = shipped_constitutions()
    nearby = [str(p) for p in path.parent.glob("*") if p.suffix in SUFFIXES]
    close = get_close_matches(str(ref), built_in, n=2) + get_close_matches(str(path), nearby, n=2)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise CaiError(
        f"there is no constitution {str(ref)!r}, neither built in nor as a file: {hint}"
        f"Built in are {', '.join(built_in)}; `cai constitution new FILE` writes a new one to "
        "start from"
    )


def resolve(path: Path, chain: tuple[Path, ...] = (), text: str | None = None) -> Resolved:
    """Read a file, or `text` in its place, and everything that it extends.

    `chain` are the files that extend it, outermost first.

    Raises:
        ConstitutionError: When this file, or one that it extends, is wrong.
    """
    file, document = read_file(path, text)
    parents = _parents(file, document, (*chain, path))
    own = {principle.id: principle for principle in file.principles}
    places = {p.id: document.place(("principles", i)) for i, p in enumerate(file.principles)}
    _refuse_conflicts(parents, own, document)
    merged = {p.id: p for parent in parents for p in parent.constitution.principles} | own
    if not merged:
        message = "there is no principle: list some under `principles`, or name others to `extends`"
        raise ConstitutionError([error(document.place(()), "no-principles", message)])
    constitution = Constitution(
        name=file.name,
        description=file.description,
        principles=tuple(merged.values()),
        few_shot=_join([*(p.constitution.few_shot for p in parents), file.few_shot]),
    )
    inherited = {name: place for parent in parents for name, place in parent.places.items()}
    return Resolved(constitution, inherited | places, path)


def read_file(path: Path, text: str | None = None) -> tuple[ConstitutionFile, Document]:
    """Read and validate one file, or `text` in its place, without what it extends.

    Raises:
        ConstitutionError: With everything that is wrong in the file.
    """
    document = read_document(path, text)
    findings = [*document.findings, *_duplicate_ids(document)]
    file = None
    try:
        file = ConstitutionFile.model_validate(document.data)
    except ValidationError as problem:
        findings += explain(problem, document)
    if findings or file is None:
        raise ConstitutionError(findings)
    return file, document


def _duplicate_ids(document: Document) -> list[Finding]:
    """Find ids that several principles of one file share; validation sees one at a time."""
    first: dict[str, Place] = {}
    findings: list[Finding] = []
    for index, name in _ids(document.data):
        place = document.place(("principles", index, "id"))
        if name in first:
            message = (
                f"the id {name!r} stands here and in line {first[name].line}: rename one, rows and"
                " draws are told apart by it"
            )
            findings.append(error(place, "duplicate-id", message))
        first.setdefault(name, place)
    return findings


def _ids(data: Any) -> Iterator[tuple[int, str]]:  # noqa: ANN401
    """Yield index and id of each principle in data that is not validated yet."""
    principles: Any = data.get("principles") if isinstance(data, dict) else None
    items: list[Any] = principles if isinstance(principles, list) else []
    for index, item in enumerate(items):
        if isinstance(item, dict) and isinstance(item.get("id"), str):
            yield index, item["id"]


def _parents(file: ConstitutionFile, document: Document, chain: tuple[Path, ...]) -> list[Resolved]:
    parents: list[Resolved] = []
    for index, extension in enumerate(file.extends):
        place = document.place(("extends", index, "from"))
        try:
            path = find(extension.from_, chain[-1].parent)
        except CaiError as problem:
            raise ConstitutionError([error(place, "extends", str(problem))]) from problem
        if path.resolve() in [p.resolve() for p in chain]:
            circle = " → ".join(p.name for p in (*chain, path))
            message = f"`extends` goes in a circle ({circle}): remove one of its steps"
            raise ConstitutionError([error(place, "extends", message)])
        parents.append(_part(resolve(path, chain), extension, document, index))
    return parents


def _part(parent: Resolved, extension: Extension, document: Document, index: int) -> Resolved:
    """Return what an extension takes of a parent, reweighted.

    Raises:
        ConstitutionError: It names a tag or an id that the parent does not have, or takes nothing.
    """
    constitution = parent.constitution
    known = {
        "tags": {tag for p in constitution.principles for tag in p.tags},
        "exclude": {p.id for p in constitution.principles},
    }
    findings: list[Finding] = []
    for key, words in (("tags", extension.tags or []), ("exclude", extension.exclude)):
        what = "tag" if key == "tags" else "id"
        for number, word in enumerate(words):
            if word not in known[key]:
                hint = did_you_mean(word, known[key])
                message = f"no principle of {constitution.name!r} has the {what} `{word}`: {hint}"
                place = document.place(("extends", index, key, number))
                findings.append(error(place, "extends", message))
    taken = tuple(
        p.model_copy(update={"weight": p.weight * extension.weight})
        for p in constitution.principles
        if (extension.tags is None or set(extension.tags) & set(p.tags))
        and p.id not in extension.exclude
    )
    if not taken and not findings:
        message = f"nothing of {constitution.name!r} is left: exclude less, or drop this item"
        findings.append(error(document.place(("extends", index)), "extends", message))
    if findings:
        raise ConstitutionError(findings)
    return replace(parent, constitution=constitution.model_copy(update={"principles": taken}))


def _refuse_conflicts(parents: list[Resolved], own: Container[str], document: Document) -> None:
    """Refuse an id that two parents define differently, unless the file itself defines it."""
    settled: dict[str, tuple[Principle, Place]] = {}
    findings: list[Finding] = []
    for index, parent in enumerate(parents):
        for principle in parent.constitution.principles:
            place = parent.places[principle.id]
            other, where = settled.setdefault(principle.id, (principle, place))
            if other != principle and principle.id not in own:
                message = (
                    f"principle {principle.id!r} is defined differently at {where} and {place}:"
                    " define it in this file too, or rename one of them"
                )
                findings.append(error(document.place(("extends", index)), "conflict", message))
    if findings:
        raise ConstitutionError(findings)


def _join(parts: list[FewShot]) -> FewShot:
    """Concatenate examples; one that arrives twice (through two parents) is kept once."""
    critique = [example for part in parts for example in part.critique]
    comparison = [example for part in parts for example in part.comparison]
    return FewShot(critique=_distinct(critique), comparison=_distinct(comparison))


def _distinct(examples: list[T]) -> list[T]:
    return [e for i, e in enumerate(examples) if e not in examples[:i]]
