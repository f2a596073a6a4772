"""Correlation of two spatially correlated maps, and its significance.

`points` checks and orders the input, `cells` puts it on a lattice for sums over pairs by FFT, `covariance` estimates the covariance of each
map from its modes, `stationarity` corrects and tests for structure beyond it, and `correlate` derives error, effective number of values and
p-value. `blocks` and `methods` have the alternative methods, `result` the table row, the text and the figures.
"""

from permil.compare.correlation.blocks import Estimate, split_half_reliability
from permil.compare.correlation.correlate import correlate
from permil.compare.correlation.methods import METHODS
from permil.compare.correlation.result import CorrelationResult

__all__ = ["METHODS", "CorrelationResult", "Estimate", "correlate", "split_half_reliability"]
