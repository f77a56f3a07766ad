"""Settings that are checked: changes from the command line, and errors with their places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from cai.constitution.document import Document
from cai.constitution.explain import did_you_mean, known_keys
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
        changes: `KEY=VALUE` with dotted keys and YAML values, given by the option `flag`.
        document: The file of the values; None if all are from the command line.
        flag: For errors.

    Raises:
        CaiError: The settings have errors; the message has all of them with their places.
    """
    changed = [apply_change(change, data, flag) for change in changes]
    places = Places(document, changed, flag)
    try:
        return section.model_validate(data)
    except ValidationError as problem:
        raise CaiError("\n".join(explained(problem, section, places))) from None


@dataclass(frozen=True)
class Places:
    """Where values are from: a file, or the option `flag`, which has changed some keys."""

    document: Document | None = None
    changed: Sequence[tuple[str, ...]] = ()
    flag: str = "--set"

    def write(self, location: Keys, *, of_key: bool = False) -> str:
        """Write where a value is from, or the innermost part of its place that is known."""
        if self.document is None or any(location[: len(k)] == k for k in self.changed):
            dotted = ".".join(map(str, location))
            return f"`{self.flag} {dotted}=…`" if dotted else f"`{self.flag}`"
        return str(self.document.place(location, of_key=of_key))


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
    said: list[str] = []
    for details in problem.errors(include_url=False):
        location = (*above, *details["loc"])
        dotted = ".".join(str(step) for step in location)
        unknown = details["type"] == "extra_forbidden"
        message = details["msg"].removeprefix("Value error, ").replace("Input should", "it should")
        if unknown:
            inside = details["loc"][:-1]
            there = known if known is not None and not inside else known_keys(inside, root)
            hint = did_you_mean(str(location[-1]), there)
            message = f"the key `{dotted}` is unknown, {hint}"
        elif details["type"] == "missing":
            message = f"`{dotted}` is missing: add it"
        elif details["type"] != "value_error" or not isinstance(details["input"], dict):
            message = f"`{dotted}`: {message} (it is {details['input']!r})"
        # The message about a whole section names its settings.
        said.append(f"{places.write(location, of_key=unknown)}: {message}")
    return said
