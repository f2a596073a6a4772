"""Residuals of the joint solution in the frames of beam, detector, projector and reflection: what stands still names its cause."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from permil.flat.joint.data import DetectorSignals
from permil.flat.joint.normal import fit_detector
from permil.flat.joint.solution import JointSolution

FloatArray = NDArray[np.float64]
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
    def excess_rms(self) -> float:
        """Root mean square of what stands in the map beyond noise; 0 if noise explains it."""
        filled = np.isfinite(self.mean)
        weights = self.error[filled] ** -2
        return float(np.sqrt(max(np.sum(weights * self.mean[filled] ** 2) - filled.sum(), 0.0) / weights.sum()))


def residual_map(
    solution: JointSolution, detectors: Sequence[DetectorSignals], *, frame: Frame, cell_mm: float = 2.0
) -> ResidualMap:
    """Bin the residuals in one frame.

    Parameters
    ----------
    frame
        ``beam``: by place minus projector; ``detector``: by place; ``projector``: by projector; ``reflected``: by their sum. Means by
        place and by projector vanish, since response and scales take them: there it is the chi-square that tells.
    cell_mm
        Side of the cells.
    """
    of_place, of_projector = _SIGNS[frame]
    centres = solution.model.centres(solution.vector)
    places = [np.column_stack([detector.x_mm, detector.y_mm]) for detector in detectors]
    lower, upper = np.full(2, np.inf), np.full(2, -np.inf)
    for detector, place in zip(detectors, places, strict=True):
        moved = of_projector * centres[detector.exposures]
        lower = np.minimum(lower, (of_place * place).min(axis=0) + moved.min(axis=0))
        upper = np.maximum(upper, (of_place * place).max(axis=0) + moved.max(axis=0))
    shape = np.floor((upper - lower) / cell_mm).astype(int) + 1
    sums = np.zeros((4, shape[0] * shape[1]))
    for detector, place in zip(detectors, places, strict=True):
        fit = fit_detector(
            solution.model,
            detector,
            solution.vector,
            threshold=solution.threshold,
            exposure_weights=solution.exposure_weights,
        )
        for row, exposure in enumerate(detector.exposures):
            if solution.left_out[exposure]:
                continue
            cell = np.floor((of_place * place + of_projector * centres[exposure] - lower) / cell_mm).astype(int)
            number = cell[:, 0] * shape[1] + cell[:, 1]
            weights, residual = fit.weights[row], fit.residual[row]
            for total, values in zip(sums, (weights > 0, weights, weights * residual, weights * residual**2), strict=True):
                total += np.bincount(number, weights=values, minlength=total.size)
    count, weight, moment, square = (total.reshape(shape) for total in sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        return ResidualMap(lower, cell_mm, moment / weight, np.where(weight > 0, weight**-0.5, np.nan), square / count)
