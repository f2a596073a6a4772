"""The pages of artificial stars and their section of the index page: dependencies and content."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from operator import itemgetter

import numpy as np
from astropy.table import Row, Table

from permil.camera import Detector
from permil.config.model import ReportConfig
from permil.flat.metrics import WHOLE_DETECTOR
from permil.products import RunFolder
from permil.products.folder import SpotsFolder
from permil.report.kit.elements import (
    Cell,
    Column,
    Grid,
    count_column,
    measured_column,
    number_cell,
    specification_cell,
    table_of,
    text_cell,
    text_column,
    verdict_cell,
)
from permil.report.kit.pages import (
    Declaration,
    IndexPart,
    Page,
    PageKind,
    RunProducts,
    group_addresses,
    group_links,
    group_name,
    group_path,
    render,
)
from permil.report.kit.results import (
    MISSING,
    NO,
    NONE,
    OPEN,
    QUANTITIES,
    YES,
    Measurement,
    Quantity,
    format_count,
    judge,
    judge_size,
)
from permil.report.spots import figures
from permil.report.spots.inputs import SpotsProducts, SpotsTables, read_spots, read_spots_tables
from permil.spots.residuals import MOMENTS

_INDEX_METRICS = (
    "spots", "exposures", "chi_square_per_freedom", "flux_excess", "flux_excess_unexplained", "spot_flux_error",
    "flux_residual_scatter", "dx_residual_scatter", "dy_residual_scatter", "scatter_over_predicted", "lamp_drift",
)  # fmt: skip
_EXPLAINED = {
    YES: "The part not explained by the sensor is within its specification.",
    OPEN: "The error of the part not explained by the sensor is too large for a verdict.",
    NO: "The part not explained by the sensor exceeds its specification: the errors of the catalogs are too small, or spots "
    "change from exposure to exposure. Find the cause before using this calibration.",
}
_WINDOWS = {"decided": "first node certain", "ambiguous": "first node ambiguous"}
_METHODS = {"joint": "joint fit of spots, exposures and throughput", "mean": "means over exposures"}
_MODES = {"fixed": "all at one position", "dithered": "each at its own position"}


def group_table(tables: SpotsTables, addresses: Mapping[tuple[str, str], str], limits: ReportConfig) -> Grid:
    """Return the most important results of each detector and band.

    Parameters
    ----------
    addresses
        Address of the page of each detector and band, "" without a page.
    """
    found = {(str(row["detector"]), str(row["band"]), str(row["metric"])): row for row in tables.summary}

    def column(name: str) -> Column:
        return Column(QUANTITIES[name].heading, lambda group: _value_cell(found.get((*group, name)), limits))

    columns = (
        Column("detector", lambda group: text_cell(group[0], link=addresses[group]), is_text=True),
        text_column("band", itemgetter(1), absent=MISSING),
        *(column(name) for name in _INDEX_METRICS if name in set(tables.summary["metric"])),
    )
    return table_of(tables.groups, columns)


def facts(products: SpotsProducts, detector: Detector) -> tuple[tuple[str, str], ...]:
    """Return name and content of the facts below the heading of the page."""
    header = products.header
    columns, rows = header.get("NCOLS"), header.get("NROWS")
    method, mode = str(header.get("METHOD", "")), str(header.get("MODE", ""))
    used, window = header.get("NMEAS"), str(header.get("WINDOW", MISSING))
    return (
        ("sensor", f"{detector.serial}, {detector.kind}"),
        ("pixels", f"{detector.nx} x {detector.ny} of {1e3 * detector.pixel_mm:g} µm"),
        ("mask", f"{columns} x {rows} spots, {_WINDOWS.get(window, window)}" if columns else MISSING),
        ("exposures", ", ".join(part for part in (format_count(len(products.exposures)), _MODES.get(mode, mode)) if part)),
        ("measurements used", format_count(int(used)) if used is not None else MISSING),
        ("calibration", _METHODS.get(method, method) or str(header.get("CALIB", MISSING))),
        ("radius of the flux", f"{float(header['APERTURE']):g} pixels" if "APERTURE" in header else MISSING),
        ("cells of the maps", f"{products.cell} pixels"),
    )


def _quantity(row: Row) -> Quantity:
    name = str(row["metric"])
    return QUANTITIES.get(name) or Quantity(name, name.replace("_", " "), unit=str(row["unit"]))


def _value_cell(row: Row | None, limits: ReportConfig) -> Cell:
    if row is None:
        return Cell(MISSING)
    number, error, entry = float(row["value"]), float(row["error"]), _measurement(row)
    return number_cell(_quantity(row).show(number, error), number, verdict=NONE if entry is None else judge(entry, limits))


def result_table(results: Table, limits: ReportConfig) -> Grid:
    """Return the results of one detector and band with specifications and verdicts.

    Parameters
    ----------
    results
        Rows of the summary for this detector and band.
    """

    def specified(row: Row) -> Cell:
        return Cell(MISSING) if _measurement(row) is None else specification_cell(str(row["metric"]), limits)

    columns = (
        text_column("result", lambda row: _quantity(row).label),
        text_column("unit", lambda row: _quantity(row).unit),
        Column("value", lambda row: _value_cell(row, limits)),
        Column("specification", specified),
        Column("verdict", lambda row: verdict_cell(_value_cell(row, limits).verdict), is_text=True),
    )
    return table_of(results, columns)


def _measurement(row: Row) -> Measurement | None:
    """Return a row of the summary as a result, None if it is NaN or not a reported quantity."""
    metric, number = str(row["metric"]), float(row["value"])
    if metric not in QUANTITIES or not np.isfinite(number):
        return None
    return Measurement(metric, str(row["band"]), number, float(row["error"]), str(row["detector"]), WHOLE_DETECTOR)


def excess_text(results: Table, limits: ReportConfig) -> str:
    """Return the scatter of the fluxes in excess of their errors, with its cause; "" if it was not measured.

    Parameters
    ----------
    results
        Rows of the summary for this detector and band.
    """
    found = {entry.metric: entry for row in results if (entry := _measurement(row)) is not None}
    chi_square, excess, own = (found.get(name) for name in ("chi_square_per_freedom", "flux_excess", "flux_excess_unexplained"))
    if chi_square is None or excess is None or own is None:
        return ""
    shown = {name: f"{QUANTITIES[name].show(entry.number, entry.error)} ‰" for name, entry in found.items()}
    text = f"With the errors of the catalogs alone, the fluxes have a chi-square of {chi_square.number:.2f} per degree of freedom"
    if judge_size(excess.number, excess.error, 0.0, beyond_noise=True) != NO:
        return f"{text}: their scatter about the model is consistent with these errors."
    text += f": they scatter by {shown['flux_excess']} in excess of these errors. The errors of spots, exposures and "
    "throughput include this scatter. "
    if "flux_excess_structure" not in found:
        text += "Too few spots were measured close to the position of another one to decide whether the sensor is the cause. "
    else:
        text += (
            f"Spots at the same position share {shown['flux_excess_structure']} of it: structure of the sensor finer than the knots of "
            f"the throughput. {shown['flux_excess_unexplained']} is not shared by neighbours. "
        )
    return text + _EXPLAINED[judge(own, limits)]


def amplifier_table(table: Table) -> Grid:
    """Return the mean residuals of each amplifier."""
    columns = (
        text_column("amplifier", lambda row: str(row["amp"]).strip()),
        count_column("measurements", "flux_count"),
        measured_column("flux (‰)", "flux", scale=1e3),
        measured_column("dx (10⁻³ px)", "dx", scale=1e3),
        measured_column("dy (10⁻³ px)", "dy", scale=1e3),
        *(measured_column(f"{name.upper()} (10⁻³ px²)", name, scale=1e3) for name in MOMENTS),
    )
    return table_of(table, columns)


def degeneracy_table(table: Table) -> Grid:
    """Return the sizes of gradients that the data cannot determine."""
    unit = "(‰ per 1000 px)"
    columns = (
        text_column("axis"),
        measured_column(f"error without assumptions {unit}", "free_error", scale=1e3),
        measured_column(
            f"error if the lamp is independent of the pointing {unit}", "exposure_trend", error="exposure_trend_error", scale=1e3
        ),
        measured_column(f"gradient of the spots over the mask {unit}", "spot_gradient", error="spot_gradient_error", scale=1e3),
    )
    return table_of(table, columns)


def exposure_table(table: Table) -> Grid:
    """Return grid and scale of each exposure."""
    columns = (
        text_column("exposure", lambda row: str(row["exposure"]).strip()),
        measured_column("x of the grid (px)", "x0"),
        measured_column("y (px)", "y0"),
        measured_column("step along i (px)", "xstep"),
        measured_column("along j (px)", "ystep"),
        measured_column("angle (10⁻³ rad)", "theta", scale=1e3),
        measured_column("scale"),
    )
    return table_of(table, columns)


def spots_pages(run: RunProducts) -> list[Page]:
    """Return one page for each detector and band with artificial stars."""
    tables = read_spots_tables(run.folder)
    if tables is None:
        return []
    spots, limits = SpotsFolder(run.folder.root), run.config.report
    options = {"camera": run.config.camera, "groups": tables.groups, "limits": limits.model_dump(mode="json")}
    pages = []
    for detector, band in tables.groups:
        products = (path(detector, band) for path in (spots.residuals, spots.throughput, spots.calibration))
        make = partial(make_spots_page, run.folder, tables, run.camera[detector], band, limits)
        path = group_path(run.folder, SPOTS_PAGES.folder, detector, band)
        pages.append(Page((spots.summary, *products), options, make, path))
    return pages


def make_spots_page(
    folder: RunFolder, tables: SpotsTables, detector: Detector, band: str, limits: ReportConfig, fingerprint: str
) -> str:
    """Return the page of one detector and band as HTML.

    Raises
    ------
    InputError
        If a product is missing or cannot be read.
    """
    products = read_spots(folder, detector, band)
    results = tables.rows(detector.name, band)
    absent: list[str] = []
    return render(
        "spots.html",
        __name__,
        fingerprint=fingerprint,
        title=f"{group_name(detector.name, band)}, artificial stars - permil",
        links=group_links(folder, SPOTS_PAGES.folder, (detector.name, band), tables.groups, home="all artificial stars"),
        facts=facts(products, detector),
        detector=detector,
        band=band,
        products=products,
        results=results,
        limits=limits,
        figures=figures,
        mask=figures.mask_pictures(products, detector, absent),
        absent=absent,
    )


def declare_section(run: RunProducts) -> Declaration | None:
    """Declare the section of the index page, None if the run has no artificial stars."""
    tables = read_spots_tables(run.folder)
    if tables is None:
        return None
    spots, options = SpotsFolder(run.folder.root), {"limits": run.config.report.model_dump(mode="json")}
    return Declaration((spots.summary, spots.left_out), options, partial(make_section, run, tables))


def make_section(run: RunProducts, tables: SpotsTables) -> IndexPart:
    """Return the section of the index page."""
    groups = group_table(tables, group_addresses(run, SPOTS_PAGES.folder, tables.groups), run.config.report)
    content = render("spots_section.html", groups=groups, left_out=tables.left_out)
    return IndexPart(content, [entry for row in tables.summary if (entry := _measurement(row)) is not None])


SPOTS_PAGES = PageKind(
    "spots",
    "pages of artificial stars",
    spots_pages,
    section=declare_section,
    link="Artificial stars",
    heading="Artificial stars",
)
