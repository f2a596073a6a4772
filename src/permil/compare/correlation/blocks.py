"""Resampling of whole blocks of the field: bootstrap, jackknife, and corrections for measurement errors with errors from the jackknife.

All statistics are functions of sums over blocks, so that the cost of a resample is proportional to the number of blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from permil.arrays import BoolArray, FloatArray, IntArray, plain_array, unit_of
from permil.compare.correlation.points import Cells
from permil.errors import CompareError, InputError
from permil.rounding import rounded

Statistic = Callable[[FloatArray], FloatArray]

# Largest and smallest number of blocks in the scan; blocks hold at least about one point.
_MOST_BLOCKS, _FEWEST_BLOCKS = 1500, 16
_SIZE_RATIO = 2.0**0.5
_OFFSETS = 10
# The plateau starts where the next two larger block sizes increase the error by less than this.
_FLAT = 1.04
_JACKKNIFE_BLOCKS = 36
_FEWEST_GROUPS = 5
_ROUNDING = 1e-11
ONE_BLOCK = "one block contains the whole variance of a map"
"""Reason why a jackknife has no error."""

_HALVES_BLOCKS = 36


@dataclass(frozen=True)
class BlockScan:
    """Error of r against block size.

    Attributes
    ----------
    sizes : ndarray, shape (sizes,)
        Side of the blocks, in units of the positions.
    errors : ndarray, shape (sizes,)
        Standard error of r.
    plateau
        Size above which the error is constant; NaN if it never is.
    draws : ndarray, shape (resamples,)
        r of the resamples at the plateau, or at the largest size.
    """

    sizes: FloatArray
    errors: FloatArray
    plateau: float
    draws: FloatArray

    @property
    def chosen(self) -> int:
        """Index of the size used."""
        return len(self.sizes) - 1 if np.isnan(self.plateau) else int(np.argmin(np.abs(self.sizes - self.plateau)))


def moments(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return the columns whose sums determine r: 1, a, b, a^2, b^2, ab."""
    return np.column_stack([np.ones_like(a), a, b, a * a, b * b, a * b])


