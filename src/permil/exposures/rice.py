"""Decompress Rice-coded tiles of integers (RICE_1 of the FITS standard), for every tile shape and pixel size.

Tables and sizes are checked here; ``_kernels/rice.hpp`` decodes the bits of a tile and never reads beyond its last word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permil._kernels import exposures as kernels
from permil.exposures.hdu import Hdu

Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]

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


def tile_places(hdu: Hdu, table: Bytes) -> tuple[Places, Places]:
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


def descriptors(counts: Places, starts: Places, hdu: Hdu, table_size: int, item_bytes: int = 1) -> tuple[Places, Places]:
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


def decompress(hdu: Hdu, coding: RiceCoding, content: Bytes, pixels: NDArray[np.int32] | None = None) -> NDArray[np.int32]:
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
