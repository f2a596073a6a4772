"""Figures of artificial stars; positions are in the pixel frame of the detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from permil.report.style import (
    ACCENT,
    ALARM,
    DIVERGING,
    FAINT,
    INK,
    SEQUENTIAL,
    SPREAD,
    colour_bar,
    plain_axes,
    robust_limits,
    show_image,
    styled,
    symmetric_limits,
)

FloatArray = NDArray[np.float64]

WIDTH_CAPTION = (
    "The width is sqrt((XX + YY) / 2), the root mean square radius per axis, in pixels; the pixel's own extent is part of it. "
    "sqrt(XX^2 + YY^2), which is often drawn instead, is a length squared: it grows with the square of the width, so that a change "
    "of 1 % in width shows as 2 %, and it has the unit pixel^2."
)
"""What the page says below the two scatter plots."""

_MAPS_PER_ROW = 3
_EDGE_PERCENT = 3.0
"""Cells at the edge of a map have few measurements: colours are for all others."""
_WELL_KNOWN = 3.0
"""Rings whose error is larger than so many median ones do not decide how far a panel reaches."""
_LARGEST_POINT = 12.0
_ARROW_SHARE = 0.7
"""Length of a typical arrow, in distances of neighbouring arrows."""


@dataclass(frozen=True)
class ResidualMap:
    """One map on the detector, of residuals, errors or counts: title, image ``[row, column]``, label of its colour bar with the unit."""

    title: str
    image: NDArray[np.floating]
    label: str


@dataclass(frozen=True)
class RadialProfile:
    """Means in rings with their errors, and the label of the axis with the unit."""

    label: str
    mean: FloatArray
    error: FloatArray


def spot_width(xx: ArrayLike, yy: ArrayLike) -> FloatArray:
    """Return the root mean square radius per axis, ``sqrt((XX + YY) / 2)``, in the unit of a length."""
    return np.sqrt((np.asarray(xx, dtype=float) + np.asarray(yy, dtype=float)) / 2)


@styled
def fluxes_and_widths(
    x: FloatArray,
    y: FloatArray,
    flux: FloatArray,
    xx: FloatArray,
    yy: FloatArray,
    *,
    shape: tuple[int, int],
    unit: str = "electrons",
) -> Figure:
    """Draw the fluxes and the widths of spots where they lie; `WIDTH_CAPTION` belongs below.

    Parameters
    ----------
    x, y
        Positions, pixels.
    flux
        In ``unit``; colours are logarithmic, and what is not positive is left out.
    xx, yy
        Second moments, pixel^2.
    shape
        Rows and columns of the detector.
    """
    figure = Figure(figsize=(11.6, 5.0))
    figure.subplots_adjust(left=0.06, right=0.915, bottom=0.1, top=0.94, wspace=0.34)
    flux_axes, width_axes = figure.subplots(1, 2)
    width = spot_width(xx, yy)
    lit, measured = np.isfinite(flux) & (flux > 0), np.isfinite(width)
    size = _marker_size(len(x))
    # The limits of a logarithm must differ.
    low, high = (float(flux[lit].min()), float(flux[lit].max())) if lit.any() else (1.0, 10.0)
    norm = LogNorm(low, max(high, 1.01 * low))
    shown: ScalarMappable = flux_axes.scatter(x[lit], y[lit], c=flux[lit], s=size, cmap=SEQUENTIAL, norm=norm, linewidths=0)
    flux_axes.set_title(f"flux of {int(lit.sum())} spots")
    colour_bar(figure, shown, flux_axes, f"flux ({unit})")
    colours = Normalize(*robust_limits(width[measured]))
    shown = width_axes.scatter(x[measured], y[measured], c=width[measured], s=size, cmap=SEQUENTIAL, norm=colours, linewidths=0)
    width_axes.set_title(f"width of {int(measured.sum())} spots, sqrt((XX + YY) / 2)")
    colour_bar(figure, shown, width_axes, "width (pixels)")
    for axes in (flux_axes, width_axes):
        _detector_frame(axes, shape)
    return figure


@styled
def residual_maps(maps: Sequence[ResidualMap], *, extent: tuple[float, float, float, float]) -> Figure:
    """Draw maps of residuals, each around zero; ``extent`` is left, right, bottom, top in pixels."""
    return _map_panels(maps, extent, around_zero=True)


@styled
def quality_maps(maps: Sequence[ResidualMap], *, extent: tuple[float, float, float, float]) -> Figure:
    """Draw maps of errors and counts, which have no zero to be centred on; ``extent`` as for `residual_maps`."""
    return _map_panels(maps, extent, around_zero=False)


def _map_panels(maps: Sequence[ResidualMap], extent: tuple[float, float, float, float], *, around_zero: bool) -> Figure:
    columns = min(max(len(maps), 1), _MAPS_PER_ROW)
    rows = -(-max(len(maps), 1) // columns)
    width, height = 0.7 + 3.9 * columns, 0.6 + 3.1 * rows
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(
        left=0.65 / width, right=1 - 0.85 / width, bottom=0.5 / height, top=1 - 0.3 / height, wspace=0.55, hspace=0.28
    )
    panels = figure.subplots(rows, columns, squeeze=False)
    for number, axes in enumerate(panels.flat):
        if number >= len(maps):
            axes.set_axis_off()
            continue
        content = maps[number]
        limits = (
            symmetric_limits(content.image, centre=0.0, percent=_EDGE_PERCENT)
            if around_zero
            else robust_limits(content.image, percent=_EDGE_PERCENT)
        )
        shown = show_image(axes, content.image, extent=extent, limits=limits, colours=DIVERGING if around_zero else SPREAD)
        axes.set_title(content.title)
        colour_bar(figure, shown, axes, content.label)
        axes.set_xlabel("x (pixels)")
        axes.set_ylabel("y (pixels)" if number % columns == 0 else "")
    return figure


@styled
def distortion(x: FloatArray, y: FloatArray, dx: FloatArray, dy: FloatArray, *, shape: tuple[int, int], title: str) -> Figure:
    """Draw displacements (measured minus grid, pixels) as arrows at their places, much enlarged."""
    figure = Figure(figsize=(6.4, 6.2))
    axes = figure.add_axes((0.12, 0.09, 0.85, 0.85))
    known = np.isfinite(dx) & np.isfinite(dy)
    length = np.hypot(dx[known], dy[known])
    rms = float(np.sqrt(np.mean(length**2))) if known.any() else 0.0
    spacing = np.sqrt(shape[0] * shape[1] / max(int(known.sum()), 1))
    enlarged = _ARROW_SHARE * spacing / rms if rms > 0 else 1.0
    arrows = axes.quiver(
        x[known], y[known], dx[known], dy[known],
        angles="xy", scale_units="xy", scale=1 / enlarged, color=ACCENT, width=0.002, headwidth=4,
    )  # fmt: skip
    if rms > 0:
        axes.quiverkey(arrows, 0.86, 1.025, rms, f"rms {rms:.3g} px", labelpos="E", coordinates="axes", color=INK)
    axes.set_title(title)
    _detector_frame(axes, shape)
    return figure


@styled
def growth_curve(radii: FloatArray, fraction: FloatArray, error: FloatArray, *, flux_radius: float, reference: float) -> Figure:
    """Draw the part of a spot's light within each radius, relative to the reference radius, and what is still missing of it."""
    figure = Figure(figsize=(5.7, 3.9))
    growth_axes, missing_axes = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    figure.subplots_adjust(left=0.13, right=0.97, bottom=0.12, top=0.93, hspace=0.08)
    growth_axes.errorbar(radii, fraction, yerr=error, fmt="o-", color=ACCENT, markersize=4, ecolor=INK)
    growth_axes.set(ylabel=f"flux over that within {reference:g} px", title="growth curve, median of bright spots")
    missing_axes.errorbar(radii, 1e3 * (fraction - 1), yerr=1e3 * error, fmt="o-", color=ACCENT, markersize=4, ecolor=INK)
    # What matters is where the curve is flat to the per mil; the core is far below.
    missing_axes.set(xlabel="radius (pixels)", ylabel="minus 1 (‰)", ylim=(-70, 15))
    for axes, level in ((growth_axes, 1.0), (missing_axes, 0.0)):
        axes.axhline(level, color=FAINT, linewidth=0.8)
        axes.axvline(flux_radius, color=ALARM, linestyle="--", linewidth=0.9, label="flux of the catalog")
        plain_axes(axes)
    growth_axes.legend(loc="lower right")
    return figure


