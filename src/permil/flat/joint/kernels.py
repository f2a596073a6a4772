"""Compiled loops of the joint solution over exposures and super-pixels."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from permil.flat.joint.spline import cubic_weights

_REWEIGHTINGS = 8
_ROOT3, _HALF_ROOT5 = 3.0**0.5, 5.0**0.5 / 2


@njit(cache=True, inline="always")
def fill_smooth(x, y, frame, smooth):  # type: ignore[no-untyped-def]  # pragma: no cover  compiled
    """Fill the patterns of weather (`permil.flat.joint.weather.pattern_values`) at a place; nothing where there are none."""
    if smooth.size > 0:
        u, v = (x - frame[0]) / frame[2], (y - frame[1]) / frame[2]
        smooth[0], smooth[1] = _ROOT3 * u, _ROOT3 * v
        smooth[2], smooth[3], smooth[4] = _HALF_ROOT5 * (3.0 * u * u - 1.0), 3.0 * u * v, _HALF_ROOT5 * (3.0 * v * v - 1.0)


@njit(cache=True, nogil=True)
def predict(  # type: ignore[no-untyped-def]  # pragma: no cover  compiled
    x, y, centres, scales, counts, places, vector, frames, weather
):
    """Return ``log d - f`` of each exposure and super-pixel, shape (e, p), for a vector of unknowns.

    Parameters
    ----------
    frames : ndarray, shape (e, 3)
        Place and half side of the patterns of weather.
    weather : ndarray, shape (e, 5)
        Their coefficients; of shape (e, 0) without weather.
    """
    smooth = np.zeros(weather.shape[1])
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
            fill_smooth(x[pixel], y[pixel], frames[exposure], smooth)
            for number in range(smooth.size):
                total += weather[exposure, number] * smooth[number]
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


@njit(cache=True, inline="always")
def evaluate(x, y, centre, counts, places, vector, first, along_x, along_y):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Fill the first B-splines of each pattern and their values along both axes; return the slopes of the logarithm."""
    slope_x, slope_y = 0.0, 0.0
    for pattern in range(counts.shape[0]):
        spacing, sign = places[pattern, 2], places[pattern, 3]
        first_x, weights_x, slopes_x = cubic_weights((x + sign * centre[0] - places[pattern, 0]) / spacing, counts[pattern, 0])
        first_y, weights_y, slopes_y = cubic_weights((y + sign * centre[1] - places[pattern, 1]) / spacing, counts[pattern, 1])
        first[pattern, 0], first[pattern, 1] = first_x, first_y
        for i in range(4):
            along_x[pattern, i], along_y[pattern, i] = weights_x[i], weights_y[i]
            start = counts[pattern, 2] + (first_x + i) * counts[pattern, 1] + first_y
            level, slope = 0.0, 0.0
            for j in range(4):
                level += weights_y[j] * vector[start + j]
                slope += slopes_y[j] * vector[start + j]
            slope_x += slopes_x[i] * level * sign / spacing
            slope_y += weights_x[i] * slope * sign / spacing
    return slope_x, slope_y


@njit(cache=True, nogil=True)
def slopes_along(x, y, centres, counts, places, vector, result):  # type: ignore[no-untyped-def]  # pragma: no cover  compiled
    """Fill the derivatives of the logarithm with respect to the projector's position, shape (e, 2, p)."""
    patterns = counts.shape[0]
    first, along_x, along_y = np.empty((patterns, 2), dtype=np.int64), np.empty((patterns, 4)), np.empty((patterns, 4))
    for exposure in range(centres.shape[0]):
        for pixel in range(x.size):
            result[exposure, 0, pixel], result[exposure, 1, pixel] = evaluate(
                x[pixel], y[pixel], centres[exposure], counts, places, vector, first, along_x, along_y
            )


@njit(cache=True, nogil=True)
def add_gradient(  # type: ignore[no-untyped-def]  # pragma: no cover  compiled
    x, y, residual, weights, centres, counts, places, vector, further, parts, frames, gradient
):
    """Add the sum of ``w x r`` of a detector to the gradient."""
    patterns = counts.shape[0]
    smooth, along_smooth = np.zeros(parts.shape[2] - 3), np.zeros(parts.shape[2] - 3)
    first, along_x, along_y = np.empty((patterns, 2), dtype=np.int64), np.empty((patterns, 4)), np.empty((patterns, 4))
    for exposure in range(centres.shape[0]):
        level, moved_x, moved_y = 0.0, 0.0, 0.0
        along_smooth[:] = 0.0
        for pixel in range(x.size):
            pull = weights[exposure, pixel] * residual[exposure, pixel]
            if pull == 0.0:
                continue
            slope_x, slope_y = evaluate(x[pixel], y[pixel], centres[exposure], counts, places, vector, first, along_x, along_y)
            level += pull
            moved_x += pull * slope_x
            moved_y += pull * slope_y
            fill_smooth(x[pixel], y[pixel], frames[exposure], smooth)
            for number in range(smooth.size):
                along_smooth[number] += pull * smooth[number]
            for pattern in range(patterns):
                for i in range(4):
                    start = counts[pattern, 2] + (first[pattern, 0] + i) * counts[pattern, 1] + first[pattern, 1]
                    part = pull * along_x[pattern, i]
                    for j in range(4):
                        gradient[start + j] += part * along_y[pattern, j]
        for number in range(further.shape[1]):
            of = parts[exposure, number]
            total = of[0] * level + of[1] * moved_x + of[2] * moved_y
            for k in range(smooth.size):
                total += of[3 + k] * along_smooth[k]
            gradient[further[exposure, number]] += total


@njit(cache=True, nogil=True)
def subtract_rows(matrix, product, columns, first):  # type: ignore[no-untyped-def]  # pragma: no cover  compiled
    """Subtract rows of a symmetric product from the upper triangle of a matrix.

    Parameters
    ----------
    product : ndarray, shape (m, columns - first)
        Rows that belong to the unknowns ``columns[first : first + m]``, from column ``first`` on.
    columns : ndarray of int
        The unknowns, rising.
    """
    count = product.shape[1]
    # Ends of the runs of unknowns one after the other: whole runs are subtracted at once.
    ends, runs = np.empty(count, dtype=np.int64), 0
    for column in range(1, count + 1):
        if column == count or columns[first + column] != columns[first + column - 1] + 1:
            ends[runs] = column
            runs += 1
    for number in range(product.shape[0]):
        row, values = matrix[columns[first + number]], product[number]
        start = number
        for run in range(runs):
            place = columns[first + start] - start
            for column in range(start, ends[run]):
                row[place + column] -= values[column]
            start = max(start, ends[run])


@njit(cache=True, nogil=True)
def mirror_upper(matrix):  # type: ignore[no-untyped-def]  # pragma: no cover  compiled
    """Copy the upper triangle of a matrix to its lower one."""
    for first in range(matrix.shape[0]):
        for second in range(first):
            matrix[first, second] = matrix[second, first]
