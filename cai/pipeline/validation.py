"""Settings that are checked: changes from the command line, and errors with their places."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cai.constitution.document import Document
from cai.constitution.explain import did_you_mean
from cai.errors import CaiError
from cai.settings.paths import user_path

S = TypeVar("S", bound=BaseModel)

Keys = tuple[str | int, ...]


def validated(
    section: type[S],
    data: dict[str, Any],
    changes: Sequence[str],
    *,
    document: Document | None = None,
    flag: str = "--set",
) -> S:
    """Apply changes to settings and check them.

    Args:
        section: The class of the settings.
        data: Their values; modified in place.
        changes: `KEY=VALUE` with dotted keys and YAML values.
        document: The file of the values; None if all are from the command line.
        flag: The option that gave the changes.

    Raises:
        CaiError: The settings have errors; the message has all of them with their places.
    """
    changed = [apply_change(change, data, flag) for change in changes]
    places = Places(document, changed, flag)
    try:
        return section.model_validate(data)
    except ValidationError as problem:
        raise CaiError("\n".join(explained(problem, section, places))) from None


class Places:
    """Where values are from: a file, or the command line."""

    def __init__(
        self,
        document: Document | None = None,
        changed: Sequence[tuple[str, ...]] = (),
        flag: str = "--set",
    ) -> None:
        """Take the file, the keys that the command line has changed, and how it changes them."""
        self._document = document
        self._changed = changed
        self._flag = flag

    def write(self, location: Keys, *, of_key: bool = False) -> str:
        """Write where a value is from, or the innermost part of its place that is known."""
        if self._document is None or any(location[: len(k)] == k for k in self._changed):
            dotted = ".".join(map(str, location))
            return f"`{self._flag} {dotted}=…`" if dotted else f"`{self._flag}`"
        return str(self._document.place(location, of_key=of_key))


def apply_change(change: str, data: dict[str, Any], flag: str) -> tuple[str, ...]:
    """Apply `a.b=value` to nested data; returns the key's path."""
    dotted, equals, text = change.partition("=")
    keys = tuple(dotted.strip().split("."))
    if not equals or not all(keys):
        raise CaiError(f"`{flag} {change}` is not of the form KEY=VALUE.")
    try:
        value = _value(text)
    except yaml.YAMLError:
        raise CaiError(f"`{flag} {change}`: the value is not YAML; put it in quotes.") from None
    place: dict[str, Any] = data
    for key in keys[:-1]:
        inner = place.get(key)
        if inner is None:
            inner = place[key] = {}
        if not isinstance(inner, dict):
            raise CaiError(f"`{flag} {change}`: `{key}` is not a section with settings.")
        place = inner
    place[keys[-1]] = value
    return keys


def _value(text: str) -> Any:  # noqa: ANN401 (whatever a setting may be)
    """Read the value of a change: YAML, but a path is one whatever it has in its name.

    In YAML "#" begins a comment, and ": ", "[" and others begin lists and mappings.
    """
    if text != text.strip() and Path(text).exists():
        return text
    path = text.strip()
    is_there = len(path) > 1 and user_path(path).exists()
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        if is_there:
            return path
        raise
    if value is None and path.startswith("#"):
        return path
    if isinstance(value, str) and " #" in path and path[0] not in "\"'":
        return path
    return path if is_there and not isinstance(value, str | int | float | None) else value


def explained(
    problem: ValidationError,
    root: type[BaseModel],
    places: Places,
    above: Keys = (),
    known: Sequence[str] | None = None,
) -> list[str]:
    """Write each validation error: where, what, and the fix.

    Args:
        problem: What is wrong with settings.
        root: Their class.
        places: Where they are from.
        above: The keys that lead to them.
        known: The keys that they may have at the top, if those are not the fields of the class.
    """
    errors = problem.errors(include_url=False)
    return [_explain(e, root, places, above, known) for e in errors]


def _explain(
    details: ErrorDetails,
    root: type[BaseModel],
    places: Places,
    above: Keys,
    known: Sequence[str] | None,
) -> str:
    location = (*above, *details["loc"])
    dotted = ".".join(str(step) for step in location)
    where = places.write(location, of_key=details["type"] == "extra_forbidden")
    if details["type"] == "extra_forbidden":
        inside = details["loc"][:-1]
        there = known if known is not None and not inside else _known_keys(inside, root)
        hint = did_you_mean(str(location[-1]), there)
        return f"{where}: the key `{dotted}` is unknown, {hint}"
    if details["type"] == "missing":
        return f"{where}: `{dotted}` is missing: add it"
    message = details["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    if details["type"] == "value_error" and isinstance(details["input"], dict):
        return f"{where}: {message}"  # of a whole section: the message names its settings
    return f"{where}: `{dotted}`: {message} (it is {details['input']!r})"


def _known_keys(location: Iterable[str | int], model: type[BaseModel]) -> list[str]:
    """Return the keys that the settings at `location` inside `model` may have."""
    for step in location:
        if isinstance(step, str):
            model = settings_in(model.model_fields[step].annotation) or model
    return [field.alias or name for name, field in model.model_fields.items()]


def settings_in(annotation: Any) -> type[BaseModel] | None:  # noqa: ANN401
    """Return the settings class inside an annotation such as `list[SourceSettings] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for a in get_args(annotation) if (found := settings_in(a))), None)
