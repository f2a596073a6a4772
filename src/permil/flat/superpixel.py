"""Super-pixels: means over square blocks of pixels, the scale on which beams and sensors are smooth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
    """Average the good pixels of an image over blocks of ``size`` x ``size`` pixels."""
    rows = np.arange(0, image.shape[0], size)
    columns = np.arange(0, image.shape[1], size)
    filled = np.where(good, image, 0.0)
    total = _block_sum(filled, rows, columns)
    count = _block_sum(good.astype(np.int64), rows, columns)
    area = _block_sum(np.ones(image.shape, dtype=np.int64), rows, columns)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(2 * count >= area, total / count, np.nan)
    return SuperPixels(mean, count, size)


def size_in_pixels(size_mm: float, pixel_mm: float) -> int:
    """Return the side of a super-pixel in pixels, at least 1."""
    return max(1, round(size_mm / pixel_mm))


def _centres(length: int, size: int) -> NDArray[np.float64]:
    starts = np.arange(0, length, size)
    return (starts + np.minimum(starts + size, length) - 1) / 2


def _block_sum(image: NDArray, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray:
    along_rows = np.add.reduceat(image, rows, axis=0, dtype=np.result_type(image.dtype, np.int64))
    return np.add.reduceat(along_rows, columns, axis=1)
