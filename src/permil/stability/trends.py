"""Drift, jump and dependence on a temperature of a series in time, one regressor at a time, with errors that allow for correlated noise.

Temperatures change with time, and a jump looks like a slope: with a few hours of data several regressors at once cannot be separated.
Each is fitted alone, and `adjust_for_number` limits the probability that noise makes any of them significant (Holm 1979, Scandinavian
Journal of Statistics 6, 65).

A drift is distinguished from noise only as well as the noise is known, and correlated noise looks like a drift. The covariance of a
series is

    ``s^2 (W + r^2 min(t, t') / T)``

with the relative variances ``W`` of its readings, which are equal unless neighbours are averaged, and the change ``r`` of the walk over the
span ``T``. The scale ``s`` is free. Values of ``r`` are hypotheses on a grid, each weighted by its restricted likelihood, that of what
remains when constant and regressor are fitted (Patterson and Thompson 1971, Biometrika 58, 545), so that results include the uncertainty of
the noise itself. Noise with a finite correlation time is described by a walk with larger errors than necessary, never with smaller ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import scipy
from scipy import linalg

from permil.arrays import FloatArray, IntArray

WHITE_PROBABILITY = 0.85
"""Prior probability of white noise alone, for estimates and their errors."""
_SMALLEST, _COUNT = 0.5, 13
"""Smallest change of a walk over the error of the mean of the series, and number of hypotheses, each twice the one before."""


@dataclass(frozen=True)
class Noise:
    """One hypothesis of the noise.

    Attributes
    ----------
    covariance : ndarray, shape (n, n)
        In units of the squared scale.
    """

    covariance: FloatArray

    @cached_property
    def factor(self) -> FloatArray:
        """Lower Cholesky factor of the covariance."""
        return np.asarray(linalg.cholesky(self.covariance, lower=True, check_finite=False))

    @property
    def log_determinant(self) -> float:
        """Logarithm of the determinant of the covariance."""
        return 2.0 * float(np.log(np.diag(self.factor)).sum())

    def whiten(self, columns: FloatArray) -> FloatArray:
        """Return columns, shape (n, m), multiplied so that their noise is white."""
        return np.asarray(linalg.solve_triangular(self.factor, columns, lower=True, check_finite=False))


def noise_hypotheses(time: FloatArray, variance: FloatArray) -> Iterator[Noise]:
    """Yield the hypotheses of the noise of a series: white noise alone, then walks, each twice as large as the one before.

    Parameters
    ----------
    time : ndarray, shape (n,)
        Ascending, in any unit.
    variance : ndarray, shape (n,)
        Variances of the readings; only their ratios matter.
    """
    white = np.diag(variance / variance.mean())
    yield Noise(white)
    since = (time - time[0]) / (time[-1] - time[0])
    walk = np.minimum(since[:, None], since)
    for power in range(_COUNT):
        yield Noise(white + (_SMALLEST * 2.0**power) ** 2 / len(time) * walk)


@lru_cache(maxsize=2)
def _hypotheses_of_bins(time: bytes, count: bytes) -> tuple[Noise, ...]:
    """Return the hypotheses for bins of some times and numbers of readings, whose factors series and regressors share."""
    return tuple(noise_hypotheses(np.frombuffer(time), 1.0 / np.frombuffer(count)))


def posterior(log_likelihood: FloatArray, *, white: float) -> FloatArray:
    """Return the probabilities of the hypotheses, shape (h, ...).

    Parameters
    ----------
    log_likelihood : ndarray, shape (h, ...)
        In the order of `noise_hypotheses`.
    white
        Probability of white noise alone before the data; the others share the rest.
    """
    prior = np.full(len(log_likelihood), (1.0 - white) / (len(log_likelihood) - 1))
    prior[0] = white
    with np.errstate(divide="ignore"):
        weighted = log_likelihood + np.log(prior).reshape(-1, *[1] * (log_likelihood.ndim - 1))
    weights = np.exp(weighted - weighted.max(axis=0))
    return np.asarray(weights / weights.sum(axis=0))


CALLED = 0.01
"""Probability, adjusted for the number of regressors, up to which a regressor is called. Of random walks whose size is near the noise,
where it is hardest to see that they are walks, up to 4 % have a smaller one."""
FEWEST = 8
"""Readings below which a series has no trend."""
MOST = 240
"""Readings beyond which neighbours in time are averaged."""
_EDGE = 2
"""Readings before and after a jump."""


@dataclass(frozen=True)
class Bins:
    """Neighbours in time whose readings are averaged, so that a long series costs no more than one of `MOST` readings.

    Attributes
    ----------
    of : ndarray of int, shape (n,)
        Bin of each reading, ascending.
    count : ndarray, shape (bins,)
        Readings in each.
    """

    of: IntArray
    count: FloatArray

    @classmethod
    def of_length(cls, n: int) -> Bins:
        """Return bins of nearly equal numbers of readings."""
        of = np.arange(n) * min(n, MOST) // max(n, 1)
        return cls(of, np.bincount(of).astype(np.float64))

    def mean(self, columns: FloatArray) -> FloatArray:
        """Return the mean of columns, shape (n, ...), in each bin."""
        begins = np.searchsorted(self.of, np.arange(len(self.count)))
        totals = np.add.reduceat(columns, begins, axis=0)
        return np.asarray(totals / self.count.reshape(-1, *[1] * (columns.ndim - 1)))

    def first(self, number: int) -> int:
        """Return the number of the first reading in a bin."""
        return int(np.searchsorted(self.of, number))

    def hypotheses(self, time: FloatArray) -> tuple[Noise, ...]:
        """Return the hypotheses of the noise of the means at times, shape (n,), of single readings."""
        return _hypotheses_of_bins(self.mean(time).tobytes(), self.count.tobytes())


@dataclass(frozen=True)
class Trends:
    """Coefficients of regressors, each fitted alone, shape (k, m) for k regressors and m series; NaN where they are not determined.

    Attributes
    ----------
    slope, error : ndarray
        Change per unit of the regressor, and its standard error, including the uncertainty of the noise.
    p_value : ndarray
        Probability of a slope of at least this size from noise that wanders.
    """

    slope: FloatArray
    error: FloatArray
    p_value: FloatArray


@dataclass(frozen=True)
class Jumps:
    """The most significant jump of each of m series.

    Attributes
    ----------
    first : ndarray of int, shape (m,)
        Number of the first reading after it.
    size, error : ndarray, shape (m,)
        Change, and its standard error for a jump at this reading.
    p_value : ndarray, shape (m,)
        Probability of one of at least this significance anywhere, from noise that wanders: that of one place times their number
        (Bonferroni).
    """

    first: IntArray
    size: FloatArray
    error: FloatArray
    p_value: FloatArray


def fit_trends(time: FloatArray, series: FloatArray, regressors: FloatArray) -> Trends:
    """Fit each series by a constant and one regressor, for each regressor in turn.

    Parameters
    ----------
    time : ndarray, shape (n,)
        Ascending, in any unit.
    series : ndarray, shape (n, m)
        Readings, finite. Of more than `MOST`, neighbours are averaged.
    regressors : ndarray, shape (n, k)
        For example time, or a temperature; one that does not vary is not determined.

    Notes
    -----
    For each hypothesis of the noise the slope is that of generalised least squares, with Student's distribution of ``n - 2`` degrees of
    freedom. Slope and error are mean and standard deviation of the mixture.

    Examples
    --------
    >>> import numpy as np
    >>> from permil.stability.trends import fit_trends
    >>> hours = np.linspace(0, 4, 60)
    >>> readings = 0.3 * hours + 0.01 * np.random.default_rng(1).standard_normal(60)
    >>> found = fit_trends(hours, readings[:, None], hours[:, None])
    >>> round(float(found.slope[0, 0]), 1), bool(found.p_value[0, 0] < 1e-6)
    (0.3, True)
    """
    count, (n, m) = regressors.shape[1], series.shape
    spread = np.ptp(regressors, axis=0)
    varies = spread > 1e-12 * np.abs(regressors).max(axis=0)
    if n < FEWEST or time[-1] <= time[0] or not varies.any():
        return Trends(*(np.full((count, m), np.nan) for _ in range(3)))
    bins = Bins.of_length(n)
    series, regressors = bins.mean(series), bins.mean(regressors)
    n = len(series)
    centred = np.where(varies, (regressors - regressors.mean(axis=0)) / np.where(varies, spread, 1.0), np.nan)[:, varies]
    likelihood, slopes, errors = [], [], []
    for noise in bins.hypotheses(time):
        white = noise.whiten(np.column_stack([np.ones(n), centred, series]))
        constant, rest = white[:, 0], white[:, 1:]
        rest = rest - np.outer(constant, constant @ rest / (constant @ constant))
        x, y = rest[:, : centred.shape[1]], rest[:, centred.shape[1] :]
        norm = np.einsum("ij,ij->j", x, x)[:, None]
        slope = x.T @ y / norm
        # A series without any noise, as a reading that never changes, has no scale.
        squares = np.maximum(np.einsum("ij,ij->j", y, y) - slope**2 * norm, np.finfo(float).tiny)
        determinants = noise.log_determinant + np.log(constant @ constant) + np.log(norm)
        likelihood.append(-determinants / 2 - (n - 2) / 2 * np.log(squares))
        slopes.append(slope)
        errors.append(np.sqrt(squares / (n - 2) / norm))
    mean, deviation, p_value = _mixture(np.array(likelihood), np.array(slopes), np.array(errors), n - 2)
    result = Trends(*(np.full((count, m), np.nan) for _ in range(3)))
    result.slope[varies], result.error[varies] = mean / spread[varies, None], deviation / spread[varies, None]
    result.p_value[varies] = p_value
    return result


def _mixture(
    likelihood: FloatArray, slope: FloatArray, error: FloatArray, freedom: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return mean and standard deviation over all hypotheses, and the p-value over those with a random walk."""
    weights = posterior(likelihood, white=WHITE_PROBABILITY)
    mean = (weights * slope).sum(axis=0)
    variance = (weights * (error**2 * freedom / (freedom - 2) + (slope - mean) ** 2)).sum(axis=0)
    wandering = posterior(likelihood, white=0.0)
    p_value = (wandering * 2.0 * scipy.stats.t.sf(np.abs(slope) / error, freedom)).sum(axis=0)
    return mean, np.sqrt(variance), np.minimum(p_value, 1.0)


