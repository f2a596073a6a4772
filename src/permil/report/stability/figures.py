"""Figures of the page on stability: curves of light, photodiode, temperatures and amplifiers; superbiases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from permil.report.kit.elements import Picture, raster
from permil.report.kit.figures import (
    ACCENT,
    ALARM,
    DIVERGING,
    FAINT,
    LED_COLOURS,
    colour_bar,
    led_colour,
    plain_axes,
    show_image,
    styled,
    symmetric_limits,
)
from permil.report.stability.inputs import LedStability, SuperbiasStability
from permil.stability.stage import TEMPERATURES

FloatArray = NDArray[np.float64]

_NAMES = {
    "led_temp": "LED, front", "led_back_temp": "LED, back", "sphere_temp": "sphere", "board_temp": "projector board",
    "ccd_temp": "CCDs", "readout_temp": "readout boards",
}  # fmt: skip
_MOST_LINES = 20
_MOST_MAPS = 30
_COLUMNS = 6


def led_picture(led: LedStability) -> Picture:
    """Return the curves of one LED."""
    return raster(
        curves(led),
        "Above: light and photodiode of each exposure over their means, their ratio, and the temperatures of the headers minus their "
        "means. Below: amplifiers, each minus its own mean; the bands hold 68 % and 95 % of them at each exposure, and red lines are those "
        "that change beyond noise. Dashed lines mark jumps beyond noise.",
    )


@styled
def curves(led: LedStability) -> Figure:
    """Draw light, photodiode, ratio, temperatures, fluxes, bias levels and read noise against time."""
    used = led.exposures[np.asarray(led.exposures["is_used"], dtype=bool)]
    hours = _numbers(used, "hours")
    figure = Figure(figsize=(12.0, 10.4))
    figure.subplots_adjust(left=0.07, right=0.985, bottom=0.05, top=0.97, wspace=0.18, hspace=0.42)
    axes = figure.subplots(4, 2).ravel()
    with np.errstate(invalid="ignore", divide="ignore"):
        light, photodiode = np.log(_numbers(used, "light")), np.log(_numbers(used, "photodiode"))
    for own, series, name, values in (
        (axes[0], "light", "light (joint scale)", light),
        (axes[1], "photodiode", "photodiode", photodiode),
        (axes[2], "photodiode_over_light", "photodiode over light", photodiode - light),
    ):
        _points(own, hours, 1e3 * values, led_colour(led.led))
        _mark_jump(own, led, series, used, hours)
        own.set(title=name, ylabel="over its mean - 1 (‰)")
    colours = list(LED_COLOURS.values())
    for colour, name in zip(colours, TEMPERATURES, strict=True):
        values = _numbers(used, name)
        if np.isfinite(values).any():
            axes[3].plot(hours, values - np.nanmean(values), color=colour, linewidth=1.0, label=_NAMES[name])
    axes[3].set(title="temperatures", ylabel="minus the mean (°C)")
    if axes[3].lines:
        axes[3].legend(loc="upper left", ncols=3)
        axes[3].margins(y=0.25)
    scales = dict(zip(used["obsid"], zip(light, photodiode, strict=True), strict=True))
    flux, level = _numbers(led.readings, "flux_over_light"), led.readings
    of_light = np.array([scales.get(obsid, (np.nan, np.nan)) for obsid in level["obsid"]]).reshape(-1, 2)
    for own, series, name, values, unit in (
        (axes[4], "flux", "flux of amplifiers, raw", 1e3 * (flux + of_light[:, 0]), "‰"),
        (
            axes[5],
            "flux_over_photodiode",
            "flux of amplifiers over photodiode",
            1e3 * (flux + of_light[:, 0] - of_light[:, 1]),
            "‰",
        ),
        (axes[6], "overscan_level", "bias level", _numbers(level, "overscan_level"), "adu"),
        (axes[7], "read_noise", "read noise", _numbers(level, "read_noise"), "electrons"),
    ):
        _bands(own, led, series, values)
        own.set(title=name, ylabel=f"minus the mean ({unit})")
    for own in axes:
        own.set_xlabel(led.time_label)
        plain_axes(own)
    return figure


def _numbers(table: Table, name: str) -> FloatArray:
    return np.ma.filled(np.ma.asarray(table[name], dtype=np.float64), np.nan)


def _points(axes: Axes, hours: FloatArray, values: FloatArray, colour: str) -> None:
    known = np.isfinite(values)
    if known.any():
        axes.plot(hours[known], values[known] - values[known].mean(), ".", color=colour, markersize=4)
    else:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=FAINT)


def _mark_jump(axes: Axes, led: LedStability, series: str, used: Table, hours: FloatArray) -> None:
    row = led.result(series, "jump")
    if row is not None and row["called"]:
        place = np.flatnonzero(np.asarray(used["obsid"], dtype=np.str_) == row["at"])
        axes.axvline(float(hours[place[0]]), color=ALARM, linestyle="--", linewidth=1.0)


def _bands(axes: Axes, led: LedStability, series: str, values: FloatArray) -> None:
    """Draw the middle of all amplifiers, and those that change beyond noise."""
    table = led.readings
    names = np.char.add(np.char.add(np.asarray(table["detector"], dtype=np.str_), " "), np.asarray(table["amp"], dtype=np.str_))
    hours, own = np.unique(_numbers(table, "hours"), return_inverse=True)
    amplifiers, number = np.unique(names, return_inverse=True)
    grid = np.full((len(hours), len(amplifiers)), np.nan)
    grid[own, number] = values
    known = np.isfinite(grid)
    if not known.any():
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=FAINT)
        return
    count = known.sum(axis=0)
    grid = grid - np.where(known, grid, 0.0).sum(axis=0) / np.maximum(count, 1)
    some = known.any(axis=1)
    quantiles = np.nanpercentile(grid[some], [2.5, 16, 50, 84, 97.5], axis=1)
    axes.fill_between(hours[some], quantiles[0], quantiles[4], color=FAINT, alpha=0.4, linewidth=0)
    axes.fill_between(hours[some], quantiles[1], quantiles[3], color=FAINT, alpha=0.9, linewidth=0)
    axes.plot(hours[some], quantiles[2], color=ACCENT, linewidth=0.8)
    called = [f"{row['detector']} {row['amp']}" for row in led.amplifiers if row["called"] and row["series"] == series]
    for name in list(dict.fromkeys(called))[:_MOST_LINES]:
        line = grid[:, amplifiers == name][:, 0]
        axes.plot(hours[np.isfinite(line)], line[np.isfinite(line)], color=ALARM, linewidth=0.7)


def superbias_picture(superbiases: Sequence[SuperbiasStability]) -> Picture:
    """Return small images of superbiases."""
    caption = "Superbiases, binned; the colour scale holds 98 % of the pixels of all detectors that are shown."
    if len(superbiases) > _MOST_MAPS:
        caption += f" The first {_MOST_MAPS} of {len(superbiases)} detectors."
    return raster(superbias_maps(superbiases[:_MOST_MAPS]), caption)


@styled
def superbias_maps(superbiases: Sequence[SuperbiasStability]) -> Figure:
    """Draw small images of superbiases."""
    columns = min(_COLUMNS, len(superbiases))
    rows = -(-len(superbiases) // columns)
    figure = Figure(figsize=(12.0 if columns > 2 else 4.2 * columns, 0.4 + (12.0 / _COLUMNS if columns > 2 else 3.6) * rows))
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    limits = symmetric_limits(*(one.image for one in superbiases), centre=0.0)
    for own, one in zip(axes, superbiases, strict=False):
        height, width = one.image.shape
        shown = show_image(own, one.image, extent=(0, width, 0, height), limits=limits, colours=DIVERGING)
        own.set(title=one.detector, xticks=[], yticks=[])
    for own in axes[len(superbiases) :]:
        own.set_axis_off()
    last = axes[len(superbiases) - 1]
    colour_bar(figure, shown, last, "adu")
    figure.tight_layout()
    return figure


def level_picture(superbiases: Sequence[SuperbiasStability]) -> Picture:
    """Return bias level and read noise in each bias exposure."""
    return raster(
        level_figure(superbiases),
        "Bias exposures in order: mean level of the overscan minus its mean, and read noise over its mean, for each amplifier; the bands "
        "hold 68 % and 95 % of all amplifiers.",
    )


@styled
def level_figure(superbiases: Sequence[SuperbiasStability]) -> Figure:
    """Draw levels and read noise of all amplifiers against the number of the bias exposure."""
    figure = Figure(figsize=(12.0, 3.0))
    figure.subplots_adjust(left=0.07, right=0.985, bottom=0.16, top=0.9, wspace=0.18)
    for axes, name, label, title in zip(
        figure.subplots(1, 2),
        ("level", "read_noise"),
        ("minus the mean (adu)", "over the mean - 1 (%)"),
        ("bias level", "read noise"),
        strict=True,
    ):
        longest = max(len(one.level) for one in superbiases)
        parts = []
        for one in superbiases:
            values = getattr(one, name)
            mean = values.mean(axis=0)
            shown = values - mean if name == "level" else 100.0 * (values / np.where(mean > 0, mean, np.nan) - 1.0)
            parts.append(np.pad(shown, ((0, longest - len(shown)), (0, 0)), constant_values=np.nan))
        joined = np.concatenate(parts, axis=1)
        low, lower, middle, upper, high = np.nanpercentile(joined, [2.5, 16, 50, 84, 97.5], axis=1)
        number = np.arange(1, longest + 1)
        axes.fill_between(number, low, high, color=FAINT, alpha=0.4, linewidth=0)
        axes.fill_between(number, lower, upper, color=FAINT, alpha=0.9, linewidth=0)
        axes.plot(number, middle, color=ACCENT)
        axes.set(xlabel="bias exposure", ylabel=label, title=title)
        plain_axes(axes)
    return figure
