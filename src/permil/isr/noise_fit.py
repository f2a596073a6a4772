"""How well the noise model describes the scatter of the frames of a stack, and the variance of the mean."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from permil.borrowed import borrowed
from permil.isr.means import Averages
from permil.isr.rejection import NoiseTest
from permil.isr.rows import Placement
from permil.products.masks import MaskPlane

_REJECTED = int(MaskPlane.REJECTED)
_SUSPECT = int(MaskPlane.SUSPECT)


class RowFit(NamedTuple):
    """Per row of an amplifier: chi-square of the frames about their mean, and its degrees of freedom, over unflagged pixels."""

    chi_square: NDArray[np.float64]
    freedom: NDArray[np.int64]

    @classmethod
    def empty(cls, n_rows: int) -> RowFit:
        """Return the fit of no pixel."""
        return cls(np.zeros(n_rows), np.zeros(n_rows, dtype=np.int64))

    @property
    def reduced(self) -> float:
        """Reduced chi-square; NaN when there is none."""
        freedom = int(self.freedom.sum())
        return float(self.chi_square.sum() / freedom) if freedom else float("nan")


@njit(cache=True, nogil=True, error_model="numpy")
def finish_rows(
    rows: NDArray[np.int64], test: NoiseTest, place: Placement, squares: NDArray[np.float32], out: Averages, fit: RowFit
) -> None:
    """Add what the noise tells to rows of an amplifier: variance, and whether the frames scatter as they should.

    Parameters
    ----------
    rows
        Which rows of the amplifier.
    test
        Noise model.
    place
        Where they lie in the result.
    squares
        See `average_row`.
    out, fit
        Completed.
    """
    squares, out = borrowed((squares, out))
    limits = _chi_square_limits(test.n_frames, test.threshold)
    noise, photon, mean_light = test.noise_variance, test.photon_variance, test.mean_light
    n_columns, first, last = place.n_columns, place.x_min, place.x_min + place.n_columns
    expected, chi_square = np.empty(n_columns), np.empty(n_columns)
    freedom, unusual = np.empty(n_columns, dtype=np.int32), np.empty(n_columns, dtype=np.bool_)
    for number in rows:
        y = place.y_first + place.y_step * number
        image, variance, row_squares = out.image[y, first:last], out.variance[y, first:last], squares[y, first:last]
        kept, mask = out.kept[y, first:last], out.mask[y, first:last]
        for column in range(n_columns):
            electrons, ratio = np.float64(image[column]), mean_light / np.float64(variance[column])
            expected[column] = photon * (electrons if electrons > 0 else 0.0) + noise * np.float64(kept[column]) * ratio
        for column in range(n_columns):
            chi_square[column] = np.float64(row_squares[column]) / expected[column]
        for column in range(n_columns):
            variance[column] = mean_light / np.float64(variance[column]) * expected[column]
        for column in range(n_columns):
            freedom[column] = np.int32(kept[column]) - 1 if (kept[column] > 0) & (expected[column] > 0) else 0
        _flag_suspect(chi_square, freedom, limits, unusual, mask)
        for column in range(n_columns):
            freedom[column] = freedom[column] if mask[column] & ~_REJECTED == 0 else 0
        for column in range(n_columns):
            chi_square[column] = chi_square[column] if freedom[column] > 0 else 0.0
        fit.chi_square[number] = _total(chi_square)
        all_freedom = 0
        for column in range(n_columns):
            all_freedom += freedom[column]
        fit.freedom[number] = all_freedom


@njit(cache=True, nogil=True)
def _flag_suspect(
    chi_square: NDArray[np.float64],
    freedom: NDArray[np.int32],
    limits: NDArray[np.float64],
    unusual: NDArray[np.bool_],
    mask: NDArray[np.int32],
) -> None:
    """Flag pixels of a row that scatter more than the limit for their degrees of freedom."""
    most = np.int32(limits.size - 1)
    limit = limits[most]
    for column in range(mask.size):
        unusual[column] = (freedom[column] != most) | (chi_square[column] > limit)
    found = np.int32(0)
    for column in range(mask.size):
        found += np.int32(unusual[column])
    if found > 0:
        for column in range(mask.size):
            if unusual[column] and freedom[column] > 0 and chi_square[column] > limits[freedom[column]]:
                mask[column] |= _SUSPECT


@njit(cache=True, nogil=True, fastmath={"reassoc"})
def _total(addends: NDArray[np.float64]) -> float:
    """Return a sum."""
    total = 0.0
    for addend in addends:
        total += addend
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _chi_square_limits(n_frames: int, threshold: float) -> NDArray[np.float64]:
    """Return the chi-square that is exceeded with the probability of `threshold` sigma, for up to n_frames - 1 degrees of freedom.

    Wilson & Hilferty (1931): the cube root of chi-square is nearly normal.
    """
    limits = np.full(n_frames, np.inf)
    for freedom in range(1, n_frames):
        narrow = 2.0 / (9.0 * freedom)
        limits[freedom] = freedom * (1.0 - narrow + threshold * np.sqrt(narrow)) ** 3
    return limits
