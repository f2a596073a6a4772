"""The two maps as columns of finite points in a canonical order, and on a lattice of cells for sums over all pairs by FFT."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from permil.arrays import BoolArray, FloatArray, IntArray, mask_of, plain_array, unit_of
from permil.errors import CompareError, InputError

Floating = TypeVar("Floating", np.float32, np.float64)

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


def _repeated(columns: dict[str, FloatArray]) -> BoolArray:
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


# Cell size for irregular points, in units of their mean spacing.
_CELL = 0.75
_ON_LATTICE = 0.01
# Fraction of the largest gap between coordinates: smaller gaps may be jitter.
_JITTER = 0.02
# Points that occupy a smaller fraction of a lattice are treated as irregular.
_SPARSEST = 0.25
TILES = 4
"""Number of tiles along each side of a lattice, for properties that vary over the field."""
# Cells of irregular points are halved while a larger fraction of positions shares cells, up to this number of cells.
_LEAST_TAKEN, _MOST_CELLS, _MOST_CELLS_PER_POINT = 0.4, 250_000, 64


@dataclass(frozen=True)
class Cells:
    """A lattice over the field, and the cell of each point.

    Attributes
    ----------
    column, row : ndarray of int, shape (n,)
        Cell of each point.
    shape
        Rows and columns of the lattice.
    step_x, step_y
        Size of a cell.
    spacing
        Mean distance of neighbouring positions: square root of the area per occupied cell.
    on_lattice
        Whether the points themselves lie on the lattice.
    """

    column: IntArray
    row: IntArray
    shape: tuple[int, int]
    step_x: float
    step_y: float
    spacing: float
    on_lattice: bool

    @classmethod
    def of(cls, x: FloatArray, y: FloatArray) -> Cells:
        """Return the lattice on which the points lie, if any, else square cells of 0.75 mean spacings."""
        steps = _lattice_step(x), _lattice_step(y)
        if steps[0] > 0 and steps[1] > 0:
            cells = cls._with_steps(x, y, steps[0], steps[1])
            if cells.places >= _SPARSEST * cells.shape[0] * cells.shape[1]:
                return cells
        width, height = np.ptp(x), np.ptp(y)
        places = len(np.unique(np.column_stack([x, y]), axis=0))
        # The area extends half a spacing beyond the outer points: (width + s) (height + s) = n s^2.
        spacing = (width + height + np.sqrt((width + height) ** 2 + 4 * (places - 1) * width * height)) / (2 * (places - 1))
        affordable = min(_MOST_CELLS, _MOST_CELLS_PER_POINT * len(x))
        while True:
            cells = cls._with_steps(x, y, _CELL * spacing, _CELL * spacing, spacing)
            crowded = cells.places < _LEAST_TAKEN * places
            if not crowded or 4 * cells.shape[0] * cells.shape[1] > affordable:
                return cells
            # Clustered points: the mean density is unrelated to the distance of neighbours.
            spacing /= 2.0

    @classmethod
    def _with_steps(cls, x: FloatArray, y: FloatArray, step_x: float, step_y: float, spacing: float | None = None) -> Cells:
        column = np.rint((x - x.min()) / step_x).astype(np.int64)
        row = np.rint((y - y.min()) / step_y).astype(np.int64)
        shape = (int(row.max()) + 1, int(column.max()) + 1)
        on_lattice = spacing is None
        if spacing is None:
            places = len(np.unique(row * shape[1] + column))
            spacing = np.sqrt((np.ptp(x) + step_x) * (np.ptp(y) + step_y) / places)
        return cls(column, row, shape, step_x, step_y, float(spacing), on_lattice)

    @property
    def n(self) -> int:
        """Number of points."""
        return len(self.column)

    @cached_property
    def places(self) -> int:
        """Number of occupied cells."""
        return len(np.unique(self.flat))

    @property
    def spacings(self) -> tuple[float, float]:
        """Mean distance of neighbouring positions along x and y, in the ratio of the sides of a cell."""
        ratio = np.sqrt(self.step_x / self.step_y)
        return float(self.spacing * ratio), float(self.spacing / ratio)

    @property
    def area(self) -> float:
        """Area of the occupied cells."""
        return self.spacing**2 * self.places

    @property
    def diagonal(self) -> float:
        """Longest distance in the field."""
        return float(np.hypot((self.shape[0] - 1) * self.step_y, (self.shape[1] - 1) * self.step_x))

    @cached_property
    def flat(self) -> IntArray:
        """Number of each point's cell in the raveled lattice."""
        return self.row * self.shape[1] + self.column

    @cached_property
    def padded(self) -> tuple[int, int]:
        """Shape on which a circular correlation equals a plain one."""
        rows, columns = (fft.next_fast_len(2 * size - 1, real=True) for size in self.shape)
        return rows, columns

    @cached_property
    def counts(self) -> FloatArray:
        """Number of points in each cell."""
        return self.total(np.ones(self.n))

    @cached_property
    def transformed_counts(self) -> NDArray[np.complex128]:
        """Fourier transform of the counts on the padded lattice."""
        return self.transform(np.ones(self.n))

    @cached_property
    def pairs(self) -> FloatArray:
        """Number of ordered pairs of points at each lag of the padded lattice."""
        return np.maximum(np.rint(self.lag_products(np.ones(self.n))), 0.0)

    @cached_property
    def lag_x(self) -> FloatArray:
        """Lag of each column of the padded lattice."""
        return np.asarray(fft.fftfreq(self.padded[1], 1.0 / (self.padded[1] * self.step_x)), dtype=float)

    @cached_property
    def lag_y(self) -> FloatArray:
        """Lag of each row of the padded lattice."""
        return np.asarray(fft.fftfreq(self.padded[0], 1.0 / (self.padded[0] * self.step_y)), dtype=float)

    def total(self, values: FloatArray) -> FloatArray:
        """Return the sum of the values in each cell."""
        sums = np.bincount(self.flat, values, minlength=self.shape[0] * self.shape[1])
        return np.asarray(sums, dtype=float).reshape(self.shape)

    def mean(self, values: FloatArray) -> FloatArray:
        """Return the mean of the values in each cell; NaN in empty cells."""
        return np.divide(self.total(values), self.counts, out=np.full(self.shape, np.nan), where=self.counts > 0)

    def transform(self, values: FloatArray) -> NDArray[np.complex128]:
        """Return the Fourier transform of the sums in the cells on the padded lattice."""
        return fft.rfft2(self.total(values), self.padded)

    def lag_products(self, values: FloatArray) -> FloatArray:
        """Return ``sum_p values(p) values(p + h)`` over all pairs of points, for each lag h of the padded lattice."""
        transform = self.transform(values)
        return fft.irfft2(transform.real**2 + transform.imag**2, self.padded)

    def lags_in_tiles(self, values: FloatArray) -> FloatArray:
        """Return the lag products within 4 x 4 tiles of the lattice, each on its padded lattice of lags, (tiles, rows, columns)."""
        sides = [-(-size // TILES) for size in self.shape]
        margin = [(0, TILES * side - size) for side, size in zip(sides, self.shape, strict=True)]
        tiles = np.pad(self.total(values), margin).reshape(TILES, sides[0], TILES, sides[1]).swapaxes(1, 2).reshape(-1, *sides)
        padded = [fft.next_fast_len(2 * side - 1, real=True) for side in sides]
        spectra = fft.rfft2(tiles, padded)
        return fft.irfft2(spectra.real**2 + spectra.imag**2, padded)

    @cached_property
    def pairs_in_tiles(self) -> FloatArray:
        """Number of ordered pairs of points within each of 4 x 4 tiles at each lag."""
        return self.lags_in_tiles(np.ones(self.n))

    def smoothed(self, transform: NDArray[np.complex128], kernel_transform: NDArray[np.complex128]) -> FloatArray:
        """Return, at each point (last axis), the sum over all points weighted with a kernel of the lag, or with several (first axis)."""
        return fft.irfft2(transform * kernel_transform, self.padded)[..., self.row, self.column]


def folded(values: NDArray[Floating]) -> NDArray[Floating]:
    """Return the sums of values at both signs of the lags (or wavenumbers) of the axis before the last, from 0 on."""
    half = values.shape[-2] // 2 + 1
    sums, negative = values[..., :half, :].copy(), values[..., half:, :]
    sums[..., 1 : 1 + negative.shape[-2], :] += negative[..., ::-1, :]
    return sums


def _lattice_step(coordinate: FloatArray) -> float:
    """Return the step of the lattice of a coordinate, 0 if there is none; small jitter is tolerated."""
    values = np.unique(coordinate)
    extent = values[-1] - values[0]
    every_gap = np.diff(values)
    for smallest in (1e-6 * extent, _JITTER * every_gap.max(initial=0.0)):
        gaps = every_gap[every_gap > smallest]
        if not len(gaps) or len(gaps) > len(coordinate) / 4:
            continue
        # Typical gap that is not a multiple, refined over the whole extent to avoid accumulated rounding.
        step = extent / max(np.rint(extent / np.median(gaps[gaps < 1.5 * gaps.min()])), 1.0)
        steps = (values - values[0]) / step
        if np.abs(steps - np.rint(steps)).max() < _ON_LATTICE:
            return float(step)
    return 0.0
