"""The two maps as columns of finite points in a canonical order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from permil.compare.errors import CompareError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

FEWEST = 30
# Below this ratio of the extents across and along the longest direction, points lie on one line.
_FLAT = 1e-6


@dataclass(frozen=True)
class Points:
    """Finite points of both maps.

    Attributes
    ----------
    a, b : ndarray, shape (n,)
        Values, standardised: mean 0, variance 1.
    a_mean, b_mean, a_scale, b_scale
        Means that were taken off and standard deviations that were divided out.
    x, y : ndarray, shape (n,)
        Positions.
    a_err, b_err : ndarray, shape (n,), or None
        Errors in the units of the standardised values.
    groups : ndarray of int, shape (n,), or None
        Number of the group (exposure) of each point.
    masked
        Points that were dropped because a value was not finite.
    """

    a: FloatArray
    b: FloatArray
    a_mean: float
    b_mean: float
    a_scale: float
    b_scale: float
    x: FloatArray
    y: FloatArray
    a_err: FloatArray | None
    b_err: FloatArray | None
    groups: IntArray | None
    masked: int

    @property
    def n(self) -> int:
        """Number of points."""
        return len(self.a)


def prepare(
    a: ArrayLike,
    b: ArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    *,
    a_err: ArrayLike | None = None,
    b_err: ArrayLike | None = None,
    groups: ArrayLike | None = None,
) -> Points:
    """Check the input, drop points whose value or error is not finite, and standardise.

    The order is canonical (by y, x, a, b), so that the order of the rows cannot matter.

    Raises
    ------
    CompareError
        If the arrays do not fit together, a position is not finite, an error is negative, fewer than 30 points are left, a map is
        constant, or all points lie in one place or on one line.
    """
    columns = {name: np.asarray(values, dtype=float) for name, values in (("a", a), ("b", b), ("x", x), ("y", y))}
    for name, error in (("a_err", a_err), ("b_err", b_err)):
        if error is not None:
            errors = np.asarray(error, dtype=float)
            columns[name] = np.broadcast_to(errors, columns["a"].shape) if errors.ndim == 0 else errors
    _check_shapes({name: column.shape for name, column in columns.items()})
    labels = None if groups is None else _group_numbers(np.asarray(groups), columns["a"].shape)
    columns = {name: column.ravel() for name, column in columns.items()}
    for name in ("x", "y"):
        if not np.isfinite(columns[name]).all():
            raise CompareError(
                f"{int((~np.isfinite(columns[name])).sum())} of the positions {name} are not finite",
                remedy="every point needs a position; mask a point by NaN in its value",
            )
    for name in columns.keys() & {"a_err", "b_err"}:
        if (columns[name] < 0).any():
            raise CompareError(
                f"{name} has negative errors", remedy="give standard deviations", value=float(np.nanmin(columns[name]))
            )
    good = np.logical_and.reduce([np.isfinite(column) for column in columns.values()])
    if good.sum() < FEWEST:
        raise CompareError(
            f"only {int(good.sum())} points have finite values in both maps",
            remedy=f"a correlation with an error needs at least {FEWEST}",
            value=int(good.sum()),
            allowed=FEWEST,
        )
    masked = int((~good).sum())
    columns = {name: column[good] for name, column in columns.items()}
    _check_places(columns["x"], columns["y"])
    order = np.lexsort((columns["b"], columns["a"], columns["x"], columns["y"]))
    columns = {name: column[order] for name, column in columns.items()}
    (a_map, a_mean, a_scale), (b_map, b_mean, b_scale) = _standardised(columns["a"], "a"), _standardised(columns["b"], "b")
    return Points(
        a=a_map,
        b=b_map,
        a_mean=a_mean,
        b_mean=b_mean,
        a_scale=a_scale,
        b_scale=b_scale,
        x=columns["x"],
        y=columns["y"],
        a_err=columns["a_err"] / a_scale if "a_err" in columns else None,
        b_err=columns["b_err"] / b_scale if "b_err" in columns else None,
        groups=None if labels is None else np.unique(labels[good][order], return_inverse=True)[1],
        masked=masked,
    )


def _check_shapes(shapes: dict[str, tuple[int, ...]]) -> None:
    if len(set(shapes.values())) > 1 or len(shapes["a"]) not in (1, 2):
        told = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise CompareError(f"arrays of different or unusable shapes: {told}", remedy="give 1-D or 2-D arrays of one shape")


def _group_numbers(groups: NDArray[np.generic], shape: tuple[int, ...]) -> IntArray:
    if groups.shape != shape:
        raise CompareError(f"groups has shape {groups.shape}, the maps have {shape}", remedy="give one label for each point")
    return np.unique(groups.ravel(), return_inverse=True)[1].reshape(-1)


def _check_places(x: FloatArray, y: FloatArray) -> None:
    spread = np.linalg.svd(np.vstack([x - x.mean(), y - y.mean()]) / np.sqrt(len(x)), compute_uv=False)
    size = max(np.abs(x).max(), np.abs(y).max())
    if spread[0] <= 1e-12 * size:
        raise CompareError("all points lie in one place", remedy="a map needs positions that differ")
    if spread[1] <= _FLAT * spread[0]:
        raise CompareError(
            "all points lie on one line",
            remedy="the correlation of neighbours is taken from maps in two dimensions; give both coordinates",
        )


def _standardised(values: FloatArray, name: str) -> tuple[FloatArray, float, float]:
    mean = float(values.mean())
    centred = values - mean
    scale = float(np.sqrt(np.mean(centred**2)))
    if scale <= 1e-13 * np.abs(values).max():
        raise CompareError(f"the map {name} is constant", remedy="there is nothing to correlate", value=float(values[0]))
    return centred / scale, mean, scale
