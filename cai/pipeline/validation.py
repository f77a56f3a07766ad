"""Settings that are checked: changes from the command line, and errors with their places."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cai.constitution.document import Document
from cai.constitution.explain import did_you_mean, known_keys
from cai.errors import CaiError
from cai.settings.paths import is_there, user_path
from cai.settings.wording import in_words, is_sentence, shown

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
        raise CaiError("\n".join(explained(problem, section, data, places))) from None


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
    except (yaml.YAMLError, ValueError, RecursionError):
        what = "the value is not YAML, or no number or date that can be read; put it in quotes"
        raise CaiError(f"`{flag} {change:.80}`: {what}.") from None
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
    if text != text.strip() and is_there(Path(text)):
        return text
    path = text.strip()
    names_a_file = len(path) > 1 and is_there(user_path(path))
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        if names_a_file:
            return path
        raise
    if value is None and path.startswith("#"):
        return path
    if isinstance(value, str) and " #" in path and path[0] not in "\"'":
        return path
    return path if names_a_file and not isinstance(value, str | int | float | None) else value


def explained(
    problem: ValidationError,
    root: type[BaseModel],
    data: object,
    places: Places,
    above: Keys = (),
    known: Sequence[str] | None = None,
) -> list[str]:
    """Write each validation error: where, what, and the fix.

    Args:
        problem: What is wrong with settings.
        root: Their class.
        data: Their values, as they were given.
        places: Where they are from.
        above: The keys that lead to them.
        known: The keys that they may have at the top, if those are not the fields of the class.
    """
    said: dict[str, None] = {}
    faults: defaultdict[Keys, list[ErrorDetails]] = defaultdict(list)
    for details in problem.errors(include_url=False):
        faults[_written(details["loc"], data, details["type"])].append(details)
    for inside, errors in faults.items():
        location, first = (*above, *inside), errors[0]
        dotted = ".".join(str(step) for step in location)
        unknown = first["type"] == "extra_forbidden"
        if unknown:
            at_top = known is not None and len(inside) == 1
            there = known if at_top else known_keys(inside[:-1], root)
            message = (
                f"the key `{dotted}` is unknown, {did_you_mean(str(location[-1]), there or ())}"
            )
        elif first["type"] == "missing" and isinstance(first["loc"][-1], str):
            message = f"`{dotted}` is missing: add it"
        elif is_sentence(first):
            # The message about a whole section names its settings.
            whole = isinstance(first["input"], dict)
            message = in_words(first)
            message = message if whole else f"`{dotted}`: {message} (it is {shown(first['input'])})"
        else:
            # A value of one of several kinds has an error for each.
            kinds = " or ".join(dict.fromkeys(map(in_words, errors)))
            kinds = kinds.replace(" or must be ", " or ")
            message = f"`{dotted}` {kinds} (it is {shown(first['input'])})"
        said[f"{places.write(location, of_key=unknown)}: {message}"] = None
    return [*said]


def _written(location: Keys, data: object, kind: str) -> Keys:
    """Return the keys of a place as the file has them.

    Validation's own have more steps: the kinds that a value may be of, and an index where one item
    was written for a list of them.
    """
    kept: list[str | int] = []
    for number, step in enumerate(location):
        last = number == len(location) - 1
        if isinstance(data, Mapping) and step in data:
            data = cast("Mapping[object, object]", data)[step]
        elif isinstance(data, list) and isinstance(step, int) and step < len(cast("Any", data)):
            data = cast("list[object]", data)[step]
        elif not (last and isinstance(step, str) and kind == "missing"):
            continue
        kept.append(step)
    return tuple(kept)
