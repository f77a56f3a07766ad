"""`cai view`."""

from __future__ import annotations

import webbrowser
from pathlib import Path

from cai.cli.console import plain_console
from cai.cli.options import model_settings
from cai.engines import Engine
from cai.pipeline.load import open_run
from cai.pipeline.progress import Progress
from cai.report.truth import grading
from cai.settings import EvaluateSettings, ModelSettings


def view_command(
    run: Path,
    *,
    constitution: str | None,
    model: str,
    model_changes: list[str] | None,
    port: int,
    browser: bool,
) -> None:
    """Serve a run's page with its constitution to try, until Ctrl-C."""
    from cai.view.app import Desk
    from cai.view.serve import serve
    from cai.view.source import draft, source_of
    from cai.view.trials import Model

    opened = open_run(run, Progress(plain_console()))
    settings = opened.pipeline.settings
    source = source_of(constitution, run, settings.constitution, Path())
    draft(source, []).whole()
    like = opened.models.get(model)
    asked = model_settings(like.path if like else model, model_changes, like)
    desk = Desk(
        run=run,
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
