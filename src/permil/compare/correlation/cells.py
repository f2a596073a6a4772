"""Points on a lattice of cells, for sums over all pairs of points by FFT."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import fft

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Cell size for irregular points, in units of their mean spacing.
_CELL = 0.75
_ON_LATTICE = 0.01
# Fraction of the largest gap between coordinates: smaller gaps may be jitter.
_JITTER = 0.02
# Points that occupy a smaller fraction of a lattice are treated as irregular.
_SPARSEST = 0.25
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

    def lag_products(self, values: FloatArray, other: FloatArray | None = None) -> FloatArray:
        """Return ``sum_p values(p) other(p + h)`` over all pairs of points, for each lag h of the padded lattice."""
        first = self.transform(values)
        second = first if other is None else self.transform(other)
        return fft.irfft2(first.conj() * second, self.padded)

    def smoothed(self, transform: NDArray[np.complex128], kernel_transform: NDArray[np.complex128]) -> FloatArray:
        """Return, at each point, the sum over all points weighted with a kernel of the lag."""
        return fft.irfft2(transform * kernel_transform, self.padded)[self.row, self.column]


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
