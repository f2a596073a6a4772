"""The two steps of a lattice from points alone: no guess of place, pitch or angle.

The differences between each point and its nearest neighbours pile up at the lattice vectors, whatever is missing or spurious (the
two-dimensional autocorrelation, as used to index diffraction patterns). The shortest two piles that are not parallel are the steps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from scipy.spatial import cKDTree

from permil.spots.errors import GridError

FloatArray = NDArray[np.float64]

NEIGHBOURS = 8
_SAMPLE = 1000
# Size of a pile in units of the median distance to the nearest neighbour: distortion spreads it, noise too.
_BIN = 0.04
_PILE = 5
# A pile holds nearly one difference per point; random points put fewer than one in ten there.
_LEAST_PILE = 0.25
_RELATIVE_PILE = 0.6
_PILES_TRIED = 24
# One step that repeats for so many points, and no other: each spot is there twice.
_DOUBLED = 0.35
_REACH = 4.0
_LEAST_SINE = 0.5
_MOST_UNEQUAL = 1.35


def lattice_steps(points: FloatArray, tree: cKDTree) -> FloatArray:
    """Estimate the steps of the lattice that most of some points lie on.

    Parameters
    ----------
    points : ndarray, shape (n, 2)
        Positions, pixels.
    tree
        Tree of the same points.

    Returns
    -------
    ndarray, shape (2, 2)
        Rows are the steps along i and along j (right-handed, i nearer to +x), good to a few per cent.

    Raises
    ------
    GridError
        If the distances between neighbours do not repeat, or repeat in no nearly square lattice.
    """
    count = min(NEIGHBOURS, len(points) - 1)
    # A thousand points say enough.
    sample = points[:: max(1, len(points) // _SAMPLE)]
    distance, neighbour = (np.asarray(part) for part in tree.query(sample, k=count + 1))
    scale = float(np.median(distance[:, 1]))
    if not scale > 0:
        raise GridError("more than half of the sources stand twice at one place", remedy="give each source once")
    differences = (points[neighbour[:, 1:]] - sample[:, None, :]).reshape(-1, 2)
    piles, counts = _piles(differences, scale)
    enough = counts >= max(_LEAST_PILE * len(sample), _RELATIVE_PILE * counts[0] if len(counts) else 0)
    piles, counts = piles[enough], counts[enough]
    if len(piles) == 1 and counts[0] > _DOUBLED * len(sample):
        raise GridError(
            f"most sources have a neighbour at ({piles[0][0]:.1f}, {piles[0][1]:.1f}) pixels and no other step repeats",
            remedy="check for two grids in one catalog (two exposures, or sources measured twice)",
            value=tuple(piles[0]),
        )
    if len(piles) < 2:
        raise _no_grid()
    return _oriented(_shortest_pair(piles))


def _no_grid() -> GridError:
    return GridError(
        "the sources lie on no grid: the steps between neighbours do not repeat",
        remedy="give a catalog of an exposure of the spot mask",
    )


def _piles(differences: FloatArray, scale: float) -> tuple[FloatArray, FloatArray]:
    """Return where differences (and their opposites) pile up, and how many points take part, the largest pile first."""
    half = int(_REACH / _BIN)
    width = 2 * half + 1
    both = np.concatenate([differences, -differences])
    bins = np.rint(both / (_BIN * scale)).astype(np.int64) + half
    inside = ((bins >= 0) & (bins < width)).all(axis=1)
    both, bins = both[inside], bins[inside]
    histogram = np.bincount(bins[:, 0] * width + bins[:, 1], minlength=width**2).reshape(width, width)
    smooth = uniform_filter(histogram.astype(np.float64), size=_PILE, mode="constant") * _PILE**2
    # Half of the plane is enough: piles come in opposite pairs.
    smooth[:half] = 0
    smooth[half, : half + 1] = 0
    piles, counts = [], []
    least = max(3.0, _RELATIVE_PILE / 3 * smooth.max())
    radius = _PILE * _BIN * scale
    for _ in range(_PILES_TRIED):
        row, column = (int(index) for index in np.unravel_index(int(smooth.argmax()), smooth.shape))
        if smooth[row, column] < least:
            break
        # The square around the pile first: distances to all differences would take most of the time.
        near = both[(np.abs(bins - (row, column)) <= 2 * _PILE).all(axis=1)]
        centre = np.array([row - half, column - half]) * _BIN * scale
        centre = np.median(near[_squared(near - centre) < radius**2], axis=0)
        piles.append(centre)
        counts.append((_squared(near - centre) < radius**2).sum() / 2)
        smooth[max(0, row - _PILE) : row + _PILE + 1, max(0, column - _PILE) : column + _PILE + 1] = 0
    order = np.argsort(counts)[::-1]
    return np.array(piles).reshape(-1, 2)[order], np.array(counts, dtype=np.float64)[order]


def _squared(vectors: FloatArray) -> FloatArray:
    return vectors[:, 0] ** 2 + vectors[:, 1] ** 2


def _shortest_pair(piles: FloatArray) -> FloatArray:
    lengths = np.hypot(*piles.T)
    order = np.argsort(lengths)
    first = piles[order[0]]
    for index in order[1:]:
        sine = abs(first[0] * piles[index][1] - first[1] * piles[index][0]) / (lengths[order[0]] * lengths[index])
        if sine > _LEAST_SINE:
            steps = _reduced(first, piles[index])
            lengths = np.hypot(*steps.T)
            if lengths.max() > _MOST_UNEQUAL * lengths.min():
                raise GridError(
                    f"the steps of the grid are {lengths[0]:.1f} and {lengths[1]:.1f} pixels, not nearly equal",
                    remedy="the mask of spots is square: check for two grids in one catalog (two exposures?)",
                    value=tuple(lengths),
                )
            return steps
    raise _no_grid()


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
    """Return the steps so that the first is the nearest to +x and the second is a quarter turn to the left of it."""
    if steps[0, 0] * steps[1, 1] - steps[0, 1] * steps[1, 0] < 0:
        steps = steps[::-1]
    turns = [steps, np.stack([steps[1], -steps[0]]), -steps, np.stack([-steps[1], steps[0]])]
    # The mean direction of both axes decides, so that a slight skew does not matter.
    along = [turn[0, 0] + turn[1, 1] for turn in turns]
    return turns[int(np.argmax(along))]
