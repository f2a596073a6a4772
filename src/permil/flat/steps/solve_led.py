"""The joint solution of one LED from the files of its signals: solution, errors, checks, its own file, and messages to the user."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from permil.arrays import BoolArray, FloatArray, IntArray
from permil.camera import Camera, shared_camera
from permil.config import Config
from permil.config.flat import JointConfig
from permil.engine import report_part, threaded_map
from permil.errors import FlatError
from permil.exposures import SCAN
from permil.flat.between_leds import SharedTerms
from permil.flat.joint import (
    CorrelatedModes,
    DetectorSignals,
    ExposureList,
    FlatCovariance,
    JointSolution,
    SpacingChoice,
    beam_centre,
    check_photodiode,
    choose_spacing,
    coarse_spacing,
    solve_joint,
)
from permil.flat.joint.amplifier_linearity import (
    SIGNIFICANT,
    AmplifierLosses,
    LinearisedSignals,
    errors_with_losses,
    measure_losses,
)
from permil.flat.joint.budget import Halves, Part, compare_halves, divisions, error_budget, place_rows, solve_part
from permil.flat.joint.file import DetectorErrors, detector_errors, joint_hdus, planes_hdu
from permil.flat.joint.gain_steps import board_results, solved_steps
from permil.flat.joint.gains import BLIND_RMS, BoardReadings, Coefficient, board_terms
from permil.flat.joint.photodiode import follows_exposure_before
from permil.flat.measured_linearity import losses_hdu
from permil.flat.orientation import contradiction_error, detector_levels, find_contradictions
from permil.flat.shared_errors import shared_places
from permil.flat.signals import StoredDetectors, SuperPixelSignals
from permil.flat.steps.exposures import exposure_list, unit_seconds
from permil.products import RunFolder, fingerprint_card, write_hdus

# Approximate shares of the run time: knots, then the solution; the rest are errors and halves.
_PART_OF_CHOICE, _PART_OF_SOLUTION = 0.3, 0.5
_SUPER_PIXELS_PER_KNOT = 2.0
"""Finest distance of knots: signals are means over super-pixels."""

MOST_GRADIENT = 1e-3
"""Gradient of the response over all detectors, 1/mm, that is not plausible: 4 per cent over a detector of the LSST Camera."""

_MOST_READINGS, _MOST_NAMES = 10, 6
_LARGE_STEP = 0.1
"""Logarithm of a change of the photodiode's response that is reported as a factor."""


@dataclass(frozen=True)
class SolutionRequest:
    """The joint solution of one LED, from the signals of some detectors."""

    config: Config
    root: Path
    led: str
    exposures: Table
    detectors: tuple[str, ...]
    fingerprint: str
    origin: Mapping[str, Any] = field(default_factory=dict)


