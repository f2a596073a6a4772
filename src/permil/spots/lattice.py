"""Estimate the two steps of a lattice from points alone, and label its points, without a guess of position, pitch or angle.

The differences between each point and its nearest neighbours cluster at the lattice vectors, even with missing or spurious points (the
two-dimensional autocorrelation, as in the indexing of diffraction patterns). The two shortest non-parallel clusters give the steps.

Links need the steps only to within a quarter, so that distortion is tolerated; they break at missing rows, and a spurious source may
link by chance. The labels of the largest linked part therefore only start a smooth map from position to node. The map labels all points
near it, grows across gaps, and sets the tolerance of the fit from the scatter of the labelled points.

Polynomials of two variables are sums of products of Chebyshev polynomials in scaled coordinates: they span the same space as powers,
and their normal equations remain well conditioned to high degrees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.polynomial import chebyshev
from scipy.ndimage import uniform_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components
from scipy.spatial import cKDTree

from permil.arrays import FloatArray, IntArray
from permil.errors import GridError

NEIGHBOURS = 8
_SAMPLE = 1000
# Size of a cluster in units of the median distance to the nearest neighbour: distortion and noise broaden it.
_BIN = 0.04
_PILE = 5
# A cluster has nearly one difference per point; for random points fewer than one in ten.
_LEAST_PILE = 0.25
_RELATIVE_PILE = 0.6
_PILES_TRIED = 24
# If only one step repeats, for at least this fraction of points, each spot is duplicated.
_DOUBLED = 0.35
_REACH = 4.0
_LEAST_SINE = 0.5
_MOST_UNEQUAL = 1.35
# In a lattice finer than the grid, one half of the nodes is occupied significantly less than this fraction of the other.
_FILLED_ALIKE = 0.7
_NEARLY_EMPTY = 0.35
_LEAST_PLACES = 9
_SIGNIFICANT = 4.0

UNLABELLED = np.iinfo(np.int64).min
"""Value of missing labels before the window is decided (labels may be negative)."""
# Largest distance of a point from the position expected by a link, in steps.
_LINK = 0.25
# Largest distance of a point from its node, in steps: a multiple of the scatter, within these limits.
_SCATTERS = 6.0
_LEAST_TOLERANCE, _MOST_TOLERANCE = 0.015, 0.2
# Largest extrapolation of the map beyond labelled points, in steps.
_LINK_REACH = 6.6
_ROUNDS = 40
_DEGREE = 3
_POINTS_PER_TERM = 4
# A line at the border with a smaller fraction of its nodes is checked for chance alignments.
_THIN_LINE = 0.4
_CLOSE_SCATTERS = 4.0
_SHORTEST_LINE = 4


@dataclass(frozen=True)
class Polynomial2D:
    """A polynomial map of the plane to the plane.

    Attributes
    ----------
    coefficients : ndarray, shape (terms, 2)
        Coefficients of the products of Chebyshev polynomials, lowest total degree first, in the scaled coordinates
        ``(u - centre) / scale``.
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
        return _terms((points - self.centre) / self.scale, self.degree) @ self.coefficients


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
    matrix = _terms((points - centre) / scale, degree)
    normal = matrix.T @ matrix
    # Points on few lines do not determine all terms: the minimum-norm solution is used.
    coefficients = np.linalg.pinv(normal, rcond=1e-13, hermitian=True) @ (matrix.T @ values)
    return Polynomial2D(coefficients, centre, scale, degree)


def _terms(points: FloatArray, degree: int) -> FloatArray:
    """Return the values of all terms up to a total degree, shape (n, terms), at points (n, 2) within about -1 and 1."""
    in_u, in_v = (chebyshev.chebvander(axis, degree) for axis in points.T)
    return np.stack(
        [in_u[:, total - power] * in_v[:, power] for total in range(degree + 1) for power in range(total + 1)], axis=1
    )


