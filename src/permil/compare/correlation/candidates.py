"""Candidate covariances of a map, mixtures of white noise and Gaussians, and their posterior probabilities.

Four families, each over all lengths and all fractions of white noise:

- Matérn with the smoothness from -1/2 to 5 (spectra ``k^-1`` to ``k^-12`` below the length; power laws if it exceeds the field),
- a Gaussian,
- two Gaussians of different lengths,
- white noise alone.

The posterior probability of each follows from the powers of the map's modes, taken as independent and exponential in their expectation
(Whittle 1953, Ark. Mat. 2, 423). The quoted result is an average over the posterior: a spectrum known from a few long modes gives an
uncertain variance of r, which the average includes and a best fit would hide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.compare.correlation.expectations import Expectations

FloatArray = NDArray[np.float64]

_WHITE_SHARES = np.array([0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.97])
_SMOOTHNESS = (-0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
# In units of the longest Gaussian: a power law has no scale within the field.
_LONGEST = 20.0
_SCALES_EVERY, _MIXED_EVERY = 3, 6
# Steps of the ladder between the two lengths of a mixture: closer lengths would imitate an intermediate one, with a spurious tail.
_APART = 2
_MIXED_SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
# Prior probability of white noise alone, and the fractions of the others in the rest: Matérn, one Gaussian, two Gaussians (which can
# imitate a length between two steps of the ladder, with a spurious tail, and therefore have a low prior).
_PRIOR_WHITE = 0.2
_PRIOR_FAMILIES = (0.4995, 0.4995, 0.001)
# Power added to every mode and to its expectation, relative to the mean over all modes and to the mean of the longest:
# modes far below it do not affect r, but would dominate the likelihood of a smooth map.
_FLOOR, _FLOOR_OF_LONGEST, _LONGEST_MODES = 0.02, 0.005, 12
_FLOOR_STEP = 4.0
_NEGLIGIBLE = 1e-3
# Except for the longest modes, neighbours in wavelength are averaged: their expectations are nearly equal.
_SINGLE_MODES, _TOGETHER = 60, 6
_LAGS = 160


@dataclass(frozen=True)
class Posterior:
    """Probabilities of the relevant candidates of one map.

    Attributes
    ----------
    members : ndarray of int, shape (m,)
        Indices of the candidates.
    probability : ndarray, shape (m,)
        Their probabilities, with sum 1.
    """

    members: NDArray[np.int64]
    probability: FloatArray


class Candidates:
    """Candidate covariances at the points of one geometry.

    Parameters
    ----------
    expectations
        Predictions of the components for these points.
    """

    def __init__(self, expectations: Expectations) -> None:
        self.expectations = expectations
        shapes, prior = _shapes(expectations.lengths)
        # Weights are fractions of the mean square of the centred map.
        shapes = shapes / expectations.variance[1:]
        shapes /= shapes.sum(axis=1, keepdims=True)
        weights = [np.concatenate([[1.0], np.zeros(shapes.shape[1])])[None, :]]
        weights += [np.hstack([np.full((len(shapes), 1), share), (1.0 - share) * shapes]) for share in _WHITE_SHARES]
        self.weights: FloatArray = np.vstack(weights)
        shared = (1.0 - _PRIOR_WHITE) / len(_WHITE_SHARES)
        self.log_prior = np.log(np.concatenate([[_PRIOR_WHITE], *[shared * prior] * len(_WHITE_SHARES)]))
        number = expectations.power.shape[0]
        self._bins = np.unique(
            np.concatenate([np.arange(min(_SINGLE_MODES, number)), np.arange(_SINGLE_MODES, number, _TOGETHER)])
        )
        self._sizes = np.diff(np.append(self._bins, number)).astype(np.float32)
        self._power = (self.weights @ self._binned(expectations.power).T).astype(np.float32)
        self.weighted_traces: FloatArray = self.weights @ expectations.traces
        self._shape_lengths: FloatArray = _folding_lengths(shapes * expectations.variance[1:], expectations.lengths)
        self._floored: dict[float, tuple[NDArray[np.float32], FloatArray]] = {}

    def project(self, standardised: FloatArray) -> FloatArray:
        """Return the projections of a map (mean square 1) on the modes."""
        return (standardised.astype(np.float32) @ self.expectations.modes).astype(float)

    def posterior(self, power: FloatArray) -> Posterior:
        """Return the posterior of the covariance from the squared projections of a map (mean square 1) on the modes."""
        level = _FLOOR + _FLOOR_OF_LONGEST * float(power[:_LONGEST_MODES].mean())
        floor = _FLOOR * _FLOOR_STEP ** float(np.rint(np.log(level / _FLOOR) / np.log(_FLOOR_STEP)))
        inverse, logarithm = self._with_floor(floor)
        log_posterior = self.log_prior - 0.5 * (
            inverse @ (self._sizes * (self._binned(power) + floor)).astype(np.float32) + logarithm
        )
        probability = np.exp(log_posterior - log_posterior.max())
        members = np.flatnonzero(probability > _NEGLIGIBLE)
        return Posterior(members, probability[members] / probability[members].sum())

    def _with_floor(self, floor: float) -> tuple[NDArray[np.float32], FloatArray]:
        if floor not in self._floored:
            floored = self._power + np.float32(floor)
            self._floored[floor] = (1.0 / floored, np.sum(self._sizes * np.log(floored), axis=1, dtype=float))
        return self._floored[floor]

    def _binned(self, power: FloatArray) -> FloatArray:
        """Return the mean of quantities of modes (first axis) over the bins of modes."""
        sizes = self._sizes.astype(float).reshape(-1, *[1] * (power.ndim - 1))
        return np.add.reduceat(power, self._bins, axis=0) / sizes

    def null_variance(self, a: Posterior, b: Posterior) -> tuple[float, float]:
        """Return mean and variance, over both posteriors, of the logarithm of the variance of r of independent maps."""
        logarithm = np.log(self.weighted_traces[a.members] @ self.weights[b.members].T)
        mean = a.probability @ logarithm @ b.probability
        return float(mean), float(a.probability @ (logarithm - mean) ** 2 @ b.probability)

    def mean_weights(self, posterior: Posterior) -> FloatArray:
        """Return the posterior mean of the weights of the components, fractions of the mean square."""
        return posterior.probability @ self.weights[posterior.members]

    def length(self, posterior: Posterior) -> tuple[float, float]:
        """Return mean and standard deviation of the correlation length (e-folding length without white noise)."""
        lengths = np.concatenate([[0.0], np.tile(self._shape_lengths, len(_WHITE_SHARES))])[posterior.members]
        mean = float(posterior.probability @ lengths)
        return mean, float(np.sqrt(posterior.probability @ (lengths - mean) ** 2))


def _shapes(lengths: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return weights (variances) of the Gaussians and prior probability of each candidate, without white noise."""
    identity = np.eye(len(lengths))
    matern = []
    longest = _LONGEST * lengths[-1]
    scales = lengths[0] * (lengths[1] / lengths[0]) ** np.arange(
        int(np.log(longest / lengths[0]) / np.log(lengths[1] / lengths[0])) + 1
    )
    for smoothness in _SMOOTHNESS:
        for scale in scales[2::_SCALES_EVERY]:
            # Matérn as a mixture over s = l^2 with density s^(smoothness - 1) exp(-kappa^2 s / 2).
            square = (lengths / scale) ** 2
            logarithm = smoothness * np.log(square) - (max(smoothness, 0.0) + 0.5) * square
            matern.append(np.exp(logarithm - logarithm.max()))
    # Equal mixtures of neighbours represent lengths between the steps of the ladder.
    gaussian = [*identity, *(0.5 * (identity[1:] + identity[:-1]))]
    rungs = identity[::_MIXED_EVERY]
    mixed = [
        share * short + (1.0 - share) * long
        for i, short in enumerate(rungs)
        for long in rungs[i + _APART :]
        for share in _MIXED_SHARES
    ]
    families = [np.array(family) for family in (matern, gaussian, mixed)]
    shares = [np.full(len(family), share / len(family)) for share, family in zip(_PRIOR_FAMILIES, families, strict=True)]
    shapes = np.vstack(families)
    return shapes / shapes.sum(axis=1, keepdims=True), np.concatenate(shares)


def _folding_lengths(variances: FloatArray, lengths: FloatArray) -> FloatArray:
    """Return the length at which the correlation of each mixture of Gaussians is 1/e."""
    lags = np.geomspace(lengths[0] / 4.0, 4.0 * lengths[-1], _LAGS)
    gaussians = np.exp(-0.5 * (lags / lengths[:, None]) ** 2)
    correlation = variances @ gaussians / variances.sum(axis=1, keepdims=True)
    above = np.minimum(np.sum(correlation > np.exp(-1.0), axis=1), _LAGS - 1)
    below = np.maximum(above - 1, 0)
    rows = np.arange(len(variances))
    upper, lower = np.log(correlation[rows, below]), np.log(np.maximum(correlation[rows, above], 1e-300))
    fraction = np.clip((upper + 1.0) / np.where(upper > lower, upper - lower, 1.0), 0.0, 1.0)
    return lags[below] * (lags[above] / lags[below]) ** fraction