def solve_led(request: SolutionRequest) -> list[str]:
    """Solve for beam, flat and scales of an LED together, write the solution, and return the messages for the user.

    Raises
    ------
    FlatError
        If there is no light, the signals of a detector contradict its position or orientation, or the solution does not converge.
    """
    config, folder, camera = request.config, RunFolder(request.root), shared_camera(request.config.camera)
    options, obsids = config.flat.joint, [str(obsid) for obsid in request.exposures["obsid"]]
    number_of = {obsid: number for number, obsid in enumerate(obsids)}
    exposures = exposure_list(request.exposures, with_photodiode=config.isr.photodiode == "header")
    stored = _lit_detectors(request, exposures, number_of)
    layouts = list(stored.layouts())
    boards, amplifiers = _boards_and_amplifiers(layouts, number_of, camera)
    spacing_mm, finest_mm, choice = _choose_knots(
        options, exposures, stored, layouts[0].block * camera[layouts[0].detector].pixel_mm
    )
    solve = partial(
        solve_joint,
        exposures,
        spacing_mm=spacing_mm,
        stiffness=None if choice is None else choice.stiffness,
        start=None if choice is None else choice.start,
        reflection=options.reflection,
        position_errors=options.position_errors,
        geometry=options.geometry,
        with_drift=options.drift,
        boards=board_terms(
            exposures.time, boards, Coefficient(camera.temperature_coefficient, config.isr.temperature_coefficient)
        ),
        threshold=options.threshold,
    )
    finely = partial(
        solve,
        finest_mm=finest_mm,
        amplifiers=amplifiers,
        progress=lambda share: report_part(_PART_OF_CHOICE + (_PART_OF_SOLUTION - _PART_OF_CHOICE) * share),
    )
    coarsely = partial(solve, with_weather=False) if config.isr.linearity == "none" else None
    measured = config.isr.linearity == str(folder.measured_linearity)
    solution, detectors, losses, put_back = _solve_straight(coarsely, finely, stored, amplifiers, measured=measured)
    report_part(_PART_OF_SOLUTION)
    check = check_photodiode(solution)
    rows = {one.name: place_rows(one, solution.log_response[one.name], camera[one.name]) for one in detectors}
    (errors, modes, shared), halves, trouble = _errors_and_halves(request, solution, detectors, rows)
    if measured:
        modes, shared, planes = errors_with_losses(losses, errors, modes, amplifiers, rows, shared)
    else:
        planes = errors.plane_covariance()
    if put_back is not None:
        losses = losses.plus(put_back)
    budget = error_budget(
        solution,
        errors,
        modes,
        check,
        level_errors={name: float(covariance[-1, -1] ** 0.5) for name, covariance in shared.items()},
        losses=losses,
        halves=halves,
    )
    require_plausible_gradient(*errors.composite_gradient(), led=request.led)
    found: dict[str, DetectorErrors] = {}
    for layout in layouts:
        name, where = layout.detector, (layout.row, layout.column)
        places = np.column_stack(shared_places(camera[name]))
        found[name] = detector_errors(modes, name, places, shared[name][:-1, :-1], layout.shape, where, halves)
    solved = _Solved(request, solution, choice, errors, budget, noisier=check.noisier)
    hdus = joint_hdus(
        solution,
        obsids=obsids,
        errors=found,
        check=check,
        budget=budget,
        cards=solved.cards(),
        log_unit=_log_unit(solution),
        side_mm=layouts[-1].block * camera[layouts[-1].detector].pixel_mm,
    )
    hdus += [planes_hdu(planes), losses_hdu(losses, camera), *SharedTerms.of(errors, _mean_temperatures(boards)).hdus()]
    write_hdus(folder.joint(request.led), hdus)
    return [f"{request.led}: {sentence}" for sentence in (*solved.sentences(camera), *trouble)]


def _lit_detectors(request: SolutionRequest, exposures: ExposureList, number_of: dict[str, int]) -> StoredDetectors:
    """Return the detectors of a request that have light.

    Raises
    ------
    FlatError
        If the signals of a detector contradict its position or orientation.
    """
    folder = RunFolder(request.root)
    files = [folder.super_pixels(request.led, name) for name in request.detectors]
    stored = StoredDetectors(files, number_of, request.config.flat.joint.least_signal)
    lit, levels = [], []
    for number, detector in enumerate(stored):
        if len(detector.exposures):
            lit.append(number)
            levels.append(detector_levels(exposures, detector))
    if contradictions := find_contradictions(levels):
        raise contradiction_error(contradictions, shared_camera(request.config.camera).detectors, led=request.led)
    return stored.only(lit)


def _choose_knots(
    options: JointConfig, exposures: ExposureList, detectors: Sequence[DetectorSignals], side_mm: float
) -> tuple[float, float | None, SpacingChoice | None]:
    """Return the knot spacing, that of finer knots if there are any, and their evidence.

    Parameters
    ----------
    side_mm
        Side of a super-pixel.
    """
    if options.spacing_mm is not None:
        return coarse_spacing(exposures, detectors, options.spacing_mm), options.spacing_mm, None
    choice = choose_spacing(exposures, detectors)
    report_part(_PART_OF_CHOICE)
    return choice.spacing_mm, _SUPER_PIXELS_PER_KNOT * side_mm if choice.limited else None, choice


def _log_unit(solution: JointSolution) -> float:
    """Return the logarithm of the scale for a photodiode reading of 1, median of all exposures; their median without readings."""
    known = solution.prior.has_photodiode
    readings = np.where(known, solution.model.exposures.log_photodiode, 0.0)
    return float(np.median((solution.log_scales - readings)[known if known.any() else ~solution.left_out]))


Solve = Callable[[Sequence[DetectorSignals]], JointSolution]


