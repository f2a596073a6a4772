"""The error budget of a joint solution: the contribution of each cause, and checks from the data themselves.

The checks compare solutions of two halves of the exposures, and the readings of the photodiode with the exposure scales.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from astropy.table import Table
from scipy import linalg

from permil.arrays import BoolArray, FloatArray
from permil.camera import Detector
from permil.camera.frames import ccs_to_detector
from permil.errors import FlatError
from permil.flat.joint.amplifier_linearity import AmplifierLosses
from permil.flat.joint.covariance import CorrelatedModes, FlatCovariance
from permil.flat.joint.data import DetectorSignals
from permil.flat.joint.photodiode import constants
from permil.flat.joint.solution import JointSolution
from permil.flat.joint.solve import solve_again
from permil.flat.shared_errors import shared_places

_MEANINGS = {
    "photon": ("", "median error of a super-pixel from its own signals (the flat uses all pixels)"),
    "common": ("", "rms over super-pixels of their shared errors"),
    "modes": ("", "the part of common in the extension MODES"),
    "remainder": ("", "the rest of common (extension REMAINDER)"),
    "detector_scale": ("", "rms over detectors of the error of their level against the mean of all"),
    "gradient_x": ("1 / mm", "error of the gradient of all detectors along CCS X"),
    "gradient_y": ("1 / mm", "error of the gradient of all detectors along CCS Y"),
    "drift_x": ("1 / mm", "the part of gradient_x from a drift of the photodiode"),
    "drift_y": ("1 / mm", "the part of gradient_y from a drift of the photodiode"),
    "weather": ("", "rms of the changes of the light's pattern from exposure to exposure"),
    "weather_limit": ("", "upper limit of such changes at 95 % probability (rms); none were found"),
    "weather_scale": ("", "the part of detector_scale from the weather"),
    "weather_x": ("1 / mm", "the part of gradient_x from the weather"),
    "weather_y": ("1 / mm", "the part of gradient_y from the weather"),
    "weather_common": ("", "the part of common from the weather; it is smooth and not in photon"),
    **{
        f"{name}_{term}": (unit, f"the part of {whole} from {cause}{note}")
        for name, cause in (
            ("board_coefficient", "errors of the boards' temperature coefficients"),
            ("board_time", "changes of the boards' gains in time and errors of their temperatures"),
            ("gain_step", "errors of the steps of amplifiers"),
        )
        for term, unit, whole, note in (
            ("scale", "", "detector_scale", ""),
            ("x", "1 / mm", "gradient_x", ""),
            ("y", "1 / mm", "gradient_y", ""),
            ("common", "", "common", "; not in photon"),
        )
    },
    "board_time": ("", "prior rms of the change of a board's gain from the first to the last exposure"),
    "linearity": ("", "rms over amplifiers of the loss of signal at 50,000 electrons, without noise"),
    "linearity_scale": (
        "",
        "effect on detector_scale of a loss of 2 per mil in all amplifiers; not included in detector_scale",
    ),
    "photodiode": ("", "noise of one photodiode reading"),
    "photodiode_drift": ("", "amplitude of the photodiode's drift, averaged over its posterior"),
    "exposure_scale": ("", "median error of an exposure's scale, without constant and gradients"),
    "position": ("mm", "error of a stage move"),
    "fit": ("", "square root of the reduced chi-square of the signals"),
    "split_half": ("", "rms of half the difference of odd and even exposures"),
    "split_half_noise": ("", "split_half expected from the noise of the signals alone"),
    "split_time": ("", "rms of half the difference of the earlier and the later half of exposures of each kind"),
    "cross_validation": (
        "",
        "rms of residual over error of exposures, predicted from the half (odd, even) without them",
    ),
}


def place_rows(signals: DetectorSignals, response: FloatArray, detector: Detector) -> FloatArray:
    """Return weights, shape (n + 1, p), of super-pixel means around each place of shared errors and over all super-pixels."""
    places = np.column_stack(shared_places(detector))
    x, y = ccs_to_detector(detector, signals.x_mm, signals.y_mm)
    distance = np.hypot(x[:, None] - places[:, 0], y[:, None] - places[:, 1])
    nearest = np.argmin(distance, axis=1)
    filled = np.isfinite(response)
    rows = np.zeros((len(places) + 1, len(x)))
    rows[nearest[filled], np.flatnonzero(filled)] = 1.0
    rows[-1, filled] = 1.0
    return rows / np.maximum(rows.sum(axis=1, keepdims=True), 1)


def error_budget(
    solution: JointSolution,
    errors: FlatCovariance,
    modes: CorrelatedModes,
    check: PhotodiodeCheck,
    *,
    level_errors: Mapping[str, float],
    losses: AmplifierLosses,
    halves: Halves | None,
) -> Table:
    """Return the error budget: one row for each cause, relative (or with its unit).

    Parameters
    ----------
    errors, modes, check
        Of the solution.
    level_errors
        Of each detector.
    losses
        Non-linearity of the amplifiers.
    halves
        Solutions of halves of the data, where there are such.
    """
    photon = np.concatenate([modes.independent[name] - modes.remainder[name] for name in modes.independent])
    _, gradient = errors.composite_gradient()
    _, steady = errors.under(without_drift(solution)).composite_gradient()
    drift = np.sqrt(np.maximum(np.diag(gradient) - np.diag(steady), 0.0))
    photodiode = solution.prior.photodiode
    in_modes = float(modes.variance.sum())
    found = {
        "photon": np.sqrt(np.nanmedian(photon)),
        "common": modes.total**0.5,
        "modes": in_modes**0.5,
        "remainder": max(modes.total - in_modes, 0.0) ** 0.5,
        "detector_scale": np.sqrt(np.mean(np.square(list(level_errors.values())))),
        "gradient_x": gradient[0, 0] ** 0.5,
        "gradient_y": gradient[1, 1] ** 0.5,
        "drift_x": drift[0],
        "drift_y": drift[1],
        "exposure_scale": check.scale_error,
        "fit": solution.reduced_chi_square**0.5,
    }
    if solution.prior.has_photodiode.any():
        found |= {"photodiode": photodiode.white, "photodiode_drift": photodiode.drift}
    if solution.model.position_errors:
        found["position"] = solution.prior.position_error_mm
    found |= _of_weather(solution, errors) | _of_gains(solution, errors)
    found |= {"linearity": losses.scatter, "linearity_scale": losses.level_error}
    if halves is not None:
        noise = np.concatenate(list(halves.odd.error.values()))
        left_out = halves.odd.left_out[~solution.left_out]
        found |= {
            "split_half": halves.odd.rms,
            "split_half_noise": float(np.sqrt(np.nanmean(noise**2))) / 2,
            "split_time": halves.early.rms,
            "cross_validation": float(np.sqrt(np.nanmean(left_out))),
        }
    rows = [(name, float(error), *_MEANINGS[name]) for name, error in found.items()]
    return Table(rows=rows, names=("term", "error", "unit", "meaning"))


def _of_weather(solution: JointSolution, errors: FlatCovariance) -> dict[str, float]:
    """Return the terms of weather: its size and contribution to others, or its upper limit."""
    if solution.weather is None:
        return {}
    if not solution.weather.found:
        return {"weather_limit": solution.weather.limit} if np.isfinite(solution.weather.limit) else {}
    return {"weather": solution.weather.rms} | _added("weather", solution.model.weather, errors)


def _of_gains(solution: JointSolution, errors: FlatCovariance) -> dict[str, float]:
    """Return the contributions of changes of gains: temperature coefficients and the rest of the boards, steps of amplifiers."""
    model = solution.model
    found: dict[str, float] = {}
    if solution.prior.boards is not None:
        start, coefficients = model.board_gains.start, solution.prior.boards.terms.coefficients
        middle = start + coefficients.stop
        found |= {"board_time": solution.prior.boards.time_rms}
        found |= _added("board_coefficient", slice(start, middle), errors)
        found |= _added("board_time", slice(middle, model.board_gains.stop), errors)
    if model.gain_steps:
        found |= _added("gain_step", model.step_sizes, errors)
    return found


def _added(cause: str, places: slice, errors: FlatCovariance) -> dict[str, float]:
    """Return the contributions of some unknowns to detector levels, gradient and common errors."""
    levels = errors.added_by(places)
    gradient = errors.composite_gradient_added_by(places)
    return {
        f"{cause}_scale": float(np.sqrt(np.mean(np.diag(levels)))),
        f"{cause}_x": float(gradient[0, 0] ** 0.5),
        f"{cause}_y": float(gradient[1, 1] ** 0.5),
        f"{cause}_common": errors.common_variance_added_by(places) ** 0.5,
    }


@dataclass(frozen=True)
class Halves:
    """Odd against even exposures, and the earlier against the later half of each kind of exposure."""

    odd: SplitHalves
    early: SplitHalves


def divisions(solution: JointSolution, is_scan: BoolArray) -> tuple[BoolArray, BoolArray]:
    """Return the odd exposures, and the earlier half of each kind.

    Parameters
    ----------
    is_scan
        Which exposures belong to the scan.
    """
    early = np.zeros(len(is_scan), dtype=bool)
    for members in (np.flatnonzero(is_scan), np.flatnonzero(~is_scan)):
        order = members[np.argsort(solution.model.exposures.time[members], kind="stable")]
        early[order[: len(order) // 2]] = True
    return odd_exposures(solution), early


def compare_halves(detectors: Sequence[DetectorSignals], divided: tuple[BoolArray, BoolArray], parts: Sequence[Part]) -> Halves:
    """Compare the solutions from halves of the data: without and with each of the two divisions in turn."""
    odd, early = divided
    return Halves(compare_parts(detectors, odd, *parts[:2]), compare_parts(detectors, early, *parts[2:]))


NOISIER = 2.0
"""Ratio of the error of a photodiode reading to that of a joint scale from which the reading is reported as noisier."""

_TOLERANCE = 0.3
"""Newton decrement of solutions from halves, in standard errors: they are compared with their noise."""


@dataclass(frozen=True)
class SplitHalves:
    """The log response from one part of the exposures minus that from the other, without its mean, on each detector.

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


