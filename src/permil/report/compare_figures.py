"""Figures of stars against the flat: scatter, maps, correlation against scale, null distribution, error against block size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage

from permil.report.style import (
    ACCENT,
    ALARM,
    DIVERGING,
    FAINT,
    INK,
    LED_COLOURS,
    colour_bar,
    plain_axes,
    show_image,
    styled,
    symmetric_limits,
    write_on_map,
)

FloatArray = NDArray[np.float64]

_COLOURS = (ACCENT, LED_COLOURS["red"], LED_COLOURS["nm850"], LED_COLOURS["uv"], LED_COLOURS["nm750"])
_STYLES = ("--", ":", "-.")
_SHOWN_PERCENT = 0.2
"""Points beyond this on each side do not decide how far a scatter plot reaches."""
_DENSITY_BINS = 40
_DENSITY_SMOOTHING = 1.5
_DENSITY_SHARES = (0.9, 0.6, 0.3)
_FEWEST_FOR_DENSITY = 200
_GROUPS = 12
_EDGE_PERCENT = 1.0
_MAP_TITLES = ("the flat predicts", "stars show", "difference: stars less flat")
_FAR_APART = 10.0
"""Where the flat predicts more than so many times what stars show, its map is divided."""
_NULL_BINS = 40
_FEWEST_DRAWS = 30


@dataclass(frozen=True)
class Cloud:
    """Points of a scatter plot (per mil) with the fitted slope and its error."""

    title: str
    flat: FloatArray
    star: FloatArray
    slope: float
    slope_error: float


@dataclass(frozen=True)
class MapPair:
    """What the flat predicts and what stars show, in one unit: two images ``[row, column]``, NaN where nothing is known."""

    name: str
    unit: str
    flat: FloatArray
    star: FloatArray


@dataclass(frozen=True)
class ScaleSeries:
    """Correlations of one quantity by the side of the cells (pixels; 0 for single stars) with their errors."""

    label: str
    cells: FloatArray
    r: FloatArray
    error: FloatArray


@styled
def flux_against_flat(clouds: Sequence[Cloud], expected: Mapping[str, float]) -> Figure:
    """Draw star fluxes against the flat, each cloud with density contours, the fitted line and the lines of the hypotheses.

    Parameters
    ----------
    clouds
        At least one.
    expected
        Slope by the name of the hypothesis that has it.
    """
    figure = Figure(figsize=(5.9 * len(clouds), 4.9))
    figure.subplots_adjust(left=0.42 / len(clouds) * 0.28, right=0.985, bottom=0.11, top=0.93, wspace=0.17)
    for axes, cloud in zip(figure.subplots(1, len(clouds), squeeze=False)[0], clouds, strict=True):
        known = np.isfinite(cloud.flat + cloud.star)
        x, y = cloud.flat[known], cloud.star[known]
        if x.size:
            axes.scatter(x, y, s=float(np.clip(1e4 / x.size, 3.0, 10.0)), color=ACCENT, alpha=0.6, linewidths=0)
            _density(axes, x, y)
            _limits(axes, x, y)
            _lines(axes, (float(x.mean()), float(y.mean())), cloud, expected)
            _group_means(axes, x, y)
            _legend(axes)
        axes.set(xlabel="flat as the star sees it, minus 1 (‰)", ylabel="star flux, minus 1 (‰)", title=cloud.title)
        plain_axes(axes)
    return figure


def _density(axes: Axes, x: FloatArray, y: FloatArray) -> None:
    """Draw contours within which given shares of the points lie."""
    if x.size < _FEWEST_FOR_DENSITY:
        return
    ranges = [np.percentile(column, [_SHOWN_PERCENT, 100 - _SHOWN_PERCENT]) for column in (x, y)]
    if any(high <= low for low, high in ranges):
        return
    count, x_edges, y_edges = np.histogram2d(x, y, bins=_DENSITY_BINS, range=ranges)
    smooth = ndimage.gaussian_filter(count.T, _DENSITY_SMOOTHING, mode="constant")
    ordered = np.sort(smooth.ravel())[::-1]
    within = np.cumsum(ordered) / ordered.sum()
    levels = sorted({float(ordered[np.searchsorted(within, share)]) for share in _DENSITY_SHARES})
    centres = [(edges[:-1] + edges[1:]) / 2 for edges in (x_edges, y_edges)]
    axes.contour(*centres, smooth, levels=levels, colors=INK, linewidths=0.7, alpha=0.8)


def _limits(axes: Axes, x: FloatArray, y: FloatArray) -> None:
    for column, set_limits in ((x, axes.set_xlim), (y, axes.set_ylim)):
        low, high = np.percentile(column, [_SHOWN_PERCENT, 100 - _SHOWN_PERCENT])
        margin = 0.08 * (high - low) or 1.0
        set_limits(low - margin, high + margin)


def _lines(axes: Axes, middle: tuple[float, float], cloud: Cloud, expected: Mapping[str, float]) -> None:
    ends = np.array(axes.get_xlim())
    for style, (name, slope) in zip(_STYLES, expected.items(), strict=False):
        axes.plot(ends, middle[1] + slope * (ends - middle[0]), style, color=INK, linewidth=1.1, label=f"{name}: slope {slope:g}")
    if np.isfinite(cloud.slope):
        label = f"fitted: slope {cloud.slope:.2f}" + (f" ± {cloud.slope_error:.2f}" if np.isfinite(cloud.slope_error) else "")
        axes.plot(ends, middle[1] + cloud.slope * (ends - middle[0]), color=ALARM, linewidth=1.6, label=label)


def _group_means(axes: Axes, x: FloatArray, y: FloatArray) -> None:
    """Draw the means of groups of equal size, in the order of the flat."""
    groups = np.array_split(np.argsort(x), min(_GROUPS, x.size))
    places = [(float(x[group].mean()), float(y[group].mean())) for group in groups]
    axes.plot(
        *zip(*places, strict=True), "o", color="white", markeredgecolor=INK, markersize=5, label=f"means of {len(groups)} groups"
    )


@styled
def map_pairs(pairs: Sequence[MapPair], *, extent: tuple[float, float, float, float]) -> Figure:
    """Draw what the flat predicts, what stars show, and the difference; one row per pair, one colour scale per row.

    Parameters
    ----------
    extent
        Left, right, bottom, top in pixels.
    """
    large = len(pairs) == 1
    side = 3.35 if large else 2.35
    width, height = (11.6, 0.9 + side) if large else (8.6, 0.75 + (side + 0.12) * len(pairs))
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(
        left=0.75 / width, right=1 - 0.95 / width, bottom=0.5 / height, top=1 - 0.35 / height, wspace=0.06, hspace=0.07
    )
    panels = figure.subplots(len(pairs), 3, squeeze=False, sharex=True, sharey=True)
    for row, (line, pair) in enumerate(zip(panels, pairs, strict=True)):
        divisor = _divisor(pair)
        flat = pair.flat / divisor
        limits = symmetric_limits(flat, pair.star, centre=0.0, percent=_EDGE_PERCENT)
        difference = pair.star - flat if divisor == 1 else np.full(flat.shape, np.nan)
        for axes, title, image in zip(line, _MAP_TITLES, (flat, pair.star, difference), strict=True):
            shown = show_image(axes, image, extent=extent, limits=limits, colours=DIVERGING)
            if row == 0:
                axes.set_title(title)
            if row == len(pairs) - 1:
                axes.set_xlabel("x (pixels)")
        if divisor > 1:
            middle = (extent[0] + extent[1]) / 2, (extent[2] + extent[3]) / 2
            write_on_map(line[0], middle, f"divided by {divisor:,.0f}", size=8)
            write_on_map(
                line[2], middle, f"not drawn: the flat predicts\nmore than {divisor:,.0f} times\nwhat stars show", size=8
            )
        line[0].set_ylabel(f"{pair.name}\ny (pixels)")
        colour_bar(figure, shown, line[-1], f"{pair.name} ({pair.unit})")
    return figure


def _divisor(pair: MapPair) -> float:
    """Return the power of ten by which the flat's map is divided to be seen on the scale of the stars, 1 where it need not be."""
    flat, stars = (symmetric_limits(image, centre=0.0, percent=_EDGE_PERCENT)[1] for image in (pair.flat, pair.star))
    return float(10.0 ** np.floor(np.log10(flat / stars))) if flat > _FAR_APART * stars > 0 else 1.0


