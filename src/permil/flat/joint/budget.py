"""Checks of the error budget from the data themselves: halves against each other, photodiode against scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from permil.engine import ahead, own_threads
from permil.errors import FlatError
from permil.flat.joint.data import DetectorSignals
from permil.flat.joint.photodiode import constants
from permil.flat.joint.solution import JointSolution
from permil.flat.joint.solve import solve_again

FloatArray = NDArray[np.float64]

NOISIER = 2.0
"""How many times noisier than a joint scale a photodiode reading is said to be noisier."""

_TOLERANCE = 0.3
"""Newton decrement of solutions from halves, in standard errors: they are compared with their noise."""


@dataclass(frozen=True)
class SplitHalves:
    """The log response from one part of the exposures minus that from the other, its mean taken off, on each detector.

    Parameters
    ----------
    difference, error : dict
        On super-pixels; ``error`` is that of independent noise. NaN where a half has no signal.
    left_out : ndarray, shape (n,)
        Mean squared residual over its error of each exposure from the part that it does not belong to, its own scale and position
        fitted; NaN without signals. The noise alone gives 1, and a little more where a part does not determine the flat much better
        than one exposure does.
    """

    difference: dict[str, FloatArray]
    error: dict[str, FloatArray]
    left_out: FloatArray

    @property
    def rms(self) -> float:
        """Root mean square of half the difference: the error of the whole flat if all errors were independent between halves."""
        both = np.concatenate(list(self.difference.values()))
        return float(np.sqrt(np.nanmean(np.square(both)))) / 2


def odd_exposures(solution: JointSolution) -> NDArray[np.bool_]:
    """Return a mask of every second exposure in the order of time."""
    order = np.argsort(np.argsort(solution.model.exposures.time, kind="stable"))
    return order % 2 == 1


@dataclass(frozen=True)
class Part:
    """What a solution from a part of the exposures finds, as far as parts are compared.

    Parameters
    ----------
    log_response : dict
        On the super-pixels of each detector.
    left_out : ndarray of bool, shape (n,)
        Exposures that have no effect.
    chi_square : ndarray, shape (n,)
        See `permil.flat.joint.exposure_tests.ExposureTests`.
    """

    log_response: dict[str, FloatArray]
    left_out: NDArray[np.bool_]
    chi_square: FloatArray


def solve_part(solution: JointSolution, detectors: Sequence[DetectorSignals], held_out: NDArray[np.bool_]) -> Part:
    """Solve without some exposures, well enough for a comparison.

    Raises
    ------
    FlatError
        If no exposures are left, or there is no solution.
    """
    if held_out.all():
        raise FlatError("one of two halves has no exposures", remedy="choose another division")
    part = solve_again(solution, detectors, held_out=held_out, tolerance=_TOLERANCE, near=np.inf)
    return Part(part.log_response, part.left_out, part.tests.chi_square)


def split_halves(solution: JointSolution, detectors: Sequence[DetectorSignals], first: NDArray[np.bool_]) -> SplitHalves:
    """Solve with two parts of the exposures, side by side where the task may use threads, and compare.

    Parameters
    ----------
    first : ndarray of bool, shape (n,)
        Exposures of the first part.

    Raises
    ------
    FlatError
        If a part has no exposures.
    """

    def solve(held_out: NDArray[np.bool_]) -> Part:
        return solve_part(solution, detectors, held_out)

    return compare_parts(detectors, first, *ahead(solve, (~first, first), threads=own_threads()))


def compare_parts(detectors: Sequence[DetectorSignals], first: NDArray[np.bool_], *halves: Part) -> SplitHalves:
    """Compare the solutions from the first part of the exposures, and from the others; see `split_halves`."""
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
    left_out = np.where(first, halves[1].chi_square, halves[0].chi_square)
    return SplitHalves({name: part - mean for name, part in difference.items()}, error, left_out)


@dataclass(frozen=True)
class PhotodiodeCheck:
    """Exposure scales against the photodiode.

    Parameters
    ----------
    deviation : ndarray, shape (n,)
        Logarithm of the reading minus that of the scale, mean 0; NaN where the reading does not count.
    scale_errors : ndarray, shape (n,)
        Error of each scale once the constant, and the gradients that only the photodiode knows, are taken off, with the gains of boards
        known (only scale and gain together act on a signal); NaN for exposures that were left out.
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
        return float(np.nanmedian(self.scale_errors))


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
    precision = prior.photodiode.precision(exposures.time[known], exposures.regressors[known], exposures.epoch[known])
    freedom = known.sum() - constants(exposures.regressors[known], int(known.sum())).shape[1] - 2
    chi_square = float(deviation[known] @ precision @ deviation[known] / max(freedom, 1))
    noisier = bool(prior.photodiode.white > NOISIER * float(np.nanmedian(scale_errors)))
    return PhotodiodeCheck(deviation, scale_errors, chi_square, noisier)


def without_drift(solution: JointSolution) -> JointSolution:
    """Return a solution whose errors are those of a photodiode that is known not to drift; what was found stays the same."""
    prior = replace(solution.prior, photodiode=solution.prior.photodiode.without_drift())
    # Only the scales' prior differs: the patterns, which stand before them, keep their rows of the factor.
    start, scales = solution.model.scales.start, solution.model.scales
    factor = solution.factor.copy(order="K")
    others = factor[start:, start:]
    precision = others @ others.T
    block = slice(0, scales.stop - start)
    precision[block, block] += prior.scale_precision - solution.prior.scale_precision
    others[:] = linalg.cholesky(precision, lower=True, overwrite_a=True, check_finite=False)
    return replace(solution, prior=prior, factor=factor)


def _scale_errors(solution: JointSolution) -> FloatArray:
    """Return errors of the scales, constant and gradients taken off; an exposure that was left out must not set these: NaN."""
    model = solution.model
    kept = np.flatnonzero(~solution.left_out)
    unit = np.zeros((model.size, kept.size))
    unit[model.scales.start + kept, np.arange(kept.size)] = 1.0
    whitened = linalg.solve_triangular(solution.factor, unit, lower=True)
    gains = slice(model.board_gains.start, model.step_sizes.stop)
    if gains.stop > gains.start:
        basis, behind = solution.basis_of(gains), whitened[gains.start :]
        behind -= basis @ (basis.T @ behind)
    fixed = np.linalg.qr(np.column_stack([np.ones(kept.size), model.exposures.positions[kept]]))[0]
    errors = np.full(len(model.exposures), np.nan)
    errors[kept] = np.sqrt(np.square(whitened - (whitened @ fixed) @ fixed.T).sum(axis=0))
    return errors
