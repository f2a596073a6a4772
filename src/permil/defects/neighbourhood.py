"""The response of pixels relative to their neighbours, and its local scatter.

The level of the neighbours is the median in blocks, interpolated linearly between their centres: a block that is mostly defective is
replaced by the median of the blocks around it, and one that has less than half or more than twice the usual level by the usual level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from permil.arrays import BoolArray, Float32Array, FloatArray, Int32Array

BLOCK = 16
"""Side of a block, pixels."""

TO_SIGMA = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""

_UNKNOWN = 1e3
_LEAST_SIGMA = 1e-6


def finite_median(values: Float32Array) -> Float32Array:
    """Return the median of the finite values along the last axis (of two in the middle the upper one); NaN where there are none."""
    ordered = np.sort(values, axis=-1)
    count = np.isfinite(ordered).sum(axis=-1)
    middle = np.take_along_axis(ordered, (count // 2).clip(max=values.shape[-1] - 1)[..., None], axis=-1)[..., 0]
    return np.where(count > 0, middle, np.float32(np.nan)).astype(np.float32, copy=False)


@dataclass(frozen=True)
class BlockLevels:
    """Levels of blocks, interpolated between their centres and constant beyond the outermost ones.

    Attributes
    ----------
    rows, columns
        Centres of the blocks along each axis.
    levels : ndarray, shape (rows, columns)
        Level of each block.
    """

    rows: FloatArray
    columns: FloatArray
    levels: Float32Array

    def smoothed(self) -> BlockLevels:
        """Return the medians over the 3 x 3 blocks around each."""
        padded = np.pad(self.levels, 1, constant_values=np.nan)
        around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).reshape(*self.levels.shape, 9)
        return replace(self, levels=finite_median(around))

    def filled(self, level: float) -> BlockLevels:
        """Return the levels with gaps filled."""
        return replace(self, levels=np.nan_to_num(self.levels, nan=level))

    def near(self, usual: float) -> BlockLevels:
        """Return the same with the usual level where none was measured, or one below half or above twice the usual one."""
        with np.errstate(invalid="ignore"):
            is_near = (self.levels > usual / 2) & (self.levels < 2 * usual)
        return replace(self, levels=np.where(is_near, self.levels, np.float32(usual)))

    def on(self, rows: FloatArray, columns: FloatArray) -> Float32Array:
        """Return the levels on a grid of rows and columns; all blocks must have one."""
        along_rows, along_columns = (
            _weights(centres, places, extrapolate=False) for centres, places in ((self.rows, rows), (self.columns, columns))
        )
        levels: Float32Array = (along_rows @ self.levels @ along_columns.T).astype(np.float32, copy=False)
        return levels


def extrapolated(levels: Sequence[BlockLevels | None], rows: FloatArray, columns: FloatArray) -> Float32Array:
    """Return levels of the same blocks on a grid, linear also beyond the centres of the outermost ones; NaN for None.

    Parameters
    ----------
    levels
        Levels of one part of a detector in n images; all blocks must have one.
    rows, columns
        Coordinates of the grid.

    Returns
    -------
    ndarray, shape (n, rows, columns)
    """
    found = np.full((len(levels), rows.size, columns.size), np.nan, dtype=np.float32)
    known = [number for number, each in enumerate(levels) if each is not None]
    if known:
        blocks = [each for each in levels if each is not None]
        along_rows, along_columns = (
            _weights(centres, places, extrapolate=True)
            for centres, places in ((blocks[0].rows, rows), (blocks[0].columns, columns))
        )
        found[known] = along_rows @ np.stack([each.levels for each in blocks]) @ along_columns.T
    return found


def _weights(centres: FloatArray, places: FloatArray, *, extrapolate: bool) -> Float32Array:
    """Return the matrix of linear interpolation from centres to places."""
    weights = np.zeros((places.size, centres.size), dtype=np.float32)
    if centres.size == 1:
        weights[:] = 1
        return weights
    left = np.clip(np.searchsorted(centres, places) - 1, 0, centres.size - 2)
    share = (places - centres[left]) / (centres[left + 1] - centres[left])
    share = share if extrapolate else np.clip(share, 0, 1)
    number = np.arange(places.size)
    weights[number, left], weights[number, left + 1] = 1 - share, share
    return weights


def _in_blocks(image: Float32Array, size: tuple[int, int]) -> Float32Array:
    """Return the pixels of each block along the last axis, shape (block rows, block columns, pixels); blocks are of equal size."""
    count = tuple(max(length // side, 1) for length, side in zip(image.shape, size, strict=True))
    height, width = (-(-length // number) for length, number in zip(image.shape, count, strict=True))
    padded = np.full((count[0] * height, count[1] * width), np.nan, dtype=np.float32)
    padded[: image.shape[0], : image.shape[1]] = image
    return padded.reshape(count[0], height, count[1], width).swapaxes(1, 2).reshape(*count, -1)


def block_levels(
    image: Float32Array, rows: FloatArray, columns: FloatArray, *, size: tuple[int, int] = (BLOCK, BLOCK)
) -> BlockLevels:
    """Return the medians of an image in blocks; NaN for blocks without any pixel.

    Parameters
    ----------
    image : ndarray, shape (n_rows, n_columns)
        NaN where nothing was measured.
    rows, columns
        Coordinates of its rows and columns.
    size
        Rows and columns of a block, about.
    """
    levels = finite_median(_in_blocks(image, size))
    centres = [
        np.array([axis[begin : begin + length].mean() for begin in range(0, axis.size, length)])
        for axis, length in ((rows, -(-rows.size // levels.shape[0])), (columns, -(-columns.size // levels.shape[1])))
    ]
    # Blocks of padding alone have no centre.
    return BlockLevels(centres[0], centres[1], levels[: centres[0].size, : centres[1].size])


@dataclass(frozen=True)
class RelativeResponse:
    """A part of a detector relative to its neighbourhood.

    Attributes
    ----------
    deviation : ndarray, shape (rows, columns)
        Response over the level of the neighbours minus 1; NaN where nothing was measured.
    sigma : ndarray, shape (rows, columns)
        Robust local scatter of the deviation: ordinary pixels and noise.
    error : ndarray, shape (rows, columns)
        Standard error of the deviation from the noise of the flat and of the level.
    """

    deviation: Float32Array
    sigma: Float32Array
    error: Float32Array


def relative_response(response: Float32Array, variance: Float32Array, *, usual: float) -> RelativeResponse:
    """Compare a part of a flat with its neighbourhood.

    Parameters
    ----------
    response, variance : ndarray, shape (rows, columns)
        NaN where nothing was measured.
    usual
        Typical response of the detector.
    """
    rows, columns = (np.arange(length, dtype=np.float64) for length in response.shape)
    measured = block_levels(response, rows, columns).smoothed()
    expected = measured.near(usual)
    level = expected.on(rows, columns)
    deviation = response / level - 1
    # Where a whole region deviates, its pixels scatter about their own level.
    is_usual = np.array_equal(expected.levels, measured.levels)
    off = deviation if is_usual else (response - measured.filled(usual).on(rows, columns)) / level
    spread = block_levels(np.abs(off), rows, columns).smoothed().filled(_UNKNOWN).on(rows, columns)
    sigma = np.maximum(np.float32(TO_SIGMA) * spread, np.float32(_LEAST_SIGMA))
    error = np.sqrt(variance / level**2 + (1.2533 / BLOCK * sigma) ** 2)
    return RelativeResponse(deviation, sigma, error.astype(np.float32))


def connected(mask: BoolArray) -> tuple[Int32Array, int]:
    """Return numbers, from 1, of the groups of pixels that touch along sides or corners, and their count."""
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    return labels.astype(np.int32, copy=False), int(count)
