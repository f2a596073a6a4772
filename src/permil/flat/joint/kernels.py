"""Compiled loops of the joint solution over exposures and super-pixels."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from permil.flat.joint.spline import cubic_weights

_REWEIGHTINGS = 8


@njit(cache=True, nogil=True)
def predict(x, y, centres, scales, counts, places, vector):  # type: ignore[no-untyped-def]  # pragma: no cover  compiled
    """Return ``log d - f`` of each exposure and super-pixel, shape (e, p), for a vector of unknowns."""
    result = np.empty((centres.shape[0], x.size))
    for exposure in range(centres.shape[0]):
        for pixel in range(x.size):
            total = scales[exposure]
            for pattern in range(counts.shape[0]):
                spacing, sign = places[pattern, 2], places[pattern, 3]
                at_x = (x[pixel] + sign * centres[exposure, 0] - places[pattern, 0]) / spacing
                at_y = (y[pixel] + sign * centres[exposure, 1] - places[pattern, 1]) / spacing
                first_x, weights_x, _ = cubic_weights(at_x, counts[pattern, 0])
                first_y, weights_y, _ = cubic_weights(at_y, counts[pattern, 1])
                for i in range(4):
                    start = counts[pattern, 2] + (first_x + i) * counts[pattern, 1] + first_y
                    for j in range(4):
                        total += weights_x[i] * weights_y[j] * vector[start + j]
            result[exposure, pixel] = total
    return result


@njit(cache=True, nogil=True)
def profile_response(difference, weights, threshold):  # type: ignore[no-untyped-def]  # pragma: no cover  compiled
    """Solve for the response of each super-pixel and the robust weights; the difference becomes the residual.

    Minimises the sum of Huber's function (Huber 1964) of ``sqrt(w) (difference - f)`` by reweighting.

    Parameters
    ----------
    difference : ndarray, shape (e, p)
        ``log d`` minus all but the response; where the weight is 0 it may be NaN. Overwritten.
    weights : ndarray, shape (e, p)
        Inverse variances. Overwritten with the robust ones.
    threshold : float
        In standard deviations, infinite for least squares.

    Returns
    -------
    response : ndarray, shape (p,)
        NaN where there is no weight.
    objective : float
        Twice the minimum: the sum of squares where nothing is beyond the threshold.
    """
    exposures, pixels = difference.shape
    response = np.empty(pixels)
    objective = 0.0
    for pixel in range(pixels):
        level, before = 0.0, np.inf
        for attempt in range(_REWEIGHTINGS if threshold < np.inf else 1):
            total, moment = 0.0, 0.0
            for exposure in range(exposures):
                weight = weights[exposure, pixel]
                if weight > 0.0:
                    if attempt > 0:
                        deviation = abs(difference[exposure, pixel] - level) * math.sqrt(weight)
                        if deviation > threshold:
                            weight *= threshold / deviation
                    total += weight
                    moment += weight * difference[exposure, pixel]
            if total == 0.0:
                level = np.nan
                break
            level = moment / total
            if abs(level - before) < 1e-12:
                break
            before = level
        response[pixel] = level
        for exposure in range(exposures):
            weight = weights[exposure, pixel]
            if weight > 0.0:
                residual = difference[exposure, pixel] - level
                deviation = abs(residual) * math.sqrt(weight)
                if deviation > threshold:
                    weights[exposure, pixel] = weight * threshold / deviation
                    objective += threshold * (2.0 * deviation - threshold)
                else:
                    objective += deviation * deviation
                difference[exposure, pixel] = residual
            else:
                difference[exposure, pixel] = 0.0
    return response, objective


@njit(cache=True, nogil=True)
def mark_columns(x, y, centres, counts, places, further, lit, marked):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Mark the unknowns on which a tile of super-pixels depends in the exposures that are lit."""
    for exposure in range(centres.shape[0]):
        if not lit[exposure]:
            continue
        for column in further[exposure]:
            marked[column] = True
        for pattern in range(counts.shape[0]):
            low_x, high_x, low_y, high_y = _window(x, y, centres[exposure], counts[pattern], places[pattern])
            for i in range(low_x, high_x):
                start = counts[pattern, 2] + i * counts[pattern, 1]
                for j in range(low_y, high_y):
                    marked[start + j] = True


@njit(cache=True, inline="always")
def _window(x, y, centre, counts, places):  # type: ignore[no-untyped-def]  # pragma: no cover  compiled
    """Return the first and one beyond the last B-spline along both axes that a tile depends on."""
    spacing, sign = places[2], places[3]
    first_x = (x.min() + sign * centre[0] - places[0]) / spacing
    last_x = (x.max() + sign * centre[0] - places[0]) / spacing
    first_y = (y.min() + sign * centre[1] - places[1]) / spacing
    last_y = (y.max() + sign * centre[1] - places[1]) / spacing
    low_x, _, _ = cubic_weights(first_x, counts[0])
    high_x, _, _ = cubic_weights(last_x, counts[0])
    low_y, _, _ = cubic_weights(first_y, counts[1])
    high_y, _, _ = cubic_weights(last_y, counts[1])
    return low_x, high_x + 4, low_y, high_y + 4


