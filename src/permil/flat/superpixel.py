"""Super-pixels: means over square blocks of pixels, the scale on which beams and sensors are smooth.

The joint solution uses signals on super-pixels, each the mean over its good pixels. The good pixels are the same in all exposures:
otherwise position and response of a super-pixel would change between them. A pixel that is lost in one exposure (cosmic ray, saturation)
is replaced by its expected value from its neighbours and the **pattern**: its response over the mean of its super-pixel, known from a few
exposures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil._kernels import flat as flat_kernels
from permil._kernels import joint as joint_kernels
from permil.arrays import BoolArray, Float32Array, FloatArray, IntArray, mask_of, plain_array, plain_flags
from permil.camera import Detector
from permil.camera.frames import detector_to_ccs
from permil.errors import FlatError


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

    mean: FloatArray
    count: IntArray
    size: int

    def centres(self, shape: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
        """Return x (per column of blocks) and y (per row of blocks) of the centres, in pixels of an image of ``shape``."""
        return _centres(shape[1], self.size), _centres(shape[0], self.size)

    def expand(self, shape: tuple[int, int]) -> FloatArray:
        """Return the means as an image of ``shape``: each pixel has the mean of its block."""
        rows = np.arange(shape[0]) // self.size
        columns = np.arange(shape[1]) // self.size
        return self.mean[rows[:, None], columns[None, :]]


def super_pixels(image: NDArray[np.floating], good: BoolArray, size: int) -> SuperPixels:
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


def block_medians(image: Float32Array, size: int) -> Float32Array:
    """Return an image in which each pixel has the median over the finite pixels of its block of ``size`` x ``size``; 0 for none."""
    rows, columns = -(-image.shape[0] // size), -(-image.shape[1] // size)
    padded = np.full((rows * size, columns * size), np.nan, dtype=image.dtype)
    padded[: image.shape[0], : image.shape[1]] = image
    blocks = np.sort(padded.reshape(rows, size, columns, size).swapaxes(1, 2).reshape(rows, columns, size * size), axis=-1)
    # NaN sorts last: the middle one of the finite values is the median (the upper one of two).
    middle = np.isfinite(blocks).sum(axis=-1) // 2
    medians = np.nan_to_num(np.take_along_axis(blocks, middle[..., None].clip(max=size * size - 1), axis=-1)[..., 0])
    return np.repeat(np.repeat(medians, size, axis=0), size, axis=1)[: image.shape[0], : image.shape[1]]


def size_in_pixels(size_mm: float, pixel_mm: float) -> int:
    """Return the side of a super-pixel in pixels, at least 1."""
    return max(1, round(size_mm / pixel_mm))


def _centres(length: int, size: int) -> FloatArray:
    starts = np.arange(0, length, size)
    return (starts + np.minimum(starts + size, length) - 1) / 2


def block_sums(
    image: NDArray, size: int, *, good: BoolArray | None = None, block_rows: NDArray[np.integer] | None = None
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
    flat_kernels.add_to_blocks(_side_by_side(pixels), None if good is None else _side_by_side(good), size, numbers, sums)
    # Sums of integers are exact.
    return sums if np.issubdtype(image.dtype, np.floating) else sums.astype(np.int64)


def _side_by_side(image: NDArray) -> NDArray:
    """Return an image with the pixels of each row contiguous in memory."""
    return image if image.strides[1] == image.itemsize else np.ascontiguousarray(image)


FEWEST_PIXELS = 0.5
"""Minimum fraction of good pixels in a super-pixel."""

FEWEST_KEPT = 0.9
"""Minimum fraction of these that must remain in an exposure."""

_DEAD = 0.2
"""Pattern below which a pixel is dead."""


@dataclass(frozen=True)
class SuperPixelLayout:
    """The super-pixels of a detector.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns of super-pixels.
    block : int
        Side in pixels.
    row, column : ndarray of int, shape (p,)
        Which super-pixels have enough good pixels.
    count : ndarray of int, shape (p,)
        Good pixels of each.
    x_mm, y_mm : ndarray, shape (p,)
        Their mean CCS position.
    block_rows : ndarray of int, shape (ny,)
        Row of super-pixels to which each row of the images belongs.
    pattern : ndarray, shape (ny, nx)
        Response of each good pixel over the mean of its super-pixel; NaN where a pixel is not good.
    amplifier_share, row_share : ndarray, shape (p, amplifiers)
        Variance of the mean for unit variance of a pixel, and of the level of a row, of each amplifier.
    """

    shape: tuple[int, int]
    block: int
    row: IntArray
    column: IntArray
    count: IntArray
    x_mm: FloatArray
    y_mm: FloatArray
    block_rows: IntArray
    pattern: Float32Array
    amplifier_share: FloatArray
    row_share: FloatArray

    def on_grid(self, values: NDArray, *, fill: float = np.nan) -> NDArray:
        """Return values of the super-pixels, shape (..., p), on their grid, shape (..., rows, columns)."""
        grid = np.full((*values.shape[:-1], *self.shape), fill, dtype=values.dtype)
        grid[..., self.row, self.column] = values
        return grid


def median_image(images: Sequence[Float32Array]) -> Float32Array:
    """Return the median over images, pixel by pixel and without NaN; NaN where no image has a value."""
    result = np.empty(images[0].shape, dtype=np.float32)
    joint_kernels.medians([np.ascontiguousarray(image, np.float32) for image in images], result)
    return result


def flattened(image: Float32Array, good: BoolArray, block: int, *, block_rows: NDArray[np.integer] | None = None) -> Float32Array:
    """Return an image over the means of its super-pixels, NaN where it is not good.

    Parameters
    ----------
    image, good
        Shape (ny, nx).
    block
        Side of a super-pixel in pixels.
    block_rows
        Row of super-pixels to which each row of the image belongs (see `permil.flat.superpixel.block_sums`).
    """
    block_rows = np.arange(image.shape[0]) // block if block_rows is None else block_rows
    total, count = (block_sums(part, block, good=good, block_rows=block_rows) for part in (image, good))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(total > 0, total / count, np.nan)
    result = np.empty(image.shape, dtype=np.float32)
    joint_kernels.divide_blocks(
        np.ascontiguousarray(image, np.float32), good, mean, block, block_rows.astype(np.int64, copy=False), result
    )
    return result


def make_layout(
    flattened_images: Sequence[Float32Array],
    good: BoolArray,
    detector: Detector,
    *,
    block: int,
    rows: IntArray | None = None,
) -> SuperPixelLayout:
    """Lay super-pixels over a detector.

    Parameters
    ----------
    flattened_images
        A few exposures from `flattened`; their median is the pattern.
    good
        Pixels that can be good in any exposure.
    detector
        The detector, all of it.
    block
        Side of a super-pixel in pixels.
    rows : ndarray of int, shape (ny,)
        Rows of the detector that the images consist of; by default all.

    Raises
    ------
    FlatError
        If no super-pixel has enough good pixels.
    """
    rows = np.arange(detector.ny) if rows is None else rows
    block_rows = rows // block
    shape = (-(-detector.ny // block), -(-detector.nx // block))

    def sums(image: NDArray) -> NDArray:
        of_rows = block_sums(image, block, good=good, block_rows=block_rows)
        return np.pad(of_rows, ((0, shape[0] - of_rows.shape[0]), (0, 0)))

    pattern = median_image(flattened_images)
    good = good & (pattern > _DEAD)
    counts = sums(good)
    row, column = np.nonzero(counts >= FEWEST_PIXELS * block * np.bincount(block_rows).max())
    if not row.size:
        raise FlatError(f"no super-pixel of {detector.name} has enough good pixels", remedy="check its mask and its exposures")
    count = counts[row, column]
    mean = sums(pattern) / np.maximum(counts, 1)
    pattern = np.where(
        good, pattern / np.maximum(mean, _DEAD)[block_rows[:, None], np.arange(detector.nx) // block], np.nan
    ).astype(np.float32)
    places = (np.broadcast_to(index, good.shape) for index in (np.arange(detector.nx, dtype=float), rows[:, None].astype(float)))
    x_mm, y_mm = detector_to_ccs(detector, *(sums(place)[row, column] / count for place in places))
    shares = _noise_shares(good, detector, block, rows, row, column, count)
    return SuperPixelLayout(shape, block, row, column, count.astype(np.int64), x_mm, y_mm, block_rows, pattern, *shares)


def _noise_shares(
    good: BoolArray,
    detector: Detector,
    block: int,
    rows: IntArray,
    row: IntArray,
    column: IntArray,
    count: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    amplifier_share, row_share = (np.zeros((row.size, len(detector.amplifiers))) for _ in range(2))
    for number, amplifier in enumerate(detector.amplifiers):
        # Only the columns of super-pixels that the amplifier has a part in.
        first = amplifier.x_min // block
        columns = np.arange(first * block, min(-(-(amplifier.x_min + amplifier.nx) // block) * block, detector.nx))
        own_columns = (columns >= amplifier.x_min) & (columns < amplifier.x_min + amplifier.nx)
        own_rows = (rows >= amplifier.y_min) & (rows < amplifier.y_min + amplifier.ny)
        inside = good[:, columns[0] : columns[-1] + 1] & own_columns & own_rows[:, None]
        in_rows = np.add.reduceat(inside, np.arange(0, columns.size, block), axis=1, dtype=np.float64)
        for share, power in ((amplifier_share, 1), (row_share, 2)):
            sums = np.zeros((int(rows[-1]) // block + 1, -(-detector.nx // block)))
            np.add.at(sums[:, first : first + in_rows.shape[1]], rows // block, in_rows**power)
            share[:, number] = sums[row, column] / count**2
    return amplifier_share, row_share


def average_exposure(
    image: Float32Array,
    mask: NDArray[np.integer],
    layout: SuperPixelLayout,
    *,
    noise_variance: FloatArray,
    level_variance: FloatArray,
    threshold: float,
) -> tuple[FloatArray, FloatArray, int]:
    """Average an exposure over super-pixels.

    Parameters
    ----------
    image
        Signal, electrons.
    mask
        Planes of `permil.products.MaskPlane`; pixels with one of `permil.products.UNUSABLE` do not count.
    noise_variance, level_variance : ndarray, shape (amplifiers,)
        Variance of a pixel that does not depend on the signal, and of the overscan level of a row, electrons^2.
    threshold
        Standard deviations from the product of its pattern and the level of its super-pixel beyond which a pixel is left out.

    Returns
    -------
    signal, variance : ndarray, shape (p,)
        Mean and its expected variance: photons of the mean over 3 x 3 super-pixels, so that it does not follow the noise of its own,
        read noise and level of the rows. NaN where too many pixels are lost.
    rejected : int
        Pixels that were left out as outliers.
    """
    signals, pixels = np.empty(layout.shape), np.zeros(layout.shape, dtype=np.int64)
    pixel_noise = layout.on_grid(layout.count * (layout.amplifier_share @ (noise_variance + level_variance)), fill=0.0)
    limits = np.searchsorted(layout.block_rows, np.arange(layout.shape[0] + 1))
    planes = np.ascontiguousarray(mask, dtype=np.int16)
    rejected = joint_kernels.average(
        image, planes, layout.pattern, layout.block, limits, pixel_noise, threshold**2, signals, pixels
    )
    signal, kept = signals[layout.row, layout.column], pixels[layout.row, layout.column]
    signal[kept < FEWEST_KEPT * layout.count] = np.nan
    grid = layout.on_grid(signal)
    filled = np.isfinite(grid)
    around = _neighbourhood(np.where(filled, grid, 0.0)) / np.maximum(_neighbourhood(filled.astype(np.float64)), 1)
    photons = np.maximum(around[layout.row, layout.column], 1.0) / np.maximum(kept, 1)
    variance = photons + layout.amplifier_share @ noise_variance + layout.row_share @ level_variance
    variance[~np.isfinite(signal)] = np.nan
    return signal, variance, rejected


def _neighbourhood(grid: FloatArray) -> FloatArray:
    """Return sums over 3 x 3 cells."""
    padded = np.pad(grid, 1)
    along = padded[:-2] + padded[1:-1] + padded[2:]
    return along[:, :-2] + along[:, 1:-1] + along[:, 2:]
