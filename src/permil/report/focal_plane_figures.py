"""Figures of the focal plane, in DVCS mm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from permil.flat.mosaic import MosaicGrid
from permil.flat.superpixel import super_pixels
from permil.report import focal_plane
from permil.report.style import (
    DIVERGING,
    FAINT,
    INK,
    SPREAD,
    colour_bar,
    led_colour,
    robust_limits,
    show_image,
    styled,
    symmetric_limits,
    write_on_map,
)

if TYPE_CHECKING:
    from permil.camera import Detector

MARGIN_MM = 4.0
"""Around the detectors that a map shows."""

_MOST_CELLS = 330
# Amplifiers and names of detectors are drawn as long as they can be told apart.
_MOST_NAMED = 30


@styled
def flat_map(
    image: NDArray[np.floating], flattened: NDArray[np.floating], grid: MosaicGrid, detectors: Sequence[Detector]
) -> Figure:
    """Draw the composite flat, and beside it each detector over its own median.

    Parameters
    ----------
    image
        Binned mosaic, NaN without data.
    flattened
        The same with each detector over its own median.
    grid
        Cells of both.
    detectors
        Detectors to outline.
    """
    figure, (level_axes, inner_axes) = _two_maps(detectors)
    shown = show_mosaic(level_axes, image, grid, limits=symmetric_limits(image, centre=1.0), colours=DIVERGING)
    level_axes.set_title("composite flat")
    colour_bar(figure, shown, level_axes, "response (median of the focal plane = 1)")
    per_mil = 1e3 * (flattened - 1)
    shown = show_mosaic(inner_axes, per_mil, grid, limits=symmetric_limits(per_mil, centre=0.0), colours=DIVERGING)
    inner_axes.set_title("each detector over its own median")
    colour_bar(figure, shown, inner_axes, "response over median - 1 (‰)")
    for axes in (level_axes, inner_axes):
        show_outlines(axes, detectors, named=True)
        frame_axes(axes, detectors)
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
        Rejected values per million of each detector, NaN where it is not known.
    detectors
        Detectors to outline, in the order of ``rejected``.
    """
    figure, (scatter_axes, rejected_axes) = _two_maps(detectors)
    per_mil = 1e3 * scatter
    shown = show_mosaic(scatter_axes, per_mil, grid, limits=robust_limits(per_mil), colours=SPREAD)
    scatter_axes.set_title("scatter between pointings, super-pixels")
    colour_bar(figure, shown, scatter_axes, "scatter (‰)")
    show_outlines(scatter_axes, detectors, named=True)
    tiles = PolyCollection([focal_plane.outline(detector) for detector in detectors], cmap=SPREAD, edgecolors=INK, linewidths=0.6)
    tiles.set_array(np.ma.masked_invalid(rejected))
    tiles.set_clim(0.0, robust_limits(rejected, percent=0.0)[1])
    rejected_axes.add_collection(tiles)
    rejected_axes.set_title("values rejected in the stacks")
    colour_bar(figure, tiles, rejected_axes, "rejected (per million)")
    if len(detectors) <= _MOST_NAMED:
        for detector, rate in zip(detectors, rejected, strict=True):
            write_on_map(rejected_axes, focal_plane.centre(detector), f"{rate:.3g}" if np.isfinite(rate) else "")
    for axes in (scatter_axes, rejected_axes):
        frame_axes(axes, detectors)
    rejected_axes.set_ylabel("")
    return figure


@styled
def coverage(scan: NDArray[np.floating], pointings: NDArray[np.floating], detectors: Sequence[Detector], *, led: str) -> Figure:
    """Draw where the projector stood.

    Parameters
    ----------
    scan, pointings
        Projector positions, DVCS mm, shape (n, 2).
    detectors
        Detectors to outline.
    """
    figure = Figure(figsize=(6.0, 5.4))
    axes = figure.add_axes((0.12, 0.1, 0.85, 0.82))
    show_outlines(axes, detectors, named=True, faint=True)
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
        xlabel="x (mm, DVCS)", ylabel="y (mm, DVCS)", title="where the projector stood",
    )  # fmt: skip
    axes.legend(loc="upper center", ncols=2)
    return figure


def _two_maps(detectors: Sequence[Detector]) -> tuple[Figure, tuple[Axes, Axes]]:
    left, right, bottom, top = focal_plane.bounds(detectors, MARGIN_MM)
    # Each map is 4.7 inches wide; the height follows, within bounds, from the shape of what is shown.
    height = float(np.clip(4.7 * (top - bottom) / (right - left), 2.6, 7.5)) + 0.9
    figure = Figure(figsize=(12.4, height))
    figure.subplots_adjust(left=0.055, right=0.93, bottom=0.55 / height, top=1 - 0.35 / height, wspace=0.36)
    first, second = figure.subplots(1, 2)
    return figure, (first, second)


def show_mosaic(
    axes: Axes, image: NDArray[np.floating], grid: MosaicGrid, *, limits: tuple[float, float], colours: str
) -> ScalarMappable:
    """Draw a mosaic, binned if it has more cells than can be seen."""
    size = int(np.ceil(max(image.shape) / _MOST_CELLS))
    binned = super_pixels(image, np.isfinite(image), size).mean if size > 1 else image
    rows, columns = binned.shape
    left, _, bottom, _ = focal_plane.extent(grid)
    cell = grid.cell_mm * size
    return show_image(
        axes, binned, extent=(left, left + columns * cell, bottom, bottom + rows * cell), limits=limits, colours=colours
    )


def show_outlines(axes: Axes, detectors: Sequence[Detector], *, named: bool, faint: bool = False) -> None:
    """Draw the outlines of detectors, and of amplifiers where they are few, with names if asked for."""
    few = len(detectors) <= _MOST_NAMED
    if few and not faint:
        borders = [corners for detector in detectors for corners in focal_plane.amplifier_outlines(detector)]
        axes.add_collection(LineCollection(borders, colors=INK, linewidths=0.25, alpha=0.35))
    corners = [focal_plane.outline(detector) for detector in detectors]
    axes.add_collection(LineCollection(corners, colors=FAINT if faint else INK, linewidths=0.8 if few else 0.4))
    if not named:
        return
    if few:
        for detector in detectors:
            x, y = focal_plane.centre(detector)
            # At the foot of the detector where its middle is taken by a pointing.
            foot = float(focal_plane.outline(detector)[:, 1].min()) + 1.0
            write_on_map(axes, (x, foot if faint else y), detector.name, vertical="bottom" if faint else "center")
    else:
        for raft, place in focal_plane.raft_centres(detectors).items():
            write_on_map(axes, place, raft)


def frame_axes(axes: Axes, detectors: Sequence[Detector]) -> None:
    """Let axes show some detectors, in DVCS mm."""
    left, right, bottom, top = focal_plane.bounds(detectors, MARGIN_MM)
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal", xlabel="x (mm, DVCS)", ylabel="y (mm, DVCS)")
