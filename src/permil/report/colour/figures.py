"""Pictures of the page of colour: response against wavelength, ratio maps, variance by scale."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from permil.colour.moments import SCALES
from permil.colour.run_colour import OWN, SHARED, WHOLE
from permil.report.colour.inputs import ColourTables
from permil.report.kit import focal_plane
from permil.report.kit.chart import Chart, chart_picture
from permil.report.kit.elements import Picture
from permil.report.kit.figures import ACCENT, DIVERGING, FAINT, INK, led_colour, symmetric_limits

FloatArray = NDArray[np.float64]

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
            chart = focal_plane.plane_chart(detectors, _PLANE_WIDTH, title, has_rows=not charts)
            limits = symmetric_limits(values[np.isfinite(values)], centre=0.0)
            focal_plane.draw_mosaic(chart, values, grid, limits, DIVERGING, label)
            focal_plane.draw_outlines(chart, detectors, named=not charts)
            charts.append(chart)
        caption = f"Ratio of the flats of {tables.label(first)} and {tables.label(second)} over the focal plane."
        pictures.append(chart_picture([charts], caption))
    return pictures


def variance_picture(tables: ColourTables) -> Picture | None:
    """Return the rms of the structure that LEDs share and of that specific to one LED, by scale; None without any."""
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
