"""The pages of detectors, and the overview of the detectors of one LED: dependencies, maps, tables and sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Row, Table
from numpy.typing import NDArray

from permil.arrays import FloatArray, Int32Array
from permil.camera import Camera, Detector, Led, frames, shared_camera
from permil.config import Config
from permil.config.model import ReportConfig
from permil.flat.composite import MosaicGrid
from permil.flat.metrics import WHOLE_DETECTOR
from permil.flat.superpixel import size_in_pixels
from permil.products import MaskPlane, RunFolder, read_image
from permil.report.defects import detector_block
from permil.report.detector import figures
from permil.report.detector.inputs import (
    AmplifierReadout,
    composite_scale,
    pointing_name,
    read_detector,
    read_readout,
    read_scatter,
)
from permil.report.kit import focal_plane
from permil.report.kit.chart import Chart, chart_picture, colour_of
from permil.report.kit.elements import (
    Cell,
    Column,
    Grid,
    Link,
    Picture,
    count_column,
    decimal_column,
    measured_cell,
    measured_column,
    measurement_cell,
    number_cell,
    number_column,
    number_in,
    result_columns,
    significant_cell,
    table_of,
    text_cell,
    text_column,
    verdict_cell,
)
from permil.report.kit.figures import INK, SPREAD, led_colour, robust_limits, symmetric_limits
from permil.report.kit.pages import (
    Declaration,
    IndexPart,
    LedContext,
    LedProducts,
    Page,
    PageKind,
    RunProducts,
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
    three_digits,
    with_verdict,
)
from permil.rounding import has_error

_OVERVIEW = {
    "median": "median",
    "rms": "rms (‰)",
    "noise": "error (‰)",
    "scatter_noise": "scatter from noise (‰)",
    "scatter_excess": "beyond noise (‰)",
    **{name: QUANTITIES[name].heading for name in ("gradient_x", "gradient_y")},
    "step": "largest step (‰)",
}
"""Metrics of the wide table of detectors with short headings."""

_MAP = 445.0
"""Width of maps, pixels."""


@dataclass(frozen=True)
class PlaneMaps:
    """The focal plane of one LED on the cells of a mosaic.

    ``flat`` is the binned composite flat, ``scatter`` the relative scatter between pointings (None if no flat has it),
    ``rejected`` the rejected values per million of each detector.
    """

    grid: MosaicGrid
    flat: NDArray[np.floating]
    scatter: NDArray[np.floating] | None
    rejected: Mapping[str, float]


def read_plane_maps(folder: RunFolder, camera: Camera, products: LedProducts) -> PlaneMaps | None:
    """Read the focal plane of one LED, None if it has no mosaic.

    Raises
    ------
    InputError
        If the mosaic or a flat cannot be read.
    """
    if products.focal_plane is None:
        return None
    mosaic = read_image(products.focal_plane)
    shape = (mosaic.image.shape[0], mosaic.image.shape[1])
    grid = focal_plane.grid_of(mosaic.image_header, shape)
    image = np.where(mosaic.mask == 0, mosaic.image, np.nan)
    scatters, rejected, block_pixels = {}, {}, 1
    for name in products.detectors:
        scatter, block_mm, rejected[name] = read_scatter(folder.flat(products.led, name))
        if scatter is not None:
            scatters[camera[name]] = scatter
            block_pixels = size_in_pixels(block_mm, camera.pixel_mm)
    sampled = focal_plane.sample(grid, scatters, block_pixels=block_pixels) if scatters else None
    return PlaneMaps(grid, image, sampled, rejected)


def detector_table(
    measurements: Sequence[Measurement], links: Mapping[str, str], rejected: Mapping[str, float], *, limits: ReportConfig
) -> Grid:
    """Return the table of the detectors of one LED: verdicts and results of whole detectors.

    Parameters
    ----------
    measurements
        Results of this LED.
    links
        Address of the page of each detector ("" without a page), in the order of the rows.
    rejected
        Rejected values per million of each detector.
    """
    found = {(entry.detector, entry.metric): entry for entry in measurements if entry.amp == WHOLE_DETECTOR}
    for entry in measurements:
        largest = found.get((entry.detector, "step"))
        if entry.metric == "step" and (largest is None or abs(entry.number) > abs(largest.number)):
            found[entry.detector, "step"] = entry
    measured = {entry.detector for entry in measurements}
    failed, undecided = (
        {detector: len(entries) for (_, detector), entries in with_verdict(measurements, limits, verdict).items()}
        for verdict in (NO, OPEN)
    )

    def verdict(name: str) -> Cell:
        if name in failed:
            return Cell(f"{failed[name]} beyond", 2, NO)
        if name in undecided:
            return Cell(f"{undecided[name]} open", 1, OPEN)
        return Cell("pass" if name in measured else MISSING, 0)

    columns = (
        Column("detector", lambda name: text_cell(name, link=links[name]), is_text=True),
        # In the second column the verdict is visible even if the table is wider than the window.
        Column("verdict", verdict, is_text=True),
        *_result_columns(_OVERVIEW, found, limits),
        number_column("rejected (10⁻⁶)", lambda name: rejected.get(name, np.nan), three_digits),
    )
    return table_of(links, columns)


def _result_columns(
    headings: Mapping[str, str], found: Mapping[tuple[str, str], Measurement], limits: ReportConfig
) -> list[Column]:
    """Return a column for each metric; rows are the names of detectors or amplifiers."""

    def cell_of(metric: str) -> Callable[[str], Cell]:
        return lambda name: measurement_cell(found.get((name, metric)), limits)

    return [Column(heading, cell_of(metric)) for metric, heading in headings.items()]


def overview_pictures(context: LedContext, camera: Camera, plane: PlaneMaps | None, links: Mapping[str, str]) -> list[Picture]:
    """Return the maps of the focal plane, whose detectors are links, and the positions of the projector, if available."""
    products, exposures = context.products, context.exposures
    shown = [camera[name] for name in products.detectors]
    pictures = []
    if plane is not None and shown:
        # The worst verdict on each detector that does not pass.
        limits = context.config.report
        states = {name: verdict for verdict in (OPEN, NO) for _, name in with_verdict(context.measurements, limits, verdict)}
        pictures = _plane_pictures(plane, shown, links, states)
    if exposures is not None and len(exposures):
        scan, pointings = (_positions(exposures[exposures["purpose"] == purpose]) for purpose in ("scan", "pointing"))
        chart = coverage(scan, pointings, shown or camera.science, led=products.led)
        pictures.append(chart_picture([[chart]], "Positions of the projector over the focal plane.", narrow=True))
    return pictures


def _plane_pictures(
    plane: PlaneMaps, detectors: Sequence[Detector], links: Mapping[str, str], states: Mapping[str, str]
) -> list[Picture]:
    flattened = focal_plane.over_detector_median(plane.flat, focal_plane.detector_cells(plane.grid, detectors))
    marked = " Detectors with results beyond a specification are framed in red, those with open ones in yellow." if states else ""
    maps = flat_maps(plane.flat, flattened, plane.grid, detectors)
    for detector in detectors:
        link, state = links.get(detector.name, ""), states.get(detector.name, "")
        maps[0].region(focal_plane.outline(detector), f"{detector.name}, {detector.serial}", link=link, verdict=state)
    caption = (
        "Composite flat on one scale, where each detector is a link, and each detector relative to its own median; grey: no data."
    )
    pictures = [chart_picture([maps], caption + marked)]
    if plane.scatter is not None:
        rejected = np.array([plane.rejected.get(detector.name, np.nan) for detector in detectors])
        caption = "Scatter of the pointings about their mean, and the rate of rejected values in the stacks."
        pictures.append(chart_picture([scatter_maps(plane.scatter, plane.grid, rejected, detectors)], caption))
    return pictures


def _positions(exposures: Table) -> FloatArray:
    """Return the distinct projector positions of some exposures, DVCS mm, shape (n, 2)."""
    x, y = frames.ccs_to_dvcs(exposures["x_mm"], exposures["y_mm"])
    places = np.column_stack([x, y])
    return np.unique(places[np.isfinite(places).all(axis=1)].round(1), axis=0)


def flat_maps(
    image: NDArray[np.floating], flattened: NDArray[np.floating], grid: MosaicGrid, detectors: Sequence[Detector]
) -> list[Chart]:
    """Draw the composite flat, and each detector relative to its own median.

    Parameters
    ----------
    image
        Binned mosaic, NaN without data.
    flattened
        The same, with each detector relative to its own median.
    grid
        Cells of both.
    detectors
        Detectors to outline.
    """
    per_mil, plane_map = 1e3 * (flattened - 1), partial(focal_plane.plane_map, grid=grid, detectors=detectors, width=_MAP)
    label = "response (median of the focal plane = 1)"
    level = plane_map("composite flat", image, limits=symmetric_limits(image, centre=1.0), label=label)
    title, limits = "each detector over its own median", symmetric_limits(per_mil, centre=0.0)
    return [level, plane_map(title, per_mil, limits=limits, label="response over median - 1 (‰)", has_rows=False)]


def scatter_maps(
    scatter: NDArray[np.floating], grid: MosaicGrid, rejected: NDArray[np.floating], detectors: Sequence[Detector]
) -> list[Chart]:
    """Draw the relative scatter between pointings, and the rate of rejected values of each detector.

    Parameters
    ----------
    scatter
        Mosaic of the relative scatter, NaN without data.
    grid
        Its cells.
    rejected
        Rejected values per million of each detector, NaN if unknown.
    detectors
        Detectors to outline, in the order of ``rejected``.
    """
    per_mil = 1e3 * scatter
    title, limits = "scatter between pointings, super-pixels", robust_limits(per_mil)
    inner = focal_plane.plane_map(title, per_mil, grid, detectors, limits, "scatter (‰)", width=_MAP, colours=SPREAD)
    rates = focal_plane.plane_chart(detectors, _MAP, "values rejected in the stacks", has_rows=False)
    limits = 0.0, robust_limits(rejected, percent=0.0)[1]
    for detector, rate in zip(detectors, rejected, strict=True):
        text = three_digits(rate)
        rates.region(focal_plane.outline(detector), f"{detector.name}: {text}", fill=colour_of(float(rate), limits, SPREAD))
        if len(detectors) <= focal_plane.MOST_NAMED:
            rates.write(focal_plane.centre(detector), text)
    rates.colour_bar(limits, SPREAD, "rejected (per million)")
    return [inner, rates]


def coverage(scan: FloatArray, pointings: FloatArray, detectors: Sequence[Detector], *, led: str) -> Chart:
    """Draw positions of the projector.

    Parameters
    ----------
    scan, pointings
        Projector positions, DVCS mm, shape (n, 2).
    detectors
        Detectors to outline.
    """
    everything = np.vstack([scan, pointings, *(focal_plane.outline(detector) for detector in detectors)])
    low, high = everything.min(axis=0), everything.max(axis=0)
    middle, half = (low + high) / 2, 0.54 * float((high - low).max())
    x, y = ((float(centre - half), float(centre + half)) for centre in middle)
    chart = Chart((_MAP, _MAP), x, y, title="positions of the projector", labels=("x (mm, DVCS)", "y (mm, DVCS)"))
    focal_plane.draw_outlines(chart, detectors, named=len(detectors) > focal_plane.MOST_NAMED, has_amplifiers=False)
    chart.points(scan, INK, radius=1.2, is_edged=False)
    chart.points(pointings, led_colour(led), radius=3.4 if len(pointings) < 200 else 1.6)
    chart.legend([(INK, f"beam scan, {len(scan)} positions"), (led_colour(led), f"pointings, {len(pointings)} positions")])
    return chart


def facts(header: fits.Header, detector: Detector, led: Led) -> tuple[tuple[str, str], ...]:
    """Return name and content of the facts below the heading of the page.

    Parameters
    ----------
    header
        Primary header of the flat.
    detector, led
        Its detector and LED.
    """
    scale = composite_scale(header)
    unit = "e⁻" if header.get("PDNORM") == "none" else "e⁻ per photodiode unit"
    return (
        ("sensor", f"{detector.serial}, {detector.vendor}, {detector.kind}"),
        ("band of the LED, wavelength", wavelength_text(led)),
        ("raft", f"{detector.raft} {detector.raft_serial}"),
        ("pixels", f"{detector.nx} x {detector.ny} of {1e3 * detector.pixel_mm:g} µm"),
        ("pointings, exposures", f"{header.get('NPOINT', MISSING)}, {header.get('NEXPOSUR', MISSING)}"),
        ("solver", str(header.get("SOLVER", MISSING))),
        ("photodiode normalisation", str(header.get("PDNORM", MISSING))),
        ("gains", str(header.get("GAINSRC", MISSING))),
        ("amplifier steps removed", {True: "yes", False: "no"}.get(header.get("STEPSREM"), MISSING)),
        ("1 on the composite scale, at the beam's maximum", f"{scale:.6g} {unit}" if np.isfinite(scale) else MISSING),
    )


def wavelength_text(led: Led) -> str:
    """Return band and wavelength of an LED from the camera file, as far as known, a dash without either."""
    known = [f"band {led.band}"] if led.band else []
    known += [f"{led.wavelength_nm:g} nm"] if np.isfinite(led.wavelength_nm) else []
    return ", ".join(known) or MISSING


def readout_table(readout: Mapping[str, AmplifierReadout]) -> Grid:
    """Return gain, read noise, bias level and range of the signals of each amplifier."""

    def gain(number: float, error: float) -> Cell:
        return measured_cell(number, error) if has_error(error) else significant_cell(number)

    columns = (
        text_column("amplifier", itemgetter(0)),
        Column("gain (e⁻/adu)", lambda item: gain(*item[1].gain)),
        text_column("from", lambda item: item[1].gain_source, absent=MISSING),
        measured_column("read noise (e⁻)", lambda item: item[1].noise),
        decimal_column("bias level (adu)", lambda item: item[1].bias, 1),
        count_column("smallest signal (e⁻)", lambda item: item[1].signal[0]),
        count_column("largest signal (e⁻)", lambda item: item[1].signal[1]),
    )
    return table_of(readout.items(), columns)


def results_with_verdict(measurements: Sequence[Measurement], limits: ReportConfig, verdict: str) -> list[str]:
    """Return the results with a verdict, each with its value and specification."""
    found = []
    for entry in (entry for entry in measurements if judge(entry, limits) == verdict):
        quantity = QUANTITIES[entry.metric]
        where = "" if entry.amp == WHOLE_DETECTOR else f" of {entry.amp}"
        shown = f"{quantity.show(entry.number, entry.error)} {quantity.unit}".strip()
        found.append(f"{quantity.label}{where}: {shown} (specification {quantity.show(specification(entry.metric, limits))})")
    return found


def result_table(measurements: Sequence[Measurement], limits: ReportConfig) -> Grid | None:
    """Return the results of the whole detector, None without any."""
    entries = [entry for entry in measurements if entry.amp == WHOLE_DETECTOR]
    verdict = Column("verdict", lambda entry: verdict_cell(judge(entry, limits)), is_text=True)
    return table_of(entries, (*result_columns(limits), verdict)) if entries else None


def amplifier_table(measurements: Sequence[Measurement], detector: Detector, limits: ReportConfig) -> Grid | None:
    """Return the results of each amplifier, None without any."""
    found = {(entry.amp, entry.metric): entry for entry in measurements if entry.amp != WHOLE_DETECTOR}
    metrics = [name for name in FLAT_METRICS if any(metric == name for _, metric in found)]
    if not metrics:
        return None
    columns = _result_columns({name: QUANTITIES[name].heading for name in metrics}, found, limits)
    return table_of((amplifier.name for amplifier in detector.amplifiers), (text_column("amplifier", str), *columns))


def pointing_table(pointings: Table) -> Grid:
    """Return the pointings of the flat; missing columns show dashes."""

    def scale(row: Row) -> tuple[float, float]:
        return number_in(row, "scale"), number_in(row, "scale") * number_in(row, "scale_error")

    columns = (
        Column("pointing", lambda row: number_cell(pointing_name(pointings, row.index), row.index), is_text=True),
        text_column("aimed here", lambda row: "yes" if row["aimed"] else "no"),
        decimal_column("X (mm, CCS)", "x_mm", 2),
        decimal_column("Y (mm, CCS)", "y_mm", 2),
        count_column("exposures"),
        count_column("values rejected", "rejected"),
        Column("photodiode, mean reading", lambda row: significant_cell(number_in(row, "photodiode"))),
        measured_column("scale of the light (photodiode units)", scale),
        decimal_column("χ² per value", "chi_square", 3),
    )
    return table_of(pointings, columns)


def mask_table(mask: Int32Array) -> Grid:
    """Return number and fraction of the pixels in each mask plane, and in none."""
    counts = {str(plane.name): int(np.count_nonzero(mask & int(plane))) for plane in MaskPlane}
    columns = (
        text_column("mask plane", itemgetter(0)),
        count_column("pixels", itemgetter(1)),
        number_column("share (‰)", lambda item: item[1] / mask.size, three_digits, scale=1e3),
    )
    return table_of((counts | {"none": int(np.count_nonzero(mask == 0))}).items(), columns)


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
            folder = run.folder
            tables = folder.metrics(led.led), folder.gains, folder.defects(name)
            sources = folder.flat(led.led, name), *tables, folder.truth_flat(led.led, name), folder.superbias(name)
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
    pictures = figures.detector_pictures(products, detector, request.led, limits=limits, absent=absent)
    if products.pointings is None:
        absent.append("the list of pointings (extension POINTINGS)")
    return render(
        "detector.html",
        __name__,
        fingerprint=fingerprint,
        title=f"{detector.name}, LED {request.led} - permil",
        links=_links(request),
        facts=facts(products.product.header, detector, camera.led(request.led)),
        detector=detector,
        led=request.led,
        limits=limits,
        products=products,
        measurements=measurements,
        figures=figures,
        pictures=pictures,
        absent=absent,
        comparison=Table(rows=list(request.comparison)) if request.comparison else None,
        readout=read_readout(request.folder, detector, products),
        defects=detector_block(request.folder.defects(detector.name), detector),
    )


def declare_overview(run: RunProducts, led: LedProducts) -> Declaration:
    """Declare the block about all detectors in the section of an LED."""
    flats = (run.folder.flat(led.led, name) for name in led.detectors)
    options = {"limits": run.config.report.model_dump(mode="json")}
    return Declaration((run.folder.focal_plane(led.led), run.folder.metrics(led.led), *flats), options, make_overview)


def make_overview(context: LedContext) -> IndexPart:
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
    return IndexPart(render("overview.html", led=products.led, pictures=pictures, detectors=table))


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
    return [dict(zip(chosen.colnames, row.as_void().tolist(), strict=True)) for row in chosen]


DETECTOR_PAGES = PageKind("detectors", "detector pages", detector_pages, led_block=declare_overview)
