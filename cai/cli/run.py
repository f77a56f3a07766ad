"""`cai run` and `cai report`."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cai.cli.console import plain_console
from cai.errors import CaiError
from cai.pipeline.context import Run
from cai.pipeline.load import load_pipeline, read_resolved
from cai.pipeline.progress import Progress
from cai.pipeline.runner import Verdict, plan, run_pipeline
from cai.settings import ReportSettings


def run_command(
    pipeline: Path, *, out: Path | None, changes: list[str], only: str | None, dry_run: bool
) -> None:
    """Run a pipeline file, or show what would run."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise CaiError(
            "`cai run` starts the training processes itself and runs everything else in one "
            "process: run it without `accelerate launch` or `torchrun`, and with "
            "`--set ppo.launch=ddp` (or `sft.launch`, `preference.launch`, …)."
        )
    console = plain_console(soft_wrap=True)
    loaded = load_pipeline(pipeline, changes)
    run = Run(loaded, out or Path("runs") / loaded.settings.name, Progress(console))
    if dry_run:
        console.print(_plan_table(plan(run)))
        return
    run_pipeline(run, only)
    reports = loaded.settings.named(ReportSettings)
    if reports and (only is None or only in reports):
        _show_results(console, run.folder)


def report_command(run_folder: Path) -> None:
    """Write the report of a run folder again and print its table."""
    from cai.report.write import write_report

    write_report(run_folder, read_resolved(run_folder))
    _show_results(plain_console(soft_wrap=True), run_folder)


def compare_command(before: Path, after: Path) -> None:
    """Write a page that compares two runs, and print its table."""
    from cai.report.comparison import write_comparison
    from cai.report.terminal import comparison_table

    page, comparison = write_comparison(
        (before, read_resolved(before)), (after, read_resolved(after))
    )
    console = plain_console(soft_wrap=True)
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


def _plan_table(verdicts: list[Verdict]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("stage", style="bold")
    table.add_column("would")
    table.add_column("because")
    for verdict in verdicts:
        table.add_row(
            verdict.stage,
            "run" if verdict.reasons else "be left as it is",
            "; ".join(verdict.reasons) or "nothing it depends on has changed",
        )
    return table
