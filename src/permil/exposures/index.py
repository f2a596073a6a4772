"""The index: search folders for raw files, read their headers, and find the purpose of every exposure."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from operator import attrgetter
from pathlib import Path
from stat import S_ISREG
from typing import Any

import numpy as np
from astropy.table import Table

from permil.arrays import BoolArray
from permil.camera import Camera
from permil.config.exposures import ExposuresConfig
from permil.errors import InputError
from permil.exposures.classify import OTHER, classify
from permil.exposures.consistency import (
    Duplicate,
    RegistryEntry,
    choose_sensors,
    compare_with_registry,
    leave_out_disagreeing,
    leave_out_duplicates,
    leave_out_moved,
    note_unusual,
    require_one_sensor,
)
from permil.exposures.exposure import LEDS, Exposure, columns_to_table, exposures_to_table, read_exposure
from permil.exposures.file_names import is_fits_name, is_packed_name
from permil.exposures.hdu import Checksums, reading
from permil.exposures.positions import RunOffset, groups, resolve_positions
from permil.products import is_product
from permil.progress import parallel_map


@dataclass(frozen=True)
class Unreadable:
    """A file or folder that could not be used, and why."""

    path: str
    reason: str


def find_files(roots: Iterable[str | Path]) -> tuple[list[Path], list[Unreadable]]:
    """Search folders recursively for files with a FITS suffix.

    Symbolic links are followed; a folder or file that is reached twice counts once.

    Returns
    -------
    files
        Sorted by path.
    unreadable
        Folders that cannot be opened, packed FITS files, and files whose path is not UTF-8.

    Raises
    ------
    InputError
        If no roots are given, one of them does not exist, or there is no FITS file at all.
    """
    starts = [Path(root) for root in roots]
    if not starts:
        raise InputError("no folders to search", remedy="name at least one in exposures.roots")
    # Visited folders and files, by device and inode: ends loops of links and allows overlapping roots.
    seen: set[tuple[int, int]] = set()
    files: list[Path] = []
    unreadable: list[Unreadable] = []
    waiting: list[Path | os.DirEntry[str]] = []
    for root in starts:
        if not root.exists():
            raise InputError("the folder does not exist", path=root, remedy="check exposures.roots")
        waiting.append(root.absolute())
    waiting.reverse()
    while waiting:
        path = waiting.pop()
        try:
            status = path.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            if S_ISREG(status.st_mode):
                found = Path(path)
                reason = _reason_against(found)
                if reason:
                    unreadable.append(Unreadable(os.fsencode(found).decode("utf-8", "backslashreplace"), reason))
                else:
                    files.append(found)
                continue
            with os.scandir(path) as entries:
                inside = sorted(filter(_is_candidate, entries), key=attrgetter("path"), reverse=True)
        except OSError as error:
            unreadable.append(Unreadable(os.fspath(path), f"cannot be opened ({error.strerror or error})"))
            continue
        waiting += inside
    if not files and not unreadable:
        names = ", ".join(str(root) for root in starts)
        raise InputError(f"no FITS files in {names}", remedy="check exposures.roots", value=[str(root) for root in starts])
    return sorted(files, key=attrgetter("parts")), unreadable


def _reason_against(path: Path) -> str:
    """Return why a file with this name cannot be read, "" if it can."""
    if is_packed_name(path.name):
        return "the file is compressed in a way that is not read; decompress it, or compress it with gzip or fpack"
    try:
        str(path).encode()
    except UnicodeEncodeError:
        # No table holds such a path.
        return "the path is not UTF-8; rename the file or its folder"
    return ""


def _is_candidate(entry: os.DirEntry[str]) -> bool:
    # Hidden files are still being written.
    if entry.name.startswith("."):
        return False
    if is_fits_name(entry.name) or is_packed_name(entry.name):
        return True
    try:
        return entry.is_dir()
    except OSError:
        return False


_FILES_PER_TASK = 500
_LISTS = {"unreadable": Unreadable, "duplicates": Duplicate, "offsets": RunOffset}
_VERSION = 2
# Paths and numbers, in which messages of one kind may differ.
_OWN_WORDS = re.compile(r"\S*/\S*|[-+]?\d+(?:[.eE+-]+\d+)*")
# Up to this number of messages of one kind are shown individually, if each concerns one file or several.
_ALIKE_SHOWN, _SHARED_SHOWN = 3, 10


@dataclass
class Index:
    """All exposures found.

    Attributes
    ----------
    table
        One row per detector file with the columns of `permil.exposures.Exposure`, sorted by exposure and detector.
    unreadable
        Files and folders that cannot be used, with the reason.
    duplicates
        Files left out because another file has the same content.
    offsets
        Header position minus folder position, for runs that have both.
    off_detector
        Exposures off every scan grid, with the projector pointing at no detector; their purpose is ``other``.
    """

    table: Table
    unreadable: list[Unreadable] = field(default_factory=list)
    duplicates: list[Duplicate] = field(default_factory=list)
    offsets: list[RunOffset] = field(default_factory=list)
    off_detector: list[str] = field(default_factory=list)

    @property
    def notes(self) -> list[tuple[str, str]]:
        """Files that are used despite an inconsistency: path and description (column ``note`` of the table)."""
        rows = np.flatnonzero(np.asarray(self.table["note"]) != "")
        return [(str(self.table["path"][row]), str(self.table["note"][row])) for row in rows]

    def to_table(self) -> Table:
        """Return the index as one table, with the lists in its metadata."""
        content: dict[str, Any] = {name: [asdict(entry) for entry in getattr(self, name)] for name in _LISTS}
        table = self.table.copy(copy_data=False)
        table.meta = content | {"off_detector": self.off_detector, "version": _VERSION}
        return table

    @classmethod
    def from_table(cls, table: Table) -> Index:
        """Return an index from a table written by `to_table`.

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
        """LEDs with a scan or pointings, in order of wavelength, unknown ones last."""
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
    options: ExposuresConfig | None = None,
    workers: int = 1,
    registry: Mapping[str, RegistryEntry] | None = None,
) -> Index:
    """Search folders for raw files and classify them.

    Parameters
    ----------
    roots
        Folders (or single files), searched recursively.
    camera
        The camera that took the exposures.
    options
        Options of the classification (``roots`` is ignored); by default everything is inferred from the files.
    workers
        Processes that read headers.
    registry
        Entries of a repository by the paths of its files; files that contradict their entry are not used.

    Raises
    ------
    InputError
        If no raw file is usable, two files of one exposure and detector differ, or a detector has exposures of two sensors.
    ConfigError
        If ``options`` name a detector that the camera does not have.
    PositionError
        If the positions contradict each other.
    """
    options = options or ExposuresConfig()
    files, unreadable = find_files(roots)
    tasks = [files[start : start + _FILES_PER_TASK] for start in range(0, len(files), _FILES_PER_TASK)]
    read = partial(_read_files, camera=camera, leds=tuple(options.leds), checksums=options.checksums)
    exposures: list[Exposure] = []
    for records, failures in parallel_map(read, tasks, workers=workers, description="reading headers", is_quick=True):
        exposures += records
        unreadable += failures
    if not exposures and not unreadable:
        raise InputError(
            f"all {len(files)} FITS files are products of this program, not raw files",
            path=files[0],
            remedy="check exposures.roots",
        )
    exposures, contradicting = compare_with_registry(exposures, registry or {})
    exposures, others = choose_sensors(exposures, camera, options.serials)
    kept, duplicates = leave_out_duplicates(exposures, camera)
    kept, disagreeing = leave_out_disagreeing(kept)
    kept, moved = leave_out_moved(kept)
    unreadable += [Unreadable(exposure.path, reason) for exposure, reason in (*contradicting, *others, *disagreeing, *moved)]
    if not kept:
        raise _nothing_usable(max(len(files), len(unreadable)), unreadable)
    table = exposures_to_table(kept)
    offsets = resolve_positions(table, preference=options.position)
    classify(
        table,
        camera,
        scan_runs=options.scan.runs,
        pointing_runs=options.pointings.runs,
        same_position_mm=options.same_position_mm,
    )
    require_one_sensor(table, options.serials, camera)
    note_unusual(table)
    astray = _points_at_nothing(table)
    return Index(table, unreadable, duplicates, offsets, sorted({str(obsid) for obsid in table["obsid"][astray]}))


