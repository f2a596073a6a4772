"""Write the comparison of one detector and band as a FITS product, and rows for the tables of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from permil.compare.comparison import Comparison
from permil.compare.stars.kernels import QUANTITIES
from permil.compare.stars.pairs import CellPairs, Pairs
from permil.products import provenance, write_hdus

FloatArray = NDArray[np.float64]

_UNITS = {"flux": None, "dx": "pixel", "dy": "pixel", "xx": "pixel2", "yy": "pixel2", "xy": "pixel2"}


def write_comparison(path: Path, comparison: Comparison, *, header: Mapping[str, Any]) -> None:
    """Write a comparison.

    Tables: STARS (one row per measurement: predicted and measured values), CORRELATIONS, NULL (correlations of
    surrogates of the headline), BLOCKS (its error against block size), CELLS (flux and flat on all scales), HYPOTHESES, VERDICTS,
    SILENT, RINGS. Images, in cells: ``<QUANTITY>`` and ``<QUANTITY>_ERR`` of the stars, ``<QUANTITY>_FLAT`` and ``<QUANTITY>_FLAT_ERR`` of
    the predictions of the flat; SHIFT_X and SHIFT_Y, the displacement if the whole flat were pixel area.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    cells = comparison.cells["flux"]
    hdus: list[Any] = [fits.PrimaryHDU(header=provenance(_cards(comparison) | dict(header)))]
    hdus.append(_star_table(comparison))
    for quantity, each in comparison.cells.items():
        hdus += _maps(each, quantity)
    for name, image in (("SHIFT_X", comparison.shift_x), ("SHIFT_Y", comparison.shift_y)):
        hdus.append(_image(name, image, cells.cell, "pixel"))
    hdus.append(_level_table(comparison))
    hdus.append(fits.BinTableHDU(_filled(Table(rows=[entry.row() for entry in comparison.correlations])), name="CORRELATIONS"))
    hdus += _headline_tables(comparison)
    hdus.append(fits.BinTableHDU(Table(rows=hypothesis_rows(comparison)), name="HYPOTHESES"))
    hdus.append(fits.BinTableHDU(Table(rows=verdict_rows(comparison)), name="VERDICTS"))
    if comparison.silent:
        hdus.append(fits.BinTableHDU(Table(rows=list(comparison.silent.items()), names=("of", "reason")), name="SILENT"))
    if comparison.rings is not None:
        profile = comparison.rings
        columns = {"radius": profile.radius, "level": profile.level, "error": profile.error, "count": profile.count}
        hdus.append(fits.BinTableHDU(Table(columns), name="RINGS"))
    write_hdus(path, hdus)


def hypothesis_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return fractions and slopes of all regions, one row each."""
    return [{"region": region, **row} for region, fit in comparison.fits.items() for row in fit.rows()]


def verdict_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the effect of dividing by the flat, one row per region."""
    return [
        {
            "region": region,
            "outcome": verdict.outcome,
            "before": verdict.before,
            "after": verdict.after,
            "change": verdict.change,
            "change_err": verdict.change_error,
            "significance": verdict.significance,
            "stars": comparison.fits[region].stars,
            "sentence": verdict.sentence,
        }
        for region, verdict in comparison.verdicts.items()
    ]


def _cards(comparison: Comparison) -> dict[str, Any]:
    between, search, profile = comparison.amplifiers, comparison.search, comparison.rings
    cards: dict[str, Any] = {
        "NSTARS": (len(comparison.predicted.stars), "stars that are compared"),
        "NLOST": (comparison.predicted.lost, "left out: light on unusable pixels"),
        "REFERENC": (comparison.flat.reference, "mean that pixels of the flat are taken over"),
        "AMPSLOPE": (between.slope, "star fluxes on flat's amplifier means"),
        "AMPSLERR": (between.error, "its error"),
        "AMPRMS": (between.rms, "rms of the flat's amplifier means"),
        "AMPRMSER": (between.rms_error, "its error"),
    }
    if search is not None:
        cards["RINGP"] = (search.p_value, "chance of this in maps without rings")
    if profile is not None:
        cards |= {"RINGX": (profile.centre[0], "[pixel] centre of the tree rings"), "RINGY": (profile.centre[1], "[pixel]")}
    if search is not None and profile is not None:
        cards |= {"RINGXERR": (search.centre_error[0], "[pixel] its error"), "RINGYERR": (search.centre_error[1], "[pixel]")}
    return cards


