"""Calibration of a mask: flux, position and moments of each spot from many exposures, and its application to other exposures.

Degenerate gradient of spots, exposures and throughput, and bounds on its size.

With ``x_sk = p_k + u_s`` a throughput gradient ``g`` is ``g . p_k + g . u_s``: a trend of the exposures with the pointing and a
gradient of the spot fluxes over the mask. Only assumptions about lamp and mask limit it. Three quantities per axis, per 1000 pixels:

``free_error``
    Error of the throughput gradient without any assumption (limited only by the weak prior).
``exposure_trend``
    Slope of the fitted exposure scales with pointing. If the lamp is independent of the pointing, this is the throughput gradient
    removed by the gauge; its error is the scatter of the lamp.
``spot_gradient``
    Slope of the fitted spot fluxes over the mask (true gradient of the illumination plus that of the throughput).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from permil.arrays import BoolArray, FloatArray
from permil.errors import SpotError
from permil.spots.flux_model import (
    PRIOR_THROUGHPUT,
    UNKNOWN,
    FluxExcess,
    FluxSolution,
    TensorSplines,
    expected_sigma,
    fit_excess,
    fit_fluxes,
    gauge_moments,
    own_excess,
    robust_weight,
    starting_values,
)
from permil.spots.grid import RigidGrid
from permil.spots.measurements import MaskIdentity, Measurements, grouped_median
from permil.spots.positions import TwoWayMeans, fit_grids, solve_positions, two_way_means
from permil.spots.residuals import MOMENTS, ExposureTable, Residuals, SpotTable, residuals_of

Method = Literal["joint", "mean"]
Mode = Literal["dithered", "fixed"]
_REJECT = 8.0
# Exposures count as being at one position if their centres scatter by less than this, pixels.
_ONE_PLACE = 3.0

PIXELS = 1000.0


@dataclass(frozen=True)
class GradientDegeneracy:
    """Size of the degenerate gradient along one axis, per 1000 pixels; NaN with too few exposures or spots."""

    axis: str
    free_error: float
    exposure_trend: float
    exposure_trend_error: float
    spot_gradient: float
    spot_gradient_error: float


def gradient_degeneracies(
    measurements: Measurements, solution: FluxSolution, *, pointing: FloatArray, places: FloatArray
) -> tuple[GradientDegeneracy, GradientDegeneracy]:
    """Return the degenerate gradients along x and y.

    Parameters
    ----------
    measurements, solution
        Measurements, and the joint flux solution.
    pointing : ndarray, shape (exposures, 2)
        Centre of the grid on the detector, pixels.
    places : ndarray, shape (spots, 2)
        Position of each spot relative to the centre of the grid, detector pixels.
    """
    free = _free_errors(measurements, solution)
    trend, trend_error = _slopes(pointing, solution.exposure_scale)
    gradient, gradient_error = _slopes(places, solution.spot_flux / np.nanmean(solution.spot_flux))
    return tuple(
        GradientDegeneracy(name, *(PIXELS * float(entry[axis]) for entry in (free, trend, trend_error, gradient, gradient_error)))
        for axis, name in enumerate("xy")
    )  # type: ignore[return-value]


def _free_errors(measurements: Measurements, solution: FluxSolution) -> FloatArray:
    if solution.splines is None:
        return np.full(2, np.inf)
    used = solution.used
    x, y = measurements.quantities["x"][used], measurements.quantities["y"][used]
    index, values = solution.splines.local(x, y)
    mean, *slopes = gauge_moments(index, values, x, y, solution.splines.terms)
    matrix, _ = solution.equations.reduced()
    count = len(solution.exposure_scale)
    seen = np.isfinite(solution.exposure_scale)
    common = np.concatenate([np.where(seen, 1.0, 0.0) / seen.sum(), np.zeros(len(mean))])
    constant = np.concatenate([np.zeros(count), mean])
    stiffness = float(np.diag(matrix)[:count].sum()) + 1.0
    matrix = matrix + stiffness * (np.outer(common, common) + np.outer(constant, constant))
    matrix[np.diag_indices_from(matrix)] += np.concatenate([np.where(seen, 0.0, 1.0), np.full(len(mean), PRIOR_THROUGHPUT**-2)])
    # The trend of the exposures is not constrained by the data: a ridge keeps the matrix invertible.
    matrix[np.diag_indices_from(matrix)] += 1e-12 * stiffness
    functionals = np.stack([np.concatenate([np.zeros(count), slope]) for slope in slopes])
    errors = np.sqrt(np.einsum("fo,of->f", functionals, cho_solve(cho_factor(matrix, lower=True), functionals.T)))
    return errors / np.maximum([x.std(), y.std()], 1e-9)


def _slopes(places: FloatArray, values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return slopes of values along x and y, and their errors from the scatter."""
    known = np.isfinite(values) & np.isfinite(places).all(axis=1)
    if known.sum() < 5 or places[known].std(axis=0).min() < 1.0:
        return np.full(2, np.nan), np.full(2, np.nan)
    matrix = np.column_stack([np.ones(known.sum()), places[known] - places[known].mean(axis=0)])
    inverse = np.linalg.inv(matrix.T @ matrix)
    parameters = inverse @ (matrix.T @ values[known])
    variance = ((values[known] - matrix @ parameters) ** 2).sum() / (known.sum() - 3)
    return parameters[1:], np.sqrt(np.diag(inverse)[1:] * variance)


