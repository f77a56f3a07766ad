"""`cai view`."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from cai.cli import completion
from cai.cli.console import plain_console
from cai.cli.options import ModelChanges, model_settings
from cai.engines import Engine
from cai.pipeline.progress import Progress
from cai.settings import EvaluateSettings, ModelSettings


def view(
    run_folder: Annotated[Path, typer.Argument(help="A run folder.")],
    constitution: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="The constitution to try and edit; the run's own if left out."
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="The model to try: one of the run (`helpful-only`, `sl-cai`, `rl-cai`, …), a "
            "model folder, a hub id, or `playground`.",
            autocompletion=completion.model_names,
        ),
    ] = "helpful-only",
    model_set: ModelChanges = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 is any free one.")] = 0,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page, or only print its link.")
    ] = True,
) -> None:
    """Open a run's report in the browser, and try and edit its constitution there."""
    from cai.pipeline.load import open_run
    from cai.report.truth import grading
    from cai.view.app import Desk
    from cai.view.serve import serve
    from cai.view.source import draft, source_of
    from cai.view.trials import Model

    opened = open_run(run_folder, Progress(plain_console()))
    settings = opened.pipeline.settings
    source = source_of(constitution, run_folder, settings.constitution, Path())
    draft(source, []).whole()
    like = opened.models.get(model)
    asked = model_settings(like.path if like else model, model_set, like)
    desk = Desk(
        run=run_folder,
        settings=settings,
        source=source,
        model=Model(asked, _open_engine),
        grade=grading(settings.first(EvaluateSettings)),
    )
    console = plain_console(soft_wrap=True)

    def ready(link: str) -> None:
        console.print(link, style="bold")
        console.print(
            f"Open to this machine alone, and to those who have the link. Constitution: "
            f"{source.path}. Model: {asked.path}. Ctrl-C ends it.",
        )
        if browser:
            webbrowser.open(link)

    serve(desk, port=port, ready=ready)


def _open_engine(settings: ModelSettings) -> Engine:
    """Load a model; torch comes with the first one and not before the page is there."""
    from cai.engines.opening import open_engine

    return open_engine(settings)
