"""Options that several commands share."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from cai.constitution.document import read_document
from cai.data.store import check_output
from cai.errors import CaiError
from cai.pipeline.validation import validated
from cai.settings import ModelSettings

T = TypeVar("T")

YAML = (".yaml", ".yml")
_SERVED = re.compile(r"(.+)@(https?://.+)")

MODEL_HELP = "A model folder, a hub id, `playground`, NAME@URL of a server, or a YAML file."
Model = Annotated[str, typer.Option("--model", help=MODEL_HELP, metavar="MODEL")]
ModelChanges = Annotated[
    list[str] | None,
    typer.Option(
        "--model-set",
        metavar="KEY=VALUE",
        help="A setting of the model, as in `models` of a pipeline: `engine=…`, `format=…`.",
    ),
]
ConstitutionFile = Annotated[str, typer.Argument(metavar="FILE", show_default=False)]
Seed = Annotated[int, typer.Option(help="The seed of draws and samples.")]
Reasoning = Annotated[
    bool,
    typer.Option("--reasoning/--no-reasoning", help="Chain of thought before each verdict."),
]


JSON_LINES = (".jsonl", ".ndjson", ".json")
"""Endings of files of JSON Lines."""


def output_file(path: Path | None) -> Path | None:
    """Refuse a file that cannot be written, before anything is done: a callback of options."""
    return path and check_output(path)


JsonFile = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", callback=output_file, help="Write all of it to a file."),
]


def output_folder(path: Path | None) -> Path | None:
    """Refuse a folder that cannot be written, before anything is done: a callback of options."""
    return path and check_output(path, folder=True)


def from_fields(options: type[T]) -> Callable[[Callable[[T], None]], Callable[..., None]]:
    """Make a command of a function of one data class, whose fields are arguments and options."""

    def command_of(run: Callable[[T], None]) -> Callable[..., None]:
        def command(**values: Any) -> None:  # noqa: ANN401 (as the fields say)
            run(options(**values))

        command.__doc__ = run.__doc__
        vars(command)["__signature__"] = inspect.signature(options, eval_str=True)
        return command

    return command_of


def model_settings(
    model: str,
    changes: list[str] | None,
    like: ModelSettings | None = None,
    *,
    flag: str = "--model-set",
) -> ModelSettings:
    """Make a model's settings from its name and `KEY=VALUE` texts; the rest are those of `like`.

    Args:
        model: A folder, a hub id or `playground`; `MODEL@URL`, a model on a server with OpenAI's
            API; or a YAML file with the settings of an entry of `models` in a pipeline.
        changes: Settings with dotted keys.
        like: Settings to start from.
        flag: The option that gave the changes.

    Raises:
        CaiError: The file cannot be read, a text is not `KEY=VALUE`, a setting is unknown, or its
            value is wrong.
    """
    start = like.model_dump() if like else {}
    served = _SERVED.fullmatch(model)
    document = None
    if served:
        name, url = served.groups()
        start |= {"path": name, "engine": "openai", "server": {"base_url": url}}
    elif model.endswith(YAML):
        document = read_document(Path(model))
        if not isinstance(document.data, dict):
            raise CaiError(f"{model}: a model is a mapping of keys to values, such as `path: …`.")
        start |= document.data
    else:
        start |= {"path": model}
    return validated(ModelSettings, start, changes or [], document=document, flag=flag)


def spelling(model: ModelSettings) -> str:
    """Return a model's path, with the address of its server if it has one."""
    return f"{model.path}@{model.server.base_url}" if model.server else model.path
