"""Read and write tables: ECSV, FITS, or Parquet for large ones, according to the suffix.

`read_table` reads all tables. It keeps masks and units in every format, from any program. `recognise` finds the columns that a caller
needs, and `numbers`, `texts`, `labels` and `flags` return their values.
"""

from __future__ import annotations

import difflib
import io
import itertools
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.io.votable import parse as parse_votable
from astropy.table import Column, MaskedColumn, Table
from astropy.table.meta import get_header_from_yaml
from astropy.utils.data import get_readable_fileobj
from astropy.utils.exceptions import AstropyUserWarning

from permil.arrays import BoolArray, FloatArray, mask_of, plain_array
from permil.errors import InputError, OutputError, PermilError
from permil.products.atomic import atomic_output
from permil.products.fits import provenance

PathName = str | PathLike[str] | None

_FORMATS = {".ecsv": "ascii.ecsv", ".parquet": "parquet", ".fits": "fits"}
_SUFFIXES = {**_FORMATS, ".fit": "fits", ".fts": "fits", ".pq": "parquet", ".parq": "parquet"}
_META = b"permil.meta"
_ASTROPY_META, _VOTABLE_META = b"table_meta_yaml", b"IVOA.VOTable-Parquet.content"
_COMPRESSED = (".gz", ".bz2", ".xz")
_LOGICAL = {
    "": False, "false": False, "f": False, "no": False, "n": False, "0": False, "0.0": False, "nan": False,
    "true": True, "t": True, "yes": True, "y": True, "1": True, "1.0": True,
}  # fmt: skip
_WHOLE = re.compile(r"[+-]?\d+(\.0*)?")
# Names below this similarity (difflib) are unrelated; "gain_error" and "gain_err" have 0.89.
_CLOSE = 0.8
_ERROR_WORDS = {"err", "errs", "error", "errors", "unc", "uncert", "uncertainty", "stderr", "e"}


def write_table(path: str | Path, table: Table, *, keep_same: bool = False) -> None:
    """Write a table atomically; with ``keep_same`` a file with the same bytes stays untouched (`atomic_output`).

    Raises
    ------
    OutputError
        If the file cannot be written or the suffix is not ``.ecsv``, ``.parquet`` or ``.fits``.
    """
    path = Path(path)
    if path.suffix not in _FORMATS:
        raise OutputError(f"no table format for suffix {path.suffix!r}", path=path, remedy=f"use one of {', '.join(_FORMATS)}")
    with atomic_output(path, keep_same=keep_same) as temporary:
        if path.suffix == ".parquet":
            _write_parquet(temporary, table)
        elif path.suffix == ".fits":
            _write_fits(temporary, table)
        else:
            table.write(temporary, format=_FORMATS[path.suffix], overwrite=True)


def read_table(path: str | Path, *, columns: tuple[str, ...] = (), purpose: str = "table", extension: str | None = None) -> Table:
    """Read a table with required columns.

    Masked entries (nulls, TNULL, empty entries) are masked in the result, except in columns of real numbers from Parquet, where they are
    NaN. Units are those of the file. Of several tables in a FITS file, the one with the columns is used.

    Parameters
    ----------
    columns
        Names of required columns; case and surrounding blanks of column names are ignored.
    purpose
        Name of the kind of table in messages.
    extension
        Name of the extension of a FITS file.

    Raises
    ------
    InputError
        If the file is missing, cannot be parsed, has a duplicate column, lacks a column, or has several candidate tables.
    """
    path = Path(path)
    kind = _format_of(path)
    if kind is None:
        raise InputError(
            f"no {purpose} format for suffix {path.suffix!r}",
            path=path,
            remedy=f"use one of {', '.join(_FORMATS)} (astropy.table.Table.read and write convert other formats)",
        )
    if not path.is_file():
        raise InputError(f"the {purpose} does not exist", path=path, remedy="check the path")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", u.UnitsWarning)  # units are checked where a column is used
            table = _read(path, kind, columns, extension)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"cannot be read as a {purpose} ({_first_line(error)})", path=path, remedy="check the file or make it again"
        ) from error
    return recognise(table, needed=columns, purpose=purpose, path=path)


