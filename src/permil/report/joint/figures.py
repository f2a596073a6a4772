"""Figures of the page of a joint solution: exposures, stage, beam, residuals by frame, modes of correlated errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray

from permil.arrays import BoolArray, FloatArray
from permil.beam import BeamModel
from permil.beam.model import SplineTable
from permil.camera import Detector
from permil.flat.composite import MosaicGrid, mosaic_grid
from permil.flat.joint.residuals import JointResiduals, ResidualMap
from permil.flat.joint.spline import SplineGrid
from permil.report.joint.inputs import JointProducts, mode_sizes
from permil.report.kit import focal_plane
from permil.report.kit.chart import Chart, chart_picture
from permil.report.kit.elements import Picture, captioned, raster
from permil.report.kit.figures import (
    ACCENT,
    ALARM,
    DIVERGING,
    FAINT,
    INK,
    SEQUENTIAL,
    colour_bar,
    framed,
    led_colour,
    robust_limits,
    show_image,
    styled,
    subplots,
    symmetric_limits,
)
from permil.report.kit.results import format_measurement, two_digits

_SIZES = {"scan": 2.4, "pointing": 3.8, "": 2.4}
"""Marker sizes by purpose, points."""
_MEANS = 12
_FEWEST_IN_MEAN = 4
_REACH = 5.0
_MARGIN = 1.15
_SHOWN_PERCENT = 98.0
_FEW_HOURS = 3.0
_BINS = 31
_MOST_ARROWS = 1500
_LEAST_ARROW = 1e-3
_ARROW = 0.09
"""Shifts (µm) below which no arrows are drawn; length of the longest arrow over the width of the panel."""
_MODES_SHOWN = 6
_CONTOURS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_LATTICE = 161
_COLOUR_REACH = 3.0
_LARGE, _SMALL = 440.0, 255.0
"""Width of maps of the focal plane, pixels."""


def mode_picture(products: JointProducts, detectors: Sequence[Detector]) -> Picture:
    """Return the maps of the largest modes."""
    return chart_picture(
        mode_maps(products, detectors),
        "The largest modes of the correlated errors of super-pixels, each in the size of one standard deviation: errors have the same "
        "sign in red areas, and the opposite sign in blue ones. The colour scales differ.",
    )


def beam_picture(products: JointProducts, scan: BeamModel | None) -> Picture:
    """Return the beam, and its ratio to the beam model of the scan unless ``scan`` is None."""
    view = view_joint_beam(products, scan)
    caption = "The beam as a function of position minus projector; its centre is the centroid above 0.9 of its maximum."
    if view.over_scan is not None:
        caption += (
            " The ratio to the beam model from the scan alone is the error that dividing by that model would add to the flat."
        )
    return raster(joint_beam_figure(view, products), caption)


def exposure_picture(products: JointProducts) -> Picture:
    """Return the joint scales, with the photodiode over them if it was used."""
    return photodiode_picture(products) if products.has_photodiode else scale_picture(products)


def detector_picture(residuals: JointResiduals, detectors: Sequence[Detector]) -> Picture:
    """Return the maps of the residuals by position on the focal plane."""
    return chart_picture(
        [detector_residual_maps(residuals, detectors)],
        "By position on the focal plane: mean residual of the later half of the exposures of each detector minus that of the earlier "
        "half, and the chi-square of each super-pixel (the mean residual of all exposures vanishes: the flat absorbs it).",
    )


@captioned(
    "Readings of the photodiode over the joint scales, with the error of both; unused readings and exposures that were left out are red. "
    "Points beyond the axes are drawn at their edge."
)
def photodiode_picture(products: JointProducts) -> Figure:
    """Draw photodiode over joint scale against time, its distribution, and against the LED's temperature; the scale against time."""
    time, label = _time(products)
    deviation, error = (1e3 * part for part in products.deviations)
    used = np.isfinite(products.column("deviation")) & ~products.left_out
    reach = _reach(deviation[used], error[used])
    figure, axes = subplots((12.0, 6.0), (0.06, 0.985, 0.085, 0.95), 2, 2, wspace=0.125, hspace=0.38, width_ratios=(2.2, 1.0))
    (time_axes, histogram), (scale_axes, temperature_axes) = axes
    _against(time_axes, products, time, deviation, error, reach)
    time_axes.set(xlabel=label, ylabel="photodiode / scale - 1 (‰)", title="photodiode over joint scale")
    time_axes.legend(loc="upper left", ncols=6, handletextpad=0.2, columnspacing=1.0, borderaxespad=0.0)
    time_axes.set_ylim(-reach, 1.25 * reach)
    _histogram(histogram, deviation[used], error[used], reach)
    for purpose, size in _SIZES.items():
        chosen = ~products.left_out & _of_purpose(products, purpose)
        if chosen.any():
            scale = products.column("scale")[chosen]
            scale_axes.plot(
                time[chosen], 1e3 * (scale / np.median(scale) - 1), "o", color=led_colour(products.led), markeredgecolor=INK,
                markeredgewidth=0.3, markersize=size, label=purpose or "exposures",
            )  # fmt: skip
    title = f"joint scale: the light itself (median error {two_digits(1e3 * products.error_of('exposure_scale'))} ‰)"
    scale_axes.set(xlabel=label, ylabel="scale over its median - 1 (‰)", title=title)
    scale_axes.legend(loc="upper left", ncols=3, handletextpad=0.2, borderaxespad=0.0)
    scale_axes.margins(y=0.2)
    _temperature(temperature_axes, products, deviation, error, reach)
    return figure


