"""Rejection of outliers: the extremes of a pixel are tested against the noise model, one after the other."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from permil.isr.accumulate import Sums


class NoiseTest(NamedTuple):
    """What the extremes are tested against.

    ``n_frames``, ``mean_light``: number of frames and mean of their q; ``noise_variance``: variance of a pixel in one frame that does not
    depend on the light; ``threshold``: in sigma of the difference between a measurement and the mean of the others, infinite where no
    extremes are kept; ``photon_variance``: variance that a signal of 1 adds, 1 for electrons and 0 for bias frames.
    """

    n_frames: int
    mean_light: float
    noise_variance: float
    threshold: float
    photon_variance: float


@njit(cache=True, nogil=True)
def with_noise(test: NoiseTest, noise_variance: float) -> NoiseTest:
    """Return the test with another variance that does not depend on the light."""
    return NoiseTest(test.n_frames, test.mean_light, noise_variance, test.threshold, test.photon_variance)


class Tested(NamedTuple):
    """A pixel after the test: measurements that are kept, their sum, that of their q, and the sum of q (x - mean)^2."""

    kept: int
    signal: float
    light: float
    squares: float


class Doubtful(NamedTuple):
    """Pixels whose test has to wait until the noise is known.

    ``places``: number of the amplifier, row and column in the result, shape (n, 3); ``sums``: signal, light, squares, the three extremes,
    their three q, and the number of measurements, shape (n, 10).
    """

    places: NDArray[np.int64]
    sums: NDArray[np.float64]


@njit(cache=True, nogil=True)
def no_doubtful() -> Doubtful:
    """Return room for no pixel."""
    return Doubtful(np.empty((0, 3), dtype=np.int64), np.empty((0, 10), dtype=np.float64))


@njit(cache=True, nogil=True)
def longer(doubtful: Doubtful) -> Doubtful:
    """Return twice the room with the same pixels in it."""
    count = doubtful.places.shape[0]
    places, sums = np.empty((2 * count + 64, 3), dtype=np.int64), np.empty((2 * count + 64, 10), dtype=np.float64)
    # Loops: an assignment of slices takes seconds to compile.
    for entry in range(count):
        for number in range(places.shape[1]):
            places[entry, number] = doubtful.places[entry, number]
        for number in range(sums.shape[1]):
            sums[entry, number] = doubtful.sums[entry, number]
    return Doubtful(places, sums)


@njit(cache=True, nogil=True)
def set_aside(doubtful: Doubtful, entry: int, place: tuple[int, int, int], row: Sums, column: int) -> None:
    """Keep the sums of a pixel."""
    for number in range(3):
        doubtful.places[entry, number] = place[number]
    sums = doubtful.sums[entry]
    sums[0], sums[1], sums[2] = row.signal[column], row.light[column], row.squares[column]
    sums[3], sums[4], sums[5] = row.high[column], row.second[column], row.low[column]
    sums[6], sums[7], sums[8] = row.high_light[column], row.second_light[column], row.low_light[column]
    sums[9] = row.measured[column]


@njit(cache=True, nogil=True, error_model="numpy")
def average_tested(sums: NDArray[np.float64], test: NoiseTest) -> Tested:
    """Return what is kept of a pixel; its sums are those of `Doubtful`."""
    measured = int(sums[9])
    sample, weight, present = sums[3:6], sums[6:9], min(measured, 3)
    signal, light, first, last = _reject(
        sums[0], sums[1], sample, weight, measured, present, test.noise_variance, test.threshold, test.photon_variance
    )
    squares = sums[2] + _added_squares(sums[0], sums[1], sample, weight, first, last)
    return Tested(measured - present + last - first + 1, signal, light, max(squares, 0.0))


@njit(cache=True, nogil=True, error_model="numpy")
def _reject(
    signal: float,
    total: float,
    sample: NDArray[np.float64],
    weight: NDArray[np.float64],
    measured: int,
    present: int,
    noise_variance: float,
    threshold: float,
    photon_variance: float,
) -> tuple[float, float, int, int]:
    """Leave out the most deviating extreme, again and again; return the sums of d and q, and which extremes are kept.

    Each is compared with the mean of all others. At most half of the measurements are left out: beyond that it is not known
    which ones are right, and chi-square tells.
    """
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


@njit(cache=True, nogil=True, error_model="numpy")
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
