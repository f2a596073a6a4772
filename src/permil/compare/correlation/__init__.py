"""Correlation of two spatially correlated maps, and its significance."""

from permil.compare.correlation.blocks import Estimate, split_half_reliability
from permil.compare.correlation.correlate import correlate
from permil.compare.correlation.methods import METHODS, MethodFigures
from permil.compare.correlation.result import CorrelationResult

__all__ = ["METHODS", "CorrelationResult", "Estimate", "MethodFigures", "correlate", "split_half_reliability"]