def _solve_straight(
    coarsely: Solve | None,
    finely: Solve,
    detectors: Sequence[DetectorSignals],
    amplifiers: Mapping[str, IntArray],
    *,
    measured: bool,
) -> tuple[JointSolution, Sequence[DetectorSignals], AmplifierLosses, AmplifierLosses | None]:
    """Solve with signals corrected for non-linearity, which would otherwise look like changing gains and exposures that do not fit.

    Parameters
    ----------
    coarsely
        A first solution, from which losses are measured; None where no amplifier is expected to be non-linear.
    finely
        The solution.
    measured
        Whether measured losses were corrected before: their errors matter then.

    Returns
    -------
    solution : JointSolution
    straight : sequence of DetectorSignals
        Exposures and signals that it was solved from.
    losses : AmplifierLosses
        Losses that remain.
    put_back : AmplifierLosses or None
        Losses for which the signals were corrected.
    """
    put_back = None
    if coarsely is not None:
        losses = measure_losses(coarsely(detectors), detectors, amplifiers)
        if losses.differ(by=SIGNIFICANT):
            detectors, put_back = LinearisedSignals(detectors, losses, amplifiers), losses
    solution = finely(detectors)
    details_known = put_back is None and not measured
    return solution, detectors, measure_losses(solution, detectors, amplifiers, details_known=details_known), put_back


def _mean_temperatures(boards: Sequence[BoardReadings]) -> dict[str, float]:
    """Return the mean temperature of each readout board whose thermometers were read, deg C."""
    return {board.name: float(np.nanmean(board.temperature)) for board in boards if np.isfinite(board.temperature).any()}


def _boards_and_amplifiers(
    stored: Iterable[SuperPixelSignals], number_of: Mapping[str, int], camera: Camera
) -> tuple[list[BoardReadings], dict[str, IntArray]]:
    """Return the readout boards of some detectors, the exposures that they read and their thermometers, and amplifiers of super-pixels."""
    readings: dict[str, dict[int, FloatArray]] = {}
    detectors: dict[str, list[str]] = {}
    amplifiers = {}
    for signals in stored:
        detector = camera[signals.detector]
        amplifiers[detector.name] = signals.amplifier
        if not detector.reb:
            continue
        board = f"{detector.raft}/{detector.reb}"
        detectors.setdefault(board, []).append(detector.name)
        own = readings.setdefault(board, {})
        for obsid, temperature in zip(signals.obsid, signals.temperature, strict=True):
            # All detectors of a board have its temperatures in their files.
            if (number := number_of.get(str(obsid))) is not None and not np.isfinite(own.get(number, np.nan)).all():
                own[number] = temperature
    boards = [
        BoardReadings(board, tuple(detectors[board]), np.array(sorted(own)), np.array([own[number] for number in sorted(own)]))
        for board, own in readings.items()
    ]
    return boards, amplifiers


def require_plausible_gradient(gradient: FloatArray, covariance: FloatArray, *, led: str) -> None:
    """Raise an error if the gradient of the response over all detectors is implausible.

    The gradient is as good as the photodiode: readings whose unit changes, or that do not follow the light, cause one.

    Parameters
    ----------
    gradient, covariance
        Of the logarithm of the response along CCS X and Y, 1/mm.

    Raises
    ------
    FlatError
        If the gradient is beyond `MOST_GRADIENT` and five times its error.
    """
    size = np.abs(gradient)
    if ((size > MOST_GRADIENT) & (size > 5 * np.sqrt(np.diag(covariance)))).any():
        raise FlatError(
            f"{led}: the response would change by {100 * float(size.max()):.2g} per cent per mm over the focal plane, which is implausible",
            remedy="check the photodiode readings of this LED (their unit, and whether they follow the light), or set isr.photodiode: none",
            gradient=gradient.tolist(),
        )


Errors = tuple[FlatCovariance, CorrelatedModes, dict[str, FloatArray]]