@styled
def correlation_by_scale(panels: Mapping[str, Sequence[ScaleSeries]]) -> Figure:
    """Draw r with its error against the size of the cells, one panel per title."""
    figure = Figure(figsize=(11.6, 3.7))
    figure.subplots_adjust(left=0.06, right=0.985, bottom=0.14, top=0.91, wspace=0.14)
    every = sorted({float(cell) for each in panels.values() for series in each for cell in series.cells})
    place = {cell: float(number) for number, cell in enumerate(every)}
    for axes, (title, each) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for number, series in enumerate(each):
            shift = 0.09 * (number - (len(each) - 1) / 2)
            x = np.array([place[float(cell)] for cell in series.cells]) + shift
            colour = _COLOURS[number % len(_COLOURS)]
            axes.errorbar(x, series.r, yerr=series.error, fmt="o-", color=colour, markersize=4, linewidth=0.8, label=series.label)
        axes.axhline(0.0, color=INK, linewidth=0.6)
        axes.set_xticks(range(len(every)), ["single stars" if cell == 0 else f"{cell:g}" for cell in every])
        axes.set(xlabel="side of the cells (pixels)", ylabel="correlation r", title=title)
        if each:
            low, high = (float(np.clip(limit, -1.05, 1.05)) for limit in axes.get_ylim())
            axes.set_ylim(low, high + 0.15 * (high - low))
            axes.legend(loc="upper left", ncols=len(each))
        plain_axes(axes)
    return figure


