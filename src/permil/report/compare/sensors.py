"""The page of many sensors: all detectors and bands of a run, and of the runs that are combined with it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Row, Table
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from permil.arrays import FloatArray
from permil.camera import Camera, Detector, shared_camera
from permil.compare.comparison import WHOLE
from permil.compare.hypotheses.results import KINDS
from permil.compare.sensors.combine import RATE
from permil.compare.sensors.origins import MASK, RAW, SUM, SUM_WITHIN
from permil.compare.sensors.tables import ALL, BAND, DIFFERENCE, FRACTIONS, VENDOR
from permil.flat.composite import mosaic_grid
from permil.products import RunFolder, open_product, read_table
from permil.products.folder import CompareFolder
from permil.report.compare.efficiency import Choice, choice_table, read_choices
from permil.report.compare.inputs import rows_of
from permil.report.kit import focal_plane
from permil.report.kit.chart import Chart, chart_picture
from permil.report.kit.elements import (
    Cell,
    Column,
    Grid,
    Link,
    Picture,
    chance_column,
    count_column,
    drawing,
    measured_cell,
    measured_column,
    number_cell,
    number_in,
    table_of,
    text_column,
    text_in,
)
from permil.report.kit.figures import FAINT, INK, led_colour, styled, subplots, symmetric_limits
from permil.report.kit.pages import Page, RunProducts, group_name, page_path, relative_address, render
from permil.report.kit.results import MISSING, format_count, format_measurement, two_digits

_PANELS: dict[str, tuple[str, Sequence[float]]] = {
    "r": ("correlation r", (0.0,)),
    "slope": ("slope, star flux on flat", (0.0, 1.0)),
    **{name: (f"fraction {kind}", (0.0, 1.0)) for name, kind in zip(FRACTIONS, KINDS, strict=True)},
}
_LABELS = {"r_corrected": "r without measurement errors"} | {name: title for name, (title, _) in _PANELS.items()}
_MOST_ROWS = 60
"""Largest number of sensors and bands in a forest plot; beyond it only combined estimates are drawn."""
_MOST_ERROR = 4.0
"""Cells with larger errors, relative to the median, are not drawn."""
_MOST_TESTS = 200
"""Largest number of tests in the table of the page; the product has all."""
_MARKERS = {"E2V": "o", "ITL": "s"}
_COMBINED = "D"
_OTHER_MARKER = "^"
_ROW, _HEAD = 0.24, 1.05
"""Height of a row of a forest plot and of its head and foot, inches."""
_PLANE, _SINGLE = 300.0, 240.0
_MOST_SINGLE = 4
"""Largest number of detectors that are also drawn one by one."""


@dataclass(frozen=True)
class SensorTables:
    """Tables of many sensors: results of each, combined estimates, tests, origins of the variance."""

    sensors: Table
    combined: Table
    tests: Table
    origins: Table


def sensors_path(folder: RunFolder, kind: str) -> Path:
    """Return the path of the page of many sensors."""
    return page_path(folder, kind, "index")


def sensors_page(run: RunProducts, kind: str) -> Page | None:
    """Return the page of many sensors, None for a run without its tables."""
    products = CompareFolder(run.folder.root)
    tables = (products.sensors, products.combined, products.tests, products.origins)
    if not all(path.is_file() for path in tables):
        return None
    sensors = read_table(products.sensors, columns=("run", "folder", "detector", "band"))
    comparisons = [CompareFolder(Path(str(row["folder"]))).comparison(str(row["detector"]), _band(row)) for row in sensors]
    choices = [path for folder in _runs(sensors) if (path := CompareFolder(folder).efficiency).is_file()]
    path = sensors_path(run.folder, kind)
    make = partial(make_sensors_page, run.folder, run.config.camera, path)
    return Page((*tables, *comparisons, *choices), {"camera": run.config.camera}, make, path)


def make_sensors_page(folder: RunFolder, camera: str, path: Path, fingerprint: str) -> str:
    """Return the page of many sensors as HTML.

    Raises
    ------
    InputError
        If a table cannot be read.
    """
    products = CompareFolder(folder.root)
    tables = SensorTables(*(read_table(each) for each in (products.sensors, products.combined, products.tests, products.origins)))
    choices = [choice for root, name in _runs(tables.sensors).items() for choice in read_choices(RunFolder(root), run=name)]
    return render(
        "sensors.html",
        __name__,
        fingerprint=fingerprint,
        title="many sensors, stars against flats - permil",
        links=[Link("start page", f"{relative_address(path, folder.report)}#compare"), *_links(tables.sensors, folder)],
        facts=sensor_facts(tables),
        tables=tables,
        choices=choices,
        choice_table=choice_table,
        camera=shared_camera(camera),
    )


def _runs(sensors: Table) -> dict[Path, str]:
    """Return the names of the runs by their folder."""
    return {Path(str(row["folder"])): str(row["run"]) for row in sensors}


def choice_sentences(choices: Sequence[Choice]) -> list[tuple[str, str]]:
    """Return name of sensor and band, and which flat to use."""
    several_runs = len({choice.run for choice in choices}) > 1
    return [
        (group_name(choice.detector, choice.band) + (f" ({choice.run})" if several_runs else ""), choice.sentence)
        for choice in choices
    ]


def _band(row: Row) -> str:
    band = text_in(row, "band")
    return "" if band == "-" else band


def _links(sensors: Table, folder: RunFolder) -> list[Link]:
    """Return links to the pages of the detectors and bands of this run."""
    own = [row for row in sensors if Path(str(row["folder"])) == folder.root]
    return [
        Link(group_name(str(row["detector"]), _band(row)), f"{'_'.join(filter(None, (str(row['detector']), _band(row))))}.html")
        for row in own
    ]


def sensor_facts(tables: SensorTables) -> tuple[tuple[str, str], ...]:
    """Return name and content of the facts below the heading of the page."""
    sensors = tables.sensors
    vendors = {
        vendor: len({str(row["detector"]) for row in rows_of(sensors, vendor=vendor)})
        for vendor in sorted(set(map(str, sensors["vendor"])))
    }
    return (
        ("runs", ", ".join(dict.fromkeys(str(name) for name in sensors["run"]))),
        ("sensors", str(len(set(map(str, sensors["detector"]))))),
        ("of vendors", ", ".join(f"{vendor}: {count}" for vendor, count in vendors.items())),
        ("bands of the stars", ", ".join(sorted(set(map(str, sensors["band"]))))),
        ("measurements of stars", format_count(int(np.nansum(np.asarray(sensors["n"], dtype=float))))),
        ("tests", str(len(tables.tests))),
    )


def sensor_sentences(tables: SensorTables) -> list[str]:
    """Return the combined results, their heterogeneity, and the number of tests, as sentences."""
    sentences = []
    whole = rows_of(tables.combined, kind=ALL, region=WHOLE)
    found = {str(row["quantity"]): row for row in whole}
    if "r" in found:
        row = found["r"]
        parts = [f"{kind} {_shown(found[name])}" for name, kind in zip(FRACTIONS, KINDS, strict=True) if name in found]
        fractions = f"; fractions of the flat's variance: {', '.join(parts)}" if parts else ""
        sentences.append(f"Mean over {int(row['sensors'])} sensors: r = {_shown(row)}{fractions}.")
        if int(row["sensors"]) > 1:
            sentences.append(
                "Scatter of the sensors beyond the errors of their values: "
                + ", ".join(f"{_LABELS[name]} {_heterogeneity(found[name])}" for name in ("r", *FRACTIONS) if name in found)
                + "."
            )
    return [*sentences, tests_sentence(tables.tests)]


def tests_sentence(tests: Table) -> str:
    """Return the number of tests and of significant ones."""
    below, found = int(np.sum(np.asarray(tests["p_value"]) <= RATE)), int(np.sum(np.asarray(tests["significant"], dtype=bool)))
    return (
        f"{len(tests)} tests were made. {below} p-values are below {RATE:g}, where {RATE * len(tests):.0f} are expected by chance "
        f"without any correlation; {found} are significant at a false-discovery rate of {100 * RATE:.0f} % (of these, at most about "
        f"{RATE * found:.0f} by chance)."
    )


def _shown(row: Row) -> str:
    return format_measurement(number_in(row, "value"), number_in(row, "error"))


def _heterogeneity(row: Row) -> str:
    names = ("heterogeneity", "heterogeneity_low", "heterogeneity_high", "heterogeneity_limit")
    size, low, high, limit = (number_in(row, name) for name in names)
    if not math.isfinite(size):
        return MISSING
    if size == 0:
        return f"< {two_digits(limit)} (95 %)"
    return f"{two_digits(size)} (68 %: {two_digits(low)} to {two_digits(high)})"


def forest_picture(tables: SensorTables) -> Picture:
    """Return the forest plot of all sensors and bands, and of the means of vendors, bands and all sensors."""
    rows = []
    ordered = sorted(tables.sensors, key=lambda row: tuple(str(row[name]) for name in ("vendor", "band", "detector", "run")))
    several_runs = len(set(map(str, tables.sensors["run"]))) > 1
    if len(ordered) <= _MOST_ROWS:
        for row in ordered:
            name = f"{row['vendor']} {group_name(str(row['detector']), _band(row))}" + (
                f" ({row['run']})" if several_runs else ""
            )
            values = {quantity: (number_in(row, quantity), number_in(row, f"{quantity}_err")) for quantity in _PANELS}
            led = text_in(row, "led")
            rows.append(ForestRow(name, str(row["vendor"]), "unknown" if led in ("", "-") else led, values))
    for kind, title in ((VENDOR, "mean of {}"), (BAND, "mean in {}"), (ALL, "mean of all sensors")):
        of = dict.fromkeys(str(row["of"]) for row in rows_of(tables.combined, kind=kind, region=WHOLE))
        rows += [ForestRow(title.format(name), "", "", _values(tables.combined, kind, name, WHOLE)) for name in of]
    caption = (
        "Each sensor and band with its standard error (circles: E2V, squares: ITL; the colour is that of the LED of the flat), and "
        "the means of vendors, bands and all sensors (diamonds), whose errors include the scatter of the sensors. Dotted: 0, and 1 where "
        "that is expected of a flat that shows one cause alone."
    )
    return drawing(forest(rows, _PANELS), caption)


def region_picture(tables: SensorTables) -> Picture | None:
    """Return the forest plot by region of the sensor, one row for each vendor; None without regions."""
    regions = dict.fromkeys(str(row["region"]) for row in tables.combined)
    if len(regions) < 2:
        return None
    vendors = sorted({str(row["of"]) for row in rows_of(tables.combined, kind=VENDOR)})
    rows = [
        ForestRow(f"{region}: {vendor}", vendor, "unknown", _values(tables.combined, VENDOR, vendor, region))
        for region in regions
        for vendor in vendors
    ]
    rows = [row for row in rows if any(math.isfinite(value) for value, _ in row.values.values())]
    caption = "Means of the sensors of each vendor by region of the sensor (circles: E2V, squares: ITL)."
    return drawing(forest(rows, _PANELS), caption)


def _values(combined: Table, kind: str, of: str, region: str) -> Mapping[str, tuple[float, float]]:
    return {
        str(row["quantity"]): (number_in(row, "value"), number_in(row, "error"))
        for row in rows_of(combined, kind=kind, of=of, region=region)
    }


def combined_table(combined: Table, region: str) -> Grid | None:
    """Return the combined estimates of one region, or of all regions but the whole detector for ""; None without any."""
    rows = [
        row
        for row in combined
        if text_in(row, "kind") != DIFFERENCE
        and (text_in(row, "region") == region if region else text_in(row, "region") != WHOLE)
    ]
    columns = (
        text_column("quantity", lambda row: _LABELS[text_in(row, "quantity")]),
        *(() if region else (text_column("region"),)),
        text_column("of", lambda row: text_in(row, "kind" if text_in(row, "kind") == ALL else "of")),
        measured_column("mean", "value", error="error"),
        count_column("sensors"),
        count_column("sensors and bands", "estimates"),
        Column("scatter between sensors (rms)", lambda row: number_cell(_heterogeneity(row), number_in(row, "heterogeneity"))),
        chance_column("p, all alike"),
    )
    return table_of(rows, columns) if rows else None


def difference_table(tables: SensorTables) -> Grid | None:
    """Return the differences of vendors; None with one vendor."""
    rates = {
        text_in(row, "of"): number_in(row, "false_discovery_rate")
        for row in tables.tests
        if text_in(row, "test") == "vendors equal"
    }

    def rate(row: Row) -> float:
        return rates.get(", ".join(text_in(row, part) for part in ("quantity", "region", "of")), math.nan)

    rows = rows_of(tables.combined, kind=DIFFERENCE)
    columns = (
        text_column("quantity", lambda row: _LABELS[text_in(row, "quantity")]),
        text_column("region"),
        text_column("vendors", lambda row: text_in(row, "of").replace(" - ", " \N{MINUS SIGN} ")),
        measured_column("difference", "value", error="error"),
        chance_column("p"),
        chance_column("false-discovery rate", rate),
    )
    return table_of(rows, columns) if rows else None


def single_vendors(sensors: Table) -> list[str]:
    """Return the vendors with a single sensor."""
    vendors = sorted(set(map(str, sensors["vendor"])))
    return [vendor for vendor in vendors if len({str(row["detector"]) for row in rows_of(sensors, vendor=vendor)}) == 1]


def tests_table(tests: Table) -> Grid:
    """Return the tests with the smallest p-values."""

    def place(row: Row) -> str:
        return " ".join(part for name in ("run", "detector", "band") if (part := text_in(row, name)) not in ("", "-"))

    columns = (
        text_column("test"),
        text_column("sensor and band", place),
        text_column("of"),
        measured_column("r, mean or difference", "value", error="error"),
        chance_column("p"),
        chance_column("false-discovery rate", "false_discovery_rate"),
        text_column("significant", lambda row: "yes" if row["significant"] else "no"),
    )
    return table_of(tests[:_MOST_TESTS], columns)


def origin_table(origins: Table) -> Grid:
    """Return the parts of the variance of raw star fluxes."""
    variances = {text_in(row, "part"): number_in(row, "variance") for row in origins}
    others = variances.get(SUM, math.nan) - variances.get(MASK, math.nan)

    def share(row: Row) -> Cell:
        if text_in(row, "part") in (MASK, SUM, SUM_WITHIN, RAW):
            return Cell(MISSING)
        return measured_cell(number_in(row, "variance"), number_in(row, "variance_err"), scale=100 / others)

    columns = (
        text_column("part"),
        measured_column("rms (‰)", "rms_per_mil"),
        measured_column("variance (10⁻⁶)", lambda row: (1e6 * number_in(row, "variance"), 1e6 * number_in(row, "variance_err"))),
        Column("fraction without the mask (%)", share),
        text_column("why it is unknown", lambda row: text_in(row, "reason").removeprefix("-")),
    )
    return table_of(origins, columns)


def map_pictures(sensors: Table, camera: Camera) -> list[Picture]:
    """Return the residuals of stars on the focal plane, one picture for each band."""
    pictures = []
    for band in dict.fromkeys(str(name) for name in sensors["band"]):
        maps: dict[Detector, FloatArray] = {}
        cell = 1
        for row in rows_of(sensors, band=band):
            path = CompareFolder(Path(str(row["folder"]))).comparison(str(row["detector"]), _band(row))
            found = _residual_map(path, camera[str(row["detector"])])
            if found is not None:
                maps[camera[str(row["detector"])]], cell = found
        if maps:
            caption = (
                f"Residuals of the fluxes of stars in {band}, with the steps between amplifiers and on all scales, as means over "
                f"cells of about {cell} pixels; grey: no stars, or too few. Each sensor is relative to its own mean."
            )
            title = f"residuals of stars, {band}"
            pictures.append(chart_picture(residual_maps(maps, cell=cell, title=title), caption))
    return pictures


def _residual_map(path: Path, detector: Detector) -> tuple[FloatArray, int] | None:
    """Return the mean residual (per mil) in the cells of a comparison, and their side in pixels; None without them."""
    if not path.is_file():
        return None
    with open_product(path, "a comparison of stars and flat", remedy="run permil compare again") as hdus:
        if "CELLS" not in hdus:
            return None
        table = Table(hdus["CELLS"].data)
    if not len(table):
        return None
    x, y, star, error = (np.array(table[name], dtype=np.float64) for name in ("x", "y", "star", "star_err"))
    star[error > _MOST_ERROR * np.median(error)] = np.nan
    steps = np.diff(np.unique(x))
    side = max(1, round(float(steps.min()))) if steps.size else detector.nx
    image = np.full((-(-detector.ny // side), -(-detector.nx // side)), np.nan)
    row, column = (
        np.clip(((place + 0.5) // side).astype(int), 0, size - 1) for place, size in zip((y, x), image.shape, strict=True)
    )
    image[row, column] = 1e3 * star
    return image, side


@dataclass(frozen=True)
class ForestRow:
    """One row of a forest plot: its name, vendor and LED ("" for combined estimates), and values with errors by quantity."""

    name: str
    vendor: str
    led: str
    values: Mapping[str, tuple[float, float]]


@styled
def forest(rows: Sequence[ForestRow], quantities: Mapping[str, tuple[str, Sequence[float]]]) -> Figure:
    """Draw quantities with errors, one row for each sensor and band or combined estimate, from top to bottom.

    Parameters
    ----------
    rows
        Rows; those without an LED are drawn as diamonds.
    quantities
        Title of the panel of each quantity, and reference values to mark.
    """
    height = _HEAD + _ROW * len(rows)
    margins = (0.19, 0.99, 0.5 / height, 1 - 0.32 / height)
    figure, axes_of = subplots((11.6, height), margins, 1, len(quantities), wspace=0.09, sharey=True)
    for axes, (quantity, (title, references)) in zip(axes_of, quantities.items(), strict=True):
        _draw_panel(axes, rows, quantity, references)
        axes.set_title(title)
    places = np.arange(len(rows))
    axes_of[0].set_yticks(places, [row.name for row in rows])
    axes_of[0].set_ylim(len(rows) - 0.4, -0.6)
    return figure


def _draw_panel(axes: Axes, rows: Sequence[ForestRow], quantity: str, references: Sequence[float]) -> None:
    for reference in references:
        axes.axvline(reference, color=FAINT, linewidth=0.9, linestyle=":")
    ends = []
    for place, row in enumerate(rows):
        value, error = row.values.get(quantity, (np.nan, np.nan))
        if not np.isfinite(value):
            continue
        is_combined = not row.led
        colour = INK if is_combined else led_colour(row.led)
        marker = _COMBINED if is_combined else _MARKERS.get(row.vendor, _OTHER_MARKER)
        axes.errorbar(
            value, place, xerr=error if np.isfinite(error) else None, fmt=marker, color=colour, ecolor=colour, markersize=4.5,
            elinewidth=1.6 if is_combined else 1.1, capsize=2,
        )  # fmt: skip
        ends.append((value, error))
    if ends:
        # Values with large errors are ignored for the limits.
        known = np.array([entry for entry in ends if np.isfinite(entry[1])] or ends)
        spread = np.nan_to_num(known[:, 1])
        well = spread <= 6 * np.median(spread)
        low, high = float(np.min((known[:, 0] - spread)[well])), float(np.max((known[:, 0] + spread)[well]))
        margin = 0.12 * max(high - low, 1e-3)
        axes.set_xlim(low - margin, high + margin)
    for place, row in enumerate(rows):
        if place and (row.led == "") != (rows[place - 1].led == ""):
            axes.axhline(place - 0.5, color=FAINT, linewidth=0.7)
    axes.tick_params(axis="y", length=0)


def residual_maps(maps: Mapping[Detector, FloatArray], *, cell: int, title: str) -> list[list[Chart]]:
    """Draw the residuals of stars (per mil) on the focal plane, and few detectors also one by one.

    Parameters
    ----------
    maps
        Map of each detector in cells, ``[row, column]``, NaN without stars.
    cell
        Side of a cell, pixels.
    title
        Title of the focal plane.
    """
    detectors = list(maps)
    limits = symmetric_limits(*maps.values(), centre=0.0, percent=3.0)
    grid = mosaic_grid(detectors, cell * detectors[0].pixel_mm)
    label, mosaic = "residual of stars (‰)", focal_plane.sample(grid, maps, block_pixels=cell)
    plane = focal_plane.plane_map(title, mosaic, grid, detectors, limits, label, width=_PLANE)
    if len(detectors) == 1 or len(detectors) > _MOST_SINGLE:
        return [[plane]]
    singles = []
    for number, (detector, image) in enumerate(maps.items()):
        own, title = mosaic_grid([detector], cell * detector.pixel_mm), f"{detector.name}, {detector.vendor}"
        shown = focal_plane.sample(own, {detector: image}, block_pixels=cell)
        options: dict[str, Any] = {"width": _SINGLE, "has_rows": number == 0, "named": False}
        singles.append(focal_plane.plane_map(title, shown, own, [detector], limits, label, **options))
    return [[plane], singles]
