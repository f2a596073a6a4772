"""What a joint solution found, in words."""

from __future__ import annotations

import math

import numpy as np

from permil.report.joint_faults import faults, is_converged
from permil.report.joint_inputs import JointProducts
from permil.report.joint_numbers import chi_square_of, counted, per_mil
from permil.report.quantities import format_count, format_measurement

_SIGNIFICANT = 3.0


def sentence(products: JointProducts) -> str:
    """Return what was solved and how well, and in a few words what is wrong."""
    found = f"converged (Newton decrement {products.card('DECREMEN'):.1g})" if is_converged(products) else "did NOT converge"
    wrong = ", ".join(fault.short for fault in faults(products))
    # The level of a single detector is a convention.
    several = len(products.detectors) > 1
    scale = f"the scale of a detector to {per_mil(products.error_of('detector_scale'))} ‰, " if several else ""
    return (
        f"{format_count(int(products.card('NSIGNAL')))} signals of {counted(len(products.exposures), 'exposure')} on "
        f"{counted(len(products.detectors), 'detector')} were solved for beam, exposure scales and flat together: the solution {found}, "
        f"with a reduced chi-square of {format_measurement(*chi_square_of(products))}; a super-pixel is known to "
        f"{per_mil(products.error_of('photon'))} ‰ from its own signals and to {per_mil(products.error_of('common'))} ‰ in what it shares "
        f"with others, {scale}the gradient of all detectors to "
        f"{per_mil(products.error_of('gradient_x'))} (X) and {per_mil(products.error_of('gradient_y'))} ‰/mm (Y). "
        + (f"To look at: {wrong}." if wrong else "Nothing stands out as wrong.")
    )


def certificate_words(products: JointProducts) -> str:
    """Return how near the solution is to its optimum."""
    return (
        f"Newton decrement {products.card('DECREMEN'):.2g} (limit {products.card('DECRETOL'):.2g}): no figure here is farther from "
        "the optimum than that many of its own standard errors. Norm of the gradient: "
        f"{products.card('GRADNORM'):.1e} of that at the start, after {int(products.card('PASSES'))} passes through the data."
    )


def gradient_words(products: JointProducts) -> str:
    """Return the gradient of the flat and how well it is known."""
    shown = [format_measurement(1e3 * products.card(f"GRAD{axis}"), 1e3 * products.card(f"GRAD{axis}ERR")) for axis in "XY"]
    return (
        f"Gradient of all detectors together: {shown[0]} ‰/mm along CCS X and {shown[1]} ‰/mm along CCS Y. Signals cannot tell it "
        "from a gradient of the beam; it is as good as the photodiode."
    )


def drift_words(products: JointProducts) -> str:
    """Return what is known of a drift of the photodiode."""
    if not products.has_photodiode:
        return ""
    if not len(products.drift):
        return "No drift of the photodiode was allowed for (flat.joint.drift), or the readings were too few to tell."
    amplitude, probability = (np.asarray(products.drift[name]) for name in ("amplitude", "probability"))
    best = int(np.argmax(probability))
    part = [per_mil(products.error_of(f"drift_{axis}")) for axis in "xy"]
    return (
        f"Probability that the photodiode drifts: {products.card('PDDRIFTP'):.2g} (before the data: 0.5). Its amplitude, averaged over "
        f"what the data allow, is {per_mil(products.error_of('photodiode_drift'))} ‰; the likeliest drift has "
        f"{per_mil(amplitude[best])} ‰ and a correlation length of {float(products.drift['length'][best]):.2g} of the campaign, with a "
        f"probability of {probability[best]:.2g}. The error of the gradient has {part[0]} (X) and {part[1]} ‰/mm (Y) of this in it."
    )


def stage_words(products: JointProducts) -> str:
    """Return what the stage did."""
    if "position" not in products.budget:
        turned = ", but for rotation and scale" if "ROTATION" in products.header else ""
        return f"Errors of single stage moves were not fitted: positions are as recorded{turned}."
    return (
        f"A stage move errs by {1e3 * products.error_of('position'):.2g} µm along each axis, estimated from the signals alone. Rotation "
        "and scale of the stage's axes are those of all moves together; an offset of the stage cannot be told from one of the beam, and is "
        "part of the beam's centre."
    )


def fit_words(products: JointProducts) -> str:
    """Return what the signals leave beyond their noise."""
    if products.residuals is None:
        return "The signals on super-pixels are not there any more: no residuals can be shown. Making the flat again brings them back."
    chi_square, error = chi_square_of(products)
    signal = products.residuals.signal_error
    known = f"A signal (one super-pixel in one exposure) has an error of {per_mil(signal)} ‰ rms"
    if chi_square - 1 <= _SIGNIFICANT * error:
        return f"{known}, and noise explains all that the fit leaves."
    beyond = math.sqrt(chi_square - 1) * signal
    shown = format_measurement(1e3 * beyond, 1e3 * signal**2 * error / (2 * beyond))
    return f"{known}; what the chi-square has above 1 is a further scatter of {shown} ‰. What stands still in one frame names its cause."
