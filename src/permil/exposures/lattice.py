"""Search projector positions for the regular grids of beam scans.

A scan steps the projector over a rectangular grid. A grid is recognised by its steps: its nodes have neighbours one step away along X
or Y. The quincunx of five pointings per detector does not link up in this way: the gap between the pointings of one detector differs
from the gap to the next detector, so that only a few of them join. Missing nodes, missing columns, an unfinished last column, a slight
rotation and jitter are allowed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from permil.errors import PositionError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Fewer nodes do not constrain a beam model, and nine pointings in a raft can look like a grid.
MIN_NODES = 16
# Fraction of the crossings of rows and columns that must be occupied.
MIN_FILL = 0.5
# Fraction of the sites inside the window of a grid that must be nodes: pointings at all detectors form five interleaved grids.
MIN_SHARE = 0.28
_GAPS_TRIED = 5
_CELLS_PER_TOLERANCE = 10


@dataclass(frozen=True)
class Lattice:
    """A regular grid among sites.

    Attributes
    ----------
    nodes
        Sorted indices of the sites that form the grid.
    continued
        Sorted indices of the nodes and of further sites on the extended grid, up to one grid length away: nodes of an unfinished scan, or
        sites that coincide with the grid by chance.
    """

    nodes: IntArray
    continued: IntArray


def cluster(x: FloatArray, y: FloatArray, *, tolerance_mm: float, require_compact: bool = True) -> IntArray:
    """Return a label for each position; positions within the tolerance of each other, directly or by a chain, share a label.

    Labels are numbered in the order of the clusters' mean positions (x, then y), whatever the order of the input.

    Raises
    ------
    PositionError
        If ``require_compact`` and a chain of close positions is longer than twice the tolerance, so that jitter cannot be distinguished
        from steps.
    """
    if len(x) == 0:
        return np.zeros(0, dtype=np.int64)
    points = np.stack([x, y], axis=1)
    # Thousands of images at one position would make millions of pairs: positions in one cell count as one point.
    cell = tolerance_mm / _CELLS_PER_TOLERANCE
    cells, member_of = np.unique(np.rint(points / cell).astype(np.int64), axis=0, return_inverse=True)
    pairs = cKDTree(cells).query_pairs(_CELLS_PER_TOLERANCE, output_type="ndarray")
    labels = _components(len(cells), pairs)[member_of]
    counts = np.bincount(labels)
    means = np.stack([np.bincount(labels, weights=axis) / counts for axis in (x, y)], axis=1)
    if require_compact:
        distance = np.hypot(*(points - means[labels]).T)
        if distance.max() > tolerance_mm:
            worst = distance.argmax()
            raise PositionError(
                f"positions near ({x[worst]:.3f}, {y[worst]:.3f}) mm form a chain longer than {2 * tolerance_mm:g} mm with gaps below "
                f"{tolerance_mm:g} mm: steps cannot be distinguished from jitter",
                remedy="set exposures.same_position_mm below the smallest step",
                value=float(distance.max()),
            )
    rank = np.empty(len(means), dtype=np.int64)
    rank[np.lexsort((means[:, 1], means[:, 0]))] = np.arange(len(means))
    return rank[labels]


def _components(n_points: int, pairs: IntArray) -> IntArray:
    links = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n_points, n_points))
    labels: IntArray = connected_components(links, directed=False)[1].astype(np.int64)
    return labels


def find_lattices(x: FloatArray, y: FloatArray, *, tolerance_mm: float) -> list[Lattice]:
    """Return the regular grids among sites, the largest first.

    Parameters
    ----------
    x, y : ndarray, shape (n,)
        Distinct sites, mm.
    tolerance_mm
        Largest distance of a node from its nominal position in the grid.
    """
    free = np.arange(len(x))
    found: list[Lattice] = []
    while len(free) >= MIN_NODES:
        lattice = _largest_lattice(np.stack([x[free], y[free]], axis=1), tolerance_mm)
        if lattice is None:
            break
        found.append(Lattice(free[lattice.nodes], free[lattice.continued]))
        free = np.delete(free, lattice.nodes)
    return found


def _largest_lattice(points: FloatArray, tolerance_mm: float) -> Lattice | None:
    tree = cKDTree(points)
    x, y = points.T
    gaps = [_frequent_gaps(x, y, tolerance_mm), _frequent_gaps(y, x, tolerance_mm)]
    # A scan that has only begun may have a single gap along X, probably the same as along Y.
    links = [
        [_step_links(tree, points, step * direction, tolerance_mm) for step in [*gaps[axis], *gaps[1 - axis][:1]]]
        for axis, direction in enumerate(np.eye(2))
    ]
    none = np.zeros((0, 2), dtype=np.int64)
    best: Lattice | None = None
    for pairs_x in links[0] or [none]:
        for pairs_y in links[1] or [none]:
            labels = _components(len(points), np.concatenate([pairs_x, pairs_y]))
            counts = np.bincount(labels)
            for label in np.flatnonzero(counts >= MIN_NODES):
                nodes = np.flatnonzero(labels == label)
                if best is not None and len(nodes) <= len(best.nodes):
                    continue
                lattice = _completed(points, nodes, pairs_x, pairs_y, tolerance_mm)
                if _is_filled_grid(points, lattice.nodes, tolerance_mm) and (
                    best is None or len(lattice.nodes) > len(best.nodes)
                ):
                    best = lattice
    return best


def _frequent_gaps(along: FloatArray, across: FloatArray, tolerance_mm: float) -> list[float]:
    """Return the distances to the next site in the same row, the most frequent first."""
    order = np.argsort(across, kind="stable")
    row = np.empty(len(along), dtype=np.int64)
    row[order] = np.cumsum(np.concatenate([[0], np.diff(across[order]) > tolerance_mm]))
    order = np.lexsort((along, row))
    gaps = np.diff(along[order])[np.diff(row[order]) == 0]
    gaps = np.sort(gaps[gaps > tolerance_mm])
    steps: list[float] = []
    while len(gaps) and len(steps) < _GAPS_TRIED:
        ends = np.searchsorted(gaps, gaps + 2 * tolerance_mm, side="right")
        start = int((ends - np.arange(len(gaps))).argmax())
        steps.append(float(np.median(gaps[start : ends[start]])))
        gaps = np.delete(gaps, slice(start, ends[start]))
    return steps


def _step_links(tree: cKDTree, points: FloatArray, step: FloatArray, tolerance_mm: float) -> IntArray:
    """Return the pairs of sites that are one step apart."""
    distance, neighbour = (np.asarray(part) for part in tree.query(points + step, distance_upper_bound=tolerance_mm))
    start = np.flatnonzero(np.isfinite(distance))
    return np.stack([start, neighbour[start]], axis=1).astype(np.int64)


def _completed(points: FloatArray, nodes: IntArray, pairs_x: IntArray, pairs_y: IntArray, tolerance_mm: float) -> Lattice:
    """Add sites that continue a grid across one missing row or column, and find those farther away."""
    steps = [_mean_step(points, nodes, pairs, axis) for axis, pairs in enumerate((pairs_x, pairs_y))]
    # An axis without steps cannot be extended.
    has_step = np.array([step > 0 for step in steps])
    while True:
        cells = _cells(points, nodes, steps)
        origin_and_steps, _, _, _ = np.linalg.lstsq(_design(cells[nodes]), points[nodes], rcond=None)
        fits = np.abs(points - _design(cells) @ origin_and_steps).max(axis=1) < tolerance_mm
        low, high = cells[nodes].min(axis=0), cells[nodes].max(axis=0)
        length = max(2, int((high - low).max()))
        near, far = (
            np.flatnonzero(fits & ((cells >= low - reach) & (cells <= high + reach)).all(axis=1))
            for reach in (2 * has_step, length * has_step)
        )
        grown = np.union1d(nodes, near)
        if len(grown) == len(nodes):
            return Lattice(nodes, np.union1d(nodes, far))
        nodes = grown


def _mean_step(points: FloatArray, nodes: IntArray, pairs: IntArray, axis: int) -> float:
    inside = pairs[np.isin(pairs[:, 0], nodes)]
    return float((points[inside[:, 1], axis] - points[inside[:, 0], axis]).mean()) if len(inside) else 0.0


def _cells(points: FloatArray, nodes: IntArray, steps: list[float]) -> IntArray:
    """Return column and row numbers of all sites in the grid of the nodes."""
    origin = points[nodes[0]]
    columns = [
        np.rint((points[:, axis] - origin[axis]) / step) if step > 0 else np.zeros(len(points)) for axis, step in enumerate(steps)
    ]
    return np.stack(columns, axis=1).astype(np.int64)


def _design(cells: IntArray) -> FloatArray:
    return np.concatenate([np.ones((len(cells), 1)), cells], axis=1)


def _is_filled_grid(points: FloatArray, nodes: IntArray, tolerance_mm: float) -> bool:
    """Return whether the nodes fill rows times columns, and are not one of several interleaved grids."""
    labels = []
    for axis in (0, 1):
        order = np.argsort(points[nodes, axis], kind="stable")
        label = np.empty(len(nodes), dtype=np.int64)
        label[order] = np.cumsum(np.concatenate([[0], np.diff(points[nodes, axis][order]) > tolerance_mm]))
        labels.append(label)
    occupied = np.zeros((labels[0].max() + 1, labels[1].max() + 1), dtype=bool)
    occupied[labels[0], labels[1]] = True
    low, high = points[nodes].min(axis=0) - tolerance_mm, points[nodes].max(axis=0) + tolerance_mm
    inside = ((points >= low) & (points <= high)).all(axis=1).sum()
    return _fill(occupied) >= MIN_FILL and len(nodes) >= MIN_SHARE * inside


def _fill(occupied: NDArray[np.bool_]) -> float:
    # The last column or row may be unfinished: the least occupied one is ignored if there are others.
    fills = [occupied.mean()]
    for axis in (0, 1):
        if occupied.shape[axis] > 1:
            per_line = occupied.mean(axis=1 - axis)
            fills.append(np.delete(occupied, per_line.argmin(), axis=axis).mean())
    return float(max(fills))
