"""Decode compressed images of integers: Rice-coded ones as a whole (fast), and all algorithms tile by tile.

Formats: FITS Standard 4.0, section 10.4. Every length in the table and in the tiles is checked before anything is allocated or passed to
a decoder: the astropy codecs for PLIO_1 and HCOMPRESS_1 do not check lengths, and ``_kernels/rice.hpp``, which decodes the bits of a Rice
tile, never reads beyond its last word.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from astropy.io.fits.hdu.compressed._codecs import PLIO1, HCompress1
from numpy.typing import NDArray

from permil._kernels import exposures as kernels
from permil.arrays import Int32Array, IntArray
from permil.exposures.cards import Cards
from permil.exposures.hdu import Hdu

Bytes = NDArray[np.uint8]

_LARGEST_BLOCK = 2**31


@dataclass(frozen=True)
class RiceCoding:
    """Coding of the tiles of an image.

    Parameters
    ----------
    columns, rows
        Size of the image.
    tile_columns, tile_rows
        Size of a tile; the last ones may be smaller.
    block
        Number of pixels per block, which share the number of uncoded bits.
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
        """Whether each row of the image is one tile."""
        return self.tile_rows == 1 and self.tile_columns == self.columns


def rice_coding(hdu: Hdu) -> RiceCoding | None:
    """Return the Rice coding of a compressed image of integers; None if this module does not support it."""
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
    """Return the size of a descriptor of a column of byte arrays, 0 for other columns."""
    kind = str(form).lstrip("1")[:2]
    return {"PB": 8, "QB": 16}.get(kind, 0)