@captioned("The joint scales with their errors: the light of the LED, exposure by exposure.")
def scale_picture(products: JointProducts) -> Figure:
    """Draw the joint scales against time, for a solution without photodiode."""
    time, label = _time(products)
    figure, axes = subplots((12.0, 3.0), (0.06, 0.985, 0.16, 0.9))
    kept = ~products.left_out
    scale, error = products.column("scale")[kept], products.column("scale_err")[kept]
    axes.errorbar(
        time[kept], 1e3 * (scale / np.median(scale) - 1), yerr=1e3 * error, fmt=".", color=led_colour(products.led), markersize=4,
        elinewidth=0.5,
    )  # fmt: skip
    axes.set(xlabel=label, ylabel="scale over its median - 1 (‰)", title="joint scale: the light itself")
    return figure


@captioned(
    "Fitted minus recorded positions of the projector: total, without rotation and scale (one arrow per position), and those of single "
    "exposures with their errors."
)
def stage_picture(products: JointProducts) -> Figure:
    """Draw fitted minus recorded positions, with and without rotation and scale, over the focal plane and as a scatter plot."""
    figure, (whole_axes, own_axes, scatter_axes) = subplots((12.4, 4.1), (0.055, 0.985, 0.13, 0.91), 1, 3, wspace=0.28)
    kept = np.flatnonzero(~products.left_out & np.isfinite(products.column("shift_x_mm")))
    recorded, fitted, shift, error = (
        np.column_stack([products.column(name.format(axis)) for axis in "xy"])
        for name in ("{}_mm", "fitted_{}_mm", "shift_{}_mm", "shift_{}_err_mm")
    )
    first = np.unique(recorded, axis=0, return_index=True)[1]
    moves = np.intersect1d(kept, first)[:_MOST_ARROWS]
    shift, error = 1e3 * shift, 1e3 * error
    _arrows(whole_axes, recorded[moves], 1e3 * (fitted - recorded)[moves], "fitted minus recorded position")
    _arrows(own_axes, recorded[moves], shift[moves], "the same without rotation and scale")
    colours = {"scan": INK, "pointing": led_colour(products.led), "": INK}
    for purpose, colour in colours.items():
        chosen = kept[_of_purpose(products, purpose)[kept]]
        if chosen.size:
            scatter_axes.errorbar(
                *shift[chosen].T, xerr=error[chosen, 0], yerr=error[chosen, 1], fmt=".", color=colour, ecolor=FAINT, elinewidth=0.4,
                markersize=3, label=purpose or "exposures",
            )  # fmt: skip
    jitter = 1e3 * products.error_of("position")
    if np.isfinite(jitter):
        for number, style in ((1, "-"), (2, ":")):
            scatter_axes.add_patch(Circle((0, 0), number * jitter, fill=False, color=ACCENT, linewidth=1.0, linestyle=style))
        scatter_axes.plot([], [], color=ACCENT, label=f"1, 2 × {two_digits(jitter)} µm")  # noqa: RUF001
    reach = 1.3 * float(np.percentile(np.abs(shift[kept]), 99.5)) if kept.size else 1.0
    reach = max(reach, 2.4 * jitter if np.isfinite(jitter) else 0.0, 1e-6)
    scatter_axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel="along CCS X (µm)")
    scatter_axes.set(ylabel="along CCS Y (µm)", title="single exposures, without rotation and scale")
    framed(scatter_axes)
    scatter_axes.legend(loc="upper left", borderaxespad=0.0, handletextpad=0.3)
    return figure


