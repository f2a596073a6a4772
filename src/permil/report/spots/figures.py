"""Figures of the page of artificial stars, in the pixel frame of the detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from permil.arrays import FloatArray
from permil.camera import Detector
from permil.report.kit.elements import Picture, drawing, raster
from permil.report.kit.figures import (
    ACCENT,
    ALARM,
    DIVERGING,
    FAINT,
    INK,
    SEQUENTIAL,
    SPREAD,
    colour_bar,
    detector_frame,
    displacement_figure,
    displacement_of_maps,
    robust_limits,
    show_image,
    styled,
    subplots,
    symmetric_limits,
)
from permil.report.kit.results import format_count, format_measurement
from permil.report.spots.inputs import GrowthProduct, MaskCalibration, SpotsProducts

WIDTH_CAPTION = (
    "The width is sqrt((XX + YY) / 2), the root mean square radius per axis, in pixels; it includes the extent of the pixel. "
    "sqrt(XX^2 + YY^2), which is often plotted instead, is a squared length: it scales with the square of the width, so that a change "
    "of 1 % in width appears as 2 %, and its unit is pixel^2."
)
"""Caption of the two scatter plots."""

_MAPS_PER_ROW = 3
_EDGE_PERCENT = 3.0
"""Percentage of cells beyond the colour limits: those at the edge of a map have few measurements."""
_WELL_KNOWN = 3.0
"""Rings with an error above this many median errors are ignored for the limits of a panel."""
_LARGEST_POINT = 12.0
_MAPS = (
    ("FLUX", "flux, measured over predicted - 1", "‰"),
    ("DX", "dx", "10⁻³ px"),
    ("DY", "dy", "10⁻³ px"),
    ("XX", "XX", "10⁻³ px²"),
    ("YY", "YY", "10⁻³ px²"),
    ("XY", "XY", "10⁻³ px²"),
)
_PROFILES = (
    ("flux", "flux (‰)"),
    ("radial", "radial shift\n(10⁻³ px)"),
    ("tangential", "tangential shift\n(10⁻³ px)"),
    ("rr", "radial moment\n(10⁻³ px²)"),
)
_UNITS = {"electron": "electrons", "count": "counts"}


def mask_pictures(products: SpotsProducts, detector: Detector, absent: list[str]) -> list[Picture]:
    """Return fluxes and widths, distortion and growth curve of the mask; append the names of those that cannot be drawn to ``absent``."""
    pictures: list[Picture] = []
    if products.calibration is None:
        made_with = products.header.get("CALIB")
        absent.append("a calibration of these exposures" + (f": {made_with} was applied" if made_with else ""))
    elif products.reference is None:
        absent.append("an exposure with a grid: spots cannot be placed on the sensor")
    else:
        pictures += _calibrated_pictures(products.calibration, products.exposures[products.reference], detector)
    if products.growth is None:
        absent.append("a growth curve: only catalogs measured by permil have one")
    else:
        pictures.append(_growth_picture(products.growth))
    return pictures


def sensor_pictures(products: SpotsProducts, detector: Detector) -> list[Picture]:
    """Return the pictures of the residuals on the sensor."""
    maps, cell = products.maps, products.cell
    rows, columns = maps["FLUX"].shape
    extent = (-0.5, columns * cell - 0.5, -0.5, rows * cell - 0.5)
    shown = [SensorMap(title, 1e3 * maps[name], label) for name, title, label in _MAPS]
    caption = (
        f"Residuals of the measurements from the means of their spots and exposures, averaged over cells of {cell} pixels. Positions and "
        "moments are measured minus expected."
    )
    if products.header.get("MODE") == "fixed":
        caption += (
            " All exposures are at one position: the means of the spots absorb the effect of the sensor, and only noise remains."
        )
    pictures = [raster(residual_maps(shown, extent=extent), caption)]
    pictures.append(_displacement_picture(products, detector))
    quality = [SensorMap("error of the flux cells", 1e3 * maps["FLUX_ERR"], "‰")]
    if "MODEL" in maps:
        model = [SensorMap("throughput of the joint fit, minus 1", 1e3 * maps["MODEL"], "‰")]
        caption = (
            "Throughput of the sensor from the joint fit of spots, exposures and throughput; its mean and gradient are set to 0."
        )
        pictures.append(raster(residual_maps(model, extent=extent), caption, narrow=True))
        quality.append(SensorMap("error of the joint fit", 1e3 * maps["MODEL_ERR"], "‰"))
    count = np.where(maps["FLUX_N"] > 0, maps["FLUX_N"], np.nan)
    quality.append(SensorMap(f"{format_count(int(np.nansum(count)))} measurements", count, "per cell"))
    caption = "Errors of the flux residuals, and numbers of measurements."
    pictures.append(raster(quality_maps(quality, extent=extent), caption))
    if products.profile is not None:
        pictures.append(_profile_picture(products.profile, products))
    return pictures


def repeatability_picture(products: SpotsProducts) -> Picture | None:
    """Return the scatter of each spot over exposures with its error, None for exposures at different positions."""
    calibration = products.calibration
    if calibration is None or calibration.repeatability is None:
        return None
    table, header = calibration.repeatability, calibration.header
    flux, scatter, predicted = (
        np.asarray(column, dtype=float) for column in (calibration.spots["flux"], table["scatter"], table["predicted"])
    )
    figure = repeatability(flux, 1e3 * scatter, 1e3 * predicted, quantity="flux", unit="‰")
    return drawing(
        figure,
        f"Relative scatter of each spot over {len(products.exposures)} exposures at one position, divided by the exposure scales, and the "
        f"predicted errors of the fluxes. The median ratio is {format_measurement(float(header['SCATRAT']), float(header['SCATRERR']))}.",
    )


def lamp_picture(products: SpotsProducts) -> Picture | None:
    """Return the exposure scales against time, or in order if times are unknown; None without scales."""
    table = products.exposures
    scale, error, mjd = (np.asarray(table[name], dtype=float) for name in ("scale", "scale_err", "mjd"))
    if not np.isfinite(scale).any():
        return None
    timed = bool(np.isfinite(mjd).all()) and float(np.ptp(mjd)) > 0
    time = 1440 * (mjd - mjd.min()) if timed else np.arange(len(scale), dtype=float)
    figure = exposure_scale(time, scale, error, time_label="minutes since the first exposure" if timed else "exposure")
    return drawing(figure, "Brightness of the lamp in each exposure, from all its spots; the mean is set to 1.")


def _calibrated_pictures(calibration: MaskCalibration, exposure: Table.Row, detector: Detector) -> list[Picture]:
    spots, shape = calibration.spots, detector.shape
    place, regular = calibration.places(exposure)
    inside = ((place > -0.5) & (place < [detector.nx - 0.5, detector.ny - 0.5])).all(axis=1)
    (x, y), (dx, dy) = place[inside].T, (place - regular)[inside].T
    flux, xx, yy = (np.asarray(spots[name], dtype=float)[inside] for name in ("flux", "xx", "yy"))
    unit = str(calibration.header["FLUXUNIT"])
    return [
        raster(
            fluxes_and_widths(x, y, flux, xx, yy, shape=shape, unit=_UNITS.get(unit, unit)),
            f"Mean fluxes and widths of the spots, at their positions in exposure {exposure['exposure']}, whose "
            f"grid is nearest to the centre "
            f"of the sensor ({int(inside.sum())} of the mask's {len(spots)} spots). {WIDTH_CAPTION}",
        ),
        raster(
            displacement_figure(x, y, dx, dy, shape=shape, title="distortion: spots minus regular grid"),
            "Mean positions of the spots minus the nodes of a regular grid (centre, two steps and an angle are fitted): the distortion "
            "of the optics, and displaced pinholes.",
            narrow=True,
        ),
    ]


def _growth_picture(growth: GrowthProduct) -> Picture:
    columns = (np.asarray(growth.table[name], dtype=float) for name in ("radius", "fraction", "error"))
    figure = growth_curve(*columns, flux_radius=growth.flux_radius, reference=growth.reference)
    return drawing(
        figure,
        f"Light fraction within each radius, median of {growth.spots} bright spots of exposure {growth.exposure}. If the curve is not flat "
        "at the dashed line, a change of focus changes the flux.",
        narrow=True,
    )


def _displacement_picture(products: SpotsProducts, detector: Detector) -> Picture:
    dx, dy, title = products.maps["DX"], products.maps["DY"], "shift by the sensor: measured minus expected"
    figure = displacement_of_maps(dx, dy, products.cell, shape=detector.shape, title=title)
    return raster(
        figure, "The maps of dx and dy as arrows: displacement of the charge from the position of the light.", narrow=True
    )


def _profile_picture(profile: Table, products: SpotsProducts) -> Picture:
    profiles = [
        RadialProfile(label, *(1e3 * np.asarray(profile[column], dtype=float) for column in (name, f"{name}_err")))
        for name, label in _PROFILES
    ]
    centre = ", ".join(f"{float(products.header[card]):g}" for card in ("RINGX", "RINGY"))
    return drawing(
        radial_profiles(np.asarray(profile["radius"], dtype=float), profiles),
        f"Mean residuals in rings around ({centre}), the centre of the tree rings.",
    )


@dataclass(frozen=True)
class SensorMap:
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
    """Draw the fluxes and the widths of spots at their positions; the caption is `WIDTH_CAPTION`.

    Parameters
    ----------
    x, y
        Positions, pixels.
    flux
        Fluxes in ``unit``; colours are logarithmic, and spots without a positive flux are skipped.
    xx, yy
        Second moments, pixel^2.
    shape
        Rows and columns of the detector.
    """
    figure, (flux_axes, width_axes) = subplots((11.6, 5.0), (0.06, 0.915, 0.1, 0.94), 1, 2, wspace=0.34)
    width = spot_width(xx, yy)
    lit, measured = np.isfinite(flux) & (flux > 0), np.isfinite(width)
    size = _marker_size(len(x))
    # The limits of a logarithmic scale must differ.
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
        detector_frame(axes, shape)
    return figure


@styled
def residual_maps(maps: Sequence[SensorMap], *, extent: tuple[float, float, float, float]) -> Figure:
    """Draw maps of residuals, each around zero; ``extent`` is left, right, bottom, top in pixels."""
    return _map_panels(maps, extent, around_zero=True)


@styled
def quality_maps(maps: Sequence[SensorMap], *, extent: tuple[float, float, float, float]) -> Figure:
    """Draw maps of errors and counts, each with its own colour range; ``extent`` as for `residual_maps`."""
    return _map_panels(maps, extent, around_zero=False)


def _map_panels(maps: Sequence[SensorMap], extent: tuple[float, float, float, float], *, around_zero: bool) -> Figure:
    columns = min(max(len(maps), 1), _MAPS_PER_ROW)
    rows = -(-max(len(maps), 1) // columns)
    width, height = 0.7 + 3.9 * columns, 0.6 + 3.1 * rows
    margins = (0.65 / width, 1 - 0.85 / width, 0.5 / height, 1 - 0.3 / height)
    figure, axes_of = subplots((width, height), margins, rows, columns, wspace=0.55, hspace=0.28, squeeze=False)
    for number, axes in enumerate(axes_of.flat):
        if number >= len(maps):
            axes.set_axis_off()
            continue
        content = maps[number]
        limits = robust_limits(content.image, percent=_EDGE_PERCENT)
        if around_zero:
            limits = symmetric_limits(content.image, centre=0.0, percent=_EDGE_PERCENT)
        shown = show_image(axes, content.image, extent=extent, limits=limits, colours=DIVERGING if around_zero else SPREAD)
        axes.set(title=content.title, xlabel="x (pixels)", ylabel="y (pixels)" if number % columns == 0 else "")
        colour_bar(figure, shown, axes, content.label)
    return figure


@styled
def growth_curve(radii: FloatArray, fraction: FloatArray, error: FloatArray, *, flux_radius: float, reference: float) -> Figure:
    """Draw the fraction of a spot's light within each radius, relative to the reference radius, and its deviation from 1."""
    figure, (growth_axes, missing_axes) = subplots(
        (5.7, 3.9), (0.13, 0.97, 0.12, 0.93), 2, hspace=0.08, sharex=True, height_ratios=(2, 1)
    )
    growth_axes.errorbar(radii, fraction, yerr=error, fmt="o-", color=ACCENT, markersize=4, ecolor=INK)
    growth_axes.set(ylabel=f"flux over that within {reference:g} px", title="growth curve, median of bright spots")
    missing_axes.errorbar(radii, 1e3 * (fraction - 1), yerr=1e3 * error, fmt="o-", color=ACCENT, markersize=4, ecolor=INK)
    # The range shows where the curve is flat at the per-mil level; the core is far below.
    missing_axes.set(xlabel="radius (pixels)", ylabel="minus 1 (‰)", ylim=(-70, 15))
    for axes, level in ((growth_axes, 1.0), (missing_axes, 0.0)):
        axes.axhline(level, color=FAINT, linewidth=0.8)
        axes.axvline(flux_radius, color=ALARM, linestyle="--", linewidth=0.9, label="flux of the catalog")
    growth_axes.legend(loc="lower right")
    return figure


