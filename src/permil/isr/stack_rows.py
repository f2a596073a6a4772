"""Rows of many files reduced, added and averaged, compiled: each row goes through all files before the next one.

So the sums of a row stay in the nearest cache while the files pass by, and no reduced exposure nor the sums of an image are ever in
memory as a whole.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from permil.exposures.coded_rows import CodedRows, decode_row
from permil.isr.accumulate import add_row, clear_row, empty_falling, empty_rows, row_of
from permil.isr.group_rows import overscan_of_row, response_of, take_row, to_signal
from permil.isr.means import Averages, average_row, empty_means
from permil.isr.rejection import Doubtful, NoiseTest, no_doubtful, with_noise
from permil.isr.rows import Placement, copy_row, subtract_crosstalk_row, to_measured
from permil.isr.segment_group import SegmentGroup
from permil.products.masks import MaskPlane

FloatArray = NDArray[np.float64]

_SAT = int(MaskPlane.SAT)
_NO_DATA = int(MaskPlane.NO_DATA)


class FrameRows(NamedTuple):
    """What differs from file to file; shapes (n_files, n_segments), of ``light`` (n_files,), of the last three (.., n_rows).

    ``light``: relative light q; ``gain``: electrons per adu; ``dead``: channels without data; ``clip``: deviation from which a count of
    the overscan is an outlier; ``level``: of the overscan, adu; ``squares``, ``freedom``: see `RowOverscan`.
    """

    light: NDArray[np.float32]
    gain: FloatArray
    dead: NDArray[np.bool_]
    clip: FloatArray
    level: FloatArray
    squares: FloatArray
    freedom: NDArray[np.int64]


class SumsOfRows(NamedTuple):
    """What `add_rows` returns.

    ``damaged_file``, ``damaged_segment``: the first one with a row that does not decode, -1 if there is none; ``runs``: saturated pixels:
    file, segment, row, first column, column behind the last, shape (n, 5); ``doubtful``: pixels whose test has to wait.
    """

    damaged_file: int
    damaged_segment: int
    runs: NDArray[np.int32]
    doubtful: Doubtful


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
    first_index: int,
    group: SegmentGroup,
    frames: FrameRows,
    measure: bool,
    spread: Spread,
    noise_variance: FloatArray,
    test: NoiseTest,
    out: Averages,
    squares: NDArray[np.float32],
) -> SumsOfRows:  # pragma: no cover - compiled
    """Average rows of all files.

    Parameters
    ----------
    coded, first_row
        The rows as read, and which raw row is the first of them.
    rows, first_index
        Raw rows to add, rising, and the place of the first of them in the arrays of ``frames``.
    group
        Calibration.
    frames
        What is known of the files; ``level``, ``squares`` and ``freedom`` are filled where levels are measured.
    measure
        Whether levels and read noise are measured or known.
    spread
        Pixels beside saturated ones, by file, segment and place in ``rows``.
    noise_variance
        By amplifier, no more than it is: see `average_row`.
    test
        The noise model else.
    out, squares
        Result, see `average_row`.
    """
    n_files, n_segments = frames.gain.shape
    counts = np.empty((n_segments, group.width), dtype=np.int32)
    bias = np.empty((n_segments, group.n_columns if group.bias.size else 0), dtype=np.float32)
    static = np.empty((n_segments, group.n_columns), dtype=np.int16)
    measured = np.empty((n_segments, group.n_columns), dtype=np.float32)
    corrected, total = np.empty_like(measured), np.empty(group.n_columns, dtype=np.float32)
    signal, planes = np.empty(group.n_columns, dtype=np.float32), np.empty(group.n_columns, dtype=np.int16)
    sums, falling, means = empty_rows(n_segments, group.n_columns), empty_falling(group.n_columns), empty_means(group.n_columns)
    runs, n_runs = np.empty((64, 5), dtype=np.int32), 0
    doubtful, n_doubtful = no_doubtful(), 0
    first, last = group.first_column, group.first_column + group.n_columns
    extremes = bool(np.isfinite(test.threshold))
    for index in range(rows.size):
        row = rows[index]
        for segment in range(n_segments):
            take_row(group, segment, row, bias[segment], static[segment])
            clear_row(row_of(sums, segment, 0, group.n_columns))
        for file in range(n_files):
            for segment in range(n_segments):
                if not decode_row(coded, file, segment, row - first_row, counts[segment]):
                    return SumsOfRows(file, segment, runs[:n_runs], _filled(doubtful, n_doubtful))
                level = frames.level[file, segment]
                place = first_index + index
                if measure:
                    overscan = counts[segment, group.first_overscan : group.last_overscan]
                    found = overscan_of_row(overscan, level[max(place - 1, 0)], frames.clip[file, segment], group.row_mean)
                    level[place], frames.squares[file, segment, place] = found.level, found.squares
                    frames.freedom[file, segment, place] = found.freedom
                to_measured(counts[segment, first:last], level[place], bias[segment], measured[segment])
            if group.factors.size:
                subtract_crosstalk_row(measured, group.factors, total, corrected)
                measured, corrected = corrected, measured
            for segment in range(n_segments):
                copy_row(static[segment], planes)
                response = response_of(group, segment, frames.gain[file, segment])
                if to_signal(counts[segment, first:last], measured[segment], response, group.saturation_adu, signal, planes):
                    runs, n_runs = _add_runs(planes, file, segment, row, runs, n_runs)
                _flag_more(planes, frames.dead[file, segment], spread, file, segment, index)
                add_row(row_of(sums, segment, 0, group.n_columns), signal, planes, frames.light[file], extremes, falling)
        for segment in range(n_segments):
            amplifier = group.amplifiers[segment]
            own = with_noise(test, noise_variance[amplifier])
            where = Placement(
                group.x_min[segment], group.n_columns, group.flip_x[segment], group.y_first[segment], group.y_step[segment]
            )
            all_files = row_of(sums, segment, 0, group.n_columns)
            doubtful, n_doubtful = average_row(all_files, row, amplifier, own, where, means, out, squares, doubtful, n_doubtful)
    return SumsOfRows(-1, -1, runs[:n_runs], _filled(doubtful, n_doubtful))


@njit(cache=True, nogil=True)
def _filled(doubtful: Doubtful, n_doubtful: int) -> Doubtful:
    return Doubtful(doubtful.places[:n_doubtful].copy(), doubtful.sums[:n_doubtful].copy())
