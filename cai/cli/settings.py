"""`cai settings`: every setting of a pipeline file, as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import typer
from pydantic import BaseModel

from cai.constitution.explain import model_in
from cai.pipeline.load import SECTIONS
from cai.pipeline.method import stages_by_name
from cai.settings import (
    ModelSettings,
    PipelineSettings,
    ServerSettings,
    SourceSettings,
    StageSettings,
)
from cai.settings.models import ModelsSettings

INTRODUCTION = """\
# Settings

Every key of a pipeline file, printed by `cai settings`. To change a setting for one run, use
`cai run PIPELINE --set KEY=VALUE`. Unknown keys are errors. A stage runs if the file has its
section; the section may be empty (`sft: {}`).

A pipeline can have a stage more than once. A section with another name sets `stage`, and `from` if
it does not read the default inputs. Its folder in the run and its output have the section's name.

```yaml
sft: {}                                                # makes sl-cai
second-sft: {stage: sft, from: sl-cai, epochs: 2}      # fine-tunes sl-cai again
ppo: {}                                                # from sl-cai, makes rl-cai
ppo-again: {stage: ppo, from: second-sft}
```

A file can start from another one, a file or a shipped name. `without` leaves out some of its
sections; other sections are merged key by key. Relative paths start at the folder of the file that
is run.

```yaml
extends: quickstart
without: [preference, ppo]
name: mine
sft: {epochs: 3}                                       # the rest of `sft` is as in quickstart
dpo: {}
```
"""


def settings() -> None:
    """Print every setting of a pipeline file, as Markdown."""
    typer.echo("\n".join(markdown()))


def markdown() -> Iterator[str]:
    """Yield the lines of docs/settings.md."""
    yield INTRODUCTION
    stages = {name: stage.settings for name, stage in stages_by_name().items()}
    yield from _section("The file", PipelineSettings, stages)
    shown: set[type[BaseModel]] = {SourceSettings}
    sections = {"models": ModelsSettings, **stages}
    for name, inner in sections.items():
        yield from _section(f"`{name}`", inner)
        for part, part_field in inner.model_fields.items():
            deeper = model_in(part_field.annotation)
            if deeper and deeper not in shown:
                shown.add(deeper)
                title = "A model" if deeper is ModelSettings else f"`{name}.{part}`"
                yield from _section(title, deeper)
    yield from _section("Every stage", StageSettings)
    yield from _section("A server (`server` of a model)", ServerSettings)
    yield from _section("A source of prompts or comparisons", SourceSettings)


def _section(
    title: str, model: type[BaseModel], sections: Mapping[str, type[BaseModel]] | None = None
) -> Iterator[str]:
    """Yield the keys of settings, then those of sections of their own."""
    yield f"## {title}\n"
    yield f"{(model.__doc__ or '').strip()}\n"
    yield "| key | default | what it is |"
    yield "|---|---|---|"
    elsewhere = {SECTIONS} if model is StageSettings else {SECTIONS, *StageSettings.model_fields}
    for name, field in model.model_fields.items():
        if name in elsewhere:
            continue
        default = "required" if field.is_required() else f"`{_plain(field.default)}`"
        described = re.sub(r"\s+", " ", field.description or "").replace("|", "\\|")
        yield f"| `{field.alias or name}` | {default} | {described} |"
    for name, section in (sections or {}).items():
        yield f"| `{name}` | `null` | {(section.__doc__ or '').strip()} |"
    yield ""


def _plain(value: Any) -> str:  # noqa: ANN401
    """Write a default as YAML does."""
    if value is None:
        return "null"
    if isinstance(value, BaseModel):
        return "{}"
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value) if isinstance(value, tuple) else value)
