"""Restricted maximum likelihood (REML) of the variances of a kernel family.

The log-likelihood of the contrasts ``z = P^T y``, free of drift and gains (Patterson & Thompson 1971, Biometrika 58, 545):

    -2 log L = log|C| + z^T C^-1 z,   C = P^T (sum_k s_k K_k + t Z Z^T + n 1 + D) P

with the kernels ``K_k``, the scale errors of exposures (``Z`` assigns nodes to exposures), the node noise ``n``, and the
known variances ``D`` of the nodes. Its gradient with respect to ``log s_k`` is analytic. Thousands of nodes are divided into blocks
whose likelihoods are multiplied (composite likelihood; Caragea & Smith 2007, J. Multivariate Anal. 98, 1417): one block is a sparse sample
of the whole scan, which constrains long lengths; the others are compact and constrain short ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.optimize import Bounds, minimize

from permil.beam.kernels import KernelFamily

FloatArray = NDArray[np.float64]

BLOCK_SIZE = 256
SINGLE_BLOCK_LIMIT = 400
COMPACT_BLOCKS = 3
NEGLIGIBLE = 1e-14  # variance of a kernel that changes the beam by no more than 1e-7
NOISE_FLOOR = 1e-5  # relative: 1e10 electrons; also keeps the matrices well conditioned
EXPOSURE_FLOOR = 5e-7
KERNEL_RANGE = (1e-12, 1e3)
START_NOISE = 1e-7
NOISE_PRIOR = 2e-4
NOISE_PRIOR_WIDTH = 1.5
STARTS = ((1e-3, 1.0), (0.3, 0.01), (0.02, 0.1))


@dataclass(frozen=True)
class Observations:
    """Fitted data: log signals with their design.

    Parameters
    ----------
    u : ndarray, shape (n, 2)
        Beam coordinates, mm.
    log_signal : ndarray, shape (n,)
    known_variance : ndarray, shape (n,)
        Known part of the variance of the log signal (0 where unknown; large for a down-weighted node).
    bunch : ndarray of int, shape (n,)
        Number of the bunch, 0 to ``n_bunches`` - 1.
    exposure : ndarray of int, shape (n,)
        Number of the exposure, -1 for none.
    exposure_weight : ndarray, shape (n_exposures,)
        Factor on the variance of each exposure's scale (above 1 for a glitch).
    n_bunches : int
        Number of bunches.
    """

    u: FloatArray
    log_signal: FloatArray
    known_variance: FloatArray
    bunch: NDArray[np.int64]
    exposure: NDArray[np.int64]
    exposure_weight: FloatArray
    n_bunches: int

    @property
    def n_exposures(self) -> int:
        """Number of exposures whose scale is fitted."""
        return self.exposure_weight.size

    def take(self, index: NDArray[np.int64]) -> Observations:
        """Return some of the observations."""
        return replace(
            self,
            u=self.u[index],
            log_signal=self.log_signal[index],
            known_variance=self.known_variance[index],
            bunch=self.bunch[index],
            exposure=self.exposure[index],
        )


@dataclass(frozen=True)
class Variances:
    """Variances of the log signal: one per kernel, that of the node noise, and that of the exposure scales."""

    kernels: FloatArray
    node: float
    exposure: float


def fixed_effects(observations: Observations, family: KernelFamily) -> FloatArray:
    """Return the design of gains and drift: one indicator per bunch, then the monomials."""
    indicators = (observations.bunch[:, None] == np.arange(observations.n_bunches)).astype(float)
    return np.hstack([indicators, family.drift(observations.u)])


def exposure_design(observations: Observations) -> FloatArray:
    """Return the design of the exposures' scales, columns scaled by the root of their weights."""
    indicators = (observations.exposure[:, None] == np.arange(observations.n_exposures)).astype(float)
    return indicators * np.sqrt(observations.exposure_weight)


