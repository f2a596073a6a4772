"""Checks of the error budget from the data themselves: halves against each other, exposures left out, photodiode against scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from permil.errors import FlatError
from permil.flat.joint.data import DetectorSignals
from permil.flat.joint.photodiode import constants
from permil.flat.joint.solution import JointSolution
from permil.flat.joint.solve import solve_again

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class SplitHalves:
    """The log response from one part of the exposures minus that from the other, its mean taken off, on each detector.

    Parameters
    ----------
    difference, error : dict
        On super-pixels; ``error`` is that of independent noise. NaN where a half has no signal.
    """

    difference: dict[str, FloatArray]
    error: dict[str, FloatArray]

    @property
    def rms(self) -> float:
        """Root mean square of half the difference: the error of the whole flat if all errors were independent between halves."""
        both = np.concatenate(list(self.difference.values()))
        return float(np.sqrt(np.nanmean(np.square(both)))) / 2


def odd_exposures(solution: JointSolution) -> NDArray[np.bool_]:
    """Return a mask of every second exposure in the order of time."""
    order = np.argsort(np.argsort(solution.model.exposures.time, kind="stable"))
    return order % 2 == 1


def split_halves(solution: JointSolution, detectors: Sequence[DetectorSignals], first: NDArray[np.bool_]) -> SplitHalves:
    """Solve with two parts of the exposures and compare.

    Parameters
    ----------
    first : ndarray of bool, shape (n,)
        Exposures of the first part.

    Raises
    ------
    FlatError
        If a part has no exposures.
    """
    if first.all() or not first.any():
        raise FlatError("one of two halves has no exposures", remedy="choose another division")
    halves = [solve_again(solution, detectors, held_out=held_out) for held_out in (~first, first)]
    difference, error = {}, {}
    for detector in detectors:
        name, weights = detector.name, detector.weights
        sums = [np.where(half.left_out[detector.exposures, None], 0.0, weights).sum(axis=0) for half in halves]
        with np.errstate(divide="ignore"):
            error[name] = np.sqrt(1.0 / sums[0] + 1.0 / sums[1])
        seen = np.isfinite(error[name])
        difference[name] = np.where(seen, halves[0].log_response[name] - halves[1].log_response[name], np.nan)
        error[name][~seen] = np.nan
    mean = np.nanmean(np.concatenate(list(difference.values())))
    return SplitHalves({name: part - mean for name, part in difference.items()}, error)


def cross_validation(
    solution: JointSolution, detectors: Sequence[DetectorSignals], *, folds: int = 4, seed: int = 0
) -> FloatArray:
    """Return the mean squared residual over its error of each exposure when it was left out; NaN without signals.

    Its own scale and position are fitted to it; beam and flat come from the other exposures. The noise alone gives 1 (a little
    more where the other exposures do not determine the flat much better than one exposure).
    """
    fold = np.random.default_rng(seed).permutation(len(solution.model.exposures)) % folds
    result = np.full(len(fold), np.nan)
    for number in range(folds):
        held_out = fold == number
        result[held_out] = solve_again(solution, detectors, held_out=held_out).tests.chi_square[held_out]
    return result


@dataclass(frozen=True)
class PhotodiodeCheck:
    """Exposure scales against the photodiode.

    Parameters
    ----------
    deviation : ndarray, shape (n,)
        Logarithm of the reading minus that of the scale, mean 0; NaN where the reading does not count.
    scale_errors : ndarray, shape (n,)
        Error of each scale once the constant, and the gradients that only the photodiode knows, are taken off.
    chi_square : float
        Of the deviations under the estimated noise and drift, over its degrees of freedom.
    noisier : bool
        Whether a reading is noisier than twice the joint scale, so that dividing by it would lose.
    """

    deviation: FloatArray
    scale_errors: FloatArray
    chi_square: float
    noisier: bool

    @property
    def scale_error(self) -> float:
        """Median error of a scale."""
        return float(np.median(self.scale_errors))


def check_photodiode(solution: JointSolution) -> PhotodiodeCheck:
    """Compare exposure scales and photodiode."""
    model, prior = solution.model, solution.prior
    exposures, known = model.exposures, prior.has_photodiode
    deviation = np.full(len(known), np.nan)
    if not known.any():
        return PhotodiodeCheck(deviation, _scale_errors(solution), np.nan, False)
    deviation[known] = (exposures.log_photodiode - solution.log_scales)[known]
    deviation -= np.nanmean(deviation)
    scale_errors = _scale_errors(solution)
    precision = prior.photodiode.precision(exposures.time[known], exposures.regressors[known])
    freedom = known.sum() - constants(exposures.regressors[known], int(known.sum())).shape[1] - 2
    chi_square = float(deviation[known] @ precision @ deviation[known] / max(freedom, 1))
    noisier = bool(prior.photodiode.white > 2 * float(np.median(scale_errors)))
    return PhotodiodeCheck(deviation, scale_errors, chi_square, noisier)


def without_drift(solution: JointSolution) -> JointSolution:
    """Return a solution whose errors are those of a photodiode that is known not to drift; what was found stays the same."""
    prior = replace(solution.prior, photodiode=replace(solution.prior.photodiode, drifts=()))
    precision = solution.factor @ solution.factor.T
    scales = solution.model.scales
    precision[scales, scales] += prior.scale_precision - solution.prior.scale_precision
    return replace(solution, prior=prior, factor=linalg.cholesky(precision, lower=True, overwrite_a=True, check_finite=False))


def _scale_errors(solution: JointSolution) -> FloatArray:
    model = solution.model
    count = len(model.exposures)
    unit = np.zeros((model.size, count))
    unit[np.arange(model.scales.start, model.scales.stop), np.arange(count)] = 1.0
    whitened = linalg.solve_triangular(solution.factor, unit, lower=True)
    fixed = np.linalg.qr(np.column_stack([np.ones(count), model.exposures.positions]))[0]
    return np.sqrt(np.square(whitened - (whitened @ fixed) @ fixed.T).sum(axis=0))
