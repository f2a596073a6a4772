"""What a detector's page shows, worked out from the full-size flat and the small maps of its pointings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.flat import super_pixels
from permil.products import MaskPlane

FloatArray = NDArray[np.float64]

_DISPLAY_PIXELS = 256
_HISTOGRAM_BINS = 120
_HISTOGRAM_WIDTHS = 6.0
_NOISE_QUANTILES = 33


@dataclass(frozen=True)
class DisplayImage:
    """A binned image: ``image[row, column]``, ``extent`` its left, right, bottom, top in detector pixels, ``size`` of a bin."""

    image: FloatArray
    extent: tuple[float, float, float, float]
    size: int


@dataclass(frozen=True)
class FlatHistogram:
    """Distribution of the response over its median.

    Attributes
    ----------
    edges, counts
        Bins of ``response / median - 1`` and the good pixels in them; the outer bins hold what lies beyond.
    expected
        Pixels per bin that noise alone, as the variance plane has it, would give.
    median, width, noise
        Median response, robust relative width (half of the 16 to 84 per cent range), median relative error of a pixel.
    """

    edges: FloatArray
    counts: NDArray[np.int64]
    expected: FloatArray
    median: float
    width: float
    noise: float


@dataclass(frozen=True)
class PointingResiduals:
    """Each pointing's response over the combined flat.

    Attributes
    ----------
    maps
        ``response / combined - 1`` on super-pixels, shape (pointings, rows, columns), NaN without data.
    level, level_error
        Median of each map, and its error from the scatter within the map.
    rms
        Robust width of each map.
    """

    maps: FloatArray
    level: FloatArray
    level_error: FloatArray
    rms: FloatArray


def display_image(image: NDArray[np.floating], usable: NDArray[np.bool_]) -> DisplayImage:
    """Bin a full-size image to at most 256 bins a side; bins with fewer than half of their pixels usable are NaN."""
    size = int(np.ceil(max(image.shape) / _DISPLAY_PIXELS))
    binned = super_pixels(image, usable, size)
    rows, columns = binned.mean.shape
    return DisplayImage(binned.mean, (-0.5, columns * size - 0.5, -0.5, rows * size - 0.5), size)


def small_map_extent(shape: tuple[int, ...], size: int) -> tuple[float, float, float, float]:
    """Return left, right, bottom, top in detector pixels of a map on super-pixels of ``size`` pixels."""
    rows, columns = shape[-2:]
    return -0.5, columns * size - 0.5, -0.5, rows * size - 0.5


def flat_histogram(
    response: NDArray[np.floating], variance: NDArray[np.floating], good: NDArray[np.bool_]
) -> FlatHistogram | None:
    """Return the distribution of the good pixels, None if there is none."""
    known = good & np.isfinite(response) & np.isfinite(variance)
    levels = response[known].astype(np.float64)
    if levels.size == 0:
        return None
    low, median, high = np.percentile(levels, [15.865, 50.0, 84.135])
    width = float((high - low) / 2 / median)
    # Noise differs from pixel to pixel with the beam: its distribution is a mixture of normal ones.
    sigmas = np.sqrt(np.quantile(variance[known], (np.arange(_NOISE_QUANTILES) + 0.5) / _NOISE_QUANTILES)) / median
    half = _HISTOGRAM_WIDTHS * max(width, float(np.median(sigmas)), 1e-7)
    edges = np.linspace(-half, half, _HISTOGRAM_BINS + 1)
    counts, _ = np.histogram(np.clip(levels / median - 1, -half, half), bins=edges)
    middle = (edges[1:] + edges[:-1])[:, None] / 2
    positive = sigmas[sigmas > 0]
    density = np.exp(-((middle / positive) ** 2) / 2) / (positive * np.sqrt(2 * np.pi))
    expected = density.sum(axis=1) / sigmas.size * levels.size * (edges[1] - edges[0])
    return FlatHistogram(edges, counts, expected, float(median), width, float(np.median(sigmas)))


def pointing_residuals(responses: NDArray[np.floating], combined: NDArray[np.floating]) -> PointingResiduals:
    """Compare the pointings with the combined flat.

    Parameters
    ----------
    responses
        Response of each pointing on super-pixels, shape (pointings, rows, columns).
    combined
        Combined flat on the same super-pixels.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        maps = np.asarray(responses, dtype=np.float64) / combined - 1
    level, error, rms = (np.full(len(maps), np.nan) for _ in range(3))
    for number, residual in enumerate(maps):
        inside = residual[np.isfinite(residual)]
        if inside.size:
            low, level[number], high = np.percentile(inside, [15.865, 50.0, 84.135])
            rms[number] = (high - low) / 2
            error[number] = 1.2533 * rms[number] / np.sqrt(inside.size)
    return PointingResiduals(maps, level, error, rms)


def mask_counts(mask: NDArray[np.int32]) -> dict[str, int]:
    """Return how many pixels have each plane of the mask, and how many have none."""
    counts = {str(plane.name): int(np.count_nonzero(mask & int(plane))) for plane in MaskPlane}
    return counts | {"none": int(np.count_nonzero(mask == 0))}
