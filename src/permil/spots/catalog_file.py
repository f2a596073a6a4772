"""Write catalogs of spots as FITS; `permil.spots.readers` reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from permil.products import provenance, write_hdus
from permil.spots.apertures import GrowthCurve
from permil.spots.catalog import QUANTITIES, SpotCatalog, SpotFlag

_UNITS = {"x": "pixel", "y": "pixel", "xx": "pixel2", "yy": "pixel2", "xy": "pixel2"}


def catalog_hdu(catalog: SpotCatalog) -> fits.BinTableHDU:
    """Return the table ``SPOTS`` of a catalog; its header names the bits of the flags (``FL_*``: bit number)."""
    columns = [
        fits.Column(name, "D", unit=_UNITS.get(quantity, catalog.flux_unit), array=getattr(catalog, name))
        for quantity in QUANTITIES
        for name in (quantity, f"{quantity}_err")
    ]
    columns.append(fits.Column("background", "D", unit=f"{catalog.flux_unit} pixel-1", array=catalog.background))
    columns += [fits.Column(name, "J", array=getattr(catalog, name).astype(np.int32)) for name in ("flags", "grid_i", "grid_j")]
    hdu = fits.BinTableHDU.from_columns(columns, name="SPOTS")
    for flag in SpotFlag:
        hdu.header[f"FL_{flag.name}"[:8]] = (flag.value.bit_length() - 1, f"bit of flag {flag.name}")
    return hdu


def catalog_cards(catalog: SpotCatalog) -> dict[str, Any]:
    """Return the cards that apply to the whole exposure."""
    return {
        "DETECTOR": (catalog.detector or None, "detector"),
        "EXPOSURE": (catalog.exposure or None, "exposure"),
        "EXPTIME": (catalog.exposure_time, "[s] exposure time"),
        "PROJX": (catalog.projector_x, "[mm] projector X"),
        "PROJY": (catalog.projector_y, "[mm] projector Y"),
        "BAND": (catalog.band or None, "filter or LED"),
        "MJD": (catalog.mjd, "[d] modified Julian date"),
        "LSST_NUM": (catalog.serial or None, "serial number of the sensor"),
        "APERTURE": (catalog.aperture, "[pixel] radius of the flux aperture"),
        "FLUXUNIT": (catalog.flux_unit, "unit of flux"),
        "PIXFRAME": ("DM", "pixel frame: x = column, y = row, 0-based"),
    }


def growth_hdu(growth: GrowthCurve) -> fits.BinTableHDU:
    """Return a growth curve as a table."""
    columns = {"radius": growth.radii, "fraction": growth.fraction, "error": growth.error}
    hdu = fits.BinTableHDU.from_columns(
        [fits.Column(name, "D", unit="pixel" if name == "radius" else None, array=array) for name, array in columns.items()],
        name="GROWTH",
    )
    hdu.header["REFRAD"] = (growth.reference, "[pix] radius at which the fraction is 1")
    hdu.header["NSPOTS"] = (growth.spots, "spots in the median")
    return hdu


def write_catalog(
    path: str | Path, catalog: SpotCatalog, *, header: Mapping[str, Any] | None = None, extensions: Sequence[Any] = ()
) -> None:
    """Write a catalog with its metadata, further cards and further HDUs.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    primary = fits.PrimaryHDU(header=provenance(catalog_cards(catalog) | dict(header or {})))
    write_hdus(path, [primary, catalog_hdu(catalog), *extensions])
