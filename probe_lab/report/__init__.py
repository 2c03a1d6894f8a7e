"""Results of an experiment -> figures, tables and one HTML page. Reads files only (docs/figures.md)."""

from probe_lab.report.build import build_report

__all__ = ["build_report"]
