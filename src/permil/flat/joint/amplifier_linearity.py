"""Non-linearity of amplifiers from the residuals of a joint solution: how they differ, and what they have in common does to the flat.

A response that is bent makes the logarithm of a signal lower by ``k d / d_0``, with the signal ``d``, the reference ``d_0`` (50,000
electrons) and the loss ``k`` of the amplifier. The response of a super-pixel absorbs the mean of this over exposures. What all amplifiers
have in common looks like another beam, ``B (1 - k B)``, where the lamp is steady; but amplifiers that are lit by the same beam at different
places in it tell how their losses differ. With the regressor ``x = -d / d_0``, less its weighted mean over the exposures of each
super-pixel, the rows ``X`` of all other unknowns and their covariance ``V``, the signals know of the losses

    I = x' W x - x' W X V X' W x,      h = x' W r,

with the residuals ``r`` of the solution. Nothing is solved again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from permil.flat.joint.data import DetectorSignals
from permil.flat.joint.normal import fit_detector
from permil.flat.joint.solution import JointSolution
from permil.flat.joint.tile import DetectorRows

FloatArray = NDArray[np.float64]

REFERENCE_ELECTRONS = 50_000.0
"""Signal at which losses are given."""

USUAL_LOSS = 2e-3
"""Prior standard deviation of a loss at the reference: acceptance tests and linearity tables leave 1 to 3 per mil."""


@dataclass(frozen=True)
class AmplifierLosses:
    """Losses of signal at the reference, relative to the mean of all amplifiers.

    Parameters
    ----------
    detector : list of str
        Of each amplifier.
    amplifier : ndarray of int, shape (n,)
        Its place among the amplifiers of the detector.
    loss : ndarray, shape (n,)
        Difference from the mean over all amplifiers.
    covariance : ndarray, shape (n, n)
        Of the differences, the prior included.
    levels : dict
        By how much the level of each detector against the mean of all is wrong (relative), for a loss of 1 that all have in common.
    """

    detector: list[str]
    amplifier: NDArray[np.int64]
    loss: FloatArray
    covariance: FloatArray
    levels: dict[str, float]

    @property
    def error(self) -> FloatArray:
        """Standard errors of the differences."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def scatter(self) -> float:
        """Root mean square of the differences, what their errors give taken off."""
        return max(float(np.mean(self.loss**2)) - float(np.mean(self.error**2)), 0.0) ** 0.5

    @property
    def level_error(self) -> float:
        """Root mean square over detectors of what a usual common loss does to their levels."""
        return USUAL_LOSS * float(np.sqrt(np.mean(np.square(list(self.levels.values())))))


def measure_losses(
    solution: JointSolution,
    detectors: Sequence[DetectorSignals],
    amplifiers: Mapping[str, NDArray[np.int64]],
    *,
    reference: float = REFERENCE_ELECTRONS,
) -> AmplifierLosses:
    """Measure how the non-linearity of amplifiers differs.

    Parameters
    ----------
    amplifiers
        Number of the amplifier of each super-pixel of each detector, shape (p,).
    reference
        Signal at which losses are given, in the unit of the signals.
    """
    names: list[str] = []
    numbers: list[int] = []
    rows: list[FloatArray] = []
    known: list[tuple[float, float]] = []
    moved: dict[str, tuple[float, FloatArray]] = {}
    for detector in detectors:
        fit = fit_detector(
            solution.model,
            detector,
            solution.vector,
            threshold=solution.threshold,
            exposure_weights=solution.exposure_weights,
        )
        weights, total = fit.weights, fit.weights.sum(axis=0)
        lit = total > 0
        signal = np.where(weights > 0, np.exp(detector.log_signal - fit.residual), 0.0)
        regressor = -signal / reference
        mean = np.divide((weights * regressor).sum(axis=0), total, out=np.zeros(total.size), where=lit)
        regressor = np.where(weights > 0, regressor - mean, 0.0)
        own = amplifiers[detector.name]
        for number in np.unique(own[lit]):
            chosen = lit & (own == number)
            row = _gradient(solution, detector, chosen, regressor, weights)
            x, w, r = (part[:, chosen] for part in (regressor, weights, fit.residual))
            names.append(detector.name)
            numbers.append(int(number))
            rows.append(row)
            known.append((float(np.sum(w * x**2)), float(np.sum(w * x * r))))
        if lit.any():
            # Of each super-pixel's response one part in the mean over the detector.
            shares = np.broadcast_to(np.divide(1.0, total, out=np.zeros(total.size), where=lit) / lit.sum(), weights.shape)
            moved[detector.name] = float(mean[lit].mean()), _gradient(solution, detector, lit, shares, weights)
    matrix = np.array(rows).reshape(len(rows), solution.model.size)
    diagonal, pull = np.array(known).reshape(-1, 2).T
    whitened = linalg.solve_triangular(solution.factor, matrix.T, lower=True, check_finite=False)
    information = np.diag(diagonal) - whitened.T @ whitened
    covariance = np.linalg.inv(information + np.eye(len(diagonal)) * USUAL_LOSS**-2.0)
    difference = np.eye(len(diagonal)) - 1.0 / max(len(diagonal), 1)
    # All amplifiers bent alike: what other unknowns and the responses make of it.
    unknowns = linalg.solve_triangular(solution.factor, whitened.sum(axis=1), lower=True, trans="T", check_finite=False)
    levels = {name: mean - float(row @ unknowns) for name, (mean, row) in moved.items()}
    common = float(np.mean(list(levels.values()))) if levels else 0.0
    return AmplifierLosses(
        names,
        np.array(numbers, dtype=np.int64),
        difference @ (covariance @ pull),
        difference @ covariance @ difference,
        {name: level - common for name, level in levels.items()},
    )


def _gradient(
    solution: JointSolution, detector: DetectorSignals, chosen: NDArray[np.bool_], values: FloatArray, weights: FloatArray
) -> FloatArray:
    """Return ``X' W v`` of some super-pixels of a detector, shape (unknowns,)."""
    part = DetectorSignals(
        detector.name,
        detector.x_mm[chosen],
        detector.y_mm[chosen],
        detector.exposures,
        detector.log_signal[:, chosen],
        detector.variance[:, chosen],
    )
    columns = (np.ascontiguousarray(array[:, chosen], dtype=np.float64) for array in (values, weights))
    gradient = np.zeros(solution.model.size)
    DetectorRows(solution.model, part, solution.vector, *columns).add_gradient(gradient)
    return gradient
