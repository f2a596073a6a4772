"""Resampling of whole blocks of the field: bootstrap with a scan of the block size, and delete-block and delete-group jackknife.

All statistics are functions of sums over blocks, so that the cost of a resample is proportional to the number of blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.compare.correlation.cells import Cells

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
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
    there: NDArray[np.bool_] = np.bincount(labels, minlength=number) > 0
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
    columns = moments(a, b)
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
            drawn = rng.integers(blocks, size=(len(part), blocks)) + blocks * np.arange(len(part))[:, None]
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
