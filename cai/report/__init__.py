"""One self-contained page per run, its numbers as JSON, and the table at the end of a run."""

from cai.report.terminal import results_table
from cai.report.write import write_report

__all__ = ["results_table", "write_report"]
