"""What a person looks at: figures, the table of all figures with verdicts, static pages."""

from permil.report.stage import make_report
from permil.report.summary import summary_table

__all__ = ["make_report", "summary_table"]
