"""Scatter of fluxes in excess of their errors, and its part due to the sensor.

Fluxes scatter about the model by more than their errors if the throughput has structure finer than its knots, or if the errors are
too small. The excess ``t`` is a relative variance: a measurement with relative error ``s`` has the variance ``v = s^2 + t``. It is
chosen such that the residuals ``r`` scatter as expected (Paule & Mandel 1982, J. Res. NBS 87, 377, with the squares bounded)::

    sum(min(r^2 / v, 9)) = 0.995 freedom

Structure of the sensor is the same for different spots at one position; errors of measurements and of spots are not. Half the squared
difference of two residuals at a distance ``d``, of different spots and exposures, is on average::

    (1 - h) ((s_1^2 + s_2^2) / 2 + t_0) + h (t - t_0) + a d^2

where ``t_0`` is the part of the excess not shared by neighbours (the nugget of a variogram; Cressie 1993, Statistics for Spatial Data,
2.3) and ``h`` the weight of a measurement in the flux of its spot and the scale of its exposure: these absorb that fraction of the
measurement's own error, and are themselves shifted by the structure at other positions. What the throughput absorbs of the residuals is
common to both and cancels. Pairs are mutual nearest neighbours, so that no measurement is used twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.spatial import cKDTree

from permil.arrays import FloatArray, IntArray
from permil.excess_scatter import root_of_variance

_BOUND = 9.0
_MEAN_BOUNDED, _VARIANCE_BOUNDED = 0.9950, 1.9013
"""Mean and variance of the square of a standard normal number, bounded."""
_LARGEST = 1.0
"""Upper limit of the fitted excess, relative variance."""
_NEIGHBOUR_PX = 5.0
"""Largest distance of neighbours, pixels: about the diameter of a star's image."""
_CANDIDATES = 8
_FEWEST_PAIRS = 30


@dataclass(frozen=True)
class FluxExcess:
    """Relative variance of fluxes in excess of their errors.

    Attributes
    ----------
    variance, variance_error
        Excess of all measurements and its standard error; NaN if the catalogs have no errors.
    own, own_error
        The part not shared by neighbouring measurements of different spots. It may be negative within its error; NaN with too few
        neighbours.
    pairs
        Number of pairs of neighbours compared.
    """

    variance: float
    variance_error: float
    own: float
    own_error: float
    pairs: int

    @property
    def scatter(self) -> tuple[float, float]:
        """Total excess as a relative scatter, and its error."""
        return root_of_variance(self.variance, self.variance_error)

    @property
    def structure(self) -> tuple[float, float]:
        """The part due to the position on the sensor, and its error; NaN if unknown."""
        return root_of_variance(self.variance - self.own, math.hypot(self.variance_error, self.own_error))

    @property
    def unexplained(self) -> tuple[float, float]:
        """The part not due to the sensor, and its error.

        Without enough neighbours, the total excess with an error of the same size, since it may be zero.
        """
        if math.isnan(self.own):
            return self.scatter[0], self.scatter[0] + self.scatter[1]
        return root_of_variance(self.own, self.own_error)


UNKNOWN = FluxExcess(math.nan, math.nan, math.nan, math.nan, 0)
"""Result for catalogs without errors."""


def fit_excess(residual: FloatArray, variance: FloatArray, freedom: float) -> tuple[float, float]:
    """Fit the relative variance of residuals in excess of their errors (at least 0); return it with its standard error.

    Parameters
    ----------
    residual, variance : ndarray, shape (n,)
        Relative residuals and the squares of their relative errors.
    freedom
        Degrees of freedom.
    """
    squares = residual**2
    expected = _MEAN_BOUNDED * max(freedom, 1.0)

    def surplus(excess: float) -> float:
        return float(np.minimum(squares / (variance + excess), _BOUND).sum()) - expected

    if not squares.size:
        return 0.0, 0.0
    found = 0.0
    if surplus(0.0) > 0:
        found = brentq(surplus, 0.0, _LARGEST, xtol=1e-15) if surplus(_LARGEST) < 0 else _LARGEST
    total = variance + found
    slope = float(np.where(squares < _BOUND * total, squares / total**2, 0.0).sum())
    return found, math.sqrt(_VARIANCE_BOUNDED * max(freedom, 1.0)) / slope if slope > 0 else 0.0


def own_excess(
    residual: FloatArray, variance: FloatArray, excess: float, places: FloatArray, spot: IntArray, exposure: IntArray
) -> tuple[float, float, int]:
    """Return the part of the excess not shared by neighbours, its standard error, and the number of pairs (module docstring).

    Parameters
    ----------
    residual, variance : ndarray, shape (n,)
        Relative residuals and the squares of their relative errors.
    excess
        Result of `fit_excess`.
    places : ndarray, shape (n, 2)
        x, y in pixels.
    spot, exposure : ndarray, shape (n,)
        Numbers of spot and exposure of each measurement.
    """
    first, second, distance = _neighbours(places, spot, exposure)
    if len(first) < _FEWEST_PAIRS:
        return math.nan, math.nan, len(first)
    weight = 1 / (variance + excess)
    with np.errstate(invalid="ignore", divide="ignore"):
        left = 1 - weight / np.bincount(spot, weight)[spot] - weight / np.bincount(exposure, weight)[exposure]
    share = (left[first] + left[second]) / 2
    noise = (left[first] * variance[first] + left[second] * variance[second]) / 2 + (1 - share) * excess
    of_own = 2 * share - 1
    half_squares = (residual[first] - residual[second]) ** 2 / 2
    matrix = np.column_stack([of_own, distance**2])
    own, error = excess, math.nan
    # The variance of half a squared difference is twice the square of its mean, which depends on the parameters fitted.
    for _ in range(2):
        weights = 1 / (2 * (noise + of_own * max(own, 0.0)) ** 2)
        inverse = np.linalg.pinv(matrix.T @ (weights[:, None] * matrix))
        own = float((inverse @ (matrix.T @ (weights * (half_squares - noise))))[0])
        error = math.sqrt(inverse[0, 0])
    return own, error, len(first)


def _neighbours(places: FloatArray, spot: IntArray, exposure: IntArray) -> tuple[IntArray, IntArray, FloatArray]:
    """Return mutual nearest neighbours of different spots and exposures, and their distances."""
    count = len(places)
    candidates = min(_CANDIDATES, count)
    if candidates < 2:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0)
    distances, numbers = map(np.asarray, cKDTree(places).query(places, k=candidates, distance_upper_bound=_NEIGHBOUR_PX))
    there = numbers < count
    numbers = np.where(there, numbers, 0)
    other = there & (spot[numbers] != spot[:, None]) & (exposure[numbers] != exposure[:, None])
    column = other.argmax(axis=1)
    rows = np.arange(count)
    nearest = np.where(other[rows, column], numbers[rows, column], -1)
    first = np.flatnonzero(nearest >= 0)
    first = first[(nearest[nearest[first]] == first) & (first < nearest[first])]
    return first, nearest[first], distances[first, column[first]]
