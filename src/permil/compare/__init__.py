"""Comparison of artificial stars with the flat: predictions for stars, correlations, and their interpretation.

`correlate` works on plain arrays; `permil.compare.stage` processes a run.
"""

from permil.compare.correlation import CorrelationResult, correlate, split_half_reliability
from permil.compare.errors import CompareError

__all__ = ["CompareError", "CorrelationResult", "correlate", "split_half_reliability"]
