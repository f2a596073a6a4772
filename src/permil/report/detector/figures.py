"""Figures of the page of a detector, in its pixel frame, with captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from permil.camera import Detector
from permil.config.model import ReportConfig
from permil.flat.superpixel import super_pixels
from permil.products import is_good, is_usable
from permil.report.detector.inputs import DetectorProducts, PointingCubes, pointing_name
from permil.report.kit.elements import Picture, drawing, raster
from permil.report.kit.maps import colour_bar, robust_limits, show_image, symmetric_limits, write_on_map
from permil.report.kit.quantities import format_count, with_minus
from permil.report.kit.style import ACCENT, ALARM, DIVERGING, FAINT, INK, SEQUENTIAL, SPREAD, led_colour, plain_axes, styled
from permil.report.kit.summary import NO, judge_size

FloatArray = NDArray[np.float64]
Extent = tuple[float, float, float, float]
"""Left, right, bottom, top in detector pixels."""

_DISPLAY_PIXELS = 256
_HISTOGRAM_BINS = 120
_HISTOGRAM_WIDTHS = 6.0
_NOISE_QUANTILES = 33
_MAPS_PER_ROW = 5
_MOST_MAPS = 10


def detector_pictures(
    products: DetectorProducts, detector: Detector, led: str, *, limits: ReportConfig, absent: list[str]
) -> list[Picture]:
    """Return the figures of the page; append the names of those that cannot be drawn to ``absent``."""
    product = products.product
    good = is_good(product.mask) & np.isfinite(product.image)
    usable = is_usable(product.mask) & np.isfinite(product.image)
    content = flat_histogram(product.image, product.variance, good)
    median = content.median if content is not None else 1.0
    extent = small_map_extent(tuple(-(-length // products.block_pixels) for length in detector.shape), products.block_pixels)
    if products.scatter is None:
        absent.append("scatter between pointings (extension SCATTER)")
    pictures = [
        raster(
            flat_and_scatter(display_image(product.image, usable), median, products.scatter, extent, detector),
            "Flat over its median with the amplifiers, and the relative scatter between pointings.",
        )
    ]
    if content is not None:
        pictures.append(
            drawing(
                histogram(content),
                "All good pixels at full resolution, and the distribution expected from noise alone.",
                narrow=True,
            )
        )
    else:
        absent.append("good pixels")
    steps = _steps(products.metrics, detector)
    if steps is not None:
        picture = amplifier_steps(*steps, limit=limits.step_limit)
        pictures.append(drawing(picture, "Excess of each amplifier, from the steps at its borders.", narrow=True))
    if products.cubes is None or products.aimed is None:
        absent.append("maps of the pointings (extensions STACKS, BEAMS, RESPONSES)")
        return pictures
    # The small maps of the pointings include the zone along the edge.
    combined = super_pixels(product.image, usable, products.block_pixels).mean
    return pictures + _pointing_pictures(products.cubes, products.aimed, combined, detector, led, extent=extent)


def _pointing_pictures(
    cubes: PointingCubes,
    aimed: Table,
    combined: FloatArray,
    detector: Detector,
    led: str,
    *,
    extent: Extent,
) -> list[Picture]:
    residuals = pointing_residuals(cubes.responses, combined)
    names = [pointing_name(aimed, index) for index in range(len(aimed))]
    # Adding zero converts the -0.0 of rounding to 0.0.
    rounded = np.round(np.column_stack([aimed["x_mm"], aimed["y_mm"]]), 1) + 0.0
    places = [with_minus(f"X {x:.1f}, Y {y:.1f} mm") for x, y in rounded]
    # One pointing is drawn as an example: the one nearest to their mean position.
    distance = np.hypot(aimed["x_mm"] - np.mean(aimed["x_mm"]), aimed["y_mm"] - np.mean(aimed["y_mm"]))
    chosen = int(np.argmin(distance))
    rejected = _column(aimed, "rejected")
    rate = 1e6 * rejected / (_column(aimed, "exposures") * float(np.prod(detector.shape)))
    return [
        raster(
            pointing_maps(
                cubes.stacks[chosen],
                cubes.beams[chosen],
                cubes.responses[chosen],
                extent=extent,
                title=f"pointing {names[chosen]}",
                detector=detector,
            ),
            f"Pointing {names[chosen]} ({places[chosen]}): the stack of its exposures, the beam, and their ratio.",
        ),
        raster(
            residual_maps(
                residuals,
                [f"{name}: {place}" for name, place in zip(names, places, strict=True)],
                extent=extent,
                detector=detector,
            ),
            "Response of each pointing aimed at this detector over the combined flat, on super-pixels.",
        ),
        drawing(
            pointing_levels(names, residuals, _column(aimed, "scale_error"), rate, led=led),
            "Level of each pointing relative to the combined flat, and the values rejected in its stack: "
            f"{format_count(int(np.nansum(rejected)))} in total.",
        ),
    ]


def _steps(metrics: Table | None, detector: Detector) -> tuple[list[str], FloatArray, FloatArray] | None:
    """Return names, steps and errors of the amplifiers in the order of the detector, None if no step was measured."""
    if metrics is None or "step" not in metrics.colnames:
        return None
    found = {str(row["amp"]): (float(row["step"]), float(row["step_err"])) for row in metrics}
    names = [amplifier.name for amplifier in detector.amplifiers]
    step, error = np.array([found.get(name, (np.nan, np.nan)) for name in names]).T
    return (names, step, error) if np.isfinite(step).any() else None


def truth_picture(products: DetectorProducts, detector: Detector) -> Picture | None:
    """Return the picture of recovered over true flat, None without a truth."""
    if products.truth is None or products.truth.image.shape != detector.shape:
        return None
    product, truth = products.product, products.truth
    good = is_good(product.mask) & is_good(truth.mask) & (truth.image > 0) & np.isfinite(product.image)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(good, product.image / truth.image, np.nan)
    if not good.any():
        return None
    extent = small_map_extent(tuple(-(-length // products.block_pixels) for length in detector.shape), products.block_pixels)
    coarse = super_pixels(ratio, good, products.block_pixels).mean
    figure = truth_maps(display_image(ratio, good), coarse, extent=extent, detector=detector)
    return raster(figure, "Recovered flat over true flat, good pixels; the colour scales differ.")


def _column(table: Table, name: str) -> FloatArray:
    """Return a column, NaN if the table lacks it."""
    return np.asarray(table[name], dtype=float) if name in table.colnames else np.full(len(table), np.nan)


@dataclass(frozen=True)
class DisplayImage:
    """A binned image: ``image[row, column]``, ``extent`` its left, right, bottom, top in detector pixels, ``size`` of a bin."""

    image: FloatArray
    extent: Extent
    size: int


@dataclass(frozen=True)
class FlatHistogram:
    """Distribution of the response over its median.

    Attributes
    ----------
    edges, counts
        Bins of ``response / median - 1`` and their numbers of good pixels; the outer bins include all pixels beyond their edges.
    expected
        Pixels per bin expected from the variance plane alone.
    median, width, noise
        Median response, robust relative width (half of the 16 to 84 per cent range), median relative error of a pixel.
    """

    edges: FloatArray
    counts: NDArray[np.int64]
    expected: FloatArray
    median: float
    width: float
    noise: float


@dataclass(frozen=True)
class PointingResiduals:
    """Each pointing's response over the combined flat.

    Attributes
    ----------
    maps
        ``response / combined - 1`` on super-pixels, shape (pointings, rows, columns), NaN without data.
    level, level_error
        Median of each map, and its error from the scatter within the map.
    rms
        Robust width of each map.
    """

    maps: FloatArray
    level: FloatArray
    level_error: FloatArray
    rms: FloatArray


def display_image(image: NDArray[np.floating], usable: NDArray[np.bool_]) -> DisplayImage:
    """Bin a full-size image to at most 256 bins a side; bins with fewer than half of their pixels usable are NaN."""
    size = int(np.ceil(max(image.shape) / _DISPLAY_PIXELS))
    binned = super_pixels(image, usable, size)
    rows, columns = binned.mean.shape
    return DisplayImage(binned.mean, (-0.5, columns * size - 0.5, -0.5, rows * size - 0.5), size)


def small_map_extent(shape: tuple[int, ...], size: int) -> Extent:
    """Return left, right, bottom, top in detector pixels of a map on super-pixels of ``size`` pixels."""
    rows, columns = shape[-2:]
    return -0.5, columns * size - 0.5, -0.5, rows * size - 0.5


def flat_histogram(
    response: NDArray[np.floating], variance: NDArray[np.floating], good: NDArray[np.bool_]
) -> FlatHistogram | None:
    """Return the distribution of the good pixels, None without any."""
    known = good & np.isfinite(response) & np.isfinite(variance)
    levels = response[known].astype(np.float64)
    if levels.size == 0:
        return None
    low, median, high = np.percentile(levels, [15.865, 50.0, 84.135])
    width = float((high - low) / 2 / median)
    # The noise varies with the beam: its distribution is a mixture of normal ones.
    sigmas = np.sqrt(np.quantile(variance[known], (np.arange(_NOISE_QUANTILES) + 0.5) / _NOISE_QUANTILES)) / median
    half = _HISTOGRAM_WIDTHS * max(width, float(np.median(sigmas)), 1e-7)
    edges = np.linspace(-half, half, _HISTOGRAM_BINS + 1)
    counts, _ = np.histogram(np.clip(levels / median - 1, -half, half), bins=edges)
    middle = (edges[1:] + edges[:-1])[:, None] / 2
    positive = sigmas[sigmas > 0]
    density = np.exp(-((middle / positive) ** 2) / 2) / (positive * np.sqrt(2 * np.pi))
    expected = density.sum(axis=1) / sigmas.size * levels.size * (edges[1] - edges[0])
    return FlatHistogram(edges, counts, expected, float(median), width, float(np.median(sigmas)))


def pointing_residuals(responses: NDArray[np.floating], combined: NDArray[np.floating]) -> PointingResiduals:
    """Compare the pointings with the combined flat.

    Parameters
    ----------
    responses
        Response of each pointing on super-pixels, shape (pointings, rows, columns).
    combined
        Combined flat on the same super-pixels.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        maps = np.asarray(responses, dtype=np.float64) / combined - 1
    level, error, rms = (np.full(len(maps), np.nan) for _ in range(3))
    for number, residual in enumerate(maps):
        inside = residual[np.isfinite(residual)]
        if inside.size:
            low, level[number], high = np.percentile(inside, [15.865, 50.0, 84.135])
            rms[number] = (high - low) / 2
            error[number] = 1.2533 * rms[number] / np.sqrt(inside.size)
    return PointingResiduals(maps, level, error, rms)


