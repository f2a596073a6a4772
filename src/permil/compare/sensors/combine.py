"""Combination of many estimates: means over sensors with their heterogeneity, and the significant ones of many tests.

Means have random effects of sensors, and of the bands of a sensor.

Each estimate ``y_sb`` (sensor s, band b) is modelled as ``mu + a_s + c_sb + e_sb``: sensors scatter about the mean with variance
``tau^2``, the bands of one sensor about its value with variance ``kappa^2``, and ``e`` has the known variance of the estimate. A sensor
measured in several bands is one sensor, not several: its bands measure the same structure, so that their errors are treated as
common and do not average out.

``kappa^2`` is the moment estimate of DerSimonian & Laird (1986, Controlled Clin. Trials 7, 177) from the scatter within sensors;
``tau^2`` that of Paule & Mandel (1982, J. Res. NBS 87, 377), at which the weighted sum of squares of the sensors about their mean equals
its degrees of freedom; its interval is where the sum equals quantiles of chi-square (Viechtbauer 2007, Stat. Med. 26, 37). The error of
the mean is that of the weights, times the 68 % quantile of Student's t: as far as the variance comes from ``tau^2``, it is known from the
scatter of few sensors only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike
from scipy import optimize, special

from permil.arrays import BoolArray, FloatArray, IntArray
from permil.compare.levels.groups import numbered
from permil.errors import CompareError

_ONE_SIGMA = float(special.ndtr(1.0))
_ONE_SIDED = 0.05


@dataclass(frozen=True)
class CombinedEstimate:
    """A mean over sensors.

    Attributes
    ----------
    value, error
        Mean, and half of its 68 % interval.
    freedom
        Degrees of freedom of the error: infinite if the errors of the estimates alone explain the scatter of the sensors.
    estimates, sensors
        Number of estimates, and of different sensors.
    heterogeneity, heterogeneity_low, heterogeneity_high
        Scatter (rms) of the sensors beyond the errors of their values, and its 68 % interval; NaN for one sensor.
    heterogeneity_limit
        Upper limit of that scatter at 95 %. Where the sensors agree better than half of all sensors without heterogeneity would, it is the
        limit that their median agreement gives.
    between_bands
        Scatter (rms) of the bands of a sensor beyond errors; NaN without a sensor in two bands.
    chi_square, chi_square_freedom, p_value
        Weighted sum of squares of the sensors about their mean, its degrees of freedom, and the probability of a larger one if all
        sensors are alike; NaN for one sensor.
    """

    value: float
    error: float
    freedom: float
    estimates: int
    sensors: int
    heterogeneity: float
    heterogeneity_low: float
    heterogeneity_high: float
    heterogeneity_limit: float
    between_bands: float
    chi_square: float
    chi_square_freedom: int
    p_value: float

    @property
    def standard_error(self) -> float:
        """Error without the quantile of Student's t."""
        return self.error / _t_quantile(self.freedom)


@dataclass(frozen=True)
class Difference:
    """Difference of two combined estimates, its error (half of the 68 % interval), and its p-value if both are equal."""

    value: float
    error: float
    p_value: float


def combine(values: ArrayLike, errors: ArrayLike, sensors: ArrayLike) -> CombinedEstimate:
    """Return the mean of estimates of several sensors, with the heterogeneity of the sensors.

    Parameters
    ----------
    values, errors : array_like, shape (n,)
        Estimates and their standard errors, independent for different sensors. Estimates that are not finite are ignored.
    sensors : array_like, shape (n,)
        Name of the sensor of each estimate.

    Raises
    ------
    CompareError
        If shapes differ, an error of a finite value is not positive, or no value is finite.

    Examples
    --------
    >>> found = combine([0.50, 0.62, 0.55], [0.02, 0.02, 0.02], ["R22_S11", "R22_S12", "R22_S10"])
    >>> found.sensors, round(found.value, 3), found.error > 0.02 / 3**0.5
    (3, 0.557, True)
    """
    value, error = (np.asarray(column, dtype=np.float64) for column in (values, errors))
    names = np.asarray(sensors)
    if not (value.ndim == 1 and value.shape == error.shape == names.shape):
        raise CompareError(
            f"values, errors and sensors have shapes {value.shape}, {error.shape} and {names.shape}",
            remedy="give one error and one sensor for each value",
        )
    known = np.isfinite(value)
    if not known.any():
        raise CompareError("none of the values is finite", remedy="there is nothing to combine")
    value, error, names = value[known], error[known], names[known]
    if not (np.isfinite(error).all() and (error > 0).all()):
        raise CompareError("an error is not positive", remedy="give the standard error of every value")
    sensor = numbered(names)
    bands = _between_bands(value, error**2, sensor)
    scatter = 0.0 if math.isnan(bands) else bands
    weight = 1.0 / (error**2 + scatter)
    total = np.bincount(sensor, weight)
    common = np.bincount(sensor, weight * error) / total
    variance = common**2 + scatter * np.bincount(sensor, weight**2) / total**2
    return _mean_of_sensors(np.bincount(sensor, weight * value) / total, variance, value.size, bands)


def difference(first: CombinedEstimate, second: CombinedEstimate) -> Difference:
    """Return ``first - second`` of independent estimates; degrees of freedom after Welch (1947, Biometrika 34, 28)."""
    variances = first.standard_error**2, second.standard_error**2
    total = sum(variances)
    inverse = sum(variance**2 / (total**2 * each.freedom) for variance, each in zip(variances, (first, second), strict=True))
    freedom = 1.0 / inverse if inverse > 0 else math.inf
    shift, error = first.value - second.value, math.sqrt(total)
    return Difference(shift, error * _t_quantile(freedom), float(2.0 * _t_tail(abs(shift) / error, freedom)))


