"""The focal plane, DVCS mm: outlines of detectors and amplifiers, detectors of mosaic cells, and drawing of both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from permil.arrays import FloatArray, Int32Array
from permil.camera import frames
from permil.errors import InputError
from permil.flat.composite import MosaicGrid
from permil.report.kit.chart import Chart
from permil.report.kit.figures import DIVERGING

if TYPE_CHECKING:
    from permil.camera import Detector


MOST_NAMED = 30
"""Largest number of detectors drawn with amplifiers and names."""

_MARGIN_MM = 4.0


def outline(detector: Detector) -> FloatArray:
    """Return the corners of a detector, DVCS mm, shape (5, 2), closed."""
    return _box(detector, -0.5, detector.nx - 0.5, -0.5, detector.ny - 0.5)


def amplifier_outlines(detector: Detector) -> list[FloatArray]:
    """Return the corners of each amplifier, DVCS mm, shape (5, 2), closed."""
    return [
        _box(
            detector,
            amplifier.x_min - 0.5,
            amplifier.x_min + amplifier.nx - 0.5,
            amplifier.y_min - 0.5,
            amplifier.y_min + amplifier.ny - 0.5,
        )
        for amplifier in detector.amplifiers
    ]


def _box(detector: Detector, left: float, right: float, bottom: float, top: float) -> FloatArray:
    x, y = frames.detector_to_dvcs(detector, [left, right, right, left, left], [bottom, bottom, top, top, bottom])
    return np.column_stack([x, y])


def centre(detector: Detector) -> tuple[float, float]:
    """Return the centre of a detector, DVCS mm."""
    x, y = frames.detector_to_dvcs(detector, *detector.centre_pixel)
    return float(x), float(y)


def bounds(detectors: Iterable[Detector]) -> tuple[float, float, float, float]:
    """Return left, right, bottom and top of a map of some detectors, with a margin, DVCS mm."""
    corners = np.vstack([outline(detector) for detector in detectors])
    (left, bottom), (right, top) = corners.min(axis=0), corners.max(axis=0)
    return float(left - _MARGIN_MM), float(right + _MARGIN_MM), float(bottom - _MARGIN_MM), float(top + _MARGIN_MM)


def raft_centres(detectors: Iterable[Detector]) -> dict[str, tuple[float, float]]:
    """Return the mean centre of the given detectors of each raft, DVCS mm."""
    places: dict[str, list[tuple[float, float]]] = {}
    for detector in detectors:
        places.setdefault(detector.raft, []).append(centre(detector))
    means = {raft: np.mean(members, axis=0) for raft, members in places.items()}
    return {raft: (float(x), float(y)) for raft, (x, y) in means.items()}


def grid_of(header: fits.Header, shape: tuple[int, int]) -> MosaicGrid:
    """Return the grid of a mosaic from its world coordinate system (DVCS mm along rows and columns).

    Raises
    ------
    InputError
        If the header has none.
    """
    try:
        cell = float(header["CDELT1"])
        low = [float(header[f"CRVAL{axis}"]) + (0.5 - float(header[f"CRPIX{axis}"])) * cell for axis in (1, 2)]
    except KeyError as error:
        raise InputError(f"the mosaic has no card {error.args[0]}", remedy="make the flat again") from error
    return MosaicGrid(low[0], low[1], cell, shape)


def extent(grid: MosaicGrid) -> tuple[float, float, float, float]:
    """Return left, right, bottom and top of a mosaic, DVCS mm."""
    rows, columns = grid.shape
    return grid.x_low, grid.x_low + columns * grid.cell_mm, grid.y_low, grid.y_low + rows * grid.cell_mm


def detector_cells(grid: MosaicGrid, detectors: Sequence[Detector]) -> Int32Array:
    """Return the index of the detector that holds the centre of each cell, -1 between detectors."""
    index = np.full(grid.shape, -1, dtype=np.int32)
    for number, detector in enumerate(detectors):
        where, x, y = _cells_around(grid, detector)
        inside = (x >= -0.5) & (x < detector.nx - 0.5) & (y >= -0.5) & (y < detector.ny - 0.5)
        index[where][inside] = number
    return index


def sample(grid: MosaicGrid, maps: Mapping[Detector, NDArray[np.floating]], *, block_pixels: int) -> FloatArray:
    """Return a mosaic of small maps of detectors: each cell shows the super-pixel at its centre, NaN without one.

    Parameters
    ----------
    maps
        Image on super-pixels of each detector, ``[row, column]``.
    block_pixels
        Side of a super-pixel in pixels.
    """
    mosaic = np.full(grid.shape, np.nan)
    for detector, image in maps.items():
        where, x, y = _cells_around(grid, detector)
        inside = (x >= -0.5) & (x < detector.nx - 0.5) & (y >= -0.5) & (y < detector.ny - 0.5)
        row = np.clip((y[inside] + 0.5).astype(int) // block_pixels, 0, image.shape[0] - 1)
        column = np.clip((x[inside] + 0.5).astype(int) // block_pixels, 0, image.shape[1] - 1)
        mosaic[where][inside] = image[row, column]
    return mosaic


def over_detector_median(image: NDArray[np.floating], index: Int32Array) -> FloatArray:
    """Return a mosaic with each detector divided by the median of its own cells, NaN between detectors.

    Parameters
    ----------
    image
        Mosaic.
    index
        Detector of each cell, -1 for none (`detector_cells`).
    """
    flattened = np.full(image.shape, np.nan)
    known = np.isfinite(image) & (index >= 0)
    for number in np.unique(index[known]):
        where = known & (index == number)
        flattened[where] = image[where] / np.median(image[where])
    return flattened


def _cells_around(grid: MosaicGrid, detector: Detector) -> tuple[tuple[slice, slice], FloatArray, FloatArray]:
    """Return the cells of the box around a detector and the detector pixel (x, y) of the centre of each."""
    corners = outline(detector)
    rows, columns = grid.shape
    first_column, first_row = np.floor((corners.min(axis=0) - (grid.x_low, grid.y_low)) / grid.cell_mm).astype(int)
    last_column, last_row = np.ceil((corners.max(axis=0) - (grid.x_low, grid.y_low)) / grid.cell_mm).astype(int)
    where = (
        slice(int(np.clip(first_row, 0, rows)), int(np.clip(last_row, 0, rows))),
        slice(int(np.clip(first_column, 0, columns)), int(np.clip(last_column, 0, columns))),
    )
    x_mm, y_mm = np.meshgrid(
        grid.x_low + (np.arange(where[1].start, where[1].stop) + 0.5) * grid.cell_mm,
        grid.y_low + (np.arange(where[0].start, where[0].stop) + 0.5) * grid.cell_mm,
    )
    x, y = frames.dvcs_to_detector(detector, x_mm, y_mm)
    return where, x, y


def plane_chart(detectors: Sequence[Detector], width: float, title: str, *, has_rows: bool = True) -> Chart:
    """Return empty axes on which the given detectors fit, DVCS mm."""
    left, right, bottom, top = bounds(detectors)
    height = float(np.clip(width * (top - bottom) / (right - left), 0.35 * width, 1.6 * width))
    # Pixels are square; the margin of the shorter side is on both sides of the detectors.
    scale = max((right - left) / width, (top - bottom) / height)
    x, y = (
        ((low + high - scale * length) / 2, (low + high + scale * length) / 2)
        for low, high, length in ((left, right, width), (bottom, top, height))
    )
    return Chart((width, round(height, 1)), x, y, title=title, labels=("x (mm, DVCS)", "y (mm, DVCS)" if has_rows else ""))


def plane_map(
    title: str,
    image: NDArray[np.floating],
    grid: MosaicGrid,
    detectors: Sequence[Detector],
    limits: tuple[float, float],
    label: str,
    *,
    width: float = 440.0,
    colours: str = DIVERGING,
    has_rows: bool = True,
    named: bool = True,
) -> Chart:
    """Return a map of a mosaic with outlines of detectors and a colour bar; see `plane_chart` and `draw_outlines`."""
    chart = plane_chart(detectors, width, title, has_rows=has_rows)
    chart.image(image, extent(grid), limits, colours, label)
    draw_outlines(chart, detectors, named=named)
    return chart


def draw_outlines(chart: Chart, detectors: Sequence[Detector], *, named: bool, has_amplifiers: bool = True) -> None:
    """Outline detectors, and amplifiers of a few; write the names of a few detectors, else of rafts."""
    few = len(detectors) <= MOST_NAMED
    if few and has_amplifiers:
        chart.outlines([corners for detector in detectors for corners in amplifier_outlines(detector)], width=0.25)
    chart.outlines([outline(detector) for detector in detectors], width=0.8 if few else 0.5)
    if not named:
        return
    for name, place in {each.name: centre(each) for each in detectors}.items() if few else raft_centres(detectors).items():
        chart.write(place, name)
