"""Tensor cubic B-splines on a uniform grid of knots: places, planes, roughness."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.interpolate import BSpline

from permil._kernels import joint as kernels
from permil.arrays import FloatArray

_MARGIN = 1e-6


@dataclass(frozen=True)
class SplineGrid:
    """Knots of a tensor cubic B-spline.

    Parameters
    ----------
    origin : tuple of float
        Centre of the first B-spline along each axis, mm.
    spacing : float
        Distance of the knots, mm.
    shape : tuple of int
        B-splines along the two axes. Coefficients are stored with the second axis fastest.
    """

    origin: tuple[float, float]
    spacing: float
    shape: tuple[int, int]

    @classmethod
    def covering(cls, lower: FloatArray, upper: FloatArray, spacing: float) -> SplineGrid:
        """Return the smallest grid whose splines fully cover every place between two corners (mm)."""
        middle, half = (np.asarray(lower) + np.asarray(upper)) / 2, (np.asarray(upper) - np.asarray(lower)) / 2
        cells = np.maximum(np.ceil(2 * half / spacing + _MARGIN), 1).astype(int)
        origin = middle - spacing * (cells / 2 + 1)
        return cls((float(origin[0]), float(origin[1])), float(spacing), (int(cells[0] + 3), int(cells[1] + 3)))

    @property
    def size(self) -> int:
        """Number of coefficients."""
        return self.shape[0] * self.shape[1]

    @property
    def lower(self) -> FloatArray:
        """Lower corner of the area in which the spline is defined, mm."""
        return np.array(self.origin) + self.spacing

    @property
    def upper(self) -> FloatArray:
        """Upper corner of that area, mm."""
        return np.array(self.origin) + self.spacing * (np.array(self.shape) - 2)

    def halved(self) -> SplineGrid:
        """Return the grid of knots half as far apart over the same area; its splines contain those of this one."""
        count_x, count_y = (2 * count - 3 for count in self.shape)
        origin_x, origin_y = (start + self.spacing / 2 for start in self.origin)
        return SplineGrid((origin_x, origin_y), self.spacing / 2, (count_x, count_y))

    def prolongation(self) -> sparse.csr_array:
        """Return the matrix that turns coefficients into those on the halved grid of the same function (Lane & Riesenfeld 1980)."""
        along_x, along_y = (_halving(count) for count in self.shape)
        return sparse.csr_array(sparse.kron(along_x, along_y))

    def knots(self) -> FloatArray:
        """Return the centres of the B-splines, shape (size, 2), mm."""
        axes = [start + self.spacing * np.arange(count) for start, count in zip(self.origin, self.shape, strict=True)]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)

    def planes(self) -> FloatArray:
        """Return the coefficients of the functions 1, x and y (mm from the middle of the grid), shape (size, 3).

        A uniform B-spline reproduces a plane from its values at the centres.
        """
        knots = self.knots()
        return np.column_stack([np.ones(self.size), knots - knots.mean(axis=0)])

    def roughness(self) -> sparse.csc_array:
        """Return the matrix ``R`` for which ``c R c`` approximates the integral of ``f_xx^2 + 2 f_xy^2 + f_yy^2`` (1/mm^2).

        Derivatives are differences of coefficients (P-splines, Eilers & Marx 1996, Statistical Science 11, 89); planes have none.
        """
        first, second = ([_differences(count, order) for count in self.shape] for order in (1, 2))
        unit = [sparse.eye_array(count) for count in self.shape]
        parts = [sparse.kron(second[0], unit[1]), sparse.kron(unit[0], second[1]), np.sqrt(2) * sparse.kron(first[0], first[1])]
        difference = sparse.vstack(parts)
        return sparse.csc_array(difference.T @ difference / self.spacing**2)

    def evaluate(self, coefficients: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
        """Return the spline at places (mm, any shapes that broadcast); NaN outside the area in which it is defined."""
        places = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
        counts, grid = np.array([[*self.shape, 0]]), np.array([[*self.origin, self.spacing, 1.0]])
        values = kernels.evaluate(places[0].ravel(), places[1].ravel(), counts, grid, np.ascontiguousarray(coefficients))
        return values.reshape(places[0].shape)

    def design(self, x: FloatArray, y: FloatArray) -> sparse.csr_array:
        """Return the matrix that turns coefficients into values at places (mm) inside the grid, shape (places, size)."""
        axes = []
        for start, count, place in zip(self.origin, self.shape, (np.ravel(x), np.ravel(y)), strict=True):
            knots = start + self.spacing * (np.arange(count + 4) - 2)
            axes.append(sparse.csr_array(BSpline.design_matrix(place, knots, 3)))
        rows, columns = axes
        places = (rows.indices.reshape(-1, 4, 1) * self.shape[1] + columns.indices.reshape(-1, 1, 4)).ravel()
        products = (rows.data.reshape(-1, 4, 1) * columns.data.reshape(-1, 1, 4)).ravel()
        return sparse.csr_array((products, places, 16 * np.arange(np.size(x) + 1)), shape=(np.size(x), self.size))


def _halving(count: int) -> sparse.csr_array:
    """Return the matrix for one axis: a cubic B-spline is the sum of five narrower ones with weights (1, 4, 6, 4, 1) / 8."""
    fine, coarse = np.meshgrid(np.arange(3, 2 * count), np.arange(count), indexing="ij")
    weights = np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 8
    place = fine - 2 * coarse
    inside = (place >= 0) & (place <= 4)
    return sparse.csr_array((weights[place[inside]], (fine[inside] - 3, coarse[inside])), shape=(2 * count - 3, count))


def _differences(count: int, order: int) -> sparse.csr_array:
    return sparse.csr_array(np.diff(np.eye(count), n=order, axis=0))
