"""The response: per pointing, per detector, composite; figures of it and what a user does with it next."""

from permil.flat.apply import apply_flat
from permil.flat.boundaries import BoundarySteps, amplifier_factors, fit_boundary_steps
from permil.flat.combine import CombinedFlat, PointingCombination
from permil.flat.composite import ResponseHistogram, composite_median, response_histogram
from permil.flat.difference import FlatDifference, flat_difference
from permil.flat.divide import LitImage, PointingFlat, divide_by_beam
from permil.flat.shared_errors import Plane, fit_plane, shared_covariance
from permil.flat.superpixel import SuperPixels, super_pixels

__all__ = [
    "BoundarySteps",
    "CombinedFlat",
    "FlatDifference",
    "LitImage",
    "Plane",
    "PointingCombination",
    "PointingFlat",
    "ResponseHistogram",
    "SuperPixels",
    "amplifier_factors",
    "apply_flat",
    "composite_median",
    "divide_by_beam",
    "fit_boundary_steps",
    "fit_plane",
    "flat_difference",
    "response_histogram",
    "shared_covariance",
    "super_pixels",
]