def _errors_and_halves(
    request: SolutionRequest,
    solution: JointSolution,
    detectors: Sequence[DetectorSignals],
    rows: Mapping[str, FloatArray],
) -> tuple[Errors, Halves | None, list[str]]:
    """Return the errors and the comparison of halves, or the reason for missing halves, which the flat itself does not need.

    At most two calls run at a time, since each takes the memory of a matrix of the unknowns.

    Parameters
    ----------
    rows
        Weights of the sums of `FlatCovariance.modes_and_shared`.
    """
    options = request.config.flat.joint
    divided = divisions(solution, np.asarray(request.exposures["purpose"]) == SCAN)
    held_out = [mask for first in divided for mask in (~first, first)] if options.checks else []

    def errors() -> Errors:
        covariance = FlatCovariance(solution, detectors)
        return covariance, *covariance.modes_and_shared(options.modes, rows)

    def part(mask: BoolArray) -> Part | FlatError:
        try:
            return solve_part(solution, detectors, mask)
        except FlatError as error:
            return error

    found, *parts = _side_by_side([errors, *(partial(part, mask) for mask in held_out)])
    failed = [one for one in parts if isinstance(one, FlatError)]
    if failed or not parts:
        return found, None, [f"{request.led}: halves of the exposures are not compared: {error}" for error in failed[:1]]
    return found, compare_halves(detectors, divided, parts), []


