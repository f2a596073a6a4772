"""Rows of user tables that speak of amplifiers: one way to name an amplifier for gains, linearity and crosstalk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from os import PathLike
from typing import Any

import numpy as np
from astropy.table import Row, Table

from permil.camera import Amplifier, Detector
from permil.errors import CalibrationError, CameraError

PathName = str | PathLike[str] | None


def require_columns(table: Table, names: tuple[str, ...], *, what: str, path: PathName) -> None:
    """Check that a table has its columns.

    Raises
    ------
    CalibrationError
        If a column is missing.
    """
    missing = [name for name in names if name not in table.colnames]
    if missing:
        raise CalibrationError(
            f"the {what} table has no column {', '.join(missing)}",
            path=path,
            remedy=f"its columns are {', '.join(table.colnames)}",
            value=missing,
            allowed=list(names),
        )


def amplifier_from_label(detector: Detector, label: Any, *, what: str, path: PathName, column: str = "segment") -> Amplifier:
    """Return the amplifier that a table names: ``C10``, ``Segment10``, in a column ``amp`` also the eotest number.

    Raises
    ------
    CalibrationError
        If the detector has no such amplifier.
    """
    key: str | int = str(label).strip()
    if re.fullmatch(r"\d+", str(key)):
        key = int(key) if column != "segment" else f"C{key}"
    try:
        return detector.amplifier(key)
    except CameraError as error:
        raise CalibrationError(
            f"the {what} table names amplifier {label!r}, which detector {detector.name} does not have",
            path=path,
            remedy=error.remedy,
            value=label,
            detector=detector.name,
        ) from None


def detector_rows(table: Table, detector: Detector, *, what: str, path: PathName) -> Table:
    """Return the rows of one detector; all rows when the table has no column ``detector``."""
    if "detector" not in table.colnames:
        raise CalibrationError(
            f"the {what} table has no column detector", path=path, remedy="add the detector's name (R22_S11) to each row"
        )
    names = np.array([str(name).strip() for name in table["detector"]])
    return table[names == detector.name]


def amplifier_rows(table: Table, detector: Detector, *, what: str, path: PathName) -> Iterator[tuple[Amplifier, Row]]:
    """Yield amplifier and row for each row of a detector; the amplifier is named in the column ``segment`` or ``amp``.

    Raises
    ------
    CalibrationError
        If there is neither column, or an amplifier is unknown.
    """
    column = next((name for name in ("segment", "amp") if name in table.colnames), None)
    if column is None:
        raise CalibrationError(
            f"the {what} table has neither a column segment nor amp",
            path=path,
            remedy=f"its columns are {', '.join(table.colnames)}",
            allowed=["segment", "amp"],
        )
    for row in detector_rows(table, detector, what=what, path=path):
        yield amplifier_from_label(detector, row[column], what=what, path=path, column=column), row


def number(row: Row, column: str, *, what: str, path: PathName) -> float:
    """Return a finite number of a table row.

    Raises
    ------
    CalibrationError
        If it is masked, not a number or not finite.
    """
    entry = row[column]
    try:
        value = np.nan if np.ma.is_masked(entry) else float(entry)
    except (TypeError, ValueError):
        value = np.nan
    if not np.isfinite(value):
        raise CalibrationError(
            f"the {what} table holds {entry} in column {column}, which is not a finite number",
            path=path,
            remedy="give a number or take the row out",
            value=entry,
        )
    return value
