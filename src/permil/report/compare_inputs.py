"""What the pages that compare stars with flats are made from: the products of the room `compare`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from permil.compare.folder import CompareFolder
from permil.errors import InputError
from permil.products import RunFolder, read_table
from permil.products.fits import whole_file

FloatArray = NDArray[np.float64]

_NONE = "-"


@dataclass(frozen=True)
class CompareRun:
    """What a run says of stars and flats as a whole; tables but ``correlations`` are None where there is none."""

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
    """Everything about the stars and the flat of one detector and band.

    Attributes
    ----------
    header
        How the comparison was made.
    tables
        By the name of their extension, texts without fill; those that the product does not have are not in it.
    maps, cell
        Images by the name of their extension, and the side of a cell in pixels.
    plateau
        Side of the blocks from which the error of the block bootstrap is constant, pixels; NaN where there is none.
    """

    header: fits.Header
    tables: Mapping[str, Table]
    maps: Mapping[str, FloatArray]
    cell: int
    plateau: float

    def rows(self, name: str, **wanted: str | int) -> list[Table.Row]:
        """Return the rows of a table whose columns have the contents wanted; none if there is no such table."""
        table = self.tables.get(name)
        return [] if table is None else rows_of(table, **wanted)

    def column(self, name: str, column: str) -> FloatArray | None:
        """Return a column of a table as numbers, None if there is no such table or column."""
        table = self.tables.get(name)
        if table is None or column not in table.colnames:
            return None
        return np.asarray(table[column], dtype=np.float64)


def rows_of(table: Table | None, **wanted: str | int) -> list[Table.Row]:
    """Return the rows of a table whose columns have the contents wanted."""
    if table is None or any(name not in table.colnames for name in wanted):
        return []
    return [row for row in table if all(row[name] == content for name, content in wanted.items())]


def number(row: Table.Row, name: str) -> float:
    """Return a number of a row, NaN where the row has none."""
    if name not in row.colnames or np.ma.is_masked(row[name]):
        return float("nan")
    return float(row[name])


def text(row: Table.Row, name: str) -> str:
    """Return a text of a row, empty where the row has none."""
    return str(row[name]) if name in row.colnames else ""


def read_compare_run(folder: RunFolder) -> CompareRun | None:
    """Read what a run says of stars and flats as a whole, None if it does not compare any.

    Raises
    ------
    InputError
        If a table cannot be read.
    """
    products = CompareFolder(folder.root)
    if not products.correlations.is_file():
        return None
    correlations = _plain(read_table(products.correlations, columns=("detector", "band", "quantity", "region", "cell", "r")))
    return CompareRun(correlations, *(_optional(path) for path in (products.hypotheses, products.verdicts, products.levels)))


def read_comparison(path: Path) -> CompareProducts:
    """Read the comparison of one detector and band.

    Raises
    ------
    InputError
        If it is missing or cannot be read.
    """
    again = "run permil compare again"
    if not path.is_file():
        raise InputError("there is no such comparison of stars and flat", path=path, remedy=again)
    try:
        with whole_file(path), fits.open(path, memmap=False, lazy_load_hdus=False) as hdus:
            header = hdus[0].header.copy()
            tables = {hdu.name: _plain(Table(hdu.data)) for hdu in hdus if isinstance(hdu, fits.BinTableHDU)}
            images = {hdu.name: hdu for hdu in hdus[1:] if isinstance(hdu, fits.ImageHDU)}
            maps = {name: np.asarray(hdu.data, dtype=np.float64) for name, hdu in images.items()}
            cell = round(float(images["FLUX"].header["CDELT1"])) if "FLUX" in images else int(header.get("CELL", 1))
            plateau = float(hdus["BLOCKS"].header.get("PLATEAU", np.nan)) if "BLOCKS" in tables else float("nan")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"cannot be read as a comparison of stars and flat ({error})", path=path, remedy=again) from error
    return CompareProducts(header, tables, maps, cell, plateau)


def _optional(path: Path) -> Table | None:
    return _plain(read_table(path)) if path.is_file() else None


def _plain(table: Table) -> Table:
    """Return a table whose texts are without the blanks and dashes that stand for nothing in files."""
    for name in table.colnames:
        if table[name].dtype.kind in "SUO":
            entries = [str(entry).strip() for entry in np.ma.filled(table[name].astype(str), "")]
            table[name] = ["" if entry == _NONE else entry for entry in entries]
    return table
