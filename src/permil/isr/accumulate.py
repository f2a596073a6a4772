"""Streaming sums of a stack, and the test of its extremes against the noise model, pixel by pixel.

Of each pixel the two largest and the smallest measurement are kept by themselves, with the frame they come from; everything
between goes into weighted sums (West 1979, Comm. ACM 22, 532). So an outlier never enters a sum, and what is kept does not grow
with the number of frames.

With ``q`` the relative light of a frame, ``d`` its signal and ``x = d / q``: the best estimate for Poisson noise is
``sum(d) / sum(q)``, and ``sum(q (x - mean)^2) / (mean + n^2 / q)`` is chi-square, ``n^2`` the variance that does not depend on light.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from permil.products.masks import MaskPlane

NO_FRAME = 65535
_LEFT_OUT = int(MaskPlane.SAT | MaskPlane.NO_DATA)
_SAT = int(MaskPlane.SAT)
_NO_DATA = int(MaskPlane.NO_DATA)
_REJECTED = int(MaskPlane.REJECTED)
_SUSPECT = int(MaskPlane.SUSPECT)


class Sums(NamedTuple):
    """Arrays of the detector's shape (38 bytes per pixel).

    ``signal``, ``light``, ``squares``: sums of d, q and q (x - mean)^2 over the frames between the extremes; ``high``,
    ``second``, ``low``: extremes x with the frames they come from; ``measured``: how many frames have a measurement; ``planes``:
    union of the masks.
    """

    signal: NDArray[np.float64]
    light: NDArray[np.float32]
    squares: NDArray[np.float32]
    high: NDArray[np.float32]
    second: NDArray[np.float32]
    low: NDArray[np.float32]
    high_frame: NDArray[np.uint16]
    second_frame: NDArray[np.uint16]
    low_frame: NDArray[np.uint16]
    measured: NDArray[np.uint16]
    planes: NDArray[np.int16]


class Averages(NamedTuple):
    """Results per pixel: mean, its variance, mask, and how many frames were kept and rejected."""

    image: NDArray[np.float32]
    variance: NDArray[np.float32]
    mask: NDArray[np.int32]
    kept: NDArray[np.uint16]
    rejected: NDArray[np.uint8]


def empty_sums(shape: tuple[int, int]) -> Sums:
    """Return sums over no frame."""
    return Sums(
        signal=np.zeros(shape),
        light=np.zeros(shape, dtype=np.float32),
        squares=np.zeros(shape, dtype=np.float32),
        high=np.full(shape, -np.inf, dtype=np.float32),
        second=np.full(shape, -np.inf, dtype=np.float32),
        low=np.full(shape, np.inf, dtype=np.float32),
        high_frame=np.full(shape, NO_FRAME, dtype=np.uint16),
        second_frame=np.full(shape, NO_FRAME, dtype=np.uint16),
        low_frame=np.full(shape, NO_FRAME, dtype=np.uint16),
        measured=np.zeros(shape, dtype=np.uint16),
        planes=np.zeros(shape, dtype=np.int16),
    )


@njit(cache=True, nogil=True)
def add_frame(sums: Sums, image: NDArray[np.float32], mask: NDArray[np.int16], frame: int, light: NDArray[np.float64]) -> None:
    """Add a frame; ``light`` holds q of all frames so far, this one included. All arrays are one-dimensional."""
    high, second, low = sums.high, sums.second, sums.low
    high_frame, second_frame, low_frame = sums.high_frame, sums.second_frame, sums.low_frame
    scale = np.float32(1.0 / light[frame])
    for pixel in range(image.size):
        sums.planes[pixel] |= mask[pixel]
        sample = image[pixel] * scale
        if mask[pixel] & _LEFT_OUT or np.isnan(sample):
            continue
        sums.measured[pixel] += 1
        number = np.uint16(frame)
        if sample > second[pixel]:
            displaced, displaced_frame = second[pixel], second_frame[pixel]
            if sample > high[pixel]:
                second[pixel], second_frame[pixel] = high[pixel], high_frame[pixel]
                high[pixel], high_frame[pixel] = sample, number
            else:
                second[pixel], second_frame[pixel] = sample, number
            if displaced_frame == NO_FRAME:
                continue
            sample, number = displaced, displaced_frame
        if sample < low[pixel]:
            displaced, displaced_frame = low[pixel], low_frame[pixel]
            low[pixel], low_frame[pixel] = sample, number
            if displaced_frame == NO_FRAME:
                continue
            sample, number = displaced, displaced_frame
        # What lies between the extremes is added with weight q (West's update).
        weight = np.float32(light[number])
        before = sums.light[pixel]
        total = before + weight
        if before > 0:
            deviation = sample - np.float32(sums.signal[pixel] / before)
            sums.squares[pixel] += deviation * deviation * (weight * before / total)
        sums.signal[pixel] += np.float64(sample) * np.float64(weight)
        sums.light[pixel] = total


@njit(cache=True, nogil=True)
def average(
    sums: Sums, out: Averages, light: NDArray[np.float64], noise_variance: float, threshold: float, poisson: bool
) -> tuple[float, int]:
    """Test the extremes of each pixel, average what is kept; return chi-square and its degrees of freedom over unflagged pixels.

    Parameters
    ----------
    sums, out
        Views of one amplifier.
    light
        Relative light q of all frames.
    noise_variance
        Variance of a pixel in one frame that does not depend on the light.
    threshold
        In sigma of the difference between a measurement and the mean of the others.
    poisson
        Whether the signal adds its own variance.
    """
    mean_light = light.mean()
    photon_variance = 1.0 if poisson else 0.0
    limits = _chi_square_limits(light.size, threshold)
    chi_square, freedom = 0.0, 0
    sample, weight = np.empty(3), np.empty(3)
    for row in range(out.image.shape[0]):
        for column in range(out.image.shape[1]):
            measured = int(sums.measured[row, column])
            mask = _measured_mask(int(sums.planes[row, column]), measured, light.size)
            if measured == 0:
                out.mask[row, column] = mask
                out.image[row, column] = np.nan
                out.variance[row, column] = np.nan
                continue
            present = min(measured, 3)
            sample[0], weight[0] = sums.high[row, column], light[sums.high_frame[row, column]]
            if present > 1:
                sample[1], weight[1] = sums.second[row, column], light[sums.second_frame[row, column]]
            if present > 2:
                sample[2], weight[2] = sums.low[row, column], light[sums.low_frame[row, column]]
            inner_signal, inner_light = sums.signal[row, column], np.float64(sums.light[row, column])
            signal, total, first, last = _reject(
                inner_signal, inner_light, sample, weight, measured, noise_variance, threshold, photon_variance
            )
            kept = measured - present + last - first + 1
            mean = signal / total
            photons = photon_variance * max(mean, 0.0)
            if kept < measured:
                mask |= _REJECTED
            expected = photons + noise_variance * kept / total
            if kept > 1 and expected > 0:
                squares = sums.squares[row, column] + _added_squares(inner_signal, inner_light, sample, weight, first, last)
                reduced = squares / expected / (kept - 1)
                if reduced > limits[kept]:
                    mask |= _SUSPECT
                if mask & ~_REJECTED == 0:
                    chi_square += reduced * (kept - 1)
                    freedom += kept - 1
            out.image[row, column] = mean * mean_light
            out.variance[row, column] = (mean_light / total) ** 2 * (photons * total + kept * noise_variance)
            out.mask[row, column] = mask
            out.kept[row, column] = kept
            out.rejected[row, column] = measured - kept
    return chi_square, freedom


@njit(cache=True, nogil=True)
def _chi_square_limits(n_frames: int, threshold: float) -> NDArray[np.float64]:
    """Return the reduced chi-square that n kept frames exceed with the probability of `threshold` sigma, for n to n_frames.

    Wilson & Hilferty (1931): the cube root of chi-square is nearly normal.
    """
    limits = np.full(n_frames + 1, np.inf)
    for kept in range(2, n_frames + 1):
        narrow = 2.0 / (9.0 * (kept - 1))
        limits[kept] = (1.0 - narrow + threshold * np.sqrt(narrow)) ** 3
    return limits


@njit(cache=True, nogil=True)
def _measured_mask(planes: int, measured: int, n_frames: int) -> int:
    """Return the mask of the mean: no data, or saturated in part of the frames."""
    if measured == 0:
        return planes | _NO_DATA
    planes &= ~_NO_DATA
    if planes & _SAT and 2 * measured > n_frames:
        # A cosmic ray, or light at the limit where what is left is the faint half of the frames.
        return (planes & ~_SAT) | _SUSPECT
    return planes


@njit(cache=True, nogil=True)
def _reject(
    signal: float,
    total: float,
    sample: NDArray[np.float64],
    weight: NDArray[np.float64],
    measured: int,
    noise_variance: float,
    threshold: float,
    photon_variance: float,
) -> tuple[float, float, int, int]:
    """Leave out the most deviating extreme, again and again; return the sums of d and q, and which extremes are kept.

    Each is compared with the mean of all others. At most half of the measurements are left out: beyond that it is not known
    which ones are right, and chi-square tells.
    """
    present = min(measured, 3)
    for index in range(present):
        signal += sample[index] * weight[index]
        total += weight[index]
    first, last, kept = 0, present - 1, measured
    while first <= last and kept > 1 and 2 * (measured - kept + 1) <= measured:
        worst, worst_square = -1, threshold * threshold
        for end in range(2):
            index = first if end == 0 else last
            others = total - weight[index]
            own, rest = 1 / weight[index], 1 / others
            mean = (signal - sample[index] * weight[index]) * rest
            spread = photon_variance * max(mean, 0.0) * (own + rest) + noise_variance * (own * own + (kept - 1) * rest * rest)
            square = (sample[index] - mean) ** 2
            if square > worst_square * spread:
                worst, worst_square = index, square / spread
        if worst < 0:
            break
        signal -= sample[worst] * weight[worst]
        total -= weight[worst]
        kept -= 1
        if worst == first:
            first += 1
        else:
            last -= 1
    return signal, total, first, last


@njit(cache=True, nogil=True)
def _added_squares(
    signal: float,
    light: float,
    sample: NDArray[np.float64],
    weight: NDArray[np.float64],
    first: int,
    last: int,
) -> float:
    """Return by what the kept extremes increase the weighted sum of squares of what lies between."""
    centre = signal / light if light > 0 else sample[first]
    total, moment, squares = light, 0.0, 0.0
    for index in range(first, last + 1):
        deviation = sample[index] - centre
        total += weight[index]
        moment += weight[index] * deviation
        squares += weight[index] * deviation * deviation
    return squares - moment * moment / total if total > 0 else 0.0
