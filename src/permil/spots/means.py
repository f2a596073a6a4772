"""Robust means in an additive model: a value per spot plus an offset per exposure (the focus may drift)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.spots.flux_model import grouped_median, robust_weight

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_TURNS = 30
_CONVERGED = 1e-9


@dataclass(frozen=True)
class TwoWayMeans:
    """``value_sk = spot_s + offset_k``, with mean offset 0.

    Attributes
    ----------
    spot, spot_error : ndarray, shape (spots,)
        NaN without measurements; the error is from the scatter (of all spots together for a spot with fewer than five).
    offset, offset_error : ndarray, shape (exposures,)
        Offsets of the exposures.
    count : ndarray, shape (spots,)
        Number of measurements used of each spot.
    sigma : ndarray, shape (n,)
        Typical scatter of the measurements of the same spot.
    """

    spot: FloatArray
    spot_error: FloatArray
    offset: FloatArray
    offset_error: FloatArray
    count: IntArray
    sigma: FloatArray


def two_way_means(
    values: FloatArray, good: NDArray[np.bool_], spot: IntArray, exposure: IntArray, *, spots: int, exposures: int
) -> TwoWayMeans:
    """Solve alternately for spots and offsets, with the robust weights of `permil.spots.flux_model.robust_weight`."""
    good = good & np.isfinite(values)
    value, of_spot, of_exposure = values[good], spot[good], exposure[good]
    offset = np.zeros(exposures)
    if len(value) == 0:
        nothing = np.full(spots, np.nan)
        none = np.full(exposures, np.nan)
        return TwoWayMeans(nothing, nothing, none, none, np.zeros(spots, dtype=np.int64), np.full(len(values), np.nan))
    middle = grouped_median(value, of_spot, spots)
    for _ in range(_TURNS):
        sigma = _scatter(value - middle[of_spot] - offset[of_exposure], of_spot, spots)
        weight = robust_weight((value - middle[of_spot] - offset[of_exposure]) / sigma[of_spot])
        before = offset
        offset = _weighted_mean(value - middle[of_spot], weight / sigma[of_spot] ** 2, of_exposure, exposures)
        offset = offset - np.nanmean(offset)
        middle = _weighted_mean(value - offset[of_exposure], weight, of_spot, spots)
        if np.nanmax(np.abs(offset - before)) < _CONVERGED * np.nanmedian(sigma):
            break
    spot_sums = np.bincount(of_spot, weight, minlength=spots)
    exposure_sums = np.bincount(of_exposure, weight / sigma[of_spot] ** 2, minlength=exposures)
    with np.errstate(divide="ignore"):
        offset_error = np.where(exposure_sums > 0, 1 / np.sqrt(exposure_sums), np.nan)
        spot_error = np.where(spot_sums > 0, sigma / np.sqrt(spot_sums), np.nan)
    return TwoWayMeans(middle, spot_error, offset, offset_error, np.bincount(of_spot[weight > 0], minlength=spots), sigma[spot])


def _weighted_mean(values: FloatArray, weight: FloatArray, group: IntArray, groups: int) -> FloatArray:
    sums = np.bincount(group, weight, minlength=groups)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums > 0, np.bincount(group, weight * values, minlength=groups) / sums, np.nan)


def _scatter(residuals: FloatArray, group: IntArray, groups: int) -> FloatArray:
    """Return the robust scatter of each group, or of all measurements if the group is too small."""
    overall = max(1.4826 * float(np.median(np.abs(residuals))), 1e-300)
    scatter = 1.4826 * grouped_median(np.abs(residuals), group, groups)
    counts = np.bincount(group, minlength=groups)
    # A median of few absolute values is uncertain: it is averaged with that of all spots, weighted as ten measurements.
    shrunk = np.sqrt((counts * np.nan_to_num(scatter) ** 2 + 10 * overall**2) / (counts + 10))
    return np.maximum(shrunk, 1e-3 * overall)
