"""Decompress Rice-coded tiles of integers: the algorithm RICE_1 of the FITS standard, for every tile shape and pixel size.

Algorithm: FITS Standard 4.0, section 10.4.1 (R. Rice, P.-S. Yeh and W. Miller 1993). The first value of a tile is stored as it is;
then each block of pixels starts with a few bits that tell how many low bits of the folded differences are stored plainly, the rest
being counted in zeros.

The bits wait, leftmost first, in a 64-bit buffer that takes 32 of them at a time; the zeros are counted by one instruction. All
indices are unsigned, since the compiler would otherwise make each of them ready to count from the end. Nothing is read beyond the
last word of a tile, whatever its bits say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from permil.exposures.hdu import Hdu

Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]

_ZERO, _ONE, _TWO, _THREE = (np.uint64(number) for number in range(4))
_WORD = np.uint64(32)
_BUFFER = np.uint64(64)
_LOW_BYTE = np.uint64(0xFF)
_LARGEST_BLOCK = 2**31


@dataclass(frozen=True)
class RiceCoding:
    """How the tiles of an image are coded.

    Parameters
    ----------
    columns, rows
        Size of the image.
    tile_columns, tile_rows
        Size of a tile; those at the end may be smaller.
    block
        Pixels that have the number of plain bits in common.
    pixel_bytes
        Bytes of a pixel: 1 (unsigned), 2 or 4 (signed).
    """

    columns: int
    rows: int
    tile_columns: int
    tile_rows: int
    block: int
    pixel_bytes: int

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return -(-self.columns // self.tile_columns) * -(-self.rows // self.tile_rows)

    @property
    def is_by_row(self) -> bool:
        """Whether each row of the image is a tile."""
        return self.tile_rows == 1 and self.tile_columns == self.columns


def rice_coding(hdu: Hdu) -> RiceCoding | None:
    """Return how a compressed image of integers is Rice-coded; None when it needs more than this module knows."""
    cards = hdu.cards
    parameters = {cards.get(f"ZNAME{number}"): cards.integer(f"ZVAL{number}", 0) for number in range(1, 5)}
    columns, rows = cards.integer("ZNAXIS1", 0), cards.integer("ZNAXIS2", 0)
    coding = RiceCoding(
        columns,
        rows,
        min(cards.integer("ZTILE1", columns), columns),
        min(cards.integer("ZTILE2", 1), rows),
        parameters.get("BLOCKSIZE", 32),
        parameters.get("BYTEPIX", 4),
    )
    known = (
        cards.get("ZCMPTYPE") in ("RICE_1", "RICE_ONE")
        and cards.integer("ZNAXIS", 0) == 2
        and 8 * coding.pixel_bytes == cards.integer("ZBITPIX", 0) in (8, 16, 32)
        and cards.integer("TFIELDS", 0) == 1
        and cards.integer("NAXIS1", 0) == _descriptor_bytes(cards.get("TFORM1"))
        and min(columns, rows, coding.tile_columns, coding.tile_rows, coding.block) > 0
        and coding.block <= _LARGEST_BLOCK
    )
    return coding if known and coding.tiles == cards.integer("NAXIS2", 0) else None


def _descriptor_bytes(form: Any) -> int:
    """Return the bytes of a descriptor of a column of byte arrays, 0 for another kind of column."""
    kind = str(form).lstrip("1")[:2]
    return {"PB": 8, "QB": 16}.get(kind, 0)


def tile_places(hdu: Hdu, table: Bytes) -> tuple[Places, Places]:
    """Return where the tiles begin and end, in bytes from the beginning of the data of the HDU.

    Parameters
    ----------
    table
        The descriptors: the first ``NAXIS1 * NAXIS2`` bytes of the data.

    Raises
    ------
    ValueError
        If a tile is empty, lies outside the data or overlaps another one.
    """
    width, tiles = hdu.cards.integer("NAXIS1", 0), hdu.cards.integer("NAXIS2", 0)
    counts, starts = table.view(np.dtype(f">i{width // 2}")).reshape(tiles, 2).astype(np.int64).T
    starts, stops = descriptors(counts, starts, hdu, table.size)
    if (counts == 0).any():
        raise ValueError(f"tile {(counts == 0).argmax()} lies outside the data: it is empty")
    return starts, stops


def descriptors(counts: Places, starts: Places, hdu: Hdu, table_size: int, item_bytes: int = 1) -> tuple[Places, Places]:
    """Return where the arrays of a column lie, in bytes from the beginning of the data of the HDU.

    Parameters
    ----------
    counts, starts
        Elements of each array, and where it begins in the heap, bytes.
    table_size
        Bytes in front of the heap, at least.
    item_bytes
        Bytes of an element.

    Raises
    ------
    ValueError
        If an array lies outside the heap or overlaps another one.
    """
    heap = hdu.cards.integer("THEAP", table_size)
    size = hdu.data_size - heap
    # Each is compared by itself: the sum of two numbers out of a damaged file may not be a number any more.
    outside = (starts < 0) | (counts < 0) | (starts > size) | (counts > (size - np.clip(starts, 0, max(size, 0))) // item_bytes)
    outside &= counts != 0
    if not table_size <= heap <= hdu.data_size or outside.any():
        raise ValueError(f"tile {outside.argmax()} lies outside the data")
    starts = np.where(counts > 0, starts, 0)
    stops = starts + counts * item_bytes
    if (starts[1:] < stops[:-1]).any():
        order = np.argsort(starts[counts > 0], kind="stable")
        if (starts[counts > 0][order][1:] < stops[counts > 0][order][:-1]).any():
            raise ValueError("tiles overlap")
    return starts + heap, stops + heap


def decompress(hdu: Hdu, coding: RiceCoding, content: Bytes, pixels: NDArray[np.int32] | None = None) -> NDArray[np.int32]:
    """Decompress an image.

    Parameters
    ----------
    hdu, coding
        Its header, and what `rice_coding` says of it.
    content
        Its data, whole words: descriptors, heap and the padding that follows.
    pixels
        Where the image goes, C-contiguous; a new array by default.

    Raises
    ------
    ValueError
        If a tile does not decode to as many pixels as it should have.
    """
    image = np.empty((coding.rows, coding.columns), dtype=np.int32) if pixels is None else pixels
    starts, stops = tile_places(hdu, content[: hdu.cards.integer("NAXIS1", 0) * coding.tiles])
    first = _decode_image(
        as_words(content), starts, stops, image, coding.tile_columns, coding.tile_rows, coding.block, coding.pixel_bytes
    )
    if first >= 0:
        raise ValueError(f"tile {first} is damaged")
    return image


def as_words(content: Bytes) -> NDArray[np.uint32]:
    """Return bytes as native 32-bit words; what is no whole word at the end is copied into one."""
    if content.size % 4:
        content = np.concatenate([content, np.zeros(-content.size % 4, dtype=np.uint8)])
    return content.view(np.uint32)


@intrinsic
def _leading_zeros(_context: Any, _number: Any) -> Any:
    """Count the zeros above the highest bit that is set; 64 for 0."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(64), [ir.IntType(64), ir.IntType(1)])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.ctlz.i64")
        return builder.call(function, [arguments[0], ir.Constant(ir.IntType(1), 0)])

    return types.uint64(types.uint64), generate


