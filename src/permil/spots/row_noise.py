"""Noise that is common to the pixels of a row of an amplifier: the overscan level that was subtracted from each row.

In a sum over pixels with weights it adds ``variance (sum of the weights along the row)^2``, where independent noise adds
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
        First column of each of the strips of columns that amplifiers read, increasing, from 0.
    variance : ndarray, shape (ny, m)
        Variance of the level, electrons^2.
    """

    starts: IntArray
    variance: FloatArray


@dataclass(frozen=True)
class RowErrors:
    """Row noise around spots, and what the background under each spot has of it.

    Attributes
    ----------
    noise
        Of the image.
    first_row : ndarray, shape (n,)
        Row at which ``answer`` begins; it may lie outside of the image.
    answer : ndarray, shape (n, rows, m)
        Change of the background at the spot with the level of each row and strip.
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
    """Return the row noise of an image of that many rows whose pixels are independent."""
    return RowNoise(np.zeros(1, dtype=np.int64), np.zeros((rows, 1)))


def no_row_errors(rows: int, spots: int) -> RowErrors:
    """Return the errors of spots in an image of that many rows whose pixels are independent."""
    return RowErrors(no_row_noise(rows), np.zeros(spots, dtype=np.int64), np.zeros((spots, 1, 1)))
