"""Figures of the page of a joint solution: exposures, stage, beam, residuals by frame, modes of correlated errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray

from permil.beam import BeamModel
from permil.beam.model import SplineTable
from permil.camera import Detector
from permil.flat.composite import MosaicGrid, mosaic_grid
from permil.flat.joint.residuals import ResidualMap
from permil.flat.joint.spline import SplineGrid
from permil.flat.joint_residuals import JointResiduals
from permil.report.joint.inputs import JointProducts, mode_sizes
from permil.report.kit import focal_plane
from permil.report.kit.chart import Chart, chart_picture
from permil.report.kit.elements import Picture, raster
from permil.report.kit.figures import (
    ACCENT,
    ALARM,
    DIVERGING,
    FAINT,
    INK,
    SEQUENTIAL,
    colour_bar,
    led_colour,
    plain_axes,
    robust_limits,
    show_image,
    styled,
    symmetric_limits,
)
from permil.report.kit.results import format_measurement, two_digits

FloatArray = NDArray[np.float64]
Mask = NDArray[np.bool_]

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


def stage_picture(products: JointProducts) -> Picture:
    """Return the fitted minus recorded positions of the projector."""
    return raster(
        stage_figure(products),
        "Fitted minus recorded positions of the projector: total, without rotation and scale (one arrow per position), and "
        "those of single exposures with their errors.",
    )


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
    figure = joint_beam_figure(view, _pair(products, "BEAMX", "BEAMY"), _pair(products, "BEAMXERR", "BEAMYERR"))
    return raster(figure, caption)


def reflection_picture(products: JointProducts) -> Picture | None:
    """Return the reflected pattern, None if none was fitted."""
    if products.reflection is None:
        return None
    return raster(
        reflection_figure(products, products.reflection),
        "The pattern that moves against the projector, as a reflection does, fitted together with the beam.",
        narrow=True,
    )


def exposure_picture(products: JointProducts) -> Picture:
    """Return the joint scales, with the photodiode over them if it was used."""
    if not products.has_photodiode:
        return raster(scale_figure(products), "The joint scales with their errors: the light of the LED, exposure by exposure.")
    return raster(
        photodiode_figure(products),
        "Readings of the photodiode over the joint scales, with the error of both; unused readings and exposures that were "
        "left out are red. Points beyond the axes are drawn at their edge.",
    )


def residual_pictures(products: JointProducts, detectors: Sequence[Detector]) -> tuple[Picture, ...]:
    """Return the maps of the residuals, none without signals."""
    if products.residuals is None:
        return ()
    return (
        raster(
            moving_residual_figure(products.residuals, products),
            "Mean residuals in cells of 2 mm that move with the projector, and against it; the chi-square of each exposure at the "
            "position of the projector (the mean residual of an exposure vanishes: its scale absorbs it), crosses "
            "mark exposures left out.",
        ),
        chart_picture(
            [detector_residual_maps(products.residuals, detectors)],
            "By position on the focal plane: mean residual of the later half of the exposures of each detector minus that of the earlier "
            "half, and the chi-square of each super-pixel (the mean residual of all exposures vanishes: the flat absorbs it).",
        ),
    )


def _pair(products: JointProducts, first: str, second: str) -> tuple[float, float]:
    return products.card(first), products.card(second)


@styled
def photodiode_figure(products: JointProducts) -> Figure:
    """Draw photodiode over joint scale against time, its distribution, and against the LED's temperature; the scale against time."""
    time, label = _time(products)
    deviation, error = (1e3 * part for part in products.deviations)
    used = np.isfinite(products.column("deviation")) & ~products.left_out
    reach = _reach(deviation[used], error[used])
    figure = Figure(figsize=(12.0, 6.0))
    figure.subplots_adjust(left=0.06, right=0.985, bottom=0.085, top=0.95, wspace=0.2, hspace=0.38)
    cells = figure.add_gridspec(2, 3)
    time_axes, histogram = figure.add_subplot(cells[0, :2]), figure.add_subplot(cells[0, 2])
    scale_axes, temperature_axes = figure.add_subplot(cells[1, :2]), figure.add_subplot(cells[1, 2])
    _against(time_axes, products, time, deviation, error, reach)
    time_axes.set(xlabel=label, ylabel="photodiode / scale - 1 (‰)", title="photodiode over joint scale")
    time_axes.legend(loc="upper left", ncols=6, handletextpad=0.2, columnspacing=1.0, borderaxespad=0.0)
    time_axes.set_ylim(-reach, 1.25 * reach)
    _histogram(histogram, deviation[used], error[used], reach)
    kept = ~products.left_out
    for purpose, size in _SIZES.items():
        chosen = kept & _of_purpose(products, purpose)
        if chosen.any():
            scale = products.column("scale")[chosen]
            scale_axes.plot(
                time[chosen], 1e3 * (scale / np.median(scale) - 1), "o", color=led_colour(products.led), markeredgecolor=INK,
                markeredgewidth=0.3, markersize=size, label=purpose or "exposures",
            )  # fmt: skip
    median = 1e3 * products.error_of("exposure_scale")
    scale_axes.set(
        xlabel=label,
        ylabel="scale over its median - 1 (‰)",
        title=f"joint scale: the light itself (median error {two_digits(median)} ‰)",
    )
    scale_axes.legend(loc="upper left", ncols=3, handletextpad=0.2, borderaxespad=0.0)
    scale_axes.margins(y=0.2)
    _temperature(temperature_axes, products, deviation, error, reach)
    for axes in (time_axes, histogram, scale_axes, temperature_axes):
        plain_axes(axes)
    return figure