def shared_table(path: str | Path, *, columns: tuple[str, ...] = (), purpose: str = "table") -> Table:
    """Return a table as `read_table` does, read once per process while its file is unchanged; it must not be changed."""
    path = Path(path)
    if not path.is_file():
        return read_table(path, columns=columns, purpose=purpose)
    state = path.stat()
    return _shared_table(path, columns, purpose, (state.st_mtime_ns, state.st_size, state.st_ino))


@lru_cache(maxsize=8)
def _shared_table(path: Path, columns: tuple[str, ...], purpose: str, _state: tuple[int, ...]) -> Table:
    return read_table(path, columns=columns, purpose=purpose)


def recognise(
    table: Table,
    *,
    needed: Iterable[str] = (),
    optional: Iterable[str] = (),
    hints: Mapping[str, tuple[str, ...]] | None = None,
    purpose: str = "table",
    path: PathName = None,
    error: type[PermilError] = InputError,
) -> Table:
    """Return a table whose known columns have their standard names.

    Case and surrounding blanks of a name are ignored. A column with a name close to that of a missing optional column is an error, since it
    would otherwise be ignored; unrelated columns are allowed.

    Parameters
    ----------
    needed, optional
        Names of the columns that the caller uses.
    hints
        Other common names of optional columns: an error if the column itself is missing.
    purpose, path
        Name of the kind of table, and its file, for messages.
    error
        Class of the error.

    Raises
    ------
    PermilError
        Of class ``error``, if a needed column is missing, a name is ambiguous, or an optional column seems misspelt.
    """
    needed, optional = tuple(needed), tuple(optional)
    renamed: dict[str, str] = {}
    for name in (*needed, *optional):
        if name in table.colnames:
            continue
        same = [other for other in table.colnames if other.strip().lower() == name.lower() and other not in (*needed, *optional)]
        if len(same) > 1:
            raise error(
                f"the {purpose} has {' and '.join(repr(other) for other in same)}, and either may be the column {name}",
                path=path,
                remedy=f"name the right one {name}",
                value=same,
            )
        if same:
            renamed[same[0]] = name
    if renamed:
        table = table.copy(copy_data=False)
        table.rename_columns(list(renamed), list(renamed.values()))
    unknown = [name for name in table.colnames if name not in (*needed, *optional)]
    missing = [name for name in needed if name not in table.colnames]
    if missing:
        close = [other for name in missing for other in unknown if _seems_to_mean(other, name)]
        raise error(
            f"column {', '.join(missing)} is missing",
            path=path,
            remedy=f"a {purpose} needs {', '.join(needed)}; this one has {', '.join(table.colnames)}"
            + (f"; did you mean {close[0]}?" if close else ""),
            missing=missing,
            value=missing,
            allowed=list(needed),
        )
    for name in optional:
        if name in table.colnames:
            continue
        for other in unknown:
            if _seems_to_mean(other, name) or other.strip().lower() in (hints or {}).get(name, ()):
                raise error(
                    f"the {purpose} has a column {other!r}, which would be ignored (did you mean {name}?)",
                    path=path,
                    remedy=f"name it {name}, or remove it",
                    value=other,
                )
    return table


def _seems_to_mean(other: str, name: str) -> bool:
    """Return whether a column name is probably a misspelling of another."""
    other, name = _snake(other), name.lower()
    if name.endswith("_err"):
        parts = set(other.split("_"))
        if parts & _ERROR_WORDS and parts - _ERROR_WORDS == set(name.removesuffix("_err").split("_")):
            return True
    if name[-2:] != other[-2:] and name.startswith("ref_"):
        return False
    if len(name) > 2 and sorted(other) == sorted(name):
        return True
    return difflib.SequenceMatcher(None, other, name).ratio() >= _CLOSE


