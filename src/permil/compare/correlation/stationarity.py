"""Test whether the variance of both maps changes over the field."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

FloatArray = NDArray[np.float64]

_TILES = 4
_FEWEST_IN_TILE = 6
# A map is non-stationary below this p-value; it is relevant if the common variances of both maps increase that of r by this factor.
_CHANCE = 1e-4
_MATTERS = 1.3
# Smallest effective number of values per tile for a test.
_FEWEST_EFFECTIVE = 4.0


def changes_in_common(x: FloatArray, y: FloatArray, a: FloatArray, b: FloatArray, own_a: float, own_b: float) -> float:
    """Return the factor by which common changes of both variances over the field increase the variance of r; else 1.

    Parameters
    ----------
    x, y : ndarray, shape (n,)
        Positions.
    a, b : ndarray, shape (n,)
        Standardised maps.
    own_a, own_b
        Effective number of values of each map.

    Notes
    -----
    The variances within 4 x 4 tiles (about the mean of each) are compared with their scatter for stationary maps of the same kurtosis.
    One stationary map is sufficient for the test of r, so both must fail.
    """
    tiles = _tile(x) * _TILES + _tile(y)
    counts = np.bincount(tiles, minlength=_TILES**2).astype(float)
    used = counts >= _FEWEST_IN_TILE
    if used.sum() < 2:
        return 1.0
    profiles = []
    for values, own in ((a, own_a), (b, own_b)):
        per_tile = min(own / used.sum(), counts[used].mean())
        if per_tile < _FEWEST_EFFECTIVE:
            return 1.0
        mean = np.bincount(tiles, values, minlength=_TILES**2) / np.maximum(counts, 1.0)
        variance = np.bincount(tiles, (values - mean[tiles]) ** 2, minlength=_TILES**2)[used] / counts[used]
        relative = variance / np.average(variance, weights=counts[used])
        kurtosis = max(float(np.mean(values**4)) - 1.0, 2.0)
        # Squares are correlated over a shorter distance than values: per_tile counts too few of them, which is conservative.
        chi_square = np.sum((relative - 1.0) ** 2 * per_tile * counts[used] / counts[used].mean()) / kurtosis
        if stats.chi2.sf(chi_square, used.sum() - 1) > _CHANCE:
            return 1.0
        profiles.append(relative)
    factor = float(np.average(profiles[0] * profiles[1], weights=counts[used]))
    return factor if factor > _MATTERS else 1.0


def _tile(coordinate: FloatArray) -> NDArray[np.int64]:
    extent = np.ptp(coordinate)
    return np.minimum((_TILES * (coordinate - coordinate.min()) / extent).astype(np.int64), _TILES - 1)