@styled
def scale_figure(products: JointProducts) -> Figure:
    """Draw the joint scales against time, for a solution without photodiode."""
    time, label = _time(products)
    figure = Figure(figsize=(12.0, 3.0))
    figure.subplots_adjust(left=0.06, right=0.985, bottom=0.16, top=0.9)
    axes = figure.subplots()
    kept = ~products.left_out
    scale, error = products.column("scale")[kept], products.column("scale_err")[kept]
    axes.errorbar(
        time[kept], 1e3 * (scale / np.median(scale) - 1), yerr=1e3 * error, fmt=".", color=led_colour(products.led), markersize=4,
        elinewidth=0.5,
    )  # fmt: skip
    axes.set(xlabel=label, ylabel="scale over its median - 1 (‰)", title="joint scale: the light itself")
    plain_axes(axes)
    return figure


@styled
def stage_figure(products: JointProducts) -> Figure:
    """Draw fitted minus recorded positions, with and without rotation and scale, over the focal plane and as a scatter plot."""
    figure = Figure(figsize=(12.4, 4.1))
    figure.subplots_adjust(left=0.055, right=0.985, bottom=0.13, top=0.91, wspace=0.28)
    whole_axes, own_axes, scatter_axes = figure.subplots(1, 3)
    kept = np.flatnonzero(~products.left_out & np.isfinite(products.column("shift_x_mm")))
    recorded = np.column_stack([products.column("x_mm"), products.column("y_mm")])
    first = np.unique(recorded, axis=0, return_index=True)[1]
    moves = np.intersect1d(kept, first)[:_MOST_ARROWS]
    fitted = np.column_stack([products.column("fitted_x_mm"), products.column("fitted_y_mm")])
    shift = 1e3 * np.column_stack([products.column("shift_x_mm"), products.column("shift_y_mm")])
    error = 1e3 * np.column_stack([products.column("shift_x_err_mm"), products.column("shift_y_err_mm")])
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
        for number in (1, 2):
            circle = Circle(
                (0, 0), number * jitter, fill=False, color=ACCENT, linewidth=1.0, linestyle="-" if number == 1 else ":"
            )
            scatter_axes.add_patch(circle)
        scatter_axes.plot([], [], color=ACCENT, label=f"1, 2 × {two_digits(jitter)} µm")  # noqa: RUF001
    reach = 1.3 * float(np.percentile(np.abs(shift[kept]), 99.5)) if kept.size else 1.0
    reach = max(reach, 2.4 * jitter if np.isfinite(jitter) else 0.0, 1e-6)
    scatter_axes.set(
        xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel="along CCS X (µm)", ylabel="along CCS Y (µm)"
    )
    scatter_axes.set_title("single exposures, without rotation and scale")
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


def _of_purpose(products: JointProducts, purpose: str) -> Mask:
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
    if not len(places):
        return
    low, high = places.min(axis=0), places.max(axis=0)
    span = max(float((high - low).max()), 1.0)
    longest = float(np.percentile(np.hypot(*shifts.T), 98))
    if longest > _LEAST_ARROW:
        unit = _round_number(longest)
        arrows = axes.quiver(
            *places.T, *shifts.T, angles="xy", scale_units="xy", scale=longest / (_ARROW * span), width=0.0035, color=INK
        )
        axes.quiverkey(arrows, 0.86, 1.035, unit, f"{unit:g} µm", labelpos="E", coordinates="axes", labelsep=0.05)
    else:
        axes.plot(*places.T, ".", color=INK, markersize=2)
        axes.set_title(f"{title}: none")
    middle = (low + high) / 2
    axes.set(xlim=(middle[0] - 0.6 * span, middle[0] + 0.6 * span), ylim=(middle[1] - 0.6 * span, middle[1] + 0.6 * span))


