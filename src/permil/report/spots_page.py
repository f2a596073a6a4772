"""The content of the page of the artificial stars of one detector and band, and of their section in the index page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from astropy.table import Table

from permil.camera import Detector
from permil.config.report import ReportConfig
from permil.flat.metrics import WHOLE_DETECTOR
from permil.report.inputs import provenance_cards
from permil.report.pages import (
    Cell,
    Grid,
    Link,
    SpotsPage,
    SpotsSection,
    count_cell,
    grid,
    reason_lists,
    text_cell,
)
from permil.report.quantities import MISSING, QUANTITIES, Quantity, format_count, format_measurement
from permil.report.spots_inputs import SpotsProducts, SpotsRun
from permil.report.spots_pictures import lamp_picture, mask_pictures, repeatability_picture, sensor_pictures
from permil.report.summary import NO, NONE, OPEN, YES, Measurement, judge, judge_size, specification

_INDEX_METRICS = (
    "spots", "exposures", "chi_square_per_freedom", "flux_excess", "flux_excess_unexplained", "spot_flux_error",
    "flux_residual_scatter", "dx_residual_scatter", "dy_residual_scatter", "scatter_over_predicted", "lamp_drift",
)  # fmt: skip
_AMPLIFIER_COLUMNS = (
    ("flux", "flux (‰)"),
    ("dx", "dx (10⁻³ px)"),
    ("dy", "dy (10⁻³ px)"),
    ("xx", "XX (10⁻³ px²)"),
    ("yy", "YY (10⁻³ px²)"),
    ("xy", "XY (10⁻³ px²)"),
)
_EXPLAINED = {
    YES: "What the sensor does not explain is within its specification.",
    OPEN: "Whether what the sensor does not explain is within its specification cannot be told.",
    NO: "What the sensor does not explain is beyond its specification: the errors of the catalogs are too small, or spots change from "
    "exposure to exposure. Do not use this calibration before the cause is found.",
}
_METHODS = {"joint": "joint fit of spots, exposures and throughput", "mean": "means over exposures"}
_MODES = {"fixed": "all at one place", "dithered": "each at its own place"}


def spots_page(
    products: SpotsProducts,
    detector: Detector,
    band: str,
    *,
    results: Table,
    limits: ReportConfig,
    home: Link,
    others: Sequence[Link],
    fingerprint: str,
) -> SpotsPage:
    """Return the content of the page of one detector and band.

    Parameters
    ----------
    results
        Rows of the summary for this detector and band.
    limits
        Specifications.
    home, others
        Links to the index and to the pages of other detectors and bands.
    """
    absent: list[str] = []
    calibration = products.calibration
    return SpotsPage(
        title=f"{group_name(detector.name, band)}, artificial stars - permil",
        detector=detector.name,
        band=band,
        facts=_facts(products, detector),
        results=_results(results, detector.name, limits),
        words=_excess_words(results, detector.name, limits),
        mask=tuple(mask_pictures(products, detector, absent)),
        sensor=tuple(sensor_pictures(products, detector)),
        amplifiers=_amplifiers(products.amplifiers),
        repeatability=repeatability_picture(products),
        lamp=lamp_picture(products),
        degeneracy=None if calibration is None or calibration.degeneracy is None else _degeneracy(calibration.degeneracy),
        exposures=_exposures(products.exposures),
        provenance=grid(
            ("card", "content", "meaning"),
            [[text_cell(part) for part in card] for card in provenance_cards(products.header)],
            text_columns=3,
        ),
        absent=tuple(absent),
        home=home,
        others=tuple(others),
        fingerprint=fingerprint,
    )


def spots_section(run: SpotsRun, address: Callable[[str, str], str], limits: ReportConfig) -> SpotsSection:
    """Return the section of the index page; ``address`` is that of the page of a detector and band, "" without pages."""
    metrics = [name for name in _INDEX_METRICS if name in set(run.summary["metric"])]
    rows = []
    for detector, band in run.groups:
        found = {str(row["metric"]): row for row in run.rows(detector, band)}
        cells = [text_cell(detector, link=address(detector, band)), text_cell(band or MISSING)]
        cells += [_judged_cell(found[name], detector, limits) if name in found else Cell(MISSING) for name in metrics]
        rows.append(cells)
    headings = ("detector", "band", *(QUANTITIES[name].heading for name in metrics))
    return SpotsSection(grid(headings, rows, text_columns=2), reason_lists(run.left_out, column="exposure"))


def spots_measurements(run: SpotsRun) -> list[Measurement]:
    """Return the figures of all detectors and bands; what is NaN was not measured and is left out."""
    found = (_measurement(row, str(row["detector"])) for row in run.summary)
    return [entry for entry in found if entry is not None]


def group_name(detector: str, band: str) -> str:
    """Return what people call a detector and band."""
    return " ".join(part for part in (detector, band) if part)


def _facts(products: SpotsProducts, detector: Detector) -> tuple[tuple[str, str], ...]:
    header = products.header
    columns, rows = header.get("NCOLS"), header.get("NROWS")
    method, mode = str(header.get("METHOD", "")), str(header.get("MODE", ""))
    used = header.get("NMEAS")
    return (
        ("sensor", f"{detector.serial}, {detector.kind}"),
        ("pixels", f"{detector.nx} x {detector.ny} of {1e3 * detector.pixel_mm:g} µm"),
        ("mask", f"{columns} x {rows} spots, first node {header.get('WINDOW', MISSING)}" if columns else MISSING),
        ("exposures", ", ".join(part for part in (format_count(len(products.exposures)), _MODES.get(mode, mode)) if part)),
        ("measurements used", format_count(int(used)) if used is not None else MISSING),
        ("calibration", _METHODS.get(method, method) or str(header.get("CALIB", MISSING))),
        ("radius of the flux", f"{float(header['APERTURE']):g} pixels" if "APERTURE" in header else MISSING),
        ("cells of the maps", f"{products.cell} pixels"),
    )


def _quantity(row: Table.Row) -> Quantity:
    name = str(row["metric"])
    return QUANTITIES.get(name) or Quantity(name, name.replace("_", " "), unit=str(row["unit"]))


def _judged_cell(row: Table.Row, detector: str, limits: ReportConfig) -> Cell:
    number, error, entry = float(row["value"]), float(row["error"]), _measurement(row, detector)
    verdict = judge(entry, limits) if entry is not None else NONE
    return Cell(_quantity(row).show(number, error), number if np.isfinite(number) else "", verdict)


def _results(results: Table, detector: str, limits: ReportConfig) -> Grid:
    rows = []
    for row in results:
        quantity, entry = _quantity(row), _measurement(row, detector)
        verdict = judge(entry, limits) if entry is not None else NONE
        spec = specification(entry.metric, limits) if entry is not None else np.nan
        rows.append(
            (
                text_cell(quantity.label),
                text_cell(quantity.unit),
                _judged_cell(row, detector, limits),
                Cell(quantity.show(spec), spec if np.isfinite(spec) else ""),
                Cell(verdict, verdict, verdict),
            )
        )
    content = grid(("result", "unit", "value", "specification", "pass"), rows, text_columns=2)
    return Grid(content.headings, content.rows, (False, False, True, True, False))


def _measurement(row: Table.Row, detector: str) -> Measurement | None:
    """Return a row of the summary as a result, None where it is none that is reported."""
    metric, number = str(row["metric"]), float(row["value"])
    if metric not in QUANTITIES or not np.isfinite(number):
        return None
    return Measurement(metric, str(row["band"]), number, float(row["error"]), detector, WHOLE_DETECTOR)


def _excess_words(results: Table, detector: str, limits: ReportConfig) -> str:
    """Return what the scatter of the fluxes beyond their errors is, and what follows; "" where there is nothing to say."""
    found = {entry.metric: entry for row in results if (entry := _measurement(row, detector)) is not None}
    chi_square, excess, own = (found.get(name) for name in ("chi_square_per_freedom", "flux_excess", "flux_excess_unexplained"))
    if chi_square is None or excess is None or own is None:
        return ""
    shown = {name: f"{QUANTITIES[name].show(entry.number, entry.error)} ‰" for name, entry in found.items()}
    words = f"With the errors of the catalogs alone the fluxes have a chi-square of {chi_square.number:.2f} per degree of freedom"
    if judge_size(excess.number, excess.error, 0.0, beyond_noise=True) != NO:
        return f"{words}: they scatter about the model as these errors say."
    words += f": they scatter by {shown['flux_excess']} more than these say. The errors of spots, exposures and throughput contain it. "
    if "flux_excess_structure" not in found:
        words += "Too few spots fell near a place where another spot had been to tell whether this belongs to the sensor. "
    else:
        words += (
            f"Spots that fall on one place share {shown['flux_excess_structure']} of it: structure of the sensor finer than the knots of "
            f"the throughput. {shown['flux_excess_unexplained']} is not shared by neighbours. "
        )
    return words + _EXPLAINED[judge(own, limits)]


def _measured_cell(row: Table.Row, name: str, *, error: str = "", scale: float = 1e3) -> Cell:
    number, uncertainty = float(row[name]), float(row[error or f"{name}_err"])
    return Cell(format_measurement(scale * number, scale * uncertainty), number if np.isfinite(number) else "")


def _amplifiers(table: Table) -> Grid:
    rows = []
    for row in table:
        cells = [text_cell(str(row["amp"]).strip()), count_cell(float(row["flux_count"]))]
        rows.append(cells + [_measured_cell(row, name) for name, _ in _AMPLIFIER_COLUMNS])
    return grid(("amplifier", "measurements", *(heading for _, heading in _AMPLIFIER_COLUMNS)), rows)


def _degeneracy(table: Table) -> Grid:
    rows = [
        (
            text_cell(str(row["axis"])),
            Cell(format_measurement(1e3 * float(row["free_error"])), float(row["free_error"])),
            _measured_cell(row, "exposure_trend", error="exposure_trend_error"),
            _measured_cell(row, "spot_gradient", error="spot_gradient_error"),
        )
        for row in table
    ]
    headings = (
        "axis", "error if nothing is assumed (‰ per 1000 px)", "if the lamp does not follow the pointing (‰ per 1000 px)",
        "gradient of the spots over the mask (‰ per 1000 px)",
    )  # fmt: skip
    return grid(headings, rows)


def _exposures(table: Table) -> Grid:
    rows = [
        (
            text_cell(str(row["exposure"]).strip()),
            *(_measured_cell(row, name, scale=1.0) for name in ("x0", "y0", "xstep", "ystep")),
            _measured_cell(row, "theta"),
            _measured_cell(row, "scale", scale=1.0),
        )
        for row in table
    ]
    return grid(
        ("exposure", "x of the grid (px)", "y (px)", "step along i (px)", "along j (px)", "angle (10⁻³ rad)", "scale"), rows
    )
