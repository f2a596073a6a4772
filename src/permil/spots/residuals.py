"""Tables of spots and exposures, the residual of each measurement, and the repeatability at one position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from permil.arrays import BoolArray, FloatArray, IntArray
from permil.errors import SpotError
from permil.spots.grid_fit import RigidGrid
from permil.spots.measurements import Measurements, grouped_median
from permil.spots.positions import SpotPlaces, position_residuals

MOMENTS = ("xx", "yy", "xy")

LEAST_EXPOSURES = 3


@dataclass(frozen=True)
class SpotTable:
    """Results for each spot of a mask; arrays of shape (spots,), spot ``grid_i * rows + grid_j``.

    Attributes
    ----------
    flux, flux_error
        Flux at exposure scale 1 and throughput 1, and its error.
    flux_count
        Number of measurements.
    places
        Shift from the regular node, pixels.
    moments, moment_errors
        xx, yy, xy by name, pixel^2.
    """

    flux: FloatArray
    flux_error: FloatArray
    flux_count: IntArray
    places: SpotPlaces
    moments: dict[str, FloatArray]
    moment_errors: dict[str, FloatArray]


@dataclass(frozen=True)
class ExposureTable:
    """Results for each exposure; arrays of shape (exposures,).

    Attributes
    ----------
    names, mjd, projector
        As in `Measurements`.
    scale, scale_error
        Relative brightness and its error.
    grids
        Five parameters, None with too few spots.
    offsets, offset_errors
        Common change of xx, yy, xy by name, pixel^2.
    """

    names: tuple[str, ...]
    mjd: FloatArray
    projector: FloatArray
    scale: FloatArray
    scale_error: FloatArray
    grids: tuple[RigidGrid | None, ...]
    offsets: dict[str, FloatArray]
    offset_errors: dict[str, FloatArray]

    @property
    def centres(self) -> FloatArray:
        """Centre of the grid of each exposure on the detector, shape (exposures, 2), pixels."""
        return np.array([(np.nan, np.nan) if grid is None else (grid.x0, grid.y0) for grid in self.grids])


@dataclass(frozen=True)
class Residuals:
    """Residuals of all measurements; arrays of shape (n,) in the order of the measurements.

    Attributes
    ----------
    spot, exposure, x, y
        Spot, exposure and position of the measurement.
    flux, flux_error
        Ratio: measured over predicted flux (spot times exposure) minus 1: the relative throughput.
    flux_difference, flux_difference_error
        ``dflux = flux - mean``: measured minus predicted flux.
    dx, dy, xx, yy, xy
        Measured minus expected position (pixels) and moments (pixel^2).
    errors
        Errors of dx, dy, xx, yy, xy by name: reported by the catalogs, else the scatter.
    expected
        Expected flux, xx, yy, xy by name.
    background
        Subtracted background under the spot, per pixel; NaN where unknown.
    used
        Good measurements that are not outliers in flux.
    """

    spot: IntArray
    exposure: IntArray
    x: FloatArray
    y: FloatArray
    flux: FloatArray
    flux_error: FloatArray
    flux_difference: FloatArray
    flux_difference_error: FloatArray
    dx: FloatArray
    dy: FloatArray
    xx: FloatArray
    yy: FloatArray
    xy: FloatArray
    errors: dict[str, FloatArray]
    expected: dict[str, FloatArray]
    background: FloatArray
    used: BoolArray


def residuals_of(
    measurements: Measurements, spots: SpotTable, exposures: ExposureTable, sigma: FloatArray, used: BoolArray
) -> Residuals:
    """Return the residuals of measurements relative to spots and exposures.

    Parameters
    ----------
    sigma : ndarray, shape (n,)
        Expected errors of the fluxes.
    used : ndarray, shape (n,)
        Good measurements that are not outliers.
    """
    spot, exposure, quantities = measurements.spot, measurements.exposure, measurements.quantities
    predicted = spots.flux[spot] * exposures.scale[exposure]
    shift = position_residuals(measurements, spots.places, exposures.grids)
    expected = {name: spots.moments[name][spot] + exposures.offsets[name][exposure] for name in MOMENTS}
    moments = {name: quantities[name] - expected[name] for name in MOMENTS}
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio, ratio_error = quantities["flux"] / predicted - 1, sigma / predicted
    left = {"dx": shift[:, 0], "dy": shift[:, 1], **moments}
    reported = {"dx": "x", "dy": "y"} | {name: name for name in MOMENTS}
    return Residuals(
        spot=spot,
        exposure=exposure,
        x=quantities["x"],
        y=quantities["y"],
        flux=ratio,
        flux_error=ratio_error,
        flux_difference=quantities["flux"] - predicted,
        flux_difference_error=sigma,
        errors={name: _known_errors(measurements.errors[reported[name]], left[name], measurements) for name in left},
        expected={"flux": predicted, **expected},
        background=measurements.background,
        used=used,
        **left,
    )


def _known_errors(reported: FloatArray, residuals: FloatArray, measurements: Measurements) -> FloatArray:
    """Return the reported errors or, if missing, the robust scatter of the residuals of the spot."""
    known = measurements.good & np.isfinite(residuals)
    if np.isfinite(reported[known]).all() or not known.any():
        return reported
    scatter = 1.4826 * grouped_median(np.abs(residuals[known]), measurements.spot[known], measurements.spots)
    return np.where(np.isfinite(reported), reported, scatter[measurements.spot])


@dataclass(frozen=True)
class Repeatability:
    """Scatter per spot and drift of the lamp.

    Attributes
    ----------
    scatter, scatter_error, predicted : ndarray, shape (spots,)
        Relative rms of each spot's flux after division by the exposure scales, its error, and the rms predicted from errors.
    count : ndarray, shape (spots,)
        Number of measurements.
    ratio, ratio_error
        Median over the spots of the ratio of scatter to prediction, with its error.
    drift, drift_error
        Relative change of the lamp from the first exposure to the last, from a straight line in time. The error is from the scatter around
        the line, or from the errors of the scales if these are larger.
    lamp_scatter
        Relative rms of the exposure scales around the line.
    in_time
        Whether the line is fitted against dates; otherwise against the order of the exposures.
    """

    scatter: FloatArray
    scatter_error: FloatArray
    predicted: FloatArray
    count: IntArray
    ratio: float
    ratio_error: float
    drift: float
    drift_error: float
    lamp_scatter: float
    in_time: bool


def repeatability(residuals: Residuals, exposures: ExposureTable, *, spots: int) -> Repeatability:
    """Measure repeatability.

    Raises
    ------
    SpotError
        If there are fewer than three exposures with a scale.
    """
    used = residuals.used & np.isfinite(residuals.flux)
    spot = residuals.spot[used]
    count = np.bincount(spot, minlength=spots)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(spot, residuals.flux[used], minlength=spots) / count
        squares = np.bincount(spot, (residuals.flux[used] - mean[spot]) ** 2, minlength=spots)
        # The exposure scales use one degree of freedom per exposure, shared by all spots.
        share = 1 - 1 / max(1, int((count > 0).sum()))
        scatter = np.where(count > 1, np.sqrt(squares / (count - 1) / share), np.nan)
        predicted = np.sqrt(np.bincount(spot, residuals.flux_error[used] ** 2, minlength=spots) / count)
        scatter_error = scatter / np.sqrt(2 * np.maximum(count - 1, 1))
    known = (count > 1) & np.isfinite(scatter / predicted)
    freedom = count[known] - 1
    # The median of chi-square is below its mean (Wilson and Hilferty 1931).
    ratios = (scatter / predicted)[known] / (1 - 2 / (9 * freedom)) ** 1.5
    drift, drift_error, lamp_scatter, in_time = _drift(exposures)
    return Repeatability(
        scatter=scatter,
        scatter_error=scatter_error,
        predicted=predicted,
        count=count,
        ratio=float(np.median(ratios)) if len(ratios) else np.nan,
        ratio_error=float(1.2533 * ratios.std() / np.sqrt(len(ratios))) if len(ratios) else np.nan,
        drift=drift,
        drift_error=drift_error,
        lamp_scatter=lamp_scatter,
        in_time=in_time,
    )


def _drift(exposures: ExposureTable) -> tuple[float, float, float, bool]:
    known = np.isfinite(exposures.scale) & np.isfinite(exposures.scale_error)
    if known.sum() < LEAST_EXPOSURES:
        raise SpotError("a drift needs at least three exposures", remedy="give more catalogs", value=int(known.sum()))
    in_time = bool(np.isfinite(exposures.mjd[known]).all() and np.ptp(exposures.mjd[known]) > 0)
    time = exposures.mjd[known] if in_time else np.arange(len(known))[known].astype(np.float64)
    time = (time - time.min()) / np.ptp(time)
    scale, error = exposures.scale[known], exposures.scale_error[known]
    weight = 1 / (error**2 + np.median(error) ** 2)
    matrix = np.column_stack([np.ones(len(time)), time])
    inverse = np.linalg.inv(matrix.T @ (weight[:, None] * matrix))
    level, slope = inverse @ (matrix.T @ (weight * scale))
    residual = scale - level - slope * time
    # Weighted line: errors follow from the scatter, and are at least those of the scales.
    own = np.sqrt((inverse @ matrix.T * (weight * error) ** 2 @ matrix @ inverse)[1, 1])
    scattered = np.sqrt((inverse @ matrix.T * (weight * residual) ** 2 @ matrix @ inverse)[1, 1] * len(time) / (len(time) - 2))
    lamp = float(np.sqrt(max(0.0, (residual**2).sum() / (len(time) - 2))))
    return float(slope / level), float(max(own, scattered) / level), lamp / float(level), in_time
