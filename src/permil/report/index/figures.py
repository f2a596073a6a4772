"""Figures of the index page: beams, and exposures in time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from astropy.table import unique
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from permil.beam import BeamModel
from permil.report.kit.elements import Picture, drawing, raster
from permil.report.kit.maps import colour_bar, robust_limits, show_image, symmetric_limits
from permil.report.kit.quantities import with_minus
from permil.report.kit.run import RunProducts
from permil.report.kit.style import ACCENT, ALARM, DIVERGING, FAINT, INK, SEQUENTIAL, SPREAD, led_colour, plain_axes, styled

FloatArray = NDArray[np.float64]

_LATTICE = 97
_PROFILE_POINTS = 121
_CONTOURS = (0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
# Nodes of a profile lie within this fraction of the scanned width from its axis.
_NEAR_AXIS = 0.06
# Margin around the outermost nodes, as a fraction of the scanned width.
_NODE_MARGIN = 0.04
_MARKERS = {"scan": ".", "pointing": "o", "other": "x"}


def beam_pictures(beam: BeamModel) -> list[Picture]:
    """Return the pictures of a beam model."""
    content = view_beam(beam)
    return [
        raster(
            beam_maps(content),
            "The beam as a function of position minus projector. Each node is compared with the prediction from all other nodes.",
        ),
        drawing(beam_profiles(content), "Profiles through the maximum, and deviations of the nodes relative to their errors."),
    ]


def timeline_picture(run: RunProducts) -> Picture | None:
    """Return the photodiode against time, None without exposures with an LED."""
    exposures = run.exposures
    if exposures is None:
        return None
    lit = exposures[exposures["led"] != ""]
    series = {}
    for led in dict.fromkeys([*(led.led for led in run.leds), *sorted(set(lit["led"]))]):
        chosen = lit[lit["led"] == led]
        if len(chosen):
            # All detectors of an exposure share one reading.
            chosen = unique(chosen, keys="obsid")
            purpose = np.asarray(chosen["purpose"], dtype=np.str_)
            series[led] = PhotodiodeSeries(np.asarray(chosen["mjd"]), np.asarray(chosen["photodiode"]), purpose)
    if not series:
        return None
    return raster(
        photodiode_timeline(series), "Control photodiode in time; bars at the lower edge mark exposures without a usable reading."
    )


@dataclass(frozen=True)
class Profile:
    """Beam along one axis through its maximum: ``u`` mm, ``beam`` and its standard ``error``, NaN without data."""

    u: FloatArray
    beam: FloatArray
    error: FloatArray


@dataclass(frozen=True)
class BeamView:
    """A beam model on a lattice, with the fitted nodes.

    Attributes
    ----------
    extent
        Left, right, bottom, top of the lattice's cells, mm.
    beam, error
        Beam and its relative error on the lattice, ``[row = u_y, column = u_x]``, NaN without data.
    along_x, along_y
        Profiles through the maximum.
    node_x, node_y
        Positions of the nodes in the beam, mm.
    node_beam
        Signal of each node over the gain of its bunch, on the scale of the beam.
    deviation, pull
        Relative deviation of each node from the prediction of all others, and the same relative to its predicted error.
    outlier
        Nodes that were down-weighted.
    maximum, maximum_error
        Position of the maximum (u_x, u_y) and its standard errors, mm.
    """

    extent: tuple[float, float, float, float]
    beam: FloatArray
    error: FloatArray
    along_x: Profile
    along_y: Profile
    node_x: FloatArray
    node_y: FloatArray
    node_beam: FloatArray
    deviation: FloatArray
    pull: FloatArray
    outlier: NDArray[np.bool_]
    maximum: tuple[float, float]
    maximum_error: tuple[float, float]


def view_beam(model: BeamModel) -> BeamView:
    """Evaluate a beam model for its figures."""
    nodes = model.nodes
    lower, upper = np.array([nodes.ux.min(), nodes.uy.min()]), np.array([nodes.ux.max(), nodes.uy.max()])
    step = (upper - lower) / (_LATTICE - 1)
    ux, uy = (np.linspace(low, high, _LATTICE) for low, high in zip(lower, upper, strict=True))
    beam, error = model.evaluate(ux[None, :], uy[:, None])
    maximum = model.maximum
    deviation, pull = model.left_out_pulls()
    gains = np.array([model.gains[label][0] for label in nodes.bunch.tolist()])
    top, _ = model.predict_signal(maximum.ux, maximum.uy)
    left_out = {outlier.row for outlier in model.outliers}
    return BeamView(
        extent=(lower[0] - step[0] / 2, upper[0] + step[0] / 2, lower[1] - step[1] / 2, upper[1] + step[1] / 2),
        beam=beam,
        error=error / beam,
        along_x=_evaluate_profile(model, np.linspace(lower[0], upper[0], _PROFILE_POINTS), maximum.uy, swap=False),
        along_y=_evaluate_profile(model, np.linspace(lower[1], upper[1], _PROFILE_POINTS), maximum.ux, swap=True),
        node_x=nodes.ux,
        node_y=nodes.uy,
        node_beam=nodes.signal / (gains * float(top)),
        deviation=np.expm1(deviation),
        pull=pull,
        outlier=np.isin(nodes.rows, sorted(left_out)),
        maximum=(maximum.ux, maximum.uy),
        maximum_error=(maximum.ux_err, maximum.uy_err),
    )


def _evaluate_profile(model: BeamModel, u: FloatArray, through: float, *, swap: bool) -> Profile:
    beam, error = model.evaluate(through, u) if swap else model.evaluate(u, through)
    return Profile(u, beam, error)


@styled
def beam_maps(view: BeamView) -> Figure:
    """Draw the beam with contours and nodes, its relative error, and the nodes relative to the prediction of all others."""
    figure = Figure(figsize=(12.0, 3.6))
    figure.subplots_adjust(left=0.05, right=0.925, bottom=0.13, top=0.92, wspace=0.42)
    beam_axes, error_axes, node_axes = figure.subplots(1, 3)
    shown = show_image(beam_axes, view.beam, extent=view.extent, limits=robust_limits(view.beam, percent=0.0), colours=SEQUENTIAL)
    _draw_contours(beam_axes, view)
    beam_axes.plot(view.node_x, view.node_y, ".", color="white", markersize=1.6, alpha=0.6)
    beam_axes.errorbar(
        *view.maximum, xerr=view.maximum_error[0], yerr=view.maximum_error[1], fmt="+", color=ALARM, markersize=9, elinewidth=1.2
    )
    beam_axes.set_title("beam, nodes (white), maximum (red)")
    colour_bar(figure, shown, beam_axes, "beam (maximum = 1)")

    per_mil = 1e3 * view.error
    shown = show_image(error_axes, per_mil, extent=view.extent, limits=(0.0, robust_limits(per_mil)[1]), colours=SPREAD)
    error_axes.set_title("relative error of the model")
    colour_bar(figure, shown, error_axes, "error (‰)")

    deviation = 1e3 * view.deviation
    low, high = symmetric_limits(deviation[~view.outlier], centre=0.0)
    points = node_axes.scatter(
        view.node_x, view.node_y, c=deviation, cmap=DIVERGING, vmin=low, vmax=high, s=14, linewidths=0.3, edgecolors=FAINT
    )
    node_axes.plot(view.node_x[view.outlier], view.node_y[view.outlier], "o", markerfacecolor="none", color=ALARM, markersize=8)
    number = int(view.outlier.sum())
    node_axes.set_title(f"nodes against all others ({number} down-weighted, circled)")
    left, right, bottom, top = view.extent
    margin = _NODE_MARGIN * (right - left)
    node_axes.set(aspect="equal", xlim=(left - margin, right + margin), ylim=(bottom - margin, top + margin))
    colour_bar(figure, points, node_axes, "deviation (‰)")
    for axes in (beam_axes, error_axes, node_axes):
        axes.set(xlabel="u_x (mm, CCS)")
    beam_axes.set_ylabel("u_y (mm, CCS)")
    return figure


@styled
def beam_profiles(view: BeamView) -> Figure:
    """Draw the profiles through the maximum with error bands, and the distribution of the nodes' deviations relative to their errors."""
    figure = Figure(figsize=(12.0, 3.0))
    figure.subplots_adjust(left=0.055, right=0.985, bottom=0.16, top=0.9, wspace=0.25)
    x_axes, y_axes, pull_axes = figure.subplots(1, 3)
    widths = np.ptp(view.node_x), np.ptp(view.node_y)
    near_x = np.abs(view.node_y - view.maximum[1]) < _NEAR_AXIS * widths[1]
    near_y = np.abs(view.node_x - view.maximum[0]) < _NEAR_AXIS * widths[0]
    _draw_profile(x_axes, view.along_x, view.node_x[near_x], view.node_beam[near_x])
    x_axes.set(
        xlabel="u_x (mm, CCS)", ylabel="beam (maximum = 1)", title=with_minus(f"along X at u_y = {view.maximum[1]:.1f} mm")
    )
    _draw_profile(y_axes, view.along_y, view.node_y[near_y], view.node_beam[near_y])
    y_axes.set(
        xlabel="u_y (mm, CCS)", ylabel="beam (maximum = 1)", title=with_minus(f"along Y at u_x = {view.maximum[0]:.1f} mm")
    )
    _draw_pulls(pull_axes, view.pull)
    for axes in (x_axes, y_axes, pull_axes):
        plain_axes(axes)
    return figure


