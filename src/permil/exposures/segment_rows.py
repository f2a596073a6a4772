"""Read selected rows of a raw segment, without decoding the others."""

from __future__ import annotations

import numpy as np

from permil._kernels import exposures as kernels
from permil.errors import RawFormatError
from permil.exposures.coded_rows import RowBuffer
from permil.exposures.raw_file import IntegerImage, RawFile


def read_rows(
    raw_file: RawFile, name: str, rows: slice, *, buffer: RowBuffer | None = None, pixels: IntegerImage | None = None
) -> IntegerImage:
    """Return selected rows of a raw segment.

    Parameters
    ----------
    raw_file
        An open raw file.
    name
        Name of the amplifier.
    rows
        Row numbers in ascending order.
    buffer
        Scratch memory for stored rows.
    pixels
        Array for the result, C-contiguous, of its size.

    Returns
    -------
    ndarray, shape (number of rows, nx_raw)
        Equal to ``raw_file.segment(name)[rows]``; if the segment is stored row by row, only these rows are decoded.

    Raises
    ------
    RawFormatError
        If a row cannot be decoded.
    """
    places = raw_file.stored_rows(name)
    if places is None:
        return raw_file.segment(name)[rows]
    amplifier = raw_file.detector.amplifier(name)
    chosen = np.arange(amplifier.ny_raw)[rows]
    shape = (chosen.size, amplifier.nx_raw)
    if pixels is None or pixels.shape != shape:
        pixels = np.empty(shape, dtype=np.int32)
    coded = (buffer or RowBuffer()).read([[places]], chosen)
    damaged = kernels.decode_rows(coded, pixels)
    if damaged >= 0:
        raise RawFormatError(
            f"row {chosen[damaged]} of segment {name} cannot be decompressed",
            path=raw_file.path,
            remedy="copy the file again or leave it out",
        )
    return pixels
