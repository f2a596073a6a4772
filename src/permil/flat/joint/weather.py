"""Weather of the light path: smooth patterns of the light that vary between exposures, their size and correlation time.

The logarithm of the light of exposure ``e`` contains ``sum_k c_ek P_k((x_p - place_e) / half)`` with the five Legendre polynomials of
first and second order, of unit rms over the square of that half side; the level of a pattern is the exposure's scale. Each ``c_k`` is
an Ornstein-Uhlenbeck process, ``<c_k(s) c_k(t)> = a_n^2 exp(-|s - t| / tau)`` with an amplitude of first and one of second order. Its mean
over all exposures belongs to the beam: the weather is the departure from that.

With beam, response, scales and positions free, the signals determine an information matrix ``I`` of all ``c`` with a score ``h`` at 0. The
restricted likelihood of amplitudes and time is that of a normal vector with covariance ``I + I K I``. Close to amplitude 0 it is known from
its first two derivatives (score test; Rao 1948), which cost little; where these show weather its maximum is found by Fisher scoring.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import scipy
from scipy import linalg

from permil._kernels.joint import mirror_upper
from permil.arrays import FloatArray
from permil.flat.joint.data import DetectorSignals

PATTERNS = ("x", "y", "xx", "xy", "yy")
"""Polynomials of first and second order."""

ORDERS = np.array([0, 0, 1, 1, 1])
"""Which of the two amplitudes each has, rising."""

DETECTED = 4.0
"""Standard errors of the score beyond which there is weather."""

_TIMES = (0.01, 0.07, 0.5)
"""Correlation times of the score test, over the time of the campaign."""

_USUAL_AMPLITUDE, _SPREAD = 2e-4, 2.0
"""Centre of the prior of each amplitude, and standard deviations of the logarithms of amplitudes and time: hardly any constraint."""

_USUAL_TIME, _TIME_SPREAD = 0.05, 2.5
_NUGGET = 1e-6
"""Fraction of the variance without correlation in time, for exposures at one time; it also constrains the mean of all."""

_MOST_ITERATIONS = 30
_NEARLY, _SETTLED = 0.3, 0.05
"""Length of the last step in standard errors: for a first estimate, and for an update of an earlier one."""

_LONGEST_STEP = 1.5
_EXPLAINED = 0.5
"""Fraction of the excess of chi-square that weather must explain: with a changing gain it explains a tenth."""

_BOUNDS = np.log([[1e-6, 1e-6, 1e-4], [0.02, 0.02, 30.0]])
"""Least and largest amplitudes, and time over that of the campaign."""

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class WeatherFrame:
    """Place of the patterns in each exposure: they are functions of ``(x_p - place_e) / half``.

    Parameters
    ----------
    projector : ndarray, shape (n, 2)
        Where the projector stands in each exposure, mm.
    centre : ndarray, shape (2,)
        Of the beam, in its own coordinates, mm.
    half_mm : float
        Half side of the square over which each pattern has an rms of 1.
    """

    projector: FloatArray
    centre: FloatArray
    half_mm: float

    @property
    def places(self) -> FloatArray:
        """Centre of the beam in each exposure, shape (n, 2), mm."""
        return self.projector + self.centre

    @property
    def rows(self) -> FloatArray:
        """Place and half side for compiled loops, shape (n, 3)."""
        return np.column_stack([self.places, np.full(len(self.places), self.half_mm)])


def frame_of(detectors: Sequence[DetectorSignals], projector: FloatArray, centre: FloatArray) -> WeatherFrame:
    """Return a frame whose square is as wide as the lit area: a square of half side ``h`` has an rms of ``h / sqrt(3)`` along an axis.

    Parameters
    ----------
    projector, centre
        See `WeatherFrame`.
    """
    total, count = 0.0, 0
    places = projector + centre
    for detector in detectors:
        lit = detector.weights > 0
        for axis, place in enumerate((detector.x_mm, detector.y_mm)):
            total += float(np.square(place - places[detector.exposures, axis, None])[lit].sum())
        count += 2 * int(lit.sum())
    return WeatherFrame(projector, centre, float(np.sqrt(3.0 * total / max(count, 1))))


def pattern_values(x: FloatArray, y: FloatArray) -> FloatArray:
    """Return the patterns at places over the half side, shape (5, ...)."""
    half = 5**0.5 / 2
    return np.stack([3**0.5 * x, 3**0.5 * y, half * (3 * x * x - 1), 3 * x * y, half * (3 * y * y - 1)])


@dataclass(frozen=True)
class Weather:
    """Size and correlation time of the weather.

    Parameters
    ----------
    rms, rms_err : float
        Relative, over the square of half side ``half_mm`` and over time, and its standard error; from the score where none was found.
    limit : float
        The rms that it does not exceed with 95 % probability.
    time, time_factor : float
        Correlation time in the unit of the exposures' times, and the factor by which it may be wrong (one standard error);
        NaN where none was found.
    significance : float
        Standard errors of the score.
    half_mm : float
        See `WeatherFrame`.
    amplitudes : ndarray, shape (2,)
        Of a coefficient of first and of second order; 0 where none was found.
    covariance : ndarray, shape (2, n, n)
        Of the coefficients of one pattern of first and of second order in all exposures, averaged over the posterior of amplitudes and
        time; empty where none was found.
    """

    rms: float
    rms_err: float
    limit: float
    time: float
    time_factor: float
    significance: float
    half_mm: float
    amplitudes: FloatArray = field(default_factory=lambda: np.zeros(2))
    covariance: FloatArray = field(default_factory=lambda: np.empty((2, 0, 0)), repr=False)

    @property
    def found(self) -> bool:
        """Whether there is weather."""
        return bool(self.amplitudes.any())

    @cached_property
    def precision(self) -> FloatArray:
        """Inverse of both covariances, shape (2, n, n)."""
        inverse = np.linalg.inv(self.covariance)
        return np.asarray((inverse + inverse.transpose(0, 2, 1)) / 2)


def fit_weather(
    time: FloatArray,
    information: FloatArray,
    pull: FloatArray,
    *,
    half_mm: float,
    excess: float = 0.0,
    before: Weather | None = None,
) -> Weather:
    """Estimate size and correlation time of the weather.

    Parameters
    ----------
    time : ndarray, shape (n,)
        Of the exposures.
    information : ndarray, shape (5 n, 5 n)
        Information of the signals on the coefficients, all of one pattern after those of another.
    pull : ndarray, shape (5 n,)
        Gradient of the log likelihood of the signals where they are 0.
    half_mm
        See `WeatherFrame`.
    excess
        By how much chi-square is larger than noise allows. Weather that explains less than half of it is not found: the residuals are then
        of another kind (a gain that changes, a beam that the knots do not follow).
    before
        An estimate from nearly the same signals, from which the search begins.
    """
    span = max(float(np.ptp(time)), np.finfo(float).tiny)
    distance = np.abs(time[:, None] - time)
    if before is None or not before.found:
        tests = [_score(time / (part * span), information, pull) for part in _TIMES]
        best = int(np.argmax([test.significance for test in tests]))
        significance = tests[best].significance
        if significance <= DETECTED:
            limit = max(test.limit for test in tests)
            rms = tests[best].variance ** 0.5
            err = tests[best].error / max(2 * rms, tests[best].error ** 0.5)
            return Weather(rms, err, limit, np.nan, np.nan, significance, half_mm)
        size = np.log(max(tests[best].variance / len(PATTERNS), _USUAL_AMPLITUDE**2 / 100)) / 2
        start = np.array([size, size, np.log(_TIMES[best])])
    else:
        significance = before.significance
        start = np.log([*before.amplitudes, before.time / span])
    tolerance = _NEARLY if before is None else _SETTLED
    likeliest, covariance, explained = _search(distance / span, information, pull, start, tolerance=tolerance)
    if explained < _EXPLAINED * excess:
        return Weather(np.nan, np.nan, np.nan, np.nan, np.nan, significance, half_mm)
    amplitudes, tau = np.exp(likeliest[:2]), float(np.exp(likeliest[2]))
    counts = np.bincount(ORDERS)
    variance = float(counts @ amplitudes**2)
    slope = counts * amplitudes**2 / variance
    # The posterior of the rms is close to log-normal: its mean is above its median.
    spread = float(slope @ covariance[:2, :2] @ slope)
    rms = (variance * np.exp(spread)) ** 0.5
    return Weather(
        rms,
        rms * float(np.expm1(spread)) ** 0.5,
        variance**0.5 * float(np.exp(scipy.stats.norm.ppf(_CONFIDENCE) * spread**0.5)),
        tau * span,
        float(np.exp(covariance[2, 2] ** 0.5)),
        significance,
        half_mm,
        amplitudes,
        _averaged(distance / span, likeliest, covariance),
    )


@dataclass(frozen=True)
class _Score:
    """Derivatives of the log likelihood with respect to the variance (sum over patterns) at amplitude 0, for one correlation time."""

    variance: float
    error: float
    significance: float
    limit: float


def _score(time: FloatArray, information: FloatArray, pull: FloatArray) -> _Score:
    count, patterns = len(time), len(PATTERNS)
    product = _times_correlation(time, information.reshape(patterns, count, -1)).reshape(information.shape)
    by_pattern = pull.reshape(patterns, count, 1)
    slope = (float(np.sum(_times_correlation(time, by_pattern) * by_pattern)) - float(np.trace(product))) / (2 * patterns)
    fisher = float(np.einsum("ij,ji->", product, product)) / (2 * patterns**2)
    if fisher <= 0:
        return _Score(0.0, np.inf, 0.0, np.inf)
    likeliest, error = slope / fisher, fisher**-0.5
    tail = scipy.stats.norm.sf(-likeliest / error)
    limit = likeliest + error * float(scipy.stats.norm.isf((1 - _CONFIDENCE) * tail))
    return _Score(max(likeliest, 0.0), error, likeliest / error, max(limit, 0.0) ** 0.5)


def _times_correlation(time: FloatArray, values: FloatArray) -> FloatArray:
    """Return ``C @ values`` with the covariance ``exp(-|s - t|)`` minus that of the mean over all times.

    The process is Markovian: in the order of time, the sums over what comes before and over what comes after follow by recursion.

    Parameters
    ----------
    time : ndarray, shape (n,)
        Over the correlation time.
    values : ndarray, shape (k, n, m)
    """
    order = np.argsort(time, kind="stable")
    decay = np.exp(-np.diff(time[order]))
    centred = values - values.mean(axis=1, keepdims=True)
    result = centred.copy()
    for step in (1, -1):
        places, sums = order[::step], np.zeros((len(values), values.shape[2]))
        for before, place, factor in zip(places, places[1:], decay[::step], strict=False):
            sums += centred[:, before]
            sums *= factor
            result[:, place] += sums
    result -= result.mean(axis=1, keepdims=True)
    return result


def _centred(covariance: FloatArray) -> FloatArray:
    """Return the covariance of the departures from the mean over all exposures."""
    means = covariance.mean(axis=0)
    return np.asarray(covariance - means - means[:, None] + means.mean())


def _search(
    distance: FloatArray, information: FloatArray, pull: FloatArray, start: FloatArray, *, tolerance: float
) -> tuple[FloatArray, FloatArray, float]:
    """Return the likeliest logarithms of both amplitudes and the time (over the campaign), covariance, and the explained excess."""
    centre = np.log([_USUAL_AMPLITUDE, _USUAL_AMPLITUDE, _USUAL_TIME])
    precision = np.array([_SPREAD, _SPREAD, _TIME_SPREAD]) ** -2.0
    place, damping = start, 1.0
    likelihood, explained, slope, fisher = _likelihood(distance, information, pull, place)
    value = likelihood - precision @ (place - centre) ** 2 / 2
    for _ in range(_MOST_ITERATIONS):
        step = np.linalg.solve(fisher + np.diag(precision), slope - precision * (place - centre)) * damping
        step *= min(1.0, _LONGEST_STEP / float(np.abs(step).max()))
        trial = np.clip(place + step, *_BOUNDS)
        step = trial - place
        found = _likelihood(distance, information, pull, trial)
        height = found[0] - precision @ (trial - centre) ** 2 / 2
        if height < value - 1e-6:
            damping /= 4
            continue
        place, value, damping = trial, height, min(1.0, 2 * damping)
        _, explained, slope, fisher = found
        if float(step @ (fisher + np.diag(precision)) @ step) < tolerance**2:
            break
    covariance: FloatArray = np.linalg.inv(fisher + np.diag(precision)).astype(np.float64, copy=False)
    return place, covariance, explained


def _likelihood(
    distance: FloatArray, information: FloatArray, pull: FloatArray, place: FloatArray
) -> tuple[float, float, FloatArray, FloatArray]:
    """Return the log likelihood of logarithms of amplitudes and time, chi-square that they explain, gradient and Fisher information.

    With ``K = F F'`` and ``A = 1 + F' I F``, ``v = A^-1 F' h`` and ``D = 1 - A^-1``: the likelihood is ``(v' F' h - log |A|) / 2``, the
    derivative along ``dK = F B F'`` is ``(v' B v - tr(D B)) / 2``, the information ``tr(D B D B) / 2``; the
    likeliest coefficients take ``v' F' h + v' v`` off chi-square.
    """
    count, patterns = len(distance), len(PATTERNS)
    size = count * patterns
    ratio = distance * np.exp(-place[2])
    correlation = np.exp(-ratio)
    factor = linalg.cholesky(_centred(correlation) + _NUGGET * np.eye(count), lower=True, check_finite=False)
    scale = np.repeat(np.exp(place[:2])[ORDERS], count)
    matrix = (information.reshape(-1, count) @ factor).reshape(size, size).T
    matrix = (np.ascontiguousarray(matrix).reshape(-1, count) @ factor).reshape(size, size)
    matrix *= scale[:, None]
    matrix *= scale
    matrix.flat[:: size + 1] += 1.0
    right = scale * (pull.reshape(patterns, count) @ factor).ravel()
    # Lower triangle of the transposed: the upper one of the array.
    lower = linalg.cholesky(matrix.T, lower=True, overwrite_a=True, check_finite=False)
    solved = linalg.cho_solve((lower, True), right, check_finite=False)
    value = float(right @ solved) / 2 - float(np.log(np.diag(lower)).sum())
    known = linalg.lapack.dpotri(lower, lower=1, overwrite_c=1)[0].T
    mirror_upper(known)
    np.negative(known, out=known)
    known.flat[:: size + 1] += 1.0
    half = linalg.solve_triangular(factor, _centred(correlation * ratio), lower=True, check_finite=False)
    bend = linalg.solve_triangular(factor, half.T, lower=True, check_finite=False)
    product = (known.reshape(-1, count) @ bend).reshape(size, size)
    by_pattern = solved.reshape(patterns, count)
    first_order = int((ORDERS == 0).sum()) * count
    of = (slice(0, first_order), slice(first_order, size))
    slope = np.array(
        [
            *(float(solved[one] @ solved[one] - np.diag(known)[one].sum()) for one in of),
            float(np.sum((by_pattern @ bend) * by_pattern) - np.trace(product)) / 2,
        ]
    )
    fisher = np.empty((3, 3))
    mixed = np.einsum("ij,ij->i", product, known)
    for first, one in enumerate(of):
        for second, two in enumerate(of):
            fisher[first, second] = 2.0 * np.einsum("ij,ij->", known[one, two], known[one, two])
        fisher[first, 2] = fisher[2, first] = mixed[one].sum()
    fisher[2, 2] = np.einsum("ij,ji->", product, product) / 2
    return value, float(right @ solved + solved @ solved), slope, fisher


def _averaged(distance: FloatArray, place: FloatArray, covariance: FloatArray) -> FloatArray:
    """Return the covariance of coefficients of both orders in all exposures, averaged over the posterior.

    The average is over the points ``+- sqrt(3)`` standard errors along the axes of the normal posterior, of weight 1/6 each, which has the
    moments of the normal distribution up to the third (cubature; Arasaratnam & Haykin 2009).
    """
    strength, axes = np.linalg.eigh(covariance)
    shifts = (axes * np.sqrt(len(place) * strength)).T
    result = np.zeros((2, *distance.shape))
    for shift in np.clip([*shifts, *-shifts], -_LONGEST_STEP, _LONGEST_STEP):
        first, second, tau = np.exp(place + shift)
        correlation = _centred(np.exp(-distance / tau)) + _NUGGET * np.eye(len(distance))
        result[0] += first**2 * correlation
        result[1] += second**2 * correlation
    return result / (2 * len(place))
