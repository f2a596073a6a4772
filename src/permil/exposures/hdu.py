"""Structure of a FITS file: headers, the byte range of the data of each HDU, and checksums. Pixels are not read.

An index of thousands of exposures reads one header of each file, and a raw file has eighteen; both need about twenty cards of each.
Parsing only these cards makes the index fast, and the expected data ranges reveal a truncated file. Sizes stated in a header are
compared with the size of the file before anything is allocated or repeated.

DATASUM protects the data, CHECKSUM header and data together (FITS Standard 4.0, section 4.4.2.7 and appendix J; R. Seaman, W. Pence and
A. Rots 1995): big-endian words of 32 bits are added in ones' complement, that is modulo 2^32 - 1; an HDU with a correct CHECKSUM sums to
zero. Compressed images are summed as stored; their ZDATASUM and ZHECKSUM, which hold for the uncompressed image, are not checked.
"""

from __future__ import annotations

import gzip
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray

from permil._kernels import exposures as kernels
from permil.errors import FileWarning, InputError, PermilError, RawFormatError
from permil.exposures.cards import CARD, Cards

Checksums = Literal["refuse", "warn", "off"]
"""Treatment of data with a wrong checksum."""

CHANGED_HEADER = "its header was changed after its CHECKSUM was written"

_MODULUS = 2**32 - 1

BLOCK = 2880
GZIP_MAGIC = b"\x1f\x8b"

_END = b"END".ljust(CARD)
# The longest header of a raw file has five blocks, and the file has some twenty HDUs. The search for an END card stops beyond this
# number of blocks, and a file with more HDUs is not a raw file.
_MAX_HEADER_BLOCKS = 500
_MAX_BLOCKS_OF_ALL = 2000
_MAX_HDUS = 1000
_LARGEST_SIZE = 2**62
_BITPIX = (8, 16, 32, 64, -32, -64)
_REMEDY = "copy the file again or leave it out"


@contextmanager
def fits_stream(path: Path) -> Iterator[IO[bytes]]:
    """Open a FITS file for reading; gzip is recognised by content, not by name.

    Raises
    ------
    InputError
        If the file cannot be opened or read.
    RawFormatError
        If the compressed file is damaged or cut short (also while the caller reads).
    """
    try:
        with path.open("rb") as stream:
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
    """Return whether a stream of `fits_stream` is decompressed while it is read."""
    return isinstance(stream, gzip.GzipFile)


@contextmanager
def reading(path: str | Path, what: str = "the file") -> Iterator[None]:
    """Convert exceptions raised while a raw file is parsed or decoded into an error that names the file.

    Parameters
    ----------
    what
        The part of the file that is read.

    Raises
    ------
    RawFormatError
        For every exception that is not an error of this package.
    """
    try:
        yield
    except (PermilError, FileWarning):
        raise
    except Exception as error:
        # ValueErrors of this package are complete sentences; messages of other exceptions need the exception's name.
        reason = str(error) if isinstance(error, ValueError) and str(error) else f"{type(error).__name__} {error}".strip()
        raise RawFormatError(f"{what} cannot be read ({reason})", path=path, remedy=_REMEDY) from error


def warn_of_file(path: str | Path, what: str) -> None:
    """Warn about a defect of a file that is used nevertheless."""
    warnings.warn(f"{path}: {what}", FileWarning, stacklevel=3)


@dataclass(frozen=True)
class Hdu:
    """One HDU: its header and the location of its data in the file.

    Parameters
    ----------
    number
        Counted from the primary HDU, 0.
    cards
        Header up to its END card.
    data_offset
        Offset of its data, bytes.
    header_sum
        Checksum of the whole header, see `sum_of_words`.
    """

    number: int
    cards: Cards
    data_offset: int
    header_sum: int = 0

    @cached_property
    def data_size(self) -> int:
        """Size of the data without padding, bytes.

        Raises
        ------
        ValueError
            If a size is missing, not an integer, negative or absurdly large.
        """
        axes = self._size("NAXIS")
        if axes == 0:
            return 0
        if axes > 999:
            raise ValueError(f"NAXIS is {axes}")
        bits = self.cards.get("BITPIX")
        if bits not in _BITPIX:
            raise ValueError(f"BITPIX is {bits}")
        elements = prod(self._size(f"NAXIS{axis}") for axis in range(1, axes + 1))
        size = abs(int(bits)) // 8 * self._size("GCOUNT", 1) * (self._size("PCOUNT", 0) + elements)
        if size > _LARGEST_SIZE:
            raise ValueError("the product of its NAXISn is absurdly large")
        return size

    def _size(self, name: str, default: int | None = None) -> int:
        size = self.cards.get(name, default)
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= _LARGEST_SIZE:
            raise ValueError(f"{name} is missing" if size is None else f"{name} is {size}")
        return size

    @property
    def end(self) -> int:
        """Offset of the next HDU, bytes."""
        return self.data_offset + padded(self.data_size)


