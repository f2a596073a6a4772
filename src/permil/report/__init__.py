"""The report: one package per kind of page, `kit` with shared parts, and `registry` with the list of kinds."""

import permil.plotting  # noqa: F401 - before matplotlib
from permil.report.kit.results import summary_table
from permil.report.stage import make_report

__all__ = ["make_report", "summary_table"]
