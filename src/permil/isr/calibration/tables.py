"""User tables with one row per amplifier: the names of detectors and amplifiers in tables of gains, linearity and crosstalk."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from astropy import units as u
from astropy.table import Table

from permil.arrays import BoolArray, FloatArray, unit_of
from permil.camera import Amplifier, Camera, Detector, detector_key, is_bay_and_slot, shared_camera
from permil.errors import CalibrationError, CameraError, InputError
from permil.products.tables import PathName, labels, numbers, recognise

AMPLIFIER_COLUMNS = ("segment", "amp")
_AMPLIFIER = re.compile(r"(?:amp(?:lifier)?|(c|seg|segment))?[\s_-]*0*(\d{1,2})", re.IGNORECASE)
_FULL_CAMERA = "lsstcam"


class DetectorTable:
    """The rows of one detector in a table of the user.

    Parameters
    ----------
    table
        The table; its column ``detector`` names detectors in any spelling of `permil.camera`.
    detector
        The detector.
    what, path
        Kind of the table (``gain``) and its file, for messages.
    camera
        The camera, for which each row must name a detector; a detector of the full LSST camera may be named too. Without a camera
        each row must have a plausible name.
    needed, optional, hints
        As for `permil.products.tables.recognise`; the column ``detector`` is always needed.

    Raises
    ------
    CalibrationError
        If a column is missing or misspelt, or a row names no detector.
    """

    def __init__(
        self,
        table: Table,
        detector: Detector,
        *,
        what: str,
        path: PathName = None,
        camera: Camera | None = None,
        needed: Iterable[str] = (),
        optional: Iterable[str] = (),
        hints: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        self.detector, self.what, self.path = detector, what, None if path is None else str(path)
        self.table = recognise(
            table,
            needed=("detector", *needed),
            optional=optional,
            hints=hints,
            purpose=f"{what} table",
            path=self.path,
            error=CalibrationError,
        )
        self.rows = np.flatnonzero(self._is_own(camera))

    def __len__(self) -> int:
        """Return the number of rows of the detector."""
        return self.rows.size

    def has(self, column: str) -> bool:
        """Return whether the table has a column."""
        return column in self.table.colnames

    def unit(self, column: str) -> u.UnitBase | None:
        """Return the unit that a column declares, as `permil.arrays.unit_of`."""
        with self._checked():
            return unit_of(self.table[column])

    def numbers(self, column: str, *, unit: str | None = None, unknown: bool = False) -> FloatArray:
        """Return a column of numbers in some unit.

        Parameters
        ----------
        unknown
            Whether an entry may be masked or NaN.

        Raises
        ------
        CalibrationError
            If an entry is not a finite number, or the unit cannot be converted.
        """
        with self._checked():
            values = numbers(self.table, column, unit=unit, path=self.path)[self.rows]
        bad = np.flatnonzero(np.isinf(values) if unknown else ~np.isfinite(values))
        if bad.size:
            raise self.error(
                f"holds {self.entry(column, int(bad[0]))} in column {column}, which is not a finite number",
                int(bad[0]),
                remedy="give a number or remove the row",
            )
        return values

    def amplifiers(self, column: str | None = None) -> list[Amplifier]:
        """Return the amplifier that each row names, by default in the columns ``segment`` and ``amp`` (one of them, or both).

        Raises
        ------
        CalibrationError
            If there is no such column, a row names no amplifier of the detector, or its two columns name different ones.
        """
        columns = [name for name in AMPLIFIER_COLUMNS if self.has(name)] if column is None else [column]
        if not columns:
            raise CalibrationError(
                f"the {self.what} table has neither a column segment nor amp",
                path=self.path,
                remedy=f"its columns are {', '.join(self.table.colnames)}",
                allowed=list(AMPLIFIER_COLUMNS),
            )
        found, *other = [self._named_amplifiers(name) for name in columns]
        for place, (first, second) in enumerate(zip(found, *other, strict=True) if other else ()):
            if first.name != second.name:
                raise self.error(
                    f"names amplifier {self.entry(columns[0], place)} in column {columns[0]}, but {self.entry(columns[1], place)} "
                    f"({second.name}) in column {columns[1]}",
                    place,
                    remedy=f"correct it, or remove one of the two columns; in column {columns[1]} a number is the one of eotest",
                )
        return found

    def _named_amplifiers(self, column: str) -> list[Amplifier]:
        with self._checked():
            named = labels(self.table, column, path=self.path)
        found = []
        for place, row in enumerate(self.rows):
            amplifier = amplifier_of(self.detector, named[row], segment=column == "segment")
            if amplifier is None:
                raise self.error(
                    f"names amplifier {self.entry(column, place)!r} in column {column}, which detector {self.detector.name} does not have",
                    place,
                    remedy=f"its amplifiers are {', '.join(entry.name for entry in self.detector.amplifiers)}",
                )
            found.append(amplifier)
        return found

    def entry(self, column: str, place: int) -> str:
        """Return an entry in a row of the detector as text; ``nothing`` if it is masked."""
        entry = self.table[column][self.rows[place]]
        return "nothing" if np.ma.is_masked(entry) else str(entry)

    def error(self, problem: str, place: int, *, remedy: str, **data: Any) -> CalibrationError:
        """Return an error that names a row of the detector."""
        row = int(self.rows[place]) + 1
        return CalibrationError(
            f"the {self.what} table {problem} (row {row}, detector {self.detector.name})",
            path=self.path,
            remedy=remedy,
            **{"row": row, "detector": self.detector.name, **data},
        )

    @contextmanager
    def _checked(self) -> Iterator[None]:
        """Add the kind of the table to errors about a column."""
        try:
            yield
        except InputError as error:
            raise CalibrationError(
                f"the {self.what} table: {error.what}", path=self.path, remedy=error.remedy, **error.data
            ) from error

    def _is_own(self, camera: Camera | None) -> BoolArray:
        with self._checked():
            named = labels(self.table, "detector", path=self.path)
        known: dict[str | int, bool] = {}
        for row, label in enumerate(named):
            if label not in known:
                known[label] = self.detector.is_called(label)
                if not known[label] and not _is_a_detector(label, camera):
                    raise CalibrationError(
                        f"the {self.what} table names detector {label or 'nothing'!r} in row {row + 1}, "
                        + ("which is no detector" if camera is None else f"which is no detector of camera {camera.name}"),
                        path=self.path,
                        remedy="write it as R22_S11, or as its number or serial number",
                        value=label,
                        row=row + 1,
                    )
        return np.array([known[label] for label in named], dtype=bool)


def amplifier_of(detector: Detector, label: str | int, *, segment: bool) -> Amplifier | None:
    """Return the amplifier with a label like ``C10``, ``Segment10``, ``amp05`` or a number; None if there is no such amplifier.

    Parameters
    ----------
    label
        From `permil.products.tables.labels`.
    segment
        Whether a bare number is that of the segment (10 for C10) instead of the eotest number (1 to 16).
    """
    match = _AMPLIFIER.fullmatch(str(label).strip())
    if match is None:
        key: str | int = str(label)
    else:
        number = int(match[2])
        bare = str(label).strip().lstrip("+").isdigit()
        key = f"C{number:02d}" if match[1] or (bare and segment) else number
    try:
        return detector.amplifier(key)
    except CameraError:
        return None


def _is_a_detector(label: str | int, camera: Camera | None) -> bool:
    """Return whether a label names a detector of the camera or of the full camera; without a camera, whether it may name one."""
    if label == "" or detector_key(label) == "":
        return False
    if camera is not None and camera.find(label) is not None:
        return True
    if shared_camera(_FULL_CAMERA).find(label) is not None:
        return True
    return camera is None and is_bay_and_slot(label)