def _round_number(size: float) -> float:
    """Return the largest of 1, 2, 5 times a power of ten not larger than a size."""
    power = 10.0 ** np.floor(np.log10(size))
    return float(max(step for step in (1.0, 2.0, 5.0) if step * power <= size * (1 + 1e-9)) * power)


@dataclass(frozen=True)
class BeamPicture:
    """A beam on a lattice, ``[row = u_y, column = u_x]``; ``over_scan`` is the scan's model divided by it, minus 1, or None."""

    ux: FloatArray
    uy: FloatArray
    beam: FloatArray
    over_scan: FloatArray | None

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom, top of the lattice's cells."""
        half = (self.ux[1] - self.ux[0]) / 2, (self.uy[1] - self.uy[0]) / 2
        return self.ux[0] - half[0], self.ux[-1] + half[0], self.uy[0] - half[1], self.uy[-1] + half[1]


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
def joint_beam_figure(view: BeamPicture, centre: tuple[float, float], error: tuple[float, float]) -> Figure:
    """Draw the beam with contours and centre, profiles through the centre, and the ratio of the scan's model to it."""
    figure = Figure(figsize=(12.4, 3.7))
    figure.subplots_adjust(left=0.05, right=0.925, bottom=0.13, top=0.92, wspace=0.45)
    map_axes, profile_axes, ratio_axes = figure.subplots(1, 3)
    shown = show_image(map_axes, view.beam, extent=view.extent, limits=robust_limits(view.beam, percent=0.0), colours=SEQUENTIAL)
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
    plain_axes(profile_axes)
    if view.over_scan is None:
        ratio_axes.set_axis_off()
        return figure
    per_mil = 1e3 * view.over_scan
    shown = show_image(ratio_axes, per_mil, extent=view.extent, limits=symmetric_limits(per_mil, centre=0.0), colours=DIVERGING)
    known = np.isfinite(per_mil)
    spread = float(np.std(per_mil[known])) if known.any() else np.nan
    ratio_axes.set(title=f"scan's beam model over it: rms {two_digits(spread)} ‰", xlabel="u_x (mm, CCS)")
    rows, columns = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))
    if rows.size:
        ratio_axes.set(xlim=view.ux[columns[[0, -1]]], ylim=view.uy[rows[[0, -1]]])
    colour_bar(figure, shown, ratio_axes, "scan over joint - 1 (‰)")
    return figure


@styled
def reflection_figure(products: JointProducts, table: SplineTable) -> Figure:
    """Draw the reflected pattern minus its mean where signals were measured (everywhere without residuals)."""
    ux, uy, lit = _lattice(table, products.residuals.reflected if products.residuals is not None else None)
    pattern = np.where(lit, _evaluate(table, ux, uy), np.nan)
    per_mil = 1e3 * (pattern - np.nanmean(pattern))
    figure = Figure(figsize=(6.0, 4.6))
    axes = figure.add_axes((0.13, 0.12, 0.68, 0.8))
    half = (ux[1] - ux[0]) / 2, (uy[1] - uy[0]) / 2
    extent = ux[0] - half[0], ux[-1] + half[0], uy[0] - half[1], uy[-1] + half[1]
    shown = show_image(axes, per_mil, extent=extent, limits=symmetric_limits(per_mil, centre=0.0), colours=DIVERGING)
    axes.set(xlabel="position plus projector, X (mm, CCS)", ylabel="Y (mm, CCS)")
    axes.set_title(f"reflected pattern: rms {two_digits(float(np.nanstd(per_mil)))} ‰")
    colour_bar(figure, shown, axes, "light over its mean - 1 (‰)")
    return figure


