"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import typer
import yaml
from pydantic import ValidationError

from cai.constitution.explain import did_you_mean
from cai.errors import CaiError
from cai.settings import CompareSettings, ModelSettings, Settings

S = TypeVar("S", bound=Settings)

Model = Annotated[
    str, typer.Option("--model", help="A model folder, a hub id, or `playground`.", metavar="MODEL")
]
ModelChanges = Annotated[
    list[str] | None,
    typer.Option(
        "--model-set",
        metavar="KEY=VALUE",
        help="A setting of the model, as in `models` of a pipeline: `engine=…`, `format=…`.",
    ),
]
Seed = Annotated[int, typer.Option(help="Decides draws and samples.")]
Reasoning = Annotated[
    bool,
    typer.Option("--reasoning/--no-reasoning", help="Chain of thought before each verdict."),
]


def model_settings(
    model: str, changes: list[str] | None, like: ModelSettings | None = None
) -> ModelSettings:
    """Make a model's settings of its path and `KEY=VALUE` texts; the rest are those of `like`.

    Raises:
        CaiError: A text is not of this form, or names no setting, or gives it no fitting value.
    """
    start = {**(like.model_dump() if like else {}), "path": model}
    return _changed(ModelSettings, start, changes, flag="--model-set", what="a model")


def compare_settings(changes: list[str] | None) -> CompareSettings:
    """Make the settings of the `compare` stage of `KEY=VALUE` texts; the others as they are.

    Raises:
        CaiError: As `model_settings`.
    """
    return _changed(CompareSettings, {}, changes, flag="--set", what="`compare`")


def _changed(
    section: type[S], values: dict[str, Any], changes: list[str] | None, *, flag: str, what: str
) -> S:
    for change in changes or []:
        key, equals, text = change.partition("=")
        if not equals or key not in section.model_fields:
            hint = did_you_mean(key, section.model_fields)
            raise CaiError(f"`{flag} {change}` names no setting of {what}, {hint}")
        try:
            values[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise CaiError(f"`{flag} {change}`: the value is not YAML, quote it.") from None
    try:
        return section.model_validate(values)
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(map(str, first["loc"]))
        message = first["msg"].replace("Input should", "it should")
        raise CaiError(f"`{flag} {where}=…`: {message} (it is {first['input']!r})") from None
