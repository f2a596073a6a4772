"""Covariance functions of the log of the beam, and restricted maximum likelihood (REML) of their variances.

The log-likelihood of the contrasts ``z = P^T y``, free of drift and gains (Patterson & Thompson 1971, Biometrika 58, 545):

    -2 log L = log|C| + z^T C^-1 z,   C = P^T (sum_k s_k K_k + t Z Z^T + n 1 + D) P

with the kernels ``K_k``, the scale errors of exposures (``Z`` assigns nodes to exposures), the node noise ``n``, and the
known variances ``D`` of the nodes. Its gradient with respect to ``log s_k`` is analytic. Thousands of nodes are divided into blocks
whose likelihoods are multiplied (composite likelihood; Caragea & Smith 2007, J. Multivariate Anal. 98, 1417): one block is a sparse sample
of the whole scan, which constrains long lengths; the others are compact and constrain short ones.

Two families describe the same surface:

``cubic``
    Generalised covariance ``r^3`` with a linear drift: the cubic radial basis function with a smoothing that the data choose.
    It has no length scale and is never far off. (Matheron 1973, Adv. Appl. Prob. 5, 439: intrinsic random functions; Wahba 1990.)
``ladder``
    A sum of Matern 5/2 and Gaussian covariances of fixed lengths, from the finest that the nodes resolve to the width of the
    scan, with a quadratic drift; the variances of the rungs are fitted. A smooth beam needs the long rungs only, a ring or
    fine structure brings in the short ones. (Rasmussen & Williams 2006, Gaussian Processes for Machine Learning, ch. 4-5.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import Bounds, minimize
from scipy.spatial.distance import cdist

from permil.arrays import FloatArray, IntArray

MATERN_LENGTHS = (0.075, 0.19, 0.75)
GAUSSIAN_LENGTHS = (0.075, 0.15, 0.31, 0.62)


@dataclass(frozen=True)
class Kernel:
    """One covariance function of the distance: ``shape`` and its length in mm."""

    shape: str
    length: float

    def radial(self, distance: FloatArray) -> FloatArray:
        """Return the (generalised) covariance at some distances, mm."""
        return _RADIAL[self.shape](distance / self.length)


def _gaussian(s: FloatArray) -> FloatArray:
    exponent = -0.5 * s
    exponent *= s
    return np.exp(exponent, out=exponent)


def _matern52(s: FloatArray) -> FloatArray:
    """Return ``(1 + r + r^2 / 3) exp(-r)`` with ``r = sqrt(5) s``: step by step, since new memory costs more than the sums."""
    r = np.sqrt(5.0) * s
    decay = np.negative(r)
    np.exp(decay, out=decay)
    square = r * r
    square /= 3.0
    r += 1.0
    r += square
    r *= decay
    return r


_RADIAL: dict[str, Callable[[FloatArray], FloatArray]] = {"cubic": lambda s: s**3, "gaussian": _gaussian, "matern52": _matern52}


@dataclass(frozen=True)
class KernelFamily:
    """A sum of kernels over a polynomial drift.

    Parameters
    ----------
    name
        ``cubic`` or ``ladder``.
    degree
        Degree of the drift.
    kernels
        The summands; their variances are fitted.
    centre, extent
        Origin (mm, two numbers) and unit (mm) of the scaled coordinates of the drift.
    """

    name: str
    degree: int
    kernels: tuple[Kernel, ...]
    centre: tuple[float, float]
    extent: float

    @property
    def n_monomials(self) -> int:
        """Number of monomials of the drift without the constant."""
        return (self.degree + 1) * (self.degree + 2) // 2 - 1

    def drift(self, u: FloatArray) -> FloatArray:
        """Return the monomials of the drift without the constant, shape (n, number of monomials)."""
        x, y = ((u - np.asarray(self.centre)) / self.extent).T
        return np.column_stack([x ** (d - j) * y**j for d in range(1, self.degree + 1) for j in range(d + 1)])

    def matrices(self, a: FloatArray, b: FloatArray) -> list[FloatArray]:
        """Return the covariance of each summand between points ``a`` (n, 2) and ``b`` (m, 2), at variance 1."""
        distance = cdist(a, b)
        return [
            self._anchored(kernel, kernel.radial(distance), a, b) if kernel.shape == "cubic" else kernel.radial(distance)
            for kernel in self.kernels
        ]

    def matrix(self, a: FloatArray, b: FloatArray, variances: FloatArray) -> FloatArray:
        """Return the covariance of the sum between points ``a`` and ``b``."""
        distance = cdist(a, b)
        total = np.zeros_like(distance)
        for kernel, variance in zip(self.kernels, variances, strict=True):
            if variance == 0.0:
                continue
            radial = kernel.radial(distance)
            covariance = self._anchored(kernel, radial, a, b) if kernel.shape == "cubic" else radial
            covariance *= variance
            total += covariance
        return total

    def diagonal(self, u: FloatArray, variances: FloatArray) -> FloatArray:
        """Return the variance of the sum at points ``u``."""
        total = np.zeros(len(u))
        for kernel, variance in zip(self.kernels, variances, strict=True):
            if kernel.shape == "cubic":
                anchors, weights = self._anchors(u)
                to_anchors = kernel.radial(cdist(u, anchors))
                between = kernel.radial(cdist(anchors, anchors))
                total += variance * (
                    np.einsum("ij,jk,ik->i", weights, between, weights) - 2.0 * np.einsum("ij,ij->i", weights, to_anchors)
                )
            else:
                total += variance
        return total

    def _anchors(self, u: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return three fixed points and the weights that interpolate linearly from them to ``u``."""
        # Irrational offsets keep the anchors off any grid of nodes, where the covariance would vanish.
        shape = np.array([[-np.sqrt(0.5), -np.sqrt(0.3)], [np.sqrt(0.7), -np.sqrt(0.2)], [np.sqrt(0.011), np.sqrt(0.6)]])
        anchors = np.asarray(self.centre) + self.extent * shape
        vandermonde = np.column_stack([np.ones(3), anchors])
        return anchors, np.linalg.solve(vandermonde.T, np.column_stack([np.ones(len(u)), u]).T).T

    def _anchored(self, kernel: Kernel, radial: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
        """Turn the conditionally positive ``r^3`` into the positive covariance of the process that vanishes at the anchors.

        It differs from ``r^3`` by terms that the drift absorbs, so the fit is the same (Wahba 1990, Spline Models, section 1.3).
        """
        anchors, weights_a = self._anchors(a)
        _, weights_b = self._anchors(b)
        to_a, to_b = kernel.radial(cdist(a, anchors)), kernel.radial(cdist(anchors, b))
        between = kernel.radial(cdist(anchors, anchors))
        return radial - weights_a @ to_b - to_a @ weights_b.T + weights_a @ between @ weights_b.T


def cubic_family(centre: tuple[float, float], extent: float) -> KernelFamily:
    """Return the polyharmonic family."""
    return KernelFamily("cubic", 1, (Kernel("cubic", extent),), centre, extent)


def ladder_family(centre: tuple[float, float], extent: float, finest: float) -> KernelFamily:
    """Return the ladder of lengths.

    Parameters
    ----------
    extent
        Width of the scanned area, mm: the unit of the rungs.
    finest
        Shortest length that the nodes resolve, mm: below the fixed rungs the lengths are halved down to it.
    """
    lengths = [fraction * extent for fraction in MATERN_LENGTHS]
    while lengths[0] / 2.0 >= finest:
        lengths.insert(0, lengths[0] / 2.0)
    rungs = [Kernel("matern52", length) for length in lengths]
    rungs += [Kernel("gaussian", fraction * extent) for fraction in GAUSSIAN_LENGTHS]
    return KernelFamily("ladder", 2, tuple(rungs), centre, extent)


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
    bunch: IntArray
    exposure: IntArray
    exposure_weight: FloatArray
    n_bunches: int

    @property
    def n_exposures(self) -> int:
        """Number of exposures whose scale is fitted."""
        return self.exposure_weight.size

    def take(self, index: IntArray) -> Observations:
        """Return some of the observations."""
        return replace(
            self, **{name: getattr(self, name)[index] for name in ("u", "log_signal", "known_variance", "bunch", "exposure")}
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


def blocks_of(u: FloatArray) -> list[IntArray]:
    """Divide points into blocks for the composite likelihood: a single block, or one sparse and several compact blocks."""
    everything = np.arange(len(u))
    if len(u) <= SINGLE_BLOCK_LIMIT:
        return [everything]
    thinned = np.sort([leaf[len(leaf) // 2] for leaf in _leaves(u, everything, len(u) / BLOCK_SIZE)])
    compact = _leaves(u, everything, BLOCK_SIZE * 1.5)
    chosen = np.unique(np.linspace(0, len(compact) - 1, COMPACT_BLOCKS + 2).round().astype(int)[1:-1])
    return [thinned, *(np.sort(compact[number]) for number in chosen)]


def _leaves(u: FloatArray, index: IntArray, size: float) -> list[IntArray]:
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