def _snake(name: str) -> str:
    return re.sub(r"[\W_]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.strip())).lower()


def numbers(
    table: Table, column: str, *, unit: str | u.UnitBase | None = None, default: float | None = None, path: PathName = None
) -> FloatArray:
    """Return a column of a table as numbers: one per row, NaN where masked, in the given unit.

    Parameters
    ----------
    unit
        Unit of the result; a column without a unit is assumed to be in it.
    default
        Value of all rows if the column is missing. Without a default the column is required.
    path
        File of the table, for messages.

    Raises
    ------
    InputError
        If the column is missing, has more than one value per row, holds an entry that is not a real number (the message
        names the row) or has a unit that cannot be converted.
    """
    if column not in table.colnames:
        if default is None:
            raise _missing_column(table, column, path)
        return np.full(len(table), default)
    entries = _one_per_row(table, column, path)
    try:
        kind = np.asarray(entries).dtype.kind
        if kind in "USO":
            entries = _parsed(entries, column, path)
        elif kind not in "fiu":
            raise _no_number(np.ma.getdata(entries)[0] if len(table) else kind, column, 0, path)
        return plain_array(entries, name=f"column {column}", unit=unit)
    except InputError as error:
        error.path = error.path or (None if path is None else str(path))
        raise


def texts(table: Table, column: str, *, path: PathName = None) -> list[str]:
    """Return a column of a table as text without surrounding blanks, one per row, empty where masked.

    Parameters
    ----------
    path
        File of the table, for messages.

    Raises
    ------
    InputError
        If the column is missing or has more than one value per row.
    """
    if column not in table.colnames:
        raise _missing_column(table, column, path)
    entries = _one_per_row(table, column, path)
    data, masked = np.ma.getdata(entries), mask_of(entries)
    if data.dtype.kind in "US":
        # Names repeat: each is converted once.
        stored = data.tolist()
        known = {entry: _as_text(entry) for entry in set(stored)}
        return ["" if lost else known[entry] for entry, lost in zip(stored, masked, strict=True)]
    return ["" if lost else _as_text(entry) for entry, lost in zip(data, masked, strict=True)]


def labels(table: Table, column: str, *, path: PathName = None) -> list[str | int]:
    """Return a column of names: text without surrounding blanks, whole numbers (also ``5.0`` and ``"5"``) as int, "" where masked.

    Raises
    ------
    InputError
        If the column is missing or has more than one value per row.
    """
    found = texts(table, column, path=path)
    digits = np.asarray(table[column]).dtype.kind in "USO"
    known = {text: _label_of(text, digits=digits) for text in set(found)}
    return [known[text] for text in found]


def _label_of(text: str, *, digits: bool) -> str | int:
    if text.lower() == "nan":
        return ""
    return text if not _WHOLE.fullmatch(text) or (digits and text[0] == "0") else int(float(text))


def flags(table: Table, column: str, *, path: PathName = None) -> BoolArray:
    """Return a column of a table as booleans; logical values stored as 0 and 1 or as letters are accepted.

    A masked flag is false.

    Raises
    ------
    InputError
        If the column is missing or holds anything else.
    """
    raised = np.zeros(len(table), dtype=bool)
    for row, entry in enumerate(texts(table, column, path=path)):
        if entry.lower() not in _LOGICAL:
            raise InputError(
                f"column {column} holds {entry!r} in row {row + 1}, which is neither true nor false",
                path=path,
                remedy="give true or false, 1 or 0",
                value=entry,
                row=row + 1,
            )
        raised[row] = _LOGICAL[entry.lower()]
    return raised


def _missing_column(table: Table, column: str, path: PathName) -> InputError:
    close = [name for name in table.colnames if _seems_to_mean(name, column)]
    hint = f"did you mean {close[0]}? " if close else ""
    return InputError(
        f"column {column} is missing", path=path, remedy=f"{hint}the columns are {', '.join(table.colnames)}", missing=[column]
    )


def _one_per_row(table: Table, column: str, path: PathName) -> Any:
    entries = table[column]
    shape = np.shape(entries)
    if len(shape) > 1 and set(shape[1:]) == {1}:
        return entries.reshape(shape[0])
    if len(shape) != 1:
        counts = " x ".join(str(size) for size in shape[1:]) or "no"
        raise InputError(
            f"column {column} has {counts} values per row (row 1: {np.ma.getdata(entries)[:1].tolist()}), but one is needed",
            path=path,
            remedy="give one number per row",
            value=shape,
        )
    return entries


def _parsed(entries: Any, column: str, path: PathName) -> Any:
    """Return text and objects as numbers, with the unit of the column."""
    masked = mask_of(entries)
    parsed = np.full(len(masked), np.nan)
    for row, entry in enumerate(np.ma.getdata(entries)):
        if masked[row] or (isinstance(entry, str | bytes) and not _as_text(entry)):
            continue
        try:
            if isinstance(entry, bool | np.bool_) or "_" in str(entry):
                raise TypeError("no number")
            parsed[row] = float(_as_text(entry) if isinstance(entry, str | bytes) else entry)
        except (TypeError, ValueError):
            raise _no_number(_as_text(entry), column, row, path) from None
    return MaskedColumn(parsed, unit=getattr(entries, "unit", None))


def _no_number(entry: Any, column: str, row: int, path: PathName) -> InputError:
    return InputError(
        f"column {column} holds {str(entry)!r} in row {row + 1}, which is not a number",
        path=path,
        remedy="give a number, or leave the entry empty",
        value=entry,
        row=row + 1,
    )


def _as_text(entry: Any) -> str:
    return (entry.decode("utf-8", "replace") if isinstance(entry, bytes) else str(entry)).strip().strip("\0").strip()


def read_meta(path: str | Path) -> dict[str, Any]:
    """Return the metadata of an ECSV or Parquet table without its rows.

    Raises
    ------
    ValueError
        If the file is not such a table.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        from pyarrow import parquet

        return json.loads((parquet.read_schema(path).metadata or {}).get(_META, b"{}"))
    with path.open(encoding="utf-8") as stream:
        lines = []
        for line in stream:
            if not line.startswith("# "):
                break
            lines.append(line[2:].rstrip("\n"))
    if not lines:
        raise ValueError("no ECSV header")
    return dict(get_header_from_yaml(lines).get("meta") or {})


def _write_parquet(path: Path, table: Table) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    fields, columns = [], []
    for name in table.colnames:
        column, lost = table[name], mask_of(table[name])
        plain = np.asarray(np.ma.getdata(column))
        values = plain.astype(object) if plain.dtype.kind in "UO" else plain.astype(plain.dtype.newbyteorder("="))
        columns.append(pa.array(values.tolist() if plain.dtype.kind in "UO" else values, mask=lost if lost.any() else None))
        notes = {"unit": column.unit and str(column.unit), "description": column.description}
        kept = {key.encode(): text.encode() for key, text in notes.items() if text}
        fields.append(pa.field(name, columns[-1].type, metadata=kept or None))
    schema = pa.schema(fields, metadata={_META: json.dumps(dict(table.meta), default=str).encode()})
    parquet.write_table(pa.table(columns, schema=schema), path)


def _write_fits(path: Path, table: Table) -> None:
    """Write a table with its units also where the FITS standard does not have them (electron, a scale such as 1e-6)."""
    plain = table.copy(copy_data=False)
    for name in plain.colnames:
        plain[name].unit = None
    hdu = fits.table_to_hdu(plain, character_as_bytes=True)
    for name in table.colnames:
        unit = getattr(table[name], "unit", None)
        if unit is not None:
            try:
                hdu.columns[name].unit = unit.to_string(format="fits")
            except ValueError:
                hdu.columns[name].unit = str(unit)
    lost = {name: mask_of(table[name]) for name in table.colnames if hdu.columns[name].format == "L"}
    fits.HDUList([fits.PrimaryHDU(header=provenance()), hdu]).writeto(path, overwrite=True)
    if any(mask.any() for mask in lost.values()):
        # FITS stores a null logical value as a zero byte, which astropy does not write.
        with fits.open(io.BytesIO(path.read_bytes())) as written:
            for name, mask in lost.items():
                written[1].data.view(np.ndarray)[name][mask] = 0
            written.writeto(path, overwrite=True)


def _format_of(path: Path) -> str | None:
    """Return the format of a table file by its suffix, in any case and also compressed; None for an unknown one."""
    name = path.name.lower()
    for suffix in _COMPRESSED:
        name = name.removesuffix(suffix)
    kind = _SUFFIXES.get(Path(name).suffix)
    return None if kind == "parquet" and name != path.name.lower() else kind


def _read(path: Path, kind: str, columns: tuple[str, ...], extension: str | None) -> Table:
    if kind == "fits":
        return _read_fits(path, columns, extension)
    if kind == "parquet":
        return _read_parquet(path)
    table = Table.read(path, format=kind, encoding="utf-8-sig")
    if any(re.sub(r"_\d+$", "", name) in table.colnames for name in table.colnames if name[-1:].isdigit()):
        with get_readable_fileobj(str(path), encoding="utf-8-sig") as stream:  # astropy renames duplicate columns
            lines = [line[2:].rstrip() for line in itertools.takewhile(lambda line: line.startswith("# "), stream)]
        _require_distinct([entry["name"] for entry in get_header_from_yaml(lines)["datatype"]], path)
    return table


def _read_fits(path: Path, columns: tuple[str, ...], extension: str | None) -> Table:
    """Return the matching table of a FITS file, with null entries masked."""
    with warnings.catch_warnings(), fits.open(path, memmap=False) as hdus:
        warnings.simplefilter("ignore", AstropyUserWarning)
        tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU | fits.TableHDU) and (extension in (None, hdu.name))]
        hdu = _only_table(tables, columns, extension, path)
        _require_distinct(hdu.columns.names, path)
        table = Table.read(hdu, format="fits", unit_parse_strict="silent")
        for name in hdu.columns.names if isinstance(hdu, fits.BinTableHDU) else ():
            lost = _null_entries(hdu, name, table)
            if lost is not None and lost.any():
                table[name] = MaskedColumn(table[name], mask=lost | mask_of(table[name]), copy=False)
    return table


def _only_table(tables: list[Any], columns: tuple[str, ...], extension: str | None, path: Path) -> Any:
    fitting = [
        hdu for hdu in tables if {name.lower() for name in columns} <= {name.strip().lower() for name in hdu.columns.names}
    ]
    if len(fitting) == 1 or (not fitting and len(tables) == 1):
        return (fitting or tables)[0]
    if not tables:
        which = "table" if extension is None else f"table in an extension {extension}"
        raise InputError(f"the file has no {which}", path=path, remedy="give a FITS file with such a table")
    named = ", ".join(f"{hdu.name or 'without a name'} ({', '.join(hdu.columns.names[:8])})" for hdu in fitting or tables)
    raise InputError(
        f"the file has {len(fitting or tables)} possible tables: {named}",
        path=path,
        remedy="write the right one to a separate file" + (f", with {', '.join(columns)}" if columns else ""),
    )


def _null_entries(hdu: Any, name: str, table: Table) -> BoolArray | None:
    """Return which entries of a column are null if astropy does not mask them: scaled integers and logical values."""
    column = hdu.columns[name]
    stored = hdu.data.view(np.ndarray)[name]
    scaled = column.bscale not in (None, "", 1) or column.bzero not in (None, "", 0)
    if column.null is not None and scaled:
        return np.asarray(stored == int(column.null))
    if str(column.format).strip("1") == "L" and stored.ndim == 1:
        codes = stored.view(np.uint8).reshape(len(stored), -1)[:, 0]
        if (codes == 1).any():  # written as 0 and 1 in place of F and T
            table[name] = codes == 1
            return None
        return np.asarray(codes == 0)
    return None


def _require_distinct(names: Iterable[str], path: Path) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"column {', '.join(twice)} is given twice", path=path, remedy="leave one column of each name")


def _read_parquet(path: Path) -> Table:
    from pyarrow import parquet

    # Read as one file: folder names such as key=value must not become columns.
    arrow = parquet.ParquetFile(path).read()
    _require_distinct(arrow.column_names, path)
    notes = arrow.schema.metadata or {}
    header = get_header_from_yaml(notes[_ASTROPY_META].decode().split("\n")) if _ASTROPY_META in notes else {}
    meta = json.loads(notes.get(_META, b"{}")) or dict(header.get("meta") or {})
    serialized = meta.pop("__serialized_columns__", {})
    table = Table({name: _from_arrow(arrow.column(name), name) for name in arrow.column_names}, meta=meta, copy=False)
    described = {entry["name"]: entry for entry in header.get("datatype", ())}
    if _VOTABLE_META in notes:
        votable = parse_votable(io.BytesIO(notes[_VOTABLE_META]), verify="ignore")
        described |= {
            field.name: {"unit": field.unit, "description": field.description} for field in votable.iter_fields_and_params()
        }
    for field in arrow.schema:
        entry = {key.decode(): text.decode() for key, text in (field.metadata or {}).items()} | described.get(field.name, {})
        if entry.get("unit"):
            table[field.name].unit = u.Unit(str(entry["unit"]), parse_strict="silent")
        table[field.name].description = entry.get("description")
    for name, parts in serialized.items():
        _put_together(table, name, parts)
    return table


def _put_together(table: Table, name: str, parts: Any) -> None:
    """Merge the columns that astropy writes for one masked column or quantity."""
    data, mask = (parts.get(key) for key in ("data" if "data" in parts else "value", "mask"))
    if not hasattr(data, "get") or data.get("name") not in table.colnames:
        return
    column = table[data["name"]]
    unit = parts.get("unit")
    if unit is not None:
        column.unit = unit.get("unit") if hasattr(unit, "get") else unit
    if hasattr(mask, "get"):
        lost = np.asarray(table[mask["name"]], dtype=bool)
        table.remove_column(mask["name"])
        column = MaskedColumn(column, mask=lost)
    if data["name"] == name:
        table[name] = column
    else:
        table.rename_column(data["name"], name)
        table[name] = column


def _from_arrow(chunks: Any, name: str) -> Column:
    """Convert an Arrow column; nulls are masked, or NaN in columns of real numbers."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_dictionary(chunks.type):
        chunks = chunks.cast(chunks.type.value_type)
    if types.is_decimal(chunks.type):
        chunks = chunks.cast(pa.float64())
    lost = np.asarray(chunks.is_null().to_numpy(), dtype=bool)
    kind = chunks.type
    if types.is_floating(kind):
        return Column(np.array(chunks.to_numpy()), name=name)
    if types.is_integer(kind) or types.is_boolean(kind):
        plain = np.array(chunks.fill_null(0 if types.is_integer(kind) else False).to_numpy())
    elif types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind):
        plain = np.array(["" if entry is None else entry for entry in chunks.to_pylist()], dtype=str)
    else:
        plain = np.array(chunks.to_numpy())
        if plain.dtype.kind == "O" and len(plain) and not lost.any() and len({np.shape(entry) for entry in plain}) == 1:
            plain = np.array(plain.tolist())
        return Column(plain, name=name)
    return MaskedColumn(plain, mask=lost, name=name) if lost.any() else Column(plain, name=name)


def _first_line(error: Any) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
