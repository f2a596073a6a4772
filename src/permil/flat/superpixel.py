"""Super-pixels: means over square blocks of pixels, the scale on which beams and sensors are smooth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil._kernels import flat as kernels
from permil.arrays import mask_of, plain_array, plain_flags


@dataclass(frozen=True)
class SuperPixels:
    """Block means of an image.

    Attributes
    ----------
    mean
        Mean over the good pixels of each block; NaN where fewer than half of the pixels are good.
    count
        Good pixels in each block.
    size
        Side of a block in pixels; blocks at the last rows and columns may be cut.
    """

    mean: NDArray[np.float64]
    count: NDArray[np.int64]
    size: int

    def centres(self, shape: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return x (per column of blocks) and y (per row of blocks) of the centres, in pixels of an image of ``shape``."""
        return _centres(shape[1], self.size), _centres(shape[0], self.size)

    def expand(self, shape: tuple[int, int]) -> NDArray[np.float64]:
        """Return the means as an image of ``shape``: each pixel has the mean of its block."""
        rows = np.arange(shape[0]) // self.size
        columns = np.arange(shape[1]) // self.size
        return self.mean[rows[:, None], columns[None, :]]


def super_pixels(image: NDArray[np.floating], good: NDArray[np.bool_], size: int) -> SuperPixels:
    """Average the good pixels of an image over blocks of ``size`` x ``size`` pixels; masked pixels are not good."""
    if type(image) is not np.ndarray or not image.dtype.isnative:
        lost = mask_of(image)
        image, good = plain_array(image, name="image"), plain_flags(good, name="good") & ~lost
    elif type(good) is not np.ndarray or good.dtype != np.bool_:
        good = plain_flags(good, name="good", shape=image.shape)
    total, count = block_sums(image, size, good=good), block_sums(good, size)
    sides = (np.diff(np.append(np.arange(0, length, size), length)) for length in image.shape)
    area = np.multiply.outer(*sides)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(2 * count >= area, total / count, np.nan)
    return SuperPixels(mean, count, size)


def block_medians(image: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Return an image in which each pixel has the median over the finite pixels of its block of ``size`` x ``size``; 0 for none."""
    rows, columns = -(-image.shape[0] // size), -(-image.shape[1] // size)
    padded = np.full((rows * size, columns * size), np.nan, dtype=image.dtype)
    padded[: image.shape[0], : image.shape[1]] = image
    blocks = np.sort(padded.reshape(rows, size, columns, size).swapaxes(1, 2).reshape(rows, columns, size * size), axis=-1)
    # NaN sorts last: the middle of what is finite is the median (the upper one of two).
    middle = np.isfinite(blocks).sum(axis=-1) // 2
    medians = np.nan_to_num(np.take_along_axis(blocks, middle[..., None].clip(max=size * size - 1), axis=-1)[..., 0])
    return np.repeat(np.repeat(medians, size, axis=0), size, axis=1)[: image.shape[0], : image.shape[1]]


def size_in_pixels(size_mm: float, pixel_mm: float) -> int:
    """Return the side of a super-pixel in pixels, at least 1."""
    return max(1, round(size_mm / pixel_mm))


def _centres(length: int, size: int) -> NDArray[np.float64]:
    starts = np.arange(0, length, size)
    return (starts + np.minimum(starts + size, length) - 1) / 2


def block_sums(
    image: NDArray, size: int, *, good: NDArray[np.bool_] | None = None, block_rows: NDArray[np.integer] | None = None
) -> NDArray:
    """Return the sums of an image over blocks of ``size`` x ``size`` pixels; those at the last rows and columns may be cut.

    Parameters
    ----------
    image
        Shape (ny, nx); sums of real numbers are float64, those of integers int64.
    good
        Which pixels count; default all.
    block_rows : ndarray of int, shape (ny,)
        Row of blocks to which each row of the image belongs, rising; by default ``size`` rows of the image are one.
    """
    numbers = (np.arange(image.shape[0]) // size if block_rows is None else block_rows).astype(np.int64, copy=False)
    pixels = image if image.dtype in (np.float32, np.float64, np.bool_) else image.astype(np.float64)
    sums = np.zeros((int(numbers[-1]) + 1, -(-image.shape[1] // size)))
    kernels.add_to_blocks(_side_by_side(pixels), None if good is None else _side_by_side(good), size, numbers, sums)
    # Sums of integers are exact.
    return sums if np.issubdtype(image.dtype, np.floating) else sums.astype(np.int64)


def _side_by_side(image: NDArray) -> NDArray:
    """Return an image whose pixels of a row lie side by side in memory."""
    return image if image.strides[1] == image.itemsize else np.ascontiguousarray(image)
