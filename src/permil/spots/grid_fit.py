"""Fits of a labelled grid: five parameters, affine, polynomial distortion, and residuals at the nodes.

Node (i, j) of a mask of ``columns`` x ``rows`` has ``u = i - (columns - 1) / 2`` and ``v = j - (rows - 1) / 2``. Five parameters
(the header cards of grid files of mixcoatl and permil)::

    x = X0 + u XSTEP cos THETA - v YSTEP sin THETA
    y = Y0 + u XSTEP sin THETA + v YSTEP cos THETA

All residual rms are radial: ``sqrt(mean(dx^2 + dy^2))`` over all labelled spots. Errors of parameters follow from the scatter of the
residuals, treated as independent; if distortion dominates, they describe the misfit, not the noise.

Polynomials of two variables are sums of products of Chebyshev polynomials in scaled coordinates: they span the same space as powers,
and their normal equations remain well conditioned to high degrees.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from permil.arrays import FloatArray, IntArray

_ITERATIONS = 8


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


@dataclass(frozen=True)
class RigidGrid:
    """The five parameters of a grid: pixels and radians, THETA in (-pi/4, pi/4].

    ``errors`` are those of (x0, y0, xstep, ystep, theta); ``rms`` is the radial residual in pixels, NaN if the grid was not fitted.
    """

    x0: float
    y0: float
    xstep: float
    ystep: float
    theta: float
    columns: int
    rows: int
    errors: tuple[float, float, float, float, float] = (np.nan, np.nan, np.nan, np.nan, np.nan)
    rms: float = np.nan

    def positions(self, grid_i: IntArray | FloatArray, grid_j: IntArray | FloatArray) -> FloatArray:
        """Return x, y of nodes, shape (n, 2), pixels."""
        u, v = np.asarray(grid_i) - (self.columns - 1) / 2, np.asarray(grid_j) - (self.rows - 1) / 2
        along, across = u * self.xstep, v * self.ystep
        cosine, sine = np.cos(self.theta), np.sin(self.theta)
        return np.stack([self.x0 + along * cosine - across * sine, self.y0 + along * sine + across * cosine], axis=1)

    def nodes(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Return the continuous node coordinates (i, j) of positions, shape (n, 2)."""
        cosine, sine = np.cos(self.theta), np.sin(self.theta)
        from_x, from_y = np.asarray(x) - self.x0, np.asarray(y) - self.y0
        return np.stack(
            [
                (from_x * cosine + from_y * sine) / self.xstep + (self.columns - 1) / 2,
                (from_y * cosine - from_x * sine) / self.ystep + (self.rows - 1) / 2,
            ],
            axis=1,
        )


@dataclass(frozen=True)
class AffineGrid:
    """``position = origin + (u, v) @ steps``, pixels: independent steps along both axes. ``rms`` is radial."""

    origin: FloatArray
    steps: FloatArray
    rms: float


@dataclass(frozen=True)
class Distortion:
    """Polynomial map of (u, v) to the detector, with its radial residual rms and the residual shift of each node.

    Attributes
    ----------
    map
        Map of (u, v) to (x, y), pixels.
    degree
        Total degree.
    rms
        Radial residual rms, pixels.
    residuals : ndarray, shape (n, 2)
        Measured minus fitted position of the labelled spots: the individual shift of each node plus noise.
    """

    map: Polynomial2D
    degree: int
    rms: float
    residuals: FloatArray


def radial_rms(residuals: FloatArray) -> float:
    """Return ``sqrt(mean(dx^2 + dy^2))`` of residuals of shape (n, 2)."""
    return float(np.sqrt((residuals**2).sum(axis=1).mean()))


def centred(nodes: IntArray, columns: int, rows: int) -> FloatArray:
    """Return (u, v) of nodes (i, j), both of shape (n, 2)."""
    return nodes - np.array([(columns - 1) / 2, (rows - 1) / 2])


def fit_affine(points: FloatArray, uv: FloatArray) -> AffineGrid:
    """Fit an affine grid to positions, shape (n, 2), of nodes (u, v), shape (n, 2)."""
    matrix = np.column_stack([np.ones(len(uv)), uv])
    solution, _, _, _ = np.linalg.lstsq(matrix, points, rcond=None)
    residuals = points - matrix @ solution
    return AffineGrid(solution[0].astype(np.float64), solution[1:].astype(np.float64), radial_rms(residuals))


def fit_rigid(points: FloatArray, uv: FloatArray, columns: int, rows: int) -> RigidGrid:
    """Fit the five parameters by Gauss-Newton steps from the affine fit.

    Parameters
    ----------
    points, uv : ndarray, shape (n, 2)
        Positions (pixels) and nodes (u, v); at least three, not collinear.
    columns, rows
        Size of the mask.
    """
    affine = fit_affine(points, uv)
    along_i, along_j = affine.steps
    parameters = np.array(
        [
            *affine.origin,
            np.hypot(*along_i),
            np.hypot(*along_j),
            np.arctan2(along_i[1] - along_j[0], along_i[0] + along_j[1]),
        ]
    )
    u, v = uv.T
    zero, one = np.zeros(len(u)), np.ones(len(u))
    for _ in range(_ITERATIONS):
        x0, y0, xstep, ystep, theta = parameters
        cosine, sine = np.cos(theta), np.sin(theta)
        from_x, from_y = u * xstep * cosine - v * ystep * sine, u * xstep * sine + v * ystep * cosine
        residual = np.concatenate([points[:, 0] - x0 - from_x, points[:, 1] - y0 - from_y])
        jacobian = np.stack(
            [
                np.concatenate([one, zero]),
                np.concatenate([zero, one]),
                np.concatenate([u * cosine, u * sine]),
                np.concatenate([-v * sine, v * cosine]),
                np.concatenate([-from_y, from_x]),
            ],
            axis=1,
        )
        normal = jacobian.T @ jacobian
        change = np.linalg.solve(normal, jacobian.T @ residual)
        parameters = parameters + change
        if np.abs(change).max() < 1e-10:
            break
    freedom = max(1, 2 * len(u) - 5)
    spread = np.sqrt(np.diag(np.linalg.inv(normal)) * (residual @ residual) / freedom)
    errors = (float(spread[0]), float(spread[1]), float(spread[2]), float(spread[3]), float(spread[4]))
    x0, y0, xstep, ystep, theta = parameters.tolist()
    rigid = RigidGrid(x0, y0, xstep, ystep, theta, columns, rows, errors)
    residuals = points - rigid.positions(u + (columns - 1) / 2, v + (rows - 1) / 2)
    return replace(rigid, rms=radial_rms(residuals))


def fit_distortion(points: FloatArray, uv: FloatArray, degree: int) -> Distortion:
    """Fit a polynomial of total degree ``degree`` (lowered if there are too few spots) to positions of nodes."""
    polynomial = fit_polynomial(uv, points, degree)
    residuals = points - polynomial(uv)
    return Distortion(polynomial, polynomial.degree, radial_rms(residuals), residuals)
