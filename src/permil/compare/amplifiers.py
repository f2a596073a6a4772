"""Variation between amplifiers: whether star fluxes follow the amplifier means of the flat, as wrong gains would cause."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.compare.fixed_effects import FixedEffects
from permil.compare.hypotheses.slopes import blocks_of, jackknife_ratio

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_LEAST = 30


@dataclass(frozen=True)
class BetweenAmplifiers:
    """Slope of star fluxes on the means of the flat's amplifiers.

    Attributes
    ----------
    slope, error
        1 if stars follow the flat (efficiency, or gains wrong for both alike), 0 if not; NaN if the stars do not extend across
        amplifiers.
    rms, rms_error
        Relative scatter of the amplifier means of the flat, and its error.
    """

    slope: float
    error: float
    rms: float
    rms_error: float


def between_amplifiers(
    flux: FloatArray,
    error: FloatArray,
    means: FloatArray,
    spread: tuple[float, float],
    *,
    spot: IntArray,
    exposure: IntArray,
    x: FloatArray,
    y: FloatArray,
) -> BetweenAmplifiers:
    """Fit the steps of the flat between amplifiers to the fluxes of stars, with means of spots and exposures removed from both.

    Parameters
    ----------
    flux, error : ndarray, shape (n,)
        Relative fluxes (minus 1) and their errors.
    means : ndarray, shape (n,)
        Mean of the flat of each star's amplifier relative to the sensor, minus 1.
    spread
        Rms of the amplifier means, and its error.
    spot, exposure, x, y : ndarray, shape (n,)
        Spot, exposure and position of each star.
    """
    good = np.isfinite(flux) & np.isfinite(error) & (error > 0) & np.isfinite(means)
    if good.sum() < _LEAST or np.ptp(means[good]) == 0:
        return BetweenAmplifiers(np.nan, np.nan, *spread)
    weight = error[good] ** -2.0
    effects = FixedEffects(spot[good], exposure[good], weight, np.ones((int(good.sum()), 1)))
    steps, fluxes = effects.residuals(np.stack([means[good], flux[good]], axis=1)).T
    below = weight * steps**2
    if not below.sum() > 0:
        return BetweenAmplifiers(np.nan, np.nan, *spread)
    slope, slope_error = jackknife_ratio(weight * steps * fluxes, below, blocks_of(x[good], y[good]))
    return BetweenAmplifiers(slope, slope_error, *spread)
