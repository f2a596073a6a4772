"""Tables of spots and exposures, the residual of each measurement, repeatability at one position, and maps of residuals on the detector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

from permil.arrays import BoolArray, FloatArray, IntArray
from permil.camera import Detector
from permil.camera.frames import amplifier_at
from permil.errors import SpotError
from permil.products import provenance, write_hdus
from permil.products.fits import image_of_cells
from permil.spots.flux_model import FluxSolution
from permil.spots.grid import RigidGrid
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


UNITS = {"flux": "", "dx": "pixel", "dy": "pixel", "xx": "pixel2", "yy": "pixel2", "xy": "pixel2"}
MAPPED = tuple(UNITS)
_LEAST_FOR_SCATTER = 6


@dataclass(frozen=True)
class Means:
    """Weighted means of groups: mean, error and count."""

    mean: FloatArray
    error: FloatArray
    count: IntArray


@dataclass(frozen=True)
class BinnedMap(Means):
    """Means of a residual over square cells of a detector; ``[row, column]`` of cells.

    Attributes
    ----------
    mean, error
        Weighted mean and its error (the larger of the propagated error and that from the scatter in the cell); NaN in empty cells.
    count
        Number of measurements in each cell.
    cell
        Side, pixels.
    """

    cell: int


def grouped_means(values: FloatArray, errors: FloatArray, group: IntArray, groups: int) -> Means:
    """Average values with weights ``1 / errors^2`` in each group; group -1 is ignored."""
    known = np.isfinite(values) & np.isfinite(errors) & (errors > 0) & (group >= 0)
    value, weight, group = values[known], errors[known] ** -2.0, group[known]
    count = np.bincount(group, minlength=groups)
    sums = np.bincount(group, weight, minlength=groups)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(group, weight * value, minlength=groups) / sums
        error = 1 / np.sqrt(sums)
        squares = np.bincount(group, weight * (value - mean[group]) ** 2, minlength=groups)
        stretch = np.sqrt(np.where(count >= _LEAST_FOR_SCATTER, np.maximum(1.0, squares / (count - 1)), 1.0))
    return Means(mean, np.where(count > 0, error * stretch, np.nan), count)


def residual_of(residuals: Residuals, quantity: str) -> tuple[FloatArray, FloatArray]:
    """Return values and errors of one of `MAPPED`; NaN for unused measurements."""
    values = np.where(residuals.used, getattr(residuals, quantity), np.nan)
    return values, residuals.flux_error if quantity == "flux" else residuals.errors[quantity]


def require_inside(x: FloatArray, y: FloatArray, detector: Detector) -> None:
    """Raise an error if spots lie outside the detector (pixels).

    Raises
    ------
    SpotError
        If any spot lies outside: the exposures are of another detector.
    """
    outside = (x < -0.5) | (y < -0.5) | (x > detector.nx - 0.5) | (y > detector.ny - 0.5)
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        raise SpotError(
            f"{int(outside.sum())} spots lie outside {detector.name} ({detector.nx} x {detector.ny} pixels), the first at "
            f"({x[first]:.1f}, {y[first]:.1f})",
            remedy="check that the exposures are of this detector",
            value=(float(x[first]), float(y[first])),
        )


def bin_residuals(residuals: Residuals, quantity: str, detector: Detector, *, cell: int) -> BinnedMap:
    """Average a residual over cells.

    Parameters
    ----------
    residuals
        Residuals of a calibration.
    quantity
        One of `MAPPED`.
    detector
        Detector of the spots.
    cell
        Side of a cell, pixels.

    Raises
    ------
    SpotError
        If spots lie outside the detector.
    """
    require_inside(residuals.x, residuals.y, detector)
    columns, rows = -(-detector.nx // cell), -(-detector.ny // cell)
    values, errors = residual_of(residuals, quantity)
    group = _cell_of(residuals.y, cell) * columns + _cell_of(residuals.x, cell)
    means = grouped_means(values, errors, group, rows * columns)
    shape = (rows, columns)
    return BinnedMap(means.mean.reshape(shape), means.error.reshape(shape), means.count.reshape(shape), cell)


def _cell_of(place: FloatArray, cell: int) -> IntArray:
    return np.floor((np.nan_to_num(place) + 0.5) / cell).astype(np.int64)


def amplifier_table(residuals: Residuals, detector: Detector) -> Table:
    """Return the mean of each residual per amplifier, with errors and counts.

    Raises
    ------
    SpotError
        If spots lie outside the detector.
    """
    require_inside(residuals.x, residuals.y, detector)
    group = amplifier_at(detector, residuals.x, residuals.y)
    table = Table({"amp": [amplifier.name for amplifier in detector.amplifiers]})
    for quantity in MAPPED:
        _add_means(table, quantity, grouped_means(*residual_of(residuals, quantity), group, len(table)))
    return table


def radial_profile(residuals: Residuals, *, centre: tuple[float, float], edges: FloatArray) -> Table:
    """Return the mean of each residual in rings around a centre, including radial and tangential displacement.

    Parameters
    ----------
    residuals
        Residuals of a calibration.
    centre
        x, y in pixels of the detector; the centre of tree rings lies outside.
    edges
        Radii of the ring boundaries, pixels.

    Returns
    -------
    Table
        Columns ``radius`` (mean over the measurements), then each residual, ``radial`` and ``tangential`` displacement (pixels) and
        the radial second moment ``rr`` (pixel^2), each with error and count.
    """
    x, y = residuals.x - centre[0], residuals.y - centre[1]
    radius = np.hypot(x, y)
    ring = np.searchsorted(edges, radius, side="right") - 1
    ring = np.where((ring >= 0) & (ring < len(edges) - 1) & residuals.used, ring, -1)
    count = np.bincount(ring[ring >= 0], minlength=len(edges) - 1)
    with np.errstate(invalid="ignore"):
        mean_radius = np.bincount(ring[ring >= 0], radius[ring >= 0], minlength=len(edges) - 1) / count
    table = Table({"radius": mean_radius})
    for quantity in MAPPED:
        _add_means(table, quantity, grouped_means(*residual_of(residuals, quantity), ring, len(table)))
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine, sine = x / radius, y / radius
    errors = residuals.errors
    along = np.hypot(cosine * errors["dx"], sine * errors["dy"])
    across = np.hypot(sine * errors["dx"], cosine * errors["dy"])
    rr = cosine**2 * residuals.xx + sine**2 * residuals.yy + 2 * cosine * sine * residuals.xy
    rr_error = np.sqrt(cosine**4 * errors["xx"] ** 2 + sine**4 * errors["yy"] ** 2 + (2 * cosine * sine) ** 2 * errors["xy"] ** 2)
    for name, values, error in (
        ("radial", cosine * residuals.dx + sine * residuals.dy, along),
        ("tangential", cosine * residuals.dy - sine * residuals.dx, across),
        ("rr", rr, rr_error),
    ):
        _add_means(table, name, grouped_means(values, error, ring, len(table)))
    return table


def ring_edges(detector: Detector, centre: tuple[float, float], width: float) -> FloatArray:
    """Return radii, ``width`` pixels apart, that cover a detector, for a centre inside or outside."""
    x = np.array([0.0, detector.nx])
    y = np.array([0.0, detector.ny])
    nearest = np.hypot(centre[0] - np.clip(centre[0], *x), centre[1] - np.clip(centre[1], *y))
    farthest = np.hypot(np.abs(x - centre[0]).max(), np.abs(y - centre[1]).max())
    return np.arange(np.floor(nearest / width), np.ceil(farthest / width) + 1) * width


def _add_means(table: Table, name: str, means: Means) -> None:
    table[name], table[f"{name}_err"], table[f"{name}_count"] = means.mean, means.error, means.count


def check_cell(cell: int, detector: Detector) -> None:
    """Raise an error if a cell is not smaller than the detector.

    Raises
    ------
    SpotError
        If the cell is empty or too large.
    """
    if not 1 <= cell < min(detector.shape):
        raise SpotError(
            f"cells of {cell} pixels cannot be used", remedy=f"give 1 to {min(detector.shape) - 1} pixels", value=cell
        )


def write_throughput(
    path: str | Path,
    maps: Mapping[str, BinnedMap],
    amplifiers: Table,
    *,
    model: BinnedMap | None = None,
    profile: Table | None = None,
    header: Mapping[str, Any] | None = None,
) -> None:
    """Write maps: for each quantity the images ``<NAME>``, ``<NAME>_ERR``, ``<NAME>_N``; tables AMPLIFIERS and RADIAL.

    Parameters
    ----------
    maps
        Maps by the names in `permil.spots.residuals.MAPPED`. FLUX is the relative throughput minus 1.
    model
        The splines of the joint fit at the centres of the cells (``MODEL``, ``MODEL_ERR``).

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    hdus: list[Any] = [fits.PrimaryHDU(header=provenance(header))]
    for quantity in MAPPED:
        binned = maps[quantity]
        hdus += _images(quantity.upper(), binned, UNITS[quantity])
        hdus.append(image_of_cells(f"{quantity.upper()}_N", binned.count.astype(np.int32), binned.cell, ""))
    if model is not None:
        hdus += _images("MODEL", model, "")
    hdus.append(fits.BinTableHDU(amplifiers, name="AMPLIFIERS"))
    if profile is not None:
        hdus.append(fits.BinTableHDU(profile, name="RADIAL"))
    write_hdus(path, hdus)


