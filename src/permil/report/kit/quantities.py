"""Reported quantities: their names and units on pages, and rounding of numbers to the digits of their errors."""

from __future__ import annotations

import math
from dataclasses import dataclass

MISSING = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_MOST_DECIMALS = 6
_SMALL = 1e-3
_LEAST_CHANCE = 1e-99
_TINY = 1e-5
_EXACT = 100.0
"""Above this all digits before the decimal point are shown."""


@dataclass(frozen=True)
class Quantity:
    """A reported number.

    Attributes
    ----------
    name
        Name in tables.
    label
        Name on pages.
    scale, unit
        Pages show the number multiplied by ``scale``, in ``unit``.
    limit
        Key of its specification in the section ``report``, "" if there is none.
    beyond_noise
        Whether it is the root of a difference of variances (`permil.excess_scatter`); the verdict then uses the difference.
    """

    name: str
    label: str
    scale: float = 1.0
    unit: str = ""
    limit: str = ""
    beyond_noise: bool = False

    @property
    def heading(self) -> str:
        """Label with the unit, for the head of a column."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def show(self, number: float, error: float = math.nan) -> str:
        """Return the number with its error, in the unit of pages."""
        return format_measurement(number * self.scale, error * self.scale)


_ALL = (
    Quantity("median", "median response"),
    Quantity("rms", "rms over pixels", 1e3, "‰"),
    Quantity("noise", "error of a pixel", 1e3, "‰", "noise_limit"),
    Quantity("scatter", "scatter between pointings", 1e3, "‰"),
    Quantity("scatter_noise", "scatter between pointings from noise", 1e3, "‰"),
    Quantity("scatter_excess", "scatter between pointings in excess of noise", 1e3, "‰", "scatter_limit", beyond_noise=True),
    Quantity("step", "amplifier step", 1e3, "‰", "step_limit"),
    Quantity("gain_ratio", "gain measured over handed over - 1", 1e3, "‰"),
    Quantity("linearity_loss", "loss of signal at 50,000 electrons against the mean", 1e3, "‰"),
    Quantity("gradient_x", "gradient along X", 1e6, "10⁻⁶/mm"),
    Quantity("gradient_y", "gradient along Y", 1e6, "10⁻⁶/mm"),
    Quantity("beam_node_noise", "noise of a beam node", 1e3, "‰", "node_noise_limit"),
    Quantity("beam_left_out_rms", "beam nodes against all others, robust rms", 1e3, "‰"),
    Quantity("beam_maximum_x", "maximum of the beam, u_x", 1.0, "mm"),
    Quantity("beam_maximum_y", "maximum of the beam, u_y", 1.0, "mm"),
    Quantity("beam_centroid_x", "centroid of the beam, u_x", 1.0, "mm"),
    Quantity("beam_centroid_y", "centroid of the beam, u_y", 1.0, "mm"),
    Quantity("joint_fit", "joint solution, reduced χ²"),
    Quantity("joint_photodiode_noise", "noise of a photodiode reading", 1e3, "‰"),
    *(Quantity(f"joint_gradient_{axis}", f"gradient of all detectors along {axis.upper()}", 1e3, "‰/mm") for axis in "xy"),
    *(Quantity(f"joint_beam_{axis}", f"centre of the beam, joint solution, u_{axis}", 1.0, "mm") for axis in "xy"),
    Quantity("joint_rotation", "rotation of the stage's axes", 1e3, "mrad"),
    Quantity("joint_stage_scale", "scale of the stage's axes - 1", 1e3, "‰"),
    Quantity("rms_pixel", "rms per pixel", 1e3, "‰"),
    Quantity("rms_super", "rms per super-pixel", 1e3, "‰"),
    Quantity("chi_square", "small-scale χ² per pixel"),
    Quantity("level", "level relative to all detectors", 1e3, "‰"),
    *(Quantity(f"tilt_{axis}", f"plane through all detectors along {axis.upper()}", 1e6, "10⁻⁶/mm") for axis in "xy"),
    Quantity("spots", "spots"),
    Quantity("exposures", "exposures"),
    Quantity("chi_square_per_freedom", "χ² per degree of freedom, catalog errors alone"),
    Quantity("flux_excess", "scatter of fluxes in excess of their errors", 1e3, "‰"),
    Quantity("flux_excess_structure", "part from structure of the sensor", 1e3, "‰"),
    Quantity("flux_excess_unexplained", "unexplained scatter of fluxes", 1e3, "‰", "spot_excess_limit", beyond_noise=True),
    Quantity("spot_flux_error", "error of a spot's flux, median", 1e3, "‰"),
    Quantity("flux_residual_scatter", "scatter of flux residuals", 1e3, "‰"),
    *(Quantity(f"{name}_residual_scatter", f"scatter of {name}", 1e3, "10⁻³ px") for name in ("dx", "dy")),
    *(Quantity(f"{name}_residual_scatter", f"scatter of {name.upper()}", 1e3, "10⁻³ px²") for name in ("xx", "yy", "xy")),
    *(
        Quantity(f"gradient_{axis}_from_trend", f"throughput gradient along {axis}, lamp assumed steady", 1e3, "‰ per 1000 px")
        for axis in "xy"
    ),
    *(
        Quantity(f"gradient_{axis}_free", f"throughput gradient along {axis}, nothing assumed", 1e3, "‰ per 1000 px")
        for axis in "xy"
    ),
    Quantity("scatter_over_predicted", "scatter over predicted error"),
    Quantity("lamp_drift", "drift of the lamp, first to last", 1e3, "‰"),
    Quantity("correlation", "correlation of stars and flat, r"),
    Quantity("correlation_without_noise", "r without measurement errors"),
    Quantity("flux_slope", "slope of star fluxes on the flat"),
    *(Quantity(f"fraction_{kind.replace(' ', '_')}", f"fraction {kind}") for kind in ("efficiency", "pixel area", "diffusion")),
    Quantity("flux_scatter_change", "change of star fluxes by dividing", 1e3, "‰"),
)
QUANTITIES = {quantity.name: quantity for quantity in _ALL}
FLAT_METRICS = (
    "median", "rms", "noise", "scatter", "scatter_noise", "scatter_excess", "step", "gradient_x", "gradient_y",
)  # fmt: skip
"""Reported columns of the metrics of a flat; errors are in columns with the suffix ``_err``."""


def format_measurement(number: float, error: float = math.nan) -> str:
    """Return ``number ± error``, the error with two digits and the number to the same decimal.

    Without a finite positive error the number is shown alone with four digits; NaN is a dash.
    """
    if not math.isfinite(number):
        return MISSING
    if not (math.isfinite(error) and error > 0):
        return with_minus(f"{number:.4g}")
    # Rounding first: 0.0996 becomes 0.10, whose last digit is one place further left.
    error = float(f"{error:.1e}")
    decimals = 1 - math.floor(math.log10(error))
    if decimals > _MOST_DECIMALS and max(abs(number), error) < _SMALL:
        power = math.floor(math.log10(max(abs(number), error)))
        decimals += power
        mantissas = f"{number / 10.0**power:.{decimals}f} ± {error / 10.0**power:.{decimals}f}"
        return f"({with_minus(mantissas)}) \N{MULTIPLICATION SIGN} 10{str(power).translate(_SUPERSCRIPTS)}"
    shown = max(decimals, 0)
    return with_minus(f"{round(number, decimals):.{shown}f} ± {round(error, decimals):.{shown}f}")


def two_digits(number: float) -> str:
    """Return a number with two digits; a dash for NaN."""
    if not math.isfinite(number):
        return MISSING
    if 0 < abs(number) < _TINY:
        return f"{number:.1e}"
    # Rounding first: 0.0996 becomes 0.10, whose last digit is one place further left.
    number = float(f"{number:.1e}") if abs(number) < _EXACT else number
    decimals = max(1 - math.floor(math.log10(abs(number))), 0) if number else 0
    return f"{number:.{decimals}f}"


def format_chance(probability: float) -> str:
    """Return a p-value with two digits; NaN is a dash."""
    if not math.isfinite(probability):
        return MISSING
    if probability < _LEAST_CHANCE:
        return "below 10⁻⁹⁹"
    if probability >= _SMALL:
        return f"{probability:.2g}"
    mantissa, power = f"{probability:.1e}".split("e")
    return f"{mantissa} \N{MULTIPLICATION SIGN} 10{str(int(power)).translate(_SUPERSCRIPTS)}"


def format_count(number: int) -> str:
    """Return an integer with thin spaces between groups of three digits."""
    return with_minus(f"{number:,}".replace(",", "\N{THIN SPACE}"))


def with_minus(text: str) -> str:
    """Return a number with a minus sign in place of the hyphen."""
    # The hyphen of an exponent is kept.
    return text.replace("-", _MINUS) if "e-" not in text else text
