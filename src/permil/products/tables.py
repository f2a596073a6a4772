"""Tables: ECSV, or Parquet when large; the suffix of the path decides."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from astropy.table.meta import get_header_from_yaml
from numpy.typing import NDArray

from permil.arrays import mask_of, plain_array
from permil.errors import InputError, OutputError
from permil.products.atomic import atomic_output

_FORMATS = {".ecsv": "ascii.ecsv", ".parquet": "parquet", ".fits": "fits"}
_META = b"permil.meta"


def write_table(path: str | Path, table: Table) -> None:
    """Write a table atomically.

    Raises
    ------
    OutputError
        If the file cannot be written or the suffix is not ``.ecsv``, ``.parquet`` or ``.fits``.
    """
    path = Path(path)
    if path.suffix not in _FORMATS:
        raise OutputError(f"no table format for suffix {path.suffix!r}", path=path, remedy=f"use one of {', '.join(_FORMATS)}")
    with atomic_output(path) as temporary:
        if path.suffix == ".parquet":
            _write_parquet(temporary, table)
        else:
            table.write(temporary, format=_FORMATS[path.suffix], overwrite=True)


def read_table(path: str | Path, *, columns: tuple[str, ...] = (), purpose: str = "table") -> Table:
    """Read a table that must have some columns.

    Parameters
    ----------
    columns
        Names of columns without which the table is of no use.
    purpose
        What the table is, for the message.

    Raises
    ------
    InputError
        If the file is missing, cannot be parsed or lacks a column.
    """
    path = Path(path)
    if path.suffix not in _FORMATS:
        raise InputError(f"no {purpose} format for suffix {path.suffix!r}", path=path, remedy=f"use one of {', '.join(_FORMATS)}")
    if not path.is_file():
        raise InputError(f"there is no such {purpose}", path=path, remedy="check the path")
    try:
        table = _read_parquet(path) if path.suffix == ".parquet" else Table.read(path, format=_FORMATS[path.suffix])
    except Exception as error:
        raise InputError(
            f"cannot be read as a {purpose} ({_first_line(error)})", path=path, remedy="check or remake the file"
        ) from error
    missing = [name for name in columns if name not in table.colnames]
    if missing:
        raise InputError(
            f"column {', '.join(missing)} is missing",
            path=path,
            remedy=f"a {purpose} needs {', '.join(columns)}; this one has {', '.join(table.colnames)}",
            missing=missing,
        )
    return table


def numbers(
    table: Table, column: str, *, unit: str | None = None, default: float | None = None, path: str | Path | None = None
) -> NDArray[np.float64]:
    """Return a column of a table as numbers: one per row, NaN where masked, in the unit that is asked for.

    Parameters
    ----------
    unit
        Unit of the result; a column without a unit is taken to be in it.
    default
        What all rows get if there is no such column. Without it the column is needed.
    path
        File of the table, for messages.

    Raises
    ------
    InputError
        If the column is missing, has more than one value per row, holds text that is not a number (the row is named) or has a unit
        that cannot be converted.
    """
    if column not in table.colnames:
        if default is None:
            raise _missing_column(table, column, path)
        return np.full(len(table), default)
    entries = _one_per_row(table, column, path)
    try:
        if np.asarray(entries).dtype.kind in "USO":
            entries = _parsed(entries, column, path)
        return plain_array(entries, name=f"column {column}", unit=unit)
    except InputError as error:
        error.path = error.path or (None if path is None else str(path))
        raise


def texts(table: Table, column: str, *, default: str | None = None, path: str | Path | None = None) -> list[str]:
    """Return a column of a table as text without surrounding blanks, one per row, empty where masked.

    Parameters
    ----------
    default
        What all rows get if there is no such column. Without it the column is needed.
    path
        File of the table, for messages.

    Raises
    ------
    InputError
        If the column is missing or has more than one value per row.
    """
    if column not in table.colnames:
        if default is None:
            raise _missing_column(table, column, path)
        return [default] * len(table)
    entries = _one_per_row(table, column, path)
    masked = mask_of(entries)
    return ["" if lost else _as_text(entry) for entry, lost in zip(np.ma.getdata(entries), masked, strict=True)]


def flags(table: Table, column: str, *, path: str | Path | None = None) -> NDArray[np.bool_]:
    """Return a column of a table as true or false; logical values that came back as 0 and 1 or as letters are understood.

    A masked flag is not raised.

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
            )
        raised[row] = _LOGICAL[entry.lower()]
    return raised


_LOGICAL = {"": False, "false": False, "f": False, "0": False, "0.0": False, "true": True, "t": True, "1": True, "1.0": True}


def _missing_column(table: Table, column: str, path: str | Path | None) -> InputError:
    close = difflib.get_close_matches(column, table.colnames, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return InputError(
        f"column {column} is missing", path=path, remedy=f"{hint}the columns are {', '.join(table.colnames)}", missing=[column]
    )


def _one_per_row(table: Table, column: str, path: str | Path | None) -> Any:
    entries = table[column]
    if len(np.shape(entries)) != 1:
        raise InputError(
            f"column {column} has {np.shape(entries)[1:]} values in each row, where one is needed",
            path=path,
            remedy="give one number per row",
            value=np.shape(entries),
        )
    return entries


def _parsed(entries: Any, column: str, path: str | Path | None) -> Any:
    """Return text as numbers, with the unit of the column."""
    from astropy.table import MaskedColumn

    masked = mask_of(entries)
    parsed = np.full(len(masked), np.nan)
    for row, entry in enumerate(np.ma.getdata(entries)):
        text = _as_text(entry)
        if masked[row] or not text:
            continue
        try:
            parsed[row] = float(text)
        except ValueError:
            raise InputError(
                f"column {column} holds {text!r} in row {row + 1}, which is not a number",
                path=path,
                remedy="give a number, or leave the entry empty",
                value=text,
                row=row + 1,
            ) from None
    return MaskedColumn(parsed, unit=getattr(entries, "unit", None))


def _as_text(entry: Any) -> str:
    return (entry.decode("utf-8", "replace") if isinstance(entry, bytes) else str(entry)).strip()


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

    columns = {name: pa.array(np.asarray(table[name]).tolist() if _is_text(table[name]) else np.asarray(table[name]))
               for name in table.colnames}  # fmt: skip
    arrow = pa.table(columns).replace_schema_metadata({_META: json.dumps(dict(table.meta), default=str).encode()})
    parquet.write_table(arrow, path)


def _read_parquet(path: Path) -> Table:
    from pyarrow import parquet

    arrow = parquet.read_table(path)
    columns = {}
    for name in arrow.column_names:
        column = arrow.column(name)
        text = str(column.type) in ("string", "large_string")
        columns[name] = np.array(column.to_pylist(), dtype=str) if text else column.to_numpy()
    meta = json.loads((arrow.schema.metadata or {}).get(_META, b"{}"))
    return Table(columns, meta=meta)


def _is_text(column: Any) -> bool:
    return np.asarray(column).dtype.kind in "UO"


def _first_line(error: Any) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