@styled
def repeatability(flux: FloatArray, scatter: FloatArray, predicted: FloatArray, *, quantity: str, unit: str) -> Figure:
    """Draw the scatter of each spot over exposures against its predicted error.

    Parameters
    ----------
    flux
        Mean flux of each spot, electrons; orders the points.
    scatter, predicted
        Standard deviation over exposures and root mean square of the predicted errors, in ``unit``.
    quantity
        What is repeated, for the title.
    """
    figure = Figure(figsize=(11.6, 3.9))
    figure.subplots_adjust(left=0.07, right=0.985, bottom=0.14, top=0.91, wspace=0.2)
    flux_axes, ratio_axes = figure.subplots(1, 2)
    known = (flux > 0) & (scatter > 0) & (predicted > 0) & np.isfinite(flux + scatter + predicted)
    order = np.argsort(flux[known])
    flux, scatter, predicted = flux[known][order], scatter[known][order], predicted[known][order]
    size = min(_marker_size(flux.size), _LARGEST_POINT)
    flux_axes.scatter(flux, scatter, s=size, color=ACCENT, linewidths=0, label="scatter over exposures")
    flux_axes.plot(flux, predicted, color=ALARM, linewidth=0.9, label="predicted error")
    flux_axes.set(xlabel="flux (electrons)", ylabel=f"scatter of {quantity} ({unit})")
    flux_axes.set_title(f"repeatability of {quantity}, {flux.size} spots")
    flux_axes.legend(loc="best")
    ratio = scatter / predicted
    ratio_axes.scatter(flux, ratio, s=size, color=ACCENT, linewidths=0)
    ratio_axes.axhline(1.0, color=INK, linewidth=0.7)
    middle = float(np.sqrt(np.mean(ratio**2))) if ratio.size else np.nan
    ratio_axes.set(xlabel="flux (electrons)", ylabel="scatter over predicted error", ylim=(0, None))
    ratio_axes.set_title(f"root mean square ratio {middle:.3f}")
    if flux.size:
        flux_axes.set(xscale="log", yscale="log")
        ratio_axes.set_xscale("log")
    for axes in (flux_axes, ratio_axes):
        plain_axes(axes)
    return figure


