"""Selected rows of raw segments: as stored in the files, and decoded without decoding other rows."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from permil._kernels import exposures as kernels
from permil.arrays import Int32Array, IntArray
from permil.errors import RawFormatError
from permil.exposures.hdu import reading
from permil.exposures.raw_file import RawFile, RowPlaces
from permil.exposures.tiles import whole_words

_ALIGNMENT = 8
# Rows separated by more bytes than this are read one by one: a system call takes as long as copying this many bytes.
_WORTH_SKIPPING = 12_000


class CodedRows(NamedTuple):
    """Stored rows of the same segments of several files.

    ``octets``: the bytes, their number a multiple of 4; ``starts``, ``stops``: limits of each row in them, (n_files, n_segments, n_rows);
    ``block``, ``pixel_bytes``, ``zero``: see `RowPlaces`, shape (n_files, n_segments).
    """

    octets: NDArray[np.uint8]
    starts: IntArray
    stops: IntArray
    block: IntArray
    pixel_bytes: IntArray
    zero: IntArray


def mapped_rows(raw_file: RawFile) -> CodedRows:
    """Map all rows of all segments of an open file into memory, without reading them.

    Raises
    ------
    RawFormatError
        See `RawFile.mapped_rows`.
    """
    octets, places = raw_file.mapped_rows()
    bounds = np.array([place.bounds(np.arange(place.offsets.size - 1)) for place in places])
    return CodedRows(
        octets=whole_words(octets),
        starts=np.ascontiguousarray(bounds[np.newaxis, :, 0]),
        stops=np.ascontiguousarray(bounds[np.newaxis, :, 1]),
        block=np.array([[place.block for place in places]]),
        pixel_bytes=np.array([[place.pixel_bytes for place in places]]),
        zero=np.array([[place.zero for place in places]]),
    )


class RowBuffer(threading.local):
    """Reusable memory for stored rows, of each thread."""

    def __init__(self) -> None:
        self._octets = np.zeros(0, dtype=np.uint8)

    def read(self, places: Sequence[Sequence[RowPlaces]], rows: IntArray) -> CodedRows:
        """Read rows, overwriting those read before.

        Parameters
        ----------
        places
            By file and segment.
        rows
            Row numbers in ascending order, at least one.

        Raises
        ------
        RawFormatError
            If a file cannot be read or has become shorter.
        """
        flat = [place for segments in places for place in segments]
        bounds = np.array([place.bounds(rows) for place in flat])
        begins, ends = bounds[:, 0], bounds[:, 1]
        gaps = (ends[:, -1] - begins[:, 0]).sum() - (ends - begins).sum()
        parts, part_ends = (begins, ends) if gaps > _WORTH_SKIPPING * begins.size else (begins[:, :1], ends[:, -1:])
        sizes = (part_ends - parts).ravel()
        offsets = np.concatenate([[0], np.cumsum(-(-sizes // _ALIGNMENT) * _ALIGNMENT)])
        if offsets[-1] > self._octets.size:
            self._octets = np.zeros(int(1.1 * offsets[-1]) // _ALIGNMENT * _ALIGNMENT + _ALIGNMENT, dtype=np.uint8)
        memory = memoryview(self._octets)  # type: ignore[arg-type]
        files = (place for place in flat for _ in range(parts.shape[1]))
        for place, begin, size, offset in zip(files, parts.ravel().tolist(), sizes.tolist(), offsets[:-1].tolist(), strict=True):
            with reading(place.path):
                if os.preadv(place.descriptor, [memory[offset : offset + size]], begin) != size:
                    raise EOFError("the file was truncated while it was open")
        shape = (len(places), len(places[0]))
        shift = offsets[:-1].reshape(parts.shape) - parts
        return CodedRows(
            octets=self._octets,
            starts=(begins + shift).reshape(*shape, -1),
            stops=(ends + shift).reshape(*shape, -1),
            block=np.array([place.block for place in flat]).reshape(shape),
            pixel_bytes=np.array([place.pixel_bytes for place in flat]).reshape(shape),
            zero=np.array([place.zero for place in flat]).reshape(shape),
        )


ROW_BUFFER = RowBuffer()


def read_rows(raw_file: RawFile, name: str, rows: slice, *, pixels: Int32Array | None = None) -> Int32Array:
    """Return selected rows of a raw segment.

    Parameters
    ----------
    raw_file
        An open raw file.
    name
        Name of the amplifier.
    rows
        Row numbers in ascending order.
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
    coded = ROW_BUFFER.read([[places]], chosen)
    damaged = kernels.decode_rows(coded, pixels)
    if damaged >= 0:
        raise RawFormatError(
            f"row {chosen[damaged]} of segment {name} cannot be decompressed",
            path=raw_file.path,
            remedy="copy the file again or leave it out",
        )
    return pixels
