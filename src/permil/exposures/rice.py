"""Decompress segments in which each row is one Rice-coded tile of 32-bit integers, as the readout writes them.

Algorithm: FITS Standard 4.0, section 10.4.1 (R. Rice, P.-S. Yeh and W. Miller 1993). The first value of a row is stored as it is;
then each block of pixels starts with five bits that tell how many low bits of the folded differences are stored plainly, the rest
being counted in zeros. One call decodes a whole segment: a library that is called once per row spends most of its time between rows.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from permil.exposures.hdu import Hdu

_SPLIT_BITS = 5
# The code of a block whose differences are stored in full.
_PLAIN = 25
_PIXEL_BITS = 32


def is_rice_by_row(hdu: Hdu) -> bool:
    """Return whether a compressed image is Rice-coded, row by row, with 32-bit pixels in one column of descriptors."""
    cards = hdu.cards
    parameters = {cards.get(f"ZNAME{number}"): cards.get(f"ZVAL{number}") for number in (1, 2)}
    return (
        cards.get("ZCMPTYPE") in ("RICE_1", "RICE_ONE")
        and cards.integer("ZBITPIX", 0) == _PIXEL_BITS
        and parameters.get("BYTEPIX", 4) == 4
        and cards.integer("TFIELDS", 0) == 1
        and cards.integer("NAXIS1", 0) in (8, 16)
        and cards.integer("NAXIS2", 0) == cards.integer("ZNAXIS2", -1)
        and cards.integer("ZTILE1", cards.integer("ZNAXIS1", 0)) == cards.integer("ZNAXIS1", 0)
        and cards.integer("ZTILE2", 1) == 1
    )


def decompress_rows(hdu: Hdu, content: bytes) -> NDArray[np.int32]:
    """Decompress an image for which `is_rice_by_row` holds.

    Parameters
    ----------
    hdu
        Its header.
    content
        Its data: table of descriptors and heap.

    Raises
    ------
    ValueError
        If a row does not decode to as many pixels as it should have.
    """
    cards = hdu.cards
    rows, width = cards.integer("NAXIS2", 0), cards.integer("NAXIS1", 0)
    columns = cards.integer("ZNAXIS1", 0)
    parameters = {cards.get(f"ZNAME{number}"): cards.integer(f"ZVAL{number}", 32) for number in (1, 2)}
    data = np.frombuffer(content, dtype=np.uint8)
    descriptors = data[: rows * width].view(np.dtype(f">i{width // 2}")).reshape(rows, 2).astype(np.int64)
    heap = data[cards.integer("THEAP", rows * width) :]
    lengths, starts = descriptors.T
    outside = (starts < 0) | (lengths < 4) | (starts + lengths > heap.size)
    if outside.any():
        raise ValueError(f"row {outside.argmax()} lies outside the data")
    image = np.empty((rows, columns), dtype=np.int32)
    bad_row = _decode(heap, starts.copy(), lengths.copy(), image, parameters.get("BLOCKSIZE", 32))
    if bad_row >= 0:
        raise ValueError(f"row {bad_row} is damaged")
    return image


@numba.njit(cache=True, nogil=True)
def _filled(
    heap: NDArray[np.uint8], place: int, end: int, buffer: np.uint64, n_bits: int
) -> tuple[int, np.uint64, int]:  # pragma: no cover - compiled
    """Make sure that at least 32 unused bits are in the buffer; beyond the end of a row come zeros."""
    while n_bits < _PIXEL_BITS:
        buffer = (buffer << np.uint64(8)) | (np.uint64(heap[place]) if place < end else np.uint64(0))
        place += 1
        n_bits += 8
    return place, buffer, n_bits


@numba.njit(cache=True, nogil=True)
def _low_bits(buffer: np.uint64, n_bits: int, count: int) -> np.uint64:  # pragma: no cover - compiled
    """Return the ``count`` bits above the last ``n_bits`` of the buffer."""
    return (buffer >> np.uint64(n_bits)) & ((np.uint64(1) << np.uint64(count)) - np.uint64(1))


@numba.njit(cache=True, nogil=True)
def _decode_row(
    heap: NDArray[np.uint8], place: int, end: int, pixels: NDArray[np.int32], block: int
) -> bool:  # pragma: no cover - compiled
    """Decode one row; return whether its bits were enough."""
    pixel = np.uint32(0)
    for _ in range(4):
        pixel = np.uint32(pixel << np.uint32(8)) | np.uint32(heap[place])
        place += 1
    buffer, n_bits = np.uint64(0), 0
    split = 0
    for column in range(pixels.size):
        if column % block == 0:
            place, buffer, n_bits = _filled(heap, place, end, buffer, n_bits)
            n_bits -= _SPLIT_BITS
            split = int(_low_bits(buffer, n_bits, _SPLIT_BITS)) - 1
            if split > _PLAIN:
                return False
        if split >= 0:
            zeros = 0
            place, buffer, n_bits = _filled(heap, place, end, buffer, n_bits)
            while split < _PLAIN and _low_bits(buffer, n_bits - 1, 1) == 0:
                n_bits -= 1
                zeros += 1
                place, buffer, n_bits = _filled(heap, place, end, buffer, n_bits)
                if place > end + 8:
                    return False
            low = _PIXEL_BITS
            if split < _PLAIN:
                n_bits -= 1
                low = split
            place, buffer, n_bits = _filled(heap, place, end, buffer, n_bits)
            n_bits -= low
            folded = np.uint32((np.uint64(zeros) << np.uint64(split)) | _low_bits(buffer, n_bits, low))
            # Even codes are positive differences, odd ones negative.
            difference = folded >> np.uint32(1)
            pixel = np.uint32(pixel + (~difference if folded & np.uint32(1) else difference))
        pixels[column] = np.int32(pixel)
    return place - n_bits // 8 <= end


@numba.njit(cache=True, nogil=True)
def _decode(
    heap: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64], image: NDArray[np.int32], block: int
) -> int:  # pragma: no cover - compiled
    """Fill ``image``; return the first row that does not decode, -1 if all do."""
    for row in range(image.shape[0]):
        if not _decode_row(heap, starts[row], starts[row] + lengths[row], image[row], block):
            return row
    return -1
