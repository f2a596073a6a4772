"""Parameters that determine a beam model together with its nodes, and the geometry of the nodes: hull, spacing, holes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import ConvexHull, cKDTree

from permil.arrays import BoolArray, FloatArray, IntArray
from permil.beam.likelihood import KernelFamily, Observations, Variances
from permil.beam.nodes import BeamNodes
from permil.errors import BeamError

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
    vertices: IntArray
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

    def contains(self, ux: ArrayLike, uy: ArrayLike, *, tolerance: float = TOLERANCE_MM) -> BoolArray:
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


MAX_CENTRES = 2500
"""Largest number of distinct positions with every node as a centre (exact Gaussian process)."""
LATTICE_CENTRES = 2000
MAX_EXPOSURES = 1000
SAME_POSITION_MM = 1e-6
HOLE_LATTICE = 60
HOLE_QUANTILE = 0.98  # a single missing node must not make the scan count as sparser


@dataclass(frozen=True)
class Member:
    """One kernel family with one choice of the down-weighted nodes.

    Parameters
    ----------
    family, variances
        Covariance of the log beam.
    weight
        Weight of its prediction; the weights of all members sum to 1.
    extra_variance : ndarray, shape (n,)
        Variance added to the log signal of each node: 0, or the squared deviation of a node treated as an outlier here.
    roughness : ndarray, shape (n,)
        Factor on the variance of the log beam around each node: 1, or more if a suspect node is treated as good here.
    """

    family: KernelFamily
    variances: Variances
    weight: float
    extra_variance: FloatArray
    roughness: FloatArray


@dataclass(frozen=True)
class BeamParameters:
    """Members and weights of exposures of a beam model; with the nodes they determine it.

    Parameters
    ----------
    members
        The kernel families, once for each choice of the outliers.
    exposure_weight : ndarray, shape (n_exposures,)
        Factor on the variance of each exposure's scale: 1, or larger for a glitch.
    """

    members: tuple[Member, ...]
    exposure_weight: FloatArray

    @property
    def outlier_probability(self) -> FloatArray:
        """Probability that each node is an outlier: the weight of the members that down-weight it, shape (n,)."""
        weights = np.array([member.weight for member in self.members])
        bad = np.array([member.extra_variance > 0.0 for member in self.members])
        return weights @ bad / weights.sum()


def observations_of(nodes: BeamNodes, extra_variance: FloatArray, exposure_weight: FloatArray | None) -> Observations:
    """Convert nodes to the observations of the fit.

    In the logarithm, the gain of a bunch and the scale of an exposure become terms of a linear model.
    """
    relative = nodes.signal_err / nodes.signal
    _, bunch = np.unique(nodes.bunch, return_inverse=True)
    exposure = _shared_exposures(nodes.exposure, bunch.reshape(-1))
    number = int(exposure.max(initial=-1)) + 1
    return Observations(
        u=nodes.u,
        log_signal=np.log(nodes.signal),
        known_variance=np.where(np.isfinite(relative), relative, 0.0) ** 2 + extra_variance,
        bunch=bunch.reshape(-1).astype(np.int64),
        exposure=exposure,
        exposure_weight=np.ones(number) if exposure_weight is None else exposure_weight,
        n_bunches=int(bunch.max()) + 1,
    )


def _shared_exposures(labels: IntArray, bunch: IntArray) -> IntArray:
    """Number the exposures with several nodes from 0; -1 for the others.

    With a single bunch, or with so many exposures that their scales average out, all are -1: the scale errors
    are then part of the node noise.
    """
    numbers = np.full(labels.size, -1, dtype=np.int64)
    distinct, counts = np.unique(labels[labels >= 0], return_counts=True)
    shared = distinct[counts > 1]
    if np.unique(bunch).size > 1 and 0 < shared.size <= MAX_EXPOSURES:
        member = np.isin(labels, shared)
        numbers[member] = np.searchsorted(shared, labels[member])
    return numbers


def spacing_of(u: FloatArray, hull: Hull) -> float:
    """Return the typical distance of neighbours, mm: square root of the area per distinct position."""
    distinct = len(np.unique((u / SAME_POSITION_MM).round(), axis=0))
    return float(np.sqrt(hull.area / distinct))


def hole_of(nodes: BeamNodes, hull: Hull) -> float:
    """Return the radius of the larger holes between the nodes, mm: the distance of a point of the hull from the nearest node.

    On a square grid it is below the spacing; if nodes are close in one direction only, repeated or scattered, it is above. It is 0
    with several bunches, which sample the beam between the positions of the scan, and with more than 2500 nodes.
    """
    if np.unique(nodes.bunch).size > 1 or len(nodes) > MAX_CENTRES:
        return 0.0
    distance, _ = cKDTree(nodes.u).query(hull.lattice(HOLE_LATTICE))
    return float(np.quantile(distance, HOLE_QUANTILE))


def holes_of(u: FloatArray, radius: float) -> list[IntArray]:
    """Return for each node the nodes in the hole around it, itself first; an empty list if no hole contains two nodes."""
    if radius == 0.0:
        return []
    pairs = cKDTree(u).query_pairs(radius, output_type="ndarray")
    if not len(pairs):
        return []
    first, second = np.concatenate([pairs, pairs[:, ::-1]]).T
    return [np.array([index, *np.sort(second[first == index])]) for index in range(len(u))]


def centres_of(u: FloatArray, hull: Hull) -> FloatArray:
    """Return the centres of the process: the distinct positions, or a regular lattice if there are too many."""
    _, first = np.unique((u / SAME_POSITION_MM).round(), axis=0, return_index=True)
    if first.size <= MAX_CENTRES:
        return u[np.sort(first)]
    pitch = np.sqrt(hull.area / LATTICE_CENTRES)
    axes = [np.arange(low - pitch, high + 1.5 * pitch, pitch) for low, high in zip(hull.lower, hull.upper, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    return points[hull.contains(*points.T, tolerance=1.5 * pitch)]
