"""The report: one package for each kind of pages, `kit` with what they share, and `registry` with the list of kinds."""

import permil.plotting  # noqa: F401 - before anything of matplotlib
from permil.report.kit.summary import summary_table
from permil.report.stage import make_report

__all__ = ["make_report", "summary_table"]
