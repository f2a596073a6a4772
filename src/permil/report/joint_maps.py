"""Maps of a joint solution: beam, residuals in the frames of beam, detectors and projector, modes of correlated errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from permil.beam.tabulate import SplineTable
from permil.flat.joint.residuals import ResidualMap
from permil.flat.joint.spline import SplineGrid
from permil.flat.joint_residuals import JointResiduals
from permil.flat.mosaic import MosaicGrid, mosaic_grid
from permil.report import focal_plane
from permil.report.focal_plane_figures import MARGIN_MM, frame_axes, show_mosaic, show_outlines
from permil.report.joint_inputs import JointProducts
from permil.report.joint_numbers import two_digits
from permil.report.style import (
    ACCENT,
    ALARM,
    DIVERGING,
    INK,
    SEQUENTIAL,
    colour_bar,
    plain_axes,
    robust_limits,
    show_image,
    styled,
    symmetric_limits,
)

if TYPE_CHECKING:
    from permil.beam import BeamModel
    from permil.camera import Detector

FloatArray = NDArray[np.float64]

MODES_SHOWN = 6
_CONTOURS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_LATTICE = 161
_COLOUR_REACH = 3.0


@dataclass(frozen=True)
class BeamPicture:
    """A beam on a lattice, ``[row = u_y, column = u_x]``; ``over_scan`` is the scan's model over it minus 1, None without a model."""

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
    """Evaluate the beam where there were signals (everywhere if that is not known), and compare it with the scan's model."""
    ux, uy, lit = _lattice(products.beam, products.residuals.beam if products.residuals is not None else None)
    beam = np.where(lit, np.exp(_evaluate(products.beam, ux, uy)), np.nan)
    if scan is None:
        return BeamPicture(ux, uy, beam, None)
    ratio = np.asarray(scan.evaluate(ux[None, :], uy[:, None])[0]) / beam
    known = np.isfinite(ratio) & (beam > 0.5 * np.nanmax(beam))
    return BeamPicture(ux, uy, beam, ratio / np.median(ratio[known]) - 1 if known.any() else None)


@styled
def joint_beam_figure(view: BeamPicture, centre: tuple[float, float], error: tuple[float, float]) -> Figure:
    """Draw the beam with contours and centre, profiles through the centre, and the scan's model over it."""
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
    """Draw the reflected pattern where there were signals (everywhere if that is not known), its mean taken off."""
    ux, uy, lit = _lattice(table, products.residuals.reflected if products.residuals is not None else None)
    pattern = np.where(lit, _evaluate(table, ux, uy), np.nan)
    per_mil = 1e3 * (pattern - np.nanmean(pattern))
    figure = Figure(figsize=(6.0, 4.6))
    axes = figure.add_axes((0.13, 0.12, 0.68, 0.8))
    half = (ux[1] - ux[0]) / 2, (uy[1] - uy[0]) / 2
    extent = ux[0] - half[0], ux[-1] + half[0], uy[0] - half[1], uy[-1] + half[1]
    shown = show_image(axes, per_mil, extent=extent, limits=symmetric_limits(per_mil, centre=0.0), colours=DIVERGING)
    axes.set(xlabel="place plus projector, X (mm, CCS)", ylabel="Y (mm, CCS)")
    axes.set_title(f"reflected pattern: rms {two_digits(float(np.nanstd(per_mil)))} ‰")
    colour_bar(figure, shown, axes, "light over its mean - 1 (‰)")
    return figure


@styled
def moving_residual_figure(residuals: JointResiduals, products: JointProducts) -> Figure:
    """Draw residuals that move with the beam and against the projector, and how exposures fit by where the projector stood."""
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
    # Several exposures of one place lie on each other: the last is seen.
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


