"""Temperatures of a readout board from rounded readings: a smooth curve through their rounding intervals.

A reading ``r`` of a thermometer with the step ``q`` means that its temperature lies in ``r +- q / 2``. The errors of successive readings
are the same as long as the temperature hardly changes: treated as white noise of variance ``q^2 / 12`` they would get too much weight. The
temperature is therefore a normal process, a parabola and a sum of cosines of time whose amplitudes fall with the square of their number (an
integrated random walk), and the likelihood of a reading is the probability of its interval. The posterior is found by expectation
propagation (Minka 2001; Rasmussen & Williams 2006, Gaussian Processes for Machine Learning, section 3.6), and averaged over the evidence
of sizes of the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import linalg, special

from permil.arrays import BoolArray, FloatArray

FEWEST_READINGS = 8
"""Readings of a thermometer below which no curve is fitted to them."""

USUAL_STEP = 0.0625
"""Step of the thermometers of LSSTCam's readout boards, deg C."""

_FINE_STEP = 0.005
"""Step below which rounding does not matter, deg C: 1e-6 in the gain."""

_LEAST_SHARE = 0.5
"""Minimum fraction of a board's exposures with a reading of a thermometer for it to be used."""

_OF_PARABOLA, _MOST_COSINES = 3, 100
_SIZES = np.geomspace(3e3, 0.2, 14)
"""Amplitudes of the process over the step; the smallest is an rms of a fiftieth of the step."""

_LEAST_RMS = 0.3
"""Rms of the process over the step that always remains possible: a constant reading does not imply a constant temperature."""

_EDGE, _ROUGH = 0.1, 1.0
"""Noise of a thermometer over its step: of one that rounds, and of one whose readings scatter by more than rounding."""

_MOST_SWEEPS, _SETTLED, _DAMPING = 40, 0.02, 0.7
_LEAST_LEFT = 1e-4
"""Minimum fraction of the precision of a value due to all other readings; below it a sweep keeps the value's own term."""


@dataclass(frozen=True)
class Temperature:
    """The temperature of a board in its exposures.

    Parameters
    ----------
    value : ndarray, shape (n,)
        Above its mean over the exposures, deg C.
    level : float
        That mean above the mean of the readings, deg C: rounding does not average out.
    errors : ndarray, shape (k, n)
        Rows whose products sum to the covariance of the error of value and level together, deg C.
    """

    value: FloatArray
    level: float
    errors: FloatArray


def smooth_temperature(time: FloatArray, readings: FloatArray) -> Temperature | None:
    """Return the temperature of a board; None if no thermometer read it in enough exposures.

    The mean is over the thermometers that read at least half of the exposures, each above its own mean, so that one that is missing now and
    then does not make it jump; those whose readings scatter and have gaps do not count. Errors of thermometers are taken for equal: those
    of one board may round alike.

    Parameters
    ----------
    time : ndarray, shape (n,)
        Of the board's exposures.
    readings : ndarray, shape (n, thermometers)
        Deg C; NaN where there is none.
    """
    count = len(time)
    known = np.isfinite(readings)
    usable = known.sum(axis=0) >= max(FEWEST_READINGS, _LEAST_SHARE * count)
    if not usable.any():
        return None
    functions = _functions(time)
    curves: dict[bytes, _Curve | None] = {}
    found = []
    for reading in readings[:, usable].T:
        # Thermometers that differ by a constant round alike.
        key = np.round(reading - np.nanmin(reading), 6).tobytes()
        if key not in curves:
            curves[key] = _smooth(reading, functions)
        if (curve := curves[key]) is not None:
            found.append(curve)
    if not found:
        return None
    value = np.mean([curve.value for curve in found], axis=0)
    strength, directions = np.linalg.eigh(np.mean([curve.covariance for curve in found], axis=0))
    modes = functions @ (directions * np.sqrt(np.maximum(strength, 0.0)))
    return Temperature(value - value.mean(), float(np.mean([curve.level for curve in found])), modes.T)


@dataclass(frozen=True)
class _Curve:
    """Temperature by one thermometer, mean 0; its mean above that of the readings; covariance of the coefficients of both."""

    value: FloatArray
    level: float
    covariance: FloatArray


def _functions(time: FloatArray) -> FloatArray:
    """Return a parabola and cosines of time, whose coefficients have one size, shape (n, m)."""
    phase = (time - time.min()) / max(float(np.ptp(time)), np.finfo(float).tiny) - 0.5
    number = np.arange(1, min(len(time) - _OF_PARABOLA, _MOST_COSINES) + 1)
    cosines = np.sqrt(2) * np.cos(np.pi * number * (phase[:, None] + 0.5)) / (np.pi * number) ** 2
    # Cosines are level at both ends: a parabola has the slopes there.
    return np.column_stack([np.ones(len(time)), phase, phase**2, cosines])


