"""Rows of many files reduced and added to a stack, compiled: each row of a segment goes through all files before the next one.

So the sums of a row stay in the fastest cache while the files pass by, and no reduced exposure is ever in memory as a whole.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from permil.exposures.coded_rows import CodedRows, decode_row
from permil.isr.accumulate import Sums, add_row, empty_falling, row_of
from permil.isr.rows import (
    Response,
    any_saturated,
    clipped_sums,
    copy_flipped,
    copy_row,
    flag_response,
    flag_saturated,
    median_deviation,
    median_of_counts,
    subtract_crosstalk_row,
    to_electrons,
    to_measured,
)
from permil.isr.segment_group import SegmentGroup
from permil.products.masks import NOT_GOOD, MaskPlane

FloatArray = NDArray[np.float64]

_NOT_GOOD = int(NOT_GOOD)
_SAT = int(MaskPlane.SAT)
_NO_DATA = int(MaskPlane.NO_DATA)


class FrameRows(NamedTuple):
    """What differs from file to file; shapes (n_files, n_segments) but for ``light`` (n_files,) and ``level`` (.., n_rows).

    ``light``: relative light q; ``gain``: electrons per adu; ``dead``: channels without data; ``level``: of the overscan, adu;
    ``clip``: deviation from which a count of the overscan is an outlier; ``squares``, ``freedom``: sums over the overscan that give the
    read noise.
    """

    light: NDArray[np.float32]
    gain: FloatArray
    dead: NDArray[np.bool_]
    level: FloatArray
    clip: FloatArray
    squares: FloatArray
    freedom: NDArray[np.int64]


class Spread(NamedTuple):
    """Pixels beside saturated ones: for file f, segment s and the i-th row those from ``start[k]`` to ``stop[k] - 1``.

    k runs from ``first[f, s, i]`` to ``first[f, s, i + 1] - 1`` (``first`` has no elements where nothing is saturated); columns are raw.
    """

    first: NDArray[np.int64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]

    @classmethod
    def nothing(cls) -> Spread:
        """Return the spread where nothing is saturated."""
        none = np.empty(0, dtype=np.int64)
        return cls(np.empty((0, 0, 0), dtype=np.int64), none, none)


@njit(cache=True, nogil=True)
def _response(group: SegmentGroup, segment: int, gain: float) -> Response:
    count = group.n_knots[segment]
    return Response(
        group.knots[segment, :count],
        group.coefficients[segment, :count],
        group.limit[segment],
        group.straight[segment],
        gain,
        group.saturation[segment],
    )


@njit(cache=True, nogil=True)
def _take_row(group: SegmentGroup, segment: int, row: int, bias: NDArray[np.float32], planes: NDArray[np.int16]) -> None:
    """Take superbias (where there is one) and static mask of a raw row, in the order of readout."""
    y = group.y_first[segment] + group.y_step[segment] * row
    first, last = group.x_min[segment], group.x_min[segment] + group.n_columns
    if group.flip_x[segment]:
        copy_flipped(group.static_mask[y, first:last], planes)
        if bias.size:
            copy_flipped(group.bias[y, first:last], bias)
    else:
        copy_row(group.static_mask[y, first:last], planes)
        if bias.size:
            copy_row(group.bias[y, first:last], bias)


@njit(cache=True, nogil=True)
def _measure_overscan(counts: NDArray[np.int32], frames: FrameRows, file: int, segment: int, row: int) -> None:
    """Take the level of a row, and add to the sums that give the read noise."""
    level = frames.level[file, segment]
    level[row] = median_of_counts(counts, level[max(row - 1, 0)])
    kept, total, squares = clipped_sums(counts, level[row], frames.clip[file, segment])
    if kept > 0:
        frames.squares[file, segment] += squares - total * total / kept
        frames.freedom[file, segment] += kept - 1


@njit(cache=True, nogil=True)
def _to_signal(
    counts: NDArray[np.int32],
    measured: NDArray[np.float32],
    response: Response,
    saturation_adu: float,
    signal: NDArray[np.float32],
    planes: NDArray[np.int16],
) -> bool:
    """Turn adu into electrons and flag pixels; return whether any was flagged."""
    found = any_saturated(counts, saturation_adu)
    if found:
        flag_saturated(counts, saturation_adu, planes)
    if to_electrons(measured, response, signal):
        flag_response(measured, response, planes)
        found = True
    return found


@njit(cache=True, nogil=True)
def _flag_more(planes: NDArray[np.int16], dead: bool, spread: Spread, file: int, segment: int, index: int) -> None:
    """Flag a row of a dead channel, and pixels beside saturated ones."""
    if dead:
        for column in range(planes.size):
            planes[column] |= _NO_DATA
    if spread.first.size:
        for entry in range(spread.first[file, segment, index], spread.first[file, segment, index + 1]):
            for column in range(spread.start[entry], spread.stop[entry]):
                planes[column] |= _SAT


@njit(cache=True, nogil=True)
def _add_runs(
    planes: NDArray[np.int16], file: int, segment: int, row: int, runs: NDArray[np.int32], n_runs: int
) -> tuple[NDArray[np.int32], int]:
    """Append the runs of saturated pixels of a row, making room where there is none."""
    column = 0
    while column < planes.size:
        if planes[column] & _SAT == 0:
            column += 1
            continue
        start = column
        while column < planes.size and planes[column] & _SAT:
            column += 1
        if n_runs == runs.shape[0]:
            longer = np.empty((2 * n_runs + 64, runs.shape[1]), dtype=np.int32)
            longer[:n_runs] = runs
            runs = longer
        runs[n_runs, 0], runs[n_runs, 1], runs[n_runs, 2] = file, segment, row
        runs[n_runs, 3], runs[n_runs, 4] = start, column
        n_runs += 1
    return runs, n_runs


@njit(cache=True, nogil=True)
def add_rows(
    coded: CodedRows,
    first_row: int,
    rows: NDArray[np.int64],
    group: SegmentGroup,
    frames: FrameRows,
    measure: bool,
    extremes: bool,
    spread: Spread,
    sums: Sums,
    first_sum: int,
) -> tuple[int, NDArray[np.int32]]:  # pragma: no cover - compiled
    """Add rows of all files to the sums.

    Parameters
    ----------
    coded, first_row
        The rows as read, and which raw row is the first of them.
    rows
        Raw rows to add, rising.
    group, frames
        Calibration and what is known of the files; ``level``, ``squares`` and ``freedom`` are filled.
    measure
        Whether levels and read noise are measured (level: median of the row) or known.
    extremes
        Whether the extremes of each pixel are kept by themselves.
    spread
        Pixels beside saturated ones, by file, segment and place in ``rows``.
    sums, first_sum
        Sums of shape (n_segments, n_rows, n_columns), in the order of readout, and the place of the first row in them.

    Returns
    -------
    damaged : int
        First file with a row that does not decode, -1 if there is none.
    runs : ndarray, shape (n, 5)
        Saturated pixels: file, segment, row, first column, column behind the last.
    """
    n_files, n_segments = frames.gain.shape
    counts = np.empty((n_segments, group.width), dtype=np.int32)
    bias = np.empty((n_segments, group.n_columns if group.bias.size else 0), dtype=np.float32)
    static = np.empty((n_segments, group.n_columns), dtype=np.int16)
    measured = np.empty((n_segments, group.n_columns), dtype=np.float32)
    corrected, total = np.empty_like(measured), np.empty(group.n_columns, dtype=np.float32)
    signal, planes = np.empty(group.n_columns, dtype=np.float32), np.empty(group.n_columns, dtype=np.int16)
    falling = empty_falling(group.n_columns)
    runs, n_runs = np.empty((64, 5), dtype=np.int32), 0
    first, last = group.first_column, group.first_column + group.n_columns
    for index in range(rows.size):
        row = rows[index]
        for segment in range(n_segments):
            _take_row(group, segment, row, bias[segment], static[segment])
        place = row_of(_segment_sums(sums, 0), first_sum + index, 0, group.n_columns)
        for file in range(n_files):
            for segment in range(n_segments):
                if not decode_row(coded, file, segment, row - first_row, counts[segment]):
                    return file, runs[:n_runs]
                if measure:
                    _measure_overscan(counts[segment, group.first_overscan : group.last_overscan], frames, file, segment, row)
                to_measured(counts[segment, first:last], frames.level[file, segment, row], bias[segment], measured[segment])
            if group.factors.size:
                subtract_crosstalk_row(measured, group.factors, total, corrected)
                measured, corrected = corrected, measured
            for segment in range(n_segments):
                copy_row(static[segment], planes)
                response = _response(group, segment, frames.gain[file, segment])
                if _to_signal(counts[segment, first:last], measured[segment], response, group.saturation_adu, signal, planes):
                    runs, n_runs = _add_runs(planes, file, segment, row, runs, n_runs)
                _flag_more(planes, frames.dead[file, segment], spread, file, segment, index)
                if n_segments > 1:
                    place = row_of(_segment_sums(sums, segment), first_sum + index, 0, group.n_columns)
                add_row(place, signal, planes, frames.light[file], extremes, falling)
    return -1, runs[:n_runs]


@njit(cache=True, nogil=True)
def _segment_sums(sums: Sums, segment: int) -> Sums:
    return Sums(
        sums.signal[segment],
        sums.light[segment],
        sums.squares[segment],
        sums.high[segment],
        sums.second[segment],
        sums.low[segment],
        sums.high_light[segment],
        sums.second_light[segment],
        sums.low_light[segment],
        sums.measured[segment],
        sums.planes[segment],
    )


@njit(cache=True, nogil=True)
def probe_rows(
    coded: CodedRows,
    rows: NDArray[np.int64],
    group: SegmentGroup,
    gain: float,
    row_step: int,
    column_step: int,
    deviation_step: int,
    deviations: FloatArray,
    sample: NDArray[np.float32],
) -> tuple[bool, bool, int]:  # pragma: no cover - compiled
    """Look at some rows of one segment of one file.

    Parameters
    ----------
    coded
        All active rows.
    rows
        Raw rows to look at: those whose image row is a multiple of ``row_step``, and the multiples of ``deviation_step``.
    gain
        Electrons per adu.
    row_step, column_step
        Of the pixels of the image that are sampled.
    deviation_step, deviations
        Median absolute deviation of the overscan in every such row.
    sample
        Filled with the signal of good pixels.

    Returns
    -------
    decoded, constant : bool
        Whether all rows decode, and whether all counts are the same.
    n_sampled : int
        Pixels in the sample.
    """
    counts = np.empty(group.width, dtype=np.int32)
    bias = np.empty(group.n_columns if group.bias.size else 0, dtype=np.float32)
    planes = np.empty(group.n_columns, dtype=np.int16)
    measured, signal = np.empty(group.n_columns, dtype=np.float32), np.empty(group.n_columns, dtype=np.float32)
    response = _response(group, 0, gain)
    first, last = group.first_column, group.first_column + group.n_columns
    lowest, highest, level, n_sampled = np.int32(2147483647), np.int32(-2147483648), 0.0, 0
    for row in rows:
        if not decode_row(coded, 0, 0, row, counts):
            return False, False, n_sampled
        for column in range(counts.size):
            lowest, highest = min(lowest, counts[column]), max(highest, counts[column])
        overscan = counts[group.first_overscan : group.last_overscan]
        level = median_of_counts(overscan, level)
        if row % deviation_step == 0:
            deviations[row // deviation_step] = median_deviation(overscan, level)
        if (group.y_first[0] + group.y_step[0] * row) % row_step:
            continue
        _take_row(group, 0, row, bias, planes)
        to_measured(counts[first:last], level, bias, measured)
        _to_signal(counts[first:last], measured, response, group.saturation_adu, signal, planes)
        for column in range(planes.size):
            x = group.x_min[0] + (planes.size - 1 - column if group.flip_x[0] else column)
            if x % column_step == 0 and planes[column] & _NOT_GOOD == 0:
                sample[n_sampled] = signal[column]
                n_sampled += 1
    return True, lowest == highest, n_sampled