def tile_places(hdu: Hdu, table: Bytes) -> tuple[IntArray, IntArray]:
    """Return start and end of the tiles, in bytes from the start of the data of the HDU.

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


def descriptors(counts: IntArray, starts: IntArray, hdu: Hdu, table_size: int, item_bytes: int = 1) -> tuple[IntArray, IntArray]:
    """Return start and end of the arrays of a column, in bytes from the start of the data of the HDU.

    Parameters
    ----------
    counts, starts
        Number of elements of each array, and its offset in the heap, bytes.
    table_size
        Minimum number of bytes before the heap.
    item_bytes
        Bytes of an element.

    Raises
    ------
    ValueError
        If an array lies outside the heap or overlaps another one.
    """
    heap = hdu.cards.integer("THEAP", table_size)
    size = hdu.data_size - heap
    # Compared separately: the sum of two values from a damaged file may overflow.
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


def decompress(hdu: Hdu, coding: RiceCoding, content: Bytes, pixels: Int32Array | None = None) -> Int32Array:
    """Decompress an image.

    Parameters
    ----------
    hdu, coding
        Its header, and the result of `rice_coding`.
    content
        Its data as whole words: descriptors, heap and padding.
    pixels
        Array for the image, C-contiguous; allocated by default.

    Raises
    ------
    ValueError
        If a tile does not decode to the expected number of pixels.
    """
    image = np.empty((coding.rows, coding.columns), dtype=np.int32) if pixels is None else pixels
    starts, stops = tile_places(hdu, content[: hdu.cards.integer("NAXIS1", 0) * coding.tiles])
    shape = coding.tile_rows, coding.tile_columns
    first = kernels.decode_image(as_words(content), starts, stops, image, shape, coding.block, coding.pixel_bytes)
    if first >= 0:
        raise ValueError(f"tile {first} is damaged")
    return image


def as_words(content: Bytes) -> NDArray[np.uint32]:
    """Return bytes as native 32-bit words; an incomplete last word is padded with zeros in a copy."""
    return whole_words(content).view(np.uint32)


def whole_words(content: Bytes) -> Bytes:
    """Return bytes padded with zeros, in a copy if needed, to a multiple of 4."""
    missing = -content.size % 4
    return np.concatenate([content, np.zeros(missing, dtype=np.uint8)]) if missing else content


_FORM = re.compile(r"(\d{0,9})([LXBIJKAEDCMPQ])([A-Z]?)")
_WIDTHS = {"L": 1, "B": 1, "I": 2, "J": 4, "K": 8, "A": 1, "E": 4, "D": 8, "C": 8, "M": 16, "P": 8, "Q": 16}
_COLUMNS = ("COMPRESSED_DATA", "GZIP_COMPRESSED_DATA", "UNCOMPRESSED_DATA")
# Largest number of tiles per row of an image; compressors write one.
_MOST_TILES_PER_ROW = 8
_GZIP = 31
# Header of an HCOMPRESS tile: magic number, columns, rows, scale, sum, and three numbers of bit planes.
_HCOMPRESS_MAGIC = b"\xdd\x99"
_HCOMPRESS_HEADER = 25
_MOST_PLANES = 63
_PLIO_HEADER = 7
_LIMITS = {8: (0, 255), 16: (-(2**15), 2**15 - 1), 32: (-(2**31), 2**31 - 1)}


@dataclass(frozen=True)
class _Column:
    """Offset of a descriptor column in a table row, and bytes per element in the heap."""

    offset: int
    is_wide: bool
    item_bytes: int


@dataclass(frozen=True)
class _Tiling:
    """Division of an image into tiles, [row, column]."""

    shape: tuple[int, int]
    tile: tuple[int, int]

    @property
    def numbers(self) -> tuple[int, int]:
        """Return the number of tiles in both directions."""
        return -(-self.shape[0] // self.tile[0]), -(-self.shape[1] // self.tile[1])

    def part(self, number: int) -> tuple[slice, slice]:
        """Return the rows and columns of a tile."""
        row, column = divmod(number, self.numbers[1])
        return (
            slice(row * self.tile[0], min((row + 1) * self.tile[0], self.shape[0])),
            slice(column * self.tile[1], min((column + 1) * self.tile[1], self.shape[1])),
        )


def decode_tiles(hdu: Hdu, content: Bytes, bits: int) -> Int32Array:
    """Decompress an image of integers.

    Parameters
    ----------
    hdu
        Its header; the image size must already have been checked against the camera.
    content
        Its data: table and heap.
    bits
        Bits per pixel (ZBITPIX).

    Raises
    ------
    ValueError
        If table, heap or a tile is damaged, or the algorithm is not known.
    """
    cards = hdu.cards
    tiling = _tiling(cards)
    n_tiles, width = prod(tiling.numbers), cards.integer("NAXIS1", 0)
    if cards.integer("NAXIS", 0) != 2 or n_tiles != cards.integer("NAXIS2", 0):
        raise ValueError(f"the table has {cards.get('NAXIS2')} rows for {n_tiles} tiles")
    columns = _columns(cards, width)
    table = content[: width * n_tiles].reshape(n_tiles, width)
    places = {}
    for name, column in columns.items():
        form = f">i{8 if column.is_wide else 4}"
        stored = np.ascontiguousarray(table[:, column.offset : column.offset + (16 if column.is_wide else 8)])
        counts, starts = stored.view(form).astype(np.int64).T
        places[name] = (*descriptors(counts, starts, hdu, table.size, column.item_bytes), column.item_bytes)
    if _COLUMNS[0] not in places:
        raise ValueError(f"the table has no column {_COLUMNS[0]}")
    decode = _decoder(cards)
    image = np.empty(tiling.shape, dtype=np.int32)
    low, high = _LIMITS[bits]
    for number in range(n_tiles):
        part = image[tiling.part(number)]
        pixels = _tile(number, places, content, part.shape, decode)
        if pixels.min() < low or pixels.max() > high:
            raise ValueError(f"tile {number} has pixels of more than {bits} bits")
        part[:] = pixels.reshape(part.shape)
    return image


def _tiling(cards: Cards) -> _Tiling:
    columns, rows = cards.integer("ZNAXIS1", 0), cards.integer("ZNAXIS2", 0)
    tile_columns, tile_rows = cards.integer("ZTILE1", columns), cards.integer("ZTILE2", 1)
    if min(columns, rows, tile_columns, tile_rows) < 1:
        raise ValueError(f"tiles have {tile_columns} x {tile_rows} pixels")
    tiling = _Tiling((rows, columns), (min(tile_rows, rows), min(tile_columns, columns)))
    if prod(tiling.numbers) > _MOST_TILES_PER_ROW * rows:
        raise ValueError(f"tiles of {tile_columns} x {tile_rows} pixels are too small")
    return tiling


def _columns(cards: Cards, width: int) -> dict[str, _Column]:
    """Return the columns of tiles.

    Raises
    ------
    ValueError
        If the format of a column is invalid, or the columns do not add up to the row length.
    """
    fields = cards.integer("TFIELDS", 0)
    if not 1 <= fields <= 999:
        raise ValueError(f"the table has {fields} columns")
    found: dict[str, _Column] = {}
    offset = 0
    for number in range(1, fields + 1):
        form = _FORM.match(str(cards.get(f"TFORM{number}")))
        if form is None:
            raise ValueError(f"TFORM{number} is {cards.get(f'TFORM{number}')}")
        count, kind, item = int(form[1] or 1), form[2], form[3]
        name = str(cards.get(f"TTYPE{number}"))
        if name in _COLUMNS and kind in "PQ" and count == 1 and item in ("B", "I", "J", "K"):
            found[name] = _Column(offset, kind == "Q", _WIDTHS[item])
        offset += -(-count // 8) if kind == "X" else count * _WIDTHS[kind]
    if offset != width:
        raise ValueError(f"the columns of the table have {offset} bytes, its rows {width}")
    return found


Decoder = Callable[[Bytes, tuple[int, ...]], NDArray[Any]]
"""Function of the bytes and the shape of a tile that returns its pixels."""


def _tile(
    number: int,
    places: dict[str, tuple[IntArray, IntArray, int]],
    content: Bytes,
    shape: tuple[int, ...],
    decode: Decoder,
) -> NDArray[Any]:
    """Return the pixels of a tile from the first column with data for it."""
    for name in _COLUMNS:
        if name not in places:
            continue
        starts, stops, item_bytes = places[name]
        octets = content[starts[number] : stops[number]]
        if octets.size == 0:
            continue
        if name == _COLUMNS[0]:
            return decode(octets, shape)
        if name == _COLUMNS[1]:
            return _gunzip(octets, shape)
        if octets.size != item_bytes * prod(shape):
            raise ValueError(f"tile {number} has {octets.size} bytes for {prod(shape)} pixels")
        return _big_endian(octets, item_bytes)
    raise ValueError(f"tile {number} is empty")


def _decoder(cards: Cards) -> Decoder:
    """Return the decoder of the tiles in column COMPRESSED_DATA.

    Raises
    ------
    ValueError
        If the algorithm is unknown or its parameters are not supported.
    """
    parameters = {cards.get(f"ZNAME{number}"): cards.integer(f"ZVAL{number}", 0) for number in range(1, 5)}
    kind = cards.get("ZCMPTYPE")
    if kind in ("RICE_1", "RICE_ONE"):
        return _rice(parameters.get("BLOCKSIZE", 32), parameters.get("BYTEPIX", 4))
    if kind == "HCOMPRESS_1":
        return _hcompress(bool(parameters.get("SMOOTH", 0)))
    if kind == "PLIO_1" and cards.get("BZERO", 0) != 0:
        raise ValueError("PLIO_1 with BZERO is ambiguous")
    decoders: dict[Any, Decoder] = {"GZIP_1": _gunzip, "GZIP_2": _gunzip_shuffled, "NOCOMPRESS": _plain, "PLIO_1": _plio}
    if kind not in decoders:
        raise ValueError(f"the algorithm {kind} (ZCMPTYPE) is not known")
    return decoders[kind]


def _rice(block: int, pixel_bytes: int) -> Decoder:
    if not 0 < block < 2**31 or pixel_bytes not in (1, 2, 4):
        raise ValueError(f"RICE_1 has BLOCKSIZE {block} and BYTEPIX {pixel_bytes}")

    def decode(octets: Bytes, shape: tuple[int, ...]) -> NDArray[Any]:
        pixels = np.empty(prod(shape), dtype=np.int32)
        # A copy, so that the tile begins with a whole word.
        if not kernels.decode_tile(as_words(octets.copy()), 0, octets.size, pixels, block, pixel_bytes):
            raise ValueError("a tile is damaged")
        return pixels

    return decode


def _inflated(octets: Bytes, shape: tuple[int, ...]) -> Bytes:
    """Unpack the bytes of a tile, 1, 2 or 4 per pixel, and never more."""
    decompressor = zlib.decompressobj(_GZIP)
    unpacked = decompressor.decompress(octets.tobytes(), 4 * prod(shape) + 1)
    if not decompressor.eof or len(unpacked) not in [size * prod(shape) for size in (1, 2, 4)]:
        raise ValueError(f"a tile has the wrong number of bytes for {prod(shape)} pixels")
    return np.frombuffer(unpacked, dtype=np.uint8)


def _gunzip(octets: Bytes, shape: tuple[int, ...]) -> NDArray[Any]:
    unpacked = _inflated(octets, shape)
    return _big_endian(unpacked, unpacked.size // prod(shape))


def _gunzip_shuffled(octets: Bytes, shape: tuple[int, ...]) -> NDArray[Any]:
    unpacked = _inflated(octets, shape)
    item_bytes = unpacked.size // prod(shape)
    return _big_endian(np.ascontiguousarray(unpacked.reshape(item_bytes, -1).T).reshape(-1), item_bytes)


def _plain(octets: Bytes, shape: tuple[int, ...]) -> NDArray[Any]:
    item_bytes, rest = divmod(octets.size, prod(shape))
    if rest or item_bytes not in (1, 2, 4):
        raise ValueError(f"a tile has {octets.size} bytes for {prod(shape)} pixels")
    return _big_endian(octets, item_bytes)


def _big_endian(octets: Bytes, item_bytes: int) -> NDArray[Any]:
    return octets if item_bytes == 1 else octets.view(f">i{item_bytes}")


def _hcompress(smooth: bool) -> Decoder:
    def decode(octets: Bytes, shape: tuple[int, ...]) -> NDArray[Any]:
        coded = octets.tobytes()
        sides = [int.from_bytes(coded[place : place + 4], "big") for place in (2, 6)]
        planes = coded[_HCOMPRESS_HEADER - 3 : _HCOMPRESS_HEADER]
        is_sound = len(coded) > _HCOMPRESS_HEADER and coded.startswith(_HCOMPRESS_MAGIC) and max(planes) <= _MOST_PLANES
        if not is_sound or sides != list(shape):
            raise ValueError("a tile is damaged")
        # A bit plane takes at most two bits per pixel: reads beyond a damaged tile return these zeros.
        coded += bytes((_MOST_PLANES + 1) * prod(shape) // 4 + _HCOMPRESS_HEADER)
        codec = HCompress1(scale=0, smooth=smooth, bytepix=8, nx=shape[0], ny=shape[1])
        return np.asarray(codec.decode(np.frombuffer(coded, dtype=np.uint8)))

    return decode


def _plio(octets: Bytes, shape: tuple[int, ...]) -> NDArray[Any]:
    if octets.size % 2 or octets.size < 2 * _PLIO_HEADER:
        raise ValueError("a tile is damaged")
    words = octets.view(">i2").astype(np.int16)
    length, first = (int(words[2]), 3) if words[2] > 0 else ((int(words[4]) << 15) + int(words[3]), int(words[1]))
    if not 0 < length <= words.size or first < 0:
        raise ValueError("a tile is damaged")
    # The last instruction may take one more word.
    return np.asarray(PLIO1(tilesize=prod(shape)).decode(np.append(words, np.zeros(2, dtype=np.int16))))
