"""The report: one page that shows a finished output."""

from geoscale.report.page import write_report

__all__ = ["write_report"]
