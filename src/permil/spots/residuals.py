"""Tables of spots and exposures, and the residual of each measurement."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.spots.flux_model import grouped_median
from permil.spots.grid_fit import RigidGrid
from permil.spots.measurements import Measurements
from permil.spots.positions import SpotPlaces, position_residuals

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

MOMENTS = ("xx", "yy", "xy")


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
    used: NDArray[np.bool_]


def residuals_of(
    measurements: Measurements, spots: SpotTable, exposures: ExposureTable, sigma: FloatArray, used: NDArray[np.bool_]
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
