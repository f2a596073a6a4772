"""The page of colour, the flat against wavelength, and its section of the index page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Row, Table

from permil.camera import Camera, shared_camera
from permil.colour.detector import PATTERN
from permil.colour.moments import SCALES
from permil.colour.planes import SIGNIFICANCE
from permil.colour.run_colour import OF_SENSORS, OWN, SHARED, WHOLE
from permil.config import Config
from permil.products import ImageProduct, RunFolder, read_image, read_table
from permil.products.folder import ColourFolder
from permil.report.kit import focal_plane
from permil.report.kit.chart import Chart, chart_picture
from permil.report.kit.elements import (
    Cell,
    Column,
    Grid,
    Link,
    Picture,
    chance_column,
    count_cell,
    count_column,
    decimal_column,
    measured_cell,
    measured_column,
    number_column,
    table_of,
    text_cell,
    text_column,
)
from permil.report.kit.figures import ACCENT, FAINT, INK, led_colour, symmetric_limits
from permil.report.kit.pages import (
    Declaration,
    IndexPart,
    Page,
    PageKind,
    RunProducts,
    index_address,
    page_path,
    relative_address,
    render,
)
from permil.report.kit.results import MISSING, Measurement, format_measurement, two_digits

_TABLES = ("responses", "ratios", "vendors", "gradients", "correlations", "variances", "waves")


@dataclass(frozen=True)
class ColourTables:
    """All tables, with the LEDs by wavelength, and the existing ratio maps of neighbouring LEDs."""

    camera: Camera
    leds: tuple[str, ...]
    responses: Table
    ratios: Table
    vendors: Table
    gradients: Table
    correlations: Table
    variances: Table
    waves: Table
    maps: tuple[tuple[tuple[str, str], ImageProduct], ...] = ()

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Neighbouring LEDs with a ratio."""
        return list(dict.fromkeys((str(row["led"]), str(row["over_led"])) for row in self.ratios))

    @property
    def detectors(self) -> list[str]:
        """Detectors with a flat in at least two LEDs."""
        return list(dict.fromkeys(str(name) for name in self.responses["detector"]))

    def label(self, led: str) -> str:
        """Return the name of an LED with band and wavelength."""
        return self.camera.led(led).label


