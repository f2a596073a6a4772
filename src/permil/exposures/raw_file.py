"""Raw files: an open file whose pixels are decoded on request, the segments of a detector, and their assembly.

The structure of a file is checked on opening; its pixels are decoded whole or row by row.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import tempfile
import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, get_args

import numpy as np
from numpy.typing import NDArray

from permil.arrays import Int32Array, IntArray
from permil.camera import Camera, Detector, load_camera
from permil.camera.frames import place_segment
from permil.engine import threaded_map
from permil.engine.call import count_mapped
from permil.errors import InputError, OutputError, RawFormatError
from permil.exposures.cards import Cards
from permil.exposures.exposure import identify_detector
from permil.exposures.hdu import (
    CHANGED_HEADER,
    Checksums,
    Hdu,
    find_fault,
    fits_stream,
    has_changed_header,
    has_sums,
    is_compressed,
    read_structure,
    reading,
    sum_of_words,
    warn_of_file,
)
from permil.exposures.segments import check_geometry, find_segments, image_size
from permil.exposures.tiles import decode_tiles, decompress, rice_coding, tile_places

_BOARD_EXTENSION = "REB_COND"


class RawHeaders:
    """Headers of all HDUs as bytes, the primary first."""

    headers: tuple[bytes, ...]

    @cached_property
    def primary(self) -> Cards:
        """Cards of the primary header."""
        return Cards(self.headers[0])

    @cached_property
    def readout_board(self) -> Cards | None:
        """Cards of the extension REB_COND (temperatures, voltages and currents of the readout board); None if it is missing.

        In March 2019 it had no name and is recognised by its cards.
        """
        for header in self.headers[1:]:
            if _BOARD_EXTENSION.encode() in header or b"TEMP1   =" in header:
                cards = Cards(header)
                name = cards.text("EXTNAME")
                if name == _BOARD_EXTENSION or (not name and cards.get("TEMP1") is not None):
                    return cards
        return None


_REMEDY = "copy the file again or leave it out"
_INT32 = np.iinfo(np.int32)
# Offsets that keep 16-bit pixels within 32 bits.
_LARGEST_ZERO = 2**30
_LARGEST_PLACE = 2**32
# Limits of a decompressed file: bytes per raw pixel of the largest detector, and bytes for headers and tables.
_BYTES_PER_PIXEL = 16
_BYTES_BESIDE_PIXELS = 16_000_000
# A multiple of the word size.
_READ_AT_A_TIME = 2**18
_SUM_REMEDY = "copy the file again, or set exposures.checksums to warn to use it as it is"


@dataclass(frozen=True)
class RowPlaces:
    """Location and coding of the consecutive rows of a segment in a file.

    Parameters
    ----------
    path
        The raw file.
    descriptor
        File descriptor of the open file.
    begin
        Offset of the first row, bytes.
    offsets
        Start of each row relative to ``begin``, then the end of the last row, shape (ny_raw + 1,).
    block
        Block size of the Rice coding, 0 for plain big-endian integers.
    pixel_bytes
        Bytes per pixel; 1-byte pixels are unsigned.
    zero
        Offset added to each pixel (BZERO).
    """

    path: Path
    descriptor: int
    begin: int
    offsets: NDArray[np.uint32]
    block: int
    pixel_bytes: int
    zero: int

    def bounds(self, rows: IntArray) -> tuple[IntArray, IntArray]:
        """Return the start and the end of rows."""
        return self.begin + self.offsets[rows].astype(np.int64), self.begin + self.offsets[rows + 1].astype(np.int64)


class RawFile(RawHeaders):
    """An open raw file of one detector; use it in a ``with`` statement.

    Parameters
    ----------
    path
        Plain and compressed image HDUs in any order are accepted, in plain and gzip files (recognised by content); other HDUs are ignored.
    camera
        Camera that defines the expected geometry.
    checksums
        Treatment of a segment whose data do not match the DATASUM of the header: ``refuse`` it, ``warn``, or do not check (``off``). The
        whole segment is checked once before its first use, even if only some rows are read. An edited header (only CHECKSUM is wrong)
        gives a warning. Segments without checksums are accepted.

    Warns
    -----
    FileWarning
        About wrong checksums (see ``checksums``), bytes after the last HDU, and missing or wrong padding.

    Raises
    ------
    RawFormatError
        If the file is damaged or cut short, a segment is missing or duplicated, has undefined pixels (BLANK), or sizes or sections
        differ from those of the camera.
    InputError
        If the file cannot be opened or does not identify a detector of this camera.
    """

    def __init__(self, path: str | Path, camera: Camera, *, checksums: Checksums = "refuse") -> None:
        if checksums not in get_args(Checksums):
            raise InputError(
                f"unknown treatment of checksums {checksums!r}",
                remedy=f"choose one of {', '.join(get_args(Checksums))}",
                value=checksums,
            )
        self.path = Path(path)
        self._checksums = checksums
        self._unpacked: IO[bytes] | None = None
        self._stored_rows: dict[str, RowPlaces | None] = {}
        self._checked: set[int] = set()
        self._lock = threading.Lock()
        self._stream: IO[bytes]
        with fits_stream(self.path) as opened:
            if is_compressed(opened):
                content = _decompressed(opened, camera, self.path)
                self._stream, size = io.BytesIO(content), len(content)
            else:
                self._stream, size = os.fdopen(os.dup(opened.fileno()), "rb"), os.fstat(opened.fileno()).st_size
            try:
                with reading(self.path):
                    self._open(camera, size)
            except BaseException:
                self._stream.close()
                raise

    def _open(self, camera: Camera, size: int) -> None:
        hdus = read_structure(self._stream, size, self.path)
        self.detector: Detector = identify_detector(hdus[0].cards, self.path, camera)
        self._hdus = find_segments(hdus, self.detector, self.path)
        check_geometry(self._hdus, self.detector, camera, self.path)
        self.headers = tuple(hdu.cards.header for hdu in hdus)
        for hdu in hdus:
            # The headers of the exposure and of the readout board.
            if hdu.data_size == 0 and self._checksums != "off" and has_changed_header(hdu.cards, hdu.header_sum):
                warn_of_file(self.path, f"HDU {hdu.number}{_named(hdu)}: {CHANGED_HEADER}")

    def __enter__(self) -> Self:
        """Return the file itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file; arrays already returned remain valid."""
        self._stream.close()
        if self._unpacked is not None:
            self._unpacked.close()

    def read_ahead(self) -> None:
        """Ask the operating system to prefetch the file."""
        if not isinstance(self._stream, io.BytesIO) and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._stream.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    def segment(self, name: str, pixels: Int32Array | None = None) -> Int32Array:
        """Return a whole raw segment.

        Parameters
        ----------
        name
            Name of the amplifier.
        pixels
            Array for the result, C-contiguous, of the size of the segment; allocated by default.

        Raises
        ------
        RawFormatError
            If the segment cannot be decoded.
        """
        hdu = self._sound(name, is_mapped=True)
        with self._reading(hdu):
            stored, zero = self._stored(hdu, pixels)
            if zero == 0:
                return np.ascontiguousarray(stored, dtype=np.int32)
            shifted = stored.astype(np.int64) + zero
            if shifted.min() < _INT32.min or shifted.max() > _INT32.max:
                raise RawFormatError(
                    f"HDU {hdu.number} has values that signed 32-bit integers cannot hold",
                    path=self.path,
                    remedy="check BZERO",
                    value=zero,
                )
            return shifted.astype(np.int32)

    def _stored(self, hdu: Hdu, pixels: Int32Array | None = None) -> tuple[NDArray[Any], int]:
        """Return the integers of a segment as stored, and BZERO."""
        bits, zero = self._integers(hdu)
        if hdu.cards.get("ZIMAGE") is True:
            return self._decompressed(hdu, bits, pixels), zero
        columns, rows = image_size(hdu)
        return self._content(hdu)[: hdu.data_size].view(_big_endian(bits)).reshape(rows, columns), zero

    def rows(self, name: str) -> RowPlaces:
        """Return the location of the rows of a segment.

        A segment that is not stored row by row in a plain file is first unpacked into a temporary file.

        Raises
        ------
        RawFormatError
            If the descriptors are damaged, or the segment cannot be unpacked.
        """
        return self.stored_rows(name) or self._unpacked_rows(name)

    def mapped_rows(self) -> tuple[NDArray[np.uint8], list[RowPlaces]]:
        """Return memory-mapped bytes, and the location of the rows of each segment in them.

        Raises
        ------
        RawFormatError
            If the descriptors are damaged, or a segment cannot be unpacked.
        """
        names = [amplifier.name for amplifier in self.detector.amplifiers]
        stored = [places for name in names if (places := self.stored_rows(name)) is not None]
        if len(stored) == len(names):
            for places in stored:
                count_mapped(int(places.offsets[-1]))
            return self._bytes, stored
        unpacked = [self._unpacked_rows(name) for name in names]
        return _mapped(unpacked[0].descriptor), unpacked

    def stored_rows(self, name: str) -> RowPlaces | None:
        """Return the location of the rows of a segment; None unless it is stored row by row in a plain file.

        Raises
        ------
        RawFormatError
            If the descriptors are damaged.
        """
        if name not in self._stored_rows:
            hdu = self._sound(name, is_mapped=False)
            with self._reading(hdu):
                self._stored_rows[name] = self._find_rows(hdu)
        return self._stored_rows[name]

    def _find_rows(self, hdu: Hdu) -> RowPlaces | None:
        bits, zero = self._integers(hdu)
        if not isinstance(self._stream, io.BytesIO) and (zero == 0 or (bits < 32 and abs(zero) < _LARGEST_ZERO)):
            columns, rows = image_size(hdu)
            if hdu.cards.get("ZIMAGE") is not True:
                offsets = columns * bits // 8 * np.arange(rows + 1, dtype=np.uint32)
                return RowPlaces(self.path, self._stream.fileno(), hdu.data_offset, offsets, 0, bits // 8, zero)
            coding = rice_coding(hdu)
            if coding is not None and coding.is_by_row:
                table = os.pread(self._stream.fileno(), hdu.cards.integer("NAXIS1", 0) * rows, hdu.data_offset)
                starts, stops = tile_places(hdu, np.frombuffer(table, dtype=np.uint8))
                if (starts[1:] == stops[:-1]).all() and stops[-1] - starts[0] < _LARGEST_PLACE:
                    offsets = (np.append(starts, stops[-1]) - starts[0]).astype(np.uint32)
                    begin = hdu.data_offset + int(starts[0])
                    return RowPlaces(self.path, self._stream.fileno(), begin, offsets, coding.block, coding.pixel_bytes, zero)
        return None

    def _unpacked_rows(self, name: str) -> RowPlaces:
        amplifiers = self.detector.amplifiers
        with self._lock:
            if self._unpacked is None:
                segments = (self.segment(amplifier.name).astype(">i4").tobytes() for amplifier in amplifiers)
                self._unpacked = _temporary_file(segments)
        sizes = [4 * amplifier.nx_raw * amplifier.ny_raw for amplifier in amplifiers]
        index = next(number for number, amplifier in enumerate(amplifiers) if amplifier.name == name)
        offsets = 4 * amplifiers[index].nx_raw * np.arange(amplifiers[index].ny_raw + 1, dtype=np.uint32)
        return RowPlaces(self.path, self._unpacked.fileno(), sum(sizes[:index]), offsets, 0, 4, 0)

    @cached_property
    def _bytes(self) -> NDArray[np.uint8]:
        """All bytes of the file, memory-mapped unless already in memory."""
        if isinstance(self._stream, io.BytesIO):
            return np.frombuffer(self._stream.getvalue(), dtype=np.uint8)
        return _mapped(self._stream.fileno())

    def _content(self, hdu: Hdu) -> NDArray[np.uint8]:
        """Return the data of an HDU with padding."""
        if not isinstance(self._stream, io.BytesIO):
            count_mapped(hdu.end - hdu.data_offset)
        return self._bytes[hdu.data_offset : hdu.end]

    def _integers(self, hdu: Hdu) -> tuple[int, int]:
        """Return bits and BZERO of the pixels of a segment, which must be integers."""
        bits = hdu.cards.integer("ZBITPIX" if hdu.cards.get("ZIMAGE") is True else "BITPIX", 0)
        scale, zero = hdu.cards.get("BSCALE", 1), hdu.cards.get("BZERO", 0)
        is_whole = isinstance(zero, int | float) and math.isfinite(zero) and zero == int(zero)
        if bits not in (8, 16, 32) or scale != 1 or not is_whole:
            raise RawFormatError(
                f"HDU {hdu.number} does not hold integers (BITPIX {bits}, BSCALE {scale}, BZERO {zero})",
                path=self.path,
                remedy="give the original file of the readout",
                value=(bits, scale, zero),
            )
        return bits, int(zero)  # type: ignore[arg-type]

    def _decompressed(self, hdu: Hdu, bits: int, pixels: Int32Array | None) -> Int32Array:
        coding = rice_coding(hdu)
        if coding is not None:
            return decompress(hdu, coding, self._content(hdu), pixels)
        return decode_tiles(hdu, self._content(hdu), bits)

    def _sound(self, name: str, *, is_mapped: bool) -> Hdu:
        """Return the HDU of a segment after checking its checksums and undefined pixels on first use.

        With ``is_mapped`` the check reads the memory-mapped data, which is fastest just before all of them are decoded.
        """
        hdu = self._hdus[name]
        if self._checksums != "off" and hdu.number not in self._checked and has_sums(hdu.cards):
            with self._reading(hdu):
                in_memory = is_mapped or isinstance(self._stream, io.BytesIO)
                self._compare_sums(hdu, sum_of_words(self._content(hdu)) if in_memory else self._sum_of_data(hdu))
        if hdu.number not in self._checked:
            with self._reading(hdu):
                self._require_values(hdu)
        self._checked.add(hdu.number)
        return hdu

    def _require_values(self, hdu: Hdu) -> None:
        """Refuse a segment with pixels that have the value of its BLANK card: they are undefined, and no readout writes them."""
        for card in ("BLANK", "ZBLANK"):
            blank = hdu.cards.get(card)
            count = 0 if blank is None else int(np.count_nonzero(self._stored(hdu)[0] == blank))
            if count:
                raise RawFormatError(
                    f"HDU {hdu.number}{_named(hdu)} has {count} pixels without a value ({card} {blank})",
                    path=self.path,
                    remedy="give the original file of the readout, or leave it out",
                    value=count,
                )

    def _sum_of_data(self, hdu: Hdu) -> int:
        """Return the checksum of the data of an HDU, read in pieces; this takes half the time of mapping them."""
        buffer = np.empty(_READ_AT_A_TIME, dtype=np.uint8)
        total, place = 0, hdu.data_offset
        while place < hdu.end:
            count = os.preadv(self._stream.fileno(), [memoryview(buffer[: hdu.end - place])], place)  # type: ignore[arg-type]
            if count == 0:
                break
            count = count // 4 * 4 or count
            total += sum_of_words(buffer[:count])
            place += count
        return total

    def _compare_sums(self, hdu: Hdu, data_sum: int) -> None:
        """Refuse an HDU with wrong checksums, or warn about it."""
        fault = find_fault(hdu.cards, hdu.header_sum, data_sum)
        if fault is None:
            return
        what = f"HDU {hdu.number}{_named(hdu)}: {fault.what}"
        if fault.of_data and self._checksums == "refuse":
            raise RawFormatError(what, path=self.path, remedy=_SUM_REMEDY)
        warn_of_file(self.path, what)

    def _reading(self, hdu: Hdu) -> AbstractContextManager[None]:
        """Convert exceptions caused by damaged data into an error that names the file."""
        return reading(self.path, f"HDU {hdu.number}{_named(hdu)}")


def _named(hdu: Hdu) -> str:
    name = hdu.cards.get("EXTNAME")
    return f" ({name})" if name else ""


def _decompressed(opened: IO[bytes], camera: Camera, path: Path) -> bytes:
    """Return the content of a gzip file, if it is no larger than a raw file of the camera may be."""
    pixels = max(sum(each.ny_raw * each.nx_raw for each in detector.amplifiers) for detector in camera.detectors.values())
    most = _BYTES_PER_PIXEL * pixels + _BYTES_BESIDE_PIXELS
    content = opened.read(most + 1)
    if len(content) > most:
        raise RawFormatError(
            f"the gzip-compressed file holds more than {most} bytes, more than any raw file of camera {camera.name}",
            path=path,
            remedy="leave it out, or use the camera that took it",
            allowed=most,
        )
    return content


def _temporary_file(parts: Iterable[bytes]) -> IO[bytes]:
    """Write parts to a temporary file, which is deleted when it is closed.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the raw file
    try:
        for part in parts:
            try:
                file.write(part)
                file.flush()
            except OSError as error:
                raise OutputError(
                    f"a temporary file cannot be written ({error.strerror or error})",
                    path=tempfile.gettempdir(),
                    remedy="free some space there, or set TMPDIR to another folder",
                ) from error
    except BaseException:
        file.close()
        raise
    return file