@dataclass(frozen=True, kw_only=True)
class SpotCalibration(MaskIdentity):
    """A calibrated mask and the exposures used for it.

    Attributes
    ----------
    spots, exposures, residuals
        Results for spots, exposures and measurements.
    method
        ``joint`` or ``mean``.
    mode
        ``fixed`` (all exposures at one position) or ``dithered``.
    solution
        Joint flux solution; None with method ``mean``.
    degeneracies
        Degeneracies of the gradient along x and y; empty unless the throughput was fitted.
    chi_square, freedom
        Chi-square of the fluxes with their expected errors, without the excess, and degrees of freedom.
    excess
        Scatter of the fluxes in excess of these errors, included in the errors of spots, exposures and throughput.
    columns, rows, detector, band, aperture, flux_unit, serial
        Properties common to all measurements (`permil.spots.measurements.MaskIdentity`).
    """

    spots: SpotTable
    exposures: ExposureTable
    residuals: Residuals
    method: Method
    mode: Mode
    solution: FluxSolution | None
    degeneracies: tuple[GradientDegeneracy, ...]
    chi_square: float
    freedom: int
    excess: FluxExcess


def calibrate(
    measurements: Measurements, *, method: Method = "joint", splines: TensorSplines | None = None, mode: Mode | None = None
) -> SpotCalibration:
    """Calibrate a mask.

    Parameters
    ----------
    measurements
        At least two exposures.
    method
        ``joint``: spots, exposures and throughput in one fit. ``mean``: robust means over the exposures of each flux divided by the
        scale of its exposure, without a throughput: its mean over the dithers of a spot is then part of the spot's flux.
    splines
        Throughput model of the joint fit; None: not fitted.
    mode
        None: chosen from the scatter of the grid centres.

    Raises
    ------
    SpotError
        If there are fewer than two exposures, no exposure has enough spots, or no flux is positive.
    """
    if measurements.exposures < 2:
        raise SpotError(
            "a calibration needs at least two exposures of the mask", remedy="give more catalogs", value=measurements.exposures
        )
    places, grids = solve_positions(measurements)
    moments = {name: two_way_means(measurements.quantities[name], measurements) for name in MOMENTS}
    exposures = _exposure_table(measurements, grids, moments)
    mode = mode or ("fixed" if np.nanmax(np.nanstd(exposures.centres, axis=0)) < _ONE_PLACE else "dithered")
    solution = None
    degeneracies: tuple[GradientDegeneracy, ...] = ()
    if method == "joint":
        solution = fit_fluxes(measurements, splines=splines if mode == "dithered" else None)
        flux, flux_error = solution.spot_flux, solution.spot_error
        scale, scale_error = solution.exposure_scale, solution.exposure_error
        sigma, used = solution.sigma, solution.used
        chi_square, freedom = solution.chi_square, solution.freedom
        predicted, known_errors = solution.predicted * (1 + solution.throughput), not solution.errors_from_scatter
        if solution.splines is not None:
            grid = next(grid for grid in grids if grid is not None)
            nodes = grid.positions(*np.divmod(np.arange(measurements.spots), measurements.rows))
            degeneracies = gradient_degeneracies(
                measurements, solution, pointing=exposures.centres, places=nodes - [grid.x0, grid.y0]
            )
    else:
        flux, flux_error, scale, scale_error, sigma, used = _mean_fluxes(measurements)
        predicted = flux[measurements.spot] * scale[measurements.exposure]
        known_errors = bool(np.isfinite(measurements.errors["flux"][used]).any())
        pull = (measurements.quantities["flux"] - predicted) / sigma
        chi_square = float((pull[used] ** 2).sum())
        freedom = int(used.sum() - np.isfinite(flux).sum() - np.isfinite(scale).sum() + 1)
    exposures = replace(exposures, scale=scale, scale_error=scale_error)
    spots = SpotTable(
        flux=flux,
        flux_error=flux_error,
        flux_count=np.bincount(measurements.spot[used], minlength=measurements.spots),
        places=places,
        moments={name: entry.spot for name, entry in moments.items()},
        moment_errors={name: entry.spot_error for name, entry in moments.items()},
    )
    return SpotCalibration(
        spots=spots,
        exposures=exposures,
        residuals=residuals_of(measurements, spots, exposures, sigma, used),
        method=method,
        mode=mode,
        solution=solution,
        degeneracies=degeneracies,
        chi_square=chi_square,
        freedom=freedom,
        excess=_excess(measurements, predicted, sigma, used, freedom, mode=mode) if known_errors else UNKNOWN,
        **measurements.identity,
    )


