"""Figures of the index page: beams, and exposures in time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from astropy.table import unique
from contourpy import contour_generator
from numpy.typing import NDArray

from permil.beam import BeamModel
from permil.report.kit.chart import Chart, chart_picture, colour_of
from permil.report.kit.elements import Picture
from permil.report.kit.figures import (
    ACCENT,
    ALARM,
    DIVERGING,
    FAINT,
    INK,
    SEQUENTIAL,
    SPREAD,
    led_colour,
    robust_limits,
    symmetric_limits,
)
from permil.report.kit.results import with_minus
from permil.report.kit.run import RunProducts

FloatArray = NDArray[np.float64]

_LATTICE = 97
_PROFILE_POINTS = 121
_CONTOURS = (0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
_MOST_NAMED_CONTOUR = 0.95
# Nodes of a profile lie within this fraction of the scanned width from its axis.
_NEAR_AXIS = 0.06
# Margin around the outermost nodes, as a fraction of the scanned width.
_NODE_MARGIN = 0.04
_RADII = {"scan": 1.5, "pointing": 2.5, "other": 2.0}
"""Sizes of points by purpose."""

_MAP, _PROFILE = 246.0, (300.0, 190.0)
"""Width of maps, and size of profiles, pixels."""


def beam_pictures(beam: BeamModel) -> list[Picture]:
    """Return the pictures of a beam model."""
    content = view_beam(beam)
    return [
        chart_picture(
            [beam_maps(content)],
            "The beam as a function of position minus projector. Each node is compared with the prediction from all other nodes.",
        ),
        chart_picture(
            [beam_profiles(content)], "Profiles through the maximum, and deviations of the nodes relative to their errors."
        ),
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
    caption = "Control photodiode in time, over its median separately for scan and pointings; exposures without a usable reading are red."
    return chart_picture([[chart] for chart in photodiode_timeline(series)], caption)


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


def beam_maps(view: BeamView) -> list[Chart]:
    """Draw the beam with contours and nodes, its relative error, and the nodes relative to the prediction of all others."""
    left, right, bottom, top = view.extent
    margin = _NODE_MARGIN * (right - left)
    count = int(view.outlier.sum())
    beam, error, nodes = (
        Chart(
            (_MAP, round(_MAP * (top - bottom) / (right - left), 1)),
            (left - edge, right + edge),
            (bottom - edge, top + edge),
            title=title,
            labels=("u_x (mm, CCS)", label),
        )
        for title, label, edge in (
            ("beam, nodes (white), maximum (red)", "u_y (mm, CCS)", 0.0),
            ("relative error of the model", "", 0.0),
            (f"nodes against all others ({count} down-weighted)", "", margin),
        )
    )
    places = np.column_stack([view.node_x, view.node_y])
    limits = robust_limits(view.beam, percent=0.0)
    beam.image(view.beam, view.extent, limits, SEQUENTIAL, "beam (maximum = 1)")
    _draw_contours(beam, view)
    beam.points(places, "#ffffff90", radius=1.0, is_edged=False)
    (x, y), (x_err, y_err) = view.maximum, view.maximum_error
    beam.line(np.array([x - x_err, x + x_err]), np.array([y, y]), ALARM, width=1.6)
    beam.line(np.array([x, x]), np.array([y - y_err, y + y_err]), ALARM, width=1.6)

    per_mil = 1e3 * view.error
    error.image(per_mil, view.extent, (0.0, robust_limits(per_mil)[1]), SPREAD, "error (‰)")

    deviation = 1e3 * view.deviation
    limits = symmetric_limits(deviation[~view.outlier], centre=0.0)
    nodes.points(places[view.outlier], ALARM, radius=5.5)
    for place, number in zip(places, deviation, strict=True):
        nodes.points(place[None], colour_of(float(number), limits, DIVERGING), radius=3.0)
    nodes.colour_bar(limits, DIVERGING, "deviation (‰)")
    return [beam, error, nodes]


def beam_profiles(view: BeamView) -> list[Chart]:
    """Draw the profiles through the maximum with error bands, and the distribution of the nodes' deviations relative to their errors."""
    charts = []
    for axis, profile, along, across, value in (
        ("X", view.along_x, view.node_x, view.node_y, view.maximum[1]),
        ("Y", view.along_y, view.node_y, view.node_x, view.maximum[0]),
    ):
        near = np.abs(across - value) < _NEAR_AXIS * np.ptp(across)
        charts.append(_profile_chart(axis, profile, np.column_stack([along[near], view.node_beam[near]]), value))
    return [*charts, _pull_chart(view.pull)]