@styled
def detector_residual_figure(residuals: JointResiduals, detectors: Sequence[Detector]) -> Figure:
    """Draw, by place on the focal plane, how later exposures differ from earlier ones, and the chi-square of super-pixels."""
    figure, (change_axes, chi_axes) = _panels(detectors, 1, 2)
    change = {name: 1e3 * found.change for name, found in residuals.detectors.items()}
    grid, mosaic = _mosaic(change, detectors)
    shown = show_mosaic(change_axes, mosaic, grid, limits=symmetric_limits(mosaic, centre=0.0), colours=DIVERGING)
    rms, noise = residuals.change_rms
    change_axes.set_title(f"later minus earlier half: rms {two_digits(1e3 * rms)} ‰, noise {two_digits(1e3 * noise)} ‰")
    colour_bar(figure, shown, change_axes, "later - earlier (‰)")
    grid, mosaic = _mosaic({name: found.chi_square for name, found in residuals.detectors.items()}, detectors)
    shown = show_mosaic(chi_axes, mosaic, grid, limits=symmetric_limits(mosaic, centre=1.0), colours=DIVERGING)
    chi_axes.set_title(f"χ² of a super-pixel's signals, mean {np.nanmean(mosaic):.3f}")
    colour_bar(figure, shown, chi_axes, "χ²")
    for axes in (change_axes, chi_axes):
        show_outlines(axes, detectors, named=True)
        frame_axes(axes, detectors)
    chi_axes.set_ylabel("")
    return figure


@styled
def mode_figure(products: JointProducts, detectors: Sequence[Detector]) -> Figure:
    """Draw the largest modes of correlated errors over the focal plane, each in the size of one standard deviation."""
    count = min(MODES_SHOWN, *(len(share.modes) for share in products.detectors.values()))
    figure, panels = _panels(detectors, -(-count // 3), min(count, 3))
    sizes = mode_sizes(products)
    for number, axes in enumerate(panels):
        if number >= count:
            axes.set_axis_off()
            continue
        modes = {
            name: np.where(share.remainder > 0, 1e3 * share.modes[number], np.nan) for name, share in products.detectors.items()
        }
        grid, mosaic = _mosaic(modes, detectors)
        shown = show_mosaic(axes, mosaic, grid, limits=symmetric_limits(mosaic, centre=0.0), colours=DIVERGING)
        axes.set_title(f"mode {number + 1}: {two_digits(1e3 * sizes[number])} ‰ rms")
        colour_bar(figure, shown, axes, "error (‰)")
        show_outlines(axes, detectors, named=False)
        frame_axes(axes, detectors)
        if number % 3:
            axes.set_ylabel("")
    return figure


def mode_sizes(products: JointProducts) -> FloatArray:
    """Return the root mean square of each mode over all super-pixels with a response."""
    total, count = 0.0, 0
    for share in products.detectors.values():
        known = share.remainder > 0
        total = total + np.square(share.modes[:, known], dtype=np.float64).sum(axis=1)
        count += int(known.sum())
    return np.sqrt(np.atleast_1d(total) / max(count, 1))


def _lattice(table: SplineTable, residuals: ResidualMap | None) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
    """Return a lattice over a spline, as far as there were signals, and where on it there were, ``[row = y, column = x]``."""
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
    """Return colour limits (per mil) that cells with few signals do not widen."""
    half = _COLOUR_REACH * 1e3 * found.rms
    return (-half, half) if half > 0 else (-1.0, 1.0)


def _panels(detectors: Sequence[Detector], rows: int, columns: int) -> tuple[Figure, list[Axes]]:
    left, right, bottom, top = focal_plane.bounds(detectors, MARGIN_MM)
    width = 4.7 if columns == 2 else 3.0
    height = float(np.clip(width * (top - bottom) / (right - left), 2.0, 7.5)) + 0.85
    figure = Figure(figsize=(12.4, height * rows))
    right_edge, gap = (0.93, 0.36) if columns == 2 else (0.915, 0.55)
    total = height * rows
    figure.subplots_adjust(
        left=0.055, right=right_edge, bottom=0.5 / total, top=1 - 0.35 / total, wspace=gap, hspace=0.85 / (height - 0.85)
    )
    return figure, list(np.ravel(figure.subplots(rows, columns, squeeze=False)))
