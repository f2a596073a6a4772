"""Figures of the page of many sensors: forest plots, and maps of the residuals of stars on the focal plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from permil.camera import Detector
from permil.flat.composite import mosaic_grid
from permil.report.kit import focal_plane
from permil.report.kit.chart import Chart
from permil.report.kit.figures import DIVERGING, FAINT, INK, led_colour, plain_axes, styled, symmetric_limits

FloatArray = NDArray[np.float64]

_MARKERS = {"E2V": "o", "ITL": "s"}
_COMBINED = "D"
_OTHER_MARKER = "^"
_ROW, _HEAD = 0.24, 1.05
"""Height of a row of a forest plot and of its head and foot, inches."""
_PLANE, _SINGLE = 300.0, 240.0
_MOST_SINGLE = 4
"""Largest number of detectors that are also drawn one by one."""


@dataclass(frozen=True)
class ForestRow:
    """One row of a forest plot: its name, vendor and LED ("" for combined estimates), and values with errors by quantity."""

    name: str
    vendor: str
    led: str
    values: Mapping[str, tuple[float, float]]


@styled
def forest(rows: Sequence[ForestRow], quantities: Mapping[str, tuple[str, Sequence[float]]]) -> Figure:
    """Draw quantities with errors, one row for each sensor and band or combined estimate, from top to bottom.

    Parameters
    ----------
    rows
        Rows; those without an LED are drawn as diamonds.
    quantities
        Title of the panel of each quantity, and reference values to mark.
    """
    height = _HEAD + _ROW * len(rows)
    figure = Figure(figsize=(11.6, height))
    figure.subplots_adjust(left=0.19, right=0.99, bottom=0.5 / height, top=1 - 0.32 / height, wspace=0.09)
    panels = figure.subplots(1, len(quantities), sharey=True, squeeze=False)[0]
    for axes, (quantity, (title, references)) in zip(panels, quantities.items(), strict=True):
        _draw_panel(axes, rows, quantity, references)
        axes.set_title(title)
    places = np.arange(len(rows))
    panels[0].set_yticks(places, [row.name for row in rows])
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    return figure


def _draw_panel(axes: Axes, rows: Sequence[ForestRow], quantity: str, references: Sequence[float]) -> None:
    for reference in references:
        axes.axvline(reference, color=FAINT, linewidth=0.9, linestyle=":")
    ends = []
    for place, row in enumerate(rows):
        value, error = row.values.get(quantity, (np.nan, np.nan))
        if not np.isfinite(value):
            continue
        is_combined = not row.led
        colour = INK if is_combined else led_colour(row.led)
        marker = _COMBINED if is_combined else _MARKERS.get(row.vendor, _OTHER_MARKER)
        axes.errorbar(
            value, place, xerr=error if np.isfinite(error) else None, fmt=marker, color=colour, ecolor=colour, markersize=4.5,
            elinewidth=1.6 if is_combined else 1.1, capsize=2,
        )  # fmt: skip
        ends.append((value, error))
    if ends:
        # Values that are hardly known are ignored for the limits.
        known = np.array([entry for entry in ends if np.isfinite(entry[1])] or ends)
        spread = np.nan_to_num(known[:, 1])
        well = spread <= 6 * np.median(spread)
        low, high = float(np.min((known[:, 0] - spread)[well])), float(np.max((known[:, 0] + spread)[well]))
        margin = 0.12 * max(high - low, 1e-3)
        axes.set_xlim(low - margin, high + margin)
    for place, row in enumerate(rows):
        if place and (row.led == "") != (rows[place - 1].led == ""):
            axes.axhline(place - 0.5, color=FAINT, linewidth=0.7)
    axes.tick_params(axis="y", length=0)
    plain_axes(axes)


def residual_maps(maps: Mapping[Detector, FloatArray], *, cell: int, title: str) -> list[list[Chart]]:
    """Draw the residuals of stars (per mil) on the focal plane; of a few detectors also each one by itself.

    Parameters
    ----------
    maps
        Map of each detector in cells, ``[row, column]``, NaN without stars.
    cell
        Side of a cell, pixels.
    title
        Title of the focal plane.
    """
    detectors = list(maps)
    limits = symmetric_limits(*maps.values(), centre=0.0, percent=3.0)
    grid = mosaic_grid(detectors, cell * detectors[0].pixel_mm)
    plane = focal_plane.plane_chart(detectors, _PLANE, title)
    mosaic = focal_plane.sample(grid, maps, block_pixels=cell)
    focal_plane.draw_mosaic(plane, mosaic, grid, limits, DIVERGING, "residual of stars (‰)")
    focal_plane.draw_outlines(plane, detectors, named=True)
    if len(detectors) == 1 or len(detectors) > _MOST_SINGLE:
        return [[plane]]
    singles = []
    for number, (detector, image) in enumerate(maps.items()):
        single = focal_plane.plane_chart([detector], _SINGLE, f"{detector.name}, {detector.vendor}", has_rows=number == 0)
        own = mosaic_grid([detector], cell * detector.pixel_mm)
        shown = focal_plane.sample(own, {detector: image}, block_pixels=cell)
        focal_plane.draw_mosaic(single, shown, own, limits, DIVERGING, "residual of stars (‰)")
        focal_plane.draw_outlines(single, [detector], named=False)
        singles.append(single)
    return [[plane], singles]
