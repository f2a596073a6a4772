"""Find the grid of spots from the points alone, label and fit it, and determine its window in the mask if possible."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from permil.arrays import BoolArray, FloatArray, IntArray, plain_array, plain_flags
from permil.errors import GridError
from permil.spots.grid_fit import AffineGrid, Distortion, RigidGrid, centred, fit_affine, fit_distortion, fit_rigid
from permil.spots.lattice import UNLABELLED, coarser_steps, label_points, lattice_steps

LEAST_SPOTS = 9
# If less than this fraction of a catalog lies on the grid, it is not (only) an exposure of the mask.
_LEAST_SHARE = 0.5
# Remaining sources are searched for a second grid if they exceed this fraction of the first; two exposures have about equal grids.
_SECOND_GRID = 0.1
_AS_STRONG = 0.7
# A spot of a grid has up to four neighbours; chance alignments have few.
_LEAST_NEIGHBOURS = 1.6
_MOST_SCATTER = 0.08
# A line beyond the size of the mask with a lower fraction of its nodes is a chance alignment.
_CHANCE_LINE = 0.1


@dataclass(frozen=True)
class SpotGrid:
    """A labelled grid.

    Attributes
    ----------
    grid_i, grid_j : ndarray, shape (n,)
        Labels in the order of the input; -1 for sources that are not spots of the grid. Labels are unique.
    columns, rows
        Size of the grid along each axis: that of the mask if the window is decided, that of the detected grid if it is ambiguous.
    decided_i, decided_j
        Whether node 0 along each axis is certainly that of the mask. If not, 0 is the first detected node.
    rigid, affine, distortion
        Fits of the grid.
    second
        Sources on a second, weaker grid, without a label: for example false sources half way between spots along the rim of a bright
        disc.
    """

    grid_i: IntArray
    grid_j: IntArray
    columns: int
    rows: int
    decided_i: bool
    decided_j: bool
    rigid: RigidGrid
    affine: AffineGrid
    distortion: Distortion
    second: int = 0

    @property
    def labelled(self) -> BoolArray:
        """Mask of sources that are spots of the grid."""
        return self.grid_i >= 0

    @property
    def window(self) -> str:
        """``decided`` if it is certain which node is (0, 0), else ``ambiguous``."""
        return "decided" if self.decided_i and self.decided_j else "ambiguous"


def find_grid(
    x: ArrayLike, y: ArrayLike, *, columns: int = 49, rows: int = 49, degree: int = 3, usable: ArrayLike | None = None
) -> SpotGrid:
    """Find the grid of spots among sources, without an initial guess of position, pitch or angle.

    Parameters
    ----------
    x, y : array_like, shape (n,)
        Positions, pixels; rows that are masked or not finite get no label.
    columns, rows
        Spots of the mask along i (the axis nearer to +x) and j.
    degree
        Degree of the polynomial distortion.
    usable : array_like of bool, shape (n,), optional
        Sources with a reliable position; the others get no label.

    Returns
    -------
    SpotGrid
        Labels, size and fits of the grid.

    Raises
    ------
    GridError
        If there are fewer than nine sources, they do not form a single grid, or the grid has more nodes than
        the mask.
    InputError
        If the positions are not real numbers, have a unit other than pixel, or differ in length.

    Examples
    --------
    >>> import numpy as np, permil
    >>> i, j = (axis.ravel() for axis in np.meshgrid(np.arange(5), np.arange(4)))
    >>> grid = permil.find_grid(100 + 60.0 * i, 80 + 60.0 * j, columns=5, rows=4, degree=1)
    >>> grid.window, int(grid.grid_i[0]), int(grid.grid_j[-1])
    ('decided', 0, 3)
    """
    x = plain_array(x, name="x", unit="pixel", ndim=1)
    y = plain_array(y, name="y", unit="pixel", shape=x.shape)
    keep = np.isfinite(x) & np.isfinite(y)
    if usable is not None:
        keep &= plain_flags(usable, name="usable", shape=x.shape)
    if keep.sum() < LEAST_SPOTS:
        raise GridError(
            f"{keep.sum()} sources with a usable position are too few for a grid",
            remedy=f"at least {LEAST_SPOTS} spots are needed",
            value=int(keep.sum()),
        )
    points = np.stack([x[keep], y[keep]], axis=1)
    labels = _labelled(points)
    second = _second_grid(points, labels)
    labels = _trimmed(labels, (columns, rows))
    inside = labels[:, 0] != UNLABELLED
    _require_grid(points, labels[inside], inside)
    on_grid = points[inside]
    nodes, rigid = _turned(on_grid, labels[inside])
    uv = centred(nodes, rigid.columns, rigid.rows)
    grid_i, grid_j = np.full(len(x), -1), np.full(len(x), -1)
    spots = np.flatnonzero(keep)[inside]
    grid_i[spots], grid_j[spots] = nodes.T
    return SpotGrid(
        grid_i=grid_i,
        grid_j=grid_j,
        columns=rigid.columns,
        rows=rigid.rows,
        decided_i=rigid.columns == columns,
        decided_j=rigid.rows == rows,
        rigid=rigid,
        affine=fit_affine(on_grid, uv),
        distortion=fit_distortion(on_grid, uv, degree),
        second=second,
    )


def _turned(points: FloatArray, labels: IntArray) -> tuple[IntArray, RigidGrid]:
    """Return labels that start at 0 and the five parameters, rotated so that THETA is in its range.

    The rough steps determine the axes except near 45 degrees, where the fit may end on the other side.
    """
    quarter = np.pi / 4
    while True:
        labels = labels - labels.min(axis=0)
        columns, rows = (int(last) + 1 for last in labels.max(axis=0))
        rigid = fit_rigid(points, centred(labels, columns, rows), columns, rows)
        if -quarter < rigid.theta <= quarter:
            return labels, rigid
        # A grid at 45 + e degrees is one at e - 45 degrees whose axis i is the old axis -j, and vice versa.
        turn = (
            np.stack([-labels[:, 1], labels[:, 0]], axis=1)
            if rigid.theta > 0
            else np.stack([labels[:, 1], -labels[:, 0]], axis=1)
        )
        labels = turn


def _labelled(points: FloatArray) -> IntArray:
    tree = cKDTree(points)
    steps: FloatArray | None = lattice_steps(points, tree)
    while steps is not None:
        labels = label_points(points, tree, steps)
        inside = labels[:, 0] != UNLABELLED
        steps = coarser_steps(labels[inside], steps) if inside.any() else None
    return labels


def _second_grid(points: FloatArray, labels: IntArray) -> int:
    """Return the number of unlabelled sources that lie on a second grid.

    Raises
    ------
    GridError
        If the second grid is as strong as the first.
    """
    rest = points[labels[:, 0] == UNLABELLED]
    first = len(points) - len(rest)
    if len(rest) < max(LEAST_SPOTS, _SECOND_GRID * first):
        return 0
    try:
        others = _labelled(rest)
        inside = others[:, 0] != UNLABELLED
        _require_grid(rest, others[inside], inside)
    except GridError:
        return 0
    second = int(inside.sum())
    if second > _AS_STRONG * first:
        raise GridError(
            f"the sources form two interleaved grids: {first} sources lie on one and {second} others on another",
            remedy="give one exposure of the mask at a time",
            value=second,
        )
    return second


def _require_grid(points: FloatArray, labels: IntArray, inside: BoolArray) -> None:
    """Raise an error if the labelled points may be a chance alignment."""
    count = int(inside.sum())
    if (
        count < max(LEAST_SPOTS, _LEAST_SHARE * len(points))
        or len(np.unique(labels[:, 0])) < 2
        or len(np.unique(labels[:, 1])) < 2
    ):
        raise GridError(
            f"the sources do not lie on a grid: the largest consistent part has {count} of {len(points)} sources",
            remedy="give a catalog of an exposure of the spot mask",
            value=count,
        )
    nodes = {(int(i), int(j)) for i, j in labels}
    neighbours = 2 * sum(((i + 1, j) in nodes) + ((i, j + 1) in nodes) for i, j in nodes) / count
    degree = 3 if count > 60 else 1
    affine = fit_affine(points[inside], labels.astype(np.float64))
    scatter = fit_distortion(points[inside], labels.astype(np.float64), degree).rms / np.hypot(*affine.steps.T).mean()
    if neighbours < _LEAST_NEIGHBOURS or scatter > _MOST_SCATTER:
        raise GridError(
            f"the sources do not lie on a grid: the best-fitting ones have {neighbours:.1f} neighbours on average "
            f"and scatter by {scatter:.3f} steps",
            remedy="give a catalog of an exposure of the spot mask",
            value=(neighbours, scatter),
        )


def _trimmed(labels: IntArray, size: tuple[int, int]) -> IntArray:
    """Unlabel chance alignments beyond the size of the mask.

    Raises
    ------
    GridError
        If the grid has more nodes than the mask.
    """
    labels = labels.copy()
    for axis in (0, 1):
        while True:
            inside = np.flatnonzero(labels[:, 0] != UNLABELLED)
            if len(inside) == 0:
                return labels
            along = labels[inside, axis]
            found = int(along.max() - along.min() + 1)
            if found <= size[axis]:
                break
            counts = {int(border): int((along == border).sum()) for border in (along.min(), along.max())}
            border = min(counts, key=lambda line: counts[line])
            if counts[border] > _CHANCE_LINE * size[1 - axis]:
                raise GridError(
                    f"the grid has {found} {('columns', 'rows')[axis]}, more than the {size[axis]} of the mask",
                    remedy="check the size of the mask (columns, rows), and that the catalog is of one exposure",
                    value=found,
                    allowed=size[axis],
                )
            labels[inside[along == border]] = UNLABELLED
    return labels
