"""Figures of the page of a detector, in its pixel frame, with captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from permil.arrays import BoolArray, FloatArray, IntArray
from permil.camera import Detector
from permil.config.model import ReportConfig
from permil.flat.superpixel import super_pixels
from permil.products import is_good, is_usable
from permil.report.detector.inputs import DetectorProducts, PointingCubes, pointing_name
from permil.report.kit.chart import Chart, Extent, chart_picture
from permil.report.kit.elements import Picture
from permil.report.kit.figures import (
    ACCENT,
    ALARM,
    DIVERGING,
    FAINT,
    SEQUENTIAL,
    SPREAD,
    led_colour,
    robust_limits,
    symmetric_limits,
)
from permil.report.kit.results import NO, format_count, judge_size, with_minus

_DISPLAY_PIXELS = 256
_HISTOGRAM_BINS = 120
_HISTOGRAM_WIDTHS = 6.0
_NOISE_QUANTILES = 33
_VARIANCES = 1_000_000
"""Pixels at most from which the distribution of variances is taken."""

_MAPS_PER_ROW = 5
_MOST_MAPS = 10
_LARGE, _MIDDLE, _SMALL = 440.0, 246.0, 170.0
"""Width of maps, pixels."""

_DRAWING = (500.0, 230.0)


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
    maps = flat_and_scatter(display_image(product.image, usable), median, products.scatter, extent, detector)
    pictures = [chart_picture([maps], "Flat over its median with the amplifiers, and the relative scatter between pointings.")]
    if content is not None:
        caption = "All good pixels at full resolution, and the distribution expected from noise alone."
        pictures.append(chart_picture([[histogram(content)]], caption, narrow=True))
    else:
        absent.append("good pixels")
    steps = _steps(products.metrics, detector)
    if steps is not None:
        caption = "Excess of each amplifier, from the steps at its borders."
        pictures.append(chart_picture([[amplifier_steps(*steps, limit=limits.step_limit)]], caption, narrow=True))
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
    example = pointing_maps(
        (cubes.stacks[chosen], cubes.beams[chosen], cubes.responses[chosen]),
        extent=extent,
        title=f"pointing {names[chosen]}",
        detector=detector,
    )
    titles = [f"{name}: {place}" for name, place in zip(names, places, strict=True)]
    return [
        chart_picture(
            [example], f"Pointing {names[chosen]} ({places[chosen]}): the stack of its exposures, the beam, and their ratio."
        ),
        chart_picture(
            residual_maps(residuals, titles, extent=extent, detector=detector),
            "Response of each pointing aimed at this detector over the combined flat, on super-pixels.",
        ),
        chart_picture(
            [pointing_levels(names, residuals, _column(aimed, "scale_error"), rate, led=led)],
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
    maps = truth_maps(display_image(ratio, good), coarse, extent=extent, detector=detector)
    return chart_picture([maps], "Recovered flat over true flat, good pixels; the colour scales differ.")


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
    counts: IntArray
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


def display_image(image: NDArray[np.floating], usable: BoolArray) -> DisplayImage:
    """Bin a full-size image to at most 256 bins a side; bins with fewer than half of their pixels usable are NaN."""
    size = int(np.ceil(max(image.shape) / _DISPLAY_PIXELS))
    binned = super_pixels(image, usable, size)
    rows, columns = binned.mean.shape
    return DisplayImage(binned.mean, (-0.5, columns * size - 0.5, -0.5, rows * size - 0.5), size)


def small_map_extent(shape: tuple[int, ...], size: int) -> Extent:
    """Return left, right, bottom, top in detector pixels of a map on super-pixels of ``size`` pixels."""
    rows, columns = shape[-2:]
    return -0.5, columns * size - 0.5, -0.5, rows * size - 0.5


def flat_histogram(response: NDArray[np.floating], variance: NDArray[np.floating], good: BoolArray) -> FlatHistogram | None:
    """Return the distribution of the good pixels, None without any."""
    known = good & np.isfinite(response) & np.isfinite(variance)
    levels = response[known]
    if levels.size == 0:
        return None
    low, median, high = (float(level) for level in np.percentile(levels, [15.865, 50.0, 84.135]))
    width = (high - low) / 2 / median
    # The noise varies with the beam: its distribution is a mixture of normal ones.
    variances = variance[known][:: -(-levels.size // _VARIANCES)]
    sigmas = np.sqrt(np.quantile(variances, (np.arange(_NOISE_QUANTILES) + 0.5) / _NOISE_QUANTILES)) / median
    half = _HISTOGRAM_WIDTHS * max(width, float(np.median(sigmas)), 1e-7)
    edges = np.linspace(-half, half, _HISTOGRAM_BINS + 1)
    counts, _ = np.histogram(np.clip(levels / median - 1, -half, half), bins=edges)
    middle = (edges[1:] + edges[:-1])[:, None] / 2
    positive = sigmas[sigmas > 0]
    density = np.exp(-((middle / positive) ** 2) / 2) / (positive * np.sqrt(2 * np.pi))
    expected = density.sum(axis=1) / sigmas.size * levels.size * (edges[1] - edges[0])
    return FlatHistogram(edges, counts, expected, median, width, float(np.median(sigmas)))


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


def flat_and_scatter(
    flat: DisplayImage, median: float, scatter: NDArray[np.floating] | None, scatter_extent: Extent, detector: Detector
) -> list[Chart]:
    """Draw the flat over its median, and the relative scatter between pointings if known."""
    per_mil = 1e3 * (flat.image / median - 1)
    binning = f", means over {flat.size} x {flat.size} pixels" if flat.size > 1 else ""
    # The zone along the edge is ignored for the colour scale.
    limits = symmetric_limits(per_mil, centre=0.0, percent=2.5)
    charts = [detector_chart(detector, _LARGE, f"flat over its median{binning}")]
    charts[0].image(per_mil, flat.extent, limits, DIVERGING, "response over median - 1 (‰)")
    draw_amplifiers(charts[0], detector, named=True)
    if scatter is not None:
        spread = 1e3 * scatter
        charts.append(detector_chart(detector, _LARGE, "scatter between pointings, super-pixels"))
        charts[1].image(spread, scatter_extent, robust_limits(spread), SPREAD, "scatter (‰)")
        draw_amplifiers(charts[1], detector)
    return charts


def pointing_maps(
    images: tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]],
    *,
    extent: Extent,
    title: str,
    detector: Detector,
) -> list[Chart]:
    """Draw one pointing on super-pixels: stack, beam and their ratio."""
    stack, beam, response = images
    level = float(np.nanmedian(response)) if np.isfinite(response).any() else 1.0
    contents = (
        (stack, robust_limits(stack), SEQUENTIAL, f"stack, {title}", "signal (electrons)"),
        (beam, robust_limits(beam), SEQUENTIAL, "beam at this pointing", "beam (maximum = 1)"),
        (response, symmetric_limits(response, centre=level), DIVERGING, "response of this pointing", "response"),
    )
    charts: list[Chart] = []
    for image, limits, colours, name, label in contents:
        charts.append(detector_chart(detector, _MIDDLE, name, has_rows=not charts))
        charts[-1].image(image, extent, limits, colours, label)
    return charts


def residual_maps(
    residuals: PointingResiduals, titles: Sequence[str], *, extent: Extent, detector: Detector
) -> list[list[Chart]]:
    """Draw each pointing's response over the combined flat in rows, all on one colour scale (at most ten pointings)."""
    maps = 1e3 * residuals.maps[:_MOST_MAPS]
    limits = symmetric_limits(*maps, centre=0.0)
    charts = []
    for number, image in enumerate(maps):
        is_first, is_last = ((number + shift) % _MAPS_PER_ROW == 0 for shift in (0, 1))
        chart = detector_chart(detector, _SMALL, titles[number], has_rows=is_first)
        has_bar = is_last or number == len(maps) - 1
        chart.image(image, extent, limits, DIVERGING, "over combined - 1 (‰)" if has_bar else "")
        charts.append(chart)
    return [charts[first : first + _MAPS_PER_ROW] for first in range(0, len(charts), _MAPS_PER_ROW)]


