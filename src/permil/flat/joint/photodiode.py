"""What the photodiode says of the exposure scales, and how well it says it.

``s_e = log q_e + constant + regressors . beta + white noise + drift(t_e)``. The constant and ``beta`` are free; white noise and
drift are normal, with covariance ``C = white^2 I + amplitude^2 K(|t - t'| / length)``, ``K`` Matern 5/2. Constants removed, the
precision of ``s`` is::

    Q = C^-1 - C^-1 X (X' C^-1 X)^-1 X' C^-1,      X = [1, regressors]

White noise, amplitude and length maximise the restricted likelihood (Patterson & Thompson 1971) given what the joint solution
knows of ``s`` without the photodiode. A drift looks like a gradient of the flat where time and position go together; so its
amplitude is not set to its likeliest value, which is often zero, but averaged over the posterior of a set of hypotheses: no drift,
or drift of several amplitudes and lengths.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize

FloatArray = NDArray[np.float64]

NO_DRIFT_PRIOR = 0.5
"""Prior probability that the photodiode does not drift."""

_AMPLITUDES = (0.15, 0.4, 1.0, 2.5)
_LENGTHS = (1.0, 0.3, 0.1)
_WHITE_BOUNDS = (1e-6, 0.3)
_MOST_EXPOSURES = 800


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
    """

    amplitude: float
    length: float
    probability: float


@dataclass(frozen=True)
class PhotodiodeModel:
    """Noise of the photodiode.

    Parameters
    ----------
    white : float
        Standard deviation of the noise of one reading, relative.
    white_err : float
        Its standard error.
    drifts : tuple of Drift
        Hypotheses of drift; what is missing to probability 1 is that of no drift.
    """

    white: float
    white_err: float
    drifts: tuple[Drift, ...] = ()

    @property
    def drift(self) -> float:
        """Root mean square amplitude of the drift over its posterior."""
        return float(np.sqrt(sum(drift.probability * drift.amplitude**2 for drift in self.drifts)))

    @property
    def drift_probability(self) -> float:
        """Posterior probability of a drift."""
        return float(sum(drift.probability for drift in self.drifts))

    def covariance(self, time: FloatArray) -> FloatArray:
        """Return ``C`` for exposures at some times, averaged over the hypotheses."""
        result = self.white**2 * np.eye(len(time))
        for drift in self.drifts:
            if drift.probability > 1e-6:
                result += drift.probability * drift.amplitude**2 * drift_correlation(time, drift.length)
        return result

    def precision(self, time: FloatArray, regressors: FloatArray) -> FloatArray:
        """Return ``Q`` for exposures at some times, shape (n, n)."""
        return _precision(self.covariance(time), constants(regressors, len(time)))[0]


def constants(regressors: FloatArray, count: int) -> FloatArray:
    """Return the matrix ``X``: a constant and the centred regressors that vary, scaled to standard deviation 1."""
    columns = [np.ones(count)]
    for regressor in regressors.T:
        spread = regressor.std()
        if spread > 0:
            columns.append((regressor - regressor.mean()) / spread)
    return np.column_stack(columns)


def drift_correlation(time: FloatArray, length: float) -> FloatArray:
    """Return the Matern 5/2 correlation of the drift between times; ``length`` is a fraction of their span."""
    span = max(float(np.ptp(time)), np.finfo(float).tiny)
    distance = np.sqrt(5.0) * np.abs(time[:, None] - time) / (length * span)
    return (1.0 + distance + distance**2 / 3.0) * np.exp(-distance)


def _precision(covariance: FloatArray, fixed: FloatArray) -> tuple[FloatArray, float]:
    """Return ``Q`` and the logarithm of its pseudo-determinant."""
    factor = linalg.cholesky(covariance, lower=True)
    inverse = linalg.cho_solve((factor, True), np.eye(len(covariance)))
    projected = inverse @ fixed
    information = fixed.T @ projected
    precision = inverse - projected @ np.linalg.solve(information, projected.T)
    log_determinant = (
        -2 * np.log(np.diag(factor)).sum() - np.linalg.slogdet(information)[1] + np.linalg.slogdet(fixed.T @ fixed)[1]
    )
    return (precision + precision.T) / 2, float(log_determinant)


