"""A sample of the rows of one file, reduced without any image; compiled."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from permil.borrowed import borrowed
from permil.exposures.coded_rows import CodedRows, decode_row
from permil.isr.group_rows import flag_signal, overscan_of_row, response_of, take_row, to_signal
from permil.isr.lost_rows import clear_lost, flag_lost, lost_columns
from permil.isr.rows import copy_row, median_deviation, median_of_counts, subtract_crosstalk_row, to_measured
from permil.isr.segment_group import SegmentGroup
from permil.products.masks import NOT_GOOD, UNUSABLE

FloatArray = NDArray[np.float64]

_NOT_GOOD, _UNUSABLE = int(NOT_GOOD), int(UNUSABLE)


class Steps(NamedTuple):
    """Which pixels are looked at: every how many rows the light, columns for it, and rows the overscan."""

    light_rows: int
    light_columns: int
    overscan_rows: int


class RowSamples(NamedTuple):
    """What is found, by segment.

    ``overscans``: counts of the overscan in a sample of rows, shape (n_segments, n_rows, n_overscan), of which the first ``n_overscans``
    are filled; ``lowest``, ``highest``: counts; ``light``: signal of good pixels, shape (n_segments, n), of which the first ``n_light``
    are filled; ``n_usable``: pixels of the same sample with a measurement, good or not; ``lost``: whether pixels of a row hold no
    measurement, shape (n_segments, n_rows).
    """

    overscans: NDArray[np.int32]
    n_overscans: NDArray[np.int64]
    lowest: NDArray[np.int32]
    highest: NDArray[np.int32]
    light: NDArray[np.float32]
    n_light: NDArray[np.int64]
    n_usable: NDArray[np.int64]
    lost: NDArray[np.bool_]

    @classmethod
    def empty(cls, group: SegmentGroup, n_rows: int, steps: Steps) -> RowSamples:
        """Return room for segments of so many rows."""
        n_segments = group.x_min.size
        n_light = -(-n_rows // steps.light_rows) * -(-group.n_columns // steps.light_columns)
        shape = n_segments, -(-n_rows // steps.overscan_rows), group.last_overscan - group.first_overscan
        extreme = np.iinfo(np.int32)
        return cls(
            overscans=np.zeros(shape, dtype=np.int32),
            n_overscans=np.zeros(n_segments, dtype=np.int64),
            lowest=np.full(n_segments, extreme.max, dtype=np.int32),
            highest=np.full(n_segments, extreme.min, dtype=np.int32),
            light=np.empty((n_segments, n_light), dtype=np.float32),
            n_light=np.zeros(n_segments, dtype=np.int64),
            n_usable=np.zeros(n_segments, dtype=np.int64),
            lost=np.zeros((n_segments, n_rows), dtype=np.bool_),
        )


@njit(cache=True, nogil=True)
def probe_rows(
    coded: CodedRows,
    rows: NDArray[np.int64],
    group: SegmentGroup,
    gain: FloatArray,
    steps: Steps,
    samples: RowSamples,
) -> int:  # pragma: no cover - compiled
    """Look at some rows of one file.

    Parameters
    ----------
    coded, rows
        The rows as read, and which raw rows they are: multiples of ``light_rows`` or ``overscan_rows``.
    group, gain
        Calibration, and electrons per adu by segment.
    steps
        What is sampled.
    samples
        Filled.

    Returns
    -------
    int
        First segment with a row that does not decode, -1 if there is none.
    """
    coded, group, samples = borrowed((coded, group, samples))
    n_segments, file = group.x_min.size, coded.starts.shape[0] - 1
    counts = np.empty((n_segments, group.width), dtype=np.int32)
    bias = np.empty(group.n_columns if group.bias.size else 0, dtype=np.float32)
    planes = np.empty((n_segments, group.n_columns), dtype=np.int16)
    measured = np.empty((n_segments, group.n_columns), dtype=np.float32)
    corrected, total = np.empty_like(measured), np.empty(group.n_columns, dtype=np.float32)
    signal = np.empty(group.n_columns, dtype=np.float32)
    guess, lost = np.zeros(n_segments), np.zeros((n_segments, 2), dtype=np.int64)
    first, last = group.first_column, group.first_column + group.n_columns
    for index in range(rows.size):
        row = rows[index]
        for segment in range(n_segments):
            if not decode_row(coded, file, segment, index, counts[segment]):
                return segment
            _extend_range(counts[segment], segment, samples)
            lost[segment, 0], lost[segment, 1], _, _ = lost_columns(counts[segment], first, last, group.saturation_adu)
            n_lost = lost[segment, 1] - lost[segment, 0]
            samples.lost[segment, row] = n_lost > 0
            if row % steps.overscan_rows == 0 and n_lost < group.n_columns:
                overscan = counts[segment, group.first_overscan : group.last_overscan]
                copy_row(overscan, samples.overscans[segment, samples.n_overscans[segment]])
                samples.n_overscans[segment] += 1
        if row % steps.light_rows != 0:
            continue
        for segment in range(n_segments):
            # Light and all the more its median do not need the mean that some methods take.
            guess[segment] = median_of_counts(counts[segment, group.first_overscan : group.last_overscan], guess[segment])
            take_row(group, segment, row, bias, planes[segment])
            to_measured(counts[segment, first:last], guess[segment], bias, measured[segment])
            clear_lost(measured[segment], lost[segment])
            flag_lost(planes[segment], lost[segment])
        if group.factors.size:
            subtract_crosstalk_row(measured, group.factors, total, corrected)
            measured, corrected = corrected, measured
        for segment in range(n_segments):
            response, own = response_of(group, segment, gain[segment]), counts[segment, first:last]
            if to_signal(own, measured[segment], response, group.saturation_adu, signal):
                flag_signal(own, measured[segment], response, group.saturation_adu, planes[segment])
            _take_light(signal, planes[segment], segment, steps.light_columns, samples)
    return -1


@njit(cache=True, nogil=True)
def _extend_range(counts: NDArray[np.int32], segment: int, samples: RowSamples) -> None:
    """Let lowest and highest count of a segment cover a row."""
    lowest, highest = samples.lowest[segment], samples.highest[segment]
    for column in range(counts.size):
        lowest = min(lowest, counts[column])
    for column in range(counts.size):
        highest = max(highest, counts[column])
    samples.lowest[segment], samples.highest[segment] = lowest, highest


@njit(cache=True, nogil=True)
def _take_light(
    signal: NDArray[np.float32],
    planes: NDArray[np.int16],
    segment: int,
    step: int,
    samples: RowSamples,
) -> None:
    """Take good pixels of a row."""
    light, n_light = samples.light[segment], samples.n_light[segment]
    for column in range(0, signal.size, step):
        if planes[column] & _NOT_GOOD == 0:
            light[n_light] = signal[column]
            n_light += 1
        samples.n_usable[segment] += np.int64(planes[column] & _UNUSABLE == 0)
    samples.n_light[segment] = n_light


@njit(cache=True, nogil=True)
def overscan_deviations(counts: NDArray[np.int32]) -> FloatArray:
    """Return the median absolute deviation of each row of an overscan from its median."""
    deviations, median = np.empty(counts.shape[0]), 0.0
    for row in range(counts.shape[0]):
        median = median_of_counts(counts[row], median)
        deviations[row] = median_deviation(counts[row], median)
    return deviations


@njit(cache=True, nogil=True)
def overscan_variance(counts: NDArray[np.int32], clip: float) -> float:
    """Return the variance within the rows of an overscan; counts that deviate from the median by more than ``clip`` are left out."""
    squares, freedom, level = 0.0, 0, 0.0
    for row in range(counts.shape[0]):
        found = overscan_of_row(counts[row], level, clip, False)
        level = found.level
        squares += found.squares
        freedom += found.freedom
    return squares / freedom if freedom > 0 else 0.0