def _star_table(comparison: Comparison) -> fits.BinTableHDU:
    stars = comparison.predicted.stars
    columns = [
        fits.Column("exposure", "J", array=stars.exposure.astype(np.int32)),
        fits.Column("x", "D", unit="pixel", array=stars.places.x),
        fits.Column("y", "D", unit="pixel", array=stars.places.y),
        fits.Column("region", "B", array=comparison.regions.astype(np.uint8)),
    ]
    for quantity in QUANTITIES:
        if quantity in comparison.pairs:
            columns += _pair_columns(comparison.pairs[quantity], len(stars))
    return fits.BinTableHDU.from_columns(columns, name="STARS")


def _pair_columns(pairs: Pairs, size: int) -> list[fits.Column]:
    """Return measured and predicted values on the rows of all stars; NaN if a star is not used for this quantity."""
    name, unit = pairs.quantity, _UNITS[pairs.quantity]
    columns = []
    parts = (("", pairs.star), ("_err", pairs.star_error), ("_flat", pairs.flat), ("_flat_err", pairs.flat_error))
    for suffix, values in parts:
        whole = np.full(size, np.nan, dtype=np.float32)
        whole[pairs.row] = values
        columns.append(fits.Column(f"{name}{suffix}", "E", unit=unit, array=whole))
    return columns


def _maps(cells: CellPairs, quantity: str) -> list[fits.ImageHDU]:
    unit = _UNITS[quantity] or ""
    parts = (("", cells.star), ("_ERR", cells.star_error), ("_FLAT", cells.flat), ("_FLAT_ERR", cells.flat_error))
    return [_image(f"{quantity.upper()}{suffix}", image, cells.cell, unit) for suffix, image in parts]


def _image(name: str, image: FloatArray, cell: int, unit: str) -> fits.ImageHDU:
    hdu = fits.ImageHDU(image.astype(np.float32), name=name)
    # Linear coordinates: 0-based pixels of the detector (DM frame) at the centre of each cell.
    for axis, label in ((1, "X"), (2, "Y")):
        hdu.header[f"CTYPE{axis}"] = (label, "pixel of the detector, 0-based")
        hdu.header[f"CUNIT{axis}"] = "pixel"
        hdu.header[f"CRPIX{axis}"] = 1.0
        hdu.header[f"CRVAL{axis}"] = (cell - 1) / 2
        hdu.header[f"CDELT{axis}"] = float(cell)
    if unit:
        hdu.header["BUNIT"] = unit
    return hdu


def _level_table(comparison: Comparison) -> fits.BinTableHDU:
    cells = comparison.level_cells
    filled = cells.count > 0
    x, y = cells.places
    columns = {"x": x, "y": y, "flat": cells.flat, "flat_err": cells.flat_error, "star": cells.star, "star_err": cells.star_error}
    table = Table({name: column[filled] for name, column in columns.items()})
    table["cell"] = np.flatnonzero(filled)
    hdu = fits.BinTableHDU(table, name="CELLS")
    hdu.header["CELL"] = (cells.cell, "[pixel] side of a cell")
    return hdu


def _headline_tables(comparison: Comparison) -> list[fits.BinTableHDU]:
    result = comparison.headline
    hdus = []
    draws = {name: null.draws for name, null in result.nulls.items()}
    if draws:
        longest = max(len(values) for values in draws.values())
        padded = {name: np.pad(values, (0, longest - len(values)), constant_values=np.nan) for name, values in draws.items()}
        hdus.append(fits.BinTableHDU(Table(padded), name="NULL"))
    if result.scan is not None:
        hdu = fits.BinTableHDU(Table({"side": result.scan.sizes, "error": result.scan.errors}), name="BLOCKS")
        if np.isfinite(result.scan.plateau):
            hdu.header["PLATEAU"] = (float(result.scan.plateau), "[pixel] from this side on it is constant")
        hdus.append(hdu)
    return hdus


def _filled(table: Table) -> Table:
    """Return a table of rows with different columns, with NaN for missing entries."""
    return table.filled(np.nan) if table.masked or table.has_masked_columns else table