def colour_sources(folder: RunFolder, leds: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the names of the tables, and the pairs of LEDs with a map, of a run; no tables without the colour."""
    products = ColourFolder(folder.root)
    if not all(products.table(name).is_file() for name in _TABLES):
        return [], []
    return list(_TABLES), [pair for pair in pairwise(leds) if products.ratio(*pair).is_file()]


def read_tables(folder: RunFolder, camera: Camera, *, with_maps: bool) -> ColourTables:
    """Read the tables of colour, and on request the ratio maps.

    Raises
    ------
    InputError
        If a product cannot be read.
    """
    products = ColourFolder(folder.root)
    tables = {name: read_table(products.table(name)) for name in _TABLES}
    leds = tuple(camera.sorted_leds({str(led) for led in tables["responses"]["led"]}))
    pairs = colour_sources(folder, leds)[1] if with_maps else []
    maps = tuple((pair, read_image(products.ratio(*pair))) for pair in pairs)
    return ColourTables(camera, leds, **tables, maps=maps)


_VENDOR_COLOURS = (ACCENT, "#cc6644", "#228833")
_PLANE_WIDTH = 330.0


def response_picture(tables: ColourTables) -> Picture:
    """Return the median response of all detectors against the LEDs, and the mean of each vendor."""
    whole = tables.responses[tables.responses["amp"] == WHOLE]
    leds = list(tables.leds)
    per_detector = {}
    for name in tables.detectors:
        rows = whole[whole["detector"] == name]
        by_led = {str(row["led"]): float(row["response"]) for row in rows}
        per_detector[name] = np.array([by_led.get(led, np.nan) for led in leds])
    everything = np.array(list(per_detector.values()))
    low, high = float(np.nanmin(everything)), float(np.nanmax(everything))
    margin = 0.08 * (high - low) or 0.01
    chart = Chart(
        (620.0, 260.0), (-0.4, len(leds) - 0.6), (low - margin, high + margin), names=[tables.label(led) for led in leds],
        labels=("", "median response"), title="Detectors (thin) and means of the vendors (points)",
    )  # fmt: skip
    places = np.arange(len(leds), dtype=float)
    vendors = {name: tables.camera[name].vendor for name in per_detector}
    for values in per_detector.values():
        known = np.isfinite(values)
        chart.line(places[known], values[known], FAINT, width=0.8)
    legend = []
    for vendor, colour in zip(sorted(set(vendors.values())), _VENDOR_COLOURS, strict=False):
        mean = np.nanmean([values for name, values in per_detector.items() if vendors[name] == vendor], axis=0)
        chart.line(places, mean, colour, width=1.4)
        chart.points(np.column_stack([places, mean]), colour, radius=4.0)
        legend.append((colour, vendor))
    chart.legend(legend)
    caption = (
        "Median response of each detector in each LED, on the composite scale: 1 is the median of all pixels of the focal plane in that "
        "LED, so that only differences between detectors are meaningful."
    )
    return chart_picture([[chart]], caption)


def ratio_pictures(tables: ColourTables) -> list[Picture]:
    """Return the map of the ratio of each pair of neighbouring LEDs."""
    pictures = []
    detectors = [tables.camera[name] for name in tables.detectors]
    for (first, second), product in tables.maps:
        grid = focal_plane.grid_of(product.image_header, product.image.shape)
        image = np.where(product.mask == 0, product.image, np.nan)
        per_mil = 1e3 * (image - 1)
        inner = 1e3 * (focal_plane.over_detector_median(image, focal_plane.detector_cells(grid, detectors)) - 1)
        charts: list[Chart] = []
        for title, values, label in (
            (f"{first} over {second}", per_mil, "ratio - 1 (‰)"),
            ("each detector over its own median", inner, "ratio over median - 1 (‰)"),
        ):
            limits, is_first = symmetric_limits(values, centre=0.0), not charts
            options: dict[str, Any] = {"width": _PLANE_WIDTH, "has_rows": is_first, "named": is_first}
            charts.append(focal_plane.plane_map(title, values, grid, detectors, limits, label, **options))
        caption = f"Ratio of the flats of {tables.label(first)} and {tables.label(second)} over the focal plane."
        pictures.append(chart_picture([charts], caption))
    return pictures


def variance_picture(tables: ColourTables) -> Picture | None:
    """Return the rms of the structure common to LEDs and specific to one LED, by scale; None without any."""
    scales = [scale for scale in SCALES if (tables.variances["scale"] == scale).any()]
    if not scales:
        return None
    rows = tables.variances[np.isin(tables.variances["scale"], scales)]
    sizes = np.asarray(rows["rms_per_mil"], dtype=float)
    positive = sizes[sizes > 0]
    if not positive.size:
        return None
    limits = float(np.floor(np.log10(positive.min()))), float(np.ceil(np.log10(positive.max()))) + 0.5
    chart = Chart(
        (620.0, 260.0), (-0.5, len(scales) - 0.5), (limits[0], max(limits[1], limits[0] + 1)), names=scales,
        labels=("scale", "rms (‰)"), title="shared by LEDs (large), specific to one LED (small)", is_log=True,
    )  # fmt: skip
    width = 0.6 / max(len(tables.leds), 1)
    for number, led in enumerate(tables.leds):
        for part, radius, edged in ((SHARED, 5.0, True), (OWN, 2.5, False)):
            own = rows[(rows["led"] == led) & (rows["part"] == part)]
            places = [scales.index(str(scale)) + width * (number - (len(tables.leds) - 1) / 2) for scale in own["scale"]]
            with np.errstate(divide="ignore"):
                values = np.log10(np.asarray(own["rms_per_mil"], dtype=float))
            points = np.column_stack([np.array(places, dtype=float), np.where(np.isfinite(values), values, np.nan)])
            chart.points(points, led_colour(led), radius=radius, is_edged=edged)
    chart.legend([(led_colour(led), led) for led in tables.leds] or [(INK, "")])
    caption = (
        "Rms of the response without noise, by scale: the part of each LED that the other LEDs predict (large points with an edge), and "
        "the remainder, specific to this LED (small points). Pixels and cells exclude the periodic pattern of the shortest wavelength."
    )
    return chart_picture([[chart]], caption)


_PER_MIL = 1e3
_PER_METRE = 1e6


def facts(tables: ColourTables) -> tuple[tuple[str, str], ...]:
    """Return name and content of the facts below the heading."""
    vendors = Counter(tables.camera[name].vendor for name in tables.detectors)
    return (
        ("LEDs", ", ".join(tables.label(led) for led in tables.leds)),
        ("detectors", str(len(tables.detectors))),
        ("sensors", ", ".join(f"{count} {vendor}" for vendor, count in sorted(vendors.items()))),
    )


def headline(tables: ColourTables) -> str:
    """Return the main results in a few sentences."""
    sentences = []
    each = tables.vendors[tables.vendors["over_led"] == "-"]
    if len(each):
        pair = f"{each['vendor'][0]} over {each['over_vendor'][0]}"
        shown = ", ".join(f"{format_measurement(float(row['ratio']), float(row['ratio_err']))} in {row['led']}" for row in each)
        sentences.append(f"{pair}: {shown} (these sensors).")
    sensor = [f"{row['led']} over {row['over_led']}" for row in tables.gradients if row["verdict"] == OF_SENSORS]
    if sensor:
        sentences.append(f"A gradient common to the sensors is found in {', '.join(sensor)}.")
    elif len(tables.gradients):
        sentences.append("No ratio has a common gradient that can be separated from the colour of the light.")
    pattern = tables.variances[(tables.variances["scale"] == PATTERN) & (tables.variances["led"] == tables.leds[0])]
    if len(tables.waves) and len(pattern):
        rms = format_measurement(float(pattern["rms_per_mil"][0]), float(pattern["rms_per_mil_err"][0]))
        sentences.append(f"The periodic pattern in {tables.leds[0]} has an rms of {rms} ‰.")
    return " ".join(sentences)


def vendor_table(tables: ColourTables) -> Grid | None:
    """Return the ratio of vendors in each LED and its change between LEDs; None with sensors of one vendor."""

    def leds(row: Row) -> str:
        return tables.label(str(row["led"])) if row["over_led"] == "-" else f"{row['led']} over {row['over_led']}"

    columns = (
        text_column("sensors", lambda row: f"{row['vendor']} over {row['over_vendor']}"),
        text_column("LED", leds),
        measured_column("these sensors", "ratio"),
        measured_column("the vendors", "ratio", error="vendor_err"),
        decimal_column("scatter of sensors (‰)", lambda row: _PER_MIL * float(row["sensor_scatter"]), 2),
        count_column("sensors"),
        count_column("sensors of the other vendor", "over_sensors"),
    )
    return table_of(tables.vendors, columns) if len(tables.vendors) else None


def detector_table(tables: ColourTables) -> Grid:
    """Return the ratio of neighbouring LEDs for each detector."""
    whole = tables.ratios[tables.ratios["amp"] == WHOLE]
    found = {tuple(str(row[name]) for name in ("detector", "led", "over_led")): row for row in whole}
    columns = (
        text_column("detector", itemgetter(0)),
        text_column("vendor", lambda key: tables.camera[key[0]].vendor),
        *(measured_column(f"{first} / {second}", "ratio").of(_row(found, first, second)) for first, second in tables.pairs),
    )
    return table_of([(name,) for name in tables.detectors], columns)


def _row(found: Mapping[tuple[Any, ...], Row], *last: str) -> Callable[[tuple[Any, ...]], Row | None]:
    """Return a function that finds the row whose key is that of a row of the page followed by some names."""
    return lambda key: found.get((*key, *last))


def amplifier_table(tables: ColourTables) -> Grid:
    """Return the median response of each amplifier in each LED."""
    found = {tuple(str(row[name]) for name in ("detector", "amp", "led")): row for row in tables.responses}
    columns = (
        text_column("detector", itemgetter(0)),
        text_column("amplifier", itemgetter(1)),
        *(measured_column(tables.label(led), "response").of(_row(found, led)) for led in tables.leds),
    )
    return table_of(dict.fromkeys((detector, amp) for detector, amp, _ in found), columns)


def gradient_table(tables: ColourTables) -> Grid:
    """Return the common gradient of sensors and that of the light for each pair of LEDs."""
    columns = (
        text_column("LED", "led"),
        text_column("over LED", "over_led"),
        measured_column("sensors, X (10⁻⁶/mm)", "sensor_x", scale=_PER_METRE),
        measured_column("sensors, Y", "sensor_y", scale=_PER_METRE),
        measured_column("light, X", "light_x", scale=_PER_METRE),
        measured_column("light, Y", "light_y", scale=_PER_METRE),
        chance_column("p-value"),
        text_column("verdict"),
        number_column("light beyond a gradient (‰ rms)", "light_rms", two_digits, scale=_PER_MIL),
    )
    return table_of(tables.gradients, columns)


def linearity_sentences(tables: ColourTables) -> list[str]:
    """Return the effect of non-linearity on the ratio of each pair of LEDs."""
    found = []
    for row in tables.gradients:
        first, second, size = float(row["signal"]), float(row["over_signal"]), float(row["linearity"])
        if not (np.isfinite(first) and np.isfinite(second)):
            continue
        factor = abs(first - second) / 50_000
        sentence = (
            f"{row['led']} over {row['over_led']}: typical signals of {two_digits(first)} and {two_digits(second)} electrons. A loss "
            f"of 1 ‰ at 50,000 electrons that is not corrected would change this ratio by {two_digits(factor)} ‰ between amplifiers."
        )
        if np.isfinite(size):
            sentence += f" The uncertainty of these losses changes it by {two_digits(_PER_MIL * size)} ‰."
        found.append(sentence)
    return found


def variance_table(tables: ColourTables) -> Grid:
    """Return the rms of each LED on each scale: shared with other LEDs, and specific to it."""
    found = {tuple(str(row[name]) for name in ("scale", "part", "led")): row for row in tables.variances}
    freedom = {(str(row["scale"]), str(row["part"])): row["freedom"] for row in reversed(tables.variances)}
    columns = (
        text_column("scale", itemgetter(0)),
        text_column("part", lambda key: key[1] if key[1] != PATTERN else "in each LED"),
        *(measured_column(f"{led} (‰)", "rms_per_mil").of(_row(found, led)) for led in tables.leds),
        count_column("degrees of freedom", lambda key: freedom[key]),
    )
    keys = ((scale, part) for scale in (*SCALES, PATTERN) for part in (SHARED, OWN, PATTERN))
    return table_of([key for key in keys if key in freedom], columns)


def correlation_summary(tables: ColourTables) -> Grid:
    """Return the correlation of each pair of LEDs on each scale: the mean of detectors, or that of all together."""
    names = ["scale", "led", "over_led", "pattern_removed"]
    parts: dict[tuple[str, ...], list[Row]] = {}
    for row in tables.correlations:
        parts.setdefault(tuple(str(row[name]) for name in names), []).append(row)
    known = {key: [row for row in rows if np.isfinite(float(row["r"]))] for key, rows in parts.items()}

    def count(key: tuple[str, ...]) -> Cell:
        return count_cell(len(known[key])) if str(parts[key][0]["detector"]) != WHOLE else text_cell("all together")

    columns = (
        text_column("scale", itemgetter(0)),
        text_column("LED", itemgetter(1)),
        text_column("over LED", itemgetter(2)),
        text_column("periodic pattern", lambda key: "without" if parts[key][0]["pattern_removed"] else "with"),
        Column("r", lambda key: _mean_cell(known[key], "r")),
        Column("r without noise", lambda key: _mean_cell(known[key], "r_corrected")),
        Column("detectors", count, is_text=True),
        text_column("reason without a result", lambda key: "" if known[key] else str(parts[key][0]["reason"]), absent=MISSING),
    )
    return table_of(parts, columns)


def _mean_cell(rows: Sequence[Row], name: str) -> Cell:
    """Return the mean over detectors; its error is from their scatter, or from their own errors if that is larger."""
    pairs = np.array([(float(row[name]), float(row[f"{name}_err"])) for row in rows]).reshape(-1, 2)
    values, errors = pairs[np.isfinite(pairs).all(axis=1)].T
    if not values.size:
        return Cell(MISSING)
    from_scatter = float(values.std(ddof=1)) / values.size**0.5 if values.size > 1 else 0.0
    own = float(np.sqrt(np.sum(errors**2))) / values.size
    return measured_cell(float(values.mean()), max(from_scatter, own))


def wave_table(tables: ColourTables) -> Grid | None:
    """Return the waves of the periodic pattern of each detector; None without any."""
    found = {(str(row["detector"]), int(row["wave"]), str(row["led"])): row for row in tables.waves}
    first = {key[:2]: row for key, row in reversed(found.items())}
    columns = (
        text_column("detector", itemgetter(0)),
        count_column("wave", itemgetter(1)),
        decimal_column("period (mm)", lambda key: float(first[key]["period_mm"]), 3),
        decimal_column("angle (°)", lambda key: float(first[key]["angle_deg"]), 1),
        *(measured_column(f"{led} (‰)", "amplitude", scale=_PER_MIL).of(_row(found, led)) for led in tables.leds),
    )
    return table_of(dict.fromkeys(key[:2] for key in found), columns) if found else None


def colour_measurements(tables: ColourTables) -> list[Measurement]:
    """Return the results of colour for the summary."""
    found = []
    for row in tables.vendors:
        led = str(row["led"]) if row["over_led"] == "-" else f"{row['led']}/{row['over_led']}"
        found.append(Measurement("vendor_ratio", led, float(row["ratio"]), float(row["ratio_err"])))
    for row in tables.gradients:
        for axis in "xy":
            size = float(row[f"sensor_{axis}"]), float(row[f"sensor_{axis}_err"])
            found.append(Measurement(f"colour_gradient_{axis}", f"{row['led']}/{row['over_led']}", *size))
    for row in tables.ratios[tables.ratios["amp"] == WHOLE]:
        pair = f"{row['led']}/{row['over_led']}"
        found.append(Measurement("led_ratio", pair, float(row["ratio"]), float(row["ratio_err"]), str(row["detector"]), WHOLE))
    return found


def colour_path(folder: RunFolder) -> Path:
    """Return the path of the page."""
    return page_path(folder, "colour")


def colour_pages(run: RunProducts) -> list[Page]:
    """Return the page of a run, none without the colour."""
    declared = _declared(run)
    if declared is None:
        return []
    sources, options = declared
    return [Page(sources, options, partial(make_page, run.config, run.folder), colour_path(run.folder))]


def make_page(config: Config, folder: RunFolder, fingerprint: str) -> str:
    """Return the page as HTML.

    Raises
    ------
    InputError
        If a product cannot be read.
    """
    tables = read_tables(folder, shared_camera(config.camera), with_maps=True)
    home = relative_address(colour_path(folder), folder.report)
    return render(
        "colour.html",
        __name__,
        fingerprint=fingerprint,
        title="Colour of the flats - permil",
        links=[Link("all results", f"{home}#colour")],
        facts=facts(tables),
        tables=tables,
        rule=f"{100 * SIGNIFICANCE:g} %",
    )


def declare_section(run: RunProducts) -> Declaration | None:
    """Declare the section of the index page, None without the colour."""
    declared = _declared(run)
    if declared is None:
        return None
    sources, options = declared
    return Declaration(sources, options, partial(make_section, run))


def make_section(run: RunProducts) -> IndexPart:
    """Return the section of the index page."""
    tables = read_tables(run.folder, run.camera, with_maps=False)
    address = index_address(run.config, run.folder, colour_path(run.folder))
    return IndexPart(render("colour_section.html", __name__, tables=tables, address=address), colour_measurements(tables))


def _declared(run: RunProducts) -> tuple[tuple[Path, ...], dict[str, object]] | None:
    """Return sources and options of the page, None without the colour."""
    leds = run.camera.sorted_leds(led.led for led in run.leds)
    names, maps = colour_sources(run.folder, leds)
    if not names:
        return None
    products = ColourFolder(run.folder.root)
    sources = (*(products.table(name) for name in names), *(products.ratio(*pair) for pair in maps))
    return sources, {"camera": run.config.camera, "maps": maps}


COLOUR_PAGES = PageKind(
    "colour",
    "page of colour",
    colour_pages,
    section=declare_section,
    link="Colour",
    heading="The flat against wavelength",
)
