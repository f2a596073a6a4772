"""Stars against the flat: what they see of it, how that correlates, and what it means.

The front door on plain arrays is `correlate`; `permil.compare.stage` does a run.
"""

from permil.compare.correlation import CorrelationResult, correlate, split_half_reliability
from permil.compare.errors import CompareError

__all__ = ["CompareError", "CorrelationResult", "correlate", "split_half_reliability"]