def model_map(solution: FluxSolution, detector: Detector, *, cell: int, count: IntArray) -> BinnedMap | None:
    """Return the fitted throughput minus 1 at the centres of cells, with its error; NaN in cells without a measurement."""
    if solution.splines is None:
        return None
    x = np.arange(-(-detector.nx // cell)) * cell + (cell - 1) / 2
    y = np.arange(-(-detector.ny // cell)) * cell + (cell - 1) / 2
    grid_x, grid_y = (axis.ravel() for axis in np.meshgrid(np.minimum(x, detector.nx - 1.0), np.minimum(y, detector.ny - 1.0)))
    index, values = solution.splines.local(grid_x, grid_y)
    mean = (solution.coefficients[index] * values).sum(axis=1)
    covariance = solution.covariance[-len(solution.coefficients) :, -len(solution.coefficients) :]
    variance = np.einsum("na,nab,nb->n", values, covariance[index[:, :, None], index[:, None, :]], values)
    empty = count == 0
    return BinnedMap(
        np.where(empty, np.nan, mean.reshape(count.shape)),
        np.where(empty, np.nan, np.sqrt(variance).reshape(count.shape)),
        count,
        cell,
    )


def _images(name: str, binned: BinnedMap, unit: str) -> list[fits.ImageHDU]:
    return [image_of_cells(name, binned.mean, binned.cell, unit), image_of_cells(f"{name}_ERR", binned.error, binned.cell, unit)]