def _reach(deviation: FloatArray, error: FloatArray) -> float:
    """Return the limit of axes that show deviations: several errors, or nearly all deviations if these are larger."""
    if not deviation.size:
        return 1.0
    return max(_REACH * float(np.median(error)), _MARGIN * float(np.percentile(np.abs(deviation), _SHOWN_PERCENT)))


def _time(products: JointProducts) -> tuple[FloatArray, str]:
    time = products.column("time")
    if not products.in_hours:
        return time, "exposures in time order"
    hours = 24 * (time - time.min())
    if hours.max() < _FEW_HOURS:
        return 60 * hours, f"minutes since MJD {time.min():.5f}"
    return hours, f"hours since MJD {time.min():.5f}"


def _of_purpose(products: JointProducts, purpose: str) -> BoolArray:
    found = np.asarray(products.exposures["purpose"], dtype=np.str_)
    return found == purpose if purpose else ~np.isin(found, ["scan", "pointing"])


def _against(
    axes: Axes, products: JointProducts, place: FloatArray, deviation: FloatArray, error: FloatArray, reach: float
) -> None:
    """Draw deviations with errors, unused ones in red; points beyond the axes are drawn at their edge."""
    used = np.isfinite(products.column("deviation")) & ~products.left_out
    shown = np.clip(deviation, -0.97 * reach, 0.97 * reach)
    for purpose, size in _SIZES.items():
        chosen = used & _of_purpose(products, purpose)
        if chosen.any():
            axes.errorbar(
                place[chosen], shown[chosen], yerr=error[chosen], fmt="o", color=led_colour(products.led), markeredgecolor=INK,
                markeredgewidth=0.3, markersize=size, ecolor=FAINT, elinewidth=0.4, label=purpose or "exposures", zorder=2,
            )  # fmt: skip
    for name, marker, chosen in (
        ("reading not used", "s", products.unused_reading & ~products.left_out),
        ("left out", "x", products.left_out & np.isfinite(deviation)),
    ):
        if chosen.any():
            axes.plot(
                place[chosen], shown[chosen], marker, color=ALARM, markerfacecolor="none", markersize=7, label=name, zorder=4
            )
    means = _means(place[used], deviation[used], error[used])
    if len(means):
        axes.errorbar(
            means[:, 0], means[:, 1], yerr=means[:, 2], fmt="o", color=INK, markerfacecolor="white", markersize=5, elinewidth=1.1,
            label="means of equal numbers", zorder=3,
        )  # fmt: skip
    axes.axhline(0.0, color=INK, linewidth=0.6, zorder=1)


