"""Residuals of the joint solution in the frames of beam, detector, projector and reflection: what stands still names its cause."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from permil.arrays import BoolArray, FloatArray, IntArray
from permil.flat.joint.data import DetectorSignals
from permil.flat.joint.solution import JointSolution

Frame = Literal["beam", "detector", "projector", "reflected"]

_SIGNS = {"beam": (1.0, -1.0), "detector": (1.0, 0.0), "projector": (0.0, 1.0), "reflected": (1.0, 1.0)}


@dataclass(frozen=True)
class ResidualMap:
    """Residuals of logarithms, binned in one frame.

    Parameters
    ----------
    lower : ndarray, shape (2,)
        Corner of the first cell, mm.
    cell_mm : float
        Side of the cells.
    mean, error : ndarray, shape (nx, ny)
        Weighted mean residual of each cell and the error that noise alone gives it; NaN without signals.
    chi_square : ndarray, shape (nx, ny)
        Mean squared residual over its error.
    """

    lower: FloatArray
    cell_mm: float
    mean: FloatArray
    error: FloatArray
    chi_square: FloatArray

    @property
    def rms(self) -> float:
        """Weighted root mean square of the means."""
        weights, filled = self._weights()
        return float(np.sqrt(np.sum(weights * self.mean[filled] ** 2) / weights.sum()))

    @property
    def noise(self) -> float:
        """What noise alone gives `rms`, were nothing fitted."""
        weights, _ = self._weights()
        return float(np.sqrt(weights.size / weights.sum()))

    @property
    def excess_rms(self) -> float:
        """Root mean square of what stands in the map beyond noise; 0 if noise explains it."""
        return float(np.sqrt(max(self.rms**2 - self.noise**2, 0.0)))

    def _weights(self) -> tuple[FloatArray, BoolArray]:
        filled = np.isfinite(self.mean)
        return self.error[filled] ** -2, filled


class FrameSums:
    """Sums of residuals in the cells of one frame, to which detectors are added one at a time.

    Parameters
    ----------
    frame
        ``beam``: by place minus projector; ``detector``: by place; ``projector``: by projector; ``reflected``: by their sum.
    cell_mm
        Side of the cells, whose corners are multiples of it.
    """

    def __init__(self, frame: Frame, cell_mm: float) -> None:
        self._of_place, self._of_projector = _SIGNS[frame]
        self._cell_mm = cell_mm
        self._first = np.zeros(2, dtype=np.int64)
        self._sums = np.zeros((4, 0, 0))

    def add(self, places: FloatArray, centres: FloatArray, weights: FloatArray, residual: FloatArray) -> None:
        """Add the residuals of a detector.

        Parameters
        ----------
        places : ndarray, shape (p, 2)
            Of its super-pixels, mm.
        centres : ndarray, shape (e, 2)
            Of the projector in its exposures, mm.
        weights, residual : ndarray, shape (e, p)
            Weights are 0 where there is no signal.
        """
        if not len(centres):
            return
        fixed, moved = self._of_place * places, self._of_projector * centres
        low, high = ((fixed.min(axis=0) + moved.min(axis=0)), (fixed.max(axis=0) + moved.max(axis=0)))
        self._reach(*(np.floor(corner / self._cell_mm).astype(np.int64) for corner in (low, high)))
        shape = self._sums.shape[1:]
        flat = self._sums.reshape(4, -1)
        for centre, weight, deviation in zip(moved, weights, residual, strict=True):
            cell = np.floor((fixed + centre) / self._cell_mm).astype(np.int64) - self._first
            number = cell[:, 0] * shape[1] + cell[:, 1]
            parts = (weight > 0, weight, weight * deviation, weight * deviation**2)
            for total, values in zip(flat, parts, strict=True):
                total += np.bincount(number, weights=values, minlength=total.size)

    def _reach(self, low: IntArray, high: IntArray) -> None:
        """Let the sums reach from one cell to another."""
        if self._sums.size == 0:
            self._first, self._sums = low, np.zeros((4, *(high - low + 1)))
            return
        before = np.maximum(self._first - low, 0)
        after = np.maximum(high - (self._first + self._sums.shape[1:] - 1), 0)
        self._sums = np.pad(self._sums, [(0, 0), *zip(before.tolist(), after.tolist(), strict=True)])
        self._first = self._first - before

    @property
    def signals(self) -> int:
        """Number of signals."""
        return int(self._sums[0].sum())

    @property
    def signal_error(self) -> float:
        """Error of a typical signal, from the mean of all weights; NaN without signals."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(np.sqrt(np.divide(self._sums[0].sum(), self._sums[1].sum())))

    def map(self) -> ResidualMap:
        """Return the map of what was added, as far as there are signals."""
        count, weight, moment, square = self._sums[:, *self._filled()]
        lower = (self._first + [part.start for part in self._filled()]) * self._cell_mm
        with np.errstate(invalid="ignore", divide="ignore"):
            error = np.where(weight > 0, weight**-0.5, np.nan)
            return ResidualMap(lower, self._cell_mm, moment / weight, error, square / count)

    def _filled(self) -> tuple[slice, slice]:
        lit = self._sums[0] > 0
        ends = [np.flatnonzero(lit.any(axis=axis)) for axis in (1, 0)]
        return tuple(slice(int(at[0]), int(at[-1]) + 1) if at.size else slice(0, 0) for at in ends)  # type: ignore[return-value]


def residual_map(
    solution: JointSolution, detectors: Sequence[DetectorSignals], *, frame: Frame, cell_mm: float = 2.0
) -> ResidualMap:
    """Bin the residuals in one frame.

    Parameters
    ----------
    frame
        See `FrameSums`. Means by place and by projector vanish, since response and scales take them: there it is the chi-square
        that tells.
    cell_mm
        Side of the cells.
    """
    centres = solution.model.centres(solution.vector)
    sums = FrameSums(frame, cell_mm)
    for detector in detectors:
        fit = solution.fit(detector)
        kept = ~solution.left_out[detector.exposures]
        places = np.column_stack([detector.x_mm, detector.y_mm])
        sums.add(places, centres[detector.exposures[kept]], fit.weights[kept], fit.residual[kept])
    return sums.map()
