"""Read spot catalogs: of the LSST stack, processed grid files and permil catalogs, recognised by content.

Masks (TNULL), scaled columns and units are respected. Error columns that are zero or NaN throughout carry no information and become
NaN, as does any single error that is not positive. Markers of missing values (-9999, 1e30) become NaN, and exact duplicates of rows
count once; both are recorded in `SpotCatalog.remarks`.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from numpy.typing import NDArray

from permil.arrays import BoolArray, FloatArray, IntArray, parse_unit
from permil.errors import InputError, RawFormatError
from permil.exposures.cards import Cards
from permil.exposures.hdu import read_structure, sum_of_words
from permil.products import tables
from permil.spots.catalog import (
    QUANTITIES,
    CatalogHeader,
    SpotCatalog,
    SpotFlag,
    catalog_facts,
    drop_nulls,
    flux_unit_of,
    repeated_rows,
)
from permil.spots.grid import RigidGrid

if TYPE_CHECKING:
    from collections.abc import Iterator


DEFAULT_FLUX = "base_CircularApertureFlux_12_0_instFlux"
GRID_CARDS = ("X0", "Y0", "XSTEP", "YSTEP", "THETA", "NCOLS", "NROWS")
_CENTROID, _SHAPE = "base_SdssCentroid", "base_SdssShape"
_EXPECTED = (
    "columns of the LSST stack (base_SdssCentroid_x, base_SdssCentroid_y, base_SdssShape_xx, base_SdssShape_yy, base_SdssShape_xy, "
    f"{DEFAULT_FLUX}), of a processed grid file (X, Y, XX, YY, FLUX) or of permil (x, y, xx, yy, xy, flux)"
)
_PIXEL_FLAGS = {
    "saturated": SpotFlag.SATURATED,
    "edge": SpotFlag.EDGE,
    "offimage": SpotFlag.EDGE,
    "bad": SpotFlag.MASKED,
    "cr": SpotFlag.MASKED,
    "suspect": SpotFlag.MASKED,
    "interpolated": SpotFlag.MASKED,
}
_PIXEL_FLAG_PREFIX = "base_PixelFlags_flag_"
_OWN_TABLES = ("SPOTS", "CATALOG")
_PRODUCTS = {"RESIDUALS": "residuals of a calibration", "AMPLIFIERS": "maps of the throughput"}
_UNITS = {"x": "pixel", "y": "pixel", "xx": "pixel2", "yy": "pixel2", "xy": "pixel2"}
_NO_UNIT = frozenset({"", "-", "--", "none", "n/a", "null", "unknown", "unitless", "dimensionless"})
_APERTURE = re.compile(r"ApertureFlux_(\d+)_(\d+)(?:_|$)")
_SERIALIZED = b"--BEGIN-ASTROPY-SERIALIZED-COLUMNS--"
_PACKERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_OTHER_TABLES = frozenset({".ecsv", ".csv", ".parquet", ".parq", ".txt", ".vot", ".hdf5", ".h5"})


@dataclass(frozen=True)
class SourceTable:
    """A table of sources as stored in a file.

    Attributes
    ----------
    path
        The file.
    header
        Cards of the primary header and of the table header.
    hdu
        The table.
    kind
        ``stack``, ``processed`` or ``permil``.
    remarks
        Inconsistencies of the table, as clauses.
    """

    path: Path
    header: CatalogHeader
    hdu: fits.BinTableHDU | fits.TableHDU
    kind: str
    remarks: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return list(self.hdu.columns.names)

    def find(self, *wanted: str) -> str:
        """Return the first column with one of some names (if necessary ignoring case); "" if there is none."""
        for name in wanted:
            if name in self.names:
                return name
        for name in wanted:
            alike = [entry for entry in self.names if entry.lower() == name.lower()]
            if len(alike) == 1:
                return alike[0]
        return ""

    def column(self, name: str) -> Table:
        """Return a table of one column, masked according to TNULL, with its unit.

        Raises
        ------
        InputError
            If its values cannot be decoded.
        """
        declared = self.hdu.columns[name]
        try:
            values = np.asarray(self.hdu.data[name])
            mask = np.zeros(values.shape, dtype=bool)
            if isinstance(declared.null, int) and not isinstance(self.hdu, fits.TableHDU):
                # TNULL refers to stored values, before TSCAL and TZERO are applied.
                mask |= np.reshape(self.hdu.data.view(np.ndarray)[name] == declared.null, values.shape)
        except Exception as error:
            raise InputError(
                f"column {name} cannot be decoded ({error})", path=self.path, remedy="check the file or make it again", value=name
            ) from error
        if values.ndim == 2 and values.shape[1] == 1:
            values, mask = values[:, 0], mask[:, 0]
        column = MaskedColumn(values, mask=mask, name=name)
        unit = self.unit(name)
        try:
            column.unit = parse_unit(unit)
        except InputError as error:
            raise InputError(f"column {name}: {error.what}", path=self.path, remedy=error.remedy, value=unit) from error
        return Table([column], copy=False)

    def unit(self, name: str) -> str:
        """Return the declared unit of a column, "" if there is none."""
        unit = str(self.hdu.columns[name].unit or self._serialized_units.get(name, "")).strip()
        return "" if unit.lower() in _NO_UNIT else unit

    @cached_property
    def _serialized_units(self) -> dict[str, str]:
        """Units that astropy could not write as TUNIT (electron is not in the FITS standard) and keeps in comments."""
        if _SERIALIZED not in self.header.table.header:
            return {}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                columns = Table.read(self.hdu)
        except Exception as error:
            raise InputError(
                f"the description of the columns by astropy cannot be read ({error})",
                path=self.path,
                remedy="make the file again",
            ) from error
        return {name: str(getattr(columns[name], "unit", None) or "") for name in columns.colnames}


@contextmanager
def open_source_table(path: str | Path) -> Iterator[SourceTable]:
    """Open a file of sources and find its table; the file is closed at the end of the ``with`` block.

    Raises
    ------
    InputError
        If it cannot be read, is damaged or truncated, has no table of spots or several, or the table is empty.
    """
    path = Path(path)
    if path.suffix.lower() in _OTHER_TABLES:
        raise InputError(
            f"a catalog of spots is a FITS file, not {path.suffix}",
            path=path,
            remedy="convert it: astropy.table.Table.read(...).write('catalog.fits')",
            value=path.suffix,
        )
    # Astropy warns about odd cards; relevant cards are read with `permil.exposures.cards`.
    with _foreign_errors(path, "cannot be read as FITS"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        content = _content(path)
        structure = read_structure(io.BytesIO(content), len(content), path)
        hdus = fits.open(io.BytesIO(content[: structure[-1].end]), lazy_load_hdus=False)
    about_file = [
        text.removeprefix(f"{path}: ") for text in (str(entry.message) for entry in caught) if text.startswith(f"{path}: ")
    ]
    with hdus:
        with _foreign_errors(path, "the table cannot be decoded"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            hdu, kind = _table_of_spots(hdus, path)
            place = structure[hdus.index_of(hdu)]
            _require_whole(place.cards, content[place.data_offset : place.end], path)
            rows = len(hdu.data)
        if rows == 0:
            raise InputError("the catalog is empty", path=path, remedy="check the exposure and the detection")
        yield SourceTable(path, CatalogHeader(structure[0].cards, place.cards), hdu, kind, about_file)


def _content(path: Path) -> bytes:
    """Return the bytes of a file, decompressed; compression is recognised by content."""
    with path.open("rb") as stream:
        start = stream.read(8)
    opener = next((opener for magic, opener in _PACKERS.items() if start.startswith(magic)), open)
    with opener(path, "rb") as stream:
        return bytes(stream.read())


@contextmanager
def _foreign_errors(path: Path, what: str) -> Iterator[None]:
    """Convert exceptions caused by a damaged file into an error that names the file."""
    try:
        yield
    except RawFormatError as error:
        raise InputError(f"{what} ({error.what})", path=path, remedy="copy the file again or leave it out") from error
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{what} ({error or type(error).__name__})", path=path, remedy="check the path and the file; a FITS table is needed"
        ) from error


def _table_of_spots(hdus: fits.HDUList, path: Path) -> tuple[Any, str]:
    """Return the table of spots among the HDUs of a file, and its kind."""
    found = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)]
    for hdu in found:
        if hdu.name in _PRODUCTS:
            raise InputError(
                f"not a catalog: it holds {_PRODUCTS[hdu.name]} (table {hdu.name})", path=path, remedy="leave it out"
            )
    kinds = [(hdu, kind) for hdu in found if (kind := _kind(set(hdu.columns.names))) is not None]
    if len(kinds) > 1:
        kinds = [entry for entry in kinds if entry[0].name in _OWN_TABLES] or kinds
    if len(kinds) > 1:
        numbers = ", ".join(str(hdus.index_of(hdu)) for hdu, _ in kinds)
        raise InputError(
            f"{len(kinds)} tables of spots (HDUs {numbers})",
            path=path,
            remedy="give one file for each exposure and detector, with one table of spots",
            value=len(kinds),
        )
    if kinds:
        return kinds[0]
    names = [name for hdu in found for name in hdu.columns.names]
    near = [name for name in names if "entroid" in name or name.lower() in {"x", "y"}]
    raise InputError(
        "no table of spots: columns of positions are missing (base_SdssCentroid_x, base_SdssCentroid_y)",
        path=path,
        remedy=f"give a table with {_EXPECTED}; this file has {_some(near or names)}",
        missing=[f"{_CENTROID}_x", f"{_CENTROID}_y"],
    )


def _require_whole(cards: Cards, data: bytes, path: Path) -> None:
    """Raise an error if a table is compressed, or if its data do not match DATASUM."""
    if cards.flag("ZTABLE"):
        raise InputError("the table is compressed in tiles", path=path, remedy="unpack it with funpack")
    stated = cards.text("DATASUM")
    if not stated.isdigit() or len(data) % 4:
        return
    total = sum_of_words(data)
    if total != int(stated):
        raise InputError(
            "the table's data do not match their DATASUM: the file is damaged",
            path=path,
            remedy="copy the file again; if the table was edited, remove the card DATASUM",
            value=total,
            expected=int(stated),
        )


def _kind(names: set[str]) -> str | None:
    if {f"{_CENTROID}_x".lower(), f"{_CENTROID}_y".lower()} <= {name.lower() for name in names}:
        return "stack"
    if {"x", "y"} <= names:
        return "permil"
    if {"X", "Y"} <= names:
        return "processed"
    return None


def _some(names: list[str], most: int = 12) -> str:
    if not names:
        return "no columns"
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def read_catalog(
    path: str | Path,
    *,
    flux: str = DEFAULT_FLUX,
    band: str = "",
    needed: tuple[str, ...] = ("x", "y", "xx", "yy", "flux"),
) -> SpotCatalog:
    """Read a catalog of spots.

    Parameters
    ----------
    path
        FITS file of the LSST stack, a processed grid file, or a catalog of permil.
    flux
        Column of the flux in catalogs of the stack.
    band
        Filter or LED; empty: the FILTER card. The CCOB cards of spot exposures are stale and never used.
    needed
        Required quantities.

    Returns
    -------
    SpotCatalog
        ``detector`` is in the spelling of the file. ``remarks`` lists unusable cards, markers of missing values, and duplicate rows
        (whose positions are NaN, so that each measurement counts once).

    Raises
    ------
    InputError
        If the file has no such table, lacks columns (the message names them), is empty, has a quantity in a unit that cannot be converted
        (magnitudes, nJy, arcsec) or more than one value per row, or contradicts itself.
    """
    with open_source_table(path) as table:
        return catalog_of(table, flux=flux, band=band, needed=needed)


def catalog_of(
    table: SourceTable,
    *,
    flux: str = DEFAULT_FLUX,
    band: str = "",
    name: str = "",
    needed: tuple[str, ...] = ("x", "y"),
) -> SpotCatalog:
    """Return the catalog of a table; see `read_catalog`. ``name`` is the exposure if neither header nor file name contains it."""
    columns = _stack_columns(flux) if table.kind == "stack" else _own_columns(table)
    _require(table, {entry: columns[entry] for entry in needed})
    unit = _flux_unit(table, columns["flux"][0])
    read: dict[str, Any] = {}
    for entry in QUANTITIES:
        of_entry = _UNITS.get(entry, "adu" if unit == "count" else unit)
        read[entry] = _floats(table, columns[entry], of_entry)
        read[f"{entry}_err"] = _floats(table, columns[f"{entry}_err"], of_entry)
    read["background"] = _background(table, columns["background"], unit)
    table.remarks.extend(drop_nulls(read, {entry: table.find(*names) or entry for entry, names in columns.items()}))
    repeats = repeated_rows(read)
    if len(repeats):
        read["x"][repeats] = read["y"][repeats] = np.nan
        rows = "1 row repeats another" if len(repeats) == 1 else f"{len(repeats)} rows repeat others"
        table.remarks.append(f"{rows} exactly and count once (the first: row {repeats[0] + 1})")
    if not (np.isfinite(read["x"]) & np.isfinite(read["y"])).any():
        raise InputError(
            f"all positions ({table.find(*columns['x'])}, {table.find(*columns['y'])}) are NaN or missing",
            path=table.path,
            remedy="check the catalog",
        )
    if "flux" in needed and not np.isfinite(read["flux"]).any():
        raise InputError(
            f"all fluxes ({table.find(*columns['flux'])}) are NaN or missing",
            path=table.path,
            remedy="check the catalog, or choose another column with spots.flux",
        )
    flags = _stack_flags(table, columns) if table.kind == "stack" else _own_flags(table)
    grid_i, grid_j = _labels(table, read["x"], read["y"])
    facts = catalog_facts(table.header, table.path, name=name)
    aperture = _APERTURE.search(columns["flux"][0]) if table.kind == "stack" else None
    if aperture:
        facts["aperture"] = float(f"{aperture[1]}.{aperture[2]}")
    if band:
        facts["band"] = band
    remarks = (*table.remarks, *table.header.problems())
    return SpotCatalog(**read, flags=flags, grid_i=grid_i, grid_j=grid_j, **facts, flux_unit=unit, remarks=remarks)


def _stack_columns(flux: str) -> dict[str, tuple[str, ...]]:
    columns = {"flux": flux, "flux_err": f"{flux}Err", "background": ""}
    for name in ("x", "y"):
        columns |= {name: f"{_CENTROID}_{name}", f"{name}_err": f"{_CENTROID}_{name}Err"}
    for name in ("xx", "yy", "xy"):
        columns |= {name: f"{_SHAPE}_{name}", f"{name}_err": f"{_SHAPE}_{name}Err"}
    return {name: (column,) for name, column in columns.items()}


def _own_columns(table: SourceTable) -> dict[str, tuple[str, ...]]:
    """Return the column names of permil catalogs and processed grid files."""
    columns: dict[str, tuple[str, ...]] = {"background": ("background",)}
    for name in QUANTITIES:
        columns[name] = (name,) if table.kind == "permil" else (name.upper(),)
        columns[f"{name}_err"] = (f"{name}_err", f"{name}err") if table.kind == "permil" else (f"{name}ERR", f"{name}_ERR")
    return columns


def _require(table: SourceTable, columns: dict[str, tuple[str, ...]]) -> None:
    missing = [names[0] for names in columns.values() if not table.find(*names)]
    if not missing:
        return
    fluxes = [name for name in table.names if name.endswith("instFlux")]
    would_do = f"; available fluxes: {_some(fluxes, 24)}" if columns.get("flux", ("",))[0] in missing and fluxes else ""
    raise InputError(
        f"column {', '.join(missing)} is missing",
        path=table.path,
        remedy=f"give a table with {_EXPECTED}{would_do}",
        missing=missing,
    )


def _flux_unit(table: SourceTable, flux: str) -> str:
    """Return ``electron`` or ``count``, from the unit of the flux column or the card FLUXUNIT."""
    column = table.find(flux)
    declared = table.unit(column) if column else ""
    stated = table.header.text("FLUXUNIT")
    stated = "" if stated.lower() in _NO_UNIT else stated
    try:
        of_column, of_card = flux_unit_of(declared), flux_unit_of(stated)
    except InputError as error:
        raise InputError(
            f"the flux ({column}) is given in {error.value}",  # type: ignore[attr-defined]
            path=table.path,
            remedy="give it in electron or adu: other units cannot be converted",
            value=error.value,  # type: ignore[attr-defined]
        ) from error
    if of_column and of_card and of_column != of_card:
        raise InputError(
            f"column {column} is in {declared}, but the card FLUXUNIT is {stated}",
            path=table.path,
            remedy="remove the wrong one",
            value=stated,
            expected=declared,
        )
    return of_column or of_card or ("electron" if table.kind == "permil" else "count")


def _floats(table: SourceTable, names: tuple[str, ...], unit: str | None) -> FloatArray:
    column = table.find(*names)
    if not column:
        return np.full(len(table.hdu.data), np.nan)
    values = tables.numbers(table.column(column), column, unit=unit, path=table.path)
    return np.where(np.isfinite(values), values, np.nan)


def _background(table: SourceTable, names: tuple[str, ...], unit: str) -> FloatArray:
    unit = "adu" if unit == "count" else unit
    column = table.find(*names)
    if not column:
        return _floats(table, names, None)
    declared = table.column(column)[column].unit
    per_pixel = declared is None or declared != parse_unit(unit)
    return _floats(table, names, f"{unit} / pixel" if per_pixel else unit)


def _own_flags(table: SourceTable) -> IntArray:
    """Return the column ``flags`` of a permil catalog; its bits are named by the cards FL_*, else those of permil."""
    flags = np.zeros(len(table.hdu.data), dtype=np.int64)
    column = table.find("flags")
    if not column or table.kind != "permil":
        return flags
    stored = np.nan_to_num(tables.numbers(table.column(column), column, path=table.path)).astype(np.int64)
    bits = {flag: table.header.table.number(f"FL_{flag.name}"[:8]) for flag in SpotFlag}
    named = {flag: int(bit) for flag, bit in bits.items() if 0 <= bit < 62}
    if not named:
        named = {flag: flag.value.bit_length() - 1 for flag in SpotFlag}
    for flag, bit in named.items():
        flags[(stored >> bit) & 1 == 1] |= int(flag)
    unnamed = (stored & ~sum(1 << bit for bit in named.values())) != 0
    if unnamed.any():
        flags[unnamed] |= int(SpotFlag.BAD_FIT)
        table.remarks.append(f"{int(unnamed.sum())} sources have flags without a name in a card FL_* (column {column}): not used")
    return flags


def _stack_flags(table: SourceTable, columns: dict[str, tuple[str, ...]]) -> IntArray:
    """Translate the flags of the used measurements and of the pixels."""
    flags = np.zeros(len(table.hdu.data), dtype=np.int64)
    failures = tuple({f"{columns[name][0].rsplit('_', 1)[0]}_flag".lower() for name in ("x", "xx", "flux")})
    prefix = _PIXEL_FLAG_PREFIX.lower()

    def meaning(name: str) -> SpotFlag:
        lower = name.lower()
        if lower.startswith(failures):
            return SpotFlag.BAD_FIT
        if not lower.startswith(prefix):
            return SpotFlag(0)
        return next((flag for key, flag in _PIXEL_FLAGS.items() if lower.removeprefix(prefix).startswith(key)), SpotFlag(0))

    for name in table.names:
        if meaning(name):
            flags[tables.flags(table.column(name), name, path=table.path)] |= int(meaning(name))
    for name, raised in _named_bits(table, meaning):
        flags[raised] |= int(meaning(name))
    return flags


def _named_bits(table: SourceTable, is_wanted: Any) -> Iterator[tuple[str, BoolArray]]:
    """Yield name and values of the bits of the column ``flags`` that are named by TFLAG cards.

    Tables processed by other programs lose these names; their bits are then meaningless (most are set for good sources as well). Bits may
    be stored as bytes, or as one number 0 or 1 for each.
    """
    for column in table.hdu.columns if b"TFLAG" in table.header.table.header else ():
        format_ = str(column.format)
        if not (format_.endswith(("X", "L")) or column.name.lower() == "flags"):
            continue
        values = np.asarray(table.hdu.data[column.name])
        if values.ndim == 1 and (values.dtype == np.bool_ or not np.issubdtype(values.dtype, np.integer)):
            continue
        names = {bit: name for bit in range(512) if (name := table.header.table.text(f"TFLAG{bit + 1}"))}
        if not any(map(is_wanted, names.values())):
            continue
        bits = _as_bits(values, max(names) + 1)
        if bits is None:
            raise InputError(
                f"the bits of column {column.name} (format {format_}) cannot be identified",
                path=table.path,
                remedy="give the flags as separate logical columns, or as bits (format X)",
                value=format_,
            )
        for bit, name in names.items():
            if is_wanted(name):
                yield name, bits[:, bit]


def _as_bits(values: NDArray[Any], least: int) -> BoolArray | None:
    """Return bits by row; None if their order is uncertain."""
    if values.dtype == np.bool_:
        return values if values.shape[1] >= least else None
    values = values.reshape(len(values), -1)
    if not values.any():
        return np.zeros((len(values), least), dtype=bool)
    if values.shape[1] >= least and np.isin(values, (0, 1)).all():
        return values.astype(bool)
    if values.dtype == np.uint8 and 8 * values.shape[1] >= least:
        # FITS bit order: the first bit is the most significant one of the first byte.
        return np.unpackbits(values, axis=1).astype(bool)
    return None


def _labels(table: SourceTable, x: FloatArray, y: FloatArray) -> tuple[IntArray, IntArray]:
    """Return labels from their columns, or from the grid in the header of a processed file; -1 without labels."""
    none = np.full(len(x), -1, dtype=np.int64)
    columns = [table.find("grid_i"), table.find("grid_j")]
    if all(columns):
        labels = np.stack([tables.numbers(table.column(name), name, path=table.path) for name in columns], axis=1)
        labels[~np.isfinite(labels) | ~np.isfinite(x + y)[:, None]] = -1
        if (labels != np.rint(labels)).any():
            row = int(np.flatnonzero((labels != np.rint(labels)).any(axis=1))[0])
            raise InputError(
                f"columns {' and '.join(columns)} have ({labels[row, 0]:g}, {labels[row, 1]:g}) in row {row + 1}, which is not a node",
                path=table.path,
                remedy="labels are integers; label the catalog again with permil spots grid",
                row=row + 1,
            )
        labels[labels < 0] = -1
        return labels[:, 0].astype(np.int64), labels[:, 1].astype(np.int64)
    if table.kind != "processed":
        return none, none
    x0, y0, xstep, ystep, theta, columns_, rows = (table.header.number(card) for card in GRID_CARDS)
    if not np.isfinite([x0, y0, xstep, ystep, theta, columns_, rows]).all() or not (xstep * ystep and columns_ > 0 and rows > 0):
        return none, none
    grid = RigidGrid(x0, y0, xstep, ystep, theta, int(columns_), int(rows))
    nodes = np.rint(np.nan_to_num(grid.nodes(x, y), nan=-1.0)).astype(np.int64)
    inside = ((nodes >= 0) & (nodes < (grid.columns, grid.rows))).all(axis=1) & np.isfinite(x + y)
    nodes[~inside] = -1
    _, counts = np.unique(nodes[inside], axis=0, return_counts=True)
    if (counts > 1).any():
        return none, none
    return nodes[:, 0], nodes[:, 1]