def odd_exposures(solution: JointSolution) -> BoolArray:
    """Return a mask of every second exposure in the order of time."""
    order = np.argsort(np.argsort(solution.model.exposures.time, kind="stable"))
    return order % 2 == 1


@dataclass(frozen=True)
class Part:
    """Results of a solution from a part of the exposures that are compared between parts.

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
    left_out: BoolArray
    chi_square: FloatArray


def solve_part(solution: JointSolution, detectors: Sequence[DetectorSignals], held_out: BoolArray) -> Part:
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


def compare_parts(detectors: Sequence[DetectorSignals], first: BoolArray, *halves: Part) -> SplitHalves:
    """Compare the solutions from the first part of the exposures and from the others.

    Parameters
    ----------
    first : ndarray of bool, shape (n,)
        Exposures of the first part.
    *halves
        From `solve_part`, with the others held out, then with the first part held out.
    """
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
    precision = prior.scale_precision[np.ix_(known, known)]
    freedom = known.sum() - constants(exposures.regressors[known], int(known.sum())).shape[1] - 2
    chi_square = float(deviation[known] @ precision @ deviation[known] / max(freedom, 1))
    noisier = bool(prior.photodiode.white > NOISIER * float(np.nanmedian(scale_errors)))
    return PhotodiodeCheck(deviation, scale_errors, chi_square, noisier)


def without_drift(solution: JointSolution) -> JointSolution:
    """Return a solution with the errors of a photodiode without drift; its values are unchanged."""
    prior = replace(solution.prior, photodiode=solution.prior.photodiode.without_drift())
    scales, change = solution.model.scales, prior.scale_precision - solution.prior.scale_precision
    return replace(solution, prior=prior, factor=solution.factor.plus(scales.start, change))


def _scale_errors(solution: JointSolution) -> FloatArray:
    """Return errors of the scales, without constant and gradients; NaN for exposures that were left out."""
    model = solution.model
    kept = np.flatnonzero(~solution.left_out)
    gains = np.arange(model.board_gains.start, model.step_sizes.stop)
    together = solution.factor.covariance(np.concatenate([model.scales.start + kept, gains]))
    count = kept.size
    covariance = together[:count, :count]
    if gains.size:
        with_gains = together[count:, :count]
        covariance = covariance - with_gains.T @ linalg.solve(together[count:, count:], with_gains, assume_a="pos")
    fixed = np.linalg.qr(np.column_stack([np.ones(count), model.exposures.positions[kept]]))[0]
    seen = covariance @ fixed
    errors = np.full(len(model.exposures), np.nan)
    variance = (
        np.diag(covariance) - 2.0 * np.einsum("ek,ek->e", seen, fixed) + np.einsum("ek,kl,el->e", fixed, fixed.T @ seen, fixed)
    )
    errors[kept] = np.sqrt(np.maximum(variance, 0.0))
    return errors
