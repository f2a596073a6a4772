"""Tables: ECSV, or Parquet when large; the suffix of the path decides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from astropy.table.meta import get_header_from_yaml

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
