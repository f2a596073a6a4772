"""Averages of a stack: the test of its extremes against the noise model, pixel by pixel.

With ``q`` the relative light of a frame, ``d`` its signal and ``x = d / q``: the best estimate for Poisson noise is
``sum(d) / sum(q)``, and ``sum(q (x - mean)^2) / (mean + n^2 / q)`` is chi-square, ``n^2`` the variance that does not depend on light.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from permil.isr.accumulate import Sums, row_of
from permil.isr.rows import Placement
from permil.products.masks import MaskPlane

_SAT = int(MaskPlane.SAT)
_NO_DATA = int(MaskPlane.NO_DATA)
_REJECTED = int(MaskPlane.REJECTED)
_SUSPECT = int(MaskPlane.SUSPECT)


class Averages(NamedTuple):
    """Results per pixel: mean, its variance, mask, and how many frames were kept and rejected."""

    image: NDArray[np.float32]
    variance: NDArray[np.float32]
    mask: NDArray[np.int32]
    kept: NDArray[np.uint16]
    rejected: NDArray[np.uint8]


class RowFit(NamedTuple):
    """Per row of an amplifier: chi-square of the frames about their mean, and its degrees of freedom, over unflagged pixels."""

    chi_square: NDArray[np.float64]
    freedom: NDArray[np.int64]

    @classmethod
    def empty(cls, n_rows: int) -> RowFit:
        """Return the fit of no pixel."""
        return cls(np.zeros(n_rows), np.zeros(n_rows, dtype=np.int64))

    @property
    def reduced(self) -> float:
        """Reduced chi-square; NaN when there is none."""
        freedom = int(self.freedom.sum())
        return float(self.chi_square.sum() / freedom) if freedom else float("nan")


def empty_averages(shape: tuple[int, int]) -> Averages:
    """Return averages that are still to be filled."""
    return Averages(
        image=np.empty(shape, dtype=np.float32),
        variance=np.empty(shape, dtype=np.float32),
        mask=np.empty(shape, dtype=np.int32),
        kept=np.empty(shape, dtype=np.uint16),
        rejected=np.empty(shape, dtype=np.uint8),
    )


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


@njit(cache=True, nogil=True, error_model="numpy")
def average(
    sums: Sums, first_column: int, rows: NDArray[np.int64], test: NoiseTest, place: Placement, out: Averages, fit: RowFit
) -> None:
    """Test the extremes of each pixel of an amplifier and average what is kept.

    Parameters
    ----------
    sums, first_column
        Rows of sums, and where those of the amplifier begin in them.
    rows
        Which rows of the amplifier they are.
    test
        Noise model and threshold.
    place
        Where rows and columns lie in the result.
    out
        Result, shape of the detector.
    fit
        Filled, by row of the amplifier.
    """
    n_columns = place.n_columns
    limits = _chi_square_limits(test.n_frames, test.threshold)
    mean, variance, reduced = np.empty(n_columns), np.empty(n_columns), np.empty(n_columns)
    plain = np.empty(n_columns, dtype=np.bool_)
    for index in range(rows.size):
        row = row_of(sums, index, first_column, first_column + n_columns)
        if np.isfinite(test.threshold):
            _average_plain(row, test, mean, variance, reduced, plain)
        else:
            _average_all(row, test, mean, variance, reduced, plain)
        y = place.y_first + place.y_step * rows[index]
        chi_square, freedom = 0.0, 0
        for column in range(n_columns):
            x = place.x_min + (n_columns - 1 - column if place.flip_x else column)
            measured = int(row.measured[column])
            mask = _measured_mask(int(row.planes[column]), measured, test.n_frames)
            kept = measured
            if not plain[column]:
                kept, mean[column], variance[column], reduced[column] = _average_tested(row, column, measured, test)
                if kept < measured:
                    mask |= _REJECTED
            if kept > 1 and reduced[column] >= 0:
                if reduced[column] > limits[kept]:
                    mask |= _SUSPECT
                if mask & ~_REJECTED == 0:
                    chi_square += reduced[column] * (kept - 1)
                    freedom += kept - 1
            out.image[y, x] = mean[column] * test.mean_light
            out.variance[y, x] = variance[column]
            out.mask[y, x] = mask
            out.kept[y, x] = kept
            out.rejected[y, x] = measured - kept
        fit.chi_square[rows[index]] = chi_square
        fit.freedom[rows[index]] = freedom


@njit(cache=True, nogil=True, error_model="numpy")
def _average_plain(
    row: Sums,
    test: NoiseTest,
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
    reduced: NDArray[np.float64],
    plain: NDArray[np.bool_],
) -> None:
    """Average pixels in which no extreme stands out, which are nearly all; ``plain`` says which ones these are.

    This is what `_average_tested` does, for at least four measurements, written so that the compiler makes vectors of it.
    """
    noise, photon, limit = test.noise_variance, test.photon_variance, test.threshold * test.threshold
    inner_signal, inner_light, measured = row.signal, row.light, row.measured
    high, second, low = row.high, row.second, row.low
    high_light, second_light, low_light = row.high_light, row.second_light, row.low_light
    # First the sums of all measurements, in the place of mean and variance.
    signal, total = mean, variance
    for column in range(mean.size):
        signal[column] = (
            inner_signal[column]
            + np.float64(high[column]) * np.float64(high_light[column])
            + np.float64(second[column]) * np.float64(second_light[column])
            + np.float64(low[column]) * np.float64(low_light[column])
        )
    for column in range(mean.size):
        total[column] = np.float64(inner_light[column]) + high_light[column] + second_light[column] + low_light[column]
    for column in range(mean.size):
        plain[column] = measured[column] > 3
    for extreme, extreme_light in ((high, high_light), (low, low_light)):
        for column in range(mean.size):
            sample, weight = np.float64(extreme[column]), np.float64(extreme_light[column])
            own, rest = 1 / weight, 1 / (total[column] - weight)
            others = (signal[column] - sample * weight) * rest
            photons = photon * (max(0.0, others))
            spread = photons * (own + rest) + noise * (own * own + (np.float64(measured[column]) - 1) * rest * rest)
            plain[column] &= (sample - others) * (sample - others) <= limit * spread
    for column in range(mean.size):
        light = np.float64(inner_light[column])
        centre = inner_signal[column] / light
        above, next_above, below = high[column] - centre, second[column] - centre, low[column] - centre
        above_light, next_light = np.float64(high_light[column]), np.float64(second_light[column])
        below_light = np.float64(low_light[column])
        moment = above_light * above + next_light * next_above + below_light * below
        squares = above_light * above * above + next_light * next_above * next_above + below_light * below * below
        reduced[column] = squares - moment * moment / (light + above_light + next_light + below_light)
    for column in range(mean.size):
        kept, average_signal = np.float64(measured[column]), signal[column] / total[column]
        expected = photon * (max(0.0, average_signal)) + noise * kept / total[column]
        reduced[column] = (np.float64(row.squares[column]) + reduced[column]) / expected / (kept - 1)
    for column in range(mean.size):
        # A row of zero noise is left to the other way.
        plain[column] &= (reduced[column] >= 0.0) & (reduced[column] < np.inf)
    for column in range(mean.size):
        kept, average_signal = np.float64(measured[column]), signal[column] / total[column]
        photons, ratio = photon * (max(0.0, average_signal)), test.mean_light / total[column]
        spread = ratio * ratio * (photons * total[column] + kept * noise)
        mean[column] = average_signal
        variance[column] = spread


@njit(cache=True, nogil=True, error_model="numpy")
def _average_all(
    row: Sums,
    test: NoiseTest,
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
    reduced: NDArray[np.float64],
    plain: NDArray[np.bool_],
) -> None:
    """Average all measurements; arguments as of `_average_plain`."""
    for column in range(mean.size):
        kept, total = np.float64(row.measured[column]), np.float64(row.light[column])
        average_signal = row.signal[column] / total
        photons = test.photon_variance * (max(0.0, average_signal))
        expected = photons + test.noise_variance * kept / total
        reduced[column] = np.float64(row.squares[column]) / expected / (kept - 1)
        mean[column] = average_signal
        ratio = test.mean_light / total
        variance[column] = ratio * ratio * (photons * total + kept * test.noise_variance)
        plain[column] = (kept > 1.5) & (expected > 0)


@njit(cache=True, nogil=True, error_model="numpy")
def _average_tested(row: Sums, column: int, measured: int, test: NoiseTest) -> tuple[int, float, float, float]:
    """Return how many measurements of a pixel are kept, their mean, its variance and the reduced chi-square (-1 for none)."""
    if measured == 0:
        return 0, np.nan, np.nan, -1.0
    sample = np.array([row.high[column], row.second[column], row.low[column]], dtype=np.float64)
    weight = np.array([row.high_light[column], row.second_light[column], row.low_light[column]], dtype=np.float64)
    present = min(measured, 3) if np.isfinite(test.threshold) else 0
    inner_signal, inner_light = row.signal[column], np.float64(row.light[column])
    noise, photon = test.noise_variance, test.photon_variance
    signal, total, first, last = _reject(
        inner_signal, inner_light, sample, weight, measured, present, noise, test.threshold, photon
    )
    kept = measured - present + last - first + 1
    mean = signal / total
    photons = photon * max(mean, 0.0)
    expected = photons + noise * kept / total
    reduced = -1.0
    if kept > 1 and expected > 0:
        squares = row.squares[column] + _added_squares(inner_signal, inner_light, sample, weight, first, last)
        reduced = max(squares / expected / (kept - 1), 0.0)
    ratio = test.mean_light / total
    return kept, mean, ratio * ratio * (photons * total + kept * noise), reduced


@njit(cache=True, nogil=True, error_model="numpy")
def _chi_square_limits(n_frames: int, threshold: float) -> NDArray[np.float64]:
    """Return the reduced chi-square that n kept frames exceed with the probability of `threshold` sigma, for n to n_frames.

    Wilson & Hilferty (1931): the cube root of chi-square is nearly normal.
    """
    limits = np.full(n_frames + 1, np.inf)
    for kept in range(2, n_frames + 1):
        narrow = 2.0 / (9.0 * (kept - 1))
        limits[kept] = (1.0 - narrow + threshold * np.sqrt(narrow)) ** 3
    return limits


@njit(cache=True, nogil=True, error_model="numpy")
def _measured_mask(planes: int, measured: int, n_frames: int) -> int:
    """Return the mask of the mean: no data, or saturated in part of the frames."""
    if measured == 0:
        return planes | _NO_DATA
    planes &= ~_NO_DATA
    if planes & _SAT and 2 * measured > n_frames:
        # A cosmic ray, or light at the limit where what is left is the faint half of the frames.
        return (planes & ~_SAT) | _SUSPECT
    return planes


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
