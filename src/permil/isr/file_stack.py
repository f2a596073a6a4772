"""Stack of many files without any of them in memory: a few rows of one segment at a time, through all files.

Rows come from the open files as they are coded there, are decoded, reduced and added while they are in the cache of a core. What is
in memory is the result, the sums of one segment per thread, and the coded rows: nothing grows with the number of files.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.errors import InputError
from permil.exposures.coded_rows import RowBuffer
from permil.isr.accumulate import MOST_FRAMES, Sums, clear_sums, empty_sums, relative_light
from permil.isr.average import NoiseTest, RowFit, average, empty_averages
from permil.isr.calibration import Calibration
from permil.isr.overscan import noise_with_error, row_median_variance
from permil.isr.probe import ProbedFile, damaged_segment, is_row_by_row
from permil.isr.rows import Placement
from permil.isr.saturation import grown_runs
from permil.isr.segment_group import SegmentGroup
from permil.isr.stack import Stack
from permil.isr.stack_rows import FrameRows, Spread, add_rows

FloatArray = NDArray[np.float64]
Rows = NDArray[np.int64]

# Coded rows that a thread holds at a time, bytes; rows of all segments that are summed at a time.
_READ_AT_A_TIME = 4_000_000
_ROWS_TOGETHER = 64


@dataclass(frozen=True)
class FileStack:
    """A stack of files, and per file and amplifier what the overscans tell.

    Parameters
    ----------
    stack
        The mean.
    read_noise, read_noise_err
        Electrons, shape (n_files, n_amplifiers).
    overscan_level
        Mean level, adu, same shape.
    """

    stack: Stack
    read_noise: FloatArray
    read_noise_err: FloatArray
    overscan_level: FloatArray


@dataclass(frozen=True)
class _Piece:
    """Rows of some amplifiers that go through all files together."""

    amplifiers: tuple[int, ...]
    rows: Rows


def stack_files(
    files: Sequence[ProbedFile],
    calibration: Calibration,
    *,
    light: Sequence[float],
    threshold: float,
    poisson: bool = True,
    threads: int = 1,
) -> FileStack:
    """Reduce and stack files; the result is that of `FrameStack` with the reduced exposures, bit by bit.

    Parameters
    ----------
    files
        At least one.
    light
        Of each file, in any unit.
    threshold, poisson
        See `FrameStack`.
    threads
        Segments that are worked on at the same time; 1 in worker processes.

    Raises
    ------
    RawFormatError
        If a file is damaged; its path is that of the file.
    InputError
        If there are more files than can be numbered.
    """
    if len(files) >= MOST_FRAMES:
        raise InputError(f"more than {MOST_FRAMES} exposures at one position", remedy="stack them in parts")
    return _Stacking(files, calibration, np.asarray(light, dtype=np.float64), threshold, poisson).run(threads)


class _Stacking:
    """Work in progress; arrays per file and amplifier."""

    def __init__(
        self, files: Sequence[ProbedFile], calibration: Calibration, light: FloatArray, threshold: float, poisson: bool
    ) -> None:
        self.files, self.calibration, self.detector = files, calibration, calibration.detector
        self.places = [[file.raw_file.rows(amplifier.name) for amplifier in self.detector.amplifiers] for file in files]
        self.threshold, self.poisson = threshold, poisson
        self.light = relative_light(light)
        self.gain, self.dead, self.clip = (np.array([getattr(file, name) for file in files]) for name in ("gain", "dead", "clip"))
        # In adu: read noise with its error, variance of the level of a row, mean level.
        self.read_noise, self.read_noise_err, self.level_variance, self.level = (np.zeros(self.gain.shape) for _ in range(4))
        self.out = empty_averages(self.detector.shape)
        self.fits = [RowFit.empty(amplifier.ny) for amplifier in self.detector.amplifiers]
        self.room = threading.local()
        self.by_segment = is_row_by_row(calibration)
        if not self.by_segment:
            self._take_overscans()

    def run(self, threads: int) -> FileStack:
        """Stack."""
        with ThreadPoolExecutor(threads) as pool:
            in_turn = pool.map if threads > 1 else map
            saturated = np.concatenate(list(in_turn(self._first_time, self._pieces())))
            grow = self.calibration.saturation_grow
            if saturated.size and grow > 0:
                # Only now it is known what lies beside saturated pixels, also of other segments: these rows are summed again.
                grown = grown_runs(saturated, self.detector, grow)
                list(in_turn(lambda piece: self._add(piece, grown), self._pieces(grown)))
        return self._result()

    def _take_overscans(self) -> None:
        for number, file in enumerate(self.files):
            for index, overscan in enumerate(file.overscans):
                place = number, index
                self.read_noise[place], self.read_noise_err[place] = overscan.read_noise, overscan.read_noise_err
                self.level_variance[place], self.level[place] = overscan.level_variance, overscan.level.mean()

    def _pieces(self, runs: Rows | None = None) -> list[_Piece]:
        """Return what is summed together: all rows, or those with runs."""
        amplifiers = self.detector.amplifiers
        if self.by_segment:
            rows = [
                np.arange(each.ny) if runs is None else np.unique(runs[runs[:, 1] == i, 2]) for i, each in enumerate(amplifiers)
            ]
            return [_Piece((index,), own) for index, own in enumerate(rows) if own.size]
        rows_together = np.arange(amplifiers[0].ny) if runs is None else np.unique(runs[:, 2])
        parts = np.split(rows_together, np.arange(_ROWS_TOGETHER, rows_together.size, _ROWS_TOGETHER))
        return [_Piece(tuple(range(len(amplifiers))), part) for part in parts]

    def _first_time(self, piece: _Piece) -> Rows:
        return self._add(piece, None)

    def _add(self, piece: _Piece, grown: Rows | None) -> Rows:
        """Sum the rows of a piece over all files and average them; return the runs of saturated pixels."""
        group = SegmentGroup.of(self.calibration, piece.amplifiers)
        own = list(piece.amplifiers)
        amplifiers = [self.detector.amplifiers[index] for index in own]
        places = [[of_file[index] for index in own] for of_file in self.places]
        frames = FrameRows(
            light=self.light,
            gain=np.ascontiguousarray(self.gain[:, own]),
            dead=np.ascontiguousarray(self.dead[:, own]),
            level=self._levels(amplifiers[0].ny, own),
            clip=np.ascontiguousarray(self.clip[:, own]),
            squares=np.zeros((len(self.files), len(own))),
            freedom=np.zeros((len(self.files), len(own)), dtype=np.int64),
        )
        sums = self._sums((len(own), piece.rows.size, group.n_columns))
        runs, extremes = [], bool(np.isfinite(self.threshold))
        size = max(1, _READ_AT_A_TIME // (2 * group.width * len(self.files) * len(own)))
        for first in range(0, piece.rows.size, size):
            rows = piece.rows[first : first + size]
            coded = self._buffer().read(places, int(rows[0]), int(rows[-1]) + 1)
            spread = Spread.nothing() if grown is None else spread_of(grown, len(self.files), own, rows)
            damaged, found = add_rows(coded, int(rows[0]), rows, group, frames, self.by_segment, extremes, spread, sums, first)
            if damaged >= 0:
                raise damaged_segment(self.files[damaged].raw_file, amplifiers[0].extname)
            runs.append(found.astype(np.int64))
        if self.by_segment and grown is None:
            self._take_noise(frames, own[0], group)
        for number, index in enumerate(own):
            self._average(Sums._make(array[number] for array in sums), index, piece.rows)
        saturated = np.concatenate(runs)
        saturated[:, 1] = np.array(own)[saturated[:, 1]]
        return saturated

    def _levels(self, n_rows: int, own: list[int]) -> FloatArray:
        if self.by_segment:
            return np.zeros((len(self.files), 1, n_rows))
        return np.array([[file.overscans[index].level for index in own] for file in self.files])

    def _take_noise(self, frames: FrameRows, index: int, group: SegmentGroup) -> None:
        """Take the read noise that was measured on the way."""
        for number in range(len(self.files)):
            freedom = int(frames.freedom[number, 0])
            variance = frames.squares[number, 0] / freedom if freedom > 0 else 0.0
            self.read_noise[number, index], self.read_noise_err[number, index] = noise_with_error(variance, freedom)
            self.level_variance[number, index] = row_median_variance(variance, group.last_overscan - group.first_overscan)
            self.level[number, index] = frames.level[number, 0].mean()

    def _average(self, sums: Sums, index: int, rows: Rows) -> None:
        amplifier = self.detector.amplifiers[index]
        light = self.light.astype(np.float64)
        noise_variance = self._noise_variance()[index]
        test = NoiseTest(light.size, light.mean(), noise_variance, self.threshold, 1.0 if self.poisson else 0.0)
        average(sums, 0, rows, test, Placement.of(amplifier), self.out, self.fits[index])

    def _noise_variance(self) -> FloatArray:
        """Return the variance of a pixel that does not depend on the light, mean of the files."""
        total = np.zeros(self.gain.shape[1])
        for gain, read_noise, level_variance in zip(self.gain, self.read_noise, self.level_variance, strict=True):
            total += (gain * read_noise) ** 2 + gain**2 * level_variance
        return total / len(self.files)

    def _buffer(self) -> RowBuffer:
        if not hasattr(self.room, "buffer"):
            self.room.buffer = RowBuffer()
        return self.room.buffer

    def _sums(self, shape: tuple[int, int, int]) -> Sums:
        """Return empty sums, in the memory of the last ones where they have the same shape."""
        if not hasattr(self.room, "sums") or self.room.sums.signal.shape != shape:
            self.room.sums = empty_sums(shape)
        else:
            clear_sums(self.room.sums)
        return self.room.sums

    def _result(self) -> FileStack:
        stack = Stack(
            self.detector,
            *self.out,
            light=self.light.astype(np.float64),
            noise_variance=self._noise_variance(),
            chi_square=np.array([fit.reduced for fit in self.fits]),
        )
        return FileStack(stack, self.gain * self.read_noise, self.gain * self.read_noise_err, self.level)


def spread_of(runs: Rows, n_files: int, amplifiers: Sequence[int], rows: Rows) -> Spread:
    """Return runs (see `grown_runs`) by file, amplifier and row.

    Parameters
    ----------
    amplifiers, rows
        Those that are wanted; rows rise.
    """
    index = np.minimum(np.searchsorted(rows, runs[:, 2]), rows.size - 1)
    wanted = (rows[index] == runs[:, 2]) & np.isin(runs[:, 1], amplifiers)
    runs, index = runs[wanted], index[wanted]
    segment = np.searchsorted(np.asarray(amplifiers), runs[:, 1])
    key = (runs[:, 0] * len(amplifiers) + segment) * rows.size + index
    order = np.argsort(key, kind="stable")
    # Each list of rows ends where that of the next segment begins.
    ends = np.searchsorted(key[order], np.arange(n_files * len(amplifiers) * rows.size + 1))
    starts = np.arange(n_files * len(amplifiers)).reshape(n_files, len(amplifiers), 1) * rows.size
    first = ends[starts + np.arange(rows.size + 1)]
    return Spread(first, runs[order, 3].copy(), runs[order, 4].copy())
