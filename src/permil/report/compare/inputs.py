"""Products on the pages that compare stars with flats: those in the folder ``compare`` of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Row, Table

from permil.arrays import FloatArray
from permil.compare.comparison import WHOLE
from permil.compare.hypotheses.results import TOTAL
from permil.errors import InputError
from permil.products import RunFolder, open_product, read_table
from permil.products.folder import CompareFolder

NAIVE = "naive"
"""Method that counts every star as independent."""

_NONE = "-"


@dataclass(frozen=True)
class CompareTables:
    """Tables of all comparisons of a run, None where absent."""

    correlations: Table
    hypotheses: Table | None
    verdicts: Table | None
    levels: Table | None

    @property
    def groups(self) -> list[tuple[str, str]]:
        """Detectors and bands, in the order of the correlations."""
        return list(dict.fromkeys((str(row["detector"]), str(row["band"])) for row in self.correlations))


@dataclass(frozen=True)
class CompareProducts:
    """The comparison of the stars and the flat of one detector and band.

    Attributes
    ----------
    header
        Primary header.
    tables
        Tables by the name of their extension, if present in the product; missing texts are empty.
    maps, cell
        Images by the name of their extension, and the side of a cell in pixels.
    plateau
        Block side above which the error of the block bootstrap is constant, pixels; NaN if it never is.
    """

    header: fits.Header
    tables: Mapping[str, Table]
    maps: Mapping[str, FloatArray]
    cell: int
    plateau: float

    def rows(self, name: str, **wanted: str | int) -> list[Row]:
        """Return the rows of a table with the given entries; none without such a table."""
        table = self.tables.get(name)
        return [] if table is None else rows_of(table, **wanted)

    def column(self, name: str, column: str) -> FloatArray | None:
        """Return a column of a table as numbers, None without such a table or column."""
        table = self.tables.get(name)
        if table is None or column not in table.colnames:
            return None
        return np.asarray(table[column], dtype=np.float64)


def rows_of(table: Table | None, **wanted: str | int) -> list[Row]:
    """Return the rows of a table with the given entries."""
    if table is None or any(name not in table.colnames for name in wanted):
        return []
    return [row for row in table if all(row[name] == content for name, content in wanted.items())]


def whole_rows(table: Table | None, detector: str, band: str, **wanted: str | int) -> list[Row]:
    """Return the rows of the whole detector in a table of the run."""
    return rows_of(table, detector=detector, band=band, region=WHOLE, **wanted)


def total_fractions(table: Table | None, detector: str, band: str) -> list[Row]:
    """Return the fractions of the whole detector on all scales together."""
    return whole_rows(table, detector, band, figure="fraction", scale=TOTAL)


def headline(products: CompareProducts) -> Row | None:
    """Return the row of the correlation of single stars' fluxes with the flat, None without it."""
    rows = products.rows("CORRELATIONS", quantity="flux", region=WHOLE, cell=0)
    return rows[0] if rows else None


def read_compare_tables(folder: RunFolder) -> CompareTables | None:
    """Read the tables of all comparisons of a run, None without any.

    Raises
    ------
    InputError
        If a table cannot be read.
    """
    products = CompareFolder(folder.root)
    if not products.correlations.is_file():
        return None
    correlations = _plain(read_table(products.correlations, columns=("detector", "band", "quantity", "region", "cell", "r")))
    further = (products.hypotheses, products.verdicts, products.levels)
    return CompareTables(correlations, *(_plain(read_table(path)) if path.is_file() else None for path in further))


def read_comparison(path: Path) -> CompareProducts:
    """Read the comparison of one detector and band.

    Raises
    ------
    InputError
        If it is missing or cannot be read.
    """
    again = "run permil compare again"
    if not path.is_file():
        raise InputError("the comparison of stars and flat does not exist", path=path, remedy=again)
    with open_product(path, "a comparison of stars and flat", remedy=again) as hdus:
        header = hdus[0].header.copy()
        tables = {hdu.name: _plain(Table(hdu.data)) for hdu in hdus if isinstance(hdu, fits.BinTableHDU)}
        images = {hdu.name: hdu for hdu in hdus[1:] if isinstance(hdu, fits.ImageHDU)}
        maps = {name: np.asarray(hdu.data, dtype=np.float64) for name, hdu in images.items()}
        cell = round(float(images["FLUX"].header["CDELT1"])) if "FLUX" in images else int(header.get("CELL", 1))
        plateau = float(hdus["BLOCKS"].header.get("PLATEAU", np.nan)) if "BLOCKS" in tables else float("nan")
    return CompareProducts(header, tables, maps, cell, plateau)


def _plain(table: Table) -> Table:
    """Return a table with empty texts in place of the blanks and dashes that mark missing texts in files."""
    for name in table.colnames:
        if table[name].dtype.kind in "SUO":
            entries = [str(entry).strip() for entry in np.ma.filled(table[name].astype(str), "")]
            table[name] = ["" if entry == _NONE else entry for entry in entries]
    return table