def _between_bands(value: FloatArray, variance: FloatArray, sensor: IntArray) -> float:
    """Return the variance between the bands of a sensor, NaN if no sensor has two; negative estimates are 0."""
    weight = 1.0 / variance
    total = np.bincount(sensor, weight)
    freedom = value.size - total.size
    if freedom < 1:
        return math.nan
    mean = np.bincount(sensor, weight * value) / total
    scatter = float(np.sum(weight * (value - mean[sensor]) ** 2))
    slope = float(np.sum(total - np.bincount(sensor, weight**2) / total))
    return max((scatter - freedom) / slope, 0.0)


def _mean_of_sensors(value: FloatArray, variance: FloatArray, estimates: int, bands: float) -> CombinedEstimate:
    count = value.size
    freedom = count - 1

    def chi_square(spread: float) -> float:
        weight = 1.0 / (variance + spread)
        return float(np.sum(weight * (value - np.sum(weight * value) / weight.sum()) ** 2))

    spread = low = high = limit = math.nan
    if freedom:
        targets = (freedom, *(float(scipy.stats.chi2.ppf(part, freedom)) for part in (_ONE_SIGMA, 1.0 - _ONE_SIGMA)))
        spread, low, high = (_where(chi_square, target, value, variance) for target in targets)
        lucky = math.sqrt(max(float(scipy.stats.chi2.ppf(0.5, freedom)) / max(chi_square(0.0), 1e-300), 1.0))
        target = float(scipy.stats.chi2.ppf(_ONE_SIDED, freedom)) / lucky**2
        limit = _where(chi_square, target, value, variance)
    added = spread if freedom else 0.0
    weight = 1.0 / (variance + added)
    own = 1.0 / float(np.mean(1.0 / variance))
    effective = math.inf
    if freedom:
        # Half the error of tau^2 guards against estimates of 0 by chance.
        share = min((added + own / math.sqrt(2.0 * freedom)) / (added + own), 1.0)
        effective = freedom / share**2
    at_zero = chi_square(0.0) if freedom else math.nan
    return CombinedEstimate(
        value=float(np.sum(weight * value) / weight.sum()),
        error=float(weight.sum() ** -0.5) * _t_quantile(effective),
        freedom=effective,
        estimates=estimates,
        sensors=count,
        heterogeneity=math.sqrt(spread),
        heterogeneity_low=math.sqrt(low),
        heterogeneity_high=math.sqrt(high),
        heterogeneity_limit=math.sqrt(limit),
        between_bands=math.sqrt(bands),
        chi_square=at_zero,
        chi_square_freedom=freedom,
        p_value=float(scipy.stats.chi2.sf(at_zero, freedom)) if freedom else math.nan,
    )


def _where(chi_square: Callable[[float], float], target: float, value: FloatArray, variance: FloatArray) -> float:
    """Return the added variance at which the sum of squares has a value; 0 if it is smaller without added variance."""
    if chi_square(0.0) <= target:
        return 0.0
    largest = float(variance.max() + np.ptp(value) ** 2)
    while chi_square(largest) > target:
        largest *= 4.0
    return float(optimize.brentq(lambda spread: chi_square(spread) - target, 0.0, largest))


def _t_quantile(freedom: float) -> float:
    return float(scipy.stats.t.ppf(_ONE_SIGMA, freedom)) if math.isfinite(freedom) else 1.0


def _t_tail(size: float, freedom: float) -> float:
    return float(scipy.stats.t.sf(size, freedom) if math.isfinite(freedom) else scipy.stats.norm.sf(size))


RATE = 0.05
"""Expected fraction of chance results among those called significant."""


@dataclass(frozen=True)
class Discoveries:
    """Tests that are significant.

    Attributes
    ----------
    adjusted : ndarray, shape (n,)
        Smallest false-discovery rate at which each test is significant; NaN without a p-value.
    found : ndarray of bool, shape (n,)
        Whether it is significant at the rate.
    tests
        Number of tests with a p-value.
    """

    adjusted: FloatArray
    found: BoolArray
    tests: int


def find_discoveries(p_values: ArrayLike, *, rate: float = RATE) -> Discoveries:
    """Return the significant ones of many tests.

    The procedure of Benjamini & Hochberg (1995, J. R. Stat. Soc. B 57, 289), `scipy.stats.false_discovery_control`: at most ``rate`` of the
    tests called significant are so by chance, on average. It is valid for independent tests and those with positive dependence, as of one
    pair of maps on several scales.

    Parameters
    ----------
    p_values : array_like, shape (n,)
        NaN for tests without one, which do not count.
    rate
        False-discovery rate.

    Raises
    ------
    CompareError
        If a p-value or the rate is not between 0 and 1.

    Examples
    --------
    >>> found = find_discoveries([1e-4, 0.03, 0.5, float("nan")])
    >>> found.tests, found.found.tolist()
    (3, [True, True, False, False])
    """
    p_value = np.asarray(p_values, dtype=np.float64).ravel()
    known = np.isfinite(p_value)
    if not 0 < rate < 1:
        raise CompareError(f"the false-discovery rate {rate} is not valid", remedy="give a number between 0 and 1", value=rate)
    if ((p_value[known] < 0) | (p_value[known] > 1)).any():
        raise CompareError("a p-value is not between 0 and 1", remedy="give probabilities, and NaN for tests without one")
    adjusted = np.full(p_value.shape, np.nan)
    if known.any():
        adjusted[known] = scipy.stats.false_discovery_control(p_value[known], method="bh")
    with np.errstate(invalid="ignore"):
        return Discoveries(adjusted, adjusted <= rate, int(known.sum()))
