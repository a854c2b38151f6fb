"""The report: one self-contained page that shows an output."""

from geoscale.report.writing import write_report

__all__ = ["write_report"]
