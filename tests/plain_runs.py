"""Runs of pipelines that tests write as plain data."""

from pathlib import Path
from typing import Any

from rich.console import Console

from cai.constitution import Constitution, load_constitution
from cai.data.conversation import user
from cai.data.records import PromptRow
from cai.pipeline.context import Pipeline, Run
from cai.pipeline.load import pipeline_settings
from cai.pipeline.placing import place
from cai.pipeline.progress import Progress

SMALLEST: dict[str, Any] = {
    "name": "test",
    "constitution": "playground",
    "models": {"helpful": {"path": "playground"}},
    "prompts": {"red_team": "playground:red_team", "helpful": "playground:helpful"},
}


def red_team_prompts(count: int) -> list[PromptRow]:
    """Return prompts to train on, each a task."""
    return [
        PromptRow(
            key=f"{n:02}",
            kind="red_team",
            split="train",
            messages=user(f"Question {n}?"),
            source="test",
            task=f"task{n}",
        )
        for n in range(count)
    ]


def run_of(
    data: dict[str, Any],
    folder: Path,
    *,
    base_dir: Path | None = None,
    constitution: Constitution | None = None,
    console: Console | None = None,
) -> Run:
    """Open a run of a pipeline; what `data` leaves out is that of `SMALLEST`."""
    settings = pipeline_settings({**SMALLEST, **data})
    stages = place(settings, lambda _: "the pipeline")
    constitution = constitution or load_constitution(settings.constitution)
    pipeline = Pipeline(settings, stages, base_dir or folder, constitution)
    return Run(pipeline, folder, Progress(console or Console(quiet=True)))
