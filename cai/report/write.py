"""Write report.json and report.html into a run folder."""

from __future__ import annotations

from pathlib import Path

from cai.data.store import write_atomically, write_json
from cai.report.browser import Rows, collect_rows
from cai.report.contents import collect
from cai.report.facts import Report
from cai.report.page import render_page
from cai.report.reading import read_result
from cai.report.truth import grading
from cai.settings import EvaluateSettings, PipelineSettings, ReportSettings


def write_report(run_dir: Path, settings: PipelineSettings) -> Path:
    """Write the report of a run folder: finished, unfinished or empty.

    Returns:
        The path of report.html; report.json is next to it.

    Raises:
        CaiError: A file of the run is damaged, or the folder cannot be written.
    """
    report, rows = _gather(run_dir, settings)
    page = render_page(report, rows)
    write_json(run_dir / "report.json", report.plain())
    path = run_dir / "report.html"
    write_atomically(path, [page.encode("utf-8")])
    return path


def read_report(run_dir: Path) -> Report | None:
    """Read report.json of a run folder; None if it is not there.

    Raises:
        CaiError: It is damaged.
    """
    fix = f"`cai report {run_dir}` writes it again."
    return read_result(run_dir / "report.json", Report, None, fix)


def draw_live_report(run_dir: Path, settings: PipelineSettings) -> str:
    """Return the page for `cai view`, with the section to try the constitution.

    Raises:
        CaiError: A file of the run is damaged.
    """
    return render_page(*_gather(run_dir, settings), live=True)


def _gather(run_dir: Path, settings: PipelineSettings) -> tuple[Report, Rows]:
    grade = grading(settings.first(EvaluateSettings))
    most = settings.of(ReportSettings).rows
    return collect(run_dir, settings, grade), collect_rows(run_dir, settings, most, grade)
