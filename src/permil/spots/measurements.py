"""Measurements of all exposures of one mask on one detector, in flat arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from permil.arrays import BoolArray, FloatArray, IntArray
from permil.errors import SpotError
from permil.spots.catalog import QUANTITIES, SpotCatalog
from permil.spots.cleaning import repeated_catalogs


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
    good: BoolArray
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


def grouped_median(values: FloatArray, group: IntArray, groups: int) -> FloatArray:
    """Return the median of each group, NaN for empty ones."""
    order = np.lexsort((values, group))
    counts = np.bincount(group, minlength=groups)
    starts = np.cumsum(counts) - counts
    median = np.full(groups, np.nan)
    there = counts > 0
    low, high = starts[there] + (counts[there] - 1) // 2, starts[there] + counts[there] // 2
    median[there] = (values[order][low] + values[order][high]) / 2
    return median
