"""Steps that read and write files: the index, and the assembled image of a raw file."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from astropy.io import fits

from permil.camera import Camera
from permil.config.exposures import ExposuresConfig
from permil.errors import InputError
from permil.exposures.assemble import assemble
from permil.exposures.checksums import Checksums
from permil.exposures.index import Index, build_index
from permil.exposures.raw_detector import read_raw
from permil.products import check_output, provenance, read_table, write_hdus, write_table

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
_LONGEST_WITH_COMMENT = 64
_NUMBERS_KEPT = {"MJD-OBS": ("d", "modified Julian date of the exposure, d"), "EXPTIME": ("s", "exposure time, s")}


def make_index(
    roots: Iterable[str | Path],
    camera: Camera,
    out_path: str | Path,
    *,
    options: ExposuresConfig | None = None,
    workers: int = 1,
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

    Raises
    ------
    InputError, ConfigError, PositionError
        See `build_index`.
    OutputError
        If the index cannot be written.
    """
    index = build_index(roots, camera, options=options, workers=workers)
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
