"""Covariance of a map from its cosine modes: modes, exact expectations, candidate covariances, and their posterior probabilities.

Modes. Cosines (as in the DCT-II) have no jump at the border, unlike the waves of a Fourier transform. They are made orthogonal at the
points, from long to short, so that a short mode does not pick up long ones through holes and irregular positions, and orthogonal to the
constant, so that subtracting the mean has no effect. All long modes are used, and a sample of the shorter ones, of equal number per
octave.

Expectations. A covariance that is valid for isotropic fields in any number of dimensions is a non-negative mixture of Gaussians of all
lengths (Schoenberg 1938, Ann. Math. 39, 811): white, Gaussian, Matérn, and power laws within a window are all of this kind. For such a
mixture every expectation of a quadratic form is linear in the weights, so that centring, border, holes and irregular positions cause no
bias: observations are never compared with a spectrum that a finite, centred map cannot have (the idea of the debiased Whittle
likelihood: Sykulski et al. 2019, Biometrika 106, 251; Guillaumin et al. 2022, J. R. Stat. Soc. B 84, 1526).

Candidates. Four families, each over all lengths and all fractions of white noise:

- Matérn with the smoothness from -1/2 to 5 (spectra ``k^-1`` to ``k^-12`` below the length; power laws if it exceeds the field),
- a Gaussian,
- two Gaussians of different lengths,
- white noise alone.

The posterior probability of each follows from the powers of the map's modes, taken as independent and exponential in their expectation
(Whittle 1953, Ark. Mat. 2, 423). The quoted result is an average over the posterior: a spectrum known from a few long modes gives an
uncertain variance of r, which the average includes and a best fit would hide.

All of this depends on the positions alone, and is cached for further maps at the same positions.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy import fft
from scipy.linalg import blas, cholesky, lapack

from permil.arrays import Float32Array, FloatArray, IntArray
from permil.compare.correlation.points import Cells, folded
from permil.errors import CompareError

# All modes with fewer half waves across the field than this are used.
_ALL_BELOW = 10.0
# Limit of modes times cells, with at least a hundred modes.
_MODES, _FEWEST_MODES, _WORK = 800, 100, 30_720_000
# Largest ratio of modes to positions: short modes at irregular points are nearly dependent.
_SHARE = 0.7
_RIDGE = 1e-5
_SEED = 20_240_701

_SHORTEST_GAUSSIAN = 0.5
# In units of the diagonal: longer components are gradients.
_LONGEST_GAUSSIAN = 2.0
_RATIO = 2.0 ** (1.0 / 6.0)
_MODES_AT_ONCE, _MODES_IN_CACHE, _GAUSSIANS_AT_ONCE = 32, 8, 8
_WHITE_SHARES = np.array([0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.97])
_SMOOTHNESS = (-0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
# In units of the longest Gaussian: a power law has no scale within the field.
_LONGEST_MATERN = 20.0
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
FEWEST_PLACES = 12
# Above this ratio of its steps a lattice is also evaluated with equal steps.
_UNEVEN = 1.5
_KEPT = 4
# In units of a cell: points nearer than this are at one position.
_SAME_PLACE = 1e-3
_geometries: OrderedDict[bytes, Geometry] = OrderedDict()


def mode_numbers(cells: Cells) -> tuple[IntArray, IntArray]:
    """Return half waves along x and y of the modes used, from long to short."""
    width, height = (cells.shape[1] * cells.step_x, cells.shape[0] * cells.step_y)
    # A lattice resolves no more waves than it has columns and rows.
    along_x, along_y = (
        np.arange(min(size, max(1, round(extent / spacing))))
        for size, extent, spacing in zip(cells.shape[::-1], (width, height), cells.spacings, strict=True)
    )
    kx, ky = (half_waves.ravel() for half_waves in np.meshgrid(along_x, along_y))
    # Rounded, so that equal wavelengths keep their order in any unit of length.
    number = np.round(np.hypot(kx / width, ky / height) * np.sqrt(width * height), 6)
    order = np.argsort(number, kind="stable")[1:]
    kx, ky, number = kx[order], ky[order], number[order]
    affordable = min(_MODES, max(_FEWEST_MODES, _WORK // (cells.shape[0] * cells.shape[1])))
    wanted = min(affordable, int(_SHARE * (cells.places - 1)), len(number))
    low = min(int(np.searchsorted(number, _ALL_BELOW)), wanted)
    taken = np.arange(low)
    if wanted > low:
        density = number[low:] ** -2.0
        rng = np.random.default_rng(_SEED)
        sample = rng.choice(len(number) - low, wanted - low, replace=False, p=density / density.sum())
        taken = np.concatenate([taken, low + np.sort(sample)])
    return kx[taken], ky[taken]


def cosine_modes(x: FloatArray, y: FloatArray, cells: Cells) -> Float32Array:
    """Return the orthonormal modes at the points, shape (modes, n)."""
    kx, ky = mode_numbers(cells)
    phase_x = np.pi * ((x - x.min()) / cells.step_x + 0.5) / cells.shape[1]
    phase_y = np.pi * ((y - y.min()) / cells.step_y + 0.5) / cells.shape[0]
    along_x, along_y = (np.cos(np.outer(np.arange(waves.max() + 1), phase)) for waves, phase in ((kx, phase_x), (ky, phase_y)))
    modes = np.empty((len(kx), len(x)), dtype=np.float32)
    for mode, of_x, of_y in zip(modes, kx, ky, strict=True):
        np.multiply(along_x[of_x], along_y[of_y], out=mode, casting="same_kind")
    modes -= modes.mean(axis=1, dtype=float, keepdims=True).astype(np.float32)
    modes /= np.sqrt(np.sum(modes**2, axis=1, dtype=float, keepdims=True)).astype(np.float32)
    gram = (modes @ modes.T).astype(float)
    inverse, _ = lapack.dtrtri(cholesky(gram + _RIDGE * np.eye(len(gram)), check_finite=False))
    # Half of a triangular matrix is zero, which only BLAS knows; it takes columns for rows.
    return np.asarray(blas.strmm(1.0, inverse.astype(np.float32), modes.T, side=1, overwrite_b=1).T)


@dataclass(frozen=True)
class Expectations:
    """Predictions for each component of the mixture: white noise first, then Gaussians ``exp(-h^2 / 2 l^2)``.

    All components are scaled to unit mean square of the centred map.

    Attributes
    ----------
    lengths : ndarray, shape (components - 1,)
        Lengths ``l``.
    modes : ndarray of float32, shape (modes, n)
        The modes.
    power : ndarray, shape (modes, components)
        Expected square of a map's projection on each mode.
    traces : ndarray, shape (components, components)
        ``tr(B K_i B K_j) / n^2`` with the centring B: the variance of the correlation of independent maps with these covariances.
    variance : ndarray, shape (components,)
        Variance at a point of the component, before centring.
    """

    lengths: FloatArray
    modes: Float32Array
    power: FloatArray
    traces: FloatArray
    variance: FloatArray


def expectations(cells: Cells, modes: Float32Array) -> Expectations:
    """Compute the predictions for the points of some cells (points in one cell count as one position)."""
    longest, shortest = _LONGEST_GAUSSIAN * cells.diagonal, _SHORTEST_GAUSSIAN * min(cells.spacings)
    number = int(np.ceil(np.log(longest / shortest) / np.log(_RATIO) - 1e-6)) + 1
    lengths = shortest * _RATIO ** np.arange(number, dtype=float)
    along_x = np.exp(-0.5 * (cells.lag_x / lengths[:, None]) ** 2)
    along_y = np.exp(-0.5 * (cells.lag_y / lengths[:, None]) ** 2)
    power = np.hstack([np.sum(modes**2, axis=1, dtype=float)[:, None], _mode_power(cells, modes, along_x, along_y)])
    traces, centred = _traces(cells, along_x, along_y)
    scale = cells.n / centred
    return Expectations(
        np.asarray(lengths, dtype=float), modes, power * scale, traces * np.outer(scale, scale) / cells.n**2, scale
    )


def _mode_power(cells: Cells, modes: Float32Array, along_x: FloatArray, along_y: FloatArray) -> FloatArray:
    """Return ``phi' K phi`` of each mode and each Gaussian: the power of the mode weighted with the transform of the Gaussian."""
    rows, columns = cells.padded
    flat = cells.flat + np.prod(cells.shape) * np.arange(_MODES_IN_CACHE)[:, None]
    spectrum_x = fft.rfft(along_x, axis=1).real
    spectrum_x[:, 1 : (columns + 1) // 2] *= 2.0
    # The transform of a Gaussian is even: powers at wavenumbers of both signs are added first.
    spectrum_y = fft.rfft(along_y, axis=1).real
    spectra = (spectrum_y[:, :, None] * spectrum_x[:, None, :]).reshape(len(along_x), -1).astype(np.float32) / (rows * columns)
    result = np.empty((len(modes), len(along_x)))
    squares = np.empty((_MODES_AT_ONCE, spectra.shape[1]), dtype=np.float32)
    for begin in range(0, len(modes), _MODES_AT_ONCE):
        block = modes[begin : begin + _MODES_AT_ONCE]
        for first in range(0, len(block), _MODES_IN_CACHE):
            some = block[first : first + _MODES_IN_CACHE]
            totals = np.bincount(flat[: len(some)].ravel(), some.ravel(), minlength=len(some) * int(np.prod(cells.shape)))
            fields = totals.astype(np.float32).reshape(-1, *cells.shape)
            # Rows of padding are not transformed.
            transform = fft.fft(fft.rfft(fields, columns, axis=2), rows, axis=1, overwrite_x=True)
            power = transform.real**2
            power += transform.imag**2
            squares[first : first + len(fields)] = folded(power).reshape(len(fields), -1)
        result[begin : begin + len(block)] = squares[: len(block)] @ spectra.T
    return result


def _traces(cells: Cells, along_x: FloatArray, along_y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return ``tr(B K_i B K_j)`` and ``tr(B K_i)`` of white noise and the Gaussians.

    ``tr(B K B L) = sum_h N(h) K(h) L(h) - (2 / n) (K 1)'(L 1) + (1'K 1)(1'L 1) / n^2`` with the number of pairs N; Gaussians are
    separable, so the first sum is a bilinear form.
    """
    n, components = cells.n, len(along_x) + 1
    row_sums = np.ones((components, n))
    of_y, of_x = fft.fft(along_y, axis=1), fft.rfft(along_x, axis=1)
    for first in range(1, components, _GAUSSIANS_AT_ONCE):
        some = slice(first - 1, first - 1 + _GAUSSIANS_AT_ONCE)
        row_sums[first : first + _GAUSSIANS_AT_ONCE] = cells.smoothed(
            cells.transformed_counts, of_y[some, :, None] * of_x[some, None, :]
        )
    totals = row_sums.sum(axis=1)
    traces = -2.0 / n * (row_sums @ row_sums.T) + np.outer(totals, totals) / n**2
    traces[0] += n
    traces[1:, 0] += n
    # Gaussians are even in both lags.
    pairs = folded(folded(cells.pairs).T).T
    along_x, along_y = along_x[:, : pairs.shape[1]], along_y[:, : pairs.shape[0]]
    for i in range(components - 1):
        weighted = (along_y[i:] * along_y[i]) @ pairs
        traces[i + 1, i + 1 :] += np.sum(weighted * (along_x[i:] * along_x[i]), axis=1)
        traces[i + 1 :, i + 1] = traces[i + 1, i + 1 :]
    return traces, n - totals / n


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

    members: IntArray
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
        shapes, prior = _shapes(len(expectations.lengths))
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
        self._floored: dict[float, tuple[Float32Array, FloatArray]] = {}

    def project(self, standardised: FloatArray) -> FloatArray:
        """Return the projections of a map (mean square 1) on the modes."""
        return (self.expectations.modes @ standardised.astype(np.float32)).astype(float)

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

    def _with_floor(self, floor: float) -> tuple[Float32Array, FloatArray]:
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


@lru_cache(maxsize=32)
def _shapes(number: int) -> tuple[FloatArray, FloatArray]:
    """Return weights (variances) of the Gaussians and prior probability of each candidate, without white noise, for a number of lengths.

    They depend on the ratios of the lengths alone.
    """
    lengths = _RATIO ** np.arange(number, dtype=float)
    identity = np.eye(len(lengths))
    matern = []
    longest = _LONGEST_MATERN * lengths[-1]
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


@dataclass(frozen=True)
class Geometry:
    """Positions of the points, and quantities that depend on them alone.

    Attributes
    ----------
    x, y : ndarray, shape (n,)
        Positions.
    cells
        Lattice of the points.
    candidates
        Covariances with their predictions, for one value per position.
    place : ndarray of int, shape (n,), or None
        Index of the position of each point; None if all positions differ.
    once : Geometry
        The geometry of the distinct positions; itself if all positions differ.
    even : Geometry, or None
        On a lattice with unequal steps, the geometry of the distinct positions with equal steps and the same area; else None.
    """

    x: FloatArray
    y: FloatArray
    cells: Cells
    candidates: Candidates
    place: IntArray | None
    even: Geometry | None
    _once: Geometry | None

    @property
    def once(self) -> Geometry:
        """The geometry of the distinct positions."""
        return self if self._once is None else self._once

    @classmethod
    def of(cls, x: FloatArray, y: FloatArray) -> Geometry:
        """Return the geometry of positions; the last four are cached, since one mask is used for many maps.

        Raises
        ------
        CompareError
            If there are too few distinct positions to estimate the correlation of neighbours.
        """
        key = hashlib.sha256(np.ascontiguousarray([x, y]).tobytes()).digest()
        if key in _geometries:
            _geometries.move_to_end(key)
            return _geometries[key]
        geometry = cls._made(x, y)
        _geometries[key] = geometry
        while len(_geometries) > _KEPT:
            _geometries.popitem(last=False)
        return geometry

    @classmethod
    def _made(cls, x: FloatArray, y: FloatArray) -> Geometry:
        cells = Cells.of(x, y)
        if cells.places < FEWEST_PLACES:
            raise CompareError(
                f"the {cells.n} points have only {cells.places} distinct positions on the scale of the field",
                remedy=f"the correlation of neighbours needs values at {FEWEST_PLACES} positions or more",
                value=cells.places,
                allowed=FEWEST_PLACES,
            )
        place = _place_numbers(x, y, cells)
        first = slice(None) if place is None else np.unique(place, return_index=True)[1]
        even = None
        if cells.on_lattice and not 1.0 / _UNEVEN < cells.step_x / cells.step_y < _UNEVEN:
            stretch = np.sqrt(cells.step_y / cells.step_x)
            even = cls._single(x[first] * stretch, y[first] / stretch)
        if place is None:
            return replace(cls._single(x, y), even=even)
        once = cls._single(x[first], y[first])
        return cls(x, y, cells, once.candidates, place, even, once)

    @classmethod
    def _single(cls, x: FloatArray, y: FloatArray) -> Geometry:
        """Return the geometry of points at distinct positions."""
        cells = Cells.of(x, y)
        return cls(x, y, cells, Candidates(expectations(cells, cosine_modes(x, y, cells))), None, None, None)


def _place_numbers(x: FloatArray, y: FloatArray, cells: Cells) -> IntArray | None:
    """Return the index of each point's position, None if all positions differ."""
    if cells.on_lattice:
        labels = np.unique(cells.flat, return_inverse=True)[1]
    else:
        fine = [np.rint((axis - axis.min()) / (_SAME_PLACE * step)) for axis, step in ((x, cells.step_x), (y, cells.step_y))]
        labels = np.unique(np.column_stack(fine), axis=0, return_inverse=True)[1]
    labels = labels.reshape(-1).astype(np.int64)
    return None if labels.max() + 1 == len(labels) else labels