def _smooth(reading: FloatArray, functions: FloatArray) -> _Curve | None:
    """Return the curve of one thermometer; None if its gaps are too long."""
    known = np.isfinite(reading)
    differences = np.diff(np.unique(reading[known]))
    step = float(differences.min(initial=np.inf, where=differences > 1e-6))
    # A reading that never changes does not show its step.
    step = step if np.isfinite(step) else USUAL_STEP
    as_read = _Curve(np.nan_to_num(reading - np.mean(reading[known])), 0.0, np.zeros((functions.shape[1],) * 2))
    if step < _FINE_STEP and known.all():
        return as_read
    step = max(step, _FINE_STEP)
    scaled = (reading[known] - np.mean(reading[known])) / step
    fits = [list(_curves(functions, known, scaled, noise)) for noise in (_EDGE, _ROUGH)]
    smooth, rough = (max(fit[0] for fit in each) for each in fits)
    if rough > smooth:
        # The temperature itself may scatter: the readings are better than any curve, and rounding is small beside that.
        return as_read if known.all() else None
    weights = np.exp([evidence - smooth for evidence, *_ in fits[0]])
    weights /= weights.sum()
    mean = np.sum([weight * fit[1] for weight, fit in zip(weights, fits[0], strict=True)], axis=0)
    covariance = np.zeros((len(mean), len(mean)))
    for weight, (_, coefficients, factor) in zip(weights, fits[0], strict=True):
        inverse = linalg.solve_triangular(factor, np.eye(len(mean)), lower=True, check_finite=False)
        covariance += weight * (inverse.T @ inverse + np.outer(coefficients - mean, coefficients - mean))
    curve = functions @ mean
    return _Curve(step * (curve - curve.mean()), step * float(curve[known].mean()), step**2 * covariance)


def _curves(
    functions: FloatArray, known: BoolArray, scaled: FloatArray, noise: float
) -> Iterator[tuple[float, FloatArray, FloatArray]]:
    """Yield evidence, coefficients and the factor of their precision for each size of the process; all over the step."""
    precision, pull = np.full(len(scaled), 12.0), 12.0 * scaled
    inside, cosines = functions[known], functions[:, _OF_PARABOLA:]
    size_of_one = float(np.sqrt(np.mean(np.square(cosines - cosines.mean(axis=0)).sum(axis=1))))
    for size in _SIZES[_SIZES * size_of_one >= _LEAST_RMS]:
        prior = np.concatenate([[(1.0 + np.ptp(scaled)) ** 2], np.full(functions.shape[1] - 1, size**2)])
        evidence, factor, precision, pull = _propagate(inside, prior, scaled, noise, precision, pull)
        yield evidence, linalg.cho_solve((factor, True), inside.T @ pull, check_finite=False), factor


def _propagate(
    functions: FloatArray, prior: FloatArray, scaled: FloatArray, noise: float, precision: FloatArray, pull: FloatArray
) -> tuple[float, FloatArray, FloatArray, FloatArray]:
    """Return log evidence, factor of the coefficients' precision, and the normal terms that represent the readings.

    Parameters
    ----------
    scaled : ndarray, shape (n,)
        Readings over their step: each is an interval of length 1, with edges blurred by the noise.
    precision, pull : ndarray, shape (n,)
        First normal terms ``exp(pull f - precision f^2 / 2)``.
    """
    low, high = scaled - 0.5, scaled + 0.5
    evidence = -np.inf
    for _ in range(_MOST_SWEEPS):
        factor = linalg.cholesky(np.diag(1.0 / prior) + (functions.T * precision) @ functions, lower=True, check_finite=False)
        rows = linalg.solve_triangular(factor, functions.T, lower=True, check_finite=False)
        variance, drawn = np.einsum("ji,ji->i", rows, rows), rows @ pull
        without = 1.0 / np.maximum(1.0 / variance - precision, _LEAST_LEFT / variance)
        middle = without * (rows.T @ drawn / variance - pull)
        width = np.sqrt(without + noise**2)
        first, last = (low - middle) / width, (high - middle) / width
        probability = _log_interval(first, last)
        at_first, at_last = (np.exp(-(edge**2) / 2 - probability) / np.sqrt(2 * np.pi) for edge in (first, last))
        slope = (at_first - at_last) / width
        bend = np.minimum((first * at_first - last * at_last) / width**2 - slope**2, -1e-6)
        share = 1.0 + precision * without
        evidence = float(
            np.sum(probability + np.log(share) / 2 + (precision * middle**2 - 2 * pull * middle - pull**2 * without) / share / 2)
            - np.log(np.diag(factor)).sum()
            - np.log(prior).sum() / 2
            + drawn @ drawn / 2
        )
        left = np.maximum(1.0 + bend * without, 1e-6)
        steady = (1.0 / variance - precision > _LEAST_LEFT / variance) & (-bend < left / noise**2)
        change = (
            np.where(steady, -bend / left - precision, 0.0),
            np.where(steady, (slope - middle * bend) / left - pull, 0.0),
        )
        if np.max(np.abs(change[0]) * variance) < _SETTLED:
            break
        precision, pull = precision + _DAMPING * change[0], pull + _DAMPING * change[1]
    return evidence, factor, precision, pull


def _log_interval(first: FloatArray, last: FloatArray) -> FloatArray:
    """Return the logarithm of the probability of intervals under the normal distribution."""
    # Where both ends are positive the tail on the other side has more digits.
    lower, upper = np.where(first > 0, -last, first), np.where(first > 0, -first, last)
    most = special.log_ndtr(upper)
    return np.asarray(most + np.log1p(-np.exp(np.minimum(special.log_ndtr(lower) - most, -1e-12))))