def find_jumps(time: FloatArray, series: FloatArray) -> Jumps:
    """Search each series for its most significant jump, with at least two readings on either side.

    Parameters
    ----------
    time, series
        See `fit_trends`.

    Examples
    --------
    >>> import numpy as np
    >>> from permil.stability.trends import find_jumps
    >>> readings = np.where(np.arange(40) < 25, 0.0, 1.0) + 0.1 * np.random.default_rng(2).standard_normal(40)
    >>> found = find_jumps(np.arange(40.0), readings[:, None])
    >>> int(found.first[0]), round(float(found.size[0]), 1)
    (25, 1.0)
    """
    n, m = series.shape
    if n < FEWEST or time[-1] <= time[0]:
        return Jumps(np.zeros(m, dtype=np.int64), *(np.full(m, np.nan) for _ in range(3)))
    bins = Bins.of_length(n)
    places = np.array([bins.first(number) for number in range(_EDGE, len(bins.count) - _EDGE + 1)])
    after = (np.arange(n)[:, None] >= places).astype(np.float64)
    found = fit_trends(time, series, after)
    best, own = np.argmin(found.p_value, axis=0), np.arange(m)
    p_value = np.minimum(found.p_value[best, own] * len(places), 1.0)
    return Jumps(places[best], found.slope[best, own], found.error[best, own], p_value)


