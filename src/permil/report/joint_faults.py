"""What is wrong with a joint solution, or asks for a look."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from permil.flat.joint.budget import NOISIER
from permil.report.joint_inputs import JointProducts
from permil.report.joint_numbers import chi_square_of, counted, per_mil, two_digits
from permil.report.quantities import format_measurement

_LIKELY = 0.5
_MUCH_CHI_SQUARE = 0.05
_MUCH_STAGE_SCALE = 1e-3
_MUCH_SHIFT = 2.0
_SIGNIFICANT = 5.0


@dataclass(frozen=True)
class Fault:
    """Something that is wrong, in a few words and in a sentence."""

    short: str
    words: str


def faults(products: JointProducts) -> tuple[Fault, ...]:
    """Return what is wrong, the worst first."""
    return tuple(found for test in _TESTS if (found := test(products)) is not None)


def is_converged(products: JointProducts) -> bool:
    """Return whether the Newton decrement is within its limit."""
    return products.card("DECREMEN") <= products.card("DECRETOL")


def _not_converged(products: JointProducts) -> Fault | None:
    if is_converged(products):
        return None
    return Fault("no convergence", "The solution has not converged: do not use this flat.")


def _exposures_left_out(products: JointProducts) -> Fault | None:
    count = int(products.left_out.sum())
    if not count:
        return None
    short = f"{counted(count, 'exposure')} left out"
    return Fault(short, f"{short}: the table under Exposures has name and reason. The flat does not use what was left out.")


def _readings_unused(products: JointProducts) -> Fault | None:
    count = int((products.unused_reading & ~products.left_out).sum())
    if not count:
        return None
    short = f"{counted(count, 'photodiode reading')} not used"
    return Fault(short, f"{short}: contradicts what all others say; the exposure itself is used.")


def _photodiode(products: JointProducts) -> Fault | None:
    if not products.has_photodiode:
        return Fault(
            "no photodiode",
            "No photodiode reading took part: the gradient of the flat hangs on the assumption that the light did not depend on where "
            "the projector stood, and its error says so.",
        )
    noise, scale = products.error_of("photodiode"), products.error_of("exposure_scale")
    if noise <= NOISIER * scale:
        return None
    shown = format_measurement(1e3 * noise, 1e3 * products.card("PDNOISER"))
    return Fault(
        "photodiode noisier than the joint scales",
        f"The photodiode is {two_digits(noise / scale)} times noisier than the joint scales: one reading scatters by {shown} ‰, a "
        f"joint scale is known to {per_mil(scale)} ‰. Dividing by the photodiode (flat.solver: divide) would put its noise into the flat.",
    )


def _drift(products: JointProducts) -> Fault | None:
    chance = products.card("PDDRIFTP")
    if not (products.has_photodiode and chance > _LIKELY):
        return None
    return Fault(
        "the photodiode drifts",
        f"The photodiode drifts with a probability of {chance:.3g}, and the gradient is less well known for it. A position that is visited "
        "again and again, or an order of positions drawn by lot, would tell drift and gradient apart.",
    )


def _misfit(products: JointProducts) -> Fault | None:
    chi_square, error = chi_square_of(products)
    if chi_square - 1 <= max(_MUCH_CHI_SQUARE, _SIGNIFICANT * error):
        return None
    return Fault(
        f"chi-square {chi_square:.3f}",
        f"The reduced chi-square is {format_measurement(chi_square, error)}: the signals differ from the model by more than noise. Errors "
        "here know noise alone, and are too small by what the residual maps show.",
    )


def _stage_scale(products: JointProducts) -> Fault | None:
    scale, error = products.card("STAGESCL"), products.card("STAGESER")
    if not (abs(scale) > _SIGNIFICANT * error and abs(scale) > _MUCH_STAGE_SCALE):
        return None
    shown = format_measurement(1e3 * scale, 1e3 * error)
    return Fault("scale of the stage", f"The stage moves {shown} ‰ farther than its record says.")


def _positions(products: JointProducts) -> Fault | None:
    """Return whether positions that were taken as recorded contradict the signals."""
    kept = ~products.left_out & np.isfinite(products.column("shift_x_mm"))
    if "position" in products.budget or not kept.any():
        return None
    shift, error = (
        float(np.sqrt(np.mean([products.column(f"shift_{axis}{suffix}_mm")[kept] ** 2 for axis in "xy"])))
        for suffix in ("", "_err")
    )
    if shift <= _MUCH_SHIFT * error:
        return None
    return Fault(
        "positions are not as recorded",
        f"The signals place the projector {two_digits(1e3 * shift)} µm (rms, along an axis) from where it is recorded, their errors "
        f"explain {two_digits(1e3 * error)} µm: fit the stage's geometry (flat.joint.geometry) and its moves (flat.joint.position_errors).",
    )


def _knots(products: JointProducts) -> Fault | None:
    if not products.header.get("KNOTLIM", False):
        return None
    return Fault(
        "finer knots wanted",
        f"The data would bear knots of the beam finer than {products.card('KNOTS'):.1f} mm, which were out of reach; "
        "flat.joint.spacing_mm sets them.",
    )


def _pattern(products: JointProducts) -> Fault | None:
    """Return the largest pattern that the residuals hold: each is seen in the other frames, too, smeared."""
    found = products.residuals
    if found is None:
        return None
    rms, noise = found.change_rms
    patterns = {
        _beam_structure: (found.beam.excess_rms, found.beam.noise),
        _reflection: (found.reflected.excess_rms, found.reflected.noise),
        _change: (math.sqrt(max(rms**2 - noise**2, 0.0)), noise),
    }
    describe, (excess, noise) = max(patterns.items(), key=lambda entry: entry[1][0])
    return describe(products, excess) if excess > noise else None


def _beam_structure(products: JointProducts, excess: float) -> Fault:
    return Fault(
        "structure of the beam left over",
        f"A pattern of {per_mil(excess)} ‰ rms moves with the beam: structure finer than the knots ({products.card('KNOTS'):.1f} mm). "
        "Finer ones (flat.joint.spacing_mm) would follow it.",
    )


def _reflection(_: JointProducts, excess: float) -> Fault:
    return Fault(
        "a pattern moves against the projector",
        f"A pattern of {per_mil(excess)} ‰ rms moves against the projector, as a reflection does; flat.joint.reflection: true fits it.",
    )


def _change(_: JointProducts, excess: float) -> Fault:
    return Fault(
        "the response changed",
        f"Earlier and later exposures differ by {per_mil(excess)} ‰ rms on a super-pixel beyond noise: the response changed, or the beam "
        "is wrong in another way at the places that the later ones saw.",
    )


_TESTS: tuple[Callable[[JointProducts], Fault | None], ...] = (
    _not_converged, _exposures_left_out, _readings_unused, _photodiode, _drift, _misfit, _positions, _pattern, _knots,
    _stage_scale,
)  # fmt: skip
