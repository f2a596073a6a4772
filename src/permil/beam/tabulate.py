"""Fast evaluation on a whole detector: the model tabulated once as a tensor cubic B-spline, evaluated by a compiled loop.

A uniform cubic B-spline interpolates a lattice of the model with an error that falls with the fourth power of the step (Unser 1999,
IEEE Signal Processing Magazine 16(6), 22); the step is halved until the error between the lattice points is below 5e-7.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.ndimage import spline_filter

from permil.beam.hull import TOLERANCE_MM, Hull

FloatArray = NDArray[np.float64]

TOLERANCE = 5e-7
FIRST_STEPS = 80
MAX_LATTICE_POINTS = 2_000_000
CHECK_POINTS = 500
PADDING = 12  # lattice points beyond the hull: what the filter does at the border has decayed by 0.27 per point


@dataclass(frozen=True)
class SplineTable:
    """A function on a lattice as the coefficients of a tensor cubic B-spline.

    Parameters
    ----------
    coefficients : ndarray, shape (nx, ny)
        Of the B-splines centred on the lattice points.
    origin : ndarray, shape (2,)
        Place of the first lattice point, mm.
    step : float
        Step of the lattice, mm.
    """

    coefficients: FloatArray
    origin: FloatArray
    step: float

    @classmethod
    def of(cls, function: Callable[[FloatArray], FloatArray], hull: Hull, step: float) -> SplineTable:
        """Tabulate a function of points (n, 2) over the bounding box of a hull."""
        origin = hull.lower - PADDING * step
        counts = np.ceil((hull.upper - hull.lower) / step).astype(int) + 2 * PADDING + 1
        axes = [start + step * np.arange(count) for start, count in zip(origin, counts, strict=True)]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
        values = function(points).reshape(counts)
        return cls(spline_filter(values, order=3, mode="mirror"), origin, step)

    @classmethod
    def accurate(cls, function: Callable[[FloatArray], FloatArray], hull: Hull) -> SplineTable:
        """Tabulate a positive function with a step fine enough for a relative error of 5e-7."""
        step = float((hull.upper - hull.lower).max()) / FIRST_STEPS
        rng = np.random.default_rng(0)
        points = rng.uniform(hull.lower, hull.upper, (CHECK_POINTS, 2))
        points = points[hull.contains(*points.T)]
        exact = function(points)
        while True:
            table = cls.of(function, hull, step)
            error = np.abs(table.at(points) / exact - 1.0).max()
            if error < TOLERANCE or 4 * table.coefficients.size > MAX_LATTICE_POINTS:
                return table
            step *= 0.5

    def at(self, u: FloatArray) -> FloatArray:
        """Return the spline at points ``u`` (n, 2) inside the hull."""
        everywhere = np.zeros((0, 3))
        result = np.empty((1, len(u)))
        for number, point in enumerate(u):
            _fill(result[:, number : number + 1], point, np.zeros((2, 2)), everywhere, self.coefficients, self.origin, self.step)
        return result[0]

    def image(self, shape: tuple[int, int], origin: FloatArray, matrix: FloatArray, hull: Hull) -> NDArray[np.float32]:
        """Return the spline on an image whose pixels map linearly to the beam's coordinates.

        Parameters
        ----------
        shape
            Rows and columns.
        origin : ndarray, shape (2,)
            ``u`` of the pixel in row 0, column 0, mm.
        matrix : ndarray, shape (2, 2)
            ``u = origin + matrix @ (column, row)``, mm per pixel.
        hull
            Outside it the image is NaN.
        """
        image = np.empty(shape, dtype=np.float32)
        half_planes = hull.half_planes.copy()
        half_planes[:, 2] -= TOLERANCE_MM
        arguments = (np.asarray(origin, dtype=float), np.ascontiguousarray(matrix, dtype=float), half_planes)
        _fill(image, *arguments, self.coefficients, self.origin, self.step)
        return image


@njit(cache=True, fastmath={"contract", "reassoc", "arcp"})
def _fill(
    image: NDArray,
    origin: FloatArray,
    matrix: FloatArray,
    half_planes: FloatArray,
    coefficients: FloatArray,
    start: FloatArray,
    step: float,
) -> None:  # pragma: no cover  compiled
    n_rows, n_columns = image.shape
    last_x, last_y = coefficients.shape[0] - 3, coefficients.shape[1] - 3
    slope_x, slope_y = matrix[0, 0] / step, matrix[1, 0] / step
    for row in range(n_rows):
        row_x, row_y = origin[0] + matrix[0, 1] * row, origin[1] + matrix[1, 1] * row
        # A row of the image is a straight line in u: it lies in the convex hull from one column to another.
        low, high = 0.0, n_columns - 1.0
        for side in range(half_planes.shape[0]):
            height = half_planes[side, 0] * row_x + half_planes[side, 1] * row_y + half_planes[side, 2]
            slope = half_planes[side, 0] * matrix[0, 0] + half_planes[side, 1] * matrix[1, 0]
            if slope > 0.0:
                high = min(high, -height / slope)
            elif slope < 0.0:
                low = max(low, -height / slope)
            elif height > 0.0:
                high = -1.0
        first, last = int(np.ceil(low)), int(np.floor(high)) if high >= 0.0 else -1
        first = min(first, n_columns)
        image[row, :first] = np.nan
        image[row, max(last + 1, first) :] = np.nan
        at_x, at_y = (row_x - start[0]) / step, (row_y - start[1]) / step
        for column in range(first, last + 1):
            x, y = at_x + slope_x * column, at_y + slope_y * column
            i, j = min(max(int(x), 1), last_x), min(max(int(y), 1), last_y)
            s, t = x - i, y - j
            r, q = 1.0 - s, 1.0 - t
            wx0, wx1, wx2, wx3 = r * r * r, 4.0 - 3.0 * s * s * (1.0 + r), 4.0 - 3.0 * r * r * (1.0 + s), s * s * s
            wy0, wy1, wy2, wy3 = q * q * q, 4.0 - 3.0 * t * t * (1.0 + q), 4.0 - 3.0 * q * q * (1.0 + t), t * t * t
            total = wx0 * _line(coefficients, i - 1, j, wy0, wy1, wy2, wy3)
            total += wx1 * _line(coefficients, i, j, wy0, wy1, wy2, wy3)
            total += wx2 * _line(coefficients, i + 1, j, wy0, wy1, wy2, wy3)
            total += wx3 * _line(coefficients, i + 2, j, wy0, wy1, wy2, wy3)
            image[row, column] = total / 36.0


@njit(cache=True, inline="always")
def _line(
    coefficients: FloatArray, i: int, j: int, w0: float, w1: float, w2: float, w3: float
) -> float:  # pragma: no cover  compiled
    return w0 * coefficients[i, j - 1] + w1 * coefficients[i, j] + w2 * coefficients[i, j + 1] + w3 * coefficients[i, j + 2]
