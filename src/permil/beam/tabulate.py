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


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "arcp"})
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
    polynomial, scratch = np.empty(7), np.empty((9, 4))
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
        # Along a side of the hull the ends can be farther than integers reach.
        first = int(np.ceil(min(low, float(n_columns))))
        last = int(np.floor(high)) if high >= 0.0 else -1
        image[row, :first] = np.nan
        image[row, max(last + 1, first) :] = np.nan
        at_x, at_y = (row_x - start[0]) / step, (row_y - start[1]) / step
        column = first
        while column <= last:
            x, y = at_x + slope_x * column, at_y + slope_y * column
            i, j = min(max(int(x), 1), last_x), min(max(int(y), 1), last_y)
            # Between two lines of the lattice the spline along the row is one polynomial. A pixel just behind a line may fall to the
            # polynomial before it, which goes on smoothly.
            length = min(last + 1.0 - column, _columns_to_line(x - i, slope_x), _columns_to_line(y - j, slope_y))
            stop = column + max(1, int(length))
            _line_polynomial(coefficients, i, j, x - i, y - j, slope_x, slope_y, polynomial, scratch)
            c0, c1, c2, c3, c4, c5, c6 = polynomial
            part = image[row, column:stop]
            for index in range(part.size):
                k = np.float64(index)
                part[index] = c0 + k * (c1 + k * (c2 + k * (c3 + k * (c4 + k * (c5 + k * c6)))))
            column = stop


@njit(cache=True)
def _columns_to_line(within: float, slope: float) -> float:  # pragma: no cover  compiled
    """Return how many columns lead from a place within a cell of the lattice, in steps, to the next line."""
    if slope == 0.0:
        return np.inf
    return np.ceil(((1.0 - within) if slope > 0.0 else -within) / slope)


@njit(cache=True)
def _line_polynomial(
    coefficients: FloatArray,
    i: int,
    j: int,
    s: float,
    t: float,
    slope_s: float,
    slope_t: float,
    polynomial: FloatArray,
    scratch: FloatArray,
) -> None:  # pragma: no cover  compiled
    """Fill the coefficients of the spline along a line through a cell, ``s + slope_s k`` and ``t + slope_t k``, by power of k."""
    along_s, along_t, across = scratch[:4], scratch[4:8], scratch[8]
    _weights(s, slope_s, along_s)
    _weights(t, slope_t, along_t)
    for power in range(7):
        polynomial[power] = 0.0
    for m in range(4):
        for power in range(4):
            across[power] = 0.0
            for n in range(4):
                across[power] += coefficients[i - 1 + m, j - 1 + n] * along_t[n, power]
        for first in range(4):
            for second in range(4):
                polynomial[first + second] += along_s[m, first] * across[second]


@njit(cache=True)
def _weights(s: float, slope: float, weights: FloatArray) -> None:  # pragma: no cover  compiled
    """Fill the weights of the four cubic B-splines at ``s + slope k`` as polynomials in k."""
    r = 1.0 - s
    # Value, first derivative, half the second and a sixth of the third one, times 6.
    weights[0, 0], weights[0, 1], weights[0, 2], weights[0, 3] = r * r * r, -3.0 * r * r, 3.0 * r, -1.0
    weights[1, 0], weights[1, 1], weights[1, 2], weights[1, 3] = (
        4.0 - 3.0 * s * s * (1.0 + r),
        3.0 * s * (3.0 * s - 4.0),
        9.0 * s - 6.0,
        3.0,
    )
    weights[2, 0], weights[2, 1], weights[2, 2], weights[2, 3] = (
        4.0 - 3.0 * r * r * (1.0 + s),
        3.0 + 6.0 * s - 9.0 * s * s,
        3.0 - 9.0 * s,
        -3.0,
    )
    weights[3, 0], weights[3, 1], weights[3, 2], weights[3, 3] = s * s * s, 3.0 * s * s, 3.0 * s, 1.0
    factor = 1.0 / 6.0
    for power in range(4):
        for spline in range(4):
            weights[spline, power] *= factor
        factor *= slope