def maximise_likelihood(observations: Observations, family: KernelFamily) -> Variances:
    """Fit the variances of a family by restricted maximum likelihood.

    Notes
    -----
    A wide log-normal prior on the relative node noise, 2e-4 within a factor 4.5, applies if a sparse scan cannot separate noise from fine
    structure: it corresponds to 1e8 electrons in a bunch and a photodiode noise of 2e-4. Informative data override it.
    """
    blocks = [_Block(observations.take(index), family) for index in blocks_of(observations.u)]
    n_kernels = len(family.kernels)
    typical = np.array([[np.mean(np.diag(matrix)) for matrix in block.matrices[1 : n_kernels + 1]] for block in blocks]).mean(
        axis=0
    )
    scale = np.concatenate([block.contrasts for block in blocks]).var()
    limits = [(2.0 * np.log(NOISE_FLOOR), 0.0)] + [tuple(np.log(np.array(KERNEL_RANGE) * scale / value)) for value in typical]
    has_exposures = observations.n_exposures > 0
    limits += [(2.0 * np.log(EXPOSURE_FLOOR), 0.0)] * has_exposures
    box = Bounds(*np.array(limits).T)
    results = []
    for noise_part, kernel_part in STARTS:
        start = np.log([min(noise_part * scale, START_NOISE), *(kernel_part * scale / typical), *[START_NOISE] * has_exposures])
        start = np.clip(start, box.lb, box.ub)
        results.append(
            minimize(_objective, start, args=(blocks,), jac=True, method="L-BFGS-B", bounds=box, options={"maxiter": 200})
        )
    fitted = np.exp(min(results, key=lambda result: result.fun).x)
    kernels = fitted[1 : n_kernels + 1]
    kernels = np.where((kernels < NEGLIGIBLE) & (kernels < kernels.max()), 0.0, kernels)
    return Variances(kernels, float(fitted[0]), float(fitted[-1]) if has_exposures else 0.0)


def blocks_of(u: FloatArray) -> list[NDArray[np.int64]]:
    """Divide points into blocks for the composite likelihood: a single block, or one sparse and several compact blocks."""
    everything = np.arange(len(u))
    if len(u) <= SINGLE_BLOCK_LIMIT:
        return [everything]
    thinned = np.sort([leaf[len(leaf) // 2] for leaf in _leaves(u, everything, len(u) / BLOCK_SIZE)])
    compact = _leaves(u, everything, BLOCK_SIZE * 1.5)
    chosen = np.unique(np.linspace(0, len(compact) - 1, COMPACT_BLOCKS + 2).round().astype(int)[1:-1])
    return [thinned, *(np.sort(compact[number]) for number in chosen)]


def _leaves(u: FloatArray, index: NDArray[np.int64], size: float) -> list[NDArray[np.int64]]:
    """Halve a set of points along its longer side until no part has more than ``size`` points."""
    if len(index) <= max(size, 1.0):
        return [index]
    axis = int(np.argmax(np.ptp(u[index], axis=0)))
    order = index[np.argsort(u[index, axis], kind="stable")]
    half = len(order) // 2
    return _leaves(u, order[:half], size) + _leaves(u, order[half:], size)


class _Block:
    """Contrasts of one block and the projected matrix of each variance component."""

    def __init__(self, observations: Observations, family: KernelFamily) -> None:
        fixed = fixed_effects(observations, family)
        fixed = fixed[:, np.any(fixed != 0.0, axis=0)]
        left, singular, _ = np.linalg.svd(fixed, full_matrices=True)
        rank = int(np.sum(singular > 1e-10 * singular[0]))
        basis = left[:, rank:]
        self.contrasts = basis.T @ observations.log_signal
        self.known = basis.T @ (observations.known_variance[:, None] * basis)
        self.matrices = [np.eye(basis.shape[1])]
        self.matrices += [basis.T @ matrix @ basis for matrix in family.matrices(observations.u, observations.u)]
        if observations.n_exposures:
            projected = basis.T @ exposure_design(observations)
            self.matrices.append(projected @ projected.T)

    def objective(self, variances: FloatArray) -> tuple[float, FloatArray]:
        """Return half of -2 log L and its gradient with respect to the log variances."""
        covariance = self.known.copy()
        for variance, matrix in zip(variances, self.matrices, strict=True):
            covariance += variance * matrix
        try:
            lower = np.linalg.cholesky(covariance)
        except np.linalg.LinAlgError:
            covariance[np.diag_indices_from(covariance)] += 1e-12 * np.trace(covariance)
            lower = np.linalg.cholesky(covariance)
        root = solve_triangular(lower, np.eye(len(lower)), lower=True)
        inverse = root.T @ root
        weighted = inverse @ self.contrasts
        likelihood = 0.5 * self.contrasts @ weighted + np.log(np.diag(lower)).sum()
        gradient = [
            0.5 * variance * (np.einsum("ij,ij->", inverse, matrix) - weighted @ matrix @ weighted)
            for variance, matrix in zip(variances, self.matrices, strict=True)
        ]
        return float(likelihood), np.array(gradient)


def _objective(log_variances: FloatArray, blocks: list[_Block]) -> tuple[float, FloatArray]:
    variances = np.exp(log_variances)
    distance = 0.5 * log_variances[0] - np.log(NOISE_PRIOR)
    total = 0.5 * (distance / NOISE_PRIOR_WIDTH) ** 2
    gradient = np.zeros_like(variances)
    gradient[0] = 0.5 * distance / NOISE_PRIOR_WIDTH**2
    for block in blocks:
        likelihood, slope = block.objective(variances)
        total += likelihood
        gradient += slope
    return total, gradient
