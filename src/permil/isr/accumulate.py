"""Streaming sums of a stack, pixel by pixel.

Of each pixel the two largest and the smallest measurement are kept by themselves, with the light of their frame; everything
between goes into weighted sums (West 1979, Comm. ACM 22, 532). So an outlier never enters a sum, and what is kept does not grow
with the number of frames.

With ``q`` the relative light of a frame and ``d`` its signal, ``x = d / q`` is what is compared and ``q`` its weight.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from permil.borrowed import borrowed
from permil.products.masks import MaskPlane

MOST_FRAMES = 65535
LEFT_OUT = int(MaskPlane.SAT | MaskPlane.NO_DATA)
"""Planes of what is in no sum."""
_LEAST = np.float32(-np.inf)


class Sums(NamedTuple):
    """Arrays of one shape (44 bytes per pixel).

    ``signal``, ``light``, ``squares``: sums of d, q and q (x - mean)^2 over the frames between the extremes; ``high``,
    ``second``, ``low``: extremes x; ``high_light``, ``second_light``, ``low_light``: q of the frames they come from, 0 where there is
    none; ``measured``: how many frames have a measurement; ``planes``: union of the masks.
    """

    signal: NDArray[np.float64]
    light: NDArray[np.float32]
    squares: NDArray[np.float32]
    high: NDArray[np.float32]
    second: NDArray[np.float32]
    low: NDArray[np.float32]
    high_light: NDArray[np.float32]
    second_light: NDArray[np.float32]
    low_light: NDArray[np.float32]
    measured: NDArray[np.uint16]
    planes: NDArray[np.int16]


def empty_sums(shape: tuple[int, ...]) -> Sums:
    """Return sums over no frame."""
    kinds = (np.float64, *[np.float32] * 8, np.uint16, np.int16)
    sums = Sums._make(np.zeros(shape, dtype=kind) for kind in kinds)
    for array in (sums.high, sums.second):
        array.fill(-np.inf)
    sums.low.fill(np.inf)
    return sums


@njit(cache=True, nogil=True)
def empty_rows(n_rows: int, n_columns: int) -> Sums:
    """Return room for rows of sums."""
    shape = n_rows, n_columns
    single = np.empty((8, n_rows, n_columns), dtype=np.float32)
    return Sums(
        np.empty(shape, dtype=np.float64),
        single[0],
        single[1],
        single[2],
        single[3],
        single[4],
        single[5],
        single[6],
        single[7],
        np.empty(shape, dtype=np.uint16),
        np.empty(shape, dtype=np.int16),
    )


class Alike(NamedTuple):
    """What all pixels of a row have in common as long as it is the same, by row: then it is not in the sums.

    ``is_so``: whether it is; ``light``: sum of q; ``frames``: how many have been added.
    """

    is_so: NDArray[np.bool_]
    light: NDArray[np.float32]
    frames: NDArray[np.uint16]


def empty_alike(n_rows: int) -> Alike:
    """Return room for rows."""
    return Alike(np.empty(n_rows, dtype=np.bool_), np.empty(n_rows, dtype=np.float32), np.empty(n_rows, dtype=np.uint16))


@njit(cache=True, nogil=True)
def clear_row(row: Sums) -> None:
    """Make one-dimensional sums those over no frame."""
    row.signal[:] = 0.0
    for array in (row.light, row.squares, row.high_light, row.second_light, row.low_light):
        array[:] = 0.0
    row.high[:] = -np.inf
    row.second[:] = -np.inf
    row.low[:] = np.inf
    row.measured[:] = 0
    row.planes[:] = 0


def relative_light(light: ArrayLike) -> NDArray[np.float32]:
    """Return q of the frames: their light relative to that of the first, as the sums keep it."""
    amounts = np.asarray(light, dtype=np.float64)
    return (amounts / amounts[0]).astype(np.float32)


# To hand back eleven arrays takes as long as half of the sums of a row: so it is done in the function that asks.
@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def row_of(sums: Sums, row: int, first: int, last: int) -> Sums:
    """Return the sums of columns ``first`` to ``last - 1`` of a row of two-dimensional sums."""
    return Sums(
        sums.signal[row, first:last],
        sums.light[row, first:last],
        sums.squares[row, first:last],
        sums.high[row, first:last],
        sums.second[row, first:last],
        sums.low[row, first:last],
        sums.high_light[row, first:last],
        sums.second_light[row, first:last],
        sums.low_light[row, first:last],
        sums.measured[row, first:last],
        sums.planes[row, first:last],
    )


class Falling(NamedTuple):
    """Room for a row of measurements on their way: ``sample`` x, ``light`` q (0 for nothing), ``rank`` among the largest."""

    sample: NDArray[np.float32]
    light: NDArray[np.float32]
    rank: NDArray[np.float32]


@njit(cache=True, nogil=True)
def empty_falling(n_columns: int) -> Falling:
    """Return room for a row."""
    empty = np.empty((3, n_columns), dtype=np.float32)
    return Falling(empty[0], empty[1], empty[2])


@njit(cache=True, nogil=True, error_model="numpy")
def add_row(
    sums: Sums, signal: NDArray[np.float32], mask: NDArray[np.int16], light: np.float32, extremes: bool, falling: Falling
) -> None:
    """Add a row of a frame; all arrays are one-dimensional.

    There are no branches in the loops, only choices, since it cannot be foreseen which measurement is an extreme; and few arrays in
    each, since the compiler gives up on making vectors where too many of them might overlap.

    Parameters
    ----------
    signal, mask
        Of the frame.
    light
        Its q.
    extremes
        Whether the extremes are kept by themselves; needed for rejection.
    falling
        Room for what falls between the extremes.
    """
    scale, nothing = np.float32(1.0) / light, np.float32(0.0)
    inner, inner_light = falling.sample, falling.light
    for pixel in range(signal.size):
        sample = signal[pixel] * scale
        usable = (mask[pixel] & LEFT_OUT == 0) & (sample == sample)
        inner[pixel] = sample if usable else nothing
        inner_light[pixel] = light if usable else nothing
    for pixel in range(signal.size):
        sums.measured[pixel] += np.uint16(inner_light[pixel] > nothing)
    for pixel in range(signal.size):
        sums.planes[pixel] |= mask[pixel]
    if extremes:
        _exchange_high(sums, falling)
        _exchange_low(sums, inner, inner_light)
    # What lies between the extremes is added with weight q: West's update, with x - S / Q as (x Q - S) / Q, so that only one
    # division is left.
    squares, total, amount = sums.squares, sums.signal, sums.light
    for pixel in range(signal.size):
        sample, weight, before = inner[pixel], inner_light[pixel], amount[pixel]
        deviation = np.float32(np.float64(sample) * np.float64(before) - total[pixel])
        added = deviation * deviation * (weight / (before * (before + weight)))
        squares[pixel] += added if (before > nothing) & (weight > nothing) else nothing
    for pixel in range(signal.size):
        total[pixel] += np.float64(inner[pixel]) * np.float64(inner_light[pixel])
    for pixel in range(signal.size):
        amount[pixel] += inner_light[pixel]


@njit(cache=True, nogil=True, error_model="numpy")
def add_even_row(
    total: NDArray[np.float64], squares: NDArray[np.float32], before: np.float32, signal: NDArray[np.float32], light: np.float32
) -> None:
    """Add a row of which all pixels are measured to a row that is alike, with the bits that `add_row` makes.

    Parameters
    ----------
    total, squares
        ``signal`` and ``squares`` of the sums, one-dimensional (to hand on all sums would take as long as the work).
    before
        Sum of q so far.
    signal, light
        Of the frame, see `add_row`.
    """
    scale = np.float32(1.0) / light
    if before > np.float32(0.0):
        factor, frames_before = light / (before * (before + light)), np.float64(before)
        for pixel in range(signal.size):
            deviation = np.float32(np.float64(signal[pixel] * scale) * frames_before - total[pixel])
            squares[pixel] += deviation * deviation * factor
    weight = np.float64(light)
    for pixel in range(signal.size):
        total[pixel] += np.float64(signal[pixel] * scale) * weight


@njit(cache=True, nogil=True)
def end_alike(sums: Sums, alike: Alike, row: int) -> None:
    """Put into the sums of a row what its pixels have in common, so that from here on each may have its own."""
    light, frames = alike.light[row], alike.frames[row]
    for pixel in range(sums.light.size):
        sums.light[pixel] = light
    for pixel in range(sums.measured.size):
        sums.measured[pixel] = frames
    alike.is_so[row] = False


@njit(cache=True, nogil=True, error_model="numpy")
def _exchange_high(sums: Sums, falling: Falling) -> None:
    """Put measurements among the two largest; what they displace, or they themselves, falls on."""
    high, second, high_light, second_light = sums.high, sums.second, sums.high_light, sums.second_light
    inner, inner_light, rank = falling.sample, falling.light, falling.rank
    for pixel in range(inner.size):
        inner[pixel] = inner[pixel] if inner_light[pixel] > np.float32(0.0) else _LEAST
    # The rank is a number like the others: with small integers LLVM 22 made wrong code of the choices.
    for pixel in range(inner.size):
        above = np.float32(1.0) if inner[pixel] > second[pixel] else np.float32(0.0)
        rank[pixel] = np.float32(2.0) if inner[pixel] > high[pixel] else above
    for pixel in range(inner.size):
        place, weight, largest_light, larger_light = rank[pixel], inner_light[pixel], high_light[pixel], second_light[pixel]
        second_or_own = weight if place > np.float32(0.5) else larger_light
        high_light[pixel] = weight if place > np.float32(1.5) else largest_light
        second_light[pixel] = largest_light if place > np.float32(1.5) else second_or_own
        inner_light[pixel] = larger_light if place > np.float32(0.5) else weight
    for pixel in range(inner.size):
        sample, largest, larger = inner[pixel], high[pixel], second[pixel]
        high[pixel] = max(largest, sample)
        second[pixel] = largest if sample > largest else (max(larger, sample))
        inner[pixel] = min(sample, larger)


@njit(cache=True, nogil=True, error_model="numpy")
def _exchange_low(sums: Sums, inner: NDArray[np.float32], inner_light: NDArray[np.float32]) -> None:
    """Put measurements among the smallest; what they displace, or they themselves, stays in ``inner``."""
    low, low_light = sums.low, sums.low_light
    nothing = np.float32(0.0)
    for pixel in range(inner.size):
        sample, weight, smallest, smallest_light = inner[pixel], inner_light[pixel], low[pixel], low_light[pixel]
        below = (sample < smallest) & (weight > nothing)
        low[pixel] = sample if below else smallest
        low_light[pixel] = weight if below else smallest_light
        weight = smallest_light if below else weight
        inner[pixel] = (smallest if below else sample) if weight > nothing else nothing
        inner_light[pixel] = weight


@njit(cache=True, nogil=True, error_model="numpy")
def add_frame(sums: Sums, image: NDArray[np.float32], mask: NDArray[np.int16], light: np.float32, extremes: bool) -> None:
    """Add a frame with q = ``light``; sums, image and mask have the same shape (ny, nx)."""
    sums, image, mask = borrowed((sums, image, mask))
    n_rows, n_columns = image.shape
    falling = empty_falling(n_columns)
    for row in range(n_rows):
        add_row(row_of(sums, row, 0, n_columns), image[row], mask[row], light, extremes, falling)
