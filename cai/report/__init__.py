"""One self-contained page per run or pair of runs, its numbers as JSON, and tables to print."""

from cai.report.comparison import write_comparison
from cai.report.terminal import comparison_table, results_table
from cai.report.write import read_report, write_report

__all__ = [
    "comparison_table",
    "read_report",
    "results_table",
    "write_comparison",
    "write_report",
]
