"""Positions of spots relative to the grid over many exposures, residuals of the positions, and robust means over exposures.

Each exposure has its own five parameters (`permil.spots.grid`); each spot has a position in the mask that all exposures share: the
regular node plus a shift of its own (mask, optical distortion). Both are solved alternately. Displacements by the sensor remain as
residuals, except the part equivalent to a change of the five parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from permil.arrays import FloatArray, IntArray
from permil.spots.flux_model import robust_weight
from permil.spots.grid import RigidGrid, centred, fit_affine, fit_rigid
from permil.spots.measurements import Measurements, grouped_median

_MEAN_TURNS = 30
_CONVERGED = 1e-9

_GRID_TURNS = 4
_LEAST_SPOTS = 6


@dataclass(frozen=True)
class TwoWayMeans:
    """``value_sk = spot_s + offset_k``, with mean offset 0.

    Attributes
    ----------
    spot, spot_error : ndarray, shape (spots,)
        NaN without measurements; the error is from the scatter (of all spots together for a spot with fewer than five).
    offset, offset_error : ndarray, shape (exposures,)
        Offsets of the exposures.
    """

    spot: FloatArray
    spot_error: FloatArray
    offset: FloatArray
    offset_error: FloatArray


def two_way_means(values: FloatArray, measurements: Measurements) -> TwoWayMeans:
    """Solve alternately for spots and offsets of the values of all measurements, with `permil.spots.flux_model.robust_weight`."""
    good, spots, exposures = measurements.good & np.isfinite(values), measurements.spots, measurements.exposures
    value, of_spot, of_exposure = values[good], measurements.spot[good], measurements.exposure[good]
    if len(value) == 0:
        nothing = np.full(spots, np.nan)
        none = np.full(exposures, np.nan)
        return TwoWayMeans(nothing, nothing, none, none)
    middle = grouped_median(value, of_spot, spots)
    # From an offset of 0, all values of an exposure out of focus would be rejected as outliers.
    offset = grouped_median(value - middle[of_spot], of_exposure, exposures)
    middle = grouped_median(value - offset[of_exposure], of_spot, spots)
    for _ in range(_MEAN_TURNS):
        sigma = _scatter(value - middle[of_spot] - offset[of_exposure], of_spot, spots)
        weight = robust_weight((value - middle[of_spot] - offset[of_exposure]) / sigma[of_spot])
        before = offset
        offset = _weighted_mean(value - middle[of_spot], weight / sigma[of_spot] ** 2, of_exposure, exposures)
        offset = offset - np.nanmean(offset)
        middle = _weighted_mean(value - offset[of_exposure], weight, of_spot, spots)
        if np.nanmax(np.abs(offset - before)) < _CONVERGED * np.nanmedian(sigma):
            break
    spot_sums = np.bincount(of_spot, weight, minlength=spots)
    exposure_sums = np.bincount(of_exposure, weight / sigma[of_spot] ** 2, minlength=exposures)
    with np.errstate(divide="ignore"):
        offset_error = np.where(exposure_sums > 0, 1 / np.sqrt(exposure_sums), np.nan)
        spot_error = np.where(spot_sums > 0, sigma / np.sqrt(spot_sums), np.nan)
    return TwoWayMeans(middle, spot_error, offset, offset_error)


def _weighted_mean(values: FloatArray, weight: FloatArray, group: IntArray, groups: int) -> FloatArray:
    sums = np.bincount(group, weight, minlength=groups)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums > 0, np.bincount(group, weight * values, minlength=groups) / sums, np.nan)


def _scatter(residuals: FloatArray, group: IntArray, groups: int) -> FloatArray:
    """Return the robust scatter of each group, or of all measurements if the group is too small."""
    overall = max(1.4826 * float(np.median(np.abs(residuals))), 1e-100)
    scatter = 1.4826 * grouped_median(np.abs(residuals), group, groups)
    counts = np.bincount(group, minlength=groups)
    # A median of few absolute values is uncertain: it is averaged with that of all spots, weighted as ten measurements.
    shrunk = np.sqrt((counts * np.nan_to_num(scatter) ** 2 + 10 * overall**2) / (counts + 10))
    return np.maximum(shrunk, 1e-3 * overall)


@dataclass(frozen=True)
class SpotPlaces:
    """Positions of the spots in the mask.

    Attributes
    ----------
    shift, error : ndarray, shape (spots, 2)
        Shift from the regular node along the axes i and j, pixels; NaN for spots without measurements.
    """

    shift: FloatArray
    error: FloatArray


def solve_positions(measurements: Measurements) -> tuple[SpotPlaces, tuple[RigidGrid | None, ...]]:
    """Solve alternately for the positions of the spots and the grid of each exposure (None with fewer than six spots)."""
    nothing = np.zeros((measurements.spots, 2))
    places = SpotPlaces(nothing, np.full_like(nothing, np.nan))
    for _ in range(_GRID_TURNS):
        grids = fit_grids(measurements, places)
        places = _mean_places(measurements, grids)
    return places, grids


def nodes_uv(measurements: Measurements) -> FloatArray:
    """Return (u, v) of the regular nodes of all spots, shape (spots, 2), in steps from the centre of the mask."""
    nodes = np.stack(np.divmod(np.arange(measurements.spots), measurements.rows), axis=1)
    return centred(nodes, measurements.columns, measurements.rows)


def fit_grids(measurements: Measurements, places: SpotPlaces) -> tuple[RigidGrid | None, ...]:
    """Fit the five parameters of each exposure given the positions of the spots."""
    uv, points = nodes_uv(measurements), measurements.positions
    usable = measurements.good & np.isfinite(places.shift[measurements.spot]).all(axis=1)
    grids: list[RigidGrid | None] = []
    for _, rows in _rows_by_exposure(measurements):
        rows = rows[usable[rows]]
        spot = measurements.spot[rows]
        if len(rows) < _LEAST_SPOTS or np.ptp(uv[spot, 0]) == 0 or np.ptp(uv[spot, 1]) == 0:
            grids.append(None)
            continue
        # Shifts are in pixels, nodes in steps: the regular grid gives the size of a step in pixels.
        steps = np.hypot(*fit_affine(points[rows], uv[spot]).steps.T)
        shifted = uv[spot] + places.shift[spot] / steps
        grids.append(fit_rigid(points[rows], shifted, measurements.columns, measurements.rows))
    return tuple(grids)


def _mean_places(measurements: Measurements, grids: tuple[RigidGrid | None, ...]) -> SpotPlaces:
    """Average the positions of each spot in the frames of the grids, and remove the part equivalent to the five parameters."""
    uv = nodes_uv(measurements)
    shift = np.full((len(measurements.spot), 2), np.nan)
    for number, rows in _rows_by_exposure(measurements):
        grid = grids[number]
        if grid is None:
            continue
        nodes = grid.nodes(measurements.quantities["x"][rows], measurements.quantities["y"][rows])
        nodes = nodes - [(grid.columns - 1) / 2, (grid.rows - 1) / 2]
        shift[rows] = (nodes - uv[measurements.spot[rows]]) * [grid.xstep, grid.ystep]
    means = [two_way_means(along, measurements) for along in shift.T]
    mean = np.stack([entry.spot for entry in means], axis=1)
    error = np.stack([entry.spot_error for entry in means], axis=1)
    known = np.isfinite(mean).all(axis=1)
    step = float(np.nanmean([(grid.xstep + grid.ystep) / 2 for grid in grids if grid is not None]))
    rigid = fit_rigid(uv[known] + mean[known] / step, uv[known], measurements.columns, measurements.rows)
    whole = uv + mean / step
    nodes = rigid.nodes(whole[:, 0], whole[:, 1]) - [(rigid.columns - 1) / 2, (rigid.rows - 1) / 2]
    return SpotPlaces((nodes - uv) * step, error)


def position_residuals(measurements: Measurements, places: SpotPlaces, grids: tuple[RigidGrid | None, ...]) -> FloatArray:
    """Return measured minus expected position on the detector, shape (n, 2), pixels; NaN without an expected position."""
    uv = nodes_uv(measurements)
    residuals = np.full((len(measurements.spot), 2), np.nan)
    for number, rows in _rows_by_exposure(measurements):
        grid = grids[number]
        if grid is None:
            continue
        spot = measurements.spot[rows]
        steps = np.array([grid.xstep, grid.ystep])
        nodes = uv[spot] + places.shift[spot] / steps + [(grid.columns - 1) / 2, (grid.rows - 1) / 2]
        residuals[rows] = measurements.positions[rows] - grid.positions(nodes[:, 0], nodes[:, 1])
    return residuals


def _rows_by_exposure(measurements: Measurements) -> list[tuple[int, IntArray]]:
    order = np.argsort(measurements.exposure, kind="stable")
    limits = np.searchsorted(measurements.exposure[order], np.arange(measurements.exposures + 1))
    return [(number, order[limits[number] : limits[number + 1]]) for number in range(measurements.exposures)]