def _mapped(descriptor: int) -> NDArray[np.uint8]:
    return np.frombuffer(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ), dtype=np.uint8)


def _big_endian(bits: int) -> np.dtype[Any]:
    return np.dtype(np.uint8) if bits == 8 else np.dtype(f">i{bits // 8}")


@dataclass(frozen=True)
class RawDetector(RawHeaders):
    """One detector in one exposure.

    Attributes
    ----------
    path, detector
        The file, and the name of the detector.
    segments
        Full raw segments ``[row, column]`` with prescan and overscans, by amplifier name.
    headers
        Headers of all HDUs as bytes, the primary first.
    """

    path: str
    detector: Detector
    segments: dict[str, Int32Array] = field(repr=False)
    headers: tuple[bytes, ...] = field(repr=False)


def read_raw(
    path: str | Path,
    camera: Camera,
    *,
    segments: Iterable[str] | None = None,
    checksums: Checksums = "refuse",
) -> RawDetector:
    """Read a raw file.

    Plain and compressed image HDUs in any order are accepted, in plain and gzip files (recognised by content); other HDUs are ignored.

    Parameters
    ----------
    camera
        Camera that defines the expected geometry.
    segments
        Names of the amplifiers to decode (``C14``); all by default. The others must be present, but are not decoded.
    checksums
        Treatment of data whose checksum is wrong, see `RawFile`.

    Warns
    -----
    FileWarning
        See `RawFile`.

    Raises
    ------
    RawFormatError
        If the file is damaged or cut short, a segment is missing or duplicated, or sizes differ from those of the camera.
    InputError
        If the file cannot be opened or does not identify a detector of this camera.
    CameraError
        If the detector has no amplifier of that name.
    """
    with RawFile(path, camera, checksums=checksums) as opened:
        detector = opened.detector
        names = [amplifier.name for amplifier in detector.amplifiers]
        if segments is not None:
            names = list(dict.fromkeys(detector.amplifier(name).name for name in segments))
        sizes = {(detector.amplifier(name).ny_raw, detector.amplifier(name).nx_raw) for name in names}
        # One allocation is much faster than many.
        places = np.empty((len(names), *sizes.pop()), dtype=np.int32) if len(sizes) == 1 else [None] * len(names)
        decoded = dict(zip(names, threaded_map(lambda pair: opened.segment(*pair), zip(names, places, strict=True)), strict=True))
        return RawDetector(str(path), detector, decoded, opened.headers)