def _side_by_side(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run callables, at most two at once, which share the threads of the task, and return their results."""
    returned = []
    for result in threaded_map(lambda call: call(), calls, depth=len(calls), most=2):
        returned.append(result)
        report_part(_PART_OF_SOLUTION + (1 - _PART_OF_SOLUTION) * len(returned) / (len(calls) + 1))
    return returned


@dataclass(frozen=True)
class _Solved:
    """A solved LED, for the cards of its file and the messages to the user."""

    request: SolutionRequest
    solution: JointSolution
    choice: SpacingChoice | None
    errors: FlatCovariance
    budget: Table
    noisier: bool

    @property
    def _error_of(self) -> dict[str, float]:
        """Errors of the budget by term."""
        return dict(zip(self.budget["term"], self.budget["error"], strict=True))

    @property
    def _is_limited(self) -> bool:
        """Whether the data support finer knots than are possible."""
        return self.choice is not None and self.choice.limited and self.solution.model.details is None

    def _observation(self, exposure: int) -> str:
        return str(self.request.exposures["obsid"][exposure])

    def cards(self) -> dict[str, Any]:
        """Return the cards of the primary header."""
        solution, photodiode = self.solution, self.solution.prior.photodiode
        certificate, (grid, _) = solution.certificate, solution.model.beam(solution.vector)
        options = self.request.config.flat.joint
        centre, centre_covariance = beam_centre(solution)
        gradient, gradient_covariance = self.errors.composite_gradient()
        cards: dict[str, Any] = {
            **self.request.origin,
            **fingerprint_card(self.request.fingerprint),
            "LED": (self.request.led, "LED"),
            "NEXPOSUR": (len(solution.model.exposures), "exposures"),
            "NLEFTOUT": (int(solution.left_out.sum()), "exposures that were left out"),
            "NDETECT": (len(self.errors.detectors), "detectors"),
            "NSIGNAL": (solution.signals, "signals"),
            "NUNKNOWN": (solution.model.size, "unknowns besides the response"),
            "PASSES": (certificate.passes, "passes through the data"),
            "DECREMEN": (certificate.decrement, "Newton decrement, standard errors"),
            "DECRETOL": (certificate.tolerance, "limit of the Newton decrement"),
            "GRADNORM": (certificate.gradient, "norm of the gradient over that at the start"),
            "REDCHI2": (solution.reduced_chi_square, "reduced chi-square of the signals"),
            "KNOTS": (grid.spacing, "[mm] distance of the knots of the beam"),
            "KNOTLIM": (self._is_limited, "finer knots exceed the limit"),
            "STIFFNES": (solution.prior.stiffness[0], "[mm2] stiffness of the beam"),
            "BEAMX": (centre[0], "[mm] centre of the beam, u along CCS X"),
            "BEAMXERR": (centre_covariance[0, 0] ** 0.5, "[mm] its error"),
            "BEAMY": (centre[1], "[mm] centre of the beam, u along CCS Y"),
            "BEAMYERR": (centre_covariance[1, 1] ** 0.5, "[mm] its error"),
            "PDNOISE": (photodiode.white, "noise of one photodiode reading, relative"),
            "PDNOISER": (photodiode.white_err, "its error"),
            "PDDRIFT": (photodiode.drift, "drift of the photodiode, relative"),
            "PDDRIFTP": (photodiode.drift_probability, "probability of a drift"),
            "GRADX": (gradient[0], "[1/mm] gradient of all detectors, CCS X"),
            "GRADXERR": (gradient_covariance[0, 0] ** 0.5, "[1/mm] its error"),
            "GRADY": (gradient[1], "[1/mm] gradient of all detectors, CCS Y"),
            "GRADYERR": (gradient_covariance[1, 1] ** 0.5, "[1/mm] its error"),
        }
        if solution.model.geometry:
            stage, stage_errors = solution.vector[solution.model.stage], solution.error_of(solution.model.stage)
            cards |= {
                "ROTATION": (stage[0], "[rad] stage axes to CCS, from X to Y"),
                "ROTATERR": (stage_errors[0], "[rad] its error"),
                "STAGESCL": (stage[1], "relative scale of the stage's axes minus 1"),
                "STAGESER": (stage_errors[1], "its error"),
            }
        if solution.model.position_errors:
            cards["POSERROR"] = (solution.prior.position_error_mm, "[mm] error of a stage move")
        weather = solution.weather
        if weather is not None and np.isfinite(weather.limit):
            cards["WEATHLIM"] = (weather.limit, "upper limit of the weather's rms (95 %)")
            cards["WEATHHAL"] = (weather.half_mm, "[mm] half side of the square of that rms")
        if weather is not None and weather.found:
            cards |= {
                "WEATHER": (weather.rms, "weather of the light path, rms"),
                "WEATHERR": (weather.rms_err, "its error"),
                "WEATHTFA": (weather.time_factor, "error of its correlation time, a factor"),
            }
            if np.isfinite(seconds := unit_seconds(self.request.exposures)):
                cards["WEATHTIM"] = (weather.time * seconds, "[s] correlation time of the weather")
        return cards | {
            "LEASTSIG": (options.least_signal, "[electron] fainter signals are not used"),
            "THRESHLD": (options.threshold, "standard deviations beyond which weights fall"),
        }

    def sentences(self, camera: Camera) -> list[str]:
        """Return the messages: quality of the solution, then weather, photodiode, exposures and gains."""
        return [
            *self._of_quality(),
            *self._of_weather(),
            *self._of_photodiode(),
            *self._of_exposures(),
            *self._of_steps(camera),
            *self._of_boards(),
        ]

    def _of_quality(self) -> Iterator[str]:
        solution, error_of, certificate = self.solution, self._error_of, self.solution.certificate
        knots = solution.model.beam(solution.vector)[0].spacing
        yield (
            f"joint solution of {solution.signals} signals, {solution.model.size} unknowns, knots {knots:.1f} mm apart, "
            f"reduced chi-square {solution.reduced_chi_square:.3f}; "
            f"super-pixels from signals: {1e3 * error_of['photon']:.3f} per mil independent, "
            f"{1e3 * error_of['common']:.3f} common"
        )
        if not certificate.converged:
            yield f"stopped {certificate.decrement:.2g} standard errors from its optimum, after {certificate.passes} passes"
        if self._is_limited:
            yield f"the data support knots finer than {knots:.1f} mm; set flat.joint.spacing_mm to use them"
        if self.noisier:
            yield (
                f"the photodiode ({1e3 * error_of['photodiode']:.2g} per mil per reading) is noisier than the joint scales "
                f"({1e3 * error_of['exposure_scale']:.2g} per mil): the solver divide would be less accurate"
            )

    def _of_weather(self) -> Iterator[str]:
        """Yield the size and correlation time of the weather, or why it is unknown."""
        weather = self.solution.weather
        if weather is None:
            return
        if not weather.found:
            if not np.isfinite(weather.limit):
                cause = "structure of the beam finer than the knots, or a changing gain"
                yield f"changes of the light's pattern between exposures cannot be measured: the residuals have another cause ({cause})"
            return
        seconds = unit_seconds(self.request.exposures)
        time = f"{weather.time * seconds:.2g} s" if np.isfinite(seconds) else f"{weather.time:.2g} exposures"
        size, side = f"{1e3 * weather.rms:.2g} +- {1e3 * weather.rms_err:.1g} per mil rms", f"{2 * weather.half_mm:.0f}"
        yield (
            f"the pattern of the light changes from exposure to exposure (weather): {size} over {side} x {side} mm, with a correlation "
            f"time of {time} (within a factor {weather.time_factor:.2g})"
        )
        yield (
            "a pattern that changes slowly while the projector moves looks like a quadratic flat: the weather contributes "
            f"{1e3 * self._error_of['weather_common']:.2g} per mil to the common error"
        )

    def _of_photodiode(self) -> Iterator[str]:
        """Yield messages about the photodiode: readings of the previous exposure, a linear drift, steps."""
        exposures = self.solution.model.exposures
        time = exposures.time
        light = np.where(self.solution.left_out, np.nan, self.solution.log_scales)
        if follows_exposure_before(exposures.log_photodiode, light, time):
            yield (
                "the photodiode readings follow the light of the previous exposure, not their own; check CCOBADC in the headers, "
                "or set isr.photodiode: none"
            )
        for effect in self.solution.prior.photodiode.found:
            size = f"{1e3 * effect.size:.3g} +- {1e3 * effect.size_err:.1g} per mil"
            if np.isnan(effect.time):
                yield f"the photodiode drifts by {size} from the first to the last exposure"
                continue
            first = int(np.argmin(np.where(time >= effect.time, time, np.inf)))
            change = size if abs(effect.size) < _LARGE_STEP else f"a factor of {np.exp(effect.size):.4g}"
            yield f"the photodiode's response changes by {change} before exposure {self._observation(first)}"

    def _of_exposures(self) -> Iterator[str]:
        """Yield the exposures that were left out, and the first of those whose photodiode reading is not used."""
        unread = 0
        for number, reason in self.solution.findings().items():
            unread += not self.solution.left_out[number]
            if self.solution.left_out[number] or unread <= _MOST_READINGS:
                what = "left out" if self.solution.left_out[number] else "photodiode reading not used"
                yield f"exposure {self._observation(number)} {what}: {reason}"
        if unread > _MOST_READINGS:
            yield f"{unread - _MOST_READINGS} more photodiode readings are not used; joint.fits lists them"

    def _of_steps(self, camera: Camera) -> Iterator[str]:
        """Yield the amplifiers whose gain changes during the campaign."""
        for step in solved_steps(self.solution):
            yield (
                f"the signals of amplifier {camera[step.detector].amplifiers[step.amplifier].name} of {step.detector} change by "
                f"{1e3 * step.size:.3g} +- {1e3 * step.size_err:.1g} per mil before exposure {self._observation(step.exposure)}: its "
                "gain has changed; earlier signals are corrected, and the flat refers to the later gain"
            )

    def _of_boards(self) -> Iterator[str]:
        """Yield the readout boards that differ from their expectation, have no temperatures, or are dominated by their prior."""
        terms, boards = self.solution.model.boards, board_results(self.solution)
        if terms is None:
            return
        applied = terms.coefficient.applied
        for one in boards:
            if one.is_unusual:
                yield (
                    f"the gain of readout board {one.name} changes by {1e3 * (applied + one.coefficient):.2f} +- "
                    f"{1e3 * one.coefficient_err:.1g} per mil per degree C, where {1e3 * (applied + one.expected):.2g} is expected"
                )
        for one in boards:
            if one.has_changed:
                yield (
                    f"the signals of readout board {one.name} change by {1e3 * one.change:.2g} +- {1e3 * one.change_err:.1g} per mil "
                    "from its first to its last exposure, beyond the effect of its temperature"
                )
        blind = [one.name for one, is_blind in zip(boards, terms.blind, strict=True) if is_blind]
        if blind:
            yield (
                f"there are no usable temperatures of readout board {_list_of(blind)}: changes of its gain are modelled in time alone, "
                f"with a prior of {1e3 * BLIND_RMS:.1g} per mil; name working thermometers in isr.temperature_card"
            )
        # The gain of a single board is part of the light.
        dominated = [one.name for one in boards if one.is_dominated and len(boards) > 1]
        if dominated:
            error_of = self._error_of
            added = float(np.hypot(error_of["board_coefficient_scale"], error_of["board_time_scale"]))
            yield (
                f"gains of readout boards ({_list_of(dominated)}) are dominated by their prior: exposures read by several boards do not "
                f"determine them better; the uncertainty of boards adds {1e3 * added:.1g} per mil to the errors of detector levels"
            )


def _list_of(names: Sequence[str]) -> str:
    """Return the first few names as one phrase, with the number of the others."""
    listed = ", ".join(names[:_MOST_NAMES])
    return listed if len(names) <= _MOST_NAMES else f"{listed} and {len(names) - _MOST_NAMES} more"