def _means(place: FloatArray, deviation: FloatArray, error: FloatArray) -> FloatArray:
    """Return place, mean and error of the mean of equal numbers of points, shape (n, 3)."""
    if place.size < 2 * _FEWEST_IN_MEAN:
        return np.zeros((0, 3))
    groups = np.array_split(np.argsort(place, kind="stable"), min(_MEANS, place.size // _FEWEST_IN_MEAN))
    return np.array([(place[g].mean(), deviation[g].mean(), np.sqrt(np.mean(error[g] ** 2) / g.size)) for g in groups])


def _histogram(axes: Axes, deviation: FloatArray, error: FloatArray, reach: float) -> None:
    edges = np.linspace(-reach, reach, _BINS + 1)
    axes.hist(np.clip(deviation, -reach, reach), bins=edges.tolist(), color=FAINT, label=f"{deviation.size} readings")
    middle = (edges[1:] + edges[:-1]) / 2
    width = edges[1] - edges[0]
    expected = np.zeros(middle.size)
    for size in error:
        expected += width * np.exp(-((middle / size) ** 2) / 2) / (size * np.sqrt(2 * np.pi))
    axes.plot(middle, expected, color=INK, label="expected from the errors")
    axes.set(xlabel="photodiode / scale - 1 (‰)", ylabel="readings", title="distribution")
    if deviation.size > 1:
        spread = float(np.std(deviation))
        axes.set_title(f"distribution: rms {format_measurement(spread, spread / np.sqrt(2 * deviation.size))} ‰")
    axes.margins(y=0.3)
    axes.set_ylim(top=1.35 * max(axes.get_ylim()[1] / 1.3, 1.0))
    axes.legend(loc="upper left", borderaxespad=0.0)


def _temperature(axes: Axes, products: JointProducts, deviation: FloatArray, error: FloatArray, reach: float) -> None:
    temperature = products.column("led_temp")
    known = np.isfinite(temperature)
    if not known.any() or np.ptp(temperature[known]) == 0:
        axes.text(
            0.5, 0.5, "the temperature of the LED is unknown\nor constant", transform=axes.transAxes, ha="center", va="center"
        )
        axes.set_axis_off()
        return
    _against(axes, products, temperature, deviation, error, reach)
    axes.set(xlabel="temperature of the LED (°C)", ylabel="photodiode / scale - 1 (‰)", title="over the LED's temperature")
    axes.set_ylim(-reach, reach)


def _arrows(axes: Axes, places: FloatArray, shifts: FloatArray, title: str) -> None:
    """Draw shifts (µm) as arrows at positions (mm), with a scale arrow."""
    axes.set(xlabel="X (mm, CCS)", ylabel="Y (mm, CCS)", title=title, aspect="equal")
    framed(axes)
    if not len(places):
        return
    low, high = places.min(axis=0), places.max(axis=0)
    span = max(float((high - low).max()), 1.0)
    longest = float(np.percentile(np.hypot(*shifts.T), 98))
    if longest > _LEAST_ARROW:
        # The largest of 1, 2, 5 times a power of ten that is not larger.
        power = 10.0 ** np.floor(np.log10(longest))
        unit = float(max(step for step in (1.0, 2.0, 5.0) if step * power <= longest * (1 + 1e-9)) * power)
        arrows = axes.quiver(
            *places.T, *shifts.T, angles="xy", scale_units="xy", scale=longest / (_ARROW * span), width=0.0035, color=INK
        )
        axes.quiverkey(arrows, 0.86, 1.035, unit, f"{unit:g} µm", labelpos="E", coordinates="axes", labelsep=0.05)
    else:
        axes.plot(*places.T, ".", color=INK, markersize=2)
        axes.set_title(f"{title}: none")
    middle = (low + high) / 2
    axes.set(xlim=(middle[0] - 0.6 * span, middle[0] + 0.6 * span), ylim=(middle[1] - 0.6 * span, middle[1] + 0.6 * span))


@dataclass(frozen=True)
class BeamPicture:
    """A beam on a lattice, ``[row = u_y, column = u_x]``; ``over_scan`` is the scan's model divided by it, minus 1, or None."""

    ux: FloatArray
    uy: FloatArray
    beam: FloatArray
    over_scan: FloatArray | None


def view_joint_beam(products: JointProducts, scan: BeamModel | None) -> BeamPicture:
    """Evaluate the beam where signals were measured (everywhere without residuals), and compare it with the scan's model."""
    ux, uy, lit = _lattice(products.beam, products.residuals.beam if products.residuals is not None else None)
    beam = np.where(lit, np.exp(_evaluate(products.beam, ux, uy)), np.nan)
    if scan is None:
        return BeamPicture(ux, uy, beam, None)
    ratio = np.asarray(scan.evaluate(ux[None, :], uy[:, None])[0]) / beam
    known = np.isfinite(ratio) & (beam > 0.5 * np.nanmax(beam))
    return BeamPicture(ux, uy, beam, ratio / np.median(ratio[known]) - 1 if known.any() else None)


@styled
def joint_beam_figure(view: BeamPicture, products: JointProducts) -> Figure:
    """Draw the beam with contours and centre, profiles through the centre, and the ratio of the scan's model to it."""
    figure, (map_axes, profile_axes, ratio_axes) = subplots((12.4, 3.7), (0.05, 0.925, 0.13, 0.92), 1, 3, wspace=0.45)
    centre, error = ([products.card(f"BEAM{axis}{suffix}") for axis in "XY"] for suffix in ("", "ERR"))
    extent = _lattice_extent(view.ux, view.uy)
    shown = show_image(map_axes, view.beam, extent=extent, limits=robust_limits(view.beam, percent=0.0), colours=SEQUENTIAL)
    levels = [level for level in _CONTOURS if np.nanmin(view.beam) < level < np.nanmax(view.beam)]
    if levels:
        lines = map_axes.contour(view.ux, view.uy, np.ma.masked_invalid(view.beam), levels=levels, colors=INK, linewidths=0.7)
        map_axes.clabel(lines, fmt="%g", fontsize=7)
    map_axes.errorbar(*centre, xerr=error[0], yerr=error[1], fmt="+", color=ALARM, markersize=9, elinewidth=1.2)
    map_axes.set(title="beam, centre (red)", xlabel="u_x (mm, CCS)", ylabel="u_y (mm, CCS)")
    colour_bar(figure, shown, map_axes, "beam (maximum = 1)")
    row, column = (int(np.argmin(np.abs(axis - place))) for axis, place in ((view.uy, centre[1]), (view.ux, centre[0])))
    profile_axes.plot(view.ux, view.beam[row], color=ACCENT, label="along X")
    profile_axes.plot(view.uy, view.beam[:, column], color=ALARM, linestyle="--", label="along Y")
    profile_axes.set(xlabel="u (mm, CCS)", ylabel="beam (maximum = 1)", title="profiles through the centre")
    profile_axes.legend(loc="lower center")
    if view.over_scan is None:
        ratio_axes.set_axis_off()
        return figure
    per_mil = 1e3 * view.over_scan
    shown = show_image(ratio_axes, per_mil, extent=extent, limits=symmetric_limits(per_mil, centre=0.0), colours=DIVERGING)
    known = np.isfinite(per_mil)
    spread = float(np.std(per_mil[known])) if known.any() else np.nan
    ratio_axes.set(title=f"scan's beam model over it: rms {two_digits(spread)} ‰", xlabel="u_x (mm, CCS)")
    rows, columns = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))
    if rows.size:
        ratio_axes.set(xlim=view.ux[columns[[0, -1]]], ylim=view.uy[rows[[0, -1]]])
    colour_bar(figure, shown, ratio_axes, "scan over joint - 1 (‰)")
    return figure