def adjust_for_number(p_values: FloatArray) -> FloatArray:
    """Return p-values adjusted for their number along the first axis by Holm's sequentially rejective method; NaN do not count.

    The chance that the smallest one of pure noise is below a level is at most that level, whatever the dependence of the tests.

    Examples
    --------
    >>> from permil.stability.trends import adjust_for_number
    >>> import numpy as np
    >>> adjust_for_number(np.array([0.01, 0.04, np.nan, 0.02]))
    array([0.03, 0.04,  nan, 0.04])
    """
    order = np.argsort(p_values, axis=0)
    ascending = np.take_along_axis(p_values, order, axis=0)
    known = np.isfinite(p_values).sum(axis=0)
    rank = np.arange(len(p_values)).reshape(-1, *[1] * (p_values.ndim - 1))
    stepped = np.maximum.accumulate(ascending * (known - rank), axis=0)
    adjusted = np.empty_like(p_values)
    np.put_along_axis(adjusted, order, np.minimum(stepped, 1.0), axis=0)
    return adjusted


@dataclass(frozen=True)
class Scatter:
    """Standard deviations of m series about their means, shape (m,).

    Attributes
    ----------
    whole, whole_error : ndarray
        Over the whole series. The error is that of the scatter of another series with the same noise: few independent readings remain of
        noise that wanders.
    successive, successive_error : ndarray
        From differences of successive readings, in which slow changes cancel.
    """

    whole: FloatArray
    whole_error: FloatArray
    successive: FloatArray
    successive_error: FloatArray


