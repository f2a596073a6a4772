"""One scale for all detectors: the median over the good pixels of all science detectors of one LED is 1.

The response of each detector comes as electrons per photodiode unit, so the ratio between detectors is already right; one common
factor is left. It is taken from histograms (one per detector, made where the detector is in memory), so that the median over
billions of pixels needs none of them again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.arrays import plain_flags, plain_image
from permil.errors import FlatError

_BINS_PER_E = 20000
"""Bins per factor e of response: 0.05 per mil wide; the interpolated median is far better than a bin."""


@dataclass(frozen=True)
class ResponseHistogram:
    """Histogram of the logarithm of the response on a fixed grid.

    ``first`` is the number of the first bin (bin ``i`` holds ``i / 20000 <= ln r < (i + 1) / 20000``), ``counts`` the pixels in
    it and the following ones.
    """

    first: int
    counts: NDArray[np.int64]


def response_histogram(response: NDArray[np.floating], good: NDArray[np.bool_]) -> ResponseHistogram:
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
    middle = np.log(float(np.median(levels)))
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
