"""RICE_1 compression of rows of 32-bit integers, as the tiled-image convention stores it.

Algorithm: Rice, Yeh & Miller 1993, in the form of FITS standard 4.0, section 10.4.1: differences of neighbours, mapped to whole
numbers, in blocks that share the number of bits that are written as they are. `astropy` does the same tile by tile from Python;
compiled over a whole segment it is some ten times faster.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

BLOCK_PIXELS = 32
_SPLIT_BITS = 5
_LARGEST_SPLIT = 25


def compress_rows(pixels: NDArray[np.int32]) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Compress each row of an image as one tile.

    Parameters
    ----------
    pixels : ndarray of int32, shape (ny, nx)

    Returns
    -------
    heap : ndarray of uint8
        The tiles one after the other.
    descriptors : ndarray of int32, shape (ny, 2)
        Length and offset of each tile in bytes.
    """
    rows, columns = pixels.shape
    # A block that cannot be compressed takes 32 bits per pixel and its 5 bits of split; the first pixel comes once more.
    largest = rows * (8 + 4 * columns + columns // BLOCK_PIXELS + 1)
    heap = np.empty(largest, dtype=np.uint8)
    descriptors = np.empty((rows, 2), dtype=np.int32)
    used = _compress(np.ascontiguousarray(pixels), heap, descriptors)
    return heap[:used], descriptors


@njit(cache=True)
def _compress(pixels, heap, descriptors):  # type: ignore[no-untyped-def]
    offset = 0
    differences = np.empty(BLOCK_PIXELS, dtype=np.uint64)
    for row in range(pixels.shape[0]):
        end = _compress_row(pixels[row], differences, heap, offset)
        descriptors[row, 0] = end - offset
        descriptors[row, 1] = offset
        offset = end
    return offset


@njit(inline="always")
def _put(heap, end, waiting, count, word, bits):  # type: ignore[no-untyped-def]
    """Append up to 32 bits of ``word``; ``waiting`` holds the ``count`` bits that do not fill a byte yet."""
    waiting = (waiting << np.uint64(bits)) | word
    count += bits
    while count >= 8:
        count -= 8
        heap[end] = np.uint8((waiting >> np.uint64(count)) & np.uint64(255))
        end += 1
    return end, waiting & np.uint64(255), count


@njit(inline="always")
def _put_zeros(heap, end, waiting, count, zeros):  # type: ignore[no-untyped-def]
    while zeros > 31:
        end, waiting, count = _put(heap, end, waiting, count, np.uint64(0), 31)
        zeros -= 31
    return _put(heap, end, waiting, count, np.uint64(0), zeros)


@njit
def _compress_row(line, differences, heap, end):  # type: ignore[no-untyped-def]
    last = np.int64(line[0])
    end, waiting, count = _put(heap, end, np.uint64(0), 0, np.uint64(last & 0xFFFFFFFF), 32)
    for start in range(0, line.size, BLOCK_PIXELS):
        size = min(BLOCK_PIXELS, line.size - start)
        total = np.uint64(0)
        for index in range(size):
            step = np.int64(np.int32(np.int64(line[start + index]) - last))
            last = np.int64(line[start + index])
            differences[index] = np.uint64((2 * step if step >= 0 else -2 * step - 1) & 0xFFFFFFFF)
            total += differences[index]
        mean = (np.float64(total) - size // 2 - 1) / size
        scale = np.int64(max(mean, 0.0)) >> 1
        split = 0
        while scale > 0:
            scale >>= 1
            split += 1
        if split >= _LARGEST_SPLIT:
            end, waiting, count = _put(heap, end, waiting, count, np.uint64(_LARGEST_SPLIT + 1), _SPLIT_BITS)
            for index in range(size):
                end, waiting, count = _put(heap, end, waiting, count, differences[index], 32)
        elif split == 0 and total == 0:
            end, waiting, count = _put(heap, end, waiting, count, np.uint64(0), _SPLIT_BITS)
        else:
            end, waiting, count = _put(heap, end, waiting, count, np.uint64(split + 1), _SPLIT_BITS)
            low_bits = (np.uint64(1) << np.uint64(split)) - np.uint64(1)
            for index in range(size):
                top = np.int64(differences[index] >> np.uint64(split))
                end, waiting, count = _put_zeros(heap, end, waiting, count, top)
                end, waiting, count = _put(heap, end, waiting, count, np.uint64(1), 1)
                end, waiting, count = _put(heap, end, waiting, count, differences[index] & low_bits, split)
    if count > 0:
        heap[end] = np.uint8((waiting << np.uint64(8 - count)) & np.uint64(255))
        end += 1
    return end
