"""Map of the relative deviations of a flat in cells, without the large-scale part."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from permil.compare.errors import CompareError

FloatArray = NDArray[np.float64]

_LEAST_GOOD = 0.5
_CLIP = 6.0


@dataclass(frozen=True)
class CellMap:
    """Relative deviations of square cells; ``[row, column]`` of cells.

    Attributes
    ----------
    level
        Mean deviation of the good pixels of each cell; 0 if the cell is not good.
    good
        Cells with at least half of their pixels good.
    cell
        Side of a cell, pixels.
    """

    level: FloatArray
    good: NDArray[np.bool_]
    cell: int

    def to_pixels(self, index: NDArray[np.integer] | FloatArray) -> FloatArray:
        """Return the pixel coordinate of the centre of cells."""
        return np.asarray(np.asarray(index, dtype=np.float64) * self.cell + (self.cell - 1) / 2)


def bin_cells(
    flat: NDArray[np.floating],
    good: NDArray[np.bool_],
    *,
    cell_px: int,
    segments: NDArray[np.integer] | None = None,
) -> CellMap:
    """Return the relative deviations of a flat in cells; incomplete cells at the far ends are dropped.

    Parameters
    ----------
    flat, good
        Flat and its good pixels, shape (ny, nx).
    cell_px
        Side of a cell.
    segments
        Segment number of each pixel, to divide each segment by its own mean; None for the mean of the sensor.

    Raises
    ------
    CompareError
        If shapes do not match or fewer than 32 x 32 cells can be made, or nothing is good.
    """
    if flat.ndim != 2 or good.shape != flat.shape or (segments is not None and segments.shape != flat.shape):
        raise CompareError(f"flat {flat.shape}, mask {good.shape} and segments do not match", remedy="give images of one shape")
    usable = good & np.isfinite(flat)
    if not usable.any():
        raise CompareError("no pixel of the flat is good", remedy="check the mask of the flat")
    ny, nx = (size // cell_px for size in flat.shape)
    if min(ny, nx) < 32:
        raise CompareError(
            f"{ny} x {nx} cells of {cell_px} pixels are too few for rings",
            remedy="use smaller cells or a larger image",
            value=(ny, nx),
        )
    deviation = _relative(flat, usable, segments)
    blocks = (ny, cell_px, nx, cell_px)
    inside = (slice(0, ny * cell_px), slice(0, nx * cell_px))
    number = usable[inside].reshape(blocks).sum(axis=(1, 3))
    total = deviation[inside].reshape(blocks).sum(axis=(1, 3), dtype=np.float64)
    filled = number >= _LEAST_GOOD * cell_px**2
    return CellMap(np.where(filled, total / np.maximum(number, 1), 0.0), filled, cell_px)


def high_passed(cells: CellMap, sigma_px: float) -> CellMap:
    """Return a map minus its local mean (Gaussian of sigma ``sigma_px`` over good cells), with outliers clipped.

    Raises
    ------
    CompareError
        If the scale is shorter than a cell, or no cell is left.
    """
    sigma = sigma_px / cells.cell
    if sigma < 1:
        raise CompareError(
            f"a high-pass of {sigma_px} pixels is shorter than a cell of {cells.cell}", remedy="use smaller cells", value=sigma_px
        )
    share = ndimage.gaussian_filter(cells.good.astype(np.float64), sigma, mode="constant")
    mean = ndimage.gaussian_filter(cells.level, sigma, mode="constant") / np.maximum(share, 1e-6)
    level = np.where(cells.good, cells.level - mean, 0.0)
    typical = 1.4826 * np.median(np.abs(level[cells.good]))
    if not typical > 0:
        raise CompareError("the flat is constant except for its large-scale part", remedy="give a measured flat")
    return replace(cells, level=np.clip(level, -_CLIP * typical, _CLIP * typical))


def evened(cells: CellMap, sigma_px: float) -> CellMap:
    """Return a map divided by its local rms (Gaussian of sigma ``sigma_px``) where this is above the typical rms.

    Blemishes then have no more weight than their surroundings.
    """
    sigma = max(1.0, sigma_px / cells.cell)
    share = ndimage.gaussian_filter(cells.good.astype(np.float64), sigma, mode="constant")
    local = np.sqrt(ndimage.gaussian_filter(cells.level**2, sigma, mode="constant") / np.maximum(share, 1e-6))
    typical = np.median(local[cells.good])
    return replace(cells, level=cells.level * typical / np.maximum(local, typical))


def _relative(
    flat: NDArray[np.floating], usable: NDArray[np.bool_], segments: NDArray[np.integer] | None
) -> NDArray[np.floating]:
    """Return the flat divided by its mean (or that of its segment) minus 1; 0 at unusable pixels."""
    if segments is None:
        mean: FloatArray | float = float(flat[usable].mean(dtype=np.float64))
        lowest = mean
    else:
        number = np.bincount(segments[usable])
        means = np.bincount(segments[usable], flat[usable]) / np.maximum(number, 1)
        lowest = float(means[number > 0].min())
        mean = means[np.minimum(segments, means.size - 1)]
    if not lowest > 0:
        raise CompareError("the mean of the flat is not positive", remedy="give a flat, not its deviations", value=lowest)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(usable, flat / mean - 1, 0.0)
