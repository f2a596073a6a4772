"""Repeatability at one position: scatter of fluxes relative to their errors, and drift of the lamp."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.spots.errors import SpotError
from permil.spots.residuals import ExposureTable, Residuals

FloatArray = NDArray[np.float64]

LEAST_EXPOSURES = 3


@dataclass(frozen=True)
class Repeatability:
    """Scatter per spot and drift of the lamp.

    Attributes
    ----------
    scatter, scatter_error, predicted : ndarray, shape (spots,)
        Relative rms of each spot's flux after division by the exposure scales, its error, and the rms predicted from errors.
    count : ndarray, shape (spots,)
        Number of measurements.
    ratio, ratio_error
        Median over the spots of the ratio of scatter to prediction, with its error.
    drift, drift_error
        Relative change of the lamp from the first exposure to the last, from a straight line in time. The error is from the scatter around
        the line, or from the errors of the scales if these are larger.
    lamp_scatter
        Relative rms of the exposure scales around the line.
    in_time
        Whether the line is fitted against dates; otherwise against the order of the exposures.
    """

    scatter: FloatArray
    scatter_error: FloatArray
    predicted: FloatArray
    count: NDArray[np.int64]
    ratio: float
    ratio_error: float
    drift: float
    drift_error: float
    lamp_scatter: float
    in_time: bool


def repeatability(residuals: Residuals, exposures: ExposureTable, *, spots: int) -> Repeatability:
    """Measure repeatability.

    Raises
    ------
    SpotError
        If there are fewer than three exposures with a scale.
    """
    used = residuals.used & np.isfinite(residuals.flux)
    spot = residuals.spot[used]
    count = np.bincount(spot, minlength=spots)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(spot, residuals.flux[used], minlength=spots) / count
        squares = np.bincount(spot, (residuals.flux[used] - mean[spot]) ** 2, minlength=spots)
        # The exposure scales use one degree of freedom per exposure, shared by all spots.
        share = 1 - 1 / max(1, int((count > 0).sum()))
        scatter = np.where(count > 1, np.sqrt(squares / (count - 1) / share), np.nan)
        predicted = np.sqrt(np.bincount(spot, residuals.flux_error[used] ** 2, minlength=spots) / count)
        scatter_error = scatter / np.sqrt(2 * np.maximum(count - 1, 1))
    known = (count > 1) & np.isfinite(scatter / predicted)
    freedom = count[known] - 1
    # The median of chi-square is below its mean (Wilson and Hilferty 1931).
    ratios = (scatter / predicted)[known] / (1 - 2 / (9 * freedom)) ** 1.5
    drift, drift_error, lamp_scatter, in_time = _drift(exposures)
    return Repeatability(
        scatter=scatter,
        scatter_error=scatter_error,
        predicted=predicted,
        count=count,
        ratio=float(np.median(ratios)) if len(ratios) else np.nan,
        ratio_error=float(1.2533 * ratios.std() / np.sqrt(len(ratios))) if len(ratios) else np.nan,
        drift=drift,
        drift_error=drift_error,
        lamp_scatter=lamp_scatter,
        in_time=in_time,
    )


def _drift(exposures: ExposureTable) -> tuple[float, float, float, bool]:
    known = np.isfinite(exposures.scale) & np.isfinite(exposures.scale_error)
    if known.sum() < LEAST_EXPOSURES:
        raise SpotError("a drift needs at least three exposures", remedy="give more catalogs", value=int(known.sum()))
    in_time = bool(np.isfinite(exposures.mjd[known]).all() and np.ptp(exposures.mjd[known]) > 0)
    time = exposures.mjd[known] if in_time else np.arange(len(known))[known].astype(np.float64)
    time = (time - time.min()) / np.ptp(time)
    scale, error = exposures.scale[known], exposures.scale_error[known]
    weight = 1 / (error**2 + np.median(error) ** 2)
    matrix = np.column_stack([np.ones(len(time)), time])
    inverse = np.linalg.inv(matrix.T @ (weight[:, None] * matrix))
    level, slope = inverse @ (matrix.T @ (weight * scale))
    residual = scale - level - slope * time
    # Weighted line: errors follow from the scatter, and are at least those of the scales.
    own = np.sqrt((inverse @ matrix.T * (weight * error) ** 2 @ matrix @ inverse)[1, 1])
    scattered = np.sqrt((inverse @ matrix.T * (weight * residual) ** 2 @ matrix @ inverse)[1, 1] * len(time) / (len(time) - 2))
    lamp = float(np.sqrt(max(0.0, (residual**2).sum() / (len(time) - 2))))
    return float(slope / level), float(max(own, scattered) / level), lamp / float(level), in_time
