"""`cai run` and `cai report`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cai.cli import completion
from cai.cli.console import plain_console
from cai.cli.options import output_folder
from cai.errors import CaiError
from cai.pipeline.context import Run
from cai.pipeline.progress import Progress
from cai.settings import ReportSettings


def run(
    pipeline: Annotated[
        Path,
        typer.Argument(
            help="A pipeline file, or the name of a shipped one (`quickstart`).",
            autocompletion=completion.shipped,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", callback=output_folder, help="The run folder; `runs/NAME` if left out."
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting: `ppo.steps=10`."),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option("--only", help="Run only this stage.", autocompletion=completion.stage_names),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would run and why, without running it.")
    ] = False,
) -> None:
    """Run a pipeline. Stages that are up to date are skipped; interrupted ones continue."""
    from cai.pipeline.load import load_pipeline
    from cai.pipeline.runner import plan, run_pipeline

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise CaiError(
            "`cai run` starts the training processes itself and runs everything else in one "
            "process: run it without `accelerate launch` or `torchrun`, and with "
            "`--set ppo.launch=ddp` (or `sft.launch`, `preference.launch`, …)."
        )
    console = plain_console(soft_wrap=True)
    loaded = load_pipeline(pipeline, changes or [])
    opened = Run(loaded, out or Path("runs") / loaded.settings.name, Progress(console))
    if dry_run:
        console.print(_plan_table(plan(opened, only)))
        return
    run_pipeline(opened, only)
    reports = loaded.settings.named(ReportSettings)
    if reports and (only is None or only in reports):
        _show_results(console, opened.folder)


def report(
    run_folder: Annotated[Path, typer.Argument(help="A run folder.")],
    other: Annotated[
        Path | None, typer.Argument(help="A second run to compare with the first.")
    ] = None,
) -> None:
    """Print the results of a run and write its report again, or compare two runs."""
    from cai.pipeline.load import read_resolved
    from cai.report.comparison import write_comparison
    from cai.report.terminal import comparison_table
    from cai.report.write import write_report

    console, settings = plain_console(soft_wrap=True), read_resolved(run_folder)
    if other is None:
        write_report(run_folder, settings)
        _show_results(console, run_folder)
        return
    page, comparison = write_comparison((run_folder, settings), (other, read_resolved(other)))
    console.print()
    if comparison.evaluation:
        console.print(comparison_table(comparison))
    console.print(f"Report: {page}")


def _show_results(console: Console, run_folder: Path) -> None:
    from cai.report.terminal import results_table
    from cai.report.write import read_report

    report = read_report(run_folder)
    if report is None:
        raise CaiError(f"{run_folder} has no report.json yet. Run its pipeline to the end first.")
    console.print()
    if report.evaluation:
        rates = {model: summary.rates for model, summary in report.evaluation.items()}
        console.print(results_table(rates))
    console.print(f"Report: {run_folder / 'report.html'}")


def _plan_table(planned: Mapping[str, Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("stage", style="bold")
    table.add_column("would")
    table.add_column("because")
    for stage, reasons in planned.items():
        because = "; ".join(reasons) or "nothing it depends on has changed"
        table.add_row(stage, "run" if reasons else "be left as it is", because)
    return table
