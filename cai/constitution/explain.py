"""Validation errors in plain words, with fixes."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cai.constitution.document import Document, Location
from cai.constitution.findings import Finding, error
from cai.constitution.schema import ConstitutionFile
from cai.settings.wording import in_words

_NAMES: dict[tuple[str, ...], str] = {
    ("extends",): "item",
    ("principles",): "principle",
    ("principles", "tests"): "test",
    ("few_shot", "critique"): "critique example",
    ("few_shot", "comparison"): "comparison example",
    ("few_shot", "critique", "messages"): "message",
    ("few_shot", "comparison", "messages"): "message",
}

_MENDS = {
    "missing": "is missing: add it",
    "string_type": "is not text: put it in quotes",
    "string_too_short": "is empty: write the text or drop the key",
    "string_pattern_mismatch": (
        "may hold letters, digits, `.`, `_` and `-` only, and begins with a letter or digit"
    ),
    "float_type": "is not a number: write one such as 2 or 0.5, without quotes or exponent",
    "greater_than": "must be above 0: to drop a principle, remove it",
    "finite_number": "must be finite: write a number such as 2 or 0.5",
    "list_type": "must be a list: put each item on a line of its own after `- `",
    "tuple_type": "must be a list: put each item on a line of its own after `- `",
    "model_type": "must be a mapping of keys to values",
    "too_short": "is empty or too short: add what is missing",
    "too_long": "holds too many items: remove what is too much",
    "bool_type": "must be `true` or `false`",
    "bool_parsing": "must be `true` or `false`",
}


def explain(problem: ValidationError, document: Document) -> list[Finding]:
    """Turn pydantic's errors into findings with places, subjects and fixes."""
    errors = problem.errors(include_url=False)
    return [_explain_one(e, document) for e in errors if not _follows(e, errors, document.faulty)]


def _follows(
    details: ErrorDetails, errors: Iterable[ErrorDetails], faulty: Iterable[Location]
) -> bool:
    """Whether an error is there only because of another one inside it, which is told already.

    Values that the YAML got wrong are missing from what was validated, and items that are wrong
    are not counted in the length of their list.
    """
    location = details["loc"]
    inner = [e["loc"] for e in errors if details["type"] == "too_short" and e["loc"] != location]
    return any(other[: len(location)] == location for other in (*inner, *faulty))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "did you mean `x`?", or the list of known words if none is close."""
    known = sorted(known)
    close = get_close_matches(word, known, n=1)
    return f"did you mean `{close[0]}`?" if close else f"known are {', '.join(known)}"


def known_keys(location: Iterable[str | int], model: type[BaseModel]) -> list[str]:
    """Return the keys that the part of a file at `location` may have; `model` is the whole file."""
    for step in location:
        if isinstance(step, str):
            field = model.model_fields.get(step)
            model = (model_in(field.annotation) if field else None) or model
    return [field.alias or name for name, field in model.model_fields.items()]


def model_in(annotation: Any) -> type[BaseModel] | None:  # noqa: ANN401
    """Return the pydantic model inside an annotation such as `list[Principle] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for a in get_args(annotation) if (found := model_in(a))), None)


def _explain_one(details: ErrorDetails, document: Document) -> Finding:
    location, kind = details["loc"], details["type"]
    if kind == "extra_forbidden":
        return _unknown_key(location, document)
    if location == ("schema",):
        message = "this version of cai reads `schema: 1`: write that line at the top"
        return error(document.place(location), "schema-version", message)
    message = _MENDS.get(kind) or in_words(details)
    owner = _owner(location)
    subject, field = _subject(owner, document.data), _field(location[len(owner) :])
    if kind == "model_type" and _path(location) == ("extends",):
        message = "must be a name or a path, or a mapping with `from`"
    if field:
        sentence = f"{subject}: {field} {message}" if subject else f"{field} {message}"
    else:
        sentence = f"{subject or 'the file'} {message}"
    return error(document.place(location), kind.replace("_", "-"), sentence)


def _unknown_key(location: Location, document: Document) -> Finding:
    *owner, key = location
    known = known_keys(owner, ConstitutionFile)
    subject = _subject(tuple(owner), document.data)
    sentence = f"the key `{key}` is unknown, {did_you_mean(str(key), known)}"
    sentence = f"{subject}: {sentence}" if subject else sentence
    return error(document.place(location, of_key=True), "unknown-key", sentence)


def _owner(location: Location) -> Location:
    """Return the part (principle, example, message) that a location is in; () for the file."""
    for end in range(len(location), 0, -1):
        if isinstance(location[end - 1], int) and _path(location[:end]) in _NAMES:
            return location[:end]
    return ()


def _field(rest: Location) -> str:
    """Write the keys below the owner: `few_shot.critique`, `tags[0]`."""
    steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in rest]
    return f"`{''.join(steps).removeprefix('.')}`" if steps else ""


def _path(location: Iterable[str | int]) -> tuple[str, ...]:
    return tuple(step for step in location if isinstance(step, str))


def _subject(owner: Location, data: Any) -> str:  # noqa: ANN401
    """Name a part: "test 2 of principle 'privacy'"; "" for the file."""
    names: list[str] = []
    for end, step in enumerate(owner, start=1):
        data = data[step]
        if isinstance(step, int):
            name = _NAMES[_path(owner[:end])]
            identified = name == "principle" and isinstance(data, dict) and data.get("id")
            names.append(f"principle {data['id']!r}" if identified else f"{name} {step + 1}")
    if owner[:1] == ("extends",):
        names.insert(0, "`extends`")
    return " of ".join(reversed(names))
