"""Pipeline files that start from another one: `extends`, and `without` some of its sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cai.constitution.document import Document, Location, read_document
from cai.constitution.explain import did_you_mean
from cai.constitution.load import shipped
from cai.errors import CaiError

EXTENDS, WITHOUT = "extends", "without"


def shipped_pipelines() -> list[str]:
    """Return the names of the pipelines that come with cai, sorted."""
    return sorted(path.stem for path in shipped("pipelines").glob("*.yaml"))


def find_pipeline(ref: Path, beside: Path = Path()) -> Path:
    """Return the file of a pipeline: a file, in `beside` too, or the name of a shipped one.

    Raises:
        CaiError: There is none.
    """
    for path in (ref, beside / ref):
        if path.is_file():
            return path
    if str(ref) in shipped_pipelines():
        return shipped("pipelines") / f"{ref}.yaml"
    what = "is a folder" if ref.is_dir() else "does not exist"
    raise CaiError(
        f"The pipeline {ref} {what}. Give a YAML file, or the name of a shipped pipeline: "
        f"{', '.join(shipped_pipelines())}."
    )


def read_pipeline(path: Path, above: Sequence[Path] = ()) -> Document:
    """Read a pipeline file over the file that it extends, if any.

    Mappings are merged key by key; everything else replaces what was there. `name` is not taken
    over. The places are those of the files in which the values are written.

    Args:
        path: The file.
        above: The files that extend it.

    Raises:
        CaiError: A file cannot be read, or `extends` or `without` is wrong.
    """
    document = read_document(path)
    data = document.data
    if not isinstance(data, dict) or not {EXTENDS, WITHOUT} & {*data}:  # pyright: ignore
        return document
    base_of = _name(data.pop(EXTENDS, None), document)
    base = _base(base_of, document, above)
    sections: dict[str, Any] = base.data
    sections.pop("name", None)
    base.values.pop(("name",), None)
    for index, name in enumerate(_names(data.pop(WITHOUT, []), document)):
        if name not in sections:
            raise CaiError(
                f"{document.place((WITHOUT, index))}: {base_of} has no `{name}`, "
                f"{did_you_mean(name, sections)}"
            )
        del sections[name]
    _forget(base, document.data)
    return Document(
        path,
        _merged(sections, document.data),
        base.values | document.values,
        base.keys | document.keys,
        [*base.findings, *document.findings],
        base.faulty | document.faulty,
    )


def _base(name: str, document: Document, above: Sequence[Path]) -> Document:
    place = document.place((EXTENDS,))
    here = [*above, document.path]
    try:
        path = find_pipeline(Path(name), document.path.parent)
    except CaiError as problem:
        raise CaiError(f"{place}: {problem}") from None
    if path.resolve() in [file.resolve() for file in here]:
        steps = " -> ".join(str(file) for file in [*here, path])
        raise CaiError(f"{place}: `extends` goes in a circle ({steps}). Remove one of its steps.")
    base = read_pipeline(path, here)
    if not isinstance(base.data, dict):
        raise CaiError(
            f"{place}: {path} is not a pipeline, which is a mapping of keys to values, such as "
            "`name: mine`."
        )
    return base


def _name(value: Any, document: Document) -> str:  # noqa: ANN401 (whatever the file has)
    if not isinstance(value, str) or not value:
        raise CaiError(
            f"{document.place((EXTENDS,))}: `extends` is one pipeline, a file or a shipped name, "
            "such as `extends: quickstart`. `without` needs it."
        )
    return value


def _names(value: Any, document: Document) -> list[str]:  # noqa: ANN401
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(x, str) for x in names):  # pyright: ignore
        raise CaiError(
            f"{document.place((WITHOUT,))}: `without` lists keys of the file that `extends` names, "
            "such as `without: [preference, ppo]`."
        )
    return names  # pyright: ignore[reportUnknownVariableType]


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(base)
    for key, value in own.items():
        there = both.get(key)
        nested = isinstance(there, dict) and isinstance(value, dict)
        # An empty section is a stage with its defaults: it changes nothing of the base's.
        kept = isinstance(there, dict) and value is None
        both[key] = _merged(there, value) if nested else there if kept else value  # pyright: ignore
    return both


def _forget(base: Document, own: Any, location: Location = ()) -> None:  # noqa: ANN401
    """Remove the places of what is replaced by something other than a mapping."""
    if isinstance(own, dict):
        for key, value in own.items():  # pyright: ignore[reportUnknownVariableType]
            _forget(base, value, (*location, key))  # pyright: ignore[reportUnknownArgumentType]
    elif own is not None:
        for places in (base.values, base.keys):
            for inner in [k for k in places if k[: len(location)] == location]:
                del places[inner]
