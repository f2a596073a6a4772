"""The page of a joint solution: tables, sentences, and its declaration."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from permil.arrays import FloatArray
from permil.beam.stage import load_beam
from permil.camera import shared_camera
from permil.config import Config
from permil.flat.joint.budget import NOISIER
from permil.flat.joint.file import is_converged
from permil.flat.joint.photodiode_fit import NO_DRIFT_PRIOR
from permil.flat.joint.residuals import DetectorResiduals, JointResiduals
from permil.products import RunFolder
from permil.report.detector.page import detector_path
from permil.report.joint import figures
from permil.report.joint.inputs import JointProducts, mode_sizes, read_joint, solution_path
from permil.report.kit.elements import (
    Cell,
    Column,
    Entry,
    Grid,
    Link,
    count_column,
    decimal_column,
    measured_cell,
    measured_column,
    number_cell,
    number_column,
    table_of,
    text_cell,
    text_column,
)
from permil.report.kit.pages import (
    Declaration,
    IndexPart,
    LedContext,
    LedProducts,
    Page,
    PageKind,
    RunProducts,
    index_address,
    page_path,
    relative_address,
    render,
)
from permil.report.kit.results import MISSING, Measurement, format_count, format_measurement, two_digits, with_minus

_UNITS = {"": (1e3, "‰"), "mm": (1e3, "µm"), "1 / mm": (1e3, "‰/mm")}
"""Factor and unit of budget terms on pages, by their unit in the product."""

_LABELS = {
    "photon": ("noise of the signals", "VARIANCE of a flat (per pixel)"),
    "common": ("correlated error", "MODES and REMAINDER of a flat"),
    "modes": ("correlated error, largest modes", "MODES of a flat"),
    "remainder": ("correlated error, remainder", "REMAINDER of a flat"),
    "detector_scale": ("scale of a detector", "COVARIANCE and PLACES of a flat"),
    "gradient_x": ("gradient along X", "joint.fits, GRADX, GRADXERR"),
    "gradient_y": ("gradient along Y", "joint.fits, GRADY, GRADYERR"),
    "drift_x": ("gradient, drift part, X", "joint.fits, DRIFT"),
    "drift_y": ("gradient, drift part, Y", "joint.fits, DRIFT"),
    "exposure_scale": ("scale of an exposure", "joint.fits, EXPOSURES, scale_err"),
    "fit": ("fit", "joint.fits, REDCHI2"),
    "photodiode": ("photodiode, noise", "joint.fits, PDNOISE, PDNOISER"),
    "photodiode_drift": ("photodiode, drift", "joint.fits, PDDRIFT, DRIFT"),
    "position": ("stage move", "joint.fits, POSERROR"),
    "board_time": ("readout boards, change in time", "joint.fits, BOARDS"),
    "split_half": ("odd minus even exposures", ""),
    "split_half_noise": ("the same, noise alone", ""),
    "split_time": ("later minus earlier exposures", ""),
    "cross_validation": ("exposures left out", ""),
    "weather": ("weather", ""),
    "weather_limit": ("weather, upper limit", ""),
    "linearity": ("linearity, scatter of amplifiers", ""),
    "linearity_scale": ("linearity, scale of a detector", ""),
    **{
        f"{cause}_{term}": (f"{name}, {part}", "")
        for cause, name in (
            ("weather", "weather"),
            ("board_coefficient", "board temperatures"),
            ("board_time", "boards in time"),
            ("gain_step", "gain steps"),
        )
        for term, part in (
            ("scale", "scale of a detector"),
            ("x", "gradient X"),
            ("y", "gradient Y"),
            ("common", "correlated error"),
        )
    },
}
_NUMBERS = ("fit", "cross_validation")
"""Terms that are ratios, not errors."""
_LIKELY = 0.5
_MUCH_CHI_SQUARE = 0.05
_MUCH_STAGE_SCALE = 1e-3
_MUCH_SHIFT = 2.0
_CLEAR = 5.0
"""Number of standard errors above which a misfit or the scale of the stage is reported."""
_SIGNIFICANT = 3.0


def solution_text(products: JointProducts) -> str:
    """Return the size and accuracy of the solution, and its cautions as phrases."""
    found = (
        f"converged (Newton decrement {products.card('DECREMEN'):.1g})" if is_converged(products.header) else "did NOT converge"
    )
    wrong = ", ".join(caution.phrase for caution in cautions(products))
    # The level of a single detector is a convention.
    several = len(products.detectors) > 1
    scale = f"{per_mil(products.error_of('detector_scale'))} ‰ for the scale of a detector, " if several else ""
    return (
        f"{format_count(int(products.card('NSIGNAL')))} signals of {counted(len(products.exposures), 'exposure')} on "
        f"{counted(len(products.detectors), 'detector')} were solved for beam, exposure scales and flat together: the solution {found}, "
        f"with a reduced chi-square of {format_measurement(*chi_square_of(products))}; errors are "
        f"{per_mil(products.error_of('photon'))} ‰ for a super-pixel from its own signals, {per_mil(products.error_of('common'))} ‰ "
        f"for the part correlated with others, {scale}and for the gradient of all detectors "
        f"{per_mil(products.error_of('gradient_x'))} (X) and {per_mil(products.error_of('gradient_y'))} ‰/mm (Y). "
        + (f"To check: {wrong}." if wrong else "No problem was found.")
    )


def convergence_text(products: JointProducts) -> str:
    """Return the distance of the solution from its optimum."""
    return (
        f"Newton decrement {products.card('DECREMEN'):.2g} (limit {products.card('DECRETOL'):.2g}): every result on this page "
        "is within this number of its standard errors from the optimum. Norm of the gradient: "
        f"{products.card('GRADNORM'):.1e} of that at the start, after {int(products.card('PASSES'))} passes through the data."
    )


def gradient_text(products: JointProducts) -> str:
    """Return the gradient of the flat with its error."""
    shown = [format_measurement(1e3 * products.card(f"GRAD{axis}"), 1e3 * products.card(f"GRAD{axis}ERR")) for axis in "XY"]
    return (
        f"Gradient of all detectors together: {shown[0]} ‰/mm along CCS X and {shown[1]} ‰/mm along CCS Y. Signals cannot "
        "distinguish it from a gradient of the beam: its accuracy is that of the photodiode."
    )


def drift_text(products: JointProducts) -> str:
    """Return the drift of the photodiode."""
    if not len(products.drift):
        return "A drift of the photodiode was not fitted (flat.joint.drift), or there were too few readings."
    amplitude, probability = (np.asarray(products.drift[name]) for name in ("amplitude", "probability"))
    best = int(np.argmax(probability))
    part = [per_mil(products.error_of(f"drift_{axis}")) for axis in "xy"]
    return (
        f"Probability of a drift of the photodiode: {products.card('PDDRIFTP'):.2g} (prior: {1 - NO_DRIFT_PRIOR:.2g}). Its amplitude, "
        f"averaged over its posterior, is {per_mil(products.error_of('photodiode_drift'))} ‰; the most probable drift has "
        f"{per_mil(amplitude[best])} ‰ and a correlation length of {float(products.drift['length'][best]):.2g} of the campaign, with a "
        f"probability of {probability[best]:.2g}. The drift contributes {part[0]} (X) and {part[1]} ‰/mm (Y) to the error of the gradient."
    )


def stage_text(products: JointProducts) -> str:
    """Return the errors of stage moves."""
    if "position" not in products.budget:
        turned = ", apart from rotation and scale" if "ROTATION" in products.header else ""
        return f"Errors of single stage moves were not fitted: positions are as recorded{turned}."
    return (
        f"A stage move has an error of {1e3 * products.error_of('position'):.2g} µm along each axis, estimated "
        f"from the signals alone. Rotation "
        "and scale of the stage's axes are fitted to all moves together; an offset of the stage is equivalent to one of the beam and is "
        "included in the beam's centre."
    )


def fit_text(products: JointProducts) -> str:
    """Return the scatter of the residuals beyond noise."""
    if products.residuals is None:
        return "The signals on super-pixels were removed: no residuals can be shown. Make the flat again to restore them."
    chi_square, error = chi_square_of(products)
    signal = products.residuals.signal_error
    known = f"A signal (one super-pixel in one exposure) has an error of {per_mil(signal)} ‰ rms"
    if chi_square - 1 <= _SIGNIFICANT * error:
        return f"{known}, and the residuals are consistent with noise."
    beyond = math.sqrt(chi_square - 1) * signal
    shown = format_measurement(1e3 * beyond, 1e3 * signal**2 * error / (2 * beyond))
    return (
        f"{known}; the excess of the chi-square over 1 corresponds to an additional scatter of {shown} ‰. The frame in which residuals are "
        "constant indicates its cause."
    )


class Caution(NamedTuple):
    """A reason to check a solution before using it, as a phrase and as a sentence."""

    phrase: str
    sentence: str


def cautions(products: JointProducts) -> list[Caution]:
    """Return the reasons to check a solution, the most important first."""
    return [*_of_exposures(products), *_of_photodiode(products), *_of_fit(products), *_of_stage(products)]


def _of_exposures(products: JointProducts) -> Iterator[Caution]:
    if not is_converged(products.header):
        yield Caution("no convergence", "The solution has not converged: do not use this flat.")
    if count := int(products.left_out.sum()):
        short = f"{counted(count, 'exposure')} left out"
        yield Caution(short, f"{short}: see the table under Exposures. Exposures left out do not contribute to the flat.")
    if count := int((products.unused_reading & ~products.left_out).sum()):
        short = f"{counted(count, 'photodiode reading')} not used"
        yield Caution(short, f"{short}: inconsistent with all others; the exposure itself is used.")


def _of_photodiode(products: JointProducts) -> Iterator[Caution]:
    if not products.has_photodiode:
        yield Caution(
            "no photodiode",
            "No photodiode reading was used: the gradient of the flat relies on the assumption that the light did not depend on the "
            "position of the projector, and its error allows for this.",
        )
        return
    noise, scale = products.error_of("photodiode"), products.error_of("exposure_scale")
    if not noise <= NOISIER * scale:
        shown = format_measurement(1e3 * noise, 1e3 * products.card("PDNOISER"))
        yield Caution(
            "photodiode noisier than the joint scales",
            f"The photodiode is {two_digits(noise / scale)} times noisier than the joint scales: one reading scatters by {shown} ‰, a "
            f"joint scale is known to {per_mil(scale)} ‰. Dividing by the photodiode (flat.solver: divide) would add its noise to the "
            "flat.",
        )
    if (chance := products.card("PDDRIFTP")) > _LIKELY:
        yield Caution(
            "the photodiode drifts",
            f"The photodiode drifts with a probability of {chance:.3g}, which increases the error of the gradient. Repeated visits to "
            "one position, or a random order of positions, would separate drift and gradient.",
        )


def _of_fit(products: JointProducts) -> Iterator[Caution]:
    chi_square, error = chi_square_of(products)
    if not chi_square - 1 <= max(_MUCH_CHI_SQUARE, _CLEAR * error):
        yield Caution(
            f"chi-square {chi_square:.3f}",
            f"The reduced chi-square is {format_measurement(chi_square, error)}: the signals differ from the model by more than noise. The "
            "errors on this page include noise alone, and do not cover the patterns in the residual maps.",
        )
    kept = ~products.left_out & np.isfinite(products.column("shift_x_mm"))
    if "position" not in products.budget and kept.any():
        # Recorded positions were used unchanged.
        shift, error = (
            float(np.sqrt(np.mean([products.column(f"shift_{axis}{suffix}_mm")[kept] ** 2 for axis in "xy"])))
            for suffix in ("", "_err")
        )
        if not shift <= _MUCH_SHIFT * error:
            yield Caution(
                "positions differ from the recorded ones",
                f"The signals place the projector {two_digits(1e3 * shift)} µm (rms, along an axis) from its recorded position, but their "
                f"errors explain only {two_digits(1e3 * error)} µm: fit the stage geometry (flat.joint.geometry) and moves "
                "(flat.joint.position_errors).",
            )
    if products.residuals is not None:
        yield from _of_patterns(products.residuals, products.card("KNOTS"))
    if products.header.get("KNOTLIM", False):
        yield Caution(
            "finer knots possible",
            f"The data support knots of the beam finer than {products.card('KNOTS'):.1f} mm, the finest tried; "
            "set flat.joint.spacing_mm.",
        )


def _of_patterns(found: JointResiduals, knots_mm: float) -> Iterator[Caution]:
    """Yield the largest pattern of the residuals if it is significant; each pattern also appears, smeared, in the other frames."""
    rms, noise = found.change_rms
    change = math.sqrt(max(rms**2 - noise**2, 0.0))
    beam = Caution(
        "residual structure of the beam",
        f"A pattern of {per_mil(found.beam.excess_rms)} ‰ rms moves with the beam: structure finer than the knots ({knots_mm:.1f} mm). "
        "Finer knots (flat.joint.spacing_mm) would fit it.",
    )
    reflection = Caution(
        "a pattern moves against the projector",
        f"A pattern of {per_mil(found.reflected.excess_rms)} ‰ rms moves against the projector, as a reflection does; "
        "flat.joint.reflection: true fits it.",
    )
    response = Caution(
        "the response changed",
        f"Earlier and later exposures differ by {per_mil(change)} ‰ rms per super-pixel in excess of noise: the response changed, or the "
        "error of the beam differs between their positions.",
    )
    patterns = (
        (found.beam.excess_rms, found.beam.noise, beam),
        (found.reflected.excess_rms, found.reflected.noise, reflection),
        (change, noise, response),
    )
    excess, noise, caution = max(patterns, key=itemgetter(0))
    if excess > noise:
        yield caution


def _of_stage(products: JointProducts) -> Iterator[Caution]:
    scale, error = products.card("STAGESCL"), products.card("STAGESER")
    if abs(scale) > _CLEAR * error and abs(scale) > _MUCH_STAGE_SCALE:
        shown = format_measurement(1e3 * scale, 1e3 * error)
        yield Caution("scale of the stage", f"The stage moves {shown} ‰ farther than recorded.")


def budget_table(products: JointProducts) -> Grid:
    """Return the error budget: term, error, unit, meaning, location in the products."""

    def shown(name: str) -> tuple[str, str]:
        term = products.budget[name]
        if name in _NUMBERS:
            return f"{term.error:.4g}", ""
        # The level of a single detector is a convention.
        if name.endswith("_scale") and name != "exposure_scale" and len(products.detectors) == 1:
            return MISSING, ""
        factor, unit = _UNITS.get(term.unit, (1.0, term.unit))
        if name == "photodiode":
            return format_measurement(1e3 * term.error, 1e3 * products.card("PDNOISER")), unit
        return two_digits(factor * term.error), unit

    columns = (
        text_column("term", lambda name: _LABELS[name][0] if name in _LABELS else name.replace("_", " ")),
        Column("error", lambda name: number_cell(shown(name)[0], products.budget[name].error)),
        text_column("unit", lambda name: shown(name)[1]),
        text_column("meaning", lambda name: products.budget[name].meaning),
        text_column("where", lambda name: _LABELS.get(name, ("", ""))[1], absent="BUDGET"),
    )
    return table_of(products.budget, columns)


def detector_table(products: JointProducts, links: dict[str, str]) -> Grid:
    """Return one row for each detector: level with its error, errors of its super-pixels, goodness of fit."""
    several = len(products.detectors) > 1
    residuals = products.residuals.detectors if products.residuals is not None else {}

    def of(find: Callable[[DetectorResiduals], float]) -> Callable[[str], float]:
        return lambda name: find(residuals[name]) if name in residuals else math.nan

    def level(name: str) -> Cell:
        error = products.detectors[name].level_error
        if name in residuals:
            number = float(np.nanmean(np.expm1(residuals[name].log_response))) if several else math.nan
            return measured_cell(number, error, scale=1e3)
        return Cell(f"± {two_digits(1e3 * error)}" if several else MISSING)

    def chi_square(name: str) -> tuple[float, float]:
        if name not in residuals:
            return math.nan, math.nan
        found = residuals[name].chi_square
        return float(np.nanmean(found)), float(np.nanstd(found)) / math.sqrt(max(int(np.isfinite(found).sum()), 1))

    def change(name: str) -> tuple[float, float]:
        count = int(np.isfinite(residuals[name].change).sum()) if name in residuals else 0
        rms = _rms_of_change(residuals[name].change, residuals[name]) if count else math.nan
        return rms, rms / math.sqrt(2 * max(count, 1))

    columns = (
        Column("detector", lambda name: text_cell(name, link=links.get(name, "")), is_text=True),
        Column("level (‰)", level),
        _per_mil_column("error of a super-pixel, noise (‰)", of(lambda found: float(np.nanmedian(found.error)))),
        _per_mil_column("correlated (‰)", lambda name: products.detectors[name].common_rms),
        measured_column("χ² of a signal", chi_square),
        measured_column("later - earlier, rms (‰)", change, scale=1e3),
        _per_mil_column("its noise (‰)", of(lambda found: _rms_of_change(found.change_error, found))),
    )
    return table_of(products.detectors, columns)


def _rms_of_change(values: FloatArray, found: DetectorResiduals) -> float:
    """Return the rms over the super-pixels with a change, NaN without any."""
    changed = np.isfinite(found.change)
    return float(np.sqrt(np.mean(values[changed] ** 2))) if changed.any() else math.nan


def _per_mil_column(heading: str, of: Entry) -> Column:
    return number_column(heading, of, two_digits, scale=1e3)


def finding_table(products: JointProducts) -> Grid | None:
    """Return exposures excluded, or with an excluded photodiode reading, and the reason; None if all fit."""
    exposures = products.exposures
    finding = np.asarray(exposures["finding"], dtype=np.str_)
    flagged = np.flatnonzero(products.left_out | products.unused_reading | (finding != ""))
    if not flagged.size:
        return None
    deviation, error = products.deviations

    def action(number: int) -> Cell:
        return Cell("left out" if products.left_out[number] else "reading not used", verdict="no")

    def place(name: str) -> Callable[[int], Cell]:
        return lambda number: number_cell(with_minus(f"{exposures[name][number]:.2f}"), exposures[name][number])

    columns = (
        text_column("exposure", lambda number: exposures["obsid"][number]),
        text_column("purpose", lambda number: str(exposures["purpose"][number]), absent=MISSING),
        Column("action", action, is_text=True),
        text_column("reason", lambda number: str(finding[number]), absent="no reason is recorded"),
        Column("X (mm, CCS)", place("x_mm")),
        Column("Y (mm, CCS)", place("y_mm")),
        measured_column("photodiode / scale - 1 (‰)", lambda number: (deviation[number], error[number]), scale=1e3),
        decimal_column("χ²", lambda number: float(exposures["chi_square"][number]), 3),
    )
    return table_of(flagged, columns)


def stage_table(products: JointProducts) -> Grid:
    """Return beam centre, rotation, scale and errors of moves, with their errors."""

    def fitted(label: str, unit: str, card: str, error: str, factor: float = 1.0) -> tuple[str, str, Cell]:
        return label, unit, measured_cell(factor * products.card(card), factor * products.card(error))

    rows = [fitted(f"beam centre, u_{axis.lower()}", "mm", f"BEAM{axis}", f"BEAM{axis}ERR") for axis in "XY"]
    if "ROTATION" in products.header:
        rows.append(fitted("rotation of the stage's axes", "mrad", "ROTATION", "ROTATERR", 1e3))
        rows.append(fitted("scale of the stage's axes - 1", "‰", "STAGESCL", "STAGESER", 1e3))
    kept = ~products.left_out & np.isfinite(products.column("shift_x_mm"))
    for axis in "xy":
        shift, error = (1e3 * products.column(f"shift_{axis}{suffix}_mm")[kept] for suffix in ("", "_err"))
        if shift.size > 1:
            spread = float(np.std(shift))
            own = float(np.sqrt(np.mean(error**2)))
            scatter = measured_cell(spread, spread / math.sqrt(2 * shift.size))
            rows.append((f"scatter of positions, {axis.upper()}", "µm", scatter))
            rows.append((f"errors of positions, {axis.upper()} (rms)", "µm", number_cell(two_digits(own), own)))
    jitter = products.error_of("position")
    if math.isfinite(jitter):
        rows.append(("error of a stage move, estimated", "µm", number_cell(two_digits(1e3 * jitter), jitter)))
    columns = (text_column("result", itemgetter(0)), text_column("unit", itemgetter(1)), Column("value", itemgetter(2)))
    return table_of(rows, columns)


def drift_table(products: JointProducts) -> Grid | None:
    """Return the hypotheses of drift with their probabilities, the most probable first; None without any."""
    if not len(products.drift):
        return None
    hypotheses = [("none", math.nan, 1.0 - float(np.sum(products.drift["probability"])))]
    hypotheses += [
        (two_digits(1e3 * float(row["amplitude"])), float(row["length"]), float(row["probability"])) for row in products.drift
    ]
    columns = (
        Column("amplitude (‰)", lambda row: Cell(row[0])),
        number_column("length (fraction of the campaign)", itemgetter(1), _short),
        number_column("probability", itemgetter(2), _short),
    )
    return table_of(sorted(hypotheses, key=lambda row: -row[2]), columns)


def _short(number: float) -> str:
    return f"{number:.2g}" if math.isfinite(number) else MISSING


def board_table(products: JointProducts) -> Grid | None:
    """Return one row for each readout board: coefficient, its prior, change in time, dominance of the prior; None without boards."""
    columns = (
        text_column("board", "name"),
        measured_column("gain, per °C (‰)", "coefficient", scale=1e3),
        measured_column("expected (‰)", "expected", scale=1e3),
        measured_column("signals, last - first exposure (‰)", "change", scale=1e3),
        decimal_column("variance, after / before", "share", 2),
        text_column("known from", lambda row: "the prior" if row["dominated"] else "the signals"),
    )
    return None if products.boards is None else table_of(products.boards, columns)


def gain_step_table(products: JointProducts) -> Grid | None:
    """Return one row for each amplifier and step of its gain; None without steps."""
    columns = (
        text_column("detector"),
        text_column("amplifier", "segment"),
        text_column("first exposure after it", "obsid"),
        measured_column("change of the signals (‰)", "size", scale=1e3),
    )
    return None if products.gain_steps is None else table_of(products.gain_steps, columns)


class _ResidualFrame(NamedTuple):
    """Residuals in one frame: rms and its noise, number of cells, possible cause."""

    name: str
    rms: float
    noise: float
    cells: int
    cause: str

    @property
    def error(self) -> float:
        """Standard error of the rms."""
        return self.rms / math.sqrt(2 * self.cells) if self.cells else math.nan

    def beyond_cell(self) -> Cell:
        """Return a cell with the rms in excess of noise."""
        if not math.isfinite(self.rms):
            return Cell(MISSING)
        beyond = math.sqrt(max(self.rms**2 - self.noise**2, 0.0))
        is_clear = beyond > 3 * self.error
        shown = format_measurement(1e3 * beyond, 1e3 * self.error * self.rms / beyond) if is_clear else "within noise"
        return number_cell(shown, beyond)


def frame_table(found: JointResiduals) -> Grid:
    """Return the residuals of each frame: rms, noise, excess over noise, possible cause."""
    change, change_noise = found.change_rms
    count = sum(int(np.isfinite(one.change).sum()) for one in found.detectors.values())
    frames = [
        _ResidualFrame("beam (moves with the projector)", found.beam.rms, found.beam.noise, int(np.isfinite(found.beam.mean).sum()),
               "structure of the beam finer than its knots"),
        _ResidualFrame("reflection (moves against it)", found.reflected.rms, found.reflected.noise,
               int(np.isfinite(found.reflected.mean).sum()), "light reflected between camera and projector"),
        _ResidualFrame("detectors (fixed in the camera), later - earlier", change, change_noise, count,
               "a response that changed; the constant part is the flat"),
    ]  # fmt: skip
    columns = (
        text_column("frame", "name"),
        measured_column("rms (‰)", "rms", error="error", scale=1e3),
        _per_mil_column("noise (‰)", "noise"),
        Column("beyond noise (‰)", _ResidualFrame.beyond_cell),
        text_column("possible cause", "cause"),
    )
    return table_of(frames, columns)


def mode_table(products: JointProducts) -> Grid:
    """Return the sizes of all stored modes, and their fraction of the correlated variance."""
    total = products.error_of("common") ** 2
    shares = [size**2 / total if total > 0 else math.nan for size in mode_sizes(products).tolist()]
    columns = (
        count_column("mode", itemgetter(0)),
        _per_mil_column("rms (‰)", itemgetter(1)),
        number_column("fraction of the correlated variance (%)", itemgetter(2), _short, scale=100),
    )
    return table_of(zip(range(1, len(shares) + 1), mode_sizes(products).tolist(), shares, strict=True), columns)


def facts(products: JointProducts) -> tuple[tuple[str, str], ...]:
    """Return name and content of the facts below the heading of the page."""
    purposes = np.asarray(products.exposures["purpose"], dtype=np.str_)
    kinds = [f"{int((purposes == kind).sum())} {name}" for kind, name in (("scan", "of the scan"), ("pointing", "of pointings"))]
    known = (purposes != "").any()
    return (
        ("detectors", str(len(products.detectors))),
        ("exposures", str(len(products.exposures)) + (f" ({', '.join(kinds)})" if known else "")),
        ("left out", counted(int(products.left_out.sum()), "exposure")),
        (
            "readings not used",
            str(int((products.unused_reading & ~products.left_out).sum())) if products.has_photodiode else MISSING,
        ),
        ("unknowns besides the flat", str(int(products.card("NUNKNOWN")))),
        ("knots of the beam", f"{products.card('KNOTS'):.2f} mm apart"),
        ("signals used from", f"{products.card('LEASTSIG'):.0f} electrons on"),
        ("reflected pattern", "not fitted" if products.reflection is None else "fitted"),
    )


def per_mil(relative: float) -> str:
    """Return an error in per mil with two digits; a dash for NaN."""
    return two_digits(1e3 * relative)


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, in singular or plural."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def chi_square_of(products: JointProducts) -> tuple[float, float]:
    """Return the reduced chi-square and its standard error."""
    freedom = products.card("NSIGNAL") - products.card("NUNKNOWN")
    return products.card("REDCHI2"), math.sqrt(2 / max(freedom, 1.0))


_RESULTS = (
    ("joint_photodiode_noise", "PDNOISE", "PDNOISER"),
    ("joint_gradient_x", "GRADX", "GRADXERR"),
    ("joint_gradient_y", "GRADY", "GRADYERR"),
    ("joint_beam_x", "BEAMX", "BEAMXERR"),
    ("joint_beam_y", "BEAMY", "BEAMYERR"),
    ("joint_rotation", "ROTATION", "ROTATERR"),
    ("joint_stage_scale", "STAGESCL", "STAGESER"),
)
"""Results in the summary, with the cards of their values and errors."""


def joint_path(folder: RunFolder, led: str) -> Path:
    """Return the path of the page of an LED."""
    return page_path(folder, JOINT_PAGES.folder, led)


def joint_pages(run: RunProducts) -> list[Page]:
    """Return one page for each LED with a joint solution."""
    solved = [led for led in run.leds if solution_path(run.folder, led.led, led.detectors) is not None]
    pages = []
    for led in solved:
        others = tuple(other.led for other in solved if other is not led)
        make = partial(make_joint_page, run.config, run.folder, led, others)
        pages.append(Page(_sources(run, led), _options(run, led) | {"others": others}, make, joint_path(run.folder, led.led)))
    return pages


def make_joint_page(config: Config, folder: RunFolder, led: LedProducts, other_leds: Sequence[str], fingerprint: str) -> str:
    """Return the page of one LED as HTML.

    Parameters
    ----------
    other_leds
        Other LEDs with a joint solution.

    Raises
    ------
    InputError
        If a product cannot be read.
    """
    camera, path = shared_camera(config.camera), joint_path(folder, led.led)
    others = (Link(f"LED {other}", relative_address(path, joint_path(folder, other))) for other in other_leds)
    products = read_joint(folder, camera, led.led)
    return render(
        "joint.html",
        __name__,
        fingerprint=fingerprint,
        title=f"LED {led.led}, joint solution - permil",
        links=[Link("all results", f"{relative_address(path, folder.report)}#led-{led.led}"), *others],
        facts=facts(products),
        products=products,
        detectors=[camera[name] for name in products.detectors],
        scan=load_beam(led.beam) if led.beam is not None else None,
        pages={name: relative_address(path, detector_path(folder, led.led, name)) for name in led.detectors},
        figures=figures,
    )


def declare_block(run: RunProducts, led: LedProducts) -> Declaration | None:
    """Declare the block about the joint solution in the section of an LED, None without one."""
    if solution_path(run.folder, led.led, led.detectors) is None:
        return None
    return Declaration(_sources(run, led), _options(run, led), make_block)


def make_block(context: LedContext) -> IndexPart:
    """Return the sentence about the joint solution of an LED, with the link to its page.

    Raises
    ------
    InputError
        If a product cannot be read.
    """
    led = context.products.led
    products = read_joint(context.folder, shared_camera(context.config.camera), led)
    address = index_address(context.config, context.folder, joint_path(context.folder, led))
    content = render("joint_block.html", sentence=solution_text(products), address=address)
    return IndexPart(content, joint_measurements(products))


def joint_measurements(products: JointProducts) -> list[Measurement]:
    """Return the results of a joint solution for the summary."""
    led, found = products.led, [Measurement("joint_fit", products.led, *chi_square_of(products))]
    for metric, card, error in _RESULTS:
        if card in products.header and (products.has_photodiode or card != "PDNOISE"):
            found.append(Measurement(metric, led, products.card(card), products.card(error)))
    return found


def _sources(run: RunProducts, led: LedProducts) -> tuple[Path, ...]:
    return run.folder.joint(led.led), run.folder.beam(led.led), run.folder.exposures


def _options(run: RunProducts, led: LedProducts) -> dict[str, object]:
    signals = [run.folder.super_pixels(led.led, name).is_file() for name in run.camera.detectors]
    return {"camera": run.config.camera, "detectors": led.detectors, "signals": signals}


JOINT_PAGES = PageKind("joint", "pages of joint solutions", joint_pages, led_block=declare_block)