@styled
def null_distribution(draws: Mapping[str, FloatArray], *, r: float, n_eff: float, n: float) -> Figure:
    """Draw the correlations of maps that have nothing to do with each other, and the observed one.

    Parameters
    ----------
    draws
        Correlations of surrogates, by method; methods with hardly any are left out.
    r
        Observed.
    n_eff, n
        Independent values that the stars are worth, and number of stars: each gives a normal curve.
    """
    figure = Figure(figsize=(5.7, 3.9))
    axes = figure.add_axes((0.1, 0.13, 0.87, 0.79))
    for number, (name, found) in enumerate(draws.items()):
        known = found[np.isfinite(found)]
        if known.size >= _FEWEST_DRAWS:
            axes.hist(
                known,
                bins=_NULL_BINS,
                density=True,
                alpha=0.45,
                color=_COLOURS[number % len(_COLOURS)],
                label=f"{known.size} {name}",
            )
    for count, style, colour, label in (
        (n_eff, "-", INK, "as many independent values as quoted"),
        (n, ":", ALARM, "were every star independent"),
    ):
        if count > 1:
            width = (count - 1) ** -0.5
            grid = np.linspace(-5 * width, 5 * width, 300)
            curve = np.exp(-0.5 * (grid / width) ** 2) / width / np.sqrt(2 * np.pi)
            axes.plot(grid, curve, style, color=colour, linewidth=1.1, label=label)
    if np.isfinite(r):
        axes.axvline(r, color=ALARM, linewidth=2.0, label=f"observed: {r:.3f}")
    axes.set(xlabel="correlation r of maps without any relation", ylabel="how often", yticks=[])
    axes.set_title("what chance gives")
    low, high = axes.get_ylim()
    axes.set_ylim(low, 1.45 * high)
    _legend(axes)
    plain_axes(axes)
    return figure


@styled
def error_by_block(side: FloatArray, error: FloatArray, *, quoted: float, naive: float, plateau: float) -> Figure:
    """Draw the error of r from resampled blocks against the side of the blocks (pixels), beside the error that is quoted."""
    figure = Figure(figsize=(5.7, 3.9))
    axes = figure.add_axes((0.14, 0.13, 0.83, 0.79))
    known = np.isfinite(side + error)
    axes.plot(side[known], error[known], "o-", color=ACCENT, markersize=4, label="from resampled blocks")
    for level, style, colour, label in (
        (quoted, "-", INK, "quoted"),
        (naive, ":", ALARM, "were every star independent"),
    ):
        if np.isfinite(level):
            axes.axhline(level, linestyle=style, color=colour, linewidth=1.1, label=f"{label}: {level:.3g}")
    if np.isfinite(plateau):
        axes.axvline(plateau, linestyle="--", color=FAINT, label=f"constant from {plateau:.3g} px on")
    if known.any():
        axes.set_xscale("log")
        ticks = side[known][:: max(1, int(known.sum()) // 4)]
        axes.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
        axes.set_xticks([], minor=True)
    axes.set_ylim(0, 1.35 * max([*error[known], *(level for level in (quoted, naive) if np.isfinite(level)), 1e-9]))
    axes.set(xlabel="side of the blocks (pixels)", ylabel="error of r", title="how large the error is")
    _legend(axes, columns=2)
    plain_axes(axes)
    return figure


def _legend(axes: Axes, *, columns: int = 1) -> None:
    """Draw a legend over everything, none where nothing was drawn."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles, labels, loc="upper left", ncols=columns, frameon=True, framealpha=0.9, edgecolor="none")