def lattice_steps(points: FloatArray, tree: cKDTree) -> FloatArray:
    """Estimate the steps of the lattice on which most points lie.

    Parameters
    ----------
    points : ndarray, shape (n, 2)
        Positions, pixels.
    tree
        Tree of the same points.

    Returns
    -------
    ndarray, shape (2, 2)
        Rows are the steps along i and along j (right-handed, i nearer to +x), accurate to a few per cent.

    Raises
    ------
    GridError
        If the steps between neighbours do not repeat, or do not form a nearly square lattice.
    """
    count = min(NEIGHBOURS, len(points) - 1)
    # A thousand points are sufficient.
    sample = points[:: max(1, len(points) // _SAMPLE)]
    distance, neighbour = (np.asarray(part) for part in tree.query(sample, k=count + 1))
    scale = float(np.median(distance[:, 1]))
    if not scale > 0:
        raise GridError("more than half of the sources are duplicated", remedy="give each source once")
    differences = (points[neighbour[:, 1:]] - sample[:, None, :]).reshape(-1, 2)
    clusters, counts = _clusters(differences, scale)
    enough = counts >= max(_LEAST_PILE * len(sample), _RELATIVE_PILE * counts[0] if len(counts) else 0)
    clusters, counts = clusters[enough], counts[enough]
    if len(clusters) == 1 and counts[0] > _DOUBLED * len(sample):
        raise GridError(
            f"most sources have a neighbour at ({clusters[0][0]:.1f}, {clusters[0][1]:.1f}) pixels and no other step repeats",
            remedy="check for two grids in one catalog (two exposures, or sources measured twice)",
            value=tuple(clusters[0]),
        )
    if len(clusters) < 2:
        raise _no_grid()
    return _oriented(_shortest_pair(clusters))


def _no_grid() -> GridError:
    return GridError(
        "the sources do not lie on a grid: the steps between neighbours do not repeat",
        remedy="give a catalog of an exposure of the spot mask",
    )


def _clusters(differences: FloatArray, scale: float) -> tuple[FloatArray, FloatArray]:
    """Return the clusters of differences (and their opposites), and their numbers of points, the largest first."""
    half = int(_REACH / _BIN)
    width = 2 * half + 1
    both = np.concatenate([differences, -differences])
    bins = np.rint(both / (_BIN * scale)).astype(np.int64) + half
    inside = ((bins >= 0) & (bins < width)).all(axis=1)
    both, bins = both[inside], bins[inside]
    histogram = np.bincount(bins[:, 0] * width + bins[:, 1], minlength=width**2).reshape(width, width)
    smooth = uniform_filter(histogram.astype(np.float64), size=_PILE, mode="constant") * _PILE**2
    # Half of the plane is sufficient: clusters occur in opposite pairs.
    smooth[:half] = 0
    smooth[half, : half + 1] = 0
    clusters, counts = [], []
    least = max(3.0, _RELATIVE_PILE / 3 * smooth.max())
    radius = _PILE * _BIN * scale
    for _ in range(_PILES_TRIED):
        row, column = (int(index) for index in np.unravel_index(int(smooth.argmax()), smooth.shape))
        if smooth[row, column] < least:
            break
        # Select a square around the cluster first: distances to all differences would dominate the time.
        near = both[(np.abs(bins - (row, column)) <= 2 * _PILE).all(axis=1)]
        centre = np.array([row - half, column - half]) * _BIN * scale
        centre = np.median(near[_squared(near - centre) < radius**2], axis=0)
        clusters.append(centre)
        counts.append((_squared(near - centre) < radius**2).sum() / 2)
        smooth[max(0, row - _PILE) : row + _PILE + 1, max(0, column - _PILE) : column + _PILE + 1] = 0
    order = np.argsort(counts)[::-1]
    return np.array(clusters).reshape(-1, 2)[order], np.array(counts, dtype=np.float64)[order]


def _squared(vectors: FloatArray) -> FloatArray:
    return vectors[:, 0] ** 2 + vectors[:, 1] ** 2


def _shortest_pair(clusters: FloatArray) -> FloatArray:
    """Return the reduced shortest pair of steps that are neither parallel nor very unequal.

    Sources half way between spots along one axis repeat at half a step; that step has no partner of equal length.
    """
    clusters = clusters[np.argsort(np.hypot(*clusters.T))]
    unequal: tuple[float, float] | None = None
    for index, second in enumerate(clusters):
        for first in clusters[:index]:
            if abs(first[0] * second[1] - first[1] * second[0]) <= _LEAST_SINE * np.hypot(*first) * np.hypot(*second):
                continue
            steps = _reduced(first, second)
            lengths = np.hypot(*steps.T)
            if lengths.max() <= _MOST_UNEQUAL * lengths.min():
                return steps
            unequal = unequal or (float(lengths[0]), float(lengths[1]))
    if unequal is None:
        raise _no_grid()
    raise GridError(
        f"the steps of the grid are {unequal[0]:.1f} and {unequal[1]:.1f} pixels, not nearly equal",
        remedy="the mask of spots is square: check for two grids in one catalog (two exposures?)",
        value=unequal,
    )


def coarser_steps(labels: IntArray, steps: FloatArray) -> FloatArray | None:
    """Return the steps of the grid within a finer lattice whose additional nodes are sparsely occupied.

    False sources half way between spots (for example along the rim of a bright disc) produce a lattice finer than the mask. The nodes of
    the spots are then occupied nearly everywhere, the nodes between them only along the rim. The lattice is split into alternate lines
    along one axis, or into the two colours of a chessboard; in each half only nodes between labelled nodes of the other half are counted.

    Parameters
    ----------
    labels : ndarray, shape (n, 2)
        Labels of the points on the finer lattice.
    steps : ndarray, shape (2, 2)
        Steps of the finer lattice.

    Returns
    -------
    ndarray, shape (2, 2), or None
        None if both halves are equally occupied.
    """
    low = labels.min(axis=0) - 1
    filled = np.zeros(labels.max(axis=0) - low + 2, dtype=bool)
    filled[tuple((labels - low).T)] = True
    i, j = np.indices(filled.shape)
    between_i, between_j = np.zeros_like(filled), np.zeros_like(filled)
    between_i[1:-1] = filled[:-2] & filled[2:]
    between_j[:, 1:-1] = filled[:, :-2] & filled[:, 2:]
    first, second = steps
    splits = (
        (i % 2, between_i, (2 * first, second)),
        (j % 2, between_j, (first, 2 * second)),
        ((i + j) % 2, between_i & between_j, (first + second, second - first)),
    )
    best, coarser = 0.0, None
    for half, between, basis in splits:
        counts = np.array([(between & (half == side)).sum() for side in (0, 1)])
        if counts.max() < _LEAST_PLACES:
            continue
        is_known = counts >= _LEAST_PLACES
        shares = np.array([filled[between & (half == side)].mean() if is_known[side] else 1.0 for side in (0, 1)])
        if shares.min() > (_FILLED_ALIKE if is_known.all() else _NEARLY_EMPTY) * shares.max():
            continue
        mean = filled[between].mean()
        contrast = float(np.ptp(shares) / np.sqrt(max(mean * (1 - mean), 1e-6) * (1 / np.maximum(counts, 1)).sum()))
        if contrast > max(_SIGNIFICANT if is_known.all() else 0.0, best):
            best, coarser = contrast, np.stack(basis)
    return None if coarser is None else _oriented(_reduced(*coarser))


def _reduced(first: FloatArray, second: FloatArray) -> FloatArray:
    """Return the shortest basis of the same lattice (reduction of Lagrange and Gauss)."""
    while True:
        if first @ first > second @ second:
            first, second = second, first
        shift = np.rint(first @ second / (first @ first))
        if shift == 0:
            return np.stack([first, second])
        second = second - shift * first


def _oriented(steps: FloatArray) -> FloatArray:
    """Return the steps ordered such that the first is nearest to +x and the second is a quarter turn to its left."""
    if steps[0, 0] * steps[1, 1] - steps[0, 1] * steps[1, 0] < 0:
        steps = steps[::-1]
    turns = [steps, np.stack([steps[1], -steps[0]]), -steps, np.stack([-steps[1], steps[0]])]
    # The mean direction of both axes decides, so that a slight skew has no effect.
    along = [turn[0, 0] + turn[1, 1] for turn in turns]
    return turns[int(np.argmax(along))]


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
        gap, _ = cKDTree(points[inside]).query(points, distance_upper_bound=_LINK_REACH * pitch)
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
