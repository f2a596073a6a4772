"""Results of a run: quantities with units, numbers rounded to their errors, verdicts against specifications, the table `summary.ecsv`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table

from permil.excess_scatter import variance_of_root
from permil.rounding import has_error, rounded, rounded_like

if TYPE_CHECKING:
    from permil.config.model import ReportConfig

MISSING = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
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
    Quantity("gain_ratio", "measured over configured gain - 1", 1e3, "‰"),
    Quantity("linearity_loss", "loss of signal at 50,000 electrons against the mean", 1e3, "‰"),
    Quantity("defects", "defects"),
    Quantity("defective_pixels", "pixels with a defect", 1e3, "‰"),
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
    Quantity("light_scatter", "scatter of the light", 1e3, "‰", "repeatability_limit", beyond_noise=True),
    Quantity("photodiode_scatter", "scatter of the photodiode", 1e3, "‰", beyond_noise=True),
    Quantity(
        "photodiode_over_light_scatter", "scatter of photodiode over light", 1e3, "‰", "repeatability_limit", beyond_noise=True
    ),
    Quantity("light_drift", "drift of the light", 1e3, "‰/h"),
    Quantity("photodiode_drift", "drift of the photodiode", 1e3, "‰/h"),
    Quantity("photodiode_over_light_drift", "drift of photodiode over light", 1e3, "‰/h"),
    Quantity("light_first_to_last", "light, first to last image of a position", 1e3, "‰"),
    Quantity("stack_chi_square", "χ² of repeated images"),
    *(
        Quantity(f"beam_change_{term}", f"change of the beam between halves, {term}", 1e3, "‰")
        for term in ("x", "y", "xx", "xy", "yy")
    ),
    Quantity("vendor_ratio", "response of one vendor over the other"),
    Quantity("led_ratio", "response in one LED over another"),
    *(Quantity(f"colour_gradient_{axis}", f"common gradient of the ratio along {axis.upper()}", 1e6, "10⁻⁶/mm") for axis in "xy"),
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
    Quantity("gradient_x_from_trend", "throughput gradient along x, lamp assumed steady", 1e3, "‰ per 1000 px"),
    Quantity("gradient_y_from_trend", "throughput gradient along y, lamp assumed steady", 1e3, "‰ per 1000 px"),
    Quantity("gradient_x_free", "throughput gradient along x, nothing assumed", 1e3, "‰ per 1000 px"),
    Quantity("gradient_y_free", "throughput gradient along y, nothing assumed", 1e3, "‰ per 1000 px"),
    Quantity("scatter_over_predicted", "scatter over predicted error"),
    Quantity("lamp_drift", "drift of the lamp, first to last", 1e3, "‰"),
    Quantity("correlation", "correlation of stars and flat, r"),
    Quantity("correlation_without_noise", "r without measurement errors"),
    Quantity("flux_slope", "slope of star fluxes on the flat"),
    *(Quantity(f"fraction_{kind.replace(' ', '_')}", f"fraction {kind}") for kind in ("efficiency", "pixel area", "diffusion")),
    Quantity("flux_scatter_change", "change of the scatter of star fluxes by the plain flat", 1e3, "‰"),
    Quantity("left_out_scatter_undivided", "scatter of left-out star fluxes, undivided", 1e3, "‰"),
    Quantity("left_out_scatter_plain_flat", "scatter of left-out star fluxes, plain flat", 1e3, "‰"),
    Quantity("left_out_scatter_efficiency_flat", "scatter of left-out star fluxes, efficiency flat", 1e3, "‰"),
    Quantity("left_out_scatter_best_filter", "scatter of left-out star fluxes, best possible", 1e3, "‰"),
    Quantity("left_out_scatter_noise", "scatter of left-out star fluxes, noise alone", 1e3, "‰"),
    Quantity("efficiency_flat_minus_undivided", "scatter of left-out star fluxes, efficiency flat minus undivided", 1e3, "‰"),
    Quantity("efficiency_flat_minus_plain_flat", "scatter of left-out star fluxes, efficiency flat minus plain flat", 1e3, "‰"),
    Quantity("efficiency_flat_left_in_sky", "structure that the efficiency flat would leave in the sky", 1e3, "‰"),
    Quantity("flat_for_fluxes", "flat for fluxes of stars (0: none, 1: plain, 2: efficiency)"),
    Quantity("flat_for_sky", "flat for the sky (0: none, 1: plain, 2: efficiency)"),
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
    if not has_error(error):
        return with_minus(f"{number:.4g}")
    mantissas, _, power = rounded(number, error, plus_minus="±").partition("e")
    shown = with_minus(mantissas)
    return f"{shown} \N{MULTIPLICATION SIGN} 10{power.translate(_SUPERSCRIPTS)}" if power else shown


def format_like(number: float, error: float) -> str:
    """Return a number alone, rounded to two digits of an error; a dash for NaN."""
    return with_minus(rounded_like(number, error)) if math.isfinite(number) else MISSING


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


def three_digits(number: float) -> str:
    """Return a number with at most three digits; a dash for NaN."""
    return f"{number:.3g}" if math.isfinite(number) else MISSING


def format_chance(probability: float, *, is_limit: bool = False) -> str:
    """Return a p-value with two digits, after "<" if it is an upper limit; NaN is a dash."""
    if not math.isfinite(probability):
        return MISSING
    if is_limit:
        return f"< {format_chance(probability)}"
    if probability < _LEAST_CHANCE:
        return "< 10⁻⁹⁹"
    if probability >= _SMALL:
        return f"{probability:.2g}"
    mantissa, power = f"{probability:.1e}".split("e")
    return f"{mantissa} \N{MULTIPLICATION SIGN} 10{str(int(power)).translate(_SUPERSCRIPTS)}"


def format_count(number: int) -> str:
    """Return an integer with narrow spaces between groups of three digits, at which lines do not break."""
    return with_minus(f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}"))


def with_minus(text: str) -> str:
    """Return a number with a minus sign in place of the hyphen."""
    # The hyphen of an exponent is kept.
    return text.replace("-", _MINUS) if "e-" not in text else text


def plain_sentence(sentence: str) -> str:
    """Return a sentence of a product in the notation of pages."""
    in_pages = sentence.replace("+-", "±").replace(" per mil", " ‰").replace(" sigma", " times its error")
    return re.sub(r"(?<=[ (])-\d", lambda found: with_minus(found.group()), in_pages)


YES, NO, OPEN, NONE = "yes", "no", "open", "-"
"""Verdicts: within the specification, beyond it, undecided because of the error, no specification. `NONE` also marks a missing
detector or amplifier."""

SIGNIFICANT = 3.0
"""Margin of a verdict in standard errors: a result fails (passes) if it is above (below) its specification by at least this margin."""

_COLUMNS = {
    "metric": "name of the result",
    "detector": "detector, - for results of a beam",
    "amp": "amplifier, all for the whole detector, - for results of a beam",
    "led": "LED, or band of stars; - if it has no name",
    "value": "result",
    "error": "standard error of the result",
    "spec": "largest size that passes, NaN if there is none",
    "pass": "yes, no, open if undecided because of the error, or - without a specification or result",
}


@dataclass(frozen=True)
class Measurement:
    """A result with its error, with its LED, detector and amplifier."""

    metric: str
    led: str
    number: float
    error: float
    detector: str = ""
    amp: str = ""


@dataclass(frozen=True)
class MetricVerdict:
    """All results of one metric and LED compared with their specification.

    ``worst`` is the result with the largest absolute value; ``checked``, ``failed`` and ``undecided`` count results.
    """

    metric: str
    led: str
    spec: float
    checked: int
    failed: int
    undecided: int
    worst: Measurement

    @property
    def state(self) -> str:
        """`NO` if a result failed, else `OPEN` if one is open, else `YES`."""
        if self.failed:
            return NO
        return OPEN if self.undecided else YES


def judge(entry: Measurement, limits: ReportConfig) -> str:
    """Return the verdict on a result: its absolute value compared with the specification, with a margin of `SIGNIFICANT` errors.

    For a scatter in excess of noise the variance is compared, whose error is normal.
    """
    spec = specification(entry.metric, limits)
    return judge_size(entry.number, entry.error, spec, beyond_noise=QUANTITIES[entry.metric].beyond_noise)


def judge_size(number: float, error: float, spec: float, *, beyond_noise: bool = False) -> str:
    """Return the verdict on a number; an unknown error counts as 0."""
    if not (math.isfinite(number) and math.isfinite(spec)):
        return NONE
    size, margin = abs(number), SIGNIFICANT * error if math.isfinite(error) else 0.0
    if beyond_noise:
        size, own = variance_of_root(size, margin / SIGNIFICANT)
        margin, spec = SIGNIFICANT * own, spec**2
    if size > spec + margin:
        return NO
    return YES if size <= spec - margin else OPEN


def specification(metric: str, limits: ReportConfig) -> float:
    """Return the limit of a metric, NaN without one."""
    key = QUANTITIES[metric].limit
    return float(getattr(limits, key)) if key else math.nan


def flat_measurements(metrics: Table) -> list[Measurement]:
    """Return the results in a table of flat metrics, without those that are NaN."""
    found = []
    for row in metrics:
        for metric in FLAT_METRICS:
            number = float(row[metric]) if metric in metrics.colnames else math.nan
            if math.isfinite(number):
                error = float(row[f"{metric}_err"]) if f"{metric}_err" in metrics.colnames else math.nan
                found.append(Measurement(metric, str(row["led"]), number, error, str(row["detector"]), str(row["amp"])))
    return found


def summary_table(measurements: Iterable[Measurement], limits: ReportConfig) -> Table:
    """Return measurements as a table with specification and verdict.

    Parameters
    ----------
    measurements
        Results in the order of the rows.
    limits
        Section ``report`` of the configuration.
    """
    rows = []
    for entry in measurements:
        spec = specification(entry.metric, limits)
        # An empty text in ECSV is read as missing.
        where = entry.detector or NONE, entry.amp or NONE, entry.led or NONE
        rows.append((entry.metric, *where, entry.number, entry.error, spec, judge(entry, limits)))
    kinds = (np.str_, np.str_, np.str_, np.str_, float, float, float, np.str_)
    columns = zip(*rows, strict=True) if rows else ([] for _ in kinds)
    table = Table({name: np.array(column, dtype=kind) for name, column, kind in zip(_COLUMNS, columns, kinds, strict=True)})
    for name, description in _COLUMNS.items():
        table[name].description = description
    return table


def verdicts(measurements: Iterable[Measurement], limits: ReportConfig) -> list[MetricVerdict]:
    """Return one verdict for each metric with a specification and each LED, in the order of the measurements."""
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for entry in measurements:
        if QUANTITIES[entry.metric].limit:
            groups.setdefault((entry.metric, entry.led), []).append(entry)
    found = []
    for (metric, led), entries in groups.items():
        spec = specification(metric, limits)
        states = [judge(entry, limits) for entry in entries]
        worst = max(entries, key=lambda entry: abs(entry.number))
        found.append(MetricVerdict(metric, led, spec, len(entries), states.count(NO), states.count(OPEN), worst))
    return found


def with_verdict(
    measurements: Iterable[Measurement], limits: ReportConfig, verdict: str
) -> Mapping[tuple[str, str], list[Measurement]]:
    """Return the results with a verdict (`NO` or `OPEN`) by LED and detector."""
    found: dict[tuple[str, str], list[Measurement]] = {}
    for entry in measurements:
        if judge(entry, limits) == verdict:
            found.setdefault((entry.led, entry.detector), []).append(entry)
    return found
