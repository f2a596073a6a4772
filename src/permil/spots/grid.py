"""Find the grid of spots from the points alone, label and fit it, and determine its window in the mask if possible.

Node (i, j) of a mask of ``columns`` x ``rows`` has ``u = i - (columns - 1) / 2`` and ``v = j - (rows - 1) / 2``. Five parameters
(the header cards of grid files of mixcoatl and permil)::

    x = X0 + u XSTEP cos THETA - v YSTEP sin THETA
    y = Y0 + u XSTEP sin THETA + v YSTEP cos THETA

All residual rms are radial: ``sqrt(mean(dx^2 + dy^2))`` over all labelled spots. Errors of parameters follow from the scatter of the
residuals, treated as independent; if distortion dominates, they describe the misfit, not the noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from permil.arrays import BoolArray, FloatArray, IntArray, plain_array, plain_flags
from permil.errors import GridError
from permil.spots.lattice import UNLABELLED, Polynomial2D, coarser_steps, fit_polynomial, label_points, lattice_steps

_ITERATIONS = 8


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
        sign = 1 if rigid.theta > 0 else -1
        labels = np.stack([-sign * labels[:, 1], sign * labels[:, 0]], axis=1)


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
