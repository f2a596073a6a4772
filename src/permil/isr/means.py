"""Means of rows of a stack: of all measurements; pixels in which an extreme stands out are set aside."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from permil.isr.accumulate import Sums
from permil.isr.rejection import Doubtful, NoiseTest, longer, set_aside
from permil.isr.rooms import Rooms
from permil.isr.rows import Placement, copy_flipped, copy_row
from permil.products.masks import MaskPlane

_SAT = int(MaskPlane.SAT)
_NO_DATA = int(MaskPlane.NO_DATA)
_SUSPECT = int(MaskPlane.SUSPECT)


class Averages(NamedTuple):
    """Results per pixel: mean, its variance, mask, and how many frames were kept and rejected."""

    image: NDArray[np.float32]
    variance: NDArray[np.float32]
    mask: NDArray[np.int32]
    kept: NDArray[np.uint16]
    rejected: NDArray[np.uint8]


class RowMeans(NamedTuple):
    """Room for a row of means on their way, arrays of one shape.

    ``high``, ``second``, ``low``: extremes, 0 for none; ``lowest``, ``lowest_light``: the smallest of them and its q; ``signal``,
    ``light``: sums of d and q; ``doubtful``: whether an extreme stands out; ``image``, ``total``, ``squares``, ``mask``: what goes into
    the result.
    """

    high: NDArray[np.float32]
    second: NDArray[np.float32]
    low: NDArray[np.float32]
    lowest: NDArray[np.float32]
    lowest_light: NDArray[np.float32]
    signal: NDArray[np.float64]
    light: NDArray[np.float64]
    doubtful: NDArray[np.bool_]
    image: NDArray[np.float32]
    total: NDArray[np.float32]
    squares: NDArray[np.float32]
    mask: NDArray[np.int32]


def empty_averages(shape: tuple[int, int], rooms: Rooms) -> Averages:
    """Return averages that are still to be filled; those that a flat needs for long are made in the rooms, others are soon given up."""
    return Averages(
        image=rooms.empty(shape, np.float32),
        variance=rooms.empty(shape, np.float32),
        mask=rooms.empty(shape, np.int32),
        kept=np.empty(shape, dtype=np.uint16),
        rejected=np.empty(shape, dtype=np.uint8),
    )


@njit(cache=True, nogil=True)
def empty_means(n_columns: int) -> RowMeans:
    """Return room for a row."""
    single, double = np.empty((8, n_columns), dtype=np.float32), np.empty((2, n_columns), dtype=np.float64)
    return RowMeans(
        single[0],
        single[1],
        single[2],
        single[3],
        single[4],
        double[0],
        double[1],
        np.empty(n_columns, dtype=np.bool_),
        single[5],
        single[6],
        single[7],
        np.empty(n_columns, dtype=np.int32),
    )


@njit(cache=True, nogil=True, error_model="numpy")
def average_row(
    row: Sums,
    number: int,
    amplifier: int,
    test: NoiseTest,
    place: Placement,
    means: RowMeans,
    out: Averages,
    squares: NDArray[np.float32],
    doubtful: Doubtful,
    n_doubtful: int,
) -> tuple[Doubtful, int]:
    """Average all measurements of a row; what may have to be rejected is set aside.

    Parameters
    ----------
    row
        Sums, one-dimensional.
    number, amplifier
        Of the row in the amplifier, and of that.
    test
        Noise model; no more noise than there is.
    place
        Where rows and columns lie in the result.
    means
        Room for the row.
    out, squares
        Filled, shape of the detector: all but the variance, in whose place the sum of q goes, and chi-square times its denominator.
    doubtful, n_doubtful
        Pixels that are set aside; the room for them is exchanged when it is full.
    """
    _add_extremes(row, means)
    _mean_of_all(row, test, means)
    _mask_of_mean(row, test.n_frames, means)
    y, first, last = place.y_first + place.y_step * number, place.x_min, place.x_min + place.n_columns
    if place.flip_x:
        copy_flipped(means.image, out.image[y, first:last])
        copy_flipped(means.total, out.variance[y, first:last])
        copy_flipped(means.squares, squares[y, first:last])
        copy_flipped(means.mask, out.mask[y, first:last])
        copy_flipped(row.measured, out.kept[y, first:last])
    else:
        copy_row(means.image, out.image[y, first:last])
        copy_row(means.total, out.variance[y, first:last])
        copy_row(means.squares, squares[y, first:last])
        copy_row(means.mask, out.mask[y, first:last])
        copy_row(row.measured, out.kept[y, first:last])
    rejected = out.rejected[y, first:last]
    for column in range(rejected.size):
        rejected[column] = 0
    if np.isfinite(test.threshold) and _find_doubtful(row, test, means):
        for column in range(place.n_columns):
            if means.doubtful[column]:
                if n_doubtful == doubtful.places.shape[0]:
                    doubtful = longer(doubtful)
                x = place.x_min + (place.n_columns - 1 - column if place.flip_x else column)
                set_aside(doubtful, n_doubtful, (amplifier, y, x), row, column)
                n_doubtful += 1
    return doubtful, n_doubtful


@njit(cache=True, nogil=True, error_model="numpy")
def _add_extremes(row: Sums, means: RowMeans) -> None:
    """Add the extremes to the sums."""
    nothing = np.float32(0.0)
    high, second, low, lowest, lowest_light = means.high, means.second, means.low, means.lowest, means.lowest_light
    high_light, second_light, low_light = row.high_light, row.second_light, row.low_light
    inner_signal, inner_light, signal, light = row.signal, row.light, means.signal, means.light
    for column in range(high.size):
        high[column] = row.high[column] if high_light[column] > nothing else nothing
    for column in range(high.size):
        second[column] = row.second[column] if second_light[column] > nothing else nothing
    for column in range(high.size):
        low[column] = row.low[column] if low_light[column] > nothing else nothing
    # Of two measurements the second largest is the smallest.
    for column in range(high.size):
        lowest[column] = low[column] if low_light[column] > nothing else second[column]
    for column in range(high.size):
        lowest_light[column] = low_light[column] if low_light[column] > nothing else second_light[column]
    for column in range(high.size):
        signal[column] = (
            inner_signal[column]
            + np.float64(high[column]) * np.float64(high_light[column])
            + np.float64(second[column]) * np.float64(second_light[column])
            + np.float64(low[column]) * np.float64(low_light[column])
        )
    for column in range(high.size):
        light[column] = np.float64(inner_light[column]) + high_light[column] + second_light[column] + low_light[column]


@njit(cache=True, nogil=True, error_model="numpy")
def _mean_of_all(row: Sums, test: NoiseTest, means: RowMeans) -> None:
    """Take the mean of all measurements: what `average_tested` returns when nothing is rejected, bit by bit."""
    high, second, low = means.high, means.second, means.low
    high_light, second_light, low_light = row.high_light, row.second_light, row.low_light
    inner_signal, inner_light, signal, total = row.signal, row.light, means.signal, means.light
    for column in range(high.size):
        light = np.float64(inner_light[column])
        centre = inner_signal[column] / light if light > 0 else np.float64(high[column])
        above, next_above, below = high[column] - centre, second[column] - centre, low[column] - centre
        above_light, next_light = np.float64(high_light[column]), np.float64(second_light[column])
        below_light = np.float64(low_light[column])
        moment = above_light * above + next_light * next_above + below_light * below
        squares = above_light * above * above + next_light * next_above * next_above + below_light * below * below
        squares = np.float64(row.squares[column]) + (squares - moment * moment / total[column])
        means.squares[column] = test.mean_light * (squares if squares > 0 else 0.0)
    for column in range(high.size):
        means.image[column] = signal[column] / total[column] * test.mean_light
    for column in range(high.size):
        means.total[column] = total[column]


@njit(cache=True, nogil=True, error_model="numpy")
def _find_doubtful(row: Sums, test: NoiseTest, means: RowMeans) -> bool:
    """Find pixels of which an extreme is rejected; return whether there is any."""
    noise, photon, limit = test.noise_variance, test.photon_variance, test.threshold * test.threshold
    signal, total, doubtful, measured = means.signal, means.light, means.doubtful, row.measured
    for column in range(signal.size):
        doubtful[column] = False
    for extreme, extreme_light in ((means.high, row.high_light), (means.lowest, means.lowest_light)):
        for column in range(signal.size):
            sample, weight = np.float64(extreme[column]), np.float64(extreme_light[column])
            own, rest = 1 / weight, 1 / (total[column] - weight)
            others = (signal[column] - sample * weight) * rest
            photons = photon * (max(0.0, others))
            spread = photons * (own + rest) + noise * (own * own + (np.float64(measured[column]) - 1) * rest * rest)
            doubtful[column] |= (sample - others) * (sample - others) > limit * spread
    found = np.int32(0)
    for column in range(signal.size):
        doubtful[column] &= measured[column] > 1
    for column in range(signal.size):
        found += np.int32(doubtful[column])
    return bool(found > 0)


@njit(cache=True, nogil=True)
def _mask_of_mean(row: Sums, n_frames: int, means: RowMeans) -> None:
    """Take the mask of the mean: no data, or saturated in part of the frames."""
    for column in range(means.mask.size):
        planes, measured = np.int32(row.planes[column]), np.int32(row.measured[column])
        some = planes & ~_NO_DATA
        # A cosmic ray, or light at the limit where what is left is the faint half of the frames.
        few = (planes & _SAT != 0) & (2 * measured > n_frames)
        some = (some & ~_SAT) | _SUSPECT if few else some
        means.mask[column] = some if measured > 0 else planes | _NO_DATA
