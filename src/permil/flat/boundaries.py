"""Steps at amplifier boundaries from wrong gains, fitted from the smooth light on either side.

The true response is continuous across the border of two segments but for the sensor's own small structure; a gain that is
wrong by ``g`` scales its whole segment. On each border the logarithm of the response is averaged along blocks of the border in
a strip on either side, extrapolated linearly to the border, and the difference taken; blocks give the error. All steps of a
detector are then explained by one factor per amplifier (weighted least squares, factors of mean zero in the logarithm).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from permil.arrays import BoolArray, Float32Array, FloatArray, plain_array, plain_flags, plain_image
from permil.errors import FlatError

if TYPE_CHECKING:
    from permil.camera import Detector

_BLOCKS = 16
_STRIP_MM = 1.6
_BINS = 4
"""Bins of a strip across the border: enough for a line, few enough that each has a good median."""

_FEWEST_GOOD = 0.25
"""Minimum fraction of good pixels in a bin of a block."""


@dataclass(frozen=True)
class BoundarySteps:
    """Amplifier factors of one detector.

    Attributes
    ----------
    factor, factor_error
        One per amplifier, in the order of the detector's amplifiers: relative excess of the segment, mean zero; its error. NaN
        for an amplifier that no usable border ties to the others.
    step, step_error
        One per border (``pairs``): logarithm of the response of the second over the first segment, at the border.
    pairs
        Amplifier indices of each border.
    """

    factor: FloatArray
    factor_error: FloatArray
    step: FloatArray
    step_error: FloatArray
    pairs: tuple[tuple[int, int], ...]


def fit_boundary_steps(response: NDArray[np.floating], good: BoolArray, detector: Detector) -> BoundarySteps:
    """Fit one factor per amplifier to the steps at all borders of a detector.

    Parameters
    ----------
    response
        Flat, shape (ny, nx).
    good
        Pixels to be used; the zone along the mid-line is best left out.
    detector
        Gives the segments.

    Raises
    ------
    FlatError
        If no border has enough good pixels.
    """
    response = plain_image(response, name="response")
    good = plain_flags(good, name="good", shape=response.shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        logarithm = np.where(good & (response > 0), np.log(response), np.nan)
    width = max(_BINS, round(_STRIP_MM / detector.pixel_mm) // _BINS * _BINS)
    pairs, steps, errors = [], [], []
    for first, second, before, after in _borders(detector, logarithm, width):
        found, found_error = _step(before, after)
        if np.isfinite(found) and found_error > 0:
            pairs.append((first, second))
            steps.append(found)
            errors.append(found_error)
    if not pairs:
        raise FlatError("no amplifier border has enough good pixels for its step", remedy="check the mask of the flat")
    step, step_error = np.array(steps), np.array(errors)
    factor, factor_error = _factors(len(detector.amplifiers), pairs, step, step_error)
    return BoundarySteps(factor, factor_error, step, step_error, tuple(pairs))


def amplifier_factors(detector: Detector, factor: FloatArray) -> Float32Array:
    """Return an image of the detector's shape with ``exp(factor)`` of each amplifier (1 where the factor is not known)."""
    factor = plain_array(factor, name="factor", shape=(len(detector.amplifiers),))
    known = np.where(np.isfinite(factor), factor, 0.0)
    return np.exp(known)[detector.amplifier_map()].astype(np.float32)


def _borders(detector: Detector, image: FloatArray, width: int) -> list[tuple[int, int, FloatArray, FloatArray]]:
    """Return amplifier pairs with the strips on either side; the border is after the last column of the first strip."""
    found = []
    for first, low in enumerate(detector.amplifiers):
        rows, columns = low.slices
        for second, high in enumerate(detector.amplifiers):
            if high.y_min == low.y_min and high.x_min == columns.stop:
                beside = image[rows]
                border = columns.stop
            elif high.x_min == low.x_min and high.y_min == rows.stop:
                beside = image[:, columns].T
                border = rows.stop
            else:
                continue
            found.append((first, second, beside[:, border - width : border], beside[:, border : border + width]))
    return found


def _step(before: FloatArray, after: FloatArray) -> tuple[float, float]:
    """Return the step at a border and its error from blocks along the border."""
    steps = _at_border(after) - _at_border(before[:, ::-1])
    values = steps[np.isfinite(steps)]
    if values.size < 4:
        return np.nan, np.nan
    spread = 1.4826 * np.median(np.abs(values - np.median(values)))
    # The median of n values has 1.25 times the error of their mean.
    return float(np.median(values)), float(1.2533 * max(spread, 1e-9) / np.sqrt(values.size))


def _at_border(strip: FloatArray) -> FloatArray:
    """Return a strip extrapolated to the border before its first column, for each block along it; NaN where too few pixels are good."""
    size = strip.shape[1] // _BINS
    lengths = np.full(_BLOCKS, len(strip) // _BLOCKS)
    lengths[: len(strip) % _BLOCKS] += 1
    medians, filled = np.zeros((_BLOCKS, _BINS)), np.zeros((_BLOCKS, _BINS), dtype=bool)
    ends = np.cumsum(lengths)
    for length in np.unique(lengths[lengths > 0]):
        alike = np.flatnonzero(lengths == length)
        rows = strip[ends[alike[0]] - length : ends[alike[-1]]]
        # Blocks of one length follow one another; pixels that are not good are sorted to the end.
        pixels = np.sort(
            rows.reshape(alike.size, length, _BINS, size).transpose(0, 2, 1, 3).reshape(alike.size, _BINS, -1), axis=2
        )
        count = np.isfinite(pixels).sum(axis=2)
        middle = np.stack([np.maximum(count - 1, 0) // 2, np.minimum(count // 2, length * size - 1)], axis=2)
        filled[alike] = (count > 0) & (count >= _FEWEST_GOOD * length * size)
        medians[alike] = np.where(filled[alike], np.take_along_axis(pixels, middle, axis=2).mean(axis=2), 0.0)
    known = filled.sum(axis=1)
    centres = np.where(filled, (np.arange(_BINS) + 0.5) * size, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        centre, level = centres.sum(axis=1) / known, medians.sum(axis=1) / known
        beside = np.where(filled, centres - centre[:, None], 0.0)
        slope = (beside * medians).sum(axis=1) / np.square(beside).sum(axis=1)
        return np.where(known >= 2, level - slope * centre, np.nan)


def _factors(count: int, pairs: list[tuple[int, int]], step: FloatArray, error: FloatArray) -> tuple[FloatArray, FloatArray]:
    design = np.zeros((len(pairs), count))
    for row, (first, second) in enumerate(pairs):
        design[row, first], design[row, second] = -1.0, 1.0
    weights = 1 / error**2
    normal = design.T @ (weights[:, None] * design)
    # The common factor is free: the pseudo-inverse sets the mean of each connected group to zero.
    covariance = np.linalg.pinv(normal, hermitian=True, rcond=1e-10)
    factor = covariance @ (design.T @ (weights * step))
    variance = np.diag(covariance).copy()
    # Borders share structure of the sensor that blocks do not show: let the misfit of the closed loops say how much.
    freedom = len(pairs) - int(np.linalg.matrix_rank(normal))
    if freedom > 0:
        misfit = float(np.sum(weights * (step - design @ factor) ** 2)) / freedom
        variance *= max(1.0, misfit)
    unknown = np.abs(design).sum(axis=0) == 0
    factor[unknown], variance[unknown] = np.nan, np.nan
    return factor, np.sqrt(variance)