def log_evidence(covariance: FloatArray, fixed: FloatArray, information: FloatArray, pull: FloatArray) -> float:
    """Return the logarithm of the restricted likelihood of photodiode readings, up to a constant.

    Parameters
    ----------
    covariance : ndarray, shape (n, n)
        ``C``.
    fixed : ndarray, shape (n, k)
        ``X``.
    information : ndarray, shape (n, n)
        What the signals know of the scales ``s``: inverse covariance, singular where they know nothing (constant, gradients).
    pull : ndarray, shape (n,)
        Gradient of the log likelihood of the signals where ``s`` equals the readings.
    """
    precision, log_determinant = _precision(covariance, fixed)
    # A common factor of all scales is unknown to both: any stiffness for it is the same factor in all hypotheses.
    stiffness = np.trace(information) / len(covariance)
    factor = linalg.cholesky(information + precision + stiffness / len(covariance), lower=True)
    whitened = linalg.solve_triangular(factor, pull, lower=True)
    return 0.5 * float(log_determinant - 2 * np.log(np.diag(factor)).sum() + whitened @ whitened)


def fit_photodiode(
    time: FloatArray, regressors: FloatArray, information: FloatArray, pull: FloatArray, *, with_drift: bool = True
) -> PhotodiodeModel:
    """Estimate the noise and the drift of the photodiode.

    Parameters
    ----------
    time, regressors
        Of the exposures with a reading.
    information, pull
        See `log_evidence`.
    with_drift
        Whether a drift is thought possible.
    """
    if len(time) > _MOST_EXPOSURES:
        kept = np.linspace(0, len(time) - 1, _MOST_EXPOSURES).astype(int)
        information, pull = marginal(information, pull, kept)
        time, regressors = time[kept], regressors[kept]
    fixed = constants(regressors, len(time))
    unit = np.eye(len(time))

    def best_white(relative: FloatArray, bounds: tuple[float, float]) -> tuple[float, float]:
        def cost(log_white: float) -> float:
            return -log_evidence(np.exp(2 * log_white) * (unit + relative), fixed, information, pull)

        found = optimize.minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 3e-3})
        return float(found.x), -float(found.fun)

    log_white, without = best_white(0 * unit, (np.log(_WHITE_BOUNDS[0]), np.log(_WHITE_BOUNDS[1])))
    hypotheses = []
    share = (1.0 - NO_DRIFT_PRIOR) / (len(_AMPLITUDES) * len(_LENGTHS)) / NO_DRIFT_PRIOR
    for length in _LENGTHS if with_drift else ():
        correlation = drift_correlation(time, length)
        for ratio in _AMPLITUDES:
            with_drift_white, evidence = best_white(ratio**2 * correlation, (log_white - 1.5, log_white + 0.1))
            odds = share * np.exp(min(evidence - without, 500.0))
            hypotheses.append((with_drift_white, ratio * np.exp(with_drift_white), length, odds))
    total = 1.0 + sum(odds for *_, odds in hypotheses)
    mean_white = (np.exp(2 * log_white) + sum(odds * np.exp(2 * white) for white, _, _, odds in hypotheses)) / total
    drifts = tuple(Drift(float(amplitude), length, float(odds / total)) for _, amplitude, length, odds in hypotheses)
    white = float(np.sqrt(mean_white))
    return PhotodiodeModel(white, white / np.sqrt(2 * max(len(time) - 3 - regressors.shape[1], 1)), drifts)


def marginal(information: FloatArray, pull: FloatArray, kept: NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
    """Return information and pull of some of the scales when nothing but the signals is known of the others."""
    others = np.setdiff1d(np.arange(len(information)), kept)
    if not others.size:
        return information[np.ix_(kept, kept)], pull[kept]
    inner = information[np.ix_(others, others)]
    # A little stiffness, for what the signals do not know of the others.
    inner = inner + 1e-10 * np.trace(inner) / len(inner) * np.eye(len(inner))
    cross = information[np.ix_(others, kept)]
    solved = linalg.solve(inner, np.column_stack([cross, pull[others]]), assume_a="pos")
    reduced = information[np.ix_(kept, kept)] - cross.T @ solved[:, :-1]
    return (reduced + reduced.T) / 2, pull[kept] - cross.T @ solved[:, -1]


def left_out_deviations(precision: FloatArray, deviation: FloatArray) -> FloatArray:
    """Return the deviation of each reading from what all others predict, over its error.

    For a normal vector with precision ``Q`` it is ``(Q r)_e / sqrt(Q_ee)``.
    """
    return precision @ deviation / np.sqrt(np.diag(precision))
