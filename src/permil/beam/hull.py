"""Convex hull of the nodes: the area in which the beam was measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import ConvexHull

from permil.errors import BeamError

FloatArray = NDArray[np.float64]

TOLERANCE_MM = 1e-6
FLATNESS = 1e-6


@dataclass(frozen=True)
class Hull:
    """Convex hull of points in the beam's coordinates.

    Parameters
    ----------
    half_planes : ndarray, shape (k, 3)
        Unit outward normal and offset of each side: inside is ``n_x u_x + n_y u_y + c <= 0``, mm.
    vertices : ndarray of int
        Indices of the points at the corners.
    area : float
        Area, mm^2.
    lower, upper : ndarray, shape (2,)
        Bounding box, mm.
    """

    half_planes: FloatArray
    vertices: NDArray[np.int64]
    area: float
    lower: FloatArray
    upper: FloatArray

    @classmethod
    def of(cls, u: FloatArray) -> Hull:
        """Return the hull of points ``u`` (n, 2).

        Raises
        ------
        BeamError
            If the points lie on a line.
        """
        centred = u - u.mean(axis=0)
        spread = np.linalg.svd(centred, compute_uv=False)
        if len(spread) < 2 or spread[1] <= FLATNESS * max(spread[0], TOLERANCE_MM):
            raise BeamError(
                f"the {len(u)} nodes lie on one line and do not constrain the beam across it",
                remedy="scan in both directions",
                value=len(u),
            )
        hull = ConvexHull(u)
        return cls(
            hull.equations.copy(), np.sort(hull.vertices).astype(np.int64), float(hull.volume), u.min(axis=0), u.max(axis=0)
        )

    def contains(self, ux: ArrayLike, uy: ArrayLike, *, tolerance: float = TOLERANCE_MM) -> NDArray[np.bool_]:
        """Return which points lie inside, or within the tolerance (mm) of the edge."""
        ux, uy = np.broadcast_arrays(np.asarray(ux, dtype=float), np.asarray(uy, dtype=float))
        inside = np.ones(ux.shape, dtype=bool)
        for normal_x, normal_y, offset in self.half_planes:
            inside &= normal_x * ux + normal_y * uy + offset <= tolerance
        return inside

    def lattice(self, count: int) -> FloatArray:
        """Return the points of a regular ``count`` x ``count`` lattice over the bounding box that lie inside, shape (n, 2)."""
        axes = [np.linspace(low, high, count) for low, high in zip(self.lower, self.upper, strict=True)]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
        return points[self.contains(*points.T)]
