"""Measurements of all exposures of one mask on one detector in flat arrays, tables of spots and exposures, and residuals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.spots.catalog import QUANTITIES, SpotCatalog
from permil.spots.cleaning import repeated_catalogs
from permil.spots.errors import SpotError
from permil.spots.flux_model import grouped_median
from permil.spots.grid_fit import RigidGrid
from permil.spots.positions import SpotPlaces, position_residuals

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

MOMENTS = ("xx", "yy", "xy")


@dataclass(frozen=True)
class Measurements:
    """Measurements of labelled spots; arrays of shape (n,) unless stated otherwise.

    Attributes
    ----------
    spot
        Number of the spot, ``grid_i * rows + grid_j``.
    exposure
        Number of the exposure.
    quantities, errors
        x, y, xx, yy, xy, flux by name, and their errors (NaN where unknown).
    background
        Subtracted background under each spot, ``flux_unit`` per pixel; NaN where unknown.
    good
        Measurements without a bad flag.
    columns, rows
        Spots of the mask.
    names, mjd, projector : shapes (k,), (k,), (k, 2)
        Names, dates and projector positions of the exposures.
    detector, band, aperture, flux_unit, serial
        Properties common to all measurements.
    """

    spot: IntArray
    exposure: IntArray
    quantities: dict[str, FloatArray]
    errors: dict[str, FloatArray]
    background: FloatArray
    good: NDArray[np.bool_]
    columns: int
    rows: int
    names: tuple[str, ...]
    mjd: FloatArray
    projector: FloatArray
    detector: str
    band: str
    aperture: float
    flux_unit: str
    serial: str = ""

    @property
    def spots(self) -> int:
        """Number of spots of the mask."""
        return self.columns * self.rows

    @property
    def exposures(self) -> int:
        """Number of exposures."""
        return len(self.names)

    @property
    def positions(self) -> FloatArray:
        """Return x and y, shape (n, 2)."""
        return np.stack([self.quantities["x"], self.quantities["y"]], axis=1)


def gather(catalogs: Sequence[SpotCatalog], *, columns: int, rows: int) -> Measurements:
    """Combine labelled catalogs of one mask.

    Parameters
    ----------
    catalogs
        One per exposure, with labels in one window.
    columns, rows
        Spots of the mask.

    Raises
    ------
    SpotError
        If there are no catalogs, one repeats another, they differ in detector, sensor, band, aperture or flux unit, a label lies outside
        the mask or is duplicated within an exposure, or no measurement is good (saturated spots, for example).
    """
    if not catalogs:
        raise SpotError("there is no catalog with a grid of spots", remedy="give at least one")
    for name, what, remedy in (
        ("detector", "detectors", "give the exposures of one detector at a time"),
        ("serial", "sensors", "give the exposures of one sensor at a time: the bay held different sensors"),
        ("band", "bands", "give the exposures of one filter or LED at a time, or set the band"),
        ("flux_unit", "flux units", "give catalogs of one kind at a time"),
    ):
        _require_one(catalogs, name, what, remedy)
    repeated = repeated_catalogs(catalogs, [f"catalog {number} ({entry.exposure})" for number, entry in enumerate(catalogs)])
    if repeated:
        raise SpotError(
            f"catalog {repeated[0].number} ({catalogs[repeated[0].number].exposure}) repeats catalog {repeated[0].of} "
            f"({catalogs[repeated[0].of].exposure})",
            remedy="give each exposure once",
            value=repeated[0].number,
        )
    apertures = {catalog.aperture for catalog in catalogs if np.isfinite(catalog.aperture)}
    if len(apertures) > 1:
        raise SpotError(
            f"fluxes are of different apertures: {', '.join(f'{radius:g}' for radius in sorted(apertures))} pixels",
            remedy="measure all exposures with the same aperture",
            value=sorted(apertures),
        )
    spots, numbers, goods = [], [], []
    columns_of = ("background", *(name for entry in QUANTITIES for name in (entry, f"{entry}_err")))
    values: dict[str, list[FloatArray]] = {name: [] for name in columns_of}
    for number, catalog in enumerate(catalogs):
        labelled = catalog.select(catalog.labelled)
        spots.append(_spot_numbers(labelled, columns, rows))
        numbers.append(np.full(len(labelled), number))
        goods.append(labelled.good)
        for name, parts in values.items():
            parts.append(getattr(labelled, name))
    together = {name: np.concatenate(parts) for name, parts in values.items()}
    good = np.concatenate(goods)
    if not good.any():
        raise SpotError(
            "no measurement of a labelled spot is good: all are saturated, blended, cut, masked or without flux",
            remedy="check the exposure time and the flags of the catalogs",
        )
    return Measurements(
        spot=np.concatenate(spots),
        exposure=np.concatenate(numbers),
        quantities={name: together[name] for name in QUANTITIES},
        errors={name: together[f"{name}_err"] for name in QUANTITIES},
        background=together["background"],
        good=good,
        columns=columns,
        rows=rows,
        names=tuple(catalog.exposure for catalog in catalogs),
        mjd=np.array([catalog.mjd for catalog in catalogs]),
        projector=np.array([(catalog.projector_x, catalog.projector_y) for catalog in catalogs]),
        detector=next((catalog.detector for catalog in catalogs if catalog.detector), ""),
        band=next((catalog.band for catalog in catalogs if catalog.band), ""),
        aperture=next(iter(apertures), np.nan),
        flux_unit=catalogs[0].flux_unit,
        serial=next((catalog.serial for catalog in catalogs if catalog.serial), ""),
    )


def _require_one(catalogs: Sequence[SpotCatalog], name: str, what: str, remedy: str) -> None:
    found = sorted({getattr(catalog, name) for catalog in catalogs} - {""})
    if len(found) > 1:
        odd = next(catalog for catalog in catalogs if getattr(catalog, name) == found[-1])
        raise SpotError(
            f"exposures of different {what} ({', '.join(found)}; {found[-1]}: {odd.exposure})", remedy=remedy, value=found
        )


def _spot_numbers(catalog: SpotCatalog, columns: int, rows: int) -> IntArray:
    i, j = catalog.grid_i, catalog.grid_j
    if len(i) and (i.max() >= columns or j.max() >= rows):
        raise SpotError(
            f"exposure {catalog.exposure} has the label ({i.max()}, {j.max()}), outside a mask of {columns} x {rows}",
            remedy="check the size of the mask (columns, rows)",
            value=(int(i.max()), int(j.max())),
        )
    spot = i * rows + j
    if len(np.unique(spot)) < len(spot):
        raise SpotError(f"exposure {catalog.exposure} has a duplicate label", remedy="label it again: permil spots grid")
    return spot


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