def padded(size: int) -> int:
    """Return a size in bytes, rounded up to whole FITS blocks."""
    return -(-size // BLOCK) * BLOCK


def read_header(stream: IO[bytes], path: str | Path, number: int = 0) -> tuple[bytes, int]:
    """Read one header, up to and including the block of its END card.

    Parameters
    ----------
    number
        Number of the HDU.

    Returns
    -------
    header
        All its blocks, blank after the END card.
    header_sum
        Checksum of the header as stored in the file.

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
        place = _end_card(block)
        if place >= 0:
            stored = bytes(header)
            after = len(header) - BLOCK + place
            header[after:] = _END.ljust(BLOCK - place)
            if header != stored:
                warn_of_file(path, f"the header of HDU {number} does not end with an END card and blanks")
            return bytes(header), sum_of_words(stored)
    raise RawFormatError("a header has no END card", path=path, remedy=_REMEDY)


def _end_card(block: bytes) -> int:
    """Return the offset of the END card in a block, -1 if there is none."""
    place = block.find(_END)
    while place >= 0 and place % CARD:
        place = block.find(_END, place + 1)
    if place >= 0:
        return place
    # Some programs pad with NUL, or write keywords in lower case.
    alike = block.upper()
    place = alike.find(b"END")
    while place >= 0 and (place % CARD or alike[place + 3 : place + CARD].strip(b" \0")):
        place = alike.find(b"END", place + 1)
    return place


def read_primary_header(stream: IO[bytes], path: str | Path) -> tuple[bytes, int]:
    """Read the primary header and its checksum, see `read_header`.

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

    Bytes after the last HDU (special records, zeros, blanks) and missing padding of the last data give a warning.

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
    header, header_sum = read_primary_header(stream, path)
    hdus = [_placed(Hdu(0, Cards(header), len(header), header_sum), size, path)]
    header_bytes = len(header)
    while hdus[-1].end < size:
        start = hdus[-1].end
        stream.seek(start)
        if stream.read(8) != b"XTENSION":
            warn_of_file(path, f"{size - start} bytes after the last HDU ({hdus[-1].number}) are ignored")
            break
        stream.seek(start)
        header, header_sum = read_header(stream, path, len(hdus))
        header_bytes += len(header)
        if len(hdus) == _MAX_HDUS or header_bytes > _MAX_BLOCKS_OF_ALL * BLOCK:
            raise RawFormatError(
                f"the headers of the first {len(hdus)} HDUs take {header_bytes} bytes, more than those of any raw file",
                path=path,
                remedy="leave the file out",
                value=header_bytes,
            )
        hdus.append(_placed(Hdu(len(hdus), Cards(header), start + len(header), header_sum), size, path))
    last = hdus[-1]
    if last.end > size:
        if last.data_offset + last.data_size < size:
            # The file ends neither after the data nor after the padding: an interrupted copy.
            raise _cut_short(last, last.end, size, path)
        warn_of_file(path, f"the data of the last HDU ({last.number}) are not padded to a whole FITS block")
    return hdus


def _placed(hdu: Hdu, size: int, path: str | Path) -> Hdu:
    """Return the HDU if a file of this size can hold its data."""
    try:
        end = hdu.data_offset + hdu.data_size
    except ValueError as error:
        raise RawFormatError(
            f"the header of HDU {hdu.number} does not give the size of its data ({error})", path=path, remedy=_REMEDY
        ) from error
    if end > size:
        raise _cut_short(hdu, end, size, path)
    return hdu


def _cut_short(hdu: Hdu, end: int, size: int, path: str | Path) -> RawFormatError:
    return RawFormatError(
        f"the file is cut short: HDU {hdu.number} ends at byte {end}, the file at {size}",
        path=path,
        remedy=_REMEDY,
        value=size,
        expected=end,
    )


@dataclass(frozen=True)
class Fault:
    """A checksum fault of an HDU; with ``of_data`` the data may be wrong."""

    what: str
    of_data: bool


def sum_of_words(content: bytes | NDArray[np.uint8]) -> int:
    """Return the ones' complement sum of big-endian 32-bit words; an incomplete last word is padded with zeros."""
    octets = np.frombuffer(content, dtype=np.uint8)
    whole = octets.size // 4 * 4
    total = kernels.sum_words(octets[:whole].view(np.uint32)) if whole else 0
    return (total + int.from_bytes(octets[whole:].tobytes().ljust(4, b"\0"), "big")) % _MODULUS


def has_sums(cards: Cards) -> bool:
    """Return whether a header has DATASUM or CHECKSUM."""
    return _stated_datasum(cards) != "" or _has_checksum(cards)


def find_fault(cards: Cards, header_sum: int, data_sum: int) -> Fault | None:
    """Compare the checksums of an HDU with those in its header; missing cards are skipped.

    Parameters
    ----------
    header_sum, data_sum
        From `sum_of_words`.
    """
    stated = _stated_datasum(cards)
    is_number = stated.isascii() and stated.isdigit()
    if is_number and (int(stated) - data_sum) % _MODULUS:
        return Fault(f"its data have changed since they were written (DATASUM is {stated}, the data sum to {data_sum})", True)
    if _has_checksum(cards) and (header_sum + data_sum) % _MODULUS:
        if is_number:
            return Fault(CHANGED_HEADER, False)
        return Fault("its CHECKSUM does not match, and there is no DATASUM to check the data", True)
    if stated and not is_number:
        return Fault(f"its DATASUM is not a number ({stated})", False)
    return None


def has_changed_header(cards: Cards, header_sum: int) -> bool:
    """Return whether an HDU without data has a header that was changed after its checksums were written."""
    return find_fault(cards, header_sum, 0) is not None


def _stated_datasum(cards: Cards) -> str:
    """Return DATASUM as text, "" if missing; a string by the standard, an integer from some programs."""
    stated = cards.get("DATASUM")
    return "" if stated is None else str(stated).strip()


def _has_checksum(cards: Cards) -> bool:
    """Return whether a CHECKSUM was written; all zeros mean that it was not."""
    stated = cards.get("CHECKSUM")
    return isinstance(stated, str) and stated.strip("0 ") != ""