@styled
def flat_and_scatter(
    flat: DisplayImage, median: float, scatter: NDArray[np.floating] | None, scatter_extent: Extent, detector: Detector
) -> Figure:
    """Draw the flat over its median, and the relative scatter between pointings if known."""
    figure = Figure(figsize=(11.6, 5.0))
    figure.subplots_adjust(left=0.06, right=0.915, bottom=0.1, top=0.94, wspace=0.34)
    flat_axes, scatter_axes = figure.subplots(1, 2)
    per_mil = 1e3 * (flat.image / median - 1)
    # The zone along the edge is ignored for the colour scale.
    limits = symmetric_limits(per_mil, centre=0.0, percent=2.5)
    shown = show_image(flat_axes, per_mil, extent=flat.extent, limits=limits, colours=DIVERGING)
    binning = f", means over {flat.size} x {flat.size} pixels" if flat.size > 1 else ""
    flat_axes.set_title(f"flat over its median{binning}")
    colour_bar(figure, shown, flat_axes, "response over median - 1 (‰)")
    _amplifiers(flat_axes, detector, named=True)
    if scatter is None:
        _write_absence(scatter_axes, "the product has no map of the scatter")
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
    """Draw one pointing on super-pixels: stack, beam and their ratio."""
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
    """Draw the distribution of the response and the one expected from noise alone."""
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
    """Draw the level of each pointing relative to the combined flat with its error, and its rate of rejected values.

    Parameters
    ----------
    labels
        Name of each pointing.
    scale_error
        Relative error of each pointing's scale (photodiode), NaN if unknown.
    rejected
        Rejected values per million, NaN if unknown.
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


def _write_absence(axes: Axes, sentence: str) -> None:
    axes.text(0.5, 0.5, sentence, ha="center", va="center", transform=axes.transAxes, color="#666666")