@njit(cache=True, nogil=True)
def _tile_columns(x, y, centre, counts, places, further, lows):  # type: ignore[no-untyped-def]  # pragma: no cover  compiled
    """Return the unknowns of a tile in one exposure, rising, and how many belong to patterns; ``lows`` says where they start.

    Each row of ``lows`` is filled with the first B-spline along both axes, their number along the second, and the place in the list.
    """
    size = 0
    for pattern in range(counts.shape[0]):
        low_x, high_x, low_y, high_y = _window(x, y, centre, counts[pattern], places[pattern])
        lows[pattern] = (low_x, low_y, high_y - low_y, size)
        size += (high_x - low_x) * (high_y - low_y)
    columns = np.empty(size + further.size, dtype=np.int64)
    for pattern in range(counts.shape[0]):
        low_x, low_y, width, first = lows[pattern]
        last = lows[pattern + 1, 3] if pattern + 1 < counts.shape[0] else size
        for number in range(last - first):
            row, column = low_x + number // width, low_y + number % width
            columns[first + number] = counts[pattern, 2] + row * counts[pattern, 1] + column
    columns[size:] = further
    return columns, size


@njit(cache=True, inline="always")
def _row(x, y, centre, counts, places, vector, lows, parts, size, entry_values, local):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Fill the derivatives of one logarithm with respect to its unknowns, and their places in the list of the tile."""
    slope_x, slope_y, entry = 0.0, 0.0, 0
    for pattern in range(counts.shape[0]):
        spacing, sign = places[pattern, 2], places[pattern, 3]
        first_x, weights_x, slopes_x = cubic_weights((x + sign * centre[0] - places[pattern, 0]) / spacing, counts[pattern, 0])
        first_y, weights_y, slopes_y = cubic_weights((y + sign * centre[1] - places[pattern, 1]) / spacing, counts[pattern, 1])
        for i in range(4):
            start = counts[pattern, 2] + (first_x + i) * counts[pattern, 1] + first_y
            inside = lows[pattern, 3] + (first_x + i - lows[pattern, 0]) * lows[pattern, 2] + first_y - lows[pattern, 1]
            for j in range(4):
                entry_values[entry] = weights_x[i] * weights_y[j]
                local[entry] = inside + j
                slope_x += slopes_x[i] * weights_y[j] * vector[start + j] * sign / spacing
                slope_y += weights_x[i] * slopes_y[j] * vector[start + j] * sign / spacing
                entry += 1
    for number in range(parts.shape[0]):
        entry_values[entry] = parts[number, 0] + parts[number, 1] * slope_x + parts[number, 2] * slope_y
        local[entry] = size + number
        entry += 1


@njit(cache=True, nogil=True)
def add_tile(  # type: ignore[no-untyped-def]  # pragma: no cover  compiled
    x, y, residual, weights, centres, counts, places, vector, further, parts, positions, normal, gradient, sums, moments
):
    """Add the rows of a tile of super-pixels to the normal equations as if the response were known.

    Parameters
    ----------
    positions : ndarray of int, shape (unknowns,)
        Column of ``sums`` of each unknown.
    normal : ndarray, shape (unknowns, unknowns)
        Upper triangle is added to; not touched if it is empty.
    gradient : ndarray, shape (unknowns,)
        Sum of ``w x r`` is added.
    sums : ndarray, shape (p, columns)
        Sum of ``w x`` of each super-pixel is added.
    moments : ndarray, shape (p,)
        Sum of ``w`` of each super-pixel is added.
    """
    entries = 16 * counts.shape[0] + further.shape[1]
    derivatives, local = np.empty(entries), np.empty(entries, dtype=np.int64)
    lows = np.empty((counts.shape[0], 4), dtype=np.int64)
    with_normal = normal.shape[0] > 0
    for exposure in range(centres.shape[0]):
        if not weights[exposure].any():
            continue
        centre = centres[exposure]
        columns, size = _tile_columns(x, y, centre, counts, places, further[exposure], lows)
        block = np.zeros((columns.size, columns.size)) if with_normal else np.zeros((0, 0))
        for pixel in range(x.size):
            weight = weights[exposure, pixel]
            if weight <= 0.0:
                continue
            _row(x[pixel], y[pixel], centre, counts, places, vector, lows, parts[exposure], size, derivatives, local)
            moments[pixel] += weight
            pull = weight * residual[exposure, pixel]
            for first in range(entries):
                weighted = weight * derivatives[first]
                column = columns[local[first]]
                gradient[column] += pull * derivatives[first]
                sums[pixel, positions[column]] += weighted
                if with_normal:
                    for second in range(first, entries):
                        block[local[first], local[second]] += weighted * derivatives[second]
        if with_normal:
            _add_block(normal, block, columns)


@njit(cache=True, nogil=True)
def _add_block(matrix, block, columns):  # type: ignore[no-untyped-def]  # pragma: no cover  compiled
    for first in range(columns.size):
        for second in range(first, columns.size):
            if block[first, second] != 0.0:
                matrix[columns[first], columns[second]] += block[first, second]


@njit(cache=True, nogil=True)
def subtract_block(matrix, block, columns):  # type: ignore[no-untyped-def]  # pragma: no cover  compiled
    """Subtract a symmetric block from the upper triangle of a matrix at rising columns."""
    for first in range(columns.size):
        row = matrix[columns[first]]
        for second in range(first, columns.size):
            row[columns[second]] -= block[first, second]


@njit(cache=True, nogil=True)
def mirror_upper(matrix):  # type: ignore[no-untyped-def]  # pragma: no cover  compiled
    """Copy the upper triangle of a matrix to its lower one."""
    for first in range(matrix.shape[0]):
        for second in range(first):
            matrix[first, second] = matrix[second, first]