@captioned("The pattern that moves against the projector, as a reflection does, fitted together with the beam.", narrow=True)
def reflection_picture(products: JointProducts) -> Figure:
    """Draw the reflected pattern, which was fitted, minus its mean where signals were measured (everywhere without residuals)."""
    (table,) = (table for table, sign in products.light.tables if sign > 0)
    ux, uy, lit = _lattice(table, products.residuals.reflected if products.residuals is not None else None)
    pattern = np.where(lit, _evaluate(table, ux, uy), np.nan)
    per_mil = 1e3 * (pattern - np.nanmean(pattern))
    figure, axes = subplots((6.0, 4.6), (0.13, 0.81, 0.12, 0.92))
    limits = symmetric_limits(per_mil, centre=0.0)
    shown = show_image(axes, per_mil, extent=_lattice_extent(ux, uy), limits=limits, colours=DIVERGING)
    axes.set(xlabel="position plus projector, X (mm, CCS)", ylabel="Y (mm, CCS)")
    axes.set_title(f"reflected pattern: rms {two_digits(float(np.nanstd(per_mil)))} ‰")
    colour_bar(figure, shown, axes, "light over its mean - 1 (‰)")
    return figure


@captioned(
    "Mean residuals in cells of 2 mm that move with the projector, and against it; the chi-square of each exposure at the position of the "
    "projector (the mean residual of an exposure vanishes: its scale absorbs it), crosses mark exposures left out."
)
def moving_picture(residuals: JointResiduals, products: JointProducts) -> Figure:
    """Draw residuals that move with the beam and against the projector, and the chi-square of exposures by projector position."""
    figure, axes_of = subplots((12.4, 3.7), (0.05, 0.925, 0.13, 0.9), 1, 3, wspace=0.5)
    for axes, name, found, label in (
        (axes_of[0], "beam", residuals.beam, "place minus projector"),
        (axes_of[1], "reflection", residuals.reflected, "place plus projector"),
    ):
        left, bottom = found.lower
        right, top = found.lower + found.cell_mm * np.array(found.mean.shape)
        # Cells with few signals are ignored for the limits.
        half = _COLOUR_REACH * 1e3 * found.rms if found.rms > 0 else 1.0
        extent, limits = (float(left), float(right), float(bottom), float(top)), (-half, half)
        shown = show_image(axes, 1e3 * found.mean.T, extent=extent, limits=limits, colours=DIVERGING)
        axes.set_title(f"{name}: rms {two_digits(1e3 * found.rms)} ‰, noise {two_digits(1e3 * found.noise)} ‰")
        axes.set(xlabel=f"{label}, X (mm, CCS)")
        colour_bar(figure, shown, axes, "mean residual (‰)")
    kept = ~products.left_out & np.isfinite(products.column("chi_square"))
    chi_square = products.column("chi_square")[kept]
    middle = float(np.median(chi_square)) if chi_square.size else 1.0
    low, high = symmetric_limits(chi_square, centre=middle)
    # Of several exposures at one position, only the last is visible.
    points = axes_of[2].scatter(
        products.column("x_mm")[kept], products.column("y_mm")[kept], c=chi_square, cmap=DIVERGING, vmin=low, vmax=high, s=16,
        linewidths=0.3, edgecolors=INK,
    )  # fmt: skip
    out = products.left_out
    axes_of[2].plot(products.column("x_mm")[out], products.column("y_mm")[out], "x", color=ALARM, markersize=8)
    axes_of[2].set(xlabel="projector, X (mm, CCS)", aspect="equal", title=f"projector: χ² of exposures, median {middle:.3f}")
    framed(axes_of[2])
    axes_of[0].set_ylabel("Y (mm, CCS)")
    colour_bar(figure, points, axes_of[2], "χ²")
    return figure


