"""Write report.json and report.html into a run folder."""

from __future__ import annotations

from pathlib import Path

from cai.report.contents import collect
from cai.report.examples import answers_side_by_side, labelled_pairs, revision_chains
from cai.report.page import render_page
from cai.report.reading import step_metrics
from cai.settings import PipelineSettings, ReportSettings
from cai.store import write_atomically, write_json


def write_report(run_dir: Path, settings: PipelineSettings) -> Path:
    """Report on a run folder as it is: finished, unfinished or empty.

    Args:
        run_dir: The run folder.
        settings: The pipeline as resolved; `settings.report` says how many examples to show.

    Returns:
        The path of report.html; report.json lies beside it.

    Raises:
        CaiError: A file of the run is damaged, or the folder cannot be written.
    """
    count = (settings.report or ReportSettings()).examples
    report = collect(run_dir, settings)
    page = render_page(
        report,
        chains=revision_chains(run_dir, count),
        pairs=labelled_pairs(run_dir, count),
        questions=answers_side_by_side(run_dir, count),
        steps=step_metrics(run_dir / "ppo" / "steps.jsonl"),
    )
    write_json(run_dir / "report.json", report)
    path = run_dir / "report.html"
    write_atomically(path, [page.encode("utf-8")])
    return path
