"""What is wrong with a value, in plain words: pydantic's errors as readers of YAML say it."""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

_SECTION = "must be a section of keys and values, such as `{key: value}`"
_LIST = "must be a list, such as `[one, two]`"
_TEXT, _NUMBER, _WHOLE = "must be text", "must be a number", "must be a whole number"
_TRUTH = "must be `true` or `false`"
_WORDS = {
    "missing": "is missing: add it",
    "extra_forbidden": "is unknown: remove it",
    "bool_parsing": _TRUTH,
    "bool_type": _TRUTH,
    "dict_type": _SECTION,
    "finite_number": "must be a finite number",
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "frozen_set_type": _LIST,
    "int_from_float": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": "is too large a number",
    "int_type": _WHOLE,
    "invalid_key": "must have texts as keys",
    "is_instance_of": "is of the wrong kind",
    "json_invalid": "is not valid JSON",
    "json_type": "must be JSON",
    "list_type": _LIST,
    "mapping_type": _SECTION,
    "model_attributes_type": _SECTION,
    "model_type": _SECTION,
    "none_required": "must be null",
    "set_type": _LIST,
    "string_too_short": "is empty: write a text",
    "string_type": _TEXT,
    "string_unicode": "holds characters that are no text",
    "tuple_type": _LIST,
}
_LIMITS = {
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": "must have the form `{pattern}`",
    "too_long": "must have at most {max_length} items",
    "too_short": "must have at least {min_length} items",
}
_LONGEST = 60


def in_words(details: ErrorDetails) -> str:
    """Say what is wrong, as the rest of a sentence about the value: `must be a whole number`."""
    kind, context = details["type"], details.get("ctx", {})
    if kind in ("value_error", "assertion_error"):
        return str(context.get("error", "is wrong"))
    if kind in _LIMITS:
        plain = {k: f"{v:g}" if isinstance(v, float) else v for k, v in context.items()}
        return _LIMITS[kind].format(**plain)
    if kind == "missing" and isinstance(details["loc"][-1], int):
        return "must have more items"
    return _WORDS.get(kind, "is not a value that is known here")


def first_in_words(problem: ValidationError) -> str:
    """Say what is wrong first in a whole value: `a.b` must be text."""
    details = problem.errors(include_url=False)[0]
    steps = [str(step) for step in details["loc"]]
    words = in_words(details)
    return f"`{'.'.join(steps)}` {words}" if steps else f"it {words}"


def is_sentence(details: ErrorDetails) -> bool:
    """Whether `in_words` returns a sentence of its own: a check of cai's says what is wrong."""
    return details["type"] in ("value_error", "assertion_error")


def shown(value: Any) -> str:  # noqa: ANN401
    """Return a value as YAML, on one line, shortened."""
    try:
        text = yaml.safe_dump(
            value, default_flow_style=True, allow_unicode=True, width=10**6, sort_keys=False
        )
    except (yaml.YAMLError, ValueError, RecursionError):
        return "a value that cannot be shown"
    text = " ".join(text.removesuffix("\n").removesuffix("\n...").split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