@numba.njit(cache=True, inline="always")
def _big_endian(words: NDArray[np.uint32], place: np.uint64) -> np.uint64:  # pragma: no cover - compiled
    word = np.uint64(words[place])
    low = ((word & _LOW_BYTE) << np.uint64(24)) | ((word & np.uint64(0xFF00)) << np.uint64(8))
    return low | ((word >> np.uint64(8)) & np.uint64(0xFF00)) | (word >> np.uint64(24))


@numba.njit(cache=True, nogil=True)
def decode_tile(  # noqa: C901 - one loop; parts of it would need all of its state
    words: NDArray[np.uint32], start: int, stop: int, pixels: NDArray[np.int32], block: int, pixel_bytes: int
) -> bool:  # pragma: no cover - compiled
    """Decode one tile; return whether its bits were enough.

    Parameters
    ----------
    words
        From `as_words`.
    start, stop
        Bytes of the tile, within the words.
    pixels
        Where its pixels go, one-dimensional.
    block, pixel_bytes
        See `RiceCoding`.
    """
    pixel_bits = np.uint64(8 * pixel_bytes)
    split_bits = np.uint64(5 if pixel_bytes == 4 else 2 + pixel_bytes)
    # The code of a block whose differences are stored in full.
    plain = np.uint64(26 if pixel_bytes == 4 else 15 if pixel_bytes == 2 else 7)
    last = (np.uint64(stop) + _THREE) >> _TWO
    place = np.uint64(start) >> _TWO
    skipped = (np.uint64(start) & _THREE) << _THREE
    buffer, n_bits = _big_endian(words, place) << (_WORD + skipped), _WORD - skipped
    place += _ONE
    if place < last:
        buffer |= _big_endian(words, place) << (_WORD - n_bits)
    n_bits += _WORD
    place += _ONE
    pixel = buffer >> (_BUFFER - pixel_bits)
    buffer <<= pixel_bits
    n_bits -= pixel_bits
    column, size = _ZERO, np.uint64(pixels.size)
    while column < size:
        end = min(column + np.uint64(block), size)
        if n_bits <= _WORD:
            if place < last:
                buffer |= _big_endian(words, place) << (_WORD - n_bits)
            n_bits += _WORD
            place += _ONE
        split = buffer >> (_BUFFER - split_bits)
        buffer <<= split_bits
        n_bits -= split_bits
        if split == _ZERO:
            while column < end:
                pixels[column] = np.int32(pixel)
                column += _ONE
            continue
        if split > plain:
            return False
        low_bits = split - _ONE
        while column < end:
            if n_bits <= _WORD:
                if place < last:
                    buffer |= _big_endian(words, place) << (_WORD - n_bits)
                n_bits += _WORD
                place += _ONE
            if split == plain:
                folded = buffer >> (_BUFFER - pixel_bits)
                buffer <<= pixel_bits
                n_bits -= pixel_bits
            else:
                zeros: np.uint64 = _leading_zeros(buffer)  # type: ignore[call-arg]
                if zeros + split <= n_bits:
                    # Two shifts where one could be by the whole width, which means nothing.
                    buffer = buffer << zeros << _ONE
                    n_bits -= zeros + split
                else:
                    zeros = _ZERO
                    while buffer == _ZERO:
                        if place >= last:
                            return False
                        zeros += n_bits
                        buffer, n_bits = _big_endian(words, place) << _WORD, _WORD
                        place += _ONE
                    more = _leading_zeros(buffer)
                    buffer = buffer << more << _ONE
                    n_bits -= more + _ONE
                    zeros += more
                    if n_bits < low_bits:
                        if place < last:
                            buffer |= _big_endian(words, place) << (_WORD - n_bits)
                        n_bits += _WORD
                        place += _ONE
                    n_bits -= low_bits
                folded = (zeros << low_bits) | (buffer >> _ONE >> (_BUFFER - split))
                buffer <<= low_bits
            # Even codes are positive differences, odd ones negative; of numbers that are too large the low 32 bits count.
            folded &= np.uint64(0xFFFFFFFF)
            pixel += (folded >> _ONE) ^ (_ZERO - (folded & _ONE))
            pixels[column] = np.int32(pixel)
            column += _ONE
    if pixel_bytes == 2:
        for index in range(pixels.size):
            pixels[index] = np.int16(pixels[index])
    elif pixel_bytes == 1:
        for index in range(pixels.size):
            pixels[index] = np.uint8(pixels[index])
    return bool(place * _WORD - n_bits <= np.uint64(stop) << _THREE)


@numba.njit(cache=True, nogil=True)
def _decode_image(
    words: NDArray[np.uint32],
    starts: Places,
    stops: Places,
    image: NDArray[np.int32],
    tile_columns: int,
    tile_rows: int,
    block: int,
    pixel_bytes: int,
) -> int:  # pragma: no cover - compiled
    """Fill ``image``; return the first tile that does not decode, -1 if all do."""
    rows, columns = image.shape
    across = -(-columns // tile_columns)
    flat = image.reshape(-1)
    pixels = np.empty(min(tile_rows, rows) * min(tile_columns, columns), dtype=np.int32)
    for tile in range(starts.size):
        top, left = tile // across * tile_rows, tile % across * tile_columns
        height, width = min(tile_rows, rows - top), min(tile_columns, columns - left)
        if width == columns:
            first = top * columns
            if not decode_tile(words, starts[tile], stops[tile], flat[first : first + height * width], block, pixel_bytes):
                return tile
            continue
        if not decode_tile(words, starts[tile], stops[tile], pixels[: height * width], block, pixel_bytes):
            return tile
        for row in range(height):
            image[top + row, left : left + width] = pixels[row * width : (row + 1) * width]
    return -1
