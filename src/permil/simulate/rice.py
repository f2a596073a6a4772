"""RICE_1 compression of rows of 32-bit integers, as the tiled-image convention stores it.

Algorithm: Rice, Yeh & Miller 1993, in the form of FITS standard 4.0, section 10.4.1: differences of neighbours, mapped to whole
numbers, in blocks that share the number of bits that are written as they are. `astropy` does the same tile by tile from Python;
compiled over a whole segment it is some ten times faster.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from permil._kernels import simulate as kernels

BLOCK_PIXELS = 32


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
    used = kernels.compress_rows(np.ascontiguousarray(pixels), heap, descriptors)
    return heap[:used], descriptors
