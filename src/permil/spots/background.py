"""Background between the spots: planes fitted to the free pixels of each box, joined by a cubic spline.

The projector's glow has structure (a bright disc with an edge, a faint skirt), and half of all pixels belong to spots. The pixels of the
spots are excluded, and a plane is fitted in each box, since its free pixels are not symmetric about its centre. The bias of a plane from
the curvature of the light follows from the positions of the free pixels; it is subtracted with the second derivatives of the mesh. A
cubic spline interpolates between the centres and continues linearly outside. All steps are linear in the pixels, so that the error is
known, including that of noise common to the pixels of a row.

Rows of an amplifier share the noise of the subtracted overscan level: it adds ``variance (sum of the weights along the row)^2`` to the
variance of a weighted sum over pixels, where independent noise adds ``variance (sum of the squared weights)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import CubicSpline

from permil._kernels import spots as kernels
from permil.arrays import BoolArray, Float32Array, FloatArray, IntArray
from permil.camera import Detector
from permil.errors import SpotError

_LARGEST_ANSWER = 0.3
"""Largest accepted response of a plane to curvature, in box units; free pixels in one corner do not determine it."""


@dataclass(frozen=True)
class RowNoise:
    """Variance of the level of each row of each amplifier.

    Attributes
    ----------
    starts : ndarray, shape (m,)
        First column of each strip of columns read by one amplifier, ascending from 0.
    variance : ndarray, shape (ny, m)
        Variance of the level, electrons^2.
    """

    starts: IntArray
    variance: FloatArray


@dataclass(frozen=True)
class RowErrors:
    """Row noise around spots, and its effect on the background under each spot.

    Attributes
    ----------
    noise
        Row noise of the image.
    first_row : ndarray, shape (n,)
        First row of ``answer``; it may lie outside the image.
    answer : ndarray, shape (n, rows, m)
        Derivative of the background at the spot with respect to the level of each row and strip.
    """

    noise: RowNoise
    first_row: IntArray
    answer: FloatArray


def row_noise(detector: Detector, variance: FloatArray) -> RowNoise:
    """Return the row noise of a detector from the variance of the level of each amplifier, in their order, electrons^2."""
    starts = np.unique([0, *(amplifier.x_min for amplifier in detector.amplifiers)])
    rows = np.zeros((detector.ny, starts.size))
    for amplifier, level_variance in zip(detector.amplifiers, variance, strict=True):
        rows[amplifier.slices[0], np.searchsorted(starts, amplifier.x_min)] = level_variance
    return RowNoise(starts, rows)


def no_row_noise(rows: int) -> RowNoise:
    """Return the row noise of an image with independent pixels."""
    return RowNoise(np.zeros(1, dtype=np.int64), np.zeros((rows, 1)))


def no_row_errors(rows: int, spots: int) -> RowErrors:
    """Return the errors of spots in an image with independent pixels."""
    return RowErrors(no_row_noise(rows), np.zeros(spots, dtype=np.int64), np.zeros((spots, 1, 1)))


@dataclass(frozen=True)
class Background:
    """Background on a mesh of boxes.

    Attributes
    ----------
    level : ndarray, shape (rows, columns)
        Background at the centre of each box.
    plane_error : ndarray, shape (rows, columns)
        Standard error of the plane of each box at its centre, from independent pixels.
    curvature : ndarray, shape (3, rows, columns)
        Factors of the second derivatives of the mesh (along x, along y, mixed) that were subtracted from each box.
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

    def subtracted(self, image: Float32Array) -> Float32Array:
        """Return the image less the background; pixels that are not finite become 0."""
        rows, columns = self._weights(np.arange(self.shape[1]), np.arange(self.shape[0]))
        left = (rows @ self.level).astype(np.float32) @ columns.T.astype(np.float32)
        np.subtract(image, left, out=left)
        left[~np.isfinite(left)] = 0.0
        return left

    def _weights(self, x: ArrayLike, y: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Return the weights of the rows and columns of the mesh at positions y and x."""
        rows = _interpolation(np.asarray(y, dtype=float), self.step_y, self.level.shape[0])
        return rows, _interpolation(np.asarray(x, dtype=float), self.step_x, self.level.shape[1])

    def at(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Return the background at positions in pixels, shape (n,)."""
        rows, columns = self._weights(x, y)
        return np.asarray(np.sum((rows @ self.level) * columns, axis=1))

    def errors(self, x: FloatArray, y: FloatArray, *, reach: float) -> tuple[FloatArray, RowErrors]:
        """Return the standard error at positions in pixels, shape (n,), and the errors from rows within a distance ``reach``."""
        rows, columns = self._weights(x, y)
        distance = int(np.ceil(reach))
        first_row = np.rint(y).astype(np.int64) - distance
        answer = np.zeros((x.size, 2 * distance + 1, self.row_noise.starts.size))
        variance = np.zeros(x.size)
        kernels.propagate(
            self,
            (*_derivatives(self.level.shape[0]), *_derivatives(self.level.shape[1])),
            _edges(self.level.shape[0], self.step_y),
            rows,
            columns,
            np.clip(np.rint((y + 0.5) / self.step_y - 0.5), 0, self.level.shape[0] - 1).astype(np.int64),
            np.clip(np.rint((x + 0.5) / self.step_x - 0.5), 0, self.level.shape[1] - 1).astype(np.int64),
            first_row,
            answer,
            variance,
        )
        return np.sqrt(variance), RowErrors(self.row_noise, first_row, answer)


def fit_background(image: Float32Array, free: BoolArray, *, box: int, row_noise: RowNoise | None = None) -> Background:
    """Fit the background.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Signal, electrons.
    free : ndarray of bool, shape (ny, nx)
        Pixels without spots and defects.
    box
        Side of a box, pixels; about the pitch of the spots.
    row_noise
        Noise common to the pixels of a row; None: pixels are independent.

    Returns
    -------
    Background

    Raises
    ------
    SpotError
        If no box has enough free pixels.
    """
    ny, nx = image.shape
    rows, columns = max(round(ny / box), 1), max(round(nx / box), 1)
    step_y, step_x = ny / rows, nx / columns
    row_noise = row_noise or no_row_noise(ny)
    level, error = np.full((rows, columns), np.nan), np.full((rows, columns), np.nan)
    answer, row_answer = np.zeros((3, rows, columns)), np.zeros((ny, columns, row_noise.starts.size))
    kernels.fit_boxes(
        np.ascontiguousarray(image, dtype=np.float32),
        np.ascontiguousarray(free),
        _edges(rows, step_y),
        _edges(columns, step_x),
        (np.arange(rows) + 0.5) * step_y - 0.5,
        (np.arange(columns) + 0.5) * step_x - 0.5,
        row_noise,
        level,
        error,
        answer,
        row_answer,
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
    """Return the first pixel of each box, and the end of the last one."""
    return np.rint(np.arange(count + 1) * step).astype(np.int64)


def _without_curvature(level: FloatArray, curvature: FloatArray) -> FloatArray:
    """Return the level without the bias of the planes from the curvature of the light.

    The plane of a light u^2, v^2 or u v (in boxes) has the value ``answer`` at the centre; light with a second derivative gives half of it.
    """
    slope_v, bend_v = _derivatives(level.shape[0])
    slope_u, bend_u = _derivatives(level.shape[1])
    along_u, along_v, mixed = curvature
    return np.asarray(level - along_u * (level @ bend_u.T) - along_v * (bend_v @ level) - mixed * (slope_v @ level @ slope_u.T))


@lru_cache(maxsize=32)
def _derivatives(count: int) -> tuple[FloatArray, FloatArray]:
    """Return the matrices from values at nodes of unit distance to first and second derivatives at the nodes."""
    if count < 3:
        return np.zeros((count, count)), np.zeros((count, count))
    nodes, spline = np.arange(count), _spline(count)
    bend = spline(nodes, 2)
    # The second derivative of a cubic spline is low by a twelfth of the fourth.
    return np.ascontiguousarray(spline(nodes, 1)), np.ascontiguousarray(bend + bend @ bend / 12)


@lru_cache(maxsize=32)
def _spline(count: int) -> CubicSpline:
    """Return the cubic splines through nodes of unit distance that are 1 at one node and 0 at the others."""
    return CubicSpline(np.arange(count), np.eye(count))


def _fill_from_neighbours(level: FloatArray, error: FloatArray) -> None:
    """Fill boxes without a value with the mean of their known neighbours, in place, from the known ones outwards."""
    while not (known := np.isfinite(level)).all():
        padded = np.pad(np.stack([np.where(known, level, 0.0), np.where(known, error, 0.0), known]), ((0, 0), (1, 1), (1, 1)))
        rows, columns = level.shape
        sums = np.sum([padded[:, y : y + rows, x : x + columns] for y in range(3) for x in range(3)], axis=0)
        ready = ~known & (sums[2] > 0)
        level[ready] = sums[0][ready] / sums[2][ready]
        # Unmeasured boxes have the mean error of the neighbours, not the error of their mean.
        error[ready] = sums[1][ready] / sums[2][ready]


def _interpolation(places: FloatArray, step: float, count: int) -> FloatArray:
    """Return the weight of each of ``count`` nodes at each position: cubic spline, linear beyond the outermost nodes."""
    if count == 1:
        return np.ones((places.size, 1))
    position = (places + 0.5) / step - 0.5
    inside = np.clip(position, 0.0, count - 1.0)
    spline = _spline(count)
    return np.ascontiguousarray(spline(inside) + (position - inside)[:, None] * spline(inside, 1))
