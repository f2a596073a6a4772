"""The parts of a ratio of two flats: a smooth ratio (the illumination correction), amplifier steps, and the small-scale ratio."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.polynomial.legendre import legvander
from numpy.typing import NDArray

from permil.arrays import BoolArray, FloatArray, IntArray
from permil.camera import Detector
from permil.errors import FlatError
from permil.flat.superpixel import size_in_pixels, super_pixels

LARGEST_DEGREE = 8
"""Largest degree of the smooth ratio: higher ones cannot be distinguished from steps of amplifiers."""

_TILES = 8
"""Tiles along each side of a detector; errors are those of a jackknife over tiles."""
_REJECT, _NEGLIGIBLE = 6.0, 1e-5
_ROUNDS, _STEPS = 5, 20
_CONVERGED = 1e-11


@dataclass(frozen=True)
class RatioParts:
    """Parts of a ratio: ``ratio = scale * smooth(x, y) * (1 + step of the amplifier) * small-scale ratio``.

    All errors are those of a jackknife over 8 x 8 tiles, so that structure that neighbouring pixels share is in them.

    Attributes
    ----------
    scale, scale_error
        Mean of the ratio over the pixels used.
    degree
        Degree of the smooth ratio, a polynomial in x and y whose mean over the pixels used is 1.
    steps
        Relative step of each amplifier against the mean of all, and its error.
    small
        Small-scale ratio, shape (ny, nx), 1 where the flats agree; NaN where one of them is not good.
    mean, mean_error
        Of the small-scale ratio over the pixels used.
    rms, rms_error
        Standard deviation of the small-scale ratio over super-pixels.
    noise
        Prediction of the variances for ``rms``; NaN if they are not known.
    chi_square, chi_square_error
        Of the small-scale ratio against 1, per pixel, over the variances; NaN if they are not known.
    rejected
        Super-pixels left out of the fit since they deviate by more than six standard deviations.
    x, y, cells, cell_errors
        Centre (pixels), small-scale ratio and its error from the variances, for each super-pixel; shape (n,).
    """

    scale: float
    scale_error: float
    degree: int
    steps: dict[str, tuple[float, float]]
    small: FloatArray = field(repr=False)
    mean: float
    mean_error: float
    rms: float
    rms_error: float
    noise: float
    chi_square: float
    chi_square_error: float
    rejected: int
    x: FloatArray = field(repr=False)
    y: FloatArray = field(repr=False)
    cells: FloatArray = field(repr=False)
    cell_errors: FloatArray = field(repr=False)
    _terms: FloatArray = field(repr=False)
    _covariance: FloatArray = field(repr=False)
    _mean_terms: FloatArray = field(repr=False)

    def smooth(self) -> FloatArray:
        """Return the smooth ratio, shape (ny, nx); its mean over the pixels used is 1."""
        return _surface(self._terms / self.scale, self.degree, self.small.shape)

    def smooth_variance(self) -> FloatArray:
        """Return the variance of the smooth ratio, shape (ny, nx); pixels share it."""
        relative, shape = self.smooth(), self.small.shape
        sizes, modes = np.linalg.eigh(self._covariance)
        total = np.zeros(shape)
        for size, mode in zip(np.maximum(sizes, 0.0), modes.T, strict=True):
            # The smooth ratio is relative to its own mean.
            change = _surface(mode, self.degree, shape) - relative * float(self._mean_terms @ mode)
            total += size * np.square(change / self.scale)
        return total


@dataclass(frozen=True)
class _Cells:
    """Super-pixels that do not cross amplifiers."""

    x: FloatArray
    y: FloatArray
    value: FloatArray
    variance: FloatArray
    count: FloatArray
    amplifier: IntArray
    tile: IntArray
    amplifiers: int


@dataclass(frozen=True)
class _Solution:
    """Terms of the polynomial and steps, design and residuals of the fit, and the matrix from fitted numbers to terms and steps."""

    terms: FloatArray
    steps: FloatArray
    design: FloatArray
    residual: FloatArray
    transform: FloatArray


def split_ratio(
    ratio: FloatArray,
    variance: FloatArray,
    good: BoolArray,
    *,
    detector: Detector,
    super_pixel_mm: float,
    degree: int = 4,
) -> RatioParts:
    """Split a ratio of two flats of one detector into smooth ratio, amplifier steps and small-scale ratio.

    The means over super-pixels within amplifiers, weighted with their numbers of good pixels, are fitted by
    ``P(x, y) (1 + s_a)`` with a polynomial P and steps ``s_a`` whose sum is 0 (Gauss-Newton). Super-pixels that deviate by more than six
    robust standard deviations are left out. Errors are those of the jackknife over tiles (``CR3`` of MacKinnon and White 1985,
    J. Econometrics 29, 305, for tiles).

    Parameters
    ----------
    ratio, variance, good
        Ratio, its variance (not positive where it is not known) and the pixels that are good in both flats, shape (ny, nx).
    detector
        Detector of both.
    super_pixel_mm
        Side of a super-pixel, mm.
    degree
        Degree of the smooth ratio, 0 to 8.

    Raises
    ------
    FlatError
        If the degree is not possible, or the super-pixels do not determine it.
    """
    if not 0 <= degree <= LARGEST_DEGREE:
        raise FlatError(
            f"the degree {degree} is not possible", remedy=f"give one from 0 to {LARGEST_DEGREE} (--degree)", value=degree
        )
    cells = _cells(ratio, variance, good, detector, size_in_pixels(super_pixel_mm, detector.pixel_mm))
    basis = _basis(cells.x, cells.y, degree, ratio.shape)
    used = np.ones(cells.value.size, dtype=bool)
    for _ in range(_ROUNDS):
        fitted = _fit(cells, basis, used)
        terms, steps = fitted.terms, fitted.steps
        model = (basis @ terms) * (1 + steps[cells.amplifier])
        deviation = (cells.value / model - 1) * np.sqrt(cells.count / cells.count.max())
        limit = _REJECT * 1.4826 * float(np.median(np.abs(deviation[used]))) + _NEGLIGIBLE
        kept = np.abs(deviation) <= limit
        if np.array_equal(kept, used):
            break
        used = kept
    else:
        fitted = _fit(cells, basis, used)
    covariance = _covariance(fitted, cells.tile[used])
    mean_terms = np.average(basis[used], axis=0, weights=cells.count[used])
    n_terms = terms.size
    scale = float(mean_terms @ terms)
    names = [amplifier.name for amplifier in detector.amplifiers] or [""]
    present = np.unique(cells.amplifier[used])
    step_errors = np.sqrt(np.maximum(np.diagonal(covariance[n_terms:, n_terms:]), 0.0))

    whole = _surface(terms, degree, ratio.shape)
    for number, amplifier in enumerate(detector.amplifiers):
        whole[amplifier.slices] *= 1 + steps[number]
    with np.errstate(invalid="ignore", divide="ignore"):
        small = np.where(good, ratio / whole, np.nan)
        known = good & (variance > 0)
        chi = np.where(known, (small - 1) ** 2 * whole**2 / variance, np.nan)
    relative, noise = cells.value / model, np.sqrt(cells.variance) / model
    mean, mean_error = _mean_over_tiles(relative, cells.count, cells.tile)
    tiles = _tile_of(np.arange(ratio.shape[1])[None, :], np.arange(ratio.shape[0])[:, None], ratio.shape)
    chi_square, chi_square_error = _mean_over_tiles(chi[known], np.ones(int(known.sum())), tiles[known])
    rms = float(np.std(relative))
    return RatioParts(
        scale=scale,
        scale_error=float(np.sqrt(mean_terms @ covariance[:n_terms, :n_terms] @ mean_terms)),
        degree=degree,
        steps={names[k]: (float(steps[k]), float(step_errors[k])) for k in present} if len(present) > 1 else {},
        small=small,
        mean=mean,
        mean_error=mean_error,
        rms=rms,
        rms_error=_rms_error(relative, cells.tile),
        noise=float(np.sqrt(np.mean(noise**2))),
        chi_square=chi_square,
        chi_square_error=chi_square_error,
        rejected=int((~used).sum()),
        x=cells.x,
        y=cells.y,
        cells=relative,
        cell_errors=noise,
        _terms=terms,
        _covariance=covariance[:n_terms, :n_terms],
        _mean_terms=mean_terms,
    )


def _cells(ratio: FloatArray, variance: FloatArray, good: BoolArray, detector: Detector, size: int) -> _Cells:
    regions = [amplifier.slices for amplifier in detector.amplifiers] or [(slice(0, ratio.shape[0]), slice(0, ratio.shape[1]))]
    parts: list[tuple[FloatArray, ...]] = []
    for number, (rows, columns) in enumerate(regions):
        inside, is_good = ratio[rows, columns], good[rows, columns]
        with np.errstate(invalid="ignore"):
            is_known = is_good & (variance[rows, columns] > 0)
        means, noise = super_pixels(inside, is_good, size), super_pixels(variance[rows, columns], is_known, size)
        x, y = np.meshgrid(*means.centres((inside.shape[0], inside.shape[1])))
        filled = np.isfinite(means.mean)
        count = means.count[filled].astype(float)
        of_mean = noise.mean[filled] / count
        place = np.full(count.size, float(number))
        parts.append((x[filled] + columns.start, y[filled] + rows.start, means.mean[filled], of_mean, count, place))
    x, y, value, of_mean, count, place = (np.concatenate(column) for column in zip(*parts, strict=True))
    shape = (ratio.shape[0], ratio.shape[1])
    return _Cells(x, y, value, of_mean, count, place.astype(np.int64), _tile_of(x, y, shape), len(regions))


def _tile_of(x: NDArray[np.number], y: NDArray[np.number], shape: tuple[int, ...]) -> IntArray:
    """Return the tile of each position (pixels)."""
    column, row = ((_TILES * (axis + 0.5) / length).astype(np.int64) for axis, length in ((x, shape[1]), (y, shape[0])))
    return row * _TILES + column


def _axes(shape: tuple[int, ...]) -> list[FloatArray]:
    return [2 * np.arange(length) / max(length - 1, 1) - 1 for length in shape]


def _powers(degree: int) -> IntArray:
    return np.array([(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)])


def _basis(x: FloatArray, y: FloatArray, degree: int, shape: tuple[int, ...]) -> FloatArray:
    """Return the products of Legendre polynomials up to a total degree at positions in pixels, shape (n, terms)."""
    along_x, along_y = (legvander(2 * axis / max(length - 1, 1) - 1, degree) for axis, length in ((x, shape[1]), (y, shape[0])))
    i, j = _powers(degree).T
    return along_x[:, i] * along_y[:, j]


def _surface(terms: FloatArray, degree: int, shape: tuple[int, ...]) -> FloatArray:
    """Return the polynomial in every pixel."""
    coefficients = np.zeros((degree + 1, degree + 1))
    i, j = _powers(degree).T
    coefficients[j, i] = terms
    along_y, along_x = (legvander(axis, degree) for axis in _axes(shape))
    return along_y @ coefficients @ along_x.T


def _fit(cells: _Cells, basis: FloatArray, used: BoolArray) -> _Solution:
    """Fit the terms of the polynomial and the steps of all amplifiers."""
    present = np.unique(cells.amplifier[used])
    size = cells.amplifiers
    # Steps of sum 0: one free step less than amplifiers.
    contrasts = np.zeros((size, len(present) - 1))
    contrasts[present] = np.eye(len(present))[:, :-1] - 1 / len(present)
    root = np.sqrt(cells.count[used])[:, None]
    rows, steps_of = basis[used], contrasts[cells.amplifier[used]]
    value, n_terms = cells.value[used], basis.shape[1]
    level: FloatArray = np.full(value.size, float(np.mean(value)))
    free: FloatArray = np.zeros(contrasts.shape[1])
    terms: FloatArray = np.zeros(n_terms)
    for _ in range(_STEPS):
        step = steps_of @ free
        design = np.column_stack([rows * (1 + step)[:, None], level[:, None] * steps_of]) * root
        solution, _, rank, _ = np.linalg.lstsq(design, (value + level * step) * root[:, 0], rcond=None)
        if design.shape[0] <= design.shape[1] or rank < design.shape[1]:
            raise FlatError(
                f"{value.size} super-pixels do not determine a smooth ratio and the steps of {len(present)} amplifiers",
                remedy="give a lower --degree or smaller super-pixels (--super-pixel-mm), or check the masks",
                value=value.size,
            )
        change = float(np.max(np.abs(np.append(solution[n_terms:] - free, solution[:n_terms] - terms))))
        terms, free = (np.asarray(part, dtype=np.float64) for part in np.split(solution, [n_terms]))
        level = rows @ terms
        if change <= _CONVERGED * abs(float(np.mean(value))):
            break
    residual = (value - level * (1 + steps_of @ free)) * root[:, 0]
    transform = np.zeros((n_terms + size, design.shape[1]))
    transform[:n_terms, :n_terms] = np.eye(n_terms)
    transform[n_terms:, n_terms:] = contrasts
    return _Solution(terms, contrasts @ free, design, residual, transform)


def _covariance(fitted: _Solution, tile: IntArray) -> FloatArray:
    """Return the covariance of terms and steps from leaving out one tile after the other (CR3)."""
    normal = fitted.design.T @ fitted.design
    groups = np.unique(tile)
    changes = []
    for group in groups:
        rows = fitted.design[tile == group]
        without = np.linalg.pinv(normal - rows.T @ rows, hermitian=True)
        changes.append(without @ (rows.T @ fitted.residual[tile == group]))
    moved = np.array(changes) @ fitted.transform.T
    return moved.T @ moved * (len(groups) - 1) / len(groups)


def _mean_over_tiles(values: FloatArray, weights: FloatArray, tile: IntArray) -> tuple[float, float]:
    """Return the weighted mean of values and its error from the scatter between tiles; NaN if there are none."""
    if not values.size:
        return float("nan"), float("nan")
    mean = float(np.average(values, weights=weights))
    sums = np.bincount(tile, weights * (values - mean))
    groups = int(np.count_nonzero(np.bincount(tile)))
    error = np.sqrt(np.sum(sums**2) * groups / (groups - 1)) / np.sum(weights) if groups > 1 else np.nan
    return mean, float(error)


def _rms_error(values: FloatArray, tile: IntArray) -> float:
    """Return the error of a standard deviation from the scatter of squares between tiles."""
    square, error = _mean_over_tiles((values - values.mean()) ** 2, np.ones(values.size), tile)
    return error / (2 * float(np.sqrt(square))) if square > 0 else 0.0