def histogram(content: FlatHistogram) -> Chart:
    """Draw the distribution of the response and the one expected from noise alone."""
    edges = 1e3 * content.edges
    chart = Chart(
        _DRAWING,
        (edges[0], edges[-1]),
        (np.log10(0.5), np.log10(30.0 * max(content.counts.max(), 1))),
        title=f"robust width {1e3 * content.width:.3g} ‰, median error of a pixel {1e3 * content.noise:.3g} ‰",
        labels=("response over median - 1 (‰)", "pixels per bin"),
        is_log=True,
    )
    chart.steps(edges, np.log10(np.maximum(content.counts, 0.5)))
    visible = content.expected > 0.5
    chart.line((edges[1:] + edges[:-1])[visible] / 2, np.log10(content.expected[visible]), ALARM)
    for side in (-1, 1):
        chart.upright(side * 1e3 * content.width, ACCENT)
    chart.legend([(FAINT, "good pixels (outer bins: beyond)"), (ALARM, "noise alone"), (ACCENT, "robust width")])
    return chart


def amplifier_steps(names: Sequence[str], step: FloatArray, error: FloatArray, *, limit: float) -> Chart:
    """Draw the excess of each amplifier with its error, and the limits of the specification (all relative)."""
    top = 1.15e3 * float(np.nanmax(np.append(np.abs(step) + np.nan_to_num(error), limit)))
    chart = Chart(
        _DRAWING,
        (-0.6, len(names) - 0.4),
        (-top, top),
        title="steps at amplifier borders (dashed: specification)",
        labels=("amplifier", "excess (‰)"),
        names=names,
    )
    chart.bars(1e3 * step, [ALARM if judge_size(*one, limit) == NO else ACCENT for one in zip(step, error, strict=True)])
    chart.errors(np.arange(len(names), dtype=float), 1e3 * step, 1e3 * error)
    chart.level(0.0)
    for side in (-1, 1):
        chart.level(side * 1e3 * limit, ALARM, dashed=True)
    return chart