def _draw_contours(axes: Axes, view: BeamView) -> None:
    rows, columns = view.beam.shape
    left, right, bottom, top = view.extent
    levels = [level for level in _CONTOURS if np.nanmin(view.beam) < level < np.nanmax(view.beam)]
    if not levels:
        return
    x = left + (np.arange(columns) + 0.5) * (right - left) / columns
    y = bottom + (np.arange(rows) + 0.5) * (top - bottom) / rows
    lines = axes.contour(x, y, np.ma.masked_invalid(view.beam), levels=levels, colors=INK, linewidths=0.7)
    axes.clabel(lines, fmt="%g", fontsize=7)


def _draw_profile(axes: Axes, profile: Profile, node_u: NDArray[np.float64], node_beam: NDArray[np.float64]) -> None:
    axes.fill_between(
        profile.u, profile.beam - 2 * profile.error, profile.beam + 2 * profile.error, color=ACCENT, alpha=0.3, linewidth=0,
        label="± 2 standard errors",
    )  # fmt: skip
    axes.plot(profile.u, profile.beam, color=ACCENT, label="model")
    axes.plot(node_u, node_beam, ".", color=INK, markersize=3.5, label="nodes near the axis")
    axes.legend(loc="lower center")


def _draw_pulls(axes: Axes, pull: NDArray[np.float64]) -> None:
    edges = np.linspace(-5.0, 5.0, 41)
    axes.hist(np.clip(pull, edges[0], edges[-1]), bins=edges.tolist(), color=FAINT, label="nodes")
    middle = (edges[1:] + edges[:-1]) / 2
    expected = pull.size * (edges[1] - edges[0]) * np.exp(-(middle**2) / 2) / np.sqrt(2 * np.pi)
    axes.plot(middle, expected, color=INK, label="normal, width 1")
    axes.set(xlabel="deviation over predicted error (ends: beyond ± 5)", ylabel="nodes", title="nodes against all others")
    axes.legend(loc="upper left")


