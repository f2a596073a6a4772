"""Light between the spots: planes fitted to what the spots leave free in each box, joined by a cubic spline.

The projector's glow has structure (a bright disc with an edge, a faint skirt), and half of all pixels belong to spots. So the
pixels of the spots are left out, and each box of the mesh gets a plane, since its free pixels do not lie symmetrically around its
centre. What a plane makes of the curvature of the light follows from where the free pixels lie; it is taken off with the second
derivatives of the mesh. Between the centres a cubic spline interpolates, outside them it goes on linearly. All of this is linear in
the pixels, which keeps the error known, also that of noise common to the pixels of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from permil.spots.errors import SpotError
from permil.spots.row_noise import RowErrors, RowNoise, no_row_noise

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Image = NDArray[np.float32]

_CLIP_SIGMA = 4.0
_LEAST_FREE = 0.04
"""Part of a box's pixels that must be free of spots; a box with fewer takes the value of its neighbours."""
_LARGEST_ANSWER = 0.3
"""Largest answer of a plane to curvature that is believed, in box units; free pixels in one corner alone tell nothing."""
_NEIGHBOURS = 3
"""Boxes on each side whose planes count in the error of the background."""


@dataclass(frozen=True)
class Background:
    """Background on a mesh of boxes.

    Attributes
    ----------
    level : ndarray, shape (rows, columns)
        Background at the centre of each box.
    plane_error : ndarray, shape (rows, columns)
        Standard error that independent pixels give the plane of each box at its centre.
    curvature : ndarray, shape (3, rows, columns)
        Factors with which second derivatives of the mesh (along x, along y, mixed) were taken off each box.
    row_noise
        Noise common to the pixels of a row.
    row_answer : ndarray, shape (ny, columns, m)
        Change of the plane of a row's box at its centre with the level of the row in each strip.
    step_y, step_x
        Sides of a box, pixels; the first box begins at pixel edge -0.5.
    shape
        Rows and columns of the image.
    """

    level: FloatArray
    plane_error: FloatArray
    curvature: FloatArray
    row_noise: RowNoise
    row_answer: FloatArray
    step_y: float
    step_x: float
    shape: tuple[int, int]

    def subtracted(self, image: Image) -> Image:
        """Return the image less the background; pixels that are not finite become 0."""
        rows = _interpolation(np.arange(self.shape[0], dtype=float), self.step_y, self.level.shape[0])
        columns = _interpolation(np.arange(self.shape[1], dtype=float), self.step_x, self.level.shape[1])
        left = (rows @ self.level).astype(np.float32) @ columns.T.astype(np.float32)
        np.subtract(image, left, out=left)
        left[~np.isfinite(left)] = 0.0
        return left

    def at(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the background and its standard error at places in pixels, shape (n,) each."""
        rows = _interpolation(np.asarray(y, dtype=float), self.step_y, self.level.shape[0])
        columns = _interpolation(np.asarray(x, dtype=float), self.step_x, self.level.shape[1])
        level = np.sum((rows @ self.level) * columns, axis=1)
        error, _ = self._errors(x, y, rows, columns, 0)
        return level, error

    def errors(self, x: FloatArray, y: FloatArray, *, reach: float) -> tuple[FloatArray, RowErrors]:
        """Return the standard error at places in pixels, shape (n,), and what rows within a reach of them have to do with it."""
        rows = _interpolation(np.asarray(y, dtype=float), self.step_y, self.level.shape[0])
        columns = _interpolation(np.asarray(x, dtype=float), self.step_x, self.level.shape[1])
        return self._errors(x, y, rows, columns, int(np.ceil(reach)))

    def _errors(
        self, x: FloatArray, y: FloatArray, rows: FloatArray, columns: FloatArray, reach: int
    ) -> tuple[FloatArray, RowErrors]:
        slope_v, bend_v = _derivatives(self.level.shape[0])
        slope_u, bend_u = _derivatives(self.level.shape[1])
        first_row = np.rint(y).astype(np.int64) - reach
        answer = np.zeros((x.size, 2 * reach + 1, self.row_noise.starts.size))
        variance = np.zeros(x.size)
        _propagate(
            rows,
            columns,
            np.clip(np.rint((y + 0.5) / self.step_y - 0.5), 0, self.level.shape[0] - 1).astype(np.int64),
            np.clip(np.rint((x + 0.5) / self.step_x - 0.5), 0, self.level.shape[1] - 1).astype(np.int64),
            self.curvature,
            (slope_v, bend_v, slope_u, bend_u),
            self.plane_error,
            _edges(self.level.shape[0], self.step_y),
            self.row_noise.variance,
            self.row_answer,
            first_row,
            answer,
            variance,
        )
        return np.sqrt(variance), RowErrors(self.row_noise, first_row, answer)


def fit_background(image: Image, free: NDArray[np.bool_], *, box: int, row_noise: RowNoise | None = None) -> Background:
    """Fit the background.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Signal, electrons.
    free : ndarray of bool, shape (ny, nx)
        Pixels that hold neither spots nor defects.
    box
        Side of a box, pixels; about the pitch of the spots.
    row_noise
        Noise that pixels of a row have in common; None: pixels are independent.

    Returns
    -------
    Background

    Raises
    ------
    SpotError
        If hardly any pixel is free.
    """
    ny, nx = image.shape
    rows, columns = max(round(ny / box), 1), max(round(nx / box), 1)
    step_y, step_x = ny / rows, nx / columns
    row_noise = row_noise or no_row_noise(ny)
    level, error, answer, row_answer = _fit_boxes(
        np.ascontiguousarray(image, dtype=np.float32),
        np.ascontiguousarray(free),
        _edges(rows, step_y),
        _edges(columns, step_x),
        (np.arange(rows) + 0.5) * step_y - 0.5,
        (np.arange(columns) + 0.5) * step_x - 0.5,
        row_noise.starts,
        row_noise.variance,
    )
    if not np.isfinite(level).any():
        raise SpotError(
            "there is no background to measure: nearly all pixels are masked or belong to spots",
            remedy="check the mask, or make the radius of the spots' masks smaller",
        )
    _fill_from_neighbours(level, error)
    answer = np.clip(answer, -_LARGEST_ANSWER, _LARGEST_ANSWER)
    curvature = answer * np.array([0.5, 0.5, 1.0])[:, None, None]
    return Background(_without_curvature(level, curvature), error, curvature, row_noise, row_answer, step_y, step_x, (ny, nx))


def _edges(count: int, step: float) -> IntArray:
    """Return the pixels at which boxes begin, and the end of the last one."""
    return np.rint(np.arange(count + 1) * step).astype(np.int64)


def _without_curvature(level: FloatArray, curvature: FloatArray) -> FloatArray:
    """Return the level without what planes made of the curvature of the light.

    A plane makes, at the box's centre, ``answer`` of u^2, v^2 and u v (in boxes): half of it times the second derivative.
    """
    slope_v, bend_v = _derivatives(level.shape[0])
    slope_u, bend_u = _derivatives(level.shape[1])
    along_u, along_v, mixed = curvature
    return np.asarray(level - along_u * (level @ bend_u.T) - along_v * (bend_v @ level) - mixed * (slope_v @ level @ slope_u.T))


def _derivatives(count: int) -> tuple[FloatArray, FloatArray]:
    """Return the matrices that turn values at nodes of unit distance into first and second derivatives there."""
    if count < 3:
        return np.zeros((count, count)), np.zeros((count, count))
    nodes = np.arange(count)
    spline = CubicSpline(nodes, np.eye(count))
    bend = spline(nodes, 2)
    # The second derivative of a cubic spline is low by a twelfth of the fourth.
    return np.asarray(spline(nodes, 1)), np.asarray(bend + bend @ bend / 12)


def _fill_from_neighbours(level: FloatArray, error: FloatArray) -> None:
    """Give boxes without value the mean of their known neighbours, in place, from the known ones outwards."""
    while not (known := np.isfinite(level)).all():
        padded = np.pad(np.stack([np.where(known, level, 0.0), np.where(known, error, 0.0), known]), ((0, 0), (1, 1), (1, 1)))
        rows, columns = level.shape
        sums = np.sum([padded[:, y : y + rows, x : x + columns] for y in range(3) for x in range(3)], axis=0)
        ready = ~known & (sums[2] > 0)
        level[ready] = sums[0][ready] / sums[2][ready]
        # Nothing was measured there: the mean error of the neighbours, not that of their mean.
        error[ready] = sums[1][ready] / sums[2][ready]


def _interpolation(places: FloatArray, step: float, count: int) -> FloatArray:
    """Return the weight of each of ``count`` nodes at each place: cubic spline, linear beyond the outermost nodes."""
    if count == 1:
        return np.ones((places.size, 1))
    position = (places + 0.5) / step - 0.5
    inside = np.clip(position, 0.0, count - 1.0)
    spline = CubicSpline(np.arange(count), np.eye(count))
    return np.asarray(spline(inside) + (position - inside)[:, None] * spline(inside, 1))


@njit(cache=True, nogil=True, inline="always")
def _row_sums(image, free, low, high, centre, width, height, slope, limit):  # type: ignore[no-untyped-def]
    """Return sums over the free pixels low to high of a row: powers 0 to 3 of u, residual, residual times u, squared residual."""
    a0 = a1 = a2 = a3 = b0 = b1 = b2 = 0.0
    for x in range(low, high):
        if not free[x]:
            continue
        u = (x - centre) / width
        residual = image[x] - height - slope * u
        if not abs(residual) <= limit:
            continue
        a0 += 1.0
        a1 += u
        a2 += u * u
        a3 += u * u * u
        b0 += residual
        b1 += residual * u
        b2 += residual * residual
    return a0, a1, a2, a3, b0, b1, b2


@njit(cache=True, nogil=True)
def _answer_to_rows(inverse, zeroth, first_power, y_low, y_high, centre, row_variance, row_answer):  # type: ignore[no-untyped-def]
    """Fill in how a plane answers to the level of each row; return the part of the pixels' scatter that rows have in common."""
    common, pixels = 0.0, 0.0
    for y in range(y_low, y_high):
        slope = inverse[0, 0] + inverse[0, 2] * (y - centre) / (y_high - y_low)
        for strip in range(zeroth.shape[1]):
            pixels += zeroth[y, strip]
            common += row_variance[y, strip] * zeroth[y, strip]
            row_answer[y, strip] = slope * zeroth[y, strip] + inverse[0, 1] * first_power[y, strip]
    return common / pixels


@njit(cache=True, nogil=True)
def _fit_boxes(image, free, row_edges, column_edges, centres_y, centres_x, starts, row_variance):  # type: ignore[no-untyped-def]
    """Fit planes with outliers left out.

    Return value and error at the centres of boxes, the answers to u^2, v^2 and u v, and those to the level of each row.
    """
    rows, columns = row_edges.size - 1, column_edges.size - 1
    level = np.full((rows, columns), np.nan)
    error = np.full((rows, columns), np.nan)
    answer = np.zeros((3, rows, columns))
    row_answer = np.zeros((image.shape[0], columns, starts.size))
    zeroth, first_power = np.zeros(row_variance.shape), np.zeros(row_variance.shape)
    ends = np.append(starts[1:], image.shape[1])
    for row in range(rows):
        for column in range(columns):
            y_low, y_high = row_edges[row], row_edges[row + 1]
            x_low, x_high = column_edges[column], column_edges[column + 1]
            plane = np.zeros(3)
            limit = np.inf
            for iteration in range(3):
                n = sx = sy = sxx = sxy = syy = sb = sbx = sby = sbb = 0.0
                sxxx = sxxy = sxyy = syyy = 0.0
                for y in range(y_low, y_high):
                    v = (y - centres_y[row]) / (y_high - y_low)
                    height = plane[0] + plane[2] * v
                    for strip in range(starts.size):
                        a0, a1, a2, a3, b0, b1, b2 = _row_sums(
                            image[y],
                            free[y],
                            max(x_low, starts[strip]),
                            min(x_high, ends[strip]),
                            centres_x[column],
                            x_high - x_low,
                            height,
                            plane[1],
                            limit,
                        )
                        zeroth[y, strip], first_power[y, strip] = a0, a1
                        n += a0
                        sx += a1
                        sy += v * a0
                        sxx += a2
                        sxy += v * a1
                        syy += v * v * a0
                        sxxx += a3
                        sxxy += v * a2
                        sxyy += v * v * a1
                        syyy += v * v * v * a0
                        sb += b0
                        sbx += b1
                        sby += v * b0
                        sbb += b2
                if n < _LEAST_FREE * (y_high - y_low) * (x_high - x_low) or n < 10:
                    break
                normal = np.array([[n, sx, sy], [sx, sxx, sxy], [sy, sxy, syy]])
                if np.linalg.det(normal) <= 1e-9 * n**3:
                    break
                inverse = np.linalg.inv(normal)
                change = inverse @ np.array([sb, sbx, sby])
                plane += change
                spread = max((sbb - change[0] * sb - change[1] * sbx - change[2] * sby) / (n - 3), 0.0)
                limit = _CLIP_SIGMA * np.sqrt(spread)
                if iteration == 2:
                    level[row, column] = plane[0]
                    common = _answer_to_rows(
                        inverse, zeroth, first_power, y_low, y_high, centres_y[row], row_variance, row_answer[:, column]
                    )
                    first, along_u, along_v = inverse[0, 0], inverse[0, 1], inverse[0, 2]
                    # The scatter of the pixels has the noise of the rows, which is not independent.
                    error[row, column] = np.sqrt(first * max(spread - common, 0.0))
                    answer[0, row, column] = first * sxx + along_u * sxxx + along_v * sxxy
                    answer[1, row, column] = first * syy + along_u * sxyy + along_v * syyy
                    answer[2, row, column] = first * sxy + along_u * sxxy + along_v * sxyy
    return level, error, answer, row_answer


@njit(cache=True, nogil=True)
def _propagate(  # type: ignore[no-untyped-def]
    rows,
    columns,
    nearest_row,
    nearest_column,
    curvature,
    derivatives,
    plane_error,
    edges,
    row_variance,
    row_answer,
    first_row,
    answer,
    variance,
):
    """Fill in the variance of the background at places, and its change with the levels of rows from ``first_row`` on.

    The weights of the splines go back through the correction for curvature to weights of the planes; those of boxes farther away
    than `_NEIGHBOURS` are less than a hundredth.
    """
    slope_v, bend_v, slope_u, bend_u = derivatives
    for place in range(nearest_row.size):
        top, bottom = max(nearest_row[place] - _NEIGHBOURS, 0), min(nearest_row[place] + _NEIGHBOURS + 1, rows.shape[1])
        left, right = max(nearest_column[place] - _NEIGHBOURS, 0), min(nearest_column[place] + _NEIGHBOURS + 1, columns.shape[1])
        spline = np.outer(rows[place, top:bottom], columns[place, left:right])
        near = curvature[:, top:bottom, left:right]
        weight = spline - (spline * near[0]) @ np.ascontiguousarray(bend_u[left:right, left:right])
        weight -= np.ascontiguousarray(bend_v[top:bottom, top:bottom].T) @ (spline * near[1])
        mixed = np.ascontiguousarray(slope_v[top:bottom, top:bottom].T) @ (spline * near[2])
        weight -= mixed @ np.ascontiguousarray(slope_u[left:right, left:right])
        variance[place] = np.sum((weight * plane_error[top:bottom, left:right]) ** 2)
        for row in range(edges[top], edges[bottom]):
            box = np.searchsorted(edges, row, side="right") - 1 - top
            line = row - first_row[place]
            for strip in range(row_variance.shape[1]):
                if row_variance[row, strip] == 0.0:
                    continue
                change = 0.0
                for other in range(right - left):
                    change += weight[box, other] * row_answer[row, left + other, strip]
                variance[place] += row_variance[row, strip] * change * change
                if 0 <= line < answer.shape[1]:
                    answer[place, line, strip] = change
