"""The index: every raw file of some folders, what it is and what it is for."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from permil.camera import Camera
from permil.errors import InputError
from permil.exposures.classify import OTHER, SAME_POSITION_MM, classify
from permil.exposures.duplicates import Duplicate, leave_out_duplicates
from permil.exposures.hdu import reading
from permil.exposures.positions import Preference, RunOffset, groups, resolve_positions
from permil.exposures.record import LEDS, Exposure, columns_to_table, exposures_to_table, read_exposure
from permil.exposures.sums import Checksums
from permil.exposures.walk import Unreadable, find_files
from permil.progress import parallel_map

_FILES_PER_TASK = 500
_LISTS = {"unreadable": Unreadable, "duplicates": Duplicate, "offsets": RunOffset}
_VERSION = 1


@dataclass
class Index:
    """All exposures found.

    Attributes
    ----------
    table
        One row per detector file with the columns of `permil.exposures.Exposure`, sorted by exposure and detector.
    unreadable
        Files and folders that could not be used, with the reason.
    duplicates
        Files left out because another one has the same content.
    offsets
        Header minus folder position of the runs that have both.
    off_detector
        Exposures on no scan grid whose projector points at no detector; their purpose is ``other``.
    """

    table: Table
    unreadable: list[Unreadable] = field(default_factory=list)
    duplicates: list[Duplicate] = field(default_factory=list)
    offsets: list[RunOffset] = field(default_factory=list)
    off_detector: list[str] = field(default_factory=list)

    def to_table(self) -> Table:
        """Return everything as one table: the rows, and the lists in its metadata."""
        content: dict[str, Any] = {name: [asdict(entry) for entry in getattr(self, name)] for name in _LISTS}
        table = self.table.copy(copy_data=False)
        table.meta = content | {"off_detector": self.off_detector, "version": _VERSION}
        return table

    @classmethod
    def from_table(cls, table: Table) -> Index:
        """Return the index that `to_table` made a table of.

        Raises
        ------
        InputError
            If the table is not an index of this version.
        """
        if table.meta.get("version") != _VERSION or table.colnames != [entry.name for entry in fields(Exposure)]:
            raise InputError("not an index of this version of permil", remedy="make it again with `permil index`")
        lists = {name: [kind(**entry) for entry in table.meta[name]] for name, kind in _LISTS.items()}
        rows = columns_to_table({name: np.asarray(table[name]) for name in table.colnames})
        return cls(rows, off_detector=list(table.meta["off_detector"]), **lists)

    def select(self, *, purpose: str, led: str | None = None, detector: str | None = None) -> Table:
        """Return the rows of one purpose, LED and detector."""
        chosen = np.asarray(self.table["purpose"]) == purpose
        for name, wanted in (("led", led), ("detector", detector)):
            if wanted is not None:
                chosen &= np.asarray(self.table[name]) == wanted
        return self.table[chosen]

    @property
    def leds(self) -> list[str]:
        """LEDs that have a scan or pointings, in the order of their wavelengths, unknown ones last."""
        present = {str(led) for led in self.table["led"]} - {""}
        return sorted(present, key=lambda led: (LEDS.index(led) if led in LEDS else len(LEDS), led))

    def summary(self) -> Table:
        """Return one row per run, purpose and LED with the numbers of exposures, files, detectors and positions."""
        table = self.table
        keys = [np.asarray(table[name], dtype=np.str_) for name in ("run", "purpose", "led")]
        rows = []
        for key, members in groups(*keys):
            position = np.asarray(table["position_id"])[members]
            distinct = [len(np.unique(np.asarray(table[name], dtype=np.str_)[members])) for name in ("obsid", "detector")]
            rows.append((*key, distinct[0], len(members), distinct[1], len(np.unique(position[position >= 0]))))
        names = ("run", "purpose", "led", "exposures", "files", "detectors", "positions")
        return Table(rows=rows, names=names)


def build_index(
    roots: Iterable[str | Path],
    camera: Camera,
    *,
    leds: Collection[str] = LEDS,
    position: Preference = "auto",
    scan_runs: Collection[str] = (),
    pointing_runs: Collection[str] = (),
    same_position_mm: float = SAME_POSITION_MM,
    checksums: Checksums = "refuse",
    workers: int = 1,
) -> Index:
    """Search folders for raw files and sort out what they are.

    Parameters
    ----------
    roots
        Folders (or single files), searched recursively.
    camera
        The camera that took them.
    leds
        Names that an LED may have.
    position
        Which projector position counts, see `resolve_positions`.
    scan_runs, pointing_runs
        Runs that are known to hold scans or pointings, see `classify`.
    same_position_mm
        Positions within this distance are one place.
    checksums
        See `read_exposure`.
    workers
        Processes that read headers.

    Raises
    ------
    InputError
        If there is no usable raw file, or two files of one exposure and detector differ.
    PositionError
        If the positions contradict each other.
    """
    files, unreadable = find_files(roots)
    tasks = [files[start : start + _FILES_PER_TASK] for start in range(0, len(files), _FILES_PER_TASK)]
    read = partial(_read_files, camera=camera, leds=tuple(leds), checksums=checksums)
    exposures: list[Exposure] = []
    for records, failures in parallel_map(read, tasks, workers=workers, description="reading headers", is_quick=True):
        exposures += records
        unreadable += failures
    if not exposures:
        raise InputError(
            f"none of {len(files)} FITS files can be used; the first reason: {unreadable[0].reason}",
            path=unreadable[0].path,
            remedy="check exposures.roots and the camera",
            unreadable=unreadable,
        )
    kept, duplicates = leave_out_duplicates(exposures)
    table = exposures_to_table(kept)
    offsets = resolve_positions(table, preference=position)
    classify(table, camera, scan_runs=scan_runs, pointing_runs=pointing_runs, same_position_mm=same_position_mm)
    astray = _points_at_nothing(table)
    return Index(table, unreadable, duplicates, offsets, sorted({str(obsid) for obsid in table["obsid"][astray]}))


def _points_at_nothing(table: Table) -> np.ndarray[Any, np.dtype[np.bool_]]:
    text = {name: np.asarray(table[name], dtype=np.str_) for name in ("led", "purpose", "aimed")}
    return (text["led"] != "") & (text["purpose"] == OTHER) & (text["aimed"] == "") & np.isfinite(np.asarray(table["x_mm"]))


def _read_files(
    paths: list[Path], *, camera: Camera, leds: tuple[str, ...], checksums: Checksums
) -> tuple[list[Exposure], list[Unreadable]]:
    exposures, unreadable = [], []
    for path in paths:
        try:
            with reading(path):
                exposures.append(read_exposure(path, camera, leds=leds, checksums=checksums))
        except InputError as error:
            unreadable.append(Unreadable(str(path), error.what if error.remedy is None else f"{error.what}; {error.remedy}"))
    return exposures, unreadable
