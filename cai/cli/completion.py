"""What the shell offers when Tab is pressed: pipelines, and the stages and models of a run.

Typer leaves out what does not begin with the word typed so far.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from cai.errors import CaiError


def stage_names(ctx: Any) -> list[str]:  # noqa: ANN401 (whichever click it is)
    """Offer the stages of the pipeline that the command line names; of the method without one."""
    from cai.pipeline.load import load_pipeline
    from cai.pipeline.method import stages_by_name

    # With an option that waits for its value, what stands before it is not assigned yet.
    ref = ctx.params.get("pipeline") or next(iter(ctx.args), None)
    with suppress(CaiError):
        if ref:
            return [*load_pipeline(Path(ref)).settings.sections]
    return [*stages_by_name()]


def data_stages(ctx: Any) -> list[str]:  # noqa: ANN401
    """Offer the stages of a run that make a data set."""
    from cai.cli.export import data_sets
    from cai.pipeline.load import read_resolved

    with suppress(CaiError):
        return data_sets(read_resolved(_run_folder(ctx)))
    return []


def model_names(ctx: Any) -> list[str]:  # noqa: ANN401
    """Offer the models of a run."""
    from cai.cli.console import plain_console
    from cai.pipeline.load import open_run
    from cai.pipeline.progress import Progress

    with suppress(CaiError):
        return [*open_run(_run_folder(ctx), Progress(plain_console(stderr=True))).models]
    return []


def _run_folder(ctx: Any) -> Path:  # noqa: ANN401
    return Path(ctx.params.get("run_folder") or next(iter(ctx.args), ""))


def shipped(incomplete: str) -> list[str]:
    """Offer the shipped pipelines, and files."""
    from cai.pipeline.extending import shipped_pipelines

    files = [str(path) for path in Path().glob(f"{incomplete}*.y*ml")]
    return [*shipped_pipelines(), *sorted(files)]