@styled
def moving_residual_figure(residuals: JointResiduals, products: JointProducts) -> Figure:
    """Draw residuals that move with the beam and against the projector, and the chi-square of exposures by projector position."""
    figure = Figure(figsize=(12.4, 3.7))
    figure.subplots_adjust(left=0.05, right=0.925, bottom=0.13, top=0.9, wspace=0.5)
    panels = figure.subplots(1, 3)
    for axes, name, found, label in (
        (panels[0], "beam", residuals.beam, "place minus projector"),
        (panels[1], "reflection", residuals.reflected, "place plus projector"),
    ):
        per_mil = 1e3 * found.mean.T
        shown = show_image(axes, per_mil, extent=_extent(found), limits=_around_zero(found), colours=DIVERGING)
        axes.set_title(f"{name}: rms {two_digits(1e3 * found.rms)} ‰, noise {two_digits(1e3 * found.noise)} ‰")
        axes.set(xlabel=f"{label}, X (mm, CCS)")
        colour_bar(figure, shown, axes, "mean residual (‰)")
    kept = ~products.left_out & np.isfinite(products.column("chi_square"))
    chi_square = products.column("chi_square")[kept]
    middle = float(np.median(chi_square)) if chi_square.size else 1.0
    low, high = symmetric_limits(chi_square, centre=middle)
    # Of several exposures at one position, only the last is visible.
    points = panels[2].scatter(
        products.column("x_mm")[kept], products.column("y_mm")[kept], c=chi_square, cmap=DIVERGING, vmin=low, vmax=high, s=16,
        linewidths=0.3, edgecolors=INK,
    )  # fmt: skip
    out = products.left_out
    panels[2].plot(products.column("x_mm")[out], products.column("y_mm")[out], "x", color=ALARM, markersize=8)
    panels[2].set(xlabel="projector, X (mm, CCS)", aspect="equal")
    panels[0].set_ylabel("Y (mm, CCS)")
    panels[2].set_title(f"projector: χ² of exposures, median {middle:.3f}")
    colour_bar(figure, points, panels[2], "χ²")
    return figure


def detector_residual_maps(residuals: JointResiduals, detectors: Sequence[Detector]) -> list[Chart]:
    """Draw the difference of later and earlier exposures, and the chi-square of super-pixels, on the focal plane."""
    grid, mosaic = _mosaic({name: 1e3 * found.change for name, found in residuals.detectors.items()}, detectors)
    rms, noise = residuals.change_rms
    title = f"later minus earlier half: rms {two_digits(1e3 * rms)} ‰, noise {two_digits(1e3 * noise)} ‰"
    change = focal_plane.plane_chart(detectors, _LARGE, title)
    focal_plane.draw_mosaic(change, mosaic, grid, symmetric_limits(mosaic, centre=0.0), DIVERGING, "later - earlier (‰)")
    grid, mosaic = _mosaic({name: found.chi_square for name, found in residuals.detectors.items()}, detectors)
    title = f"χ² of a super-pixel's signals, mean {np.nanmean(mosaic):.3f}"
    chi_square = focal_plane.plane_chart(detectors, _LARGE, title, has_rows=False)
    focal_plane.draw_mosaic(chi_square, mosaic, grid, symmetric_limits(mosaic, centre=1.0), DIVERGING, "χ²")
    for chart in (change, chi_square):
        focal_plane.draw_outlines(chart, detectors, named=True)
    return [change, chi_square]


def mode_maps(products: JointProducts, detectors: Sequence[Detector]) -> list[list[Chart]]:
    """Draw the largest modes of correlated errors over the focal plane, each in the size of one standard deviation."""
    charts = []
    sizes = mode_sizes(products)
    for number in range(min(_MODES_SHOWN, *(len(share.modes) for share in products.detectors.values()))):
        modes = {
            name: np.where(share.remainder > 0, 1e3 * share.modes[number], np.nan) for name, share in products.detectors.items()
        }
        grid, mosaic = _mosaic(modes, detectors)
        title = f"mode {number + 1}: {two_digits(1e3 * sizes[number])} ‰ rms"
        chart = focal_plane.plane_chart(detectors, _SMALL, title, has_rows=number % 3 == 0)
        focal_plane.draw_mosaic(chart, mosaic, grid, symmetric_limits(mosaic, centre=0.0), DIVERGING, "error (‰)")
        focal_plane.draw_outlines(chart, detectors, named=False)
        charts.append(chart)
    return [charts[first : first + 3] for first in range(0, len(charts), 3)]


def _lattice(table: SplineTable, residuals: ResidualMap | None) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
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


def _extent(found: ResidualMap) -> tuple[float, float, float, float]:
    upper = found.lower + found.cell_mm * np.array(found.mean.shape)
    return float(found.lower[0]), float(upper[0]), float(found.lower[1]), float(upper[1])


def _mosaic(maps: Mapping[str, NDArray[np.floating]], detectors: Sequence[Detector]) -> tuple[MosaicGrid, FloatArray]:
    """Return small maps of detectors on the focal plane, in cells of their super-pixels."""
    shown = {detector: maps[detector.name] for detector in detectors if detector.name in maps}
    first = next(iter(shown), detectors[0])
    block = -(-first.ny // shown[first].shape[0]) if shown else first.ny
    grid = mosaic_grid(detectors, block * first.pixel_mm)
    return grid, focal_plane.sample(grid, shown, block_pixels=block)


def _around_zero(found: ResidualMap) -> tuple[float, float]:
    """Return colour limits (per mil) that ignore cells with few signals."""
    half = _COLOUR_REACH * 1e3 * found.rms
    return (-half, half) if half > 0 else (-1.0, 1.0)
