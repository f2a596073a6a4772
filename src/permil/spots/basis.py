"""Relative throughput of a detector as a sum of tensor-product B-splines (de Boor 1978); degree 0 is a map of cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int32]


@dataclass(frozen=True)
class TensorSplines:
    """Uniform B-splines over a detector.

    Attributes
    ----------
    shape
        Rows and columns of the detector, pixels.
    cell
        Knot spacing, pixels.
    degree
        0 (cells) to 3 (cubic).
    """

    shape: tuple[int, int]
    cell: float
    degree: int

    @property
    def counts(self) -> tuple[int, int]:
        """Number of splines along x and along y."""
        return self._count(self.shape[1]), self._count(self.shape[0])

    def _count(self, length: int) -> int:
        return max(1, int(np.ceil(length / self.cell))) + self.degree

    @property
    def terms(self) -> int:
        """Number of coefficients."""
        return self.counts[0] * self.counts[1]

    def local(self, x: FloatArray, y: FloatArray) -> tuple[IndexArray, FloatArray]:
        """Return the indices of the splines that are nonzero at points, and their values.

        Returns
        -------
        index, values : ndarray, shape (n, (degree + 1)^2)
            ``throughput = sum(coefficients[index] * values)``.
        """
        first_x, values_x = self._along(x, self.shape[1])
        first_y, values_y = self._along(y, self.shape[0])
        steps = np.arange(self.degree + 1, dtype=np.int32)
        columns, rows = first_x[:, None] + steps, first_y[:, None] + steps
        index = rows[:, :, None] * np.int32(self.counts[0]) + columns[:, None, :]
        values = values_y[:, :, None] * values_x[:, None, :]
        return index.reshape(len(x), -1), values.reshape(len(x), -1)

    def _along(self, place: FloatArray, length: int) -> tuple[IndexArray, FloatArray]:
        scaled = (place + 0.5) / self.cell
        first = np.clip(np.floor(scaled).astype(np.int32), 0, self._count(length) - self.degree - 1)
        t = np.clip(scaled - first, 0.0, 1.0)
        # Recursion of Cox and de Boor on uniform knots.
        values = [np.ones_like(t)]
        for degree in range(1, self.degree + 1):
            raised = [np.zeros_like(t) for _ in range(degree + 1)]
            for number, value in enumerate(values):
                raised[number] += value * (number + 1 - t) / degree
                raised[number + 1] += value * (t + degree - number - 1) / degree
            values = raised
        return first, np.stack(values, axis=1)

    def evaluate(self, coefficients: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
        """Return the sum of splines at points."""
        index, values = self.local(x, y)
        return (coefficients[index] * values).sum(axis=1)