def assemble(raw: RawDetector | str | Path, camera: Camera | str = "lsstcam") -> Int32Array:
    """Return the active pixels of a detector, trimmed, flipped and placed; pixel values are those of the file.

    Parameters
    ----------
    raw
        Raw file, or all segments of a detector.
    camera
        Camera of the file.

    Returns
    -------
    image : ndarray, shape of the detector
        ``[row = y, column = x]`` of the DM pixel frame.

    Raises
    ------
    InputError
        If a segment was not read, or the file cannot be used (see `read_raw`).

    Examples
    --------
    >>> import permil
    >>> run = permil.open_run("out")
    >>> permil.assemble(run.exposures["path"][0], run.camera).shape
    (500, 512)
    """
    if not isinstance(raw, RawDetector):
        raw = read_raw(raw, load_camera(camera) if isinstance(camera, str) else camera)
    missing = [amplifier.name for amplifier in raw.detector.amplifiers if amplifier.name not in raw.segments]
    if missing:
        raise InputError(f"segment {', '.join(missing)} was not read", path=raw.path, remedy="read all segments", missing=missing)
    image = np.empty(raw.detector.shape, dtype=np.int32)
    for amplifier in raw.detector.amplifiers:
        image[amplifier.slices] = place_segment(amplifier, raw.segments[amplifier.name][amplifier.data_slices])
    return image
