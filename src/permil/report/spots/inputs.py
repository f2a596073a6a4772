"""Products on the pages of artificial stars: those in the folder ``spots`` of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from astropy.table import Table

from permil.arrays import FloatArray
from permil.camera import Detector
from permil.errors import InputError
from permil.products import RunFolder, open_product, read_table, stored_fingerprint
from permil.products.folder import SpotsFolder
from permil.spots.grid import RigidGrid
from permil.spots.residuals import MAPPED

_AGAIN = "run permil spots again"
SUMMARY_COLUMNS = ("metric", "detector", "band", "value", "error", "unit")


@dataclass(frozen=True)
class SpotsTables:
    """Tables of all artificial stars of a run: the summary, and the excluded exposures (None without any)."""

    summary: Table
    left_out: Table | None

    @property
    def groups(self) -> list[tuple[str, str]]:
        """Detectors and bands, in the order of the summary."""
        return list(dict.fromkeys((str(row["detector"]), str(row["band"])) for row in self.summary))

    def rows(self, detector: str, band: str) -> Table:
        """Return the rows of the summary of one detector and band."""
        return self.summary[(self.summary["detector"] == detector) & (self.summary["band"] == band)]


@dataclass(frozen=True)
class MaskCalibration:
    """The calibration of a mask; ``degeneracy`` and ``repeatability`` are None if the table is missing."""

    header: fits.Header
    spots: Table
    degeneracy: Table | None
    repeatability: Table | None

    def places(self, exposure: Table.Row) -> tuple[FloatArray, FloatArray]:
        """Return x, y of all spots in an exposure, and of the nodes of its regular grid, each of shape (spots, 2), pixels.

        Parameters
        ----------
        exposure
            Row of the table of exposures, with the five parameters of the grid.
        """
        x0, y0, xstep, ystep, theta = (float(exposure[name]) for name in ("x0", "y0", "xstep", "ystep", "theta"))
        grid = RigidGrid(x0, y0, xstep, ystep, theta, int(self.header["NCOLS"]), int(self.header["NROWS"]))
        i, j, dx, dy = (np.asarray(self.spots[name], dtype=float) for name in ("grid_i", "grid_j", "dx", "dy"))
        # Shifts are in pixels along the axes of the grid.
        return grid.positions(i + dx / grid.xstep, j + dy / grid.ystep), grid.positions(i, j)


@dataclass(frozen=True)
class GrowthProduct:
    """Fraction of a spot's light within each radius (pixels), with its error, the reference radius and the radius of the catalog's flux."""

    exposure: str
    table: Table
    reference: float
    flux_radius: float
    spots: int


@dataclass(frozen=True)
class SpotsProducts:
    """All products of one detector and band.

    Attributes
    ----------
    calibration
        None if the calibration of another run was applied.
    header
        Header of the maps.
    exposures
        One row per exposure.
    reference
        Row of the exposure whose grid is nearest to the centre of the detector, None if no exposure has a grid.
    maps, cell
        Images by the name of their extension, and the side of a cell in pixels.
    amplifiers
        Mean residuals per amplifier.
    profile
        Mean residuals in rings, None if no centre is configured.
    growth
        Growth curve of the reference exposure, None if its catalog has none.
    """

    calibration: MaskCalibration | None
    header: fits.Header
    exposures: Table
    reference: int | None
    maps: dict[str, FloatArray]
    cell: int
    amplifiers: Table
    profile: Table | None
    growth: GrowthProduct | None


def read_spots_tables(folder: RunFolder) -> SpotsTables | None:
    """Read the tables of all artificial stars of a run, None without any.

    Raises
    ------
    InputError
        If a table cannot be read.
    """
    spots = SpotsFolder(folder.root)
    if not spots.summary.is_file():
        return None
    left_out = read_table(spots.left_out, columns=("exposure", "detector", "reason")) if spots.left_out.is_file() else None
    summary = read_table(spots.summary, columns=SUMMARY_COLUMNS)
    for name in ("detector", "band", "unit"):
        # ECSV reads empty text as a missing entry.
        summary[name] = np.ma.filled(summary[name].astype(str), "")
    return SpotsTables(summary, left_out)


def read_spots(folder: RunFolder, detector: Detector, band: str) -> SpotsProducts:
    """Read the products of one detector and band.

    Raises
    ------
    InputError
        If one is missing or cannot be read.
    """
    spots = SpotsFolder(folder.root)
    tables, _ = _open(spots, "residuals", detector.name, band, ("EXPOSURES",))
    maps, header = _open(spots, "throughput", detector.name, band, ("AMPLIFIERS", *map(str.upper, MAPPED)))
    exposures = Table(tables["EXPOSURES"].data)
    reference = _reference(exposures, detector)
    return SpotsProducts(
        calibration=_calibration(spots, detector.name, band),
        header=header,
        exposures=exposures,
        reference=reference,
        maps={name: np.asarray(hdu.data, dtype=np.float64) for name, hdu in maps.items() if isinstance(hdu, fits.ImageHDU)},
        cell=round(float(maps["FLUX"].header["CDELT1"])),
        amplifiers=Table(maps["AMPLIFIERS"].data),
        profile=Table(maps["RADIAL"].data) if "RADIAL" in maps else None,
        growth=None if reference is None else _growth(spots, detector.name, str(exposures["exposure"][reference])),
    )


def _open(
    spots: SpotsFolder, kind: str, detector: str, band: str, needed: Sequence[str]
) -> tuple[dict[str, fits.ImageHDU | fits.BinTableHDU], fits.Header]:
    """Return the extensions of a product by name, and its primary header."""
    path = getattr(spots, kind)(detector, band)
    with open_product(path, "a product of spots", remedy=_AGAIN) as hdus:
        content = {hdu.name: hdu.copy() for hdu in hdus[1:]}
        header = hdus[0].header.copy()
    missing = [name for name in needed if name not in content]
    if missing:
        raise InputError(f"extension {', '.join(missing)} is missing", path=path, remedy=_AGAIN, missing=missing)
    return content, header


def _calibration(spots: SpotsFolder, detector: str, band: str) -> MaskCalibration | None:
    """Return the calibration of the residuals, None if the file is from an earlier run with other exposures."""
    made_from = stored_fingerprint(spots.calibration(detector, band))
    if made_from is None or made_from != stored_fingerprint(spots.residuals(detector, band)):
        return None
    tables, header = _open(spots, "calibration", detector, band, ("SPOTS",))
    degeneracy, repeatability = (Table(tables[name].data) if name in tables else None for name in ("DEGENERACY", "REPEATABILITY"))
    return MaskCalibration(header, Table(tables["SPOTS"].data), degeneracy, repeatability)


def _reference(exposures: Table, detector: Detector) -> int | None:
    distance = np.hypot(
        np.asarray(exposures["x0"], dtype=float) - (detector.nx - 1) / 2,
        np.asarray(exposures["y0"], dtype=float) - (detector.ny - 1) / 2,
    )
    return int(np.nanargmin(distance)) if np.isfinite(distance).any() else None


def _growth(spots: SpotsFolder, detector: str, exposure: str) -> GrowthProduct | None:
    path = spots.catalog(detector, exposure)
    if not path.is_file():
        return None
    with open_product(path, "a catalog of spots", remedy=_AGAIN) as hdus:
        if "GROWTH" not in hdus:
            return None
        table, header = Table(hdus["GROWTH"].data), hdus["GROWTH"].header
        reference, flux_radius = float(header["REFRAD"]), float(hdus[0].header["APERTURE"])
        return GrowthProduct(exposure, table, reference, flux_radius, int(header["NSPOTS"]))
