"""Noise, drift and steps of the photodiode: the covariance of its readings, and readings that do not fit it.

``log q_e = s_e + constant + regressors . beta + drift(t_e) + white noise``. The constant and ``beta`` are free, all other terms are normal.
`permil.flat.joint.photodiode_fit` estimates the model from readings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg

from permil.arrays import BoolArray, FloatArray, IntArray
from permil.exposures.photodiode import repeated_readings, saturated_readings

READING_LIMIT = 5.0
"""Standard deviations of a reading from the prediction of all others, beyond which it is not used."""

REPORT_LIMIT = 3.5
"""Standard errors beyond which a drift or a step is reported: nearly all of five errors are, and few false ones."""

_FEWEST_DIFFERENCES, _CLEARLY = 20, 0.5
"""Minimum number of consecutive exposures, and ratio of scatters, from which on readings follow the previous exposure."""


@dataclass(frozen=True)
class Drift:
    """A hypothesis of the photodiode's drift.

    Parameters
    ----------
    amplitude : float
        Standard deviation, relative.
    length : float
        Correlation length as a fraction of the campaign.
    probability : float
        Posterior.
    smooth : bool
        Matern 5/2, else exponential.
    """

    amplitude: float
    length: float
    probability: float
    smooth: bool = True


@dataclass(frozen=True)
class Effect:
    """A change of the photodiode's response: by drift over the campaign, by a step, or between epochs.

    Parameters
    ----------
    size, size_err : float
        What the readings say, and its standard error; relative.
    rms : float
        Prior standard deviation, averaged over its posterior.
    time : float
        The first exposure after a step or in a new epoch; NaN for the drift.
    """

    size: float
    size_err: float
    rms: float
    time: float = np.nan

    @property
    def significance(self) -> float:
        """Size over its error."""
        return abs(self.size) / self.size_err if self.size_err > 0 else 0.0


@dataclass(frozen=True)
class PhotodiodeModel:
    """Noise and drift of the photodiode.

    Parameters
    ----------
    white : float
        Standard deviation of the noise of one reading, relative.
    white_err : float
        Its standard error.
    drifts : tuple of Drift
        Hypotheses of a process in time; the remaining probability is that of none.
    linear_rms : float
        Prior standard deviation of the change by linear drift, averaged over its posterior.
    steps : tuple of Effect
        Steps at times found in the readings.
    epoch_rms : float
        Standard deviation of the offsets of epochs.
    changes : tuple of Effect
        Differences between the offsets of epochs that follow one another.
    whole_drift : Effect or None
        The change from the first to the last exposure by linear drift and processes together, which cannot be separated.
    """

    white: float
    white_err: float
    drifts: tuple[Drift, ...] = ()
    linear_rms: float = 0.0
    steps: tuple[Effect, ...] = ()
    epoch_rms: float = 0.0
    changes: tuple[Effect, ...] = ()
    whole_drift: Effect | None = None

    @property
    def drift(self) -> float:
        """Root mean square of everything but white noise over the campaign, averaged over the posterior."""
        processes = sum(drift.probability * drift.amplitude**2 for drift in self.drifts)
        return float(np.sqrt(processes + self.linear_rms**2 / 12.0 + self.epoch_rms**2))

    @property
    def drift_probability(self) -> float:
        """Posterior probability of a process in time."""
        return float(sum(drift.probability for drift in self.drifts))

    @property
    def process_variances(self) -> dict[tuple[float, bool], float]:
        """Variance of the processes in time by kernel: length, and whether it is smooth; averaged over the posterior."""
        variances: dict[tuple[float, bool], float] = {}
        for drift in self.drifts:
            kernel = drift.length, drift.smooth
            variances[kernel] = variances.get(kernel, 0.0) + drift.probability * drift.amplitude**2
        return variances

    @property
    def found(self) -> tuple[Effect, ...]:
        """Significant drift, changes between epochs, and steps."""
        effects = (*(() if self.whole_drift is None else (self.whole_drift,)), *self.changes, *self.steps)
        return tuple(effect for effect in effects if effect.significance > REPORT_LIMIT)

    def without_drift(self) -> PhotodiodeModel:
        """Return the same white noise alone."""
        return PhotodiodeModel(self.white, self.white_err)

    def covariance(self, time: FloatArray, epoch: IntArray | None = None) -> FloatArray:
        """Return the covariance of the readings at some times, averaged over the hypotheses.

        Parameters
        ----------
        epoch : ndarray of int, shape (n,)
            Epoch of each exposure; by default all are of one.
        """
        result = self.white**2 * np.eye(len(time)) + self.drift_covariance(time)
        for step in self.steps:
            after = (time >= step.time) - 0.5
            result += step.rms**2 * np.multiply.outer(after, after)
        if self.epoch_rms > 0 and epoch is not None:
            result += self.epoch_rms**2 * (epoch[:, None] == epoch)
        return result

    def drift_covariance(self, time: FloatArray) -> FloatArray:
        """Return the covariance of the readings at some times due to linear drift and processes."""
        phase = from_middle(time)
        result = self.linear_rms**2 * np.multiply.outer(phase, phase)
        for (length, smooth), variance in self.process_variances.items():
            result += variance * drift_correlation(time, length, smooth=smooth)
        return result

    def precision(self, time: FloatArray, regressors: FloatArray, epoch: IntArray | None = None) -> FloatArray:
        """Return the precision of the scales at some times with the constant and the regressors free, shape (n, n)."""
        return _precision(self.covariance(time, epoch), constants(regressors, len(time)))


def constants(regressors: FloatArray, count: int) -> FloatArray:
    """Return the matrix ``X``: a constant and the centred regressors that vary, scaled to standard deviation 1."""
    columns = [np.ones(count)]
    for regressor in regressors.T:
        spread = regressor.std()
        if spread > 0:
            columns.append((regressor - regressor.mean()) / spread)
    return np.column_stack(columns)


def drift_correlation(time: FloatArray, length: float, *, smooth: bool = True) -> FloatArray:
    """Return the correlation of the drift between times; ``length`` is a fraction of their span."""
    span = max(float(np.ptp(time)), np.finfo(float).tiny)
    return process_correlation(np.abs(time[:, None] - time) / (length * span), smooth=smooth)


def process_correlation(distance: FloatArray, *, smooth: bool) -> FloatArray:
    """Return the correlation of a process at distances in units of its length: Matern 5/2 if it is smooth, else exponential."""
    if not smooth:
        return np.exp(-distance)
    distance = np.sqrt(5.0) * distance
    return (1.0 + distance + distance**2 / 3.0) * np.exp(-distance)


def from_middle(time: FloatArray) -> FloatArray:
    """Return times as fractions of their span, from -1/2 for the first to 1/2 for the last."""
    span = max(float(np.ptp(time)), np.finfo(float).tiny)
    return (time - time.min()) / span - 0.5


def _precision(covariance: FloatArray, fixed: FloatArray) -> FloatArray:
    factor = linalg.cholesky(covariance, lower=True)
    inverse = linalg.cho_solve((factor, True), np.eye(len(covariance)))
    projected = inverse @ fixed
    precision = inverse - projected @ np.linalg.lstsq(fixed.T @ projected, projected.T)[0]
    return (precision + precision.T) / 2


def stuck_readings(log_photodiode: FloatArray, time: FloatArray) -> BoolArray:
    """Return which readings are exactly that of the exposure before, or saturated; those of a coarse converter are not."""
    order = np.argsort(time, kind="stable")
    stuck = saturated_readings(log_photodiode)
    stuck[order] |= repeated_readings(log_photodiode[order])
    return stuck


def follows_exposure_before(log_photodiode: FloatArray, log_scales: FloatArray, time: FloatArray) -> bool:
    """Return whether readings follow the light of the previous exposure instead of their own.

    Parameters
    ----------
    log_photodiode, log_scales, time : ndarray, shape (n,)
        Logarithms of readings (NaN without one) and of the light that the signals know, and times.
    """
    order = np.argsort(time, kind="stable")
    readings, light = log_photodiode[order], log_scales[order]
    # Differences are free of drift.
    own, before = np.diff(readings - light)[1:], np.diff(readings[1:] - light[:-1])
    known = np.isfinite(own) & np.isfinite(before)
    if known.sum() < _FEWEST_DIFFERENCES:
        return False
    return bool(np.median(np.abs(before[known])) < _CLEARLY * np.median(np.abs(own[known])))


def deviations_from_others(covariance: FloatArray, fixed: FloatArray, deviation: FloatArray, used: BoolArray) -> FloatArray:
    """Return the deviation of each reading from the prediction of all others in use, over its error, shape (n,).

    Parameters
    ----------
    covariance : ndarray, shape (n, n)
        ``C``.
    fixed : ndarray, shape (n, k)
        ``X``, whose coefficients are free.
    deviation : ndarray, shape (n,)
    used : ndarray of bool, shape (n,)
        Readings that count; the others are predicted from these all at once (universal kriging).
    """
    result = np.empty(len(used))
    inside, outside = fixed[used], fixed[~used]
    precision = _precision(covariance[np.ix_(used, used)], inside)
    result[used] = left_out_deviations(precision, deviation[used])
    if used.all():
        return result
    factor = linalg.cho_factor(covariance[np.ix_(used, used)], lower=True)
    solved = linalg.cho_solve(factor, np.column_stack([inside, deviation[used], covariance[np.ix_(used, ~used)]]))
    count = fixed.shape[1]
    columns, values, weights = solved[:, :count], solved[:, count], solved[:, count + 1 :]
    information = inside.T @ columns
    coefficients = np.linalg.lstsq(information, inside.T @ values)[0]
    cross = covariance[np.ix_(~used, used)]
    residual = deviation[~used] - outside @ coefficients - cross @ (values - columns @ coefficients)
    beyond = outside - weights.T @ inside
    variance = np.diag(covariance)[~used] - np.einsum("ij,ji->i", cross, weights)
    variance = variance + np.einsum("ij,ji->i", beyond, np.linalg.lstsq(information, beyond.T)[0])
    result[~used] = residual / np.sqrt(variance)
    return result


def left_out_deviations(precision: FloatArray, deviation: FloatArray) -> FloatArray:
    """Return the deviation of each reading from the prediction of all others, over its error.

    For a normal vector with precision ``Q`` it is ``(Q r)_e / sqrt(Q_ee)``.
    """
    return precision @ deviation / np.sqrt(np.diag(precision))
