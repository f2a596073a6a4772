"""An open raw file: its structure is checked at once, its pixels are decoded when they are asked for, whole or row by row."""

from __future__ import annotations

import io
import mmap
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from permil.camera import Camera, Detector
from permil.engine.usage import count_mapped
from permil.errors import RawFormatError
from permil.exposures.hdu import Hdu, fits_stream, is_compressed, read_structure
from permil.exposures.raw_headers import RawHeaders
from permil.exposures.record import identify_detector
from permil.exposures.rice import decompress, rice_coding, tile_places
from permil.exposures.segments import check_geometry, find_segments, image_size

IntegerImage = NDArray[np.int32]

_REMEDY = "copy the file again or leave it out"
_INT32 = np.iinfo(np.int32)
# What can be added to pixels of 16 bits without leaving 32.
_LARGEST_ZERO = 2**30


@dataclass(frozen=True)
class RowPlaces:
    """Where the rows of a segment lie in a file, one after the other, and how they are coded.

    Parameters
    ----------
    descriptor
        Of the open file.
    begin
        Where the first row begins, bytes.
    offsets
        Where each row begins from there, and behind the last, where that ends, shape (ny_raw + 1,).
    block
        Of the Rice coding, 0 for plain big-endian integers.
    pixel_bytes
        Bytes of a pixel; 1 is unsigned.
    zero
        Is added to each pixel (BZERO).
    """

    descriptor: int
    begin: int
    offsets: NDArray[np.uint32]
    block: int
    pixel_bytes: int
    zero: int

    def bounds(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return where rows begin and where they end."""
        return self.begin + self.offsets[rows].astype(np.int64), self.begin + self.offsets[rows + 1].astype(np.int64)


class RawFile(RawHeaders):
    """An open raw file of one detector; use it in a ``with`` statement.

    Parameters
    ----------
    path
        Plain and compressed image HDUs, in any order, plain files and gzip (by content) are taken; further HDUs are passed over.
    camera
        Whose geometry the file must have.

    Raises
    ------
    RawFormatError
        If the file is damaged or cut short, a segment is missing or stands twice, or sizes are not those of the camera.
    InputError
        If the file cannot be opened or says of no detector of the camera that it is its own.
    """

    def __init__(self, path: str | Path, camera: Camera) -> None:
        self.path = Path(path)
        self._unpacked: IO[bytes] | None = None
        self._stored_rows: dict[str, RowPlaces | None] = {}
        self._lock = threading.Lock()
        self._stream: IO[bytes]
        with fits_stream(self.path) as opened:
            if is_compressed(opened):
                content = opened.read()
                self._stream, size = io.BytesIO(content), len(content)
            else:
                self._stream, size = os.fdopen(os.dup(opened.fileno()), "rb"), os.fstat(opened.fileno()).st_size
            try:
                hdus = read_structure(self._stream, size, self.path)
                self.detector: Detector = identify_detector(hdus[0].cards, self.path, camera)
                self._hdus = find_segments(hdus, self.detector, self.path)
                check_geometry(self._hdus, self.detector, camera, self.path)
            except BaseException:
                self._stream.close()
                raise
        self.headers = tuple(hdu.cards.header for hdu in hdus)

    def __enter__(self) -> Self:
        """Return the file itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file; the arrays that were taken from it stay."""
        self._stream.close()
        if self._unpacked is not None:
            self._unpacked.close()

    def read_ahead(self) -> None:
        """Let the operating system read the file before it is needed."""
        if not isinstance(self._stream, io.BytesIO) and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._stream.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    def segment(self, name: str, pixels: IntegerImage | None = None) -> IntegerImage:
        """Return a whole raw segment.

        Parameters
        ----------
        name
            Of an amplifier.
        pixels
            An array that may be used for the result; C-contiguous, of the size of the segment.

        Raises
        ------
        RawFormatError
            If it cannot be decoded.
        """
        hdu = self._hdus[name]
        bits, zero = self._integers(hdu)
        if hdu.cards.get("ZIMAGE") is True:
            stored = self._decompressed(hdu, pixels)
        else:
            columns, rows = image_size(hdu)
            stored = self._content(hdu)[: hdu.data_size].view(_big_endian(bits)).reshape(rows, columns)
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

    def rows(self, name: str) -> RowPlaces:
        """Return where the rows of a segment lie.

        Whatever is not stored row by row in a plain file is unpacked into a temporary one first.

        Raises
        ------
        RawFormatError
            If the descriptors are damaged, or the segment cannot be unpacked.
        """
        return self.stored_rows(name) or self._unpacked_rows(name)

    def mapped_rows(self) -> tuple[NDArray[np.uint8], list[RowPlaces]]:
        """Return bytes that are mapped into memory, and where in them the rows of each segment lie.

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
        """Return where the rows of a segment lie; None unless it is stored row by row in a plain file.

        Raises
        ------
        RawFormatError
            If the descriptors are damaged.
        """
        if name not in self._stored_rows:
            self._stored_rows[name] = self._find_rows(self._hdus[name])
        return self._stored_rows[name]

    def _find_rows(self, hdu: Hdu) -> RowPlaces | None:
        bits, zero = self._integers(hdu)
        if not isinstance(self._stream, io.BytesIO) and (zero == 0 or (bits < 32 and abs(zero) < _LARGEST_ZERO)):
            columns, rows = image_size(hdu)
            if hdu.cards.get("ZIMAGE") is not True:
                offsets = columns * bits // 8 * np.arange(rows + 1, dtype=np.uint32)
                return RowPlaces(self._stream.fileno(), hdu.data_offset, offsets, 0, bits // 8, zero)
            coding = rice_coding(hdu)
            if coding is not None and coding.is_by_row:
                table = os.pread(self._stream.fileno(), hdu.cards.integer("NAXIS1", 0) * rows, hdu.data_offset)
                with self._decoding(hdu):
                    starts, stops = tile_places(hdu, np.frombuffer(table, dtype=np.uint8))
                if (starts[1:] == stops[:-1]).all():
                    offsets = (np.append(starts, stops[-1]) - starts[0]).astype(np.uint32)
                    begin = hdu.data_offset + int(starts[0])
                    return RowPlaces(self._stream.fileno(), begin, offsets, coding.block, coding.pixel_bytes, zero)
        return None

    def _unpacked_rows(self, name: str) -> RowPlaces:
        amplifiers = self.detector.amplifiers
        with self._lock:
            if self._unpacked is None:
                unpacked = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the raw file
                for amplifier in amplifiers:
                    unpacked.write(self.segment(amplifier.name).astype(">i4").tobytes())
                unpacked.flush()
                self._unpacked = unpacked
        sizes = [4 * amplifier.nx_raw * amplifier.ny_raw for amplifier in amplifiers]
        index = next(number for number, amplifier in enumerate(amplifiers) if amplifier.name == name)
        offsets = 4 * amplifiers[index].nx_raw * np.arange(amplifiers[index].ny_raw + 1, dtype=np.uint32)
        return RowPlaces(self._unpacked.fileno(), sum(sizes[:index]), offsets, 0, 4, 0)

    @cached_property
    def _bytes(self) -> NDArray[np.uint8]:
        """All bytes of the file, mapped into memory where it is not there already."""
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
        if bits not in (8, 16, 32) or scale != 1 or not isinstance(zero, int | float) or zero != int(zero):
            raise RawFormatError(
                f"HDU {hdu.number} does not hold integers (BITPIX {bits}, BSCALE {scale}, BZERO {zero})",
                path=self.path,
                remedy="give the file as the readout wrote it",
                value=(bits, scale, zero),
            )
        return bits, int(zero)

    def _decompressed(self, hdu: Hdu, pixels: IntegerImage | None) -> NDArray[Any]:
        with self._decoding(hdu):
            coding = rice_coding(hdu)
            if coding is not None:
                return decompress(hdu, coding, self._content(hdu), pixels)
            table = fits.BinTableHDU.fromstring(hdu.cards.header + self._content(hdu).tobytes())
            return np.asarray(fits.CompImageHDU(bintable=table, do_not_scale_image_data=True).data)

    @contextmanager
    def _decoding(self, hdu: Hdu) -> Iterator[None]:
        """Turn what goes wrong with damaged data into an error that names the file."""
        try:
            yield
        except (OSError, ValueError, IndexError, KeyError, TypeError) as error:
            raise RawFormatError(f"HDU {hdu.number} cannot be decompressed ({error})", path=self.path, remedy=_REMEDY) from error


def _mapped(descriptor: int) -> NDArray[np.uint8]:
    return np.frombuffer(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ), dtype=np.uint8)


def _big_endian(bits: int) -> np.dtype[Any]:
    return np.dtype(np.uint8) if bits == 8 else np.dtype(f">i{bits // 8}")
