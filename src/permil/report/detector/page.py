"""The pages of detectors: dependencies, tables and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from permil.camera import Detector, shared_camera
from permil.config import Config
from permil.config.model import ReportConfig
from permil.flat.metrics import WHOLE_DETECTOR
from permil.products import MaskPlane, RunFolder
from permil.report.detector.figures import detector_pictures, truth_picture
from permil.report.detector.inputs import composite_scale, pointing_name, read_detector
from permil.report.detector.overview import detector_table, overview_pictures, read_plane_maps
from permil.report.kit.elements import (
    Grid,
    Link,
    count_cell,
    decimal_cell,
    grid,
    header_grid,
    measured_cell,
    measurement_cell,
    number_cell,
    result_cells,
    result_grid,
    text_cell,
    truth_grid,
    verdict_cell,
)
from permil.report.kit.pages import (
    Declaration,
    LedBlock,
    LedContext,
    Page,
    PageKind,
    index_address,
    page_path,
    relative_address,
    render,
)
from permil.report.kit.results import (
    FLAT_METRICS,
    MISSING,
    NO,
    OPEN,
    QUANTITIES,
    Measurement,
    flat_measurements,
    judge,
    specification,
)
from permil.report.kit.run import LedProducts, RunProducts


def facts(header: fits.Header, detector: Detector) -> tuple[tuple[str, str], ...]:
    """Return name and content of the facts below the heading of the page.

    Parameters
    ----------
    header
        Primary header of the flat.
    """
    scale = composite_scale(header)
    return (
        ("sensor", f"{detector.serial}, {detector.kind}"),
        ("raft", f"{detector.raft} {detector.raft_serial}"),
        ("pixels", f"{detector.nx} x {detector.ny} of {1e3 * detector.pixel_mm:g} µm"),
        ("pointings, exposures", f"{header.get('NPOINT', MISSING)}, {header.get('NEXPOSUR', MISSING)}"),
        ("solver", str(header.get("SOLVER", MISSING))),
        ("photodiode normalisation", str(header.get("PDNORM", MISSING))),
        ("gains", str(header.get("GAINSRC", MISSING))),
        ("amplifier steps removed", {True: "yes", False: "no"}.get(header.get("STEPSREM"), MISSING)),
        ("1 on the composite scale", f"{scale:.6g} e⁻ per photodiode unit" if np.isfinite(scale) else MISSING),
    )


def results_with_verdict(measurements: Sequence[Measurement], limits: ReportConfig, verdict: str) -> list[str]:
    """Return the results with a verdict, each with its value and specification."""
    found = []
    for entry in measurements:
        spec = specification(entry.metric, limits)
        if judge(entry, limits) == verdict:
            quantity = QUANTITIES[entry.metric]
            where = "" if entry.amp == WHOLE_DETECTOR else f" of {entry.amp}"
            shown = f"{quantity.show(entry.number, entry.error)} {quantity.unit}".strip()
            found.append(f"{quantity.label}{where}: {shown} (specification {quantity.show(spec)})")
    return found


def result_table(measurements: Sequence[Measurement], limits: ReportConfig) -> Grid | None:
    """Return the results of the whole detector, None without any."""
    entries = [entry for entry in measurements if entry.amp == WHOLE_DETECTOR]
    return (
        result_grid([(*result_cells(entry, limits), verdict_cell(judge(entry, limits))) for entry in entries])
        if entries
        else None
    )


def amplifier_table(measurements: Sequence[Measurement], detector: Detector, limits: ReportConfig) -> Grid | None:
    """Return the results of each amplifier, None without any."""
    found = {(entry.amp, entry.metric): entry for entry in measurements if entry.amp != WHOLE_DETECTOR}
    metrics = [name for name in FLAT_METRICS if any(metric == name for _, metric in found)]
    if not metrics:
        return None
    rows = [
        (text_cell(amplifier.name), *(measurement_cell(found.get((amplifier.name, metric)), limits) for metric in metrics))
        for amplifier in detector.amplifiers
    ]
    return grid(("amplifier", *(QUANTITIES[name].heading for name in metrics)), rows)


def pointing_table(pointings: Table) -> Grid:
    """Return the pointings of the flat; missing columns show dashes."""

    def number(row: Table.Row, name: str) -> float:
        return float(row[name]) if name in pointings.colnames else np.nan

    rows = []
    for index, row in enumerate(pointings):
        reading, scale_error = number(row, "photodiode"), number(row, "scale_error")
        rows.append(
            (
                number_cell(pointing_name(pointings, index), index),
                text_cell("yes" if row["aimed"] else "no"),
                *(decimal_cell(float(row[name]), 2) for name in ("x_mm", "y_mm")),
                *(count_cell(number(row, name)) for name in ("exposures", "rejected")),
                measured_cell(reading, reading * scale_error),
                measured_cell(scale_error, np.nan, scale=1e3),
                decimal_cell(number(row, "chi_square"), 3),
            )
        )
    headings = (
        "pointing", "aimed here", "X (mm, CCS)", "Y (mm, CCS)", "exposures", "values rejected", "photodiode", "scale error (‰)",
        "χ² per value",
    )  # fmt: skip
    return grid(headings, rows, text_columns=(0, 1))


def mask_table(mask: NDArray[np.int32]) -> Grid:
    """Return number and fraction of the pixels in each mask plane."""
    rows = [
        (text_cell(name), count_cell(count), number_cell(f"{1e3 * count / mask.size:.3g}", count / mask.size))
        for name, count in mask_counts(mask).items()
    ]
    return grid(("mask plane", "pixels", "share (‰)"), rows)


def mask_counts(mask: NDArray[np.int32]) -> dict[str, int]:
    """Return the number of pixels in each mask plane, and in none."""
    counts = {str(plane.name): int(np.count_nonzero(mask & int(plane))) for plane in MaskPlane}
    return counts | {"none": int(np.count_nonzero(mask == 0))}


@dataclass(frozen=True)
class DetectorRequest:
    """The page of one detector and LED: its neighbours, other LEDs with a flat of it, and rows of the comparison with the truth."""

    config: Config
    folder: RunFolder
    led: str
    detector: str
    previous: str
    following: str
    other_leds: tuple[str, ...]
    comparison: tuple[dict[str, Any], ...]


def detector_path(folder: RunFolder, led: str, detector: str) -> Path:
    """Return the path of the page of a detector and LED."""
    return page_path(folder, DETECTOR_PAGES.folder, led, detector)


def detector_pages(run: RunProducts) -> list[Page]:
    """Return one page for each detector and LED with a flat."""
    pages = []
    for led in run.leds:
        names = ("", *led.detectors, "")
        for previous, name, following in zip(names, names[1:], names[2:], strict=False):
            others = tuple(other.led for other in run.leds if other is not led and name in other.detectors)
            comparison = tuple(_comparison_rows(run.comparison, led.led, name))
            request = DetectorRequest(run.config, run.folder, led.led, name, previous, following, others, comparison)
            options = {
                "camera": run.config.camera,
                "limits": run.config.report.model_dump(mode="json"),
                "links": [previous, following, others],
                "comparison": comparison,
            }
            sources = run.folder.flat(led.led, name), run.folder.metrics(led.led), run.folder.truth_flat(led.led, name)
            path = detector_path(run.folder, led.led, name)
            pages.append(Page(sources, options, partial(make_detector_page, request), path))
    return pages


def make_detector_page(request: DetectorRequest, fingerprint: str) -> str:
    """Return the page of one detector and LED as HTML.

    Raises
    ------
    InputError
        If the flat cannot be read.
    """
    camera, limits = shared_camera(request.config.camera), request.config.report
    detector = camera[request.detector]
    products = read_detector(request.folder, camera, request.led, request.detector)
    measurements = flat_measurements(products.metrics) if products.metrics is not None else []
    absent = [] if products.metrics is not None else ["metrics (extension METRICS)"]
    pictures = detector_pictures(products, detector, request.led, limits=limits, absent=absent)
    if products.pointings is None:
        absent.append("the list of pointings (extension POINTINGS)")
    return render(
        "detector/page.html",
        fingerprint=fingerprint,
        title=f"{detector.name}, LED {request.led} - permil",
        links=_links(request),
        detector=detector.name,
        led=request.led,
        facts=facts(products.product.header, detector),
        absent=absent,
        failed=results_with_verdict(measurements, limits, NO),
        undecided=results_with_verdict(measurements, limits, OPEN),
        results=result_table(measurements, limits),
        pictures=pictures,
        truth=truth_grid(Table(rows=list(request.comparison)), with_led=False) if request.comparison else None,
        truth_picture=truth_picture(products, detector),
        amplifiers=amplifier_table(measurements, detector, limits),
        pointings=pointing_table(products.pointings) if products.pointings is not None else None,
        mask=mask_table(products.product.mask),
        header=header_grid(products.product.header),
    )


def declare_overview(run: RunProducts, led: LedProducts) -> Declaration:
    """Declare the block about all detectors in the section of an LED."""
    flats = (run.folder.flat(led.led, name) for name in led.detectors)
    options = {"limits": run.config.report.model_dump(mode="json")}
    return Declaration((run.folder.focal_plane(led.led), run.folder.metrics(led.led), *flats), options, make_overview)


def make_overview(context: LedContext) -> LedBlock:
    """Return the maps of the focal plane and the table of all detectors of an LED.

    Raises
    ------
    InputError
        If the mosaic or a flat cannot be read.
    """
    config, products = context.config, context.products
    camera = shared_camera(config.camera)
    plane = read_plane_maps(context.folder, camera, products)
    pages = {name: detector_path(context.folder, products.led, name) for name in products.detectors}
    links = {name: index_address(config, context.folder, path) for name, path in pages.items()}
    rejected = plane.rejected if plane is not None else {}
    table = detector_table(context.measurements, links, rejected, limits=config.report) if links else None
    pictures = overview_pictures(context, camera, plane, links)
    return LedBlock(render("detector/overview.html", led=products.led, pictures=pictures, detectors=table))


def _links(request: DetectorRequest) -> list[Link]:
    path = detector_path(request.folder, request.led, request.detector)

    def address(led: str, detector: str) -> str:
        return relative_address(path, detector_path(request.folder, led, detector))

    links = [Link("all detectors", f"{relative_address(path, request.folder.report)}#led-{request.led}")]
    if request.previous:
        links.append(Link(f"← {request.previous}", address(request.led, request.previous), "prev"))
    if request.following:
        links.append(Link(f"{request.following} →", address(request.led, request.following), "next"))
    return links + [Link(f"LED {led}", address(led, request.detector)) for led in request.other_leds]


def _comparison_rows(comparison: Table | None, led: str, detector: str) -> list[dict[str, Any]]:
    if comparison is None:
        return []
    chosen = comparison[(comparison["led"] == led) & (comparison["detector"] == detector)]
    return [_plain(dict(zip(chosen.colnames, row, strict=True))) for row in chosen.iterrows()]


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry.item() if isinstance(entry, np.generic) else entry for name, entry in row.items()}


DETECTOR_PAGES = PageKind("detectors", "detector pages", detector_pages, led_block=declare_overview)