def correlation_of(sums: FloatArray) -> FloatArray:
    """Return r from sums of `moments` along the last axis."""
    n, a, b, aa, bb, ab = np.moveaxis(sums[..., :6], -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (ab - a * b / n) / np.sqrt(centred_squares(n, a, aa) * centred_squares(n, b, bb))


def centred_squares(n: FloatArray, total: FloatArray, squares: FloatArray) -> FloatArray:
    """Return the sum of squares about the mean; NaN if it is 0 to rounding."""
    centred = squares - total * total / n
    return np.where(centred > _ROUNDING * squares, centred, np.nan)


def block_sums(columns: FloatArray, labels: IntArray) -> FloatArray:
    """Return the sums of columns over blocks with points, shape (blocks, columns)."""
    number = int(labels.max()) + 1
    sums = np.column_stack([np.bincount(labels, column, minlength=number) for column in columns.T])
    there: BoolArray = np.bincount(labels, minlength=number) > 0
    return np.asarray(sums[there], dtype=float)


def tiles(x: FloatArray, y: FloatArray, size: float, offset: tuple[float, float] = (0.0, 0.0)) -> IntArray:
    """Return the number of the square block of each point; ``offset`` (0 to 1) shifts the blocks by a fraction of their size."""
    column = np.floor((x - x.min()) / size + offset[0]).astype(np.int64)
    row = np.floor((y - y.min()) / size + offset[1]).astype(np.int64)
    return row * (int(column.max()) + 1) + column


def block_bootstrap(
    x: FloatArray, y: FloatArray, a: FloatArray, b: FloatArray, cells: Cells, *, resamples: int, rng: np.random.Generator
) -> BlockScan:
    """Draw blocks with replacement, for a range of block sizes (Künsch 1989, Ann. Stat. 17, 1217; Lahiri 2003).

    Blocks tile the field from a random origin, which is redrawn for each tenth of the resamples.
    """
    columns = np.asfortranarray(moments(a, b))
    largest = np.sqrt(cells.area / _FEWEST_BLOCKS)
    smallest = max(cells.spacing, largest * np.sqrt(_FEWEST_BLOCKS / _MOST_BLOCKS))
    number = max(1, int(np.log(largest / smallest) / np.log(_SIZE_RATIO)) + 1)
    sizes = largest * _SIZE_RATIO ** np.arange(1 - number, 1)
    draws = []
    for size in sizes:
        of_size = []
        for part in np.array_split(np.arange(resamples), min(_OFFSETS, resamples)):
            u, v = rng.random(2)
            sums = block_sums(columns, tiles(x, y, size, (u, v)))
            blocks = len(sums)
            drawn = rng.integers(blocks, size=(len(part), blocks))
            drawn += blocks * np.arange(len(part))[:, None]
            counts = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
            of_size.append(correlation_of(counts @ sums))
        draws.append(np.concatenate(of_size))
    errors = np.array([np.std(_finite(drawn)) for drawn in draws])
    plateau = _plateau(sizes, errors)
    scan = BlockScan(sizes, errors, plateau, draws[-1])
    return BlockScan(sizes, errors, plateau, _finite(draws[scan.chosen]))


def _finite(values: FloatArray) -> FloatArray:
    return values[np.isfinite(values)]


def _plateau(sizes: FloatArray, errors: FloatArray) -> float:
    for i in range(len(sizes) - 2):
        if max(errors[i + 1], errors[i + 2]) < _FLAT * errors[i]:
            return float(sizes[i])
    return np.nan


def jackknife(sums: FloatArray, statistic: Statistic) -> tuple[FloatArray, FloatArray]:
    """Return the statistic and its delete-one-block standard error.

    Parameters
    ----------
    sums : ndarray, shape (blocks, columns)
        Sums over blocks.
    statistic
        Function of sums (columns along the last axis); may return several values along the last axis of (..., values).

    Notes
    -----
    Blocks of different size are weighted as in Busing, Meijer & van der Leeden (1999, Stat. Comput. 9, 3). The error is NaN if the
    statistic is undefined without one of the blocks, which then contains the whole variance of a map.
    """
    total = sums.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        full, left_out = statistic(total), statistic(total - sums)
        share = sums[:, 0] / total[0]
        ratio = (1.0 / share).reshape(-1, *[1] * (left_out.ndim - 1))
        pseudo = ratio * full - (ratio - 1.0) * left_out
        mean = len(sums) * full - np.sum((1.0 - 1.0 / ratio) * left_out, axis=0)
        error = np.sqrt(np.mean((pseudo - mean) ** 2 / (ratio - 1.0), axis=0))
    return full, np.where(np.isfinite(error), error, np.nan)


def jackknife_labels(x: FloatArray, y: FloatArray, cells: Cells) -> IntArray:
    """Return the blocks of the jackknife: about 36 squares over the field."""
    return tiles(x, y, np.sqrt(cells.area / _JACKKNIFE_BLOCKS) * (1.0 + 1e-9))


def enough_groups(groups: IntArray) -> bool:
    """Return whether there are at least five groups, the minimum for an error."""
    return int(groups.max()) + 1 >= _FEWEST_GROUPS


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error; NaN with a reason if it cannot be determined."""

    value: float
    error: float
    reason: str = ""

    def __str__(self) -> str:
        """Return value and error, or the reason."""
        return self.reason if np.isnan(self.value) else rounded(self.value, self.error, plus_minus="±")


@dataclass(frozen=True)
class Corrected:
    """Results corrected for measurement errors.

    Attributes
    ----------
    reliability_a, reliability_b
        Fraction of each map's variance that is not measurement error.
    r
        Correlation of the true maps.
    slope
        Slope of the true b on the true a.
    plain_slope
        Least-squares slope, which is biased low by the errors of a.
    """

    reliability_a: Estimate
    reliability_b: Estimate
    r: Estimate
    slope: Estimate
    plain_slope: Estimate


def correct(
    a: FloatArray,
    b: FloatArray,
    labels: IntArray,
    *,
    a_variance: FloatArray | float,
    b_variance: FloatArray | float,
    a_reliability: float | None = None,
    b_reliability: float | None = None,
    r_err: float = 0.0,
) -> Corrected:
    """Return reliabilities, disattenuated r, and the slope with errors in both variables.

    ``r / sqrt(rel_a rel_b)`` (Spearman 1904, Am. J. Psychol. 15, 72) with ``rel = 1 - <err^2> / var``, and ``cov / (var_a - <err_a^2>)``
    (Fuller 1987, Measurement Error Models, section 1.2; Akritas & Bershady 1996, ApJ 470, 706, for errors that differ from point to point
    and are independent between the maps). Points are not weighted.
    Errors are from the jackknife over blocks, which allows for correlated neighbours.

    Parameters
    ----------
    a, b : ndarray, shape (n,)
        Standardised maps.
    labels : ndarray of int, shape (n,)
        Block of each point.
    a_variance, b_variance
        Squared errors of the points in the units of the standardised maps; 0 for none.
    a_reliability, b_reliability
        Known reliabilities, used instead of the errors.
    r_err
        Standard error of r from elsewhere. If it is larger than that of the jackknife, blocks are not independent, and all errors are
        scaled by the ratio.
    """
    columns = np.column_stack([moments(a, b), np.broadcast_to(a_variance, a.shape), np.broadcast_to(b_variance, b.shape)])

    def statistic(sums: FloatArray) -> FloatArray:
        n = sums[..., 0]
        variance_a, variance_b = (centred_squares(n, sums[..., k], sums[..., k + 2]) / (n - 1) for k in (1, 2))
        covariance = (sums[..., 5] - sums[..., 1] * sums[..., 2] / n) / (n - 1)
        share_a = 1.0 - sums[..., 6] / n / variance_a if a_reliability is None else np.full_like(n, a_reliability)
        share_b = 1.0 - sums[..., 7] / n / variance_b if b_reliability is None else np.full_like(n, b_reliability)
        with np.errstate(invalid="ignore", divide="ignore"):
            r = correlation_of(sums) / np.sqrt(share_a * share_b)
            slope = covariance / (variance_a * share_a)
        return np.stack([share_a, share_b, r, slope, covariance / variance_a, correlation_of(sums)], axis=-1)

    values, errors = jackknife(block_sums(columns, labels), statistic)
    # The scatter of r between blocks is that of rounding if the maps are equal, and cannot be compared with another error.
    if errors[-1] > _ROUNDING:
        errors *= max(1.0, r_err / errors[-1])
    share_a, share_b, r, slope, plain = (
        Estimate(float(v), float(e)) if np.isfinite(e) else Estimate(np.nan, np.nan, ONE_BLOCK)
        for v, e in zip(values[:-1], errors[:-1], strict=True)
    )
    bad = [name for name, share in (("a", share_a), ("b", share_b)) if share.value <= 0.0]
    if bad:
        reason = f"the errors of {' and '.join(bad)} explain all of its variance"
        r = Estimate(np.nan, np.nan, reason)
        if "a" in bad:
            slope = Estimate(np.nan, np.nan, reason)
    return Corrected(share_a, share_b, r, slope, plain)


def split_half_reliability(
    first: ArrayLike, second: ArrayLike, *, x: ArrayLike | None = None, y: ArrayLike | None = None
) -> Estimate:
    """Return the reliability of the mean of two independently measured halves.

    ``2 r / (1 + r)`` with the correlation r of the halves (Spearman 1910; Brown 1910, Br. J. Psychol. 3).

    Parameters
    ----------
    first, second : array_like
        The map from each half of the data (odd and even exposures). Points that are masked or not finite in one are dropped.
    x, y : array_like, optional
        Positions: with them the error is from a jackknife over blocks of the field, else over points.

    Raises
    ------
    CompareError
        If the shapes differ or fewer than 30 points are left.
    """
    try:
        halves = [plain_array(first, name="first").ravel(), plain_array(second, name="second", unit=unit_of(first)).ravel()]
        places = [
            np.zeros(len(halves[0])) if p is None else plain_array(p, name=name, unit=unit_of(x)).ravel()
            for name, p in (("x", x), ("y", y))
        ]
    except InputError as problem:
        raise CompareError(problem.what, remedy=problem.remedy, **problem.data) from problem
    if len({len(column) for column in (*halves, *places)}) > 1:
        raise CompareError("the halves and their positions differ in length", remedy="give both halves at the same points")
    good = np.logical_and.reduce([np.isfinite(column) for column in (*halves, *places)])
    if good.sum() < 30:
        raise CompareError(
            f"only {int(good.sum())} points are finite in both halves", remedy="at least 30 are needed", value=int(good.sum())
        )
    a, b = (half[good] - half[good].mean() for half in halves)
    px, py = (place[good] for place in places)
    if x is None or y is None:
        labels = np.arange(len(a))
    else:
        labels = tiles(px, py, max(np.ptp(px), np.ptp(py)) / np.sqrt(_HALVES_BLOCKS) * (1.0 + 1e-9))

    def statistic(sums: FloatArray) -> FloatArray:
        r = correlation_of(sums)
        return 2.0 * r / (1.0 + r)

    value, error = jackknife(block_sums(moments(a, b), labels), statistic)
    if not value > 0.0:
        return Estimate(np.nan, np.nan, "the halves do not correlate: no signal is detected")
    return Estimate(float(value), float(error))