def pointing_levels(
    labels: Sequence[str], residuals: PointingResiduals, scale_error: FloatArray, rejected: FloatArray, *, led: str
) -> list[Chart]:
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
    places, level = np.arange(len(labels), dtype=float), 1e3 * residuals.level
    error = 1e3 * np.hypot(residuals.level_error, np.nan_to_num(scale_error))
    reach = 1.1 * np.concatenate([level - error, level + error, [-0.01, 0.01]])
    levels, rates = (
        Chart((_DRAWING[0], 170.0), (-0.6, len(labels) - 0.4), y, title=title, labels=("pointing", label), names=labels)
        for y, title, label in (
            (
                (float(np.nanmin(reach)), float(np.nanmax(reach))),
                "median level of each pointing (error: photodiode and scatter)",
                "over combined - 1 (‰)",
            ),
            (
                (0.0, 1.05 * float(np.nanmax(np.append(rejected, 1.0)))),
                "values rejected in the stacks",
                "rejected (per million)",
            ),
        )
    )
    levels.level(0.0)
    levels.errors(places, level, error)
    levels.points(np.column_stack([places, level]), led_colour(led))
    rates.bars(rejected, [FAINT] * len(labels))
    return [levels, rates]


def truth_maps(ratio: DisplayImage, super_ratio: NDArray[np.floating], *, extent: Extent, detector: Detector) -> list[Chart]:
    """Draw a recovered flat over the true one, in fine bins and on super-pixels."""
    charts = []
    for image, own_extent, title in (
        (ratio.image, ratio.extent, f"recovered over true, means over {ratio.size} x {ratio.size} pixels"),
        (super_ratio, extent, "recovered over true, super-pixels"),
    ):
        per_mil = 1e3 * (image - 1)
        chart = detector_chart(detector, _LARGE, title)
        chart.image(per_mil, own_extent, symmetric_limits(per_mil, centre=0.0), DIVERGING, "recovered over true - 1 (‰)")
        draw_amplifiers(chart, detector)
        charts.append(chart)
    return charts


def detector_chart(detector: Detector, width: float, title: str, *, has_rows: bool = True) -> Chart:
    """Return empty axes in the pixels of a detector."""
    return Chart(
        (width, round(width * detector.ny / detector.nx, 1)),
        (-0.5, detector.nx - 0.5),
        (-0.5, detector.ny - 0.5),
        title=title,
        labels=("column (pixel)", "row (pixel)" if has_rows else ""),
    )


def draw_amplifiers(chart: Chart, detector: Detector, *, named: bool = False, width: float = 0.5) -> None:
    """Draw the outlines of the amplifiers, and on request their names."""
    boxes = []
    for amplifier in detector.amplifiers:
        left, bottom = amplifier.x_min - 0.5, amplifier.y_min - 0.5
        right, top = left + amplifier.nx, bottom + amplifier.ny
        boxes.append(np.array([(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)]))
        if named:
            at_foot = amplifier.y_min < detector.ny / 4
            chart.write(
                ((left + right) / 2, bottom + 0.03 * detector.ny if at_foot else top - 0.03 * detector.ny), amplifier.name
            )
    chart.outlines(boxes, width=width)
