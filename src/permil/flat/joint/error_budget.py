"""The error budget of a joint solution: what each cause adds, as one table, and what the pixels of each detector share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from permil.camera import Detector
from permil.camera.frames import ccs_to_detector
from permil.flat.joint import (
    CorrelatedModes,
    DetectorSignals,
    FlatCovariance,
    JointSolution,
    SplitHalves,
    odd_exposures,
    without_drift,
)
from permil.flat.joint.amplifier_linearity import AmplifierLosses
from permil.flat.joint.budget import Part, PhotodiodeCheck, compare_parts
from permil.flat.shared_errors import shared_places

FloatArray = NDArray[np.float64]

_MEANINGS = {
    "photon": ("", "median error of a super-pixel from its own signals (the flat has all its pixels)"),
    "common": ("", "rms over super-pixels of what they have in common"),
    "modes": ("", "that part of it which is in the extension MODES"),
    "remainder": ("", "the rest of it (extension REMAINDER)"),
    "detector_scale": ("", "rms over detectors of the error of their level against the mean of all"),
    "gradient_x": ("1 / mm", "error of the gradient of all detectors along CCS X"),
    "gradient_y": ("1 / mm", "error of the gradient of all detectors along CCS Y"),
    "drift_x": ("1 / mm", "the part of gradient_x that a drift of the photodiode adds"),
    "drift_y": ("1 / mm", "the part of gradient_y that a drift of the photodiode adds"),
    "weather": ("", "rms of the changes of the light's pattern from exposure to exposure"),
    "weather_limit": ("", "what such changes do not exceed with 95 % probability (rms); none were found"),
    "weather_scale": ("", "the part of detector_scale that they add"),
    "weather_x": ("1 / mm", "the part of gradient_x that they add"),
    "weather_y": ("1 / mm", "the part of gradient_y that they add"),
    "weather_common": ("", "the part of common that they add; it is smooth, and none of photon"),
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
            ("common", "", "common", "; none of photon"),
        )
    },
    "board_time": ("", "rms of the change of a board's gain from the first to the last exposure, before the fit"),
    "linearity": ("", "rms of the loss of signal at 50,000 electrons between amplifiers, its noise taken off"),
    "linearity_scale": (
        "",
        "what a loss of 2 per mil that all amplifiers share would add to detector_scale, which does not contain it",
    ),
    "photodiode": ("", "noise of one photodiode reading"),
    "photodiode_drift": ("", "amplitude of its drift, averaged over what the data allow"),
    "exposure_scale": ("", "median error of an exposure's scale, constant and gradients taken off"),
    "position": ("mm", "error of a stage move"),
    "fit": ("", "square root of the reduced chi-square of the signals"),
    "split_half": ("", "rms of half the difference of odd and even exposures"),
    "split_half_noise": ("", "what the signals' own noise gives for split_half"),
    "split_time": ("", "rms of half the difference of the earlier and the later half of exposures of each kind"),
    "cross_validation": (
        "",
        "square root of the mean squared residual over its error of exposures, from the half (odd, even) that they are not in",
    ),
}


def place_rows(signals: DetectorSignals, response: FloatArray, detector: Detector) -> FloatArray:
    """Return the weights that average super-pixels around each of the places of shared errors, and over all, shape (n + 1, p)."""
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
    """Return the terms of weather: its size and what it adds to others, or what it does not exceed."""
    if solution.weather is None:
        return {}
    if not solution.weather.found:
        return {"weather_limit": solution.weather.limit} if np.isfinite(solution.weather.limit) else {}
    return {"weather": solution.weather.rms} | _added("weather", solution.model.weather, solution, errors)


def _of_gains(solution: JointSolution, errors: FlatCovariance) -> dict[str, float]:
    """Return what changes of gains add: temperature coefficients and the rest of the boards, steps of amplifiers."""
    model = solution.model
    found: dict[str, float] = {}
    if solution.prior.boards is not None:
        start, coefficients = model.board_gains.start, solution.prior.boards.terms.coefficients
        middle = start + coefficients.stop
        found |= {"board_time": solution.prior.boards.time_rms}
        found |= _added("board_coefficient", slice(start, middle), solution, errors)
        found |= _added("board_time", slice(middle, model.board_gains.stop), solution, errors)
    if model.gain_steps:
        found |= _added("gain_step", model.step_sizes, solution, errors)
    return found


def _added(cause: str, places: slice, solution: JointSolution, errors: FlatCovariance) -> dict[str, float]:
    """Return what some unknowns add to detector levels, gradient and errors in common."""
    lit = {name: np.isfinite(response) for name, response in solution.log_response.items()}
    levels = errors.added_by(places, [{name: one / one.sum()} for name, one in lit.items()])
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


def divisions(solution: JointSolution, is_scan: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
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


def compare_halves(
    detectors: Sequence[DetectorSignals], divided: tuple[NDArray[np.bool_], NDArray[np.bool_]], parts: Sequence[Part]
) -> Halves:
    """Compare the solutions from halves of the data: without and with each of the two divisions in turn."""
    odd, early = divided
    return Halves(compare_parts(detectors, odd, *parts[:2]), compare_parts(detectors, early, *parts[2:]))
