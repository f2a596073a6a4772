"""Overview of the detectors of one LED: maps of the focal plane, positions of the projector, the table of detectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from permil.camera import Camera, Detector, frames
from permil.config.model import ReportConfig
from permil.flat.composite import MosaicGrid
from permil.flat.metrics import WHOLE_DETECTOR
from permil.flat.superpixel import size_in_pixels
from permil.products import RunFolder, read_image
from permil.report.detector.inputs import read_scatter
from permil.report.kit import focal_plane
from permil.report.kit.elements import Cell, Grid, Picture, grid, number_cell, raster, text_cell
from permil.report.kit.maps import colour_bar, robust_limits, symmetric_limits, write_on_map
from permil.report.kit.pages import LedContext
from permil.report.kit.quantities import MISSING, QUANTITIES
from permil.report.kit.results import measurement_cell
from permil.report.kit.run import LedProducts
from permil.report.kit.style import DIVERGING, INK, SPREAD, led_colour, styled
from permil.report.kit.summary import NO, OPEN, Measurement, with_verdict

_SHORT = {
    "median": "median",
    "rms": "rms (‰)",
    "noise": "error (‰)",
    "scatter_noise": "scatter from noise (‰)",
    "scatter_excess": "beyond noise (‰)",
}
"""Short headings for the wide table of detectors."""


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
    whole = {(entry.detector, entry.metric): entry for entry in measurements if entry.amp == WHOLE_DETECTOR}
    steps: dict[str, Measurement] = {}
    for entry in measurements:
        if entry.metric == "step" and (entry.detector not in steps or abs(entry.number) > abs(steps[entry.detector].number)):
            steps[entry.detector] = entry
    failed, undecided = (
        {detector: len(entries) for (_, detector), entries in with_verdict(measurements, limits, verdict).items()}
        for verdict in (NO, OPEN)
    )
    metrics = ("median", "rms", "noise", "scatter_noise", "scatter_excess", "gradient_x", "gradient_y")
    rows = []
    for name, link in links.items():
        measured = any(entry.detector == name for entry in measurements)
        cells = [text_cell(name, link=link)]
        # In the second column the verdict is visible even if the table is wider than the window.
        cells.append(_verdict_cell(failed.get(name, 0), undecided.get(name, 0), measured=measured))
        cells += [measurement_cell(whole.get((name, metric)), limits) for metric in metrics]
        cells.append(measurement_cell(steps.get(name), limits))
        rate = rejected.get(name, np.nan)
        cells.append(number_cell(f"{rate:.3g}", rate) if np.isfinite(rate) else Cell(MISSING))
        rows.append(cells)
    named = [_SHORT.get(metric, QUANTITIES[metric].heading) for metric in metrics]
    headings = ("detector", "verdict", *named, "largest step (‰)", "rejected (10⁻⁶)")
    return grid(headings, rows, text_columns=(0, 1))


def _verdict_cell(failed: int, undecided: int, *, measured: bool) -> Cell:
    if failed:
        return Cell(f"{failed} beyond", 2, NO)
    if undecided:
        return Cell(f"{undecided} open", 1, OPEN)
    return Cell("pass" if measured else MISSING, 0)


def overview_pictures(context: LedContext, camera: Camera, plane: PlaneMaps | None) -> list[Picture]:
    """Return the maps of the focal plane and the positions of the projector, if available."""
    products, exposures = context.products, context.exposures
    shown = [camera[name] for name in products.detectors]
    pictures = _plane_pictures(plane, shown) if plane is not None and shown else []
    if exposures is not None and len(exposures):
        pictures.append(_coverage_picture(exposures, shown or camera.science, products.led))
    return pictures


def _plane_pictures(plane: PlaneMaps, detectors: Sequence[Detector]) -> list[Picture]:
    flattened = focal_plane.over_detector_median(plane.flat, focal_plane.detector_cells(plane.grid, detectors))
    pictures = [
        raster(
            flat_map(plane.flat, flattened, plane.grid, detectors),
            "Composite flat on one scale, and each detector relative to its own median; grey: no data.",
        )
    ]
    if plane.scatter is not None:
        rejected = np.array([plane.rejected.get(detector.name, np.nan) for detector in detectors])
        pictures.append(
            raster(
                scatter_map(plane.scatter, plane.grid, rejected, detectors),
                "Scatter of the pointings about their mean, and the rate of rejected values in the stacks.",
            )
        )
    return pictures


def _coverage_picture(exposures: Table, detectors: Sequence[Detector], led: str) -> Picture:
    places = {purpose: _positions(exposures[exposures["purpose"] == purpose]) for purpose in ("scan", "pointing")}
    figure = coverage(places["scan"], places["pointing"], detectors, led=led)
    return raster(figure, "Positions of the projector over the focal plane.", narrow=True)


def _positions(exposures: Table) -> NDArray[np.float64]:
    """Return the distinct projector positions of some exposures, DVCS mm, shape (n, 2)."""
    x, y = frames.ccs_to_dvcs(exposures["x_mm"], exposures["y_mm"])
    places = np.column_stack([x, y])
    return np.unique(places[np.isfinite(places).all(axis=1)].round(1), axis=0)


@styled
def flat_map(
    image: NDArray[np.floating], flattened: NDArray[np.floating], grid: MosaicGrid, detectors: Sequence[Detector]
) -> Figure:
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
    figure, (level_axes, inner_axes) = _two_maps(detectors)
    shown = focal_plane.show_mosaic(level_axes, image, grid, limits=symmetric_limits(image, centre=1.0), colours=DIVERGING)
    level_axes.set_title("composite flat")
    colour_bar(figure, shown, level_axes, "response (median of the focal plane = 1)")
    per_mil = 1e3 * (flattened - 1)
    shown = focal_plane.show_mosaic(inner_axes, per_mil, grid, limits=symmetric_limits(per_mil, centre=0.0), colours=DIVERGING)
    inner_axes.set_title("each detector over its own median")
    colour_bar(figure, shown, inner_axes, "response over median - 1 (‰)")
    for axes in (level_axes, inner_axes):
        focal_plane.show_outlines(axes, detectors, named=True)
        focal_plane.frame_axes(axes, detectors)
    inner_axes.set_ylabel("")
    return figure


@styled
def scatter_map(
    scatter: NDArray[np.floating], grid: MosaicGrid, rejected: NDArray[np.floating], detectors: Sequence[Detector]
) -> Figure:
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
    figure, (scatter_axes, rejected_axes) = _two_maps(detectors)
    per_mil = 1e3 * scatter
    shown = focal_plane.show_mosaic(scatter_axes, per_mil, grid, limits=robust_limits(per_mil), colours=SPREAD)
    scatter_axes.set_title("scatter between pointings, super-pixels")
    colour_bar(figure, shown, scatter_axes, "scatter (‰)")
    focal_plane.show_outlines(scatter_axes, detectors, named=True)
    tiles = PolyCollection([focal_plane.outline(detector) for detector in detectors], cmap=SPREAD, edgecolors=INK, linewidths=0.6)
    tiles.set_array(np.ma.masked_invalid(rejected))
    tiles.set_clim(0.0, robust_limits(rejected, percent=0.0)[1])
    rejected_axes.add_collection(tiles)
    rejected_axes.set_title("values rejected in the stacks")
    colour_bar(figure, tiles, rejected_axes, "rejected (per million)")
    if len(detectors) <= focal_plane.MOST_NAMED:
        for detector, rate in zip(detectors, rejected, strict=True):
            write_on_map(rejected_axes, focal_plane.centre(detector), f"{rate:.3g}" if np.isfinite(rate) else "")
    for axes in (scatter_axes, rejected_axes):
        focal_plane.frame_axes(axes, detectors)
    rejected_axes.set_ylabel("")
    return figure


@styled
def coverage(scan: NDArray[np.floating], pointings: NDArray[np.floating], detectors: Sequence[Detector], *, led: str) -> Figure:
    """Draw positions of the projector.

    Parameters
    ----------
    scan, pointings
        Projector positions, DVCS mm, shape (n, 2).
    detectors
        Detectors to outline.
    """
    figure = Figure(figsize=(6.0, 5.4))
    axes = figure.add_axes((0.12, 0.1, 0.85, 0.82))
    focal_plane.show_outlines(axes, detectors, named=True, faint=True)
    axes.plot(*scan.T, ".", color=INK, markersize=2.2, label=f"beam scan, {len(scan)} positions")
    axes.plot(
        *pointings.T, "o", color=led_colour(led), markeredgecolor=INK, markeredgewidth=0.5, markersize=5.5 if len(pointings) < 200 else 2.5,
        label=f"pointings, {len(pointings)} positions",
    )  # fmt: skip
    everything = np.vstack([scan, pointings, *(focal_plane.outline(detector) for detector in detectors)])
    (left, bottom), (right, top) = everything.min(axis=0), everything.max(axis=0)
    margin = 0.03 * max(right - left, top - bottom)
    axes.set(
        xlim=(left - margin, right + margin), ylim=(bottom - margin, top + 4 * margin), aspect="equal",
        xlabel="x (mm, DVCS)", ylabel="y (mm, DVCS)", title="positions of the projector",
    )  # fmt: skip
    axes.legend(loc="upper center", ncols=2)
    return figure


def _two_maps(detectors: Sequence[Detector]) -> tuple[Figure, tuple[Axes, Axes]]:
    left, right, bottom, top = focal_plane.bounds(detectors)
    # Each map is 4.7 inches wide; the height follows, within bounds, from the shape of the focal plane.
    height = float(np.clip(4.7 * (top - bottom) / (right - left), 2.6, 7.5)) + 0.9
    figure = Figure(figsize=(12.4, height))
    figure.subplots_adjust(left=0.055, right=0.93, bottom=0.55 / height, top=1 - 0.35 / height, wspace=0.36)
    first, second = figure.subplots(1, 2)
    return figure, (first, second)
