"""Degenerate gradient of spots, exposures and throughput, and bounds on its size.

With ``x_sk = p_k + u_s`` a throughput gradient ``g`` is ``g . p_k + g . u_s``: a trend of the exposures with the pointing and a
gradient of the spot fluxes over the mask. Only assumptions about lamp and mask limit it. Three quantities per axis, per 1000 pixels:

``free_error``
    Error of the throughput gradient without any assumption (limited only by the weak prior).
``exposure_trend``
    Slope of the fitted exposure scales with pointing. If the lamp is independent of the pointing, this is the throughput gradient
    removed by the gauge; its error is the scatter of the lamp.
``spot_gradient``
    Slope of the fitted spot fluxes over the mask (true gradient of the illumination plus that of the throughput).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from permil.spots.flux_model import PRIOR_THROUGHPUT, FluxSolution, gauge_moments
from permil.spots.measurements import Measurements

FloatArray = NDArray[np.float64]

PIXELS = 1000.0


@dataclass(frozen=True)
class GradientDegeneracy:
    """Size of the degenerate gradient along one axis, per 1000 pixels; NaN with too few exposures or spots."""

    axis: str
    free_error: float
    exposure_trend: float
    exposure_trend_error: float
    spot_gradient: float
    spot_gradient_error: float


def gradient_degeneracies(
    measurements: Measurements, solution: FluxSolution, *, pointing: FloatArray, places: FloatArray
) -> tuple[GradientDegeneracy, GradientDegeneracy]:
    """Return the degenerate gradients along x and y.

    Parameters
    ----------
    measurements, solution
        Measurements, and the joint flux solution.
    pointing : ndarray, shape (exposures, 2)
        Centre of the grid on the detector, pixels.
    places : ndarray, shape (spots, 2)
        Position of each spot relative to the centre of the grid, detector pixels.
    """
    free = _free_errors(measurements, solution)
    trend, trend_error = _slopes(pointing, solution.exposure_scale)
    gradient, gradient_error = _slopes(places, solution.spot_flux / np.nanmean(solution.spot_flux))
    return tuple(
        GradientDegeneracy(name, *(PIXELS * float(entry[axis]) for entry in (free, trend, trend_error, gradient, gradient_error)))
        for axis, name in enumerate("xy")
    )  # type: ignore[return-value]


def _free_errors(measurements: Measurements, solution: FluxSolution) -> FloatArray:
    if solution.splines is None:
        return np.full(2, np.inf)
    used = solution.used
    x, y = measurements.quantities["x"][used], measurements.quantities["y"][used]
    index, values = solution.splines.local(x, y)
    mean, *slopes = gauge_moments(index, values, x, y, solution.splines.terms)
    matrix, _ = solution.equations.reduced()
    count = len(solution.exposure_scale)
    seen = np.isfinite(solution.exposure_scale)
    common = np.concatenate([np.where(seen, 1.0, 0.0) / seen.sum(), np.zeros(len(mean))])
    constant = np.concatenate([np.zeros(count), mean])
    stiffness = float(np.diag(matrix)[:count].sum()) + 1.0
    matrix = matrix + stiffness * (np.outer(common, common) + np.outer(constant, constant))
    matrix[np.diag_indices_from(matrix)] += np.concatenate([np.where(seen, 0.0, 1.0), np.full(len(mean), PRIOR_THROUGHPUT**-2)])
    # The trend of the exposures is not constrained by the data: a ridge keeps the matrix invertible.
    matrix[np.diag_indices_from(matrix)] += 1e-12 * stiffness
    functionals = np.stack([np.concatenate([np.zeros(count), slope]) for slope in slopes])
    errors = np.sqrt(np.einsum("fo,of->f", functionals, cho_solve(cho_factor(matrix, lower=True), functionals.T)))
    return errors / np.maximum([x.std(), y.std()], 1e-9)


def _slopes(places: FloatArray, values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return slopes of values along x and y, and their errors from the scatter."""
    known = np.isfinite(values) & np.isfinite(places).all(axis=1)
    if known.sum() < 5 or places[known].std(axis=0).min() < 1.0:
        return np.full(2, np.nan), np.full(2, np.nan)
    matrix = np.column_stack([np.ones(known.sum()), places[known] - places[known].mean(axis=0)])
    inverse = np.linalg.inv(matrix.T @ matrix)
    parameters = inverse @ (matrix.T @ values[known])
    variance = ((values[known] - matrix @ parameters) ** 2).sum() / (known.sum() - 3)
    return parameters[1:], np.sqrt(np.diag(inverse)[1:] * variance)
