"""Residuals on the detector: binned maps and their FITS product, means per amplifier, radial profiles (tree rings)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

from permil.arrays import FloatArray, IntArray
from permil.camera import Detector
from permil.camera.frames import amplifier_at
from permil.errors import SpotError
from permil.products import provenance, write_hdus
from permil.products.fits import image_of_cells
from permil.spots.flux_model import FluxSolution
from permil.spots.residuals import Residuals

MAPPED = ("flux", "dx", "dy", "xx", "yy", "xy")
UNITS = {"flux": "", "dx": "pixel", "dy": "pixel", "xx": "pixel2", "yy": "pixel2", "xy": "pixel2"}
_LEAST_FOR_SCATTER = 6


@dataclass(frozen=True)
class BinnedMap:
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

    mean: FloatArray
    error: FloatArray
    count: IntArray
    cell: int


@dataclass(frozen=True)
class Means:
    """Weighted means of groups: mean, error and count."""

    mean: FloatArray
    error: FloatArray
    count: IntArray


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
        Maps by the names in `permil.spots.throughput.MAPPED`. FLUX is the relative throughput minus 1.
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
