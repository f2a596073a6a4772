"""Gaussian process of the log beam, with gains, drift and exposure scales: posterior given the variances.

The log beam at ``u`` is ``f(u) = v(u)^T a + p(u)^T b``: ``v = L^-1 k(u)`` are the covariances with the *centres* whitened by the
Cholesky factor of their own covariance, ``a ~ N(0, 1)``, and ``p`` the drift. With the centres at all nodes this is the exact
Gaussian process; with fewer centres (a lattice finer than the shortest length) it is the fully independent training conditional
approximation (Snelson & Ghahramani 2006, NIPS 18; Quinonero-Candela & Rasmussen 2005, JMLR 6, 1939), which adds to each node the
variance that the centres do not explain. The unknowns are found by QR of the weighted design, block by block of rows, so that
memory scales with the number of centres, not with that of the nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import qr, solve_triangular

from permil.arrays import FloatArray, IntArray
from permil.beam.likelihood import KernelFamily, Observations, Variances, exposure_design, fixed_effects
from permil.beam.parameters import holes_of

ROWS_AT_ONCE = 7000
JITTER = 1e-12
SINGULAR = 1e-11


@dataclass(frozen=True)
class LeaveOneOut:
    """Prediction of each node from all others, or from those outside a hole around it.

    Parameters
    ----------
    deviation : ndarray, shape (n,)
        Measured minus predicted log signal.
    variance : ndarray, shape (n,)
        Predicted variance of the deviation: model and node noise; infinite if the others do not determine the beam.
    noise : ndarray, shape (n,)
        Contribution of node noise.
    """

    deviation: FloatArray
    variance: FloatArray
    noise: FloatArray


class GaussianProcess:
    """Posterior of the log beam for given variances.

    Parameters
    ----------
    observations
        Log signals with their design.
    family, variances
        Covariance of the log beam, node noise and exposure scales.
    centres : ndarray, shape (m, 2)
        Centres of the process, mm.
    hole
        Radius of the holes of `leave_hole_out`, mm; 0 for none.

    Attributes
    ----------
    leave_one_out : LeaveOneOut
        Prediction of each node from all others.
    leave_hole_out : LeaveOneOut
        Prediction of each node from those farther away than the hole's radius. It is `leave_one_out` if no hole contains two nodes.
    """

    def __init__(
        self,
        observations: Observations,
        family: KernelFamily,
        variances: Variances,
        centres: FloatArray,
        hole: float = 0.0,
    ) -> None:
        self.family = family
        self.variances = variances
        self.centres = centres
        self._n_bunches = observations.n_bunches
        self._n_exposures = observations.n_exposures
        covariance = family.matrix(centres, centres, variances.kernels)
        covariance[np.diag_indices_from(covariance)] += JITTER * np.trace(covariance) / len(centres) + JITTER
        self._lower = np.linalg.cholesky(covariance)
        self._solve(observations)
        groups = holes_of(observations.u, hole)
        self.leave_hole_out = self._leave_out(observations, groups) if groups else self.leave_one_out

    def _solve(self, observations: Observations) -> None:
        """Find the unknowns ``(a, exposure scales, gains and drift)`` and the triangular root of their precision."""
        n_random = len(self.centres) + self._n_exposures
        size = n_random + self._n_bunches + self.family.n_monomials
        pieces = np.array_split(np.arange(len(observations.u)), -(-len(observations.u) // ROWS_AT_ONCE))
        # Priors are additional rows: unit variance for random terms, none for gains and drift.
        triangle: FloatArray = np.eye(n_random, size + 1)
        for piece in pieces:
            design, noise = self._design(observations.take(piece))
            rows = np.column_stack([design, observations.log_signal[piece]]) / np.sqrt(noise)[:, None]
            stacked = np.vstack([triangle, rows])
            triangle = np.asarray(qr(stacked, mode="r", overwrite_a=True, check_finite=False)[0][: size + 1], dtype=float)
        self._root = triangle[:size, :size]
        self._unknowns = solve_triangular(self._root, triangle[:size, size])
        self._weights = solve_triangular(self._lower, self._unknowns[: len(self.centres)], lower=True, trans="T")
        deviation, variance, own = np.empty((3, len(observations.u)))
        for piece in pieces:
            if len(pieces) > 1:  # a single piece is kept in memory
                design, noise = self._design(observations.take(piece))
            leverage = self._squared_errors(design) / noise
            # A node that alone determines an unknown (leverage 1) cannot be predicted from the others: its variance is infinite.
            rest = np.maximum(1.0 - leverage, 1e-12)
            deviation[piece] = (observations.log_signal[piece] - design @ self._unknowns) / rest
            variance[piece] = noise / rest
            own[piece] = noise
        self.leave_one_out = LeaveOneOut(deviation, variance, own)

    def _leave_out(self, observations: Observations, groups: list[IntArray]) -> LeaveOneOut:
        """Return the prediction of the first node of each group without the group.

        With the hat matrix ``H`` of the weighted fit and its residuals ``r``, the residuals of a left-out group are
        ``(1 - H_gg)^-1 r_g`` and their covariance ``(1 - H_gg)^-1``, in units of the noise.
        """
        design, noise = self._design(observations)
        root_noise = np.sqrt(noise)
        projected = solve_triangular(self._root, (design / root_noise[:, None]).T, trans="T", check_finite=False)
        residual = (observations.log_signal - design @ self._unknowns) / root_noise
        deviation, variance = np.zeros(len(noise)), np.full(len(noise), np.inf)
        for index, group in enumerate(groups):
            eigenvalues, vectors = np.linalg.eigh(np.eye(group.size) - projected[:, group].T @ projected[:, group])
            if eigenvalues[0] > SINGULAR:
                row = (vectors[0] / eigenvalues) @ vectors.T
                deviation[index] = row @ residual[group] * root_noise[index]
                variance[index] = row[0] * noise[index]
        return LeaveOneOut(deviation, variance, noise)

    def _design(self, observations: Observations) -> tuple[FloatArray, FloatArray]:
        """Return the rows of the design and the noise variance of each."""
        whitened = self._whitened(observations.u)
        unexplained = self.family.diagonal(observations.u, self.variances.kernels) - np.einsum("ij,ij->i", whitened, whitened)
        scales = exposure_design(observations) * np.sqrt(self.variances.exposure)
        design = np.hstack([whitened, scales, fixed_effects(observations, self.family)])
        return design, self.variances.node + observations.known_variance + np.maximum(unexplained, 0.0)

    def _whitened(self, u: FloatArray) -> FloatArray:
        covariance = self.family.matrix(self.centres, u, self.variances.kernels)
        whitened: FloatArray = solve_triangular(self._lower, covariance, lower=True, overwrite_b=True, check_finite=False).T
        return whitened

    def _squared_errors(self, design: FloatArray) -> FloatArray:
        """Return the posterior variance of linear combinations of the unknowns."""
        projected = solve_triangular(self._root, design.T, trans="T", check_finite=False)
        return np.einsum("ij,ij->j", projected, projected)

    def _field_design(self, u: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the design of the log beam at ``u`` (its constant is the mean of the gains), and the whitened covariances."""
        whitened = self._whitened(u)
        gains = np.full((len(u), self._n_bunches), 1.0 / self._n_bunches)
        scales = np.zeros((len(u), self._n_exposures))
        return np.hstack([whitened, scales, gains, self.family.drift(u)]), whitened

    def mean(self, u: FloatArray) -> FloatArray:
        """Return the posterior mean of the log beam at ``u`` (n, 2)."""
        n_drift = self.family.n_monomials
        drift = self.family.drift(u) @ self._unknowns[-n_drift:]
        gains = self._unknowns[-n_drift - self._n_bunches : -n_drift]
        return self.family.matrix(u, self.centres, self.variances.kernels) @ self._weights + drift + gains.mean()

    def mean_and_variance(self, u: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return posterior mean and variance of the log beam at ``u`` (n, 2)."""
        design, whitened = self._field_design(u)
        prior = self.family.diagonal(u, self.variances.kernels) - np.einsum("ij,ij->i", whitened, whitened)
        return design @ self._unknowns, np.maximum(prior, 0.0) + self._squared_errors(design)

    def covariance(self, u: FloatArray) -> FloatArray:
        """Return the posterior covariance matrix of the log beam at ``u`` (n, 2)."""
        design, whitened = self._field_design(u)
        projected = solve_triangular(self._root, design.T, trans="T", check_finite=False)
        covariance = self.family.matrix(u, u, self.variances.kernels) - whitened @ whitened.T + projected.T @ projected
        return 0.5 * (covariance + covariance.T)

    def log_gains(self) -> tuple[FloatArray, FloatArray]:
        """Return the log gain of each bunch relative to their mean, and its standard error."""
        n_random = len(self.centres) + self._n_exposures
        contrast = np.zeros((self._n_bunches, self._root.shape[0]))
        contrast[:, n_random : n_random + self._n_bunches] = np.eye(self._n_bunches) - 1.0 / self._n_bunches
        return contrast @ self._unknowns, np.sqrt(self._squared_errors(contrast))

    def exposure_scales(self) -> tuple[FloatArray, FloatArray]:
        """Return the log scale of each exposure in units of its weighted prior error, and its expected scatter."""
        start = len(self.centres)
        select = np.zeros((self._n_exposures, self._root.shape[0]))
        select[:, start : start + self._n_exposures] = np.eye(self._n_exposures)
        return select @ self._unknowns, np.sqrt(np.maximum(1.0 - self._squared_errors(select), 1e-12))
