"""What is done with one row of a segment, compiled: level and noise of the overscan, counts to signal.

Everything that reduces exposures calls these, whole exposures and stacks alike, so that a pixel has the same bits wherever it was
reduced. Loops are written so that the compiler makes vectors of them; sums of counts are exact in any order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from permil.camera import Amplifier
from permil.camera.frames import segment_to_detector
from permil.isr.linearity import LinearityCurve, evaluate_piece
from permil.products.masks import MaskPlane

Counts = NDArray[np.int32]
FloatArray = NDArray[np.float64]

_LOWEST, _HIGHEST = -(2**31), 2**31 - 1
_BELOW = 1 - 1e-6
_SAT = int(MaskPlane.SAT)
_SUSPECT = int(MaskPlane.SUSPECT)


class Response(NamedTuple):
    """How the counts of an amplifier become electrons.

    ``knots``, ``coefficients``, ``limit``: see `LinearityCurve`; ``straight``: whether that changes nothing; ``gain``: electrons per
    adu; ``saturation``: electrons from which a pixel is saturated.
    """

    knots: FloatArray
    coefficients: FloatArray
    limit: float
    straight: bool
    gain: float
    saturation: float

    @classmethod
    def of(cls, curve: LinearityCurve, gain: float, saturation: float) -> Response:
        """Return the response with a linearity curve."""
        straight = curve.knots.tolist() == [0.0] and curve.coefficients.tolist() == [[0.0, 1.0, 0.0, 0.0]]
        return cls(curve.knots, curve.coefficients, float(curve.limit), straight, float(gain), float(saturation))


class Placement(NamedTuple):
    """Where the active pixels of a segment lie in the DM frame: row r in image row ``y_first + y_step * r``."""

    x_min: int
    n_columns: int
    flip_x: bool
    y_first: int
    y_step: int

    @classmethod
    def of(cls, amplifier: Amplifier) -> Placement:
        """Return the place of an amplifier."""
        x, y = segment_to_detector(amplifier, np.array([0, amplifier.nx - 1]), np.array([0, amplifier.ny - 1]))
        return cls(int(x.min()), amplifier.nx, bool(x[0] > x[1]), int(y[0]), 1 if y[1] > y[0] else -1)


@njit(cache=True, nogil=True)
def _up_to(counts: Counts, limit: int) -> int:
    """Return how many counts do not exceed a limit."""
    bound = np.int32(min(max(limit, _LOWEST), _HIGHEST))
    number = np.int32(0)
    for index in range(counts.size):
        number += np.int32(counts[index] <= bound)
    return int(number)


@njit(cache=True, nogil=True)
def _ranked(counts: Counts, rank: int, guess: int) -> int:
    """Return the count of a rank (from 1): steps that double lead from the guess to a range that holds it, which is then halved."""
    low = high = guess
    step = 1
    if _up_to(counts, guess) >= rank:
        low -= step
        while low >= _LOWEST and _up_to(counts, low) >= rank:
            step *= 2
            high, low = low, low - step
        low = max(low, _LOWEST - 1)
    else:
        high += step
        while _up_to(counts, high) < rank:
            step *= 2
            low, high = high, high + step
    # More than low and not more than high.
    while high - low > 1:
        middle = (low + high) >> 1
        if _up_to(counts, middle) >= rank:
            high = middle
        else:
            low = middle
    return high


@njit(cache=True, nogil=True)
def median_of_counts(counts: Counts, guess: float) -> float:
    """Return the median of whole counts; the nearer the guess, the sooner."""
    half = counts.size // 2
    if counts.size % 2:
        return np.float64(_ranked(counts, half + 1, int(guess)))
    lower = _ranked(counts, half, int(guess))
    upper = lower
    if _up_to(counts, lower) == half:
        upper = _HIGHEST
        for index in range(counts.size):
            if counts[index] > lower:
                upper = min(upper, counts[index])
    return (np.float64(lower) + np.float64(upper)) / 2


@njit(cache=True, nogil=True)
def median_deviation(counts: Counts, centre: float) -> float:
    """Return the median absolute deviation of counts from a centre, a multiple of a half."""
    # Twice the deviations are whole numbers.
    doubled, twice = np.empty_like(counts), int(2 * centre)
    for index in range(counts.size):
        doubled[index] = min(abs(2 * int(counts[index]) - twice), _HIGHEST)
    return median_of_counts(doubled, 0.0) / 2


@njit(cache=True, nogil=True, fastmath={"reassoc"})
def clipped_sums(counts: Counts, centre: float, limit: float) -> tuple[int, float, float]:
    """Return how many counts are within a limit of a centre (a multiple of a half), and the sums of their deviations and squares."""
    kept, total, squares = 0, 0.0, 0.0
    for index in range(counts.size):
        deviation = counts[index] - centre
        inside = 1.0 if abs(deviation) <= limit else 0.0
        kept += int(inside)
        total += inside * deviation
        squares += inside * (deviation * deviation)
    return kept, total, squares


@njit(cache=True, nogil=True)
def to_measured(counts: Counts, level: float, bias: NDArray[np.float32], measured: NDArray[np.float32]) -> None:
    """Put counts over the level and the superbias (no subtraction where it is empty) into ``measured``, adu."""
    for column in range(measured.size):
        measured[column] = counts[column] - level
    if bias.size:
        for column in range(measured.size):
            measured[column] -= bias[column]


@njit(cache=True, nogil=True)
def any_saturated(counts: Counts, saturation_adu: float) -> bool:
    """Return whether any count is saturated."""
    if not saturation_adu <= _HIGHEST:
        return False
    least, above = np.int32(max(np.ceil(saturation_adu), _LOWEST)), np.int32(0)
    for column in range(counts.size):
        above += np.int32(counts[column] >= least)
    return bool(above > 0)


@njit(cache=True, nogil=True)
def flag_saturated(counts: Counts, saturation_adu: float, planes: NDArray[np.int16]) -> None:
    """Flag saturated counts."""
    for column in range(counts.size):
        if counts[column] >= saturation_adu:
            planes[column] |= _SAT


@njit(cache=True, nogil=True)
def to_electrons(measured: NDArray[np.float32], response: Response, signal: NDArray[np.float32]) -> bool:
    """Apply linearity and gain; return whether any pixel may have to be flagged (by `flag_response`) or is NaN."""
    coefficients, gain = response.coefficients, response.gain
    within = True
    if response.straight:
        # In single precision, twice as fast: a factor loses nothing by it. The bound is a little low, so that rounding hides nothing.
        factor, bound = np.float32(gain), np.float32(_BELOW * min(response.saturation / gain, response.limit))
        for column in range(measured.size):
            signal[column] = factor * measured[column]
        below_bound = np.int32(0)
        for column in range(measured.size):
            below_bound += np.int32(measured[column] < bound)
        within = bool(below_bound == measured.size)
    elif response.knots.size == 1:
        knot = np.float64(response.knots[0])
        c0, c1, c2, c3 = coefficients[0]
        for column in range(measured.size):
            step = np.float64(measured[column]) - knot
            below, above = c0 + c1 * step, c0 + step * (c1 + step * (c2 + step * c3))
            electrons = gain * (below if step < 0 else above)
            within &= (electrons < response.saturation) & (measured[column] <= response.limit)
            signal[column] = electrons
    else:
        for column in range(measured.size):
            electrons = np.float64(gain * evaluate_piece(response.knots, coefficients, measured[column]))
            within &= (electrons < response.saturation) & (measured[column] <= response.limit)
            signal[column] = electrons
    return not within


@njit(cache=True, nogil=True)
def flag_response(measured: NDArray[np.float32], response: Response, planes: NDArray[np.int16]) -> None:
    """Flag what is saturated or beyond the linearity curve."""
    for column in range(measured.size):
        if response.gain * evaluate_piece(response.knots, response.coefficients, measured[column]) >= response.saturation:
            planes[column] |= _SAT
        if measured[column] > response.limit:
            planes[column] |= _SUSPECT


@njit(cache=True, nogil=True)
def copy_row(row: NDArray, copy: NDArray) -> None:
    """Copy a row (an assignment of slices makes no vectors)."""
    for column in range(row.size):
        copy[column] = row[column]


@njit(cache=True, nogil=True)
def copy_flipped(row: NDArray, flipped: NDArray) -> None:
    """Copy a row so that it runs the other way."""
    # Indices that may be negative would make no vector instructions.
    last = np.uint64(row.size - 1)
    for column in range(row.size):
        flipped[column] = row[last - np.uint64(column)]


@njit(cache=True, nogil=True, fastmath={"contract"})
def subtract_crosstalk_row(
    measured: NDArray[np.float32], factors: NDArray[np.float32], total: NDArray[np.float32], corrected: NDArray[np.float32]
) -> None:
    """Correct one raw row of all segments for their crosstalk.

    Parameters
    ----------
    measured, corrected
        adu, shape (n_segments, n_columns).
    factors
        Correction [victim, source].
    total
        Room for one row.
    """
    for victim in range(measured.shape[0]):
        for column in range(total.size):
            total[column] = 0.0
        for source in range(measured.shape[0]):
            factor = factors[victim, source]
            if factor != 0:
                for column in range(total.size):
                    total[column] += factor * measured[source, column]
        for column in range(total.size):
            corrected[victim, column] = measured[victim, column] - total[column]
