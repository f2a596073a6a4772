"""Label the points of a lattice: links between neighbours, labels along the links, then growth and rejection by a smooth map.

Links need the steps only to within a quarter, so that distortion is tolerated; they break at missing rows, and a spurious source may link
by chance. The labels of the largest linked part therefore only start a smooth map from position to node. The map labels all points near
it, grows across gaps, and sets the tolerance of the fit from the scatter of the labelled points.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components
from scipy.spatial import cKDTree

from permil.spots.polynomial import Polynomial2D, fit_polynomial

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

UNLABELLED = np.iinfo(np.int64).min
"""Value of missing labels before the window is decided (labels may be negative)."""

# Largest distance of a point from the position expected by a link, in steps.
_LINK = 0.25
# Largest distance of a point from its node, in steps: a multiple of the scatter, within these limits.
_SCATTERS = 6.0
_LEAST_TOLERANCE, _MOST_TOLERANCE = 0.015, 0.2
# Largest extrapolation of the map beyond labelled points, in steps.
_REACH = 6.6
_ROUNDS = 40
_DEGREE = 3
_POINTS_PER_TERM = 4
# A line at the border with a smaller fraction of its nodes is checked for chance alignments.
_THIN_LINE = 0.4
_CLOSE_SCATTERS = 4.0
_SHORTEST_LINE = 4


def label_points(points: FloatArray, tree: cKDTree, steps: FloatArray) -> IntArray:
    """Label the points that lie on a lattice.

    Parameters
    ----------
    points : ndarray, shape (n, 2)
        Positions, pixels.
    tree
        Tree of the same points.
    steps : ndarray, shape (2, 2)
        Rows are the steps along i and j, accurate to a few per cent.

    Returns
    -------
    ndarray, shape (n, 2)
        Labels (i, j) up to a common shift; both `UNLABELLED` for spurious points. Labels are unique.
    """
    labels = _linked_labels(points, tree, steps)
    pitch = float(np.hypot(*steps.T).mean())
    tolerance = _MOST_TOLERANCE
    seen: list[bytes] = []
    for _ in range(_ROUNDS):
        inside = labels[:, 0] != UNLABELLED
        node_of = _robust_map(points[inside], labels[inside])
        place = node_of(points)
        nearest = np.rint(place).astype(np.int64)
        off = np.hypot(*(place - nearest).T)
        tolerance = _tolerance(off[inside], tolerance)
        gap, _ = cKDTree(points[inside]).query(points, distance_upper_bound=_REACH * pitch)
        labels = np.where(((off < tolerance) & np.isfinite(gap))[:, None], nearest, UNLABELLED)
        _keep_nearest(labels, off)
        if labels.tobytes() in seen:
            break
        seen = [*seen[-3:], labels.tobytes()]
        if (labels[:, 0] != UNLABELLED).sum() < 4:
            break
    else:
        return np.full_like(labels, UNLABELLED)
    _drop_chance_lines(points, labels, off)
    return labels


def _linked_labels(points: FloatArray, tree: cKDTree, steps: FloatArray) -> IntArray:
    """Label the largest component connected by mutual links of one step."""
    pitch = np.hypot(*steps.T).mean()
    starts, ends, axes = [], [], []
    for axis, step in enumerate(steps):
        # The number of points means "none".
        forward, backward = (
            np.asarray(tree.query(points + sign * step, distance_upper_bound=_LINK * pitch)[1]) for sign in (1, -1)
        )
        start = np.flatnonzero(forward < len(points))
        start = start[backward[forward[start]] == start]
        starts.append(start)
        ends.append(forward[start])
        axes.append(np.full(len(start), axis))
    start, end, along_axis = (np.concatenate(part) for part in (starts, ends, axes))
    links = coo_array((np.ones(len(start), dtype=np.int8), (start, end)), shape=(len(points), len(points))).tocsr()
    _, part = connected_components(links, directed=False)
    largest = part == np.bincount(part).argmax()
    # Start in the middle, where the distortion is smallest.
    middle = np.median(points[largest], axis=0)
    seed = np.flatnonzero(largest)[np.hypot(*(points[largest] - middle).T).argmin()]
    order, before = breadth_first_order(links, seed, directed=False)
    one_step = dict(zip(zip(start.tolist(), end.tolist(), strict=True), along_axis.tolist(), strict=True))
    labels = np.full((len(points), 2), UNLABELLED)
    named: dict[int, tuple[int, int]] = {int(seed): (0, 0)}
    for point, previous in zip(order[1:].tolist(), before[order[1:]].tolist(), strict=True):
        forward_axis = one_step.get((previous, point))
        sign, along = (1, forward_axis) if forward_axis is not None else (-1, one_step[point, previous])
        i, j = named[previous]
        named[point] = (i + sign, j) if along == 0 else (i, j + sign)
    labels[list(named)] = list(named.values())
    return labels


def _robust_map(points: FloatArray, labels: IntArray) -> Polynomial2D:
    """Fit the map from position to node, excluding inconsistent points."""
    degree = _DEGREE
    while degree > 1 and (degree + 1) * (degree + 2) // 2 * _POINTS_PER_TERM > len(points):
        degree -= 1
    used = np.ones(len(points), dtype=bool)
    for _ in range(3):
        node_of = fit_polynomial(points[used], labels[used].astype(np.float64), degree)
        off = np.hypot(*(node_of(points) - labels).T)
        used = off <= max(_SCATTERS * float(np.median(off)), _LEAST_TOLERANCE)
    return node_of


def _tolerance(off: FloatArray, before: float) -> float:
    # The median of the length of a Gaussian vector is 1.18 times the scatter along one axis.
    scatter = float(np.median(off)) / 1.18
    # Reduced gradually, since the first map is extrapolated far beyond the first part.
    return max(before / 2, float(np.clip(_SCATTERS * scatter, _LEAST_TOLERANCE, _MOST_TOLERANCE)))


def _keep_nearest(labels: IntArray, off: FloatArray) -> None:
    """Unlabel all but the nearest of the points with the same label."""
    inside = np.flatnonzero(labels[:, 0] != UNLABELLED)
    order = inside[np.lexsort((off[inside], labels[inside, 1], labels[inside, 0]))]
    repeated = (labels[order[1:]] == labels[order[:-1]]).all(axis=1)
    labels[order[1:][repeated]] = UNLABELLED


def _drop_chance_lines(points: FloatArray, labels: IntArray, off: FloatArray) -> None:
    """Unlabel chance alignments on sparse lines at the border.

    A spurious source outside the mask falls on the extrapolated grid with a small probability. It is then alone on its line although most
    of the line lies on the detector; a true spot on such a line (faint ones may be missing) fits closely and has neighbours.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    dropped = True
    while dropped:
        dropped = False
        for axis, side in ((0, np.min), (0, np.max), (1, np.min), (1, np.max)):
            inside = np.flatnonzero(labels[:, 0] != UNLABELLED)
            if len(inside) < 4:
                return
            border = int(side(labels[inside, axis]))
            line = inside[labels[inside, axis] == border]
            if len(line) >= _THIN_LINE * np.ptp(labels[inside, 1 - axis]):
                continue
            if len(line) >= _THIN_LINE * _expected(points, labels, inside, axis, border, low, high):
                continue
            scatter = float(np.median(off[inside])) / 1.18
            chance = line[(off[line] > _CLOSE_SCATTERS * scatter) | (_neighbours(labels, inside, line) == 0)]
            labels[chance] = UNLABELLED
            dropped |= len(chance) > 0


def _expected(
    points: FloatArray, labels: IntArray, inside: IntArray, axis: int, border: int, low: FloatArray, high: FloatArray
) -> int:
    """Return the number of nodes of a line within the area of the sources; 0 if there are too few to decide."""
    place_of = fit_polynomial(labels[inside].astype(np.float64), points[inside], _DEGREE if len(inside) > 40 else 1)
    across = labels[inside, 1 - axis]
    nodes = np.empty((int(across.max() - across.min()) + 1, 2))
    nodes[:, axis] = border
    nodes[:, 1 - axis] = np.arange(across.min(), across.max() + 1)
    places = place_of(nodes)
    expected = int(((places > low) & (places < high)).all(axis=1).sum())
    return expected if expected >= _SHORTEST_LINE else 0


def _neighbours(labels: IntArray, inside: IntArray, of: IntArray) -> IntArray:
    """Return the number of labelled nodes among the eight neighbours."""
    apart = np.abs(labels[of][:, None, :] - labels[inside][None, :, :]).max(axis=2)
    return (apart == 1).sum(axis=1)