@styled
def exposure_scale(time: FloatArray, scale: FloatArray, error: FloatArray, *, time_label: str) -> Figure:
    """Draw the brightness of the lamp in each exposure with its error, relative to its mean."""
    figure = Figure(figsize=(8.0, 2.9))
    axes = figure.add_axes((0.09, 0.17, 0.89, 0.72))
    axes.errorbar(time, 1e3 * (scale - 1), yerr=1e3 * error, fmt="o", color=ACCENT, markersize=3, ecolor=FAINT, elinewidth=0.9)
    axes.axhline(0.0, color=INK, linewidth=0.6)
    axes.set(xlabel=time_label, ylabel="scale minus 1 (‰)", title=f"exposure scale, {len(scale)} exposures")
    plain_axes(axes)
    return figure


@styled
def radial_profiles(radius: FloatArray, profiles: Sequence[RadialProfile]) -> Figure:
    """Draw mean residuals in rings, one panel below the other; ``radius`` in pixels."""
    figure = Figure(figsize=(11.6, 0.8 + 1.6 * len(profiles)))
    figure.subplots_adjust(left=0.08, right=0.985, bottom=0.55 / figure.get_figheight(), top=0.97, hspace=0.12)
    panels = figure.subplots(len(profiles), 1, sharex=True, squeeze=False)[:, 0]
    for axes, profile in zip(panels, profiles, strict=True):
        known = np.isfinite(radius + profile.mean + profile.error)
        if known.any():
            well_known = known & (profile.error <= _WELL_KNOWN * np.median(profile.error[known]))
            reach = 1.1 * float(np.max(np.abs(profile.mean[well_known]) + profile.error[well_known]))
            axes.set_ylim(-reach, reach)
        axes.axhline(0.0, color=INK, linewidth=0.6)
        axes.errorbar(
            radius[known], profile.mean[known], yerr=profile.error[known],
            fmt="o-", color=ACCENT, markersize=2.5, linewidth=0.8, ecolor=FAINT, elinewidth=0.9,
        )  # fmt: skip
        axes.set_ylabel(profile.label)
        plain_axes(axes)
    panels[-1].set_xlabel("distance from the centre (pixels)")
    return figure


def _marker_size(count: int) -> float:
    """Return the area of a marker with which so many points fill a panel without hiding each other."""
    return float(np.clip(2.4e4 / max(count, 1), 3.0, 60.0))


def _detector_frame(axes: Axes, shape: tuple[int, int]) -> None:
    axes.set(xlim=(-0.5, shape[1] - 0.5), ylim=(-0.5, shape[0] - 0.5), xlabel="x (pixels)", ylabel="y (pixels)", aspect="equal")
