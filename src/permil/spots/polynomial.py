"""Polynomials of two variables up to a total degree, in scaled coordinates.

The terms are products of Chebyshev polynomials: they span the same space as powers, and their normal equations remain well
conditioned to high degrees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def degrees_of_terms(degree: int) -> list[tuple[int, int]]:
    """Return the degrees (in u, in v) of the terms of total degree 0 to ``degree``, lowest degree first."""
    return [(total - power, power) for total in range(degree + 1) for power in range(total + 1)]


def design(u: FloatArray, v: FloatArray, degree: int) -> FloatArray:
    """Return the values of all terms, shape (n, terms), of coordinates within about -1 and 1."""
    in_u, in_v = _chebyshev(u, degree), _chebyshev(v, degree)
    return np.stack([in_u[a] * in_v[b] for a, b in degrees_of_terms(degree)], axis=1)


def _chebyshev(t: FloatArray, degree: int) -> list[FloatArray]:
    values = [np.ones_like(t), t]
    while len(values) <= degree:
        values.append(2 * t * values[-1] - values[-2])
    return values


@dataclass(frozen=True)
class Polynomial2D:
    """A polynomial map of the plane to the plane.

    Attributes
    ----------
    coefficients : ndarray, shape (terms, 2)
        Coefficients of the terms of `degrees_of_terms`, in the scaled coordinates ``(u - centre) / scale``.
    centre, scale
        Offset and scale of the input coordinates.
    degree
        Total degree.
    """

    coefficients: FloatArray
    centre: FloatArray
    scale: FloatArray
    degree: int

    def __call__(self, points: FloatArray) -> FloatArray:
        """Evaluate at points, shape (n, 2)."""
        u, v = ((points - self.centre) / self.scale).T
        return design(u, v, self.degree) @ self.coefficients


def fit_polynomial(points: FloatArray, values: FloatArray, degree: int) -> Polynomial2D:
    """Fit a polynomial map by least squares.

    Parameters
    ----------
    points, values : ndarray, shape (n, 2)
        Input and output of the map.
    degree
        Total degree; lowered if there are fewer points than terms.
    """
    while degree > 0 and (degree + 1) * (degree + 2) // 2 > len(points):
        degree -= 1
    low, high = points.min(axis=0), points.max(axis=0)
    centre, scale = (low + high) / 2, np.maximum((high - low) / 2, 1e-9)
    u, v = ((points - centre) / scale).T
    matrix = design(u, v, degree)
    normal = matrix.T @ matrix
    # Points on few lines do not determine all terms: the minimum-norm solution is used.
    coefficients = np.linalg.pinv(normal, rcond=1e-13, hermitian=True) @ (matrix.T @ values)
    return Polynomial2D(coefficients, centre, scale, degree)
