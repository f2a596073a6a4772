"""Figures of one detector; maps are in its own pixel frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from permil.report.detector_view import DisplayImage, FlatHistogram, PointingResiduals
from permil.report.style import (
    ACCENT,
    ALARM,
    DIVERGING,
    FAINT,
    INK,
    SEQUENTIAL,
    SPREAD,
    colour_bar,
    led_colour,
    plain_axes,
    robust_limits,
    show_image,
    styled,
    symmetric_limits,
    write_on_map,
)
from permil.report.summary import NO, judge_size

if TYPE_CHECKING:
    from permil.camera import Detector

FloatArray = NDArray[np.float64]
Extent = tuple[float, float, float, float]

_MAPS_PER_ROW = 5
_MOST_MAPS = 10


@styled
def flat_and_scatter(
    flat: DisplayImage, median: float, scatter: NDArray[np.floating] | None, scatter_extent: Extent, detector: Detector
) -> Figure:
    """Draw the flat over its median, and the relative scatter between pointings where it is known."""
    figure = Figure(figsize=(11.6, 5.0))
    figure.subplots_adjust(left=0.06, right=0.915, bottom=0.1, top=0.94, wspace=0.34)
    flat_axes, scatter_axes = figure.subplots(1, 2)
    per_mil = 1e3 * (flat.image / median - 1)
    # The zone along the edge is shown too, and must not set the scale.
    limits = symmetric_limits(per_mil, centre=0.0, percent=2.5)
    shown = show_image(flat_axes, per_mil, extent=flat.extent, limits=limits, colours=DIVERGING)
    binning = f", means over {flat.size} x {flat.size} pixels" if flat.size > 1 else ""
    flat_axes.set_title(f"flat over its median{binning}")
    colour_bar(figure, shown, flat_axes, "response over median - 1 (‰)")
    _amplifiers(flat_axes, detector, named=True)
    if scatter is None:
        _absent(scatter_axes, "the product has no map of the scatter")
    else:
        spread = 1e3 * scatter
        shown = show_image(scatter_axes, spread, extent=scatter_extent, limits=robust_limits(spread), colours=SPREAD)
        colour_bar(figure, shown, scatter_axes, "scatter (‰)")
        _amplifiers(scatter_axes, detector, named=False)
    scatter_axes.set_title("scatter between pointings, super-pixels")
    for axes in (flat_axes, scatter_axes):
        _pixel_frame(axes, detector)
    return figure


@styled
def pointing_maps(
    stack: NDArray[np.floating],
    beam: NDArray[np.floating],
    response: NDArray[np.floating],
    *,
    extent: Extent,
    title: str,
    detector: Detector,
) -> Figure:
    """Draw one pointing on super-pixels: the stack, the beam, and one over the other."""
    figure = Figure(figsize=(12.0, 3.35))
    figure.subplots_adjust(left=0.055, right=0.925, bottom=0.14, top=0.92, wspace=0.4)
    panels = figure.subplots(1, 3)
    level = float(np.nanmedian(response)) if np.isfinite(response).any() else 1.0
    contents = (
        (stack, robust_limits(stack), SEQUENTIAL, f"stack, {title}", "signal (electrons)"),
        (beam, robust_limits(beam), SEQUENTIAL, "beam at this pointing", "beam (maximum = 1)"),
        (response, symmetric_limits(response, centre=level), DIVERGING, "response of this pointing", "response"),
    )
    for axes, (image, limits, colours, name, label) in zip(panels, contents, strict=True):
        shown = show_image(axes, image, extent=extent, limits=limits, colours=colours)
        axes.set_title(name)
        colour_bar(figure, shown, axes, label)
        _pixel_frame(axes, detector)
        if axes is not panels[0]:
            axes.set_ylabel("")
    return figure


@styled
def residual_maps(residuals: PointingResiduals, titles: Sequence[str], *, extent: Extent, detector: Detector) -> Figure:
    """Draw each pointing's response over the combined flat, all on one colour scale (at most ten pointings)."""
    maps = 1e3 * residuals.maps[:_MOST_MAPS]
    columns = min(len(maps), _MAPS_PER_ROW)
    rows = -(-len(maps) // columns)
    width, height = 1.25 + 2.2 * columns, 0.75 + 2.35 * rows
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(
        left=0.55 / width, right=1 - 0.75 / width, bottom=0.45 / height, top=1 - 0.3 / height, wspace=0.12, hspace=0.22
    )
    panels = figure.subplots(rows, columns, squeeze=False)
    limits = symmetric_limits(*maps, centre=0.0)
    for number, axes in enumerate(panels.flat):
        if number >= len(maps):
            axes.set_axis_off()
            continue
        shown = show_image(axes, maps[number], extent=extent, limits=limits, colours=DIVERGING)
        axes.set_title(titles[number], fontsize=8)
        _pixel_frame(axes, detector)
        if number % columns:
            axes.set_ylabel("")
            axes.set_yticklabels([])
        if number % columns == columns - 1 or number == len(maps) - 1:
            colour_bar(figure, shown, axes, "over combined - 1 (‰)")
    return figure


@styled
def histogram(content: FlatHistogram) -> Figure:
    """Draw the distribution of the response beside what noise alone would give."""
    figure = Figure(figsize=(5.7, 3.3))
    axes = figure.add_axes((0.12, 0.15, 0.86, 0.76))
    edges = 1e3 * content.edges
    axes.stairs(content.counts, edges, fill=True, color=FAINT, label="good pixels (outer bins: beyond)")
    visible = content.expected > 0.3
    axes.plot((edges[1:] + edges[:-1])[visible] / 2, content.expected[visible], color=ALARM, label="noise alone")
    for side in (-1, 1):
        axes.axvline(
            side * 1e3 * content.width, color=ACCENT, linestyle="--", linewidth=0.9, label="robust width" if side > 0 else None
        )
    axes.set(
        xlabel="response over median - 1 (‰)", ylabel="pixels per bin", yscale="log", ylim=(0.5, 30.0 * max(content.counts.max(), 1)),
        title=f"robust width {1e3 * content.width:.3g} ‰, median error of a pixel {1e3 * content.noise:.3g} ‰",
    )  # fmt: skip
    axes.legend(loc="upper right", ncols=3, columnspacing=1.0, handlelength=1.4)
    plain_axes(axes)
    return figure


@styled
def amplifier_steps(names: Sequence[str], step: FloatArray, error: FloatArray, *, limit: float) -> Figure:
    """Draw the excess of each amplifier with its error, and the limits of the specification (all relative)."""
    figure = Figure(figsize=(5.7, 3.3))
    axes = figure.add_axes((0.12, 0.19, 0.86, 0.72))
    places = np.arange(len(names))
    colours = [ALARM if judge_size(*one, limit) == NO else ACCENT for one in zip(step, error, strict=True)]
    axes.bar(places, 1e3 * step, color=colours, width=0.7)
    axes.errorbar(places, 1e3 * step, yerr=1e3 * error, fmt="none", color=INK, elinewidth=1.0, capsize=2)
    for side in (-1, 1):
        axes.axhline(side * 1e3 * limit, color=ALARM, linestyle="--", linewidth=0.9)
    axes.axhline(0.0, color=INK, linewidth=0.6)
    known = np.concatenate([np.abs(step) + np.nan_to_num(error), [limit]])
    top = 1.15e3 * float(np.nanmax(known))
    axes.set_xticks(places, names, rotation=90, fontsize=7)
    axes.set(
        ylim=(-top, top), xlabel="amplifier", ylabel="excess (‰)", title="steps at amplifier borders (dashed: specification)"
    )
    plain_axes(axes)
    return figure


@styled
def pointing_levels(
    labels: Sequence[str], residuals: PointingResiduals, scale_error: FloatArray, rejected: FloatArray, *, led: str
) -> Figure:
    """Draw the level of each pointing against the combined flat with its error, and its rate of rejected values.

    Parameters
    ----------
    labels
        Name of each pointing.
    scale_error
        Relative error of each pointing's scale (photodiode), NaN where it is not known.
    rejected
        Rejected values per million, NaN where it is not known.
    """
    figure = Figure(figsize=(11.6, 2.9))
    figure.subplots_adjust(left=0.065, right=0.985, bottom=0.19, top=0.89, wspace=0.2)
    level_axes, rejected_axes = figure.subplots(1, 2)
    places = np.arange(len(labels))
    error = np.hypot(residuals.level_error, np.nan_to_num(scale_error))
    level_axes.errorbar(
        places,
        1e3 * residuals.level,
        yerr=1e3 * error,
        fmt="o",
        color=led_colour(led),
        markeredgecolor=INK,
        ecolor=INK,
        capsize=2,
    )
    level_axes.axhline(0.0, color=INK, linewidth=0.6)
    level_axes.set(ylabel="over combined - 1 (‰)", title="median level of each pointing (error: photodiode and scatter)")
    rejected_axes.bar(places, rejected, color=FAINT, edgecolor=INK, linewidth=0.5, width=0.6)
    rejected_axes.set(ylabel="rejected (per million)", title="values rejected in the stacks")
    for axes in (level_axes, rejected_axes):
        axes.set_xticks(places, labels)
        axes.set_xlabel("pointing")
        plain_axes(axes)
    return figure


@styled
def truth_maps(ratio: DisplayImage, super_ratio: NDArray[np.floating], *, extent: Extent, detector: Detector) -> Figure:
    """Draw a recovered flat over the true one, in fine bins and on super-pixels."""
    figure = Figure(figsize=(11.6, 5.0))
    figure.subplots_adjust(left=0.06, right=0.915, bottom=0.1, top=0.94, wspace=0.34)
    fine, coarse = figure.subplots(1, 2)
    for axes, image, own_extent, title in (
        (fine, ratio.image, ratio.extent, "recovered over true, means over " + f"{ratio.size} x {ratio.size} pixels"),
        (coarse, super_ratio, extent, "recovered over true, super-pixels"),
    ):
        per_mil = 1e3 * (image - 1)
        limits = symmetric_limits(per_mil, centre=0.0)
        shown = show_image(axes, per_mil, extent=own_extent, limits=limits, colours=DIVERGING)
        axes.set_title(title)
        colour_bar(figure, shown, axes, "recovered over true - 1 (‰)")
        _amplifiers(axes, detector, named=False)
        _pixel_frame(axes, detector)
    return figure


def _amplifiers(axes: Axes, detector: Detector, *, named: bool) -> None:
    boxes = []
    for amplifier in detector.amplifiers:
        left, bottom = amplifier.x_min - 0.5, amplifier.y_min - 0.5
        right, top = left + amplifier.nx, bottom + amplifier.ny
        boxes.append(np.array([(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)]))
        if named:
            at_foot = amplifier.y_min < detector.ny / 4
            place = (left + right) / 2, bottom + 0.02 * detector.ny if at_foot else top - 0.02 * detector.ny
            write_on_map(axes, place, amplifier.name, size=6.5, vertical="bottom" if at_foot else "top")
    axes.add_collection(LineCollection(boxes, colors=INK, linewidths=0.4, alpha=0.6))


def _pixel_frame(axes: Axes, detector: Detector) -> None:
    axes.set(
        xlim=(-0.5, detector.nx - 0.5),
        ylim=(-0.5, detector.ny - 0.5),
        aspect="equal",
        xlabel="column (pixel)",
        ylabel="row (pixel)",
    )
    axes.locator_params(nbins=4)


def _absent(axes: Axes, sentence: str) -> None:
    axes.text(0.5, 0.5, sentence, ha="center", va="center", transform=axes.transAxes, color="#666666")