def detector_residual_maps(residuals: JointResiduals, detectors: Sequence[Detector]) -> list[Chart]:
    """Draw the difference of later and earlier exposures, and the chi-square of super-pixels, on the focal plane."""
    grid, mosaic = _mosaic({name: 1e3 * found.change for name, found in residuals.detectors.items()}, detectors)
    rms, noise = (two_digits(1e3 * size) for size in residuals.change_rms)
    title, limits = f"later minus earlier half: rms {rms} ‰, noise {noise} ‰", symmetric_limits(mosaic, centre=0.0)
    change = focal_plane.plane_map(title, mosaic, grid, detectors, limits, "later - earlier (‰)")
    grid, mosaic = _mosaic({name: found.chi_square for name, found in residuals.detectors.items()}, detectors)
    title, limits = f"χ² of a super-pixel's signals, mean {np.nanmean(mosaic):.3f}", symmetric_limits(mosaic, centre=1.0)
    return [change, focal_plane.plane_map(title, mosaic, grid, detectors, limits, "χ²", has_rows=False)]


def mode_maps(products: JointProducts, detectors: Sequence[Detector]) -> list[list[Chart]]:
    """Draw the largest modes of correlated errors over the focal plane, each in the size of one standard deviation."""
    charts = []
    sizes = mode_sizes(products)
    for number in range(min(_MODES_SHOWN, *(len(share.modes) for share in products.detectors.values()))):
        modes = {
            name: np.where(share.remainder > 0, 1e3 * share.modes[number], np.nan) for name, share in products.detectors.items()
        }
        grid, mosaic = _mosaic(modes, detectors)
        title, limits = f"mode {number + 1}: {two_digits(1e3 * sizes[number])} ‰ rms", symmetric_limits(mosaic, centre=0.0)
        options: dict[str, Any] = {"width": _SMALL, "has_rows": number % 3 == 0, "named": False}
        charts.append(focal_plane.plane_map(title, mosaic, grid, detectors, limits, "error (‰)", **options))
    return [charts[first : first + 3] for first in range(0, len(charts), 3)]