def _draw_contours(chart: Chart, view: BeamView) -> None:
    rows, columns = view.beam.shape
    left, right, bottom, top = view.extent
    x = left + (np.arange(columns) + 0.5) * (right - left) / columns
    y = bottom + (np.arange(rows) + 0.5) * (top - bottom) / rows
    generator = contour_generator(x, y, np.ma.masked_invalid(view.beam))
    for level in _CONTOURS:
        lines = [line for line in generator.lines(level) if isinstance(line, np.ndarray)]
        for line in lines:
            chart.line(line[::2, 0], line[::2, 1], width=0.7)
        if lines and level <= _MOST_NAMED_CONTOUR:
            longest = max(lines, key=len)
            place = longest[np.argmin(longest[:, 1])]
            chart.write((float(place[0]), float(place[1])), f"{level:g}", size=8.5)


def _profile_chart(axis: str, profile: Profile, nodes: FloatArray, through: float) -> Chart:
    low, high = profile.beam - 2 * profile.error, profile.beam + 2 * profile.error
    everything = np.concatenate([low, high, nodes[:, 1]])
    margin = 0.04 * float(np.nanmax(everything) - np.nanmin(everything))
    other = "y" if axis == "X" else "x"
    chart = Chart(
        _PROFILE,
        (float(profile.u[0]), float(profile.u[-1])),
        (float(np.nanmin(everything)) - margin, float(np.nanmax(everything)) + margin),
        title=with_minus(f"along {axis} at u_{other} = {through:.1f} mm"),
        labels=(f"u_{axis.lower()} (mm, CCS)", "beam (maximum = 1)"),
    )
    known = np.isfinite(profile.beam)
    chart.area(profile.u[known], low[known], high[known], ACCENT)
    chart.line(profile.u[known], profile.beam[known], ACCENT)
    chart.points(nodes, INK, radius=1.8, is_edged=False)
    chart.legend([(ACCENT, "model, ± 2 standard errors"), (INK, "nodes")], at_foot=True)
    return chart


def _pull_chart(pull: FloatArray) -> Chart:
    edges = np.linspace(-5.0, 5.0, 41)
    counts, _ = np.histogram(np.clip(pull, edges[0], edges[-1]), bins=edges)
    middle = (edges[1:] + edges[:-1]) / 2
    expected = pull.size * (edges[1] - edges[0]) * np.exp(-(middle**2) / 2) / np.sqrt(2 * np.pi)
    chart = Chart(
        _PROFILE,
        (edges[0], edges[-1]),
        (0.0, 1.15 * float(max(counts.max(), expected.max()))),
        title="nodes against all others",
        labels=("deviation over predicted error (ends: beyond ± 5)", "nodes (number)"),
    )
    chart.steps(edges, counts.astype(np.float64))
    chart.line(middle, expected)
    chart.legend([(FAINT, "nodes"), (INK, "normal, width 1")])
    return chart


@dataclass(frozen=True)
class PhotodiodeSeries:
    """Readings of the photodiode with one LED: ``mjd``, ``reading`` (NaN where unusable) and ``purpose`` of each exposure."""

    mjd: NDArray[np.float64]
    reading: NDArray[np.float64]
    purpose: NDArray[np.str_]


def photodiode_timeline(series: Mapping[str, PhotodiodeSeries]) -> list[Chart]:
    """Draw the photodiode against time, one panel per LED, relative to its median, separately for scan and pointings.

    Exposures without a usable reading are marked at the lower edge of their panel.
    """
    times = np.concatenate([entry.mjd for entry in series.values()])
    start, end = (float(np.nanmin(times)), float(np.nanmax(times))) if np.isfinite(times).any() else (0.0, 0.0)
    span = max(24.0 * (end - start), 1e-3)
    charts: list[Chart] = []
    for led, entry in series.items():
        hours, parts = 24.0 * (entry.mjd - start), {}
        for purpose in _RADII:
            usable = (entry.purpose == purpose) & np.isfinite(entry.reading)
            if usable.any():
                relative = 1e3 * (entry.reading[usable] / np.median(entry.reading[usable]) - 1)
                parts[purpose] = np.column_stack([hours[usable], relative])
        lost = hours[~np.isfinite(entry.reading)]
        reach = 1.25 * max([float(np.abs(part[:, 1]).max()) for part in parts.values()] + [1e-3])
        chart = Chart(
            (1050.0, 84.0),
            (-0.01 * span, 1.01 * span),
            (-reach, reach),
            title=f"LED {led}",
            labels=(f"hours since MJD {start:.5f} (h)" if len(charts) == len(series) - 1 else "", "photodiode (‰)"),
        )
        for purpose, part in parts.items():
            chart.points(part, led_colour(led), radius=_RADII[purpose], is_edged=purpose != "scan")
        chart.points(np.column_stack([lost, np.full(lost.size, -0.93 * reach)]), ALARM, radius=2.5, is_edged=False)
        names = [
            f"{purpose} ({'larger' if purpose == 'pointing' else 'smaller'} points)" for purpose in parts if purpose != "other"
        ]
        chart.legend([(led_colour(led), name) for name in names] + [(ALARM, "unusable")] * bool(lost.size))
        charts.append(chart)
    return charts
