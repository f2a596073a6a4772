"""What a person looks at: figures, the table of all figures with verdicts, static pages."""

import permil.canvas  # noqa: F401 - before anything of matplotlib
from permil.report.stage import make_report
from permil.report.summary import summary_table

__all__ = ["make_report", "summary_table"]
