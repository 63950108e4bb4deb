"""One self-contained HTML file that shows a run: no external resources, no scripts."""

from mosear.evaluation.report.content import Example, LineChart, Table
from mosear.evaluation.report.page import write_report

__all__ = ["Example", "LineChart", "Table", "write_report"]
