"""All detectors of one LED on one scale, and a binned mosaic of the focal plane.

The response of each detector comes as electrons per photodiode unit, so the ratio between detectors is already right; one common
factor remains: the median over the good pixels of all science detectors is 1. It is computed from histograms, one per detector, made
while the detector is in memory, so that the median over billions of pixels does not read them again. The picture has a linear world
coordinate system in millimetres.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from permil._kernels import flat as kernels
from permil.arrays import BoolArray, Float32Array, FloatArray, IntArray, median, plain_flags, plain_image
from permil.camera import frames
from permil.engine import threaded_map
from permil.errors import FlatError

if TYPE_CHECKING:
    from permil.camera import Detector

_BINS_PER_E = 20000
"""Bins per factor e of response: 0.05 per mil wide; the interpolated median is far better than a bin."""


@dataclass(frozen=True)
class ResponseHistogram:
    """Histogram of the logarithm of the response on a fixed grid.

    ``first`` is the number of the first bin (bin ``i`` holds ``i / 20000 <= ln r < (i + 1) / 20000``), ``counts`` the pixels in
    it and the following ones.
    """

    first: int
    counts: IntArray


def response_histogram(response: NDArray[np.floating], good: BoolArray) -> ResponseHistogram:
    """Return the histogram of the good pixels of a detector.

    Raises
    ------
    FlatError
        If the detector has no good pixel with positive response.
    """
    response = plain_image(response, name="response")
    levels = response[plain_flags(good, name="good", shape=response.shape)]
    levels = levels[np.isfinite(levels) & (levels > 0)]
    if levels.size == 0:
        raise FlatError("a detector has no good pixel", remedy="check its masks and the pointings on it")
    # Pixels far from the middle only need to lie on the right side of the median.
    middle = np.log(float(median(levels)))
    bins = np.floor(np.clip(np.log(levels.astype(np.float64)), middle - 2, middle + 2) * _BINS_PER_E).astype(np.int64)
    first = int(bins.min())
    return ResponseHistogram(first, np.bincount(bins - first))


def composite_median(histograms: Iterable[ResponseHistogram]) -> float:
    """Return the median of all pixels of several histograms.

    Raises
    ------
    FlatError
        If there is no histogram.
    """
    parts = list(histograms)
    if not parts:
        raise FlatError("no science detector has a flat", remedy="the composite needs at least one")
    first = min(part.first for part in parts)
    counts = np.zeros(max(part.first + part.counts.size for part in parts) - first, dtype=np.int64)
    for part in parts:
        counts[part.first - first : part.first - first + part.counts.size] += part.counts
    below = np.concatenate([[0], np.cumsum(counts)])
    half = below[-1] / 2
    at = int(np.searchsorted(below, half, side="right")) - 1
    fraction = (half - below[at]) / counts[at] if counts[at] else 0.0
    return float(np.exp((first + at + fraction) / _BINS_PER_E))


# Rows whose places are in the cache of a core at the same time; rows that are summed by themselves.
_ROWS_AT_ONCE = 8
_ROWS_TOGETHER = 256


@dataclass(frozen=True)
class MosaicGrid:
    """Square cells over the focal plane in DVCS; cell ``[row, column]`` starts at ``(x_low + column cell, y_low + row cell)``."""

    x_low: float
    y_low: float
    cell_mm: float
    shape: tuple[int, int]

    def cards(self) -> fits.Header:
        """Return WCS cards: DVCS mm as the primary system, CCS mm as the alternate system C."""
        header = fits.Header()
        # Origin and the two unit steps of the grid, in either frame: the matrix of the alternate system follows from them.
        x = self.x_low + self.cell_mm * (0.5 + np.array([0.0, 1.0, 0.0]))
        y = self.y_low + self.cell_mm * (0.5 + np.array([0.0, 0.0, 1.0]))
        for suffix, frame, places in (("", "DVCS", np.array([x, y])), ("C", "CCS", np.array(frames.dvcs_to_ccs(x, y)))):
            header[f"WCSNAME{suffix}"] = (frame, "linear focal-plane frame, mm")
            for axis in (1, 2):
                header[f"CTYPE{axis}{suffix}"] = f"{frame}_{'XY'[axis - 1]}"
                header[f"CUNIT{axis}{suffix}"] = "mm"
                header[f"CRPIX{axis}{suffix}"] = 1.0
                header[f"CRVAL{axis}{suffix}"] = places[axis - 1, 0]
                header[f"CDELT{axis}{suffix}"] = self.cell_mm
                for column in (1, 2):
                    step = places[axis - 1, column] - places[axis - 1, 0]
                    header[f"PC{axis}_{column}{suffix}"] = float(round(step / self.cell_mm))
        return header


def mosaic_grid(detectors: Iterable[Detector], cell_mm: float) -> MosaicGrid:
    """Return cells that cover the given detectors with a margin of one cell."""
    corners = []
    for detector in detectors:
        x, y = _corners(detector)
        corners.append((x.min(), x.max(), y.min(), y.max()))
    x_min, x_max, y_min, y_max = np.array(corners).T
    # Whole multiples of the cell: mosaics of one camera line up whatever detectors they hold.
    x_low = (np.floor(x_min.min() / cell_mm) - 1) * cell_mm
    y_low = (np.floor(y_min.min() / cell_mm) - 1) * cell_mm
    columns = int(np.ceil((x_max.max() - x_low) / cell_mm)) + 1
    rows = int(np.ceil((y_max.max() - y_low) / cell_mm)) + 1
    return MosaicGrid(float(x_low), float(y_low), cell_mm, (rows, columns))


def _corners(detector: Detector) -> tuple[FloatArray, FloatArray]:
    columns, rows = (-0.5, detector.nx - 0.5), (-0.5, detector.ny - 0.5)
    return frames.detector_to_dvcs(detector, [*columns, *columns], np.repeat(rows, 2))


@dataclass(frozen=True)
class MosaicPiece:
    """Sums of one detector on the cells of the mosaic, from ``row`` and ``column`` on."""

    row: int
    column: int
    response: FloatArray
    variance: FloatArray
    count: IntArray


def mosaic_piece(
    response: NDArray[np.floating],
    variance: NDArray[np.floating],
    good: BoolArray,
    *,
    detector: Detector,
    grid: MosaicGrid,
) -> MosaicPiece:
    """Sum the good pixels of a detector into the cells of the mosaic.

    Each pixel goes to the cell that holds its centre. Detectors turned by quarter turns are exact; so are others.
    """
    response, variance = (np.ascontiguousarray(each, dtype=np.float32) for each in (response, variance))
    good = np.ascontiguousarray(good, dtype=np.bool_)
    x, y = _corners(detector)
    first_row, first_column = _cells(y.min(), grid.y_low, grid), _cells(x.min(), grid.x_low, grid)
    shape = int(_cells(y.max(), grid.y_low, grid) - first_row) + 1, int(_cells(x.max(), grid.x_low, grid) - first_column) + 1
    columns = np.arange(detector.nx)

    def sums_of(start: int) -> FloatArray:
        part = np.zeros((3, shape[0] * shape[1]))
        for first in range(start, min(start + _ROWS_TOGETHER, detector.ny), _ROWS_AT_ONCE):
            rows = np.arange(first, min(first + _ROWS_AT_ONCE, detector.ny))
            x, y = frames.detector_to_dvcs(detector, columns, rows[:, np.newaxis])
            cell = (_cells(y, grid.y_low, grid) - first_row) * shape[1] + _cells(x, grid.x_low, grid) - first_column
            own = slice(first, first + len(rows))
            kernels.add_to_cells(response[own], variance[own], good[own], cell, part)
        return part

    sums = np.zeros((3, shape[0] * shape[1]))
    for part in threaded_map(sums_of, range(0, detector.ny, _ROWS_TOGETHER)):
        sums += part
    total, noise, count = sums.reshape(3, *shape)
    return MosaicPiece(int(first_row), int(first_column), total, noise, count.astype(np.int64))


def _cells(place: FloatArray, low: float, grid: MosaicGrid) -> IntArray:
    return np.floor((place - low) / grid.cell_mm).astype(np.int64)


def assemble_mosaic(pieces: Iterable[MosaicPiece], grid: MosaicGrid) -> tuple[Float32Array, Float32Array, IntArray]:
    """Return mean response, its independent variance and the number of pixels per cell; NaN where there is no pixel."""
    response, variance = np.zeros(grid.shape), np.zeros(grid.shape)
    count = np.zeros(grid.shape, dtype=np.int64)
    for piece in pieces:
        rows, columns = piece.count.shape
        where = slice(piece.row, piece.row + rows), slice(piece.column, piece.column + columns)
        response[where] += piece.response
        variance[where] += piece.variance
        count[where] += piece.count
    with np.errstate(invalid="ignore", divide="ignore"):
        return (response / count).astype(np.float32), (variance / count.astype(float) ** 2).astype(np.float32), count