@dataclass(frozen=True)
class PhotodiodeSeries:
    """Readings of the photodiode with one LED: ``mjd``, ``reading`` (NaN where unusable) and ``purpose`` of each exposure."""

    mjd: NDArray[np.float64]
    reading: NDArray[np.float64]
    purpose: NDArray[np.str_]


@styled
def photodiode_timeline(series: Mapping[str, PhotodiodeSeries]) -> Figure:
    """Draw the photodiode against time, one panel per LED, relative to its median, separately for scan and pointings.

    Exposures without a usable reading are marked at the lower edge of their panel.
    """
    height = 0.75 + 1.25 * len(series)
    figure = Figure(figsize=(11.6, height))
    figure.subplots_adjust(left=0.085, right=0.985, bottom=0.5 / height, top=1 - 0.3 / height, hspace=0.3)
    panels = figure.subplots(len(series), 1, sharex=True, squeeze=False)[:, 0]
    start = min((float(np.nanmin(entry.mjd)) for entry in series.values() if np.isfinite(entry.mjd).any()), default=0.0)
    for axes, (led, entry) in zip(panels, series.items(), strict=True):
        hours = 24.0 * (entry.mjd - start)
        for purpose, marker in _MARKERS.items():
            chosen = entry.purpose == purpose
            usable = chosen & np.isfinite(entry.reading)
            if usable.any():
                relative = entry.reading[usable] / np.median(entry.reading[usable]) - 1
                size = 3.0 if marker == "." else 4.0
                axes.plot(
                    hours[usable], 1e3 * relative, marker, color=led_colour(led), markeredgecolor=INK, markeredgewidth=0.3,
                    markersize=size, label=purpose,
                )  # fmt: skip
            lost = chosen & ~np.isfinite(entry.reading)
            if lost.any():
                axes.plot(
                    hours[lost], np.zeros(lost.sum()), "|", color=ALARM, markersize=8, transform=axes.get_xaxis_transform(),
                    label=f"{purpose}, unusable",
                )  # fmt: skip
        axes.set_ylabel(f"{led}\nphotodiode (‰)")
        if axes.has_data():
            axes.legend(loc="upper right", ncols=4, borderaxespad=0.0, handletextpad=0.2)
        axes.margins(y=0.25)
        plain_axes(axes)
    panels[0].set_title("photodiode over its median - 1, separately for scan and pointings")
    panels[-1].set_xlabel(f"hours since MJD {start:.5f}")
    return figure
