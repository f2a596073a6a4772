"""Rows of many files reduced, added and averaged, compiled: each row goes through all files before the next one.

So the sums of a row stay in the nearest cache while the files pass by, and no reduced exposure nor the sums of an image are ever in
memory as a whole.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from permil.borrowed import borrowed
from permil.exposures.coded_rows import CodedRows, decode_row
from permil.isr.accumulate import (
    LEFT_OUT,
    Alike,
    Falling,
    Sums,
    add_even_row,
    add_row,
    clear_row,
    empty_alike,
    empty_falling,
    empty_rows,
    end_alike,
    row_of,
)
from permil.isr.group_rows import flag_signal, overscan_of_row, response_of, take_row, to_signal
from permil.isr.lost_rows import clear_lost, flag_lost, look_for_lost, repeats_counts
from permil.isr.means import Averages, RowMeans, average_row, empty_means
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


class RowRoom(NamedTuple):
    """Room for a raw row of all segments on its way through the files.

    ``counts``: shape (n_segments, width); ``lost``: first column without a measurement and that behind the last; ``bias``, ``static``:
    superbias and mask; ``measured``, ``corrected``: adu, without and with
    crosstalk corrected; ``total``, ``signal``, ``planes``: one row of a segment; ``sums``, ``alike``: by segment; ``falling``, ``means``:
    see there.
    """

    counts: NDArray[np.int32]
    lost: NDArray[np.int64]
    bias: NDArray[np.float32]
    static: NDArray[np.int16]
    measured: NDArray[np.float32]
    corrected: NDArray[np.float32]
    total: NDArray[np.float32]
    signal: NDArray[np.float32]
    planes: NDArray[np.int16]
    sums: Sums
    alike: Alike
    falling: Falling
    means: RowMeans

    @classmethod
    def of(cls, group: SegmentGroup) -> RowRoom:
        """Return room for the segments of a group."""
        n_columns = group.n_columns
        shape = group.x_min.size, n_columns
        return cls(
            counts=np.empty((group.x_min.size, group.width), dtype=np.int32),
            lost=np.zeros((group.x_min.size, 2), dtype=np.int64),
            bias=np.empty((group.x_min.size, n_columns if group.bias.size else 0), dtype=np.float32),
            static=np.empty(shape, dtype=np.int16),
            measured=np.empty(shape, dtype=np.float32),
            corrected=np.empty(shape, dtype=np.float32),
            total=np.empty(n_columns, dtype=np.float32),
            signal=np.empty(n_columns, dtype=np.float32),
            planes=np.empty(n_columns, dtype=np.int16),
            sums=empty_rows(*shape),
            alike=empty_alike(group.x_min.size),
            falling=empty_falling(n_columns),
            means=empty_means(n_columns),
        )


class SumsOfRows(NamedTuple):
    """What `add_rows` returns.

    ``damaged_file``, ``damaged_segment``: the first one with a row that does not decode, -1 if there is none; ``runs``: saturated pixels:
    file, segment, row, first column, column behind the last, shape (n, 5); ``lost``: file, segment, and what `LostRuns` holds, shape
    (n, 7); ``doubtful``: pixels whose test has to wait.
    """

    damaged_file: int
    damaged_segment: int
    runs: NDArray[np.int32]
    lost: NDArray[np.int64]
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
def _begin_row(group: SegmentGroup, row: int, extremes: bool, room: RowRoom) -> None:
    """Take what is known of a row; its sums are those over no frame, with what is flagged in all of them."""
    for segment in range(group.x_min.size):
        static = room.static[segment]
        take_row(group, segment, row, room.bias[segment], static)
        planes = np.int16(0)
        for column in range(static.size):
            planes |= static[column]
        clear_row(row_of(room.sums, segment, 0, group.n_columns))
        copy_row(static, room.sums.planes[segment])
        room.alike.is_so[segment] = (not extremes) & (planes & LEFT_OUT == 0)
        room.alike.light[segment], room.alike.frames[segment] = 0.0, 0


@njit(cache=True, nogil=True)
def _flag_more(
    planes: NDArray[np.int16], dead: bool, lost: NDArray[np.int64], spread: Spread, file: int, segment: int, index: int
) -> None:
    """Flag a row of a dead channel, what holds no measurement, and pixels beside saturated ones."""
    flag_lost(planes, lost)
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
            for entry in range(n_runs):
                copy_row(runs[entry], longer[entry])
            runs = longer
        runs[n_runs, 0], runs[n_runs, 1], runs[n_runs, 2] = file, segment, row
        runs[n_runs, 3], runs[n_runs, 4] = start, column
        n_runs += 1
    return runs, n_runs


@njit(cache=True, nogil=True)
def _end_row(
    group: SegmentGroup,
    row: int,
    noise_variance: FloatArray,
    test: NoiseTest,
    room: RowRoom,
    out: Averages,
    squares: NDArray[np.float32],
    doubtful: Doubtful,
    n_doubtful: int,
) -> tuple[Doubtful, int]:
    """Average the sums of a row over all files; see `add_rows` and `average_row`."""
    for segment in range(group.x_min.size):
        amplifier = group.amplifiers[segment]
        own_test = with_noise(test, noise_variance[amplifier])
        where = Placement(
            group.x_min[segment], group.n_columns, group.flip_x[segment], group.y_first[segment], group.y_step[segment]
        )
        sums = row_of(room.sums, segment, 0, group.n_columns)
        if room.alike.is_so[segment]:
            end_alike(sums, room.alike, segment)
        doubtful, n_doubtful = average_row(sums, row, amplifier, own_test, where, room.means, out, squares, doubtful, n_doubtful)
    return doubtful, n_doubtful


@njit(cache=True, nogil=True)
def add_rows(  # noqa: C901 - one loop, so that a row stays in the cache
    coded: CodedRows,
    rows: NDArray[np.int64],
    first_index: int,
    group: SegmentGroup,
    frames: FrameRows,
    measure: bool,
    spread: Spread,
    noise_variance: FloatArray,
    test: NoiseTest,
    room: RowRoom,
    out: Averages,
    squares: NDArray[np.float32],
) -> SumsOfRows:  # pragma: no cover - compiled
    """Average rows of all files.

    Parameters
    ----------
    coded, rows, first_index
        The rows as read, which raw rows they are, rising, and the place of the first of them in the arrays of ``frames``.
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
    room
        For the segments of the group.
    out, squares
        Result, see `average_row`.
    """
    coded, group, frames, spread, room, out = borrowed((coded, group, frames, spread, room, out))
    squares, noise_variance = borrowed((squares, noise_variance))
    n_files, n_segments = frames.gain.shape
    counts, static, signal, flagged = room.counts, room.static, room.signal, room.planes
    measured, corrected = room.measured, room.corrected
    runs, doubtful, lost = np.empty((0, 5), dtype=np.int32), no_doubtful(), np.empty((0, 7), dtype=np.int64)
    # No literals, of which the compiler would make versions of their own.
    n_runs, n_doubtful, n_lost = len(runs), len(doubtful.places), len(lost)
    first, last = group.first_column, group.first_column + group.n_columns
    extremes = bool(np.isfinite(test.threshold))
    for index in range(rows.size):
        row = rows[index]
        _begin_row(group, row, extremes, room)
        for file in range(n_files):
            for segment in range(n_segments):
                if not decode_row(coded, file, segment, index, counts[segment]):
                    return SumsOfRows(file, segment, runs[:n_runs], lost[:n_lost], _filled(doubtful, n_doubtful))
                level = frames.level[file, segment]
                place = first_index + index
                own_lost = room.lost[segment]
                own_lost[0], own_lost[1] = 0, 0
                if repeats_counts(counts[segment], first, last):
                    columns, place_of_row = (first, last), (file, segment, row)
                    lost, n_lost = look_for_lost(
                        counts[segment], columns, group.saturation_adu, place_of_row, own_lost, lost, n_lost
                    )
                if measure and own_lost[1] - own_lost[0] < group.n_columns:
                    overscan = counts[segment, group.first_overscan : group.last_overscan]
                    found = overscan_of_row(overscan, level[max(place - 1, 0)], frames.clip[file, segment], group.row_mean)
                    level[place], frames.squares[file, segment, place] = found.level, found.squares
                    frames.freedom[file, segment, place] = found.freedom
                to_measured(counts[segment, first:last], level[place], room.bias[segment], measured[segment])
                clear_lost(measured[segment], own_lost)
            if group.factors.size:
                subtract_crosstalk_row(measured, group.factors, room.total, corrected)
                measured, corrected = corrected, measured
            for segment in range(n_segments):
                planes, own = static[segment], counts[segment, first:last]
                response = response_of(group, segment, frames.gain[file, segment])
                beyond = to_signal(own, measured[segment], response, group.saturation_adu, signal)
                is_whole = room.lost[segment, 1] == room.lost[segment, 0]
                if beyond or frames.dead[file, segment] or spread.first.size or not is_whole:
                    copy_row(static[segment], flagged)
                    planes = flagged
                    if beyond:
                        flag_signal(own, measured[segment], response, group.saturation_adu, flagged)
                        runs, n_runs = _add_runs(flagged, file, segment, row, runs, n_runs)
                    _flag_more(flagged, frames.dead[file, segment], room.lost[segment], spread, file, segment, index)
                elif room.alike.is_so[segment]:
                    before = room.alike.light[segment]
                    add_even_row(room.sums.signal[segment], room.sums.squares[segment], before, signal, frames.light[file])
                    room.alike.light[segment] += frames.light[file]
                    room.alike.frames[segment] += np.uint16(1)
                    continue
                sums = row_of(room.sums, segment, 0, group.n_columns)
                if room.alike.is_so[segment]:
                    end_alike(sums, room.alike, segment)
                add_row(sums, signal, planes, frames.light[file], extremes, room.falling)
        doubtful, n_doubtful = _end_row(group, row, noise_variance, test, room, out, squares, doubtful, n_doubtful)
    return SumsOfRows(-1, -1, runs[:n_runs], lost[:n_lost], _filled(doubtful, n_doubtful))


@njit(cache=True, nogil=True)
def _filled(doubtful: Doubtful, n_doubtful: int) -> Doubtful:
    return Doubtful(doubtful.places[:n_doubtful].copy(), doubtful.sums[:n_doubtful].copy())
