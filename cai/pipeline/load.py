"""Read a pipeline file: YAML, changes from the command line, validation with places."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cai.constitution import Constitution, load_constitution
from cai.constitution.document import Document, read_document
from cai.constitution.explain import did_you_mean
from cai.errors import CaiError
from cai.settings import PipelineSettings

S = TypeVar("S", bound=BaseModel)


@dataclass(frozen=True)
class LoadedPipeline:
    """A pipeline, ready to run.

    Attributes:
        settings: Validated, changes applied.
        base_dir: The folder of the file; relative paths in it start there.
        constitution: What it names, `extends` resolved.
    """

    settings: PipelineSettings
    base_dir: Path
    constitution: Constitution


def shipped_pipelines() -> list[str]:
    """Return the names of the pipelines that come with cai, sorted."""
    return sorted(path.stem for path in shipped_folder().glob("*.yaml"))


def load_pipeline(ref: Path, changes: Sequence[str] = ()) -> LoadedPipeline:
    """Load a pipeline by file or shipped name.

    Args:
        ref: A file, or the name of a shipped pipeline (`quickstart`).
        changes: `KEY=VALUE` with dotted keys (`ppo.steps=10`) and YAML values; `sft=null` removes a
            section.

    Raises:
        CaiError: The file is missing or wrong; all its errors, with line and column.
    """
    path = _find(ref)
    document = read_document(path)
    if not isinstance(document.data, dict):
        raise CaiError(f"{path}: a pipeline is a mapping of keys to values, such as `name: mine`.")
    for stage in PipelineSettings.stage_names():
        if stage in document.data and document.data[stage] is None:
            document.data[stage] = {}
    settings = validated(PipelineSettings, document.data, changes, document=document)
    # A section with nothing in it is a stage with its defaults, and no fault.
    faults = [finding for finding in document.findings if finding.code != "empty"]
    if faults:
        raise CaiError("\n".join(f"{f.place}: {f.message}" for f in faults))
    return LoadedPipeline(settings, path.parent, _constitution(settings, path))


def read_resolved(run_folder: Path) -> PipelineSettings:
    """Read the pipeline that a run folder was made with.

    Raises:
        CaiError: The folder is not a run folder, or its file is damaged or of another version.
    """
    path = run_folder / "pipeline.yaml"
    if not path.exists():
        raise CaiError(f"{run_folder} is not a run folder: it has no pipeline.yaml.")
    try:
        return PipelineSettings.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as problem:
        first = problem.errors(include_url=False)[0]
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except yaml.YAMLError as problem:
        what = " ".join(str(problem).split())
    raise CaiError(
        f"{path}: {what}. It was edited, or written by another version of cai; `cai run` with the "
        f"pipeline's own file and `--out {run_folder}` writes it anew and redoes what has changed."
    )


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
        section: What they are.
        data: Their values; changed.
        changes: `KEY=VALUE` with dotted keys and YAML values.
        document: The file that they are from; None if the command line alone made them.
        flag: What gave the changes.

    Raises:
        CaiError: All errors, each with its place.
    """
    changed = [_apply(change, data, flag) for change in changes]
    try:
        return section.model_validate(data)
    except ValidationError as problem:
        errors = problem.errors(include_url=False)
        said = (_explain(e, section, document, changed, flag) for e in errors)
        raise CaiError("\n".join(said)) from None


def _constitution(settings: PipelineSettings, path: Path) -> Constitution:
    """Load the constitution by built-in name, from the working directory or beside the file."""
    ref = settings.constitution
    beside = path.parent / ref
    return load_constitution(beside if not Path(ref).exists() and beside.is_file() else ref)


def shipped_folder() -> Path:
    """Return the folder of the shipped pipelines, in a checkout or installed."""
    package = Path(__file__).parents[1]
    installed = package / "_shipped" / "pipelines"
    return installed if installed.is_dir() else package.parent / "pipelines"


def _find(ref: Path) -> Path:
    if ref.is_file():
        return ref
    if str(ref) in shipped_pipelines():
        return shipped_folder() / f"{ref}.yaml"
    what = "is a folder" if ref.is_dir() else "does not exist"
    raise CaiError(
        f"The pipeline {ref} {what}. Give a YAML file, or the name of a shipped pipeline: "
        f"{', '.join(shipped_pipelines())}."
    )


def _apply(change: str, data: dict[str, Any], flag: str) -> tuple[str, ...]:
    """Apply `a.b=value` to nested data; returns the key's path."""
    dotted, equals, text = change.partition("=")
    keys = tuple(dotted.strip().split("."))
    if not equals or not all(keys):
        raise CaiError(f"`{flag} {change}` is not of the form KEY=VALUE.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise CaiError(f"`{flag} {change}`: the value is not YAML; put it in quotes.") from None
    place: dict[str, Any] = data
    for key in keys[:-1]:
        inner = place.get(key)
        if inner is None:
            inner = place[key] = {}
        if not isinstance(inner, dict):
            raise CaiError(f"`{flag} {change}`: `{key}` holds no settings of its own.")
        place = inner
    place[keys[-1]] = value
    return keys


def _explain(
    details: ErrorDetails,
    root: type[BaseModel],
    document: Document | None,
    changed: Iterable[tuple[str, ...]],
    flag: str,
) -> str:
    """Write one validation error: where, what, and the fix."""
    location = details["loc"]
    dotted = ".".join(str(step) for step in location)
    if document is None or any(location[: len(keys)] == keys for keys in changed):
        where = f"`{flag} {dotted}=…`" if dotted else f"`{flag}`"
    else:
        where = str(document.place(location, of_key=details["type"] == "extra_forbidden"))
    if details["type"] == "extra_forbidden":
        hint = did_you_mean(str(location[-1]), _known_keys(location[:-1], root))
        return f"{where}: the key `{dotted}` is unknown, {hint}"
    if details["type"] == "missing":
        return f"{where}: `{dotted}` is missing: add it"
    message = details["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    if isinstance(details["input"], dict):  # of a whole section: the message names its settings
        return f"{where}: {message}"
    return f"{where}: `{dotted}`: {message} (it is {details['input']!r})"


def _known_keys(location: Iterable[str | int], model: type[BaseModel]) -> list[str]:
    """Return the keys that the settings at `location` inside `model` may have."""
    for step in location:
        if isinstance(step, str):
            model = _section(model.model_fields[step].annotation) or model
    return list(model.model_fields)


def _section(annotation: Any) -> type[BaseModel] | None:  # noqa: ANN401
    """Find the settings class inside an annotation such as `list[SourceSettings] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for a in get_args(annotation) if (found := _section(a))), None)