def apply_spots(spots: SpotTable, measurements: Measurements) -> tuple[ExposureTable, Residuals]:
    """Apply a calibration to other exposures of the same mask: fit only scale, grid and moment offsets of each.

    Raises
    ------
    SpotError
        If no measured spot is in the calibration.
    """
    flux = spots.flux[measurements.spot]
    good = measurements.good & np.isfinite(flux) & (flux > 0)
    if not good.any():
        raise SpotError(
            "no spot of these exposures is in the calibration", remedy="check that the mask and its window are the same"
        )
    measured = measurements.quantities["flux"]
    scale = grouped_median(measured[good] / flux[good], measurements.exposure[good], measurements.exposures)
    sigma, _ = expected_sigma(measurements, good, scale, spots.flux)
    predicted = flux * scale[measurements.exposure]
    weight = np.where(good, np.nan_to_num(robust_weight((measured - predicted) / sigma) / sigma**2), 0.0)
    sums = np.bincount(measurements.exposure, weight * np.nan_to_num(flux) ** 2, minlength=measurements.exposures)
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.bincount(measurements.exposure, weight * np.nan_to_num(flux * measured), minlength=len(sums)) / sums
        scale_error = 1 / np.sqrt(sums)
    grids = fit_grids(measurements, spots.places)
    offsets = {name: _offset(measurements, name, spots.moments[name]) for name in MOMENTS}
    exposures = replace(_exposure_table(measurements, grids, offsets), scale=scale, scale_error=scale_error)
    used = good & (np.abs(measured - flux * scale[measurements.exposure]) < _REJECT * sigma)
    return exposures, residuals_of(measurements, spots, exposures, sigma, used)


def _offset(measurements: Measurements, name: str, spot_values: FloatArray) -> TwoWayMeans:
    """Return the offsets of the exposures, given the moments of the spots."""
    # A single group of spots gives the mean over all spots of each exposure.
    together = replace(measurements, spot=np.zeros_like(measurements.spot), columns=1, rows=1)
    means = two_way_means(measurements.quantities[name] - spot_values[measurements.spot], together)
    return replace(means, offset=means.offset + means.spot[0])


def _exposure_table(
    measurements: Measurements, grids: tuple[RigidGrid | None, ...], moments: dict[str, TwoWayMeans]
) -> ExposureTable:
    unknown = np.full(measurements.exposures, np.nan)
    return ExposureTable(
        names=measurements.names,
        mjd=measurements.mjd,
        projector=measurements.projector,
        scale=unknown,
        scale_error=unknown,
        grids=grids,
        offsets={name: entry.offset for name, entry in moments.items()},
        offset_errors={name: entry.offset_error for name, entry in moments.items()},
    )


def _mean_fluxes(
    measurements: Measurements,
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray, BoolArray]:
    """Return spot fluxes, exposure scales (with errors), errors of measurements and the measurements used, from robust means."""
    fluxes, scales = starting_values(measurements, measurements.good)
    good = measurements.good & (np.nan_to_num(fluxes)[measurements.spot] > 0) & (np.nan_to_num(scales)[measurements.exposure] > 0)
    measured, scale = measurements.quantities["flux"], scales[measurements.exposure]
    sigma, _ = expected_sigma(measurements, good, scales, fluxes)
    # The scatter includes the throughput: errors are taken from the scatter of each spot.
    scatter = 1.4826 * grouped_median(
        np.abs(measured / scale - fluxes[measurements.spot])[good], measurements.spot[good], measurements.spots
    )
    scatter = np.where(scatter > 0, scatter, np.nanmedian(scatter))
    pull = (measured / scale - fluxes[measurements.spot]) / scatter[measurements.spot]
    weight = np.where(good, np.nan_to_num(robust_weight(pull)), 0.0)
    sums = np.bincount(measurements.spot, weight, minlength=measurements.spots)
    scale_sums = np.bincount(
        measurements.exposure,
        weight * np.nan_to_num((fluxes / scatter)[measurements.spot] ** 2),
        minlength=measurements.exposures,
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(measurements.spot, weight * np.nan_to_num(measured / scale), minlength=measurements.spots) / sums
        return mean, scatter / np.sqrt(sums), scales, scales / np.sqrt(scale_sums), sigma, weight > 0


def _excess(
    measurements: Measurements, predicted: FloatArray, sigma: FloatArray, used: BoolArray, freedom: int, *, mode: Mode
) -> FluxExcess:
    """Return the scatter of the fluxes in excess of their errors, and its part not shared by neighbours.

    At a fixed position each spot falls on the same pixels in all exposures: its scatter is not due to the sensor.
    """
    model, quantities = predicted[used], measurements.quantities
    residual, variance = quantities["flux"][used] / model - 1, (sigma[used] / model) ** 2
    excess, error = fit_excess(residual, variance, freedom)
    if mode == "fixed":
        return FluxExcess(excess, error, excess, error, 0)
    places = np.column_stack([quantities["x"][used], quantities["y"][used]])
    own = own_excess(residual, variance, excess, places, measurements.spot[used], measurements.exposure[used])
    return FluxExcess(excess, error, *own)
