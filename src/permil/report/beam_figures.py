"""Figures of a beam."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from permil.report.beam_view import BeamView, Profile
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

_CONTOURS = (0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
# Nodes of a profile lie within this share of the scanned width of its axis.
_NEAR_AXIS = 0.06


@styled
def beam_maps(view: BeamView) -> Figure:
    """Draw the beam with contours and nodes, its relative error, and the nodes against what all others predict."""
    figure = Figure(figsize=(12.0, 3.6))
    figure.subplots_adjust(left=0.05, right=0.925, bottom=0.13, top=0.92, wspace=0.42)
    beam_axes, error_axes, node_axes = figure.subplots(1, 3)
    shown = show_image(beam_axes, view.beam, extent=view.extent, limits=robust_limits(view.beam, percent=0.0), colours=SEQUENTIAL)
    _contours(beam_axes, view)
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
    node_axes.set(aspect="equal", xlim=view.extent[:2], ylim=view.extent[2:])
    colour_bar(figure, points, node_axes, "deviation (‰)")
    for axes in (beam_axes, error_axes, node_axes):
        axes.set(xlabel="u_x (mm, CCS)")
    beam_axes.set_ylabel("u_y (mm, CCS)")
    return figure


@styled
def beam_profiles(view: BeamView) -> Figure:
    """Draw the profiles through the maximum with error bands, and the distribution of the nodes' deviations over their errors."""
    figure = Figure(figsize=(12.0, 3.0))
    figure.subplots_adjust(left=0.055, right=0.985, bottom=0.16, top=0.9, wspace=0.25)
    x_axes, y_axes, pull_axes = figure.subplots(1, 3)
    widths = np.ptp(view.node_x), np.ptp(view.node_y)
    near_x = np.abs(view.node_y - view.maximum[1]) < _NEAR_AXIS * widths[1]
    near_y = np.abs(view.node_x - view.maximum[0]) < _NEAR_AXIS * widths[0]
    _profile(x_axes, view.along_x, view.node_x[near_x], view.node_beam[near_x])
    x_axes.set(xlabel="u_x (mm, CCS)", ylabel="beam (maximum = 1)", title=f"along X at u_y = {view.maximum[1]:.1f} mm")
    _profile(y_axes, view.along_y, view.node_y[near_y], view.node_beam[near_y])
    y_axes.set(xlabel="u_y (mm, CCS)", ylabel="beam (maximum = 1)", title=f"along Y at u_x = {view.maximum[0]:.1f} mm")
    _pulls(pull_axes, view.pull)
    for axes in (x_axes, y_axes, pull_axes):
        plain_axes(axes)
    return figure


def _contours(axes: Axes, view: BeamView) -> None:
    rows, columns = view.beam.shape
    left, right, bottom, top = view.extent
    levels = [level for level in _CONTOURS if np.nanmin(view.beam) < level < np.nanmax(view.beam)]
    if not levels:
        return
    x = left + (np.arange(columns) + 0.5) * (right - left) / columns
    y = bottom + (np.arange(rows) + 0.5) * (top - bottom) / rows
    lines = axes.contour(x, y, np.ma.masked_invalid(view.beam), levels=levels, colors=INK, linewidths=0.7)
    axes.clabel(lines, fmt="%g", fontsize=7)


def _profile(axes: Axes, profile: Profile, node_u: NDArray[np.float64], node_beam: NDArray[np.float64]) -> None:
    axes.fill_between(
        profile.u, profile.beam - 2 * profile.error, profile.beam + 2 * profile.error, color=ACCENT, alpha=0.3, linewidth=0,
        label="± 2 standard errors",
    )  # fmt: skip
    axes.plot(profile.u, profile.beam, color=ACCENT, label="model")
    axes.plot(node_u, node_beam, ".", color=INK, markersize=3.5, label="nodes near the axis")
    axes.legend(loc="lower center")


def _pulls(axes: Axes, pull: NDArray[np.float64]) -> None:
    edges = np.linspace(-5.0, 5.0, 41)
    axes.hist(np.clip(pull, edges[0], edges[-1]), bins=edges.tolist(), color=FAINT, label="nodes")
    middle = (edges[1:] + edges[:-1]) / 2
    expected = pull.size * (edges[1] - edges[0]) * np.exp(-(middle**2) / 2) / np.sqrt(2 * np.pi)
    axes.plot(middle, expected, color=INK, label="normal, width 1")
    axes.set(xlabel="deviation over predicted error (ends: beyond ± 5)", ylabel="nodes", title="nodes against all others")
    axes.legend(loc="upper left")
