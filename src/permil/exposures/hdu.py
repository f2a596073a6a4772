"""The bare structure of a FITS file: headers, and where the data of each HDU lie. No pixel is touched.

An index of thousands of exposures reads one header of each file, and a raw file has eighteen; both need about twenty cards of
each. Parsing only those is what makes the index fast, and knowing where data must lie is what finds a file that was cut short.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import IO

from permil.errors import InputError, RawFormatError
from permil.exposures.cards import CARD, Cards

BLOCK = 2880
GZIP_MAGIC = b"\x1f\x8b"

_END = b"END".ljust(CARD)
# The longest header of a raw file has five blocks; a file without an END card is not read to its end in search of one.
_MAX_HEADER_BLOCKS = 500
_REMEDY = "copy the file again or leave it out"


@contextmanager
def fits_stream(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a FITS file for reading; gzip is recognised by content, whatever the name.

    Raises
    ------
    InputError
        If the file cannot be opened or read.
    RawFormatError
        If the compressed file is damaged or cut short (also while the caller reads).
    """
    try:
        with Path(path).open("rb") as stream:
            magic = stream.read(len(GZIP_MAGIC))
            stream.seek(0)
            if magic == GZIP_MAGIC:
                with gzip.GzipFile(fileobj=stream) as decompressed:
                    yield decompressed  # type: ignore[misc]
            else:
                yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RawFormatError(f"the gzip-compressed file is damaged or cut short ({error})", path=path, remedy=_REMEDY) from error
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", path=path, remedy="check path and permissions") from error


def is_compressed(stream: IO[bytes]) -> bool:
    """Return whether a stream of `fits_stream` is decompressed on the way."""
    return isinstance(stream, gzip.GzipFile)


@dataclass(frozen=True)
class Hdu:
    """One HDU: its header and the place of its data in the file."""

    number: int
    cards: Cards
    data_offset: int

    @cached_property
    def data_size(self) -> int:
        """Bytes of data, without padding."""
        integer = self.cards.integer
        axes = integer("NAXIS", 0)
        if axes == 0:
            return 0
        elements = prod(integer(f"NAXIS{axis}", 0) for axis in range(1, axes + 1))
        return abs(integer("BITPIX", 8)) // 8 * integer("GCOUNT", 1) * (integer("PCOUNT", 0) + elements)

    @property
    def end(self) -> int:
        """Where the next HDU begins."""
        return self.data_offset + padded(self.data_size)


def padded(size: int) -> int:
    """Return a size in bytes, rounded up to whole FITS blocks."""
    return -(-size // BLOCK) * BLOCK


def read_header(stream: IO[bytes], path: str | Path) -> bytes:
    """Read one header, up to and including the block of its END card.

    Raises
    ------
    RawFormatError
        If the file ends before the END card, or has none.
    """
    header = bytearray()
    for _ in range(_MAX_HEADER_BLOCKS):
        block = stream.read(BLOCK)
        if len(block) < BLOCK:
            raise RawFormatError("the file is cut short inside a header", path=path, remedy=_REMEDY)
        header += block
        found = block.find(_END)
        while found >= 0 and found % CARD:
            found = block.find(_END, found + 1)
        if found >= 0:
            return bytes(header)
    raise RawFormatError("a header has no END card", path=path, remedy=_REMEDY)


def read_primary_header(stream: IO[bytes], path: str | Path) -> bytes:
    """Read the primary header.

    Raises
    ------
    RawFormatError
        If the file is empty, not FITS or cut short inside the header.
    """
    start = stream.read(CARD)
    if not start:
        raise RawFormatError("the file is empty", path=path, remedy=_REMEDY)
    if not start.startswith(b"SIMPLE  ="):
        raise RawFormatError("the file is not FITS", path=path, remedy="leave it out or give it another suffix")
    stream.seek(0)
    return read_header(stream, path)


def read_structure(stream: IO[bytes], size: int, path: str | Path) -> list[Hdu]:
    """Return all HDUs of a seekable stream.

    Parameters
    ----------
    size
        Bytes in the stream.

    Raises
    ------
    RawFormatError
        If the file is not FITS or ends before the data that its headers announce.
    """
    stream.seek(0)
    hdus = [Hdu(0, Cards(header := read_primary_header(stream, path)), len(header))]
    while hdus[-1].end < size:
        start = hdus[-1].end
        stream.seek(start)
        header = read_header(stream, path)
        if not header.startswith(b"XTENSION="):
            raise RawFormatError(f"what follows HDU {hdus[-1].number} is not an extension", path=path, remedy=_REMEDY)
        hdus.append(Hdu(len(hdus), Cards(header), start + len(header)))
    if hdus[-1].end > size:
        raise RawFormatError(
            f"the file is cut short: HDU {hdus[-1].number} ends at byte {hdus[-1].end}, the file at {size}",
            path=path,
            remedy=_REMEDY,
            value=size,
            expected=hdus[-1].end,
        )
    return hdus
