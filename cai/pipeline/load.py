"""Read a pipeline file: YAML, changes from the command line, validation with places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cai.constitution import Constitution, load_constitution
from cai.constitution.document import read_document
from cai.constitution.explain import did_you_mean
from cai.errors import CaiError
from cai.pipeline.context import Pipeline, Run
from cai.pipeline.extending import find_pipeline, read_pipeline
from cai.pipeline.method import stage_of, stages_by_name
from cai.pipeline.placing import place
from cai.pipeline.progress import Progress
from cai.pipeline.stage import Placed
from cai.pipeline.validation import Places, apply_change, explained
from cai.settings import PipelineSettings, StageSettings

SECTIONS = "sections"
"""The field of the settings that holds the stages."""


def load_pipeline(ref: Path, changes: Sequence[str] = ()) -> Pipeline:
    """Load a pipeline by file or shipped name.

    Args:
        ref: A file, or the name of a shipped pipeline (`quickstart`).
        changes: `KEY=VALUE` with dotted keys (`ppo.steps=10`) and YAML values; `sft=null` removes a
            section.

    Raises:
        CaiError: The file is missing or has errors; the message has all of them, with line and
            column.
    """
    path = find_pipeline(ref)
    document = read_pipeline(path)
    data = _mapping(document.data, Places(document))
    for name in {*stages_by_name()} & {*data}:
        data[name] = {} if data[name] is None else data[name]
    sections = {*stages_by_name(), *data}
    changed = [apply_change(change, data, "--set") for change in changes]
    for keys in changed:  # `--set sft=null`
        if len(keys) == 1 and keys[0] in sections and data[keys[0]] is None:
            del data[keys[0]]
    settings, stages = _checked(data, Places(document, changed))
    # A section with nothing in it is a stage with its defaults, and no fault.
    faults = [finding for finding in document.findings if finding.code != "empty"]
    if faults:
        raise CaiError("\n".join(f"{f.place}: {f.message}" for f in faults))
    return Pipeline(settings, stages, path.parent, _constitution(settings, path))


def pipeline_settings(data: Mapping[str, Any]) -> PipelineSettings:
    """Check the contents of a pipeline file that are already in memory.

    Raises:
        CaiError: The contents have errors; the message has all of them.
    """
    return _checked(data, Places())[0]


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
        return _checked(document.data, Places(document))[0]
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
    """Open an existing run folder, to use its models.

    Of `defaults`, stages by name, one is added if the run has none of its class.

    Raises:
        CaiError: As `read_resolved`, or the constitution in the folder is damaged.
    """
    settings = read_resolved(run_folder)
    for name, section in (defaults or {}).items():
        if not settings.named(type(section)):
            sections = {**settings.sections, name: section}
            settings = settings.model_copy(update={"sections": sections})
    stages = place(settings, lambda _: str(run_folder / "pipeline.yaml"))
    constitution = load_constitution(run_folder / "constitution.yaml")
    return Run(Pipeline(settings, stages, Path(), constitution), run_folder, progress)


def _mapping(data: Any, places: Places) -> dict[str, Any]:  # noqa: ANN401
    if not isinstance(data, dict):
        raise CaiError(
            f"{places.write(())}: a pipeline is a mapping of keys to values, such as `name: mine`."
        )
    return data  # pyright: ignore[reportUnknownVariableType]


def _checked(data: Any, places: Places) -> tuple[PipelineSettings, tuple[Placed, ...]]:  # noqa: ANN401
    """Check a whole pipeline, section by section; return it with its stages, in their order."""
    sections: dict[str, StageSettings] = {}
    others: dict[str, Any] = {}
    errors: list[str] = []
    known = [name for name in PipelineSettings.model_fields if name != SECTIONS]
    known += stages_by_name()
    for name, value in _mapping(data, places).items():
        stage = stage_of(name, value, places.write)
        if name == SECTIONS:  # a file has them one by one
            where = places.write((name,), of_key=True)
            errors.append(f"{where}: the key `{name}` is unknown, {did_you_mean(name, known)}")
            continue
        if stage is None:
            others[name] = value
            continue
        if value is None:
            continue
        try:
            sections[name] = stage.settings.model_validate(value)
        except ValidationError as problem:
            errors += explained(problem, stage.settings, value, places, (name,))
    try:
        settings = PipelineSettings.model_validate(others)
    except ValidationError as problem:
        errors = [*explained(problem, PipelineSettings, others, places, known=known), *errors]
        raise CaiError("\n".join(errors)) from None
    if errors:
        raise CaiError("\n".join(errors))
    stages = place(settings.model_copy(update={"sections": sections}), places.write)
    in_order = {placed.name: placed.settings for placed in stages}
    return settings.model_copy(update={"sections": in_order}), stages


def _constitution(settings: PipelineSettings, path: Path) -> Constitution:
    """Load the constitution by built-in name, from the working directory or beside the file."""
    ref = settings.constitution
    beside = path.parent / ref
    return load_constitution(beside if not Path(ref).exists() and beside.is_file() else ref)
