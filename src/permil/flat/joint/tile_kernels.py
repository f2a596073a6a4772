"""Compiled loops over the rows of a tile of super-pixels."""

from __future__ import annotations

import numpy as np
from numba import njit

from permil.flat.joint.kernels import evaluate, fill_smooth
from permil.flat.joint.spline import cubic_weights


@njit(cache=True, nogil=True)
def mark_windows(bounds, centres, counts, places, further, lit, windows, marked):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Find the B-splines on which a tile of super-pixels depends in each exposure that is lit, and mark all its unknowns.

    Parameters
    ----------
    bounds : ndarray, shape (4,)
        Least and largest ``x``, least and largest ``y`` of the tile.
    windows : ndarray of int, shape (e, patterns, 4)
        First B-spline along the first axis and how many, the same along the second. Not touched where an exposure is not lit.
    marked : ndarray of bool, shape (unknowns,)
    """
    for exposure in range(centres.shape[0]):
        if not lit[exposure]:
            continue
        for column in further[exposure]:
            marked[column] = True
        for pattern in range(counts.shape[0]):
            for axis in range(2):
                moved = places[pattern, 3] * centres[exposure, axis] - places[pattern, axis]
                low, _, _ = cubic_weights((bounds[2 * axis] + moved) / places[pattern, 2], counts[pattern, axis])
                high, _, _ = cubic_weights((bounds[2 * axis + 1] + moved) / places[pattern, 2], counts[pattern, axis])
                windows[exposure, pattern, 2 * axis] = low
                windows[exposure, pattern, 2 * axis + 1] = high + 4 - low
            low_x, number_x, low_y, number_y = windows[exposure, pattern]
            for i in range(low_x, low_x + number_x):
                start = counts[pattern, 2] + i * counts[pattern, 1] + low_y
                marked[start : start + number_y] = True


@njit(cache=True, nogil=True)
def sum_tile(  # type: ignore[no-untyped-def]  # pragma: no cover  compiled
    x, y, weights, centres, counts, places, vector, further, parts, frames, windows, positions, sums, moments, blocks
):
    """Sum the rows of a tile of super-pixels.

    Parameters
    ----------
    windows
        See `mark_windows`; exposures with empty ones are not lit.
    positions : ndarray of int, shape (unknowns,)
        Column of ``sums`` of each unknown.
    sums : ndarray, shape (p, columns)
        Sum of ``w x`` of each super-pixel is added.
    moments : ndarray, shape (p,)
        Sum of ``w`` of each super-pixel is added.
    blocks : ndarray, shape (e, s, s)
        Sum of ``w x x'`` of each exposure is added, its upper triangle: B-splines of the windows in turn, then unknowns that
        stand for all others: a change of the logarithm, shifts of the projector along both axes, patterns of weather. Nothing if it is
        empty.
    """
    patterns = counts.shape[0]
    first, along_x, along_y = np.empty((patterns, 2), dtype=np.int64), np.empty((patterns, 4)), np.empty((patterns, 4))
    inside = np.empty(patterns, dtype=np.int64)
    smooth = np.zeros(parts.shape[2] - 3)
    for exposure in range(centres.shape[0]):
        if windows[exposure, 0, 1] == 0:
            continue
        for pixel in range(x.size):
            weight = weights[exposure, pixel]
            if weight <= 0.0:
                continue
            slope_x, slope_y = evaluate(x[pixel], y[pixel], centres[exposure], counts, places, vector, first, along_x, along_y)
            fill_smooth(x[pixel], y[pixel], frames[exposure], smooth)
            moments[pixel] += weight
            size = 0
            for pattern in range(patterns):
                window = windows[exposure, pattern]
                inside[pattern] = size + (first[pattern, 0] - window[0]) * window[3] + first[pattern, 1] - window[2]
                size += window[1] * window[3]
                y_0, y_1, y_2, y_3 = along_y[pattern]
                for i in range(4):
                    start = positions[counts[pattern, 2] + (first[pattern, 0] + i) * counts[pattern, 1] + first[pattern, 1]]
                    part = weight * along_x[pattern, i]
                    sums[pixel, start] += part * y_0
                    sums[pixel, start + 1] += part * y_1
                    sums[pixel, start + 2] += part * y_2
                    sums[pixel, start + 3] += part * y_3
            for number in range(further.shape[1]):
                of = parts[exposure, number]
                derivative = of[0] + of[1] * slope_x + of[2] * slope_y
                for k in range(smooth.size):
                    derivative += of[3 + k] * smooth[k]
                sums[pixel, positions[further[exposure, number]]] += weight * derivative
            if blocks.shape[0]:
                _add_products(
                    blocks[exposure], weight, slope_x, slope_y, smooth, windows[exposure], inside, size, along_x, along_y
                )


@njit(cache=True, inline="always")
def _add_products(  # type: ignore[no-untyped-def]  # pragma: no cover
    block, weight, slope_x, slope_y, smooth, windows, inside, size, along_x, along_y
):
    """Add the products of the derivatives of one logarithm."""
    for one in range(inside.size):
        for i in range(4):
            for j in range(4):
                row = block[inside[one] + i * windows[one, 3] + j]
                value = weight * along_x[one, i] * along_y[one, j]
                for two in range(one, inside.size):
                    y_0, y_1, y_2, y_3 = along_y[two]
                    for k in range(i if two == one else 0, 4):
                        start = inside[two] + k * windows[two, 3]
                        part = value * along_x[two, k]
                        row[start] += part * y_0
                        row[start + 1] += part * y_1
                        row[start + 2] += part * y_2
                        row[start + 3] += part * y_3
                row[size] += value
                row[size + 1] += value * slope_x
                row[size + 2] += value * slope_y
                for k in range(smooth.size):
                    row[size + 3 + k] += value * smooth[k]
    block[size, size] += weight
    block[size, size + 1] += weight * slope_x
    block[size, size + 2] += weight * slope_y
    block[size + 1, size + 1] += weight * slope_x * slope_x
    block[size + 1, size + 2] += weight * slope_x * slope_y
    block[size + 2, size + 2] += weight * slope_y * slope_y
    for k in range(smooth.size):
        part = weight * smooth[k]
        block[size, size + 3 + k] += part
        block[size + 1, size + 3 + k] += part * slope_x
        block[size + 2, size + 3 + k] += part * slope_y
        for m in range(k, smooth.size):
            block[size + 3 + k, size + 3 + m] += part * smooth[m]


@njit(cache=True, nogil=True)
def add_blocks(matrix, blocks, windows, counts, further, parts, low, high):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Add the blocks of a tile (`sum_tile`) to the upper triangle of a matrix of the unknowns, in its rows from low to high."""
    for exposure in range(blocks.shape[0]):
        if windows[exposure, 0, 1] == 0:
            continue
        block, of, others = blocks[exposure], parts[exposure], further[exposure]
        size = 0
        for pattern in range(counts.shape[0]):
            size += windows[exposure, pattern, 1] * windows[exposure, pattern, 3]
        inside = 0
        for one in range(counts.shape[0]):
            low_x, number_x, low_y, number_y = windows[exposure, one]
            for place in range(number_x * number_y):
                i, j = place // number_y, place % number_y
                row = counts[one, 2] + (low_x + i) * counts[one, 1] + low_y + j
                if low <= row < high:
                    values = block[inside + place]
                    _add_splines(matrix[row], values, windows[exposure], counts, one, inside, i, j)
                    for number in range(others.size):
                        total = of[number, 0] * values[size] + of[number, 1] * values[size + 1] + of[number, 2] * values[size + 2]
                        for k in range(3, of.shape[1]):
                            total += of[number, k] * values[size + k]
                        matrix[row, others[number]] += total
            inside += number_x * number_y
        corner = block[size : size + of.shape[1], size : size + of.shape[1]]
        for one in range(others.size):
            if low <= others[one] < high:
                for two in range(one, others.size):
                    matrix[others[one], others[two]] += _product(of[one], of[two], corner)


@njit(cache=True, inline="always")
def _product(one, two, corner):  # type: ignore[no-untyped-def]  # pragma: no cover  compiled
    """Return the product of two vectors with a symmetric matrix, of which the upper triangle is given, between."""
    total = 0.0
    for k in range(one.size):
        for m in range(one.size):
            total += one[k] * two[m] * corner[min(k, m), max(k, m)]
    return total


@njit(cache=True, inline="always")
def _add_splines(row, values, windows, counts, pattern, inside, i, j):  # type: ignore[no-untyped-def]  # pragma: no cover  compiled
    """Add the products of B-spline (i, j) in the window of a pattern with those that follow it to its row of the matrix."""
    for other in range(pattern, counts.shape[0]):
        low_x, number_x, low_y, number_y = windows[other]
        for k in range(i if other == pattern else 0, number_x):
            start = counts[other, 2] + (low_x + k) * counts[other, 1] + low_y
            for m in range(j if other == pattern and k == i else 0, number_y):
                row[start + m] += values[inside + k * number_y + m]
        inside += number_x * number_y