def _nothing_usable(n_files: int, unreadable: list[Unreadable]) -> InputError:
    reasons = {_OWN_WORDS.sub("#", entry.reason) for entry in unreadable}
    which = "the reason for all of them" if len(reasons) == 1 and len(unreadable) > 1 else "the first reason"
    return InputError(
        f"none of {n_files} FITS files can be used; {which}: {unreadable[0].reason}",
        path=unreadable[0].path,
        remedy="check exposures.roots or exposures.butler, and the camera",
        unreadable=unreadable,
    )


def summarise_files(entries: Iterable[tuple[str, str]]) -> list[str]:
    """Merge messages about files: one message for all files that share it.

    Parameters
    ----------
    entries
        Path of a file, and the message.

    Returns
    -------
    sentences
        ``path: message``, or ``n files, for example path: message`` where several files share a message, up to numbers and paths. The most
        frequent first.
    """
    same: dict[str, list[str]] = {}
    for path, sentence in entries:
        same.setdefault(sentence, []).append(path)
    alike: dict[str, list[str]] = {}
    for sentence in same:
        alike.setdefault(_OWN_WORDS.sub("#", sentence), []).append(sentence)
    found: list[tuple[int, str]] = []
    for sentences in alike.values():
        n_files = sum(len(same[sentence]) for sentence in sentences)
        shown = _ALIKE_SHOWN if n_files < 2 * len(sentences) else _SHARED_SHOWN
        for members in [sentences] if len(sentences) > shown else [[sentence] for sentence in sentences]:
            paths = [path for sentence in members for path in same[sentence]]
            which = paths[0] if len(paths) == 1 else f"{len(paths)} files, for example {paths[0]}"
            found.append((len(paths), f"{which}: {members[0]}"))
    return [sentence for _, sentence in sorted(found, key=lambda entry: -entry[0])]


def _points_at_nothing(table: Table) -> BoolArray:
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
            # The output of a run may lie below a root.
            if is_product(path):
                continue
            unreadable.append(Unreadable(str(path), error.what if error.remedy is None else f"{error.what}; {error.remedy}"))
    return exposures, unreadable
