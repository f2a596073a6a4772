"""Noise common to the pixels of a row of an amplifier, from the subtracted overscan level.

In a weighted sum over pixels it adds ``variance (sum of the weights along the row)^2``, where independent noise adds
``variance (sum of the squared weights)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.camera import Detector

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class RowNoise:
    """Variance of the level of each row of each amplifier.

    Attributes
    ----------
    starts : ndarray, shape (m,)
        First column of each strip of columns read by one amplifier, ascending from 0.
    variance : ndarray, shape (ny, m)
        Variance of the level, electrons^2.
    """

    starts: IntArray
    variance: FloatArray


@dataclass(frozen=True)
class RowErrors:
    """Row noise around spots, and its effect on the background under each spot.

    Attributes
    ----------
    noise
        Row noise of the image.
    first_row : ndarray, shape (n,)
        First row of ``answer``; it may lie outside the image.
    answer : ndarray, shape (n, rows, m)
        Derivative of the background at the spot with respect to the level of each row and strip.
    """

    noise: RowNoise
    first_row: IntArray
    answer: FloatArray


def row_noise(detector: Detector, variance: FloatArray) -> RowNoise:
    """Return the row noise of a detector from the variance of the level of each amplifier, in their order, electrons^2."""
    starts = np.unique([0, *(amplifier.x_min for amplifier in detector.amplifiers)])
    rows = np.zeros((detector.ny, starts.size))
    for amplifier, level_variance in zip(detector.amplifiers, variance, strict=True):
        rows[amplifier.slices[0], np.searchsorted(starts, amplifier.x_min)] = level_variance
    return RowNoise(starts, rows)


def no_row_noise(rows: int) -> RowNoise:
    """Return the row noise of an image with independent pixels."""
    return RowNoise(np.zeros(1, dtype=np.int64), np.zeros((rows, 1)))


def no_row_errors(rows: int, spots: int) -> RowErrors:
    """Return the errors of spots in an image with independent pixels."""
    return RowErrors(no_row_noise(rows), np.zeros(spots, dtype=np.int64), np.zeros((spots, 1, 1)))