def _lattice(table: SplineTable, residuals: ResidualMap | None) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Return a lattice over the measured range of a spline, and a mask of its points with signals, ``[row = y, column = x]``."""
    low = table.origin + table.step
    high = table.origin + table.step * (np.array(table.coefficients.shape) - 2)
    if residuals is None or not residuals.mean.size:
        ux, uy = (np.linspace(first, last, _LATTICE) for first, last in zip(low, high, strict=True))
        return ux, uy, np.ones((_LATTICE, _LATTICE), dtype=bool)
    low = np.maximum(low, residuals.lower)
    high = np.minimum(high, residuals.lower + residuals.cell_mm * np.array(residuals.mean.shape))
    ux, uy = (np.linspace(first, last, _LATTICE) for first, last in zip(low, high, strict=True))
    column, row = (
        np.clip(np.floor((places - first) / residuals.cell_mm).astype(np.int64), 0, count - 1)
        for places, first, count in zip((ux, uy), residuals.lower, residuals.mean.shape, strict=True)
    )
    return ux, uy, np.isfinite(residuals.mean)[column[None, :], row[:, None]]


def _evaluate(table: SplineTable, ux: FloatArray, uy: FloatArray) -> FloatArray:
    shape = (table.coefficients.shape[0], table.coefficients.shape[1])
    grid = SplineGrid((float(table.origin[0]), float(table.origin[1])), table.step, shape)
    return grid.evaluate(table.coefficients.ravel(), ux[None, :], uy[:, None])


def _lattice_extent(ux: FloatArray, uy: FloatArray) -> tuple[float, float, float, float]:
    """Return left, right, bottom, top of the cells of a lattice."""
    half = (ux[1] - ux[0]) / 2, (uy[1] - uy[0]) / 2
    return ux[0] - half[0], ux[-1] + half[0], uy[0] - half[1], uy[-1] + half[1]


def _mosaic(maps: Mapping[str, NDArray[np.floating]], detectors: Sequence[Detector]) -> tuple[MosaicGrid, FloatArray]:
    """Return small maps of detectors on the focal plane, in cells of their super-pixels."""
    shown = {detector: maps[detector.name] for detector in detectors if detector.name in maps}
    first = next(iter(shown), detectors[0])
    block = -(-first.ny // shown[first].shape[0]) if shown else first.ny
    grid = mosaic_grid(detectors, block * first.pixel_mm)
    return grid, focal_plane.sample(grid, shown, block_pixels=block)
