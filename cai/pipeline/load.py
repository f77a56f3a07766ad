"""Read a pipeline file: YAML, changes from the command line, validation with places."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cai.constitution import Constitution, load_constitution
from cai.constitution.document import Document, read_document
from cai.constitution.explain import did_you_mean
from cai.errors import CaiError
from cai.pipeline.context import Pipeline, Run
from cai.pipeline.method import stage_of, stages_by_name
from cai.pipeline.placing import arranged, place
from cai.pipeline.progress import Progress
from cai.pipeline.shipped import shipped_folder, shipped_pipelines
from cai.settings import PipelineSettings, StageSettings

S = TypeVar("S", bound=BaseModel)

Keys = tuple[str | int, ...]

SECTIONS = "sections"
"""The field of the settings that holds the stages."""


def load_pipeline(ref: Path, changes: Sequence[str] = ()) -> Pipeline:
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
    if isinstance(document.data, dict):
        for name in {*stages_by_name()} & {*document.data}:
            document.data[name] = {} if document.data[name] is None else document.data[name]
    changed = [_apply(change, document.data, "--set") for change in changes]
    places = _Places(document, changed)
    settings = _settings(document.data, places)
    # A section with nothing in it is a stage with its defaults, and no fault.
    faults = [finding for finding in document.findings if finding.code != "empty"]
    if faults:
        raise CaiError("\n".join(f"{f.place}: {f.message}" for f in faults))
    stages = place(settings, places.write)
    return Pipeline(settings, stages, path.parent, _constitution(settings, path))


def pipeline_settings(data: Mapping[str, Any]) -> PipelineSettings:
    """Check the contents of a pipeline file that are already in memory.

    Raises:
        CaiError: All errors.
    """
    return _settings(data, _Places())


def read_resolved(run_folder: Path) -> PipelineSettings:
    """Read the pipeline that a run folder was made with.

    Raises:
        CaiError: The folder is not a run folder, or its file is damaged or of another version.
    """
    path = run_folder / "pipeline.yaml"
    if not path.exists():
        raise CaiError(f"{run_folder} is not a run folder: it has no pipeline.yaml.")
    try:
        document = read_document(path)
        return _settings(document.data, _Places(document))
    except CaiError as problem:
        what = str(problem).rstrip(".").replace("\n", "; ")
        raise CaiError(
            f"{what}. It was edited, or written by another version of cai; `cai run` with the "
            f"pipeline's own file and `--out {run_folder}` writes it again and redoes what has "
            "changed."
        ) from None


def open_run(
    run_folder: Path, progress: Progress, defaults: Mapping[str, StageSettings] | None = None
) -> Run:
    """Open a run folder as it is, to ask its models.

    Args:
        run_folder: The run folder.
        progress: Where to say how far things are.
        defaults: Stages by name; one is added if the run has none of its class.

    Raises:
        CaiError: As `read_resolved`, or the constitution that is kept there is damaged.
    """
    settings = read_resolved(run_folder)
    for name, section in (defaults or {}).items():
        if not settings.named(type(section)):
            sections = {**settings.sections, name: section}
            settings = settings.model_copy(update={"sections": sections})
    stages = place(settings, lambda _: str(run_folder / "pipeline.yaml"))
    constitution = load_constitution(run_folder / "constitution.yaml")
    return Run(Pipeline(settings, stages, Path(), constitution), run_folder, progress)


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
    places = _Places(document, changed, flag)
    try:
        return section.model_validate(data)
    except ValidationError as problem:
        raise CaiError("\n".join(_explained(problem, section, places))) from None


class _Places:
    """Where values are from: a file, or the command line."""

    def __init__(
        self,
        document: Document | None = None,
        changed: Sequence[tuple[str, ...]] = (),
        flag: str = "--set",
    ) -> None:
        self._document = document
        self._changed = changed
        self._flag = flag

    def write(self, location: Keys, *, of_key: bool = False) -> str:
        """Write where a value is from, or the innermost part of its place that is known."""
        if self._document is None or any(location[: len(k)] == k for k in self._changed):
            dotted = ".".join(map(str, location))
            return f"`{self._flag} {dotted}=…`" if dotted else f"`{self._flag}`"
        return str(self._document.place(location, of_key=of_key))


def _settings(data: Any, places: _Places) -> PipelineSettings:  # noqa: ANN401
    """Check a whole pipeline, section by section."""
    if not isinstance(data, dict):
        raise CaiError(
            f"{places.write(())}: a pipeline is a mapping of keys to values, such as `name: mine`."
        )
    sections: dict[str, StageSettings] = {}
    others: dict[str, Any] = {}
    errors: list[str] = []
    for name, value in data.items():
        stage = stage_of(name, value, places.write)
        if name == SECTIONS:  # a file has them one by one
            hint = did_you_mean(name, _known_keys((), PipelineSettings))
            errors.append(
                f"{places.write((name,), of_key=True)}: the key `{name}` is unknown, {hint}"
            )
            continue
        if stage is None:
            others[name] = value
            continue
        if value is None:  # `--set sft=null`
            continue
        try:
            sections[name] = stage.settings.model_validate(value)
        except ValidationError as problem:
            errors += _explained(problem, stage.settings, places, (name,))
    try:
        settings = PipelineSettings.model_validate(others)
    except ValidationError as problem:
        errors = [*_explained(problem, PipelineSettings, places), *errors]
        raise CaiError("\n".join(errors)) from None
    if errors:
        raise CaiError("\n".join(errors))
    return arranged(settings.model_copy(update={"sections": sections}), places.write)


def _constitution(settings: PipelineSettings, path: Path) -> Constitution:
    """Load the constitution by built-in name, from the working directory or beside the file."""
    ref = settings.constitution
    beside = path.parent / ref
    return load_constitution(beside if not Path(ref).exists() and beside.is_file() else ref)


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
            raise CaiError(f"`{flag} {change}`: `{key}` is not a section with settings.")
        place = inner
    place[keys[-1]] = value
    return keys


def _explained(
    problem: ValidationError, root: type[BaseModel], places: _Places, above: Keys = ()
) -> list[str]:
    """Write each validation error: where, what, and the fix.

    Args:
        problem: What is wrong with settings.
        root: Their class.
        places: Where they are from.
        above: The keys that lead to them.
    """
    return [_explain(e, root, places, above) for e in problem.errors(include_url=False)]


def _explain(details: ErrorDetails, root: type[BaseModel], places: _Places, above: Keys) -> str:
    location = (*above, *details["loc"])
    dotted = ".".join(str(step) for step in location)
    where = places.write(location, of_key=details["type"] == "extra_forbidden")
    if details["type"] == "extra_forbidden":
        hint = did_you_mean(str(location[-1]), _known_keys(details["loc"][:-1], root))
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
    known = [field.alias or name for name, field in model.model_fields.items()]
    if model is PipelineSettings:
        return [*(name for name in known if name != SECTIONS), *stages_by_name()]
    return known


def _section(annotation: Any) -> type[BaseModel] | None:  # noqa: ANN401
    """Find the settings class inside an annotation such as `list[SourceSettings] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for a in get_args(annotation) if (found := _section(a))), None)