def measure_scatter(time: FloatArray, series: FloatArray) -> Scatter:
    """Measure the scatter of each series.

    Parameters
    ----------
    time, series
        See `fit_trends`.

    Notes
    -----
    The variance about the mean of noise with covariance ``C`` has ``(tr MC)^2 / tr(MCMC)`` degrees of freedom, where ``M`` subtracts the
    mean (Satterthwaite 1946, Biometrics Bulletin 2, 110). Successive differences of white noise have the variance of
    ``(2 / 3) (n - 1)`` independent ones (von Neumann 1941, Annals of Mathematical Statistics 12, 367).
    """
    n, m = series.shape
    if n < FEWEST or time[-1] <= time[0]:
        return Scatter(*(np.full(m, np.nan) for _ in range(4)))
    whole = series.std(axis=0, ddof=1)
    bins = Bins.of_length(n)
    binned, count = bins.mean(series), len(bins.count)
    likelihood, shares = [], []
    # The sizes of walks are those of the mean of the series, and so the same with bins and without.
    for noise, single in zip(bins.hypotheses(time), noise_hypotheses(time, np.ones(n)), strict=True):
        white = noise.whiten(np.column_stack([np.ones(count), binned]))
        constant, y = white[:, 0], white[:, 1:]
        squares = np.einsum("ij,ij->j", y, y) - (constant @ y) ** 2 / (constant @ constant)
        squares = np.maximum(squares, np.finfo(float).tiny)
        determinant = noise.log_determinant + np.log(constant @ constant)
        likelihood.append(-determinant / 2 - (count - 1) / 2 * np.log(squares))
        centred = single.covariance - single.covariance.mean(axis=0)
        centred = centred - centred.mean(axis=1, keepdims=True)
        shares.append(np.sum(centred**2) / np.trace(centred) ** 2)
    weights = posterior(np.array(likelihood), white=WHITE_PROBABILITY)
    freedom = 1.0 / (weights * np.array(shares)[:, None]).sum(axis=0)
    successive = np.sqrt((np.diff(series, axis=0) ** 2).mean(axis=0) / 2)
    return Scatter(whole, whole / np.sqrt(2 * freedom), successive, successive / np.sqrt(4 / 3 * (n - 1)))