@styled
def repeatability(flux: FloatArray, scatter: FloatArray, predicted: FloatArray, *, quantity: str, unit: str) -> Figure:
    """Draw the scatter of each spot over exposures and its predicted error.

    Parameters
    ----------
    flux
        Mean flux of each spot, electrons; orders the points.
    scatter, predicted
        Standard deviation over exposures and root mean square of the predicted errors, in ``unit``.
    quantity
        Name of the quantity, for the title.
    """
    figure, (flux_axes, ratio_axes) = subplots((11.6, 3.9), (0.07, 0.985, 0.14, 0.91), 1, 2, wspace=0.2)
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
    return figure


@styled
def exposure_scale(time: FloatArray, scale: FloatArray, error: FloatArray, *, time_label: str) -> Figure:
    """Draw the brightness of the lamp in each exposure with its error, relative to its mean."""
    figure, axes = subplots((8.0, 2.9), (0.09, 0.98, 0.17, 0.89))
    axes.errorbar(time, 1e3 * (scale - 1), yerr=1e3 * error, fmt="o", color=ACCENT, markersize=3, ecolor=FAINT, elinewidth=0.9)
    axes.axhline(0.0, color=INK, linewidth=0.6)
    axes.set(xlabel=time_label, ylabel="scale minus 1 (‰)", title=f"exposure scale, {len(scale)} exposures")
    return figure


@styled
def radial_profiles(radius: FloatArray, profiles: Sequence[RadialProfile]) -> Figure:
    """Draw mean residuals in rings, one panel below the other; ``radius`` in pixels."""
    height = 0.8 + 1.6 * len(profiles)
    margins = (0.08, 0.985, 0.55 / height, 0.97)
    figure, axes_of = subplots((11.6, height), margins, len(profiles), hspace=0.12, sharex=True, squeeze=False)
    for axes, profile in zip(axes_of[:, 0], profiles, strict=True):
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
    axes_of[-1, 0].set_xlabel("distance from the centre (pixels)")
    return figure


def _marker_size(count: int) -> float:
    """Return the area of markers that fill a panel without hiding each other."""
    return float(np.clip(2.4e4 / max(count, 1), 3.0, 60.0))
