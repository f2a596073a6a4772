"""Noise of a series in time: white noise, and a random walk whose size is not known.

A drift is told from noise only as well as the noise is known, and noise that wanders looks like a drift. The covariance of a series is

    ``s^2 (W + r^2 min(t, t') / T)``

with the relative variances ``W`` of its readings, and the change ``r`` of the walk over the span ``T``. The scale ``s`` is free. Values
of ``r`` are hypotheses on a grid, each weighted by its restricted likelihood, that of what remains when constant and regressor are fitted
(Patterson and Thompson 1971, Biometrika 58, 545), so that results include the uncertainty of the noise itself. Noise with a finite
correlation time is described by a walk with larger errors than necessary, never with smaller ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

FloatArray = NDArray[np.float64]

WHITE_PROBABILITY = 0.85
"""Probability of white noise alone, before the data, for estimates and their errors."""
_SMALLEST, _COUNT = 0.5, 13
"""Smallest change of a walk over the error of the mean of the series, and number of hypotheses, each twice the one before."""


@dataclass(frozen=True)
class Noise:
    """One hypothesis of the noise.

    Attributes
    ----------
    covariance : ndarray, shape (n, n)
        In units of the squared scale.
    wanders : bool
        Whether it has a random walk.
    """

    covariance: FloatArray
    wanders: bool

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
    """Yield the hypotheses of the noise of a series, white noise alone first.

    Parameters
    ----------
    time : ndarray, shape (n,)
        Ascending, in any unit.
    variance : ndarray, shape (n,)
        Variances of the readings; only their ratios matter.
    """
    white = np.diag(variance / variance.mean())
    yield Noise(white, wanders=False)
    since = (time - time[0]) / (time[-1] - time[0])
    walk = np.minimum(since[:, None], since)
    for power in range(_COUNT):
        yield Noise(white + (_SMALLEST * 2.0**power) ** 2 / len(time) * walk, wanders=True)


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
