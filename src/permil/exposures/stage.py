"""The steps of this room that read and write files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from astropy.io import fits

from permil.camera import Camera
from permil.config.exposures import ExposuresConfig
from permil.errors import InputError
from permil.exposures.assemble import assemble
from permil.exposures.index import Index, build_index
from permil.exposures.raw import read_raw
from permil.products import check_output, provenance, read_table, write_hdus, write_table

# Cards that are copied, with the unit of those that hold numbers.
_CARDS_KEPT = {
    **dict.fromkeys(("OBSID", "RUNNUM", "DATE-OBS", "RAFTBAY", "CCDSLOT", "LSST_NUM", "IMGTYPE", "TESTTYPE")),
    "MJD-OBS": "d",
    "EXPTIME": "s",
}


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
        The camera that took them.
    out_path
        Parquet file to write.
    options
        How to tell exposures apart; the ``roots`` in there are not looked at.
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
    """Read the index that `make_index` wrote.

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


def assemble_file(raw_path: str | Path, out_path: str | Path, camera: Camera) -> None:
    """Write the assembled image of a raw file, without any correction, as the primary HDU of a FITS file.

    Raises
    ------
    RawFormatError, InputError
        See `read_raw`.
    OutputError
        If the image cannot be written.
    """
    check_output(out_path, inputs=[raw_path])
    raw = read_raw(raw_path, camera)
    header = provenance(
        {
            "RAWFILE": (Path(raw_path).name, "raw file"),
            "CAMERA": (camera.name, "camera"),
            "DETECTOR": (raw.detector.name, "detector"),
            "PIXFRAME": ("DM", "pixel frame, x along rows"),
            "BUNIT": ("adu", "raw counts, no correction"),
        }
    )
    for name, unit in _CARDS_KEPT.items():
        # A card that no standard allows is left out, and a letter that it does not allow is replaced.
        content = (
            raw.primary.text(name).encode("ascii", "replace").decode() if unit is None else raw.primary.number(name, unit=unit)
        )
        if content != "" and content == content:
            header[name] = content
    write_hdus(out_path, [fits.PrimaryHDU(data=assemble(raw), header=header)])
