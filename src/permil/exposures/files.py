"""Files of exposures: the index of a run and the lists of files that are not used, and the assembled image of a raw file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

from permil.camera import Camera
from permil.config import Config
from permil.config.exposures import ExposuresConfig
from permil.errors import ConfigError, InputError, PhotodiodeError
from permil.exposures.classify import POINTING, SCAN
from permil.exposures.consistency import RegistryEntry
from permil.exposures.hdu import Checksums
from permil.exposures.index import Index, Unreadable, build_index, summarise_files
from permil.exposures.raw_file import assemble, read_raw
from permil.products import RunFolder, check_output, provenance, read_table, write_hdus, write_table
from permil.progress import StageReport

_TEXTS_KEPT = {
    "OBSID": "exposure",
    "RUNNUM": "run",
    "DATE-OBS": "date and time of the exposure",
    "RAFTBAY": "bay of the raft",
    "CCDSLOT": "slot of the sensor",
    "LSST_NUM": "serial number of the sensor",
    "IMGTYPE": "kind of exposure",
    "TESTTYPE": "type of test",
}
# Largest numbers of sentences of one kind, and of duplicates, in the messages.
_MOST_SENTENCES, _MOST_DUPLICATES = 10, 3
_LONGEST_WITH_COMMENT = 64
_NUMBERS_KEPT = {"MJD-OBS": ("d", "modified Julian date of the exposure, d"), "EXPTIME": ("s", "exposure time, s")}


@dataclass(frozen=True)
class FoundFiles:
    """Raw files that a repository lists, in addition to those in folders.

    Attributes
    ----------
    registry
        Entry of the registry for each file, by path.
    missing
        Exposures whose files do not exist.
    """

    registry: Mapping[str, RegistryEntry] = field(default_factory=dict)
    missing: Sequence[Unreadable] = ()


def make_index(
    roots: Iterable[str | Path],
    camera: Camera,
    out_path: str | Path,
    *,
    options: ExposuresConfig | None = None,
    workers: int = 1,
    found: FoundFiles | None = None,
) -> Index:
    """Search folders for raw files and write the index.

    Parameters
    ----------
    roots
        Folders with raw files.
    camera
        The camera that took the exposures.
    out_path
        Parquet file to write.
    options
        Options of the classification; ``roots`` is ignored.
    workers
        Processes that read headers.
    found
        Further raw files.

    Raises
    ------
    InputError, ConfigError, PositionError
        See `build_index`.
    OutputError
        If the index cannot be written.
    """
    found = found or FoundFiles()
    index = build_index([*found.registry, *roots], camera, options=options, workers=workers, registry=found.registry)
    index.unreadable += found.missing
    write_table(out_path, index.to_table())
    return index


def read_index(path: str | Path) -> Index:
    """Read an index written by `make_index`.

    Raises
    ------
    InputError
        If the file is missing, damaged or not an index of this version.
    """
    table = read_table(path, purpose="index")
    try:
        return Index.from_table(table)
    except InputError as error:
        raise InputError(error.what, path=path, remedy=error.remedy) from error


def assemble_file(raw_path: str | Path, out_path: str | Path, camera: Camera, *, checksums: Checksums = "refuse") -> None:
    """Write the assembled image of a raw file, without any correction, as the primary HDU of a FITS file.

    Its header repeats some cards of the raw file, except numbers that are not finite and control characters; letters that a card cannot
    hold become "?".

    Parameters
    ----------
    checksums
        See `permil.exposures.RawFile`.

    Raises
    ------
    RawFormatError, InputError
        See `read_raw`.
    OutputError
        If the image cannot be written.
    """
    check_output(out_path, inputs=[raw_path])
    raw = read_raw(raw_path, camera, checksums=checksums)
    header = provenance(
        {
            "RAWFILE": (_printable(Path(raw_path).name), "raw file"),
            "CAMERA": (camera.name, "camera"),
            "DETECTOR": (raw.detector.name, "detector"),
            "PIXFRAME": ("DM", "pixel frame, x along rows"),
            "BUNIT": ("adu", "raw counts, no correction"),
        }
    )
    for name, comment in _TEXTS_KEPT.items():
        text = _printable(raw.primary.text(name))
        if text:
            # A long text leaves no space for a comment.
            header[name] = (text, comment if len(text.replace("'", "''")) + len(comment) < _LONGEST_WITH_COMMENT else None)
    for name, (unit, comment) in _NUMBERS_KEPT.items():
        number = raw.primary.number(name, unit=unit)
        if math.isfinite(number):
            header[name] = (number, comment)
    write_hdus(out_path, [fits.PrimaryHDU(data=assemble(raw), header=header)])


def _printable(text: str) -> str:
    """Return text that a card can hold: without control characters, non-ASCII letters replaced."""
    return "".join(letter if letter.isascii() else "?" for letter in text if letter.isprintable())


def index_run(config: Config, camera: Camera, folder: RunFolder, *, workers: int, found: FoundFiles | None = None) -> StageReport:
    """Write the index of a run, and the lists of files that are not used.

    Parameters
    ----------
    found
        Raw files in addition to those in ``exposures.roots``.

    Raises
    ------
    ConfigError
        If no folders are named and no files are found.
    PhotodiodeError
        If the photodiode leaves out all scans or all pointings.
    """
    roots = config.exposures.roots
    if not roots and found is None:
        raise ConfigError(
            "no folders to search",
            remedy="name the folders of raw files in exposures.roots, or a repository in exposures.butler",
            key="exposures.roots",
        )
    index = make_index(roots, camera, folder.exposures, options=config.exposures, workers=workers, found=found)
    _write_reasons(folder.unreadable, [(entry.path, entry.reason) for entry in index.unreadable])
    _write_reasons(folder.left_out, _left_out(index, with_photodiode=config.isr.photodiode == "header"))
    return StageReport("index", done=len(index.table), messages=describe_index(index))


def describe_index(index: Index) -> list[str]:
    """Return the messages about an index: contents, offsets of positions, files that are not used or inconsistent."""
    lines = []
    for row in index.summary():
        led = f" {row['led']}" if row["led"] else ""
        lines.append(
            f"run {row['run'] or '?'}: {row['exposures']} {row['purpose']}{led} exposures, {row['files']} files, "
            f"{row['detectors']} detectors, {row['positions']} positions"
        )
    lines += [
        f"run {offset.run}: header position = folder position + ({offset.x_mm:.3f}, {offset.y_mm:.3f}) mm, "
        f"constant to {offset.scatter_mm:.3f} mm over {offset.n_exposures} exposures"
        for offset in index.offsets
        if offset.is_named
    ]
    for title, entries in (
        ("not used", [(entry.path, entry.reason) for entry in index.unreadable]),
        ("noticed", index.notes),
    ):
        sentences = summarise_files(entries)
        lines += [f"{title}: {sentence}" for sentence in sentences[:_MOST_SENTENCES]]
        if len(sentences) > _MOST_SENTENCES:
            lines.append(f"... and {len(sentences) - _MOST_SENTENCES} more, {title}")
    lines += [f"left out, same content as {entry.kept}: {entry.left_out}" for entry in index.duplicates[:_MOST_DUPLICATES]]
    if len(index.duplicates) > _MOST_DUPLICATES:
        lines.append(f"... and {len(index.duplicates) - _MOST_DUPLICATES} more files with the content of another one")
    if index.off_detector:
        shown = ", ".join(index.off_detector[:5])
        lines.append(f"{len(index.off_detector)} exposures point at no detector and are not used: {shown}")
    return lines


def _write_reasons(path: Path, rows: Sequence[tuple[str, str]]) -> None:
    """Write a table of files with reasons, which may be empty."""
    columns = {name: np.array([row[place] for row in rows], dtype=np.str_) for place, name in enumerate(("path", "reason"))}
    write_table(path, Table(columns))


def _left_out(index: Index, *, with_photodiode: bool) -> list[tuple[str, str]]:
    """Return the exposures that the photodiode leaves out and those that repeat others, with the reason.

    Raises
    ------
    PhotodiodeError
        If it leaves out all scans or all pointings.
    """
    rows: list[tuple[str, str]] = []
    if with_photodiode:
        for purpose in (SCAN, POINTING):
            chosen = index.select(purpose=purpose)
            missing = ~np.isfinite(np.asarray(chosen["photodiode"], dtype=float))
            if len(chosen) and missing.all():
                raise PhotodiodeError(
                    f"none of {len(chosen)} {purpose} files has a usable photodiode reading (CCOBADC)",
                    path=str(chosen["path"][0]),
                    remedy="set isr.photodiode=none to continue without normalisation (the products record this)",
                )
            reason = "photodiode is missing, zero or negative: not used for the beam; used for flats by the solver joint only"
            rows += [(str(path), reason) for path in chosen["path"][missing]]
    return rows + [(entry.left_out, f"same content as {entry.kept}") for entry in index.duplicates]
