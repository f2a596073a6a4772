"""The two maps as columns of finite points in a canonical order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from permil.arrays import mask_of, plain_array, unit_of
from permil.compare.errors import CompareError
from permil.errors import InputError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

FEWEST = 30
_KEYS = {"a", "b", "x", "y"}
# Beyond this extent, or below its inverse, squares of positions overflow or underflow.
_LARGEST = 1e100
_FAR = 300.0
# If at least this fraction of its values differs, a map distinguishes points.
_TELLS_APART = 0.99
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
        Subtracted means, and standard deviations divided out.
    x, y : ndarray, shape (n,)
        Positions.
    a_err, b_err : ndarray, shape (n,), or None
        Errors in the units of the standardised values.
    groups : ndarray of int, shape (n,), or None
        Number of the group (exposure) of each point.
    masked
        Number of points dropped because a value was masked or not finite.
    repeated
        Number of points dropped as duplicates.
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
    repeated: int = 0

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
    """Check the input, drop points whose value or error is masked or not finite, count repeated points once, and standardise.

    The order is canonical (by y, x, a, b), so that the result does not depend on the order of the rows.

    Raises
    ------
    CompareError
        If shapes differ, values are not real numbers, a unit cannot be converted, a position is not finite, an error is negative, fewer
        than 30 points are left, a map is constant, or all points have one position or lie on one line.
    """
    lost = mask_of(x) | mask_of(y) if np.shape(x) == np.shape(y) else np.zeros((), dtype=bool)
    columns = _plain_columns({"a": a, "b": b, "x": x, "y": y, "a_err": a_err, "b_err": b_err})
    _check_shapes({name: column.shape for name, column in columns.items()})
    labels = None if groups is None else _group_numbers(groups, columns["a"].shape)
    columns = {name: column.ravel() for name, column in columns.items()}
    valued = np.isfinite(columns["a"]) & np.isfinite(columns["b"]) & ~lost.ravel()
    for name in ("x", "y"):
        if not np.isfinite(columns[name][valued]).all():
            raise CompareError(
                f"{int((~np.isfinite(columns[name][valued])).sum())} of the positions {name} are not finite",
                remedy="every point needs a position; mask a point by NaN in its value",
            )
    for name in columns.keys() & {"a_err", "b_err"}:
        if (columns[name] < 0).any():
            raise CompareError(
                f"{name} has negative errors", remedy="give standard deviations", value=float(np.nanmin(columns[name]))
            )
    good = np.logical_and.reduce([valued, *(np.isfinite(column) for column in columns.values())])
    masked = int((~good).sum())
    columns = {name: column[good] for name, column in columns.items()}
    order = np.lexsort([columns[name] for name in (*(columns.keys() - _KEYS), "b", "a", "x", "y")])
    columns = {name: column[order] for name, column in columns.items()}
    once = ~_repeated(columns)
    columns = {name: column[once] for name, column in columns.items()}
    number, repeated = int(once.sum()), int((~once).sum())
    if number < FEWEST:
        also = f" ({repeated} more repeat one of them)" if repeated else ""
        raise CompareError(
            f"only {number} points have finite values in both maps{also}",
            remedy=f"a correlation with an error needs at least {FEWEST}",
            value=number,
            allowed=FEWEST,
        )
    _check_places(columns["x"], columns["y"])
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
        groups=None if labels is None else np.unique(labels[good][order][once], return_inverse=True)[1],
        masked=masked,
        repeated=repeated,
    )


def _plain_columns(given: dict[str, ArrayLike | None]) -> dict[str, FloatArray]:
    """Return plain arrays; errors in the unit of their map, y in that of x, and a single error repeated for all points."""
    units = {"a_err": "a", "b_err": "b", "y": "x"}
    columns: dict[str, FloatArray] = {}
    try:
        for name, values in given.items():
            if values is not None:
                unit = unit_of(given[units[name]]) if name in units else None
                columns[name] = plain_array(values, name=name, unit=unit)
                if name.endswith("_err") and columns[name].ndim == 0:
                    columns[name] = np.broadcast_to(columns[name], columns["a"].shape)
    except InputError as error:
        raise CompareError(error.what, remedy=error.remedy, **error.data) from error
    return columns


def _repeated(columns: dict[str, FloatArray]) -> NDArray[np.bool_]:
    """Return which of the ordered points equal the one before them.

    If neither map has enough distinct values to distinguish points (maps of a few levels), equal points may be different measurements:
    they then count as duplicates only if all points are given equally often.
    """
    again = np.zeros(len(columns["a"]), dtype=bool)
    again[1:] = np.logical_and.reduce([column[1:] == column[:-1] for column in columns.values()])
    if not again.any():
        return again
    if any(len(np.unique(columns[name][~again])) >= _TELLS_APART * (~again).sum() for name in ("a", "b")):
        return again
    times = np.diff(np.append(np.flatnonzero(~again), len(again)))
    return again if times.min() == times.max() else np.zeros_like(again)


def _check_shapes(shapes: dict[str, tuple[int, ...]]) -> None:
    if len(set(shapes.values())) > 1 or len(shapes["a"]) not in (1, 2):
        shown = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise CompareError(f"arrays of different or unusable shapes: {shown}", remedy="give 1-D or 2-D arrays of one shape")


def _group_numbers(groups: ArrayLike, shape: tuple[int, ...]) -> IntArray:
    lost = mask_of(groups)
    labels = np.asarray(getattr(groups, "unmasked", np.ma.getdata(groups)))
    if labels.shape != shape:
        raise CompareError(f"groups has shape {labels.shape}, but the maps have {shape}", remedy="give one label for each point")
    if labels.dtype.kind == "f":
        lost |= np.isnan(labels)
    if lost.any():
        raise CompareError(f"groups has no label for {int(lost.sum())} points", remedy="give the exposure of each point")
    if labels.dtype.kind == "O":
        labels = labels.astype(str)
    return np.unique(labels.ravel(), return_inverse=True)[1].reshape(-1)


def _check_places(x: FloatArray, y: FloatArray) -> None:
    size = max(np.abs(x).max(), np.abs(y).max())
    extent = max(np.ptp(x), np.ptp(y))
    if not extent > 4.0 * np.finfo(float).eps * size:
        raise CompareError(
            "all points have the same position, to numerical precision",
            remedy="give different positions; subtract a common offset",
        )
    if not 1.0 / _LARGEST < extent < _LARGEST:
        raise CompareError(f"the positions extend over {extent:.3g}", remedy="give them in a usual unit", value=float(extent))
    scaled = np.vstack([x - x.min(), y - y.min()]) / extent
    spread = np.linalg.svd((scaled - scaled.mean(axis=1, keepdims=True)) / np.sqrt(len(x)), compute_uv=False)
    distance = np.hypot(*(scaled - np.median(scaled, axis=1, keepdims=True)))
    far = distance > _FAR * np.median(distance)
    if np.median(distance) > 0 and far.any():
        farthest = int(np.argmax(distance))
        raise CompareError(
            f"{int(far.sum())} points lie more than {_FAR:g} times farther out than most, for example that at ({x[farthest]:g}, "
            f"{y[farthest]:g})",
            remedy="correct or remove them",
            value=(float(x[farthest]), float(y[farthest])),
        )
    if spread[1] <= _FLAT * spread[0]:
        raise CompareError(
            "all points lie on one line",
            remedy="the correlation of neighbours needs two dimensions; give both coordinates",
        )


def _standardised(values: FloatArray, name: str) -> tuple[FloatArray, float, float]:
    peak = float(np.abs(values).max()) or 1.0
    scaled = values / peak
    mean = float(scaled.mean())
    centred = scaled - mean
    scale = float(np.sqrt(np.mean(centred**2)))
    if scale <= 1e-13:
        raise CompareError(f"the map {name} is constant", remedy="there is nothing to correlate", value=float(values[0]))
    return centred / scale, mean * peak, scale * peak
