"""Stack of many files without any of them in memory: a few rows at a time, through all files.

Rows come from the open files as they are coded there, are decoded, reduced, added and averaged while they are in the cache of a core.
What is in memory is the result and the coded rows: nothing grows with the number of files.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from permil._kernels import isr as kernels
from permil.camera import Detector
from permil.errors import InputError
from permil.exposures.coded_rows import RowBuffer
from permil.isr.array_pool import ArrayPool
from permil.isr.averages import MOST_FRAMES, Doubtful, NoiseTest, RowFit, empty_averages, relative_light
from permil.isr.calibration import Calibration
from permil.isr.file_noise import FileNoise, OverscanSums
from permil.isr.lost_rows import describe_lost
from permil.isr.probe import ProbedFile, damaged_segment, is_row_by_row
from permil.isr.segment_group import Placement, SegmentGroup
from permil.isr.stack import Stack

FloatArray = NDArray[np.float64]
Rows = NDArray[np.int64]
_Map = Callable[..., Any]

# Coded rows that a thread holds at a time, bytes; rows that are worked on at a time, divided by the segments.
_READ_AT_A_TIME = 8_000_000
_ROWS_TOGETHER = 1024
# Before all rows have been seen the variance of the noise is taken for this part of what a sample of rows says: less than it is,
# so that no outlier is missed, and little less, so that few pixels are taken for one.
_SURE_PART = 0.75


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
    damage
        What a file does not hold and is masked: number of the file, and a sentence for each segment.
    """

    stack: Stack
    read_noise: FloatArray
    read_noise_err: FloatArray
    overscan_level: FloatArray
    damage: tuple[tuple[int, str], ...]


class FrameRows(NamedTuple):
    """What differs from file to file; shapes (n_files, n_segments), of ``light`` (n_files,), of the last three (.., n_rows).

    ``light``: relative light q; ``gain``: electrons per adu; ``dead``: channels without data; ``clip``: deviation from which a count of
    the overscan is an outlier; ``level``: of the overscan, adu; ``squares``, ``freedom``: sum of squared
    deviations from the mean of the overscan, and their degrees of freedom.
    """

    light: NDArray[np.float32]
    gain: FloatArray
    dead: NDArray[np.bool_]
    clip: FloatArray
    level: FloatArray
    squares: FloatArray
    freedom: NDArray[np.int64]


class SumsOfRows(NamedTuple):
    """What the kernel ``add_rows`` returns.

    ``damaged_file``, ``damaged_segment``: the first one with a row that does not decode, -1 if there is none; ``runs``: saturated pixels:
    file, segment, row, first column, column behind the last, shape (n, 5); ``lost``: file, segment, and what `LostRuns` holds, shape
    (n, 7); ``places``, ``sums``: see `Doubtful`.
    """

    damaged_file: int
    damaged_segment: int
    runs: NDArray[np.int64]
    lost: NDArray[np.int64]
    places: NDArray[np.int64]
    sums: FloatArray


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


@dataclass(frozen=True)
class _Piece:
    """Rows of some segments that go through all files together."""

    group: SegmentGroup
    rows: Rows


@dataclass(frozen=True)
class _Found:
    """What is found on the way.

    Runs of saturated pixels (see `grown_runs`); file, amplifier and `permil.isr.lost_rows.LostRuns` of what holds no measurement; pixels
    that are still to be tested.
    """

    runs: Rows
    lost: Rows
    doubtful: list[Doubtful]


def stack_files(
    files: Sequence[ProbedFile],
    calibration: Calibration,
    *,
    light: Sequence[float],
    threshold: float,
    poisson: bool = True,
    threads: int = 1,
    pool: ArrayPool | None = None,
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
        Pieces that are worked on at the same time; 1 in worker processes.
    pool
        May be used for the result.

    Raises
    ------
    RawFormatError
        If a file is damaged; its path is that of the file.
    InputError
        If there are more files than can be numbered.
    """
    if len(files) >= MOST_FRAMES:
        raise InputError(f"more than {MOST_FRAMES} exposures at one position", remedy="stack them in parts")
    return _Stacking(files, calibration, np.asarray(light, dtype=np.float64), threshold, poisson, pool or ArrayPool()).run(
        threads
    )


class _Stacking:
    """Work in progress; arrays per file and amplifier."""

    def __init__(
        self,
        files: Sequence[ProbedFile],
        calibration: Calibration,
        light: FloatArray,
        threshold: float,
        poisson: bool,
        pool: ArrayPool,
    ) -> None:
        self.files, self.calibration, self.detector = files, calibration, calibration.detector
        self.places = [[file.raw_file.rows(amplifier.name) for amplifier in self.detector.amplifiers] for file in files]
        self.light = relative_light(light)
        self.gain, self.dead, self.clip = (np.array([getattr(file, name) for file in files]) for name in ("gain", "dead", "clip"))
        self.test = NoiseTest(light.size, self.light.astype(np.float64).mean(), np.nan, threshold, 1.0 if poisson else 0.0)
        self.out = empty_averages(self.detector.shape, pool)
        self.squares = np.empty_like(self.out.image)
        self.groups = SegmentGroup.all_of(calibration)
        self.measure = is_row_by_row(calibration)
        self.scratch = threading.local()

    def run(self, threads: int) -> FileStack:
        """Stack."""
        with ThreadPoolExecutor(threads) as executor:
            in_turn: _Map = executor.map if threads > 1 else map
            noise, variance, found = self._first_time(in_turn)
            self._test(found, variance)
            saturated = np.concatenate([part.runs for part in found])
            grow = self.calibration.saturation_grow
            if saturated.size and grow > 0:
                # Only now it is known what lies beside saturated pixels, also of other segments: these rows are summed again.
                grown = grown_runs(saturated, self.detector, grow)
                self._test(self._add_all(in_turn, self._pieces(grown), variance, grown)[0], variance)
            fits = list(in_turn(lambda index: self._finish(index, float(variance[index])), range(variance.size)))
        stack = Stack(
            self.detector,
            *self.out,
            light=self.light.astype(np.float64),
            noise_variance=variance,
            chi_square=np.array([fit.reduced for fit in fits]),
        )
        damage = self._damage(np.concatenate([part.lost for part in found]))
        return FileStack(stack, self.gain * noise.read_noise, self.gain * noise.read_noise_err, noise.level, damage)

    def _damage(self, lost: Rows) -> tuple[tuple[int, str], ...]:
        """Return what files do not hold, in segments that are not blank throughout."""
        found = []
        for file in np.unique(lost[:, 0]).tolist():
            own = lost[lost[:, 0] == file, 1:]
            runs = [own[(own[:, 0] == index) & ~dead, 1:] for index, dead in enumerate(self.dead[file])]
            found += [(file, sentence) for sentence in describe_lost(runs, self.detector.amplifiers)]
        return tuple(found)

    def _first_time(self, in_turn: _Map) -> tuple[FileNoise, FloatArray, list[_Found]]:
        """Sum all rows; return what the overscans tell, the variance that does not depend on the light, and what was found."""
        pieces = self._pieces()
        if not self.measure:
            noise = FileNoise.of([file.overscans for file in self.files])
            variance = noise.variance(self.gain)
            return noise, variance, self._add_all(in_turn, pieces, variance)[0]
        assumed = _SURE_PART * np.mean([file.noise_variance for file in self.files], axis=0)
        found, sums = self._add_all(in_turn, pieces, assumed)
        noise = sums.noise(self.calibration.overscan, pieces[0].group.last_overscan - pieces[0].group.first_overscan)
        variance = noise.variance(self.gain)
        if (variance < assumed).any():
            # The rows of the sample were not like the others. All rows are summed again, now that the noise is known.
            found, _ = self._add_all(in_turn, pieces, variance)
        return noise, variance, found

    def _pieces(self, runs: Rows | None = None) -> list[_Piece]:
        """Return what goes through the files together: all rows, or those with runs; in the order of readout."""
        pieces = []
        for group in self.groups:
            own = slice(None) if runs is None else np.isin(runs[:, 1], group.amplifiers)
            n_rows = self.detector.amplifiers[group.amplifiers[0]].ny
            rows = np.arange(n_rows) if runs is None else np.unique(runs[own, 2])
            size = max(1, _ROWS_TOGETHER // group.amplifiers.size)
            pieces += [_Piece(group, rows[first : first + size]) for first in range(0, rows.size, size)]
        return pieces

    def _add_all(
        self, in_turn: _Map, pieces: list[_Piece], noise_variance: FloatArray, grown: Rows | None = None
    ) -> tuple[list[_Found], OverscanSums]:
        """Sum and average pieces; ``noise_variance`` by amplifier, no more than it is."""
        sums, found = OverscanSums(self.gain.shape), []
        for piece, (frames, part) in zip(
            pieces, in_turn(lambda piece: self._add(piece, noise_variance, grown), pieces), strict=True
        ):
            sums.add(piece.group.amplifiers, frames.level, frames.squares, frames.freedom)
            found.append(part)
        return found, sums

    def _add(self, piece: _Piece, noise_variance: FloatArray, grown: Rows | None) -> tuple[FrameRows, _Found]:
        group, own = piece.group, piece.group.amplifiers
        places = [[of_file[index] for index in own] for of_file in self.places]
        frames = self._frames(piece)
        runs, lost, doubtful = [], [], []
        size = max(1, _READ_AT_A_TIME // (2 * group.width * len(self.files) * own.size))
        first = 0
        while first < piece.rows.size:
            rows = piece.rows[first : np.searchsorted(piece.rows, piece.rows[first] + size)]
            coded = self._buffer().read(places, rows)
            spread = Spread.nothing() if grown is None else spread_of(grown, len(self.files), own, rows)
            added = SumsOfRows(
                *kernels.add_rows(
                    coded,
                    rows,
                    first,
                    group,
                    frames,
                    self.measure,
                    spread,
                    noise_variance,
                    self.test,
                    self.out,
                    self.squares,
                )
            )
            if added.damaged_file >= 0:
                extname = self.detector.amplifiers[own[added.damaged_segment]].extname
                raise damaged_segment(self.files[added.damaged_file].raw_file, extname)
            runs.append(added.runs)
            lost.append(added.lost)
            doubtful.append(Doubtful(added.places, added.sums))
            first += rows.size
        saturated, without = np.concatenate(runs), np.concatenate(lost)
        for found in (saturated, without):
            found[:, 1] = own[found[:, 1]]
        return frames, _Found(saturated, without, doubtful)

    def _frames(self, piece: _Piece) -> FrameRows:
        own = piece.group.amplifiers
        shape = len(self.files), own.size, piece.rows.size
        level = np.zeros(shape)
        if not self.measure:
            level[:] = [[file.overscans[index].level[piece.rows] for index in own] for file in self.files]
        return FrameRows(
            light=self.light,
            gain=np.ascontiguousarray(self.gain[:, own]),
            dead=np.ascontiguousarray(self.dead[:, own]),
            clip=np.ascontiguousarray(self.clip[:, own]),
            level=level,
            squares=np.zeros(shape),
            freedom=np.zeros(shape, dtype=np.int64),
        )

    def _test(self, found: list[_Found], noise_variance: FloatArray) -> None:
        """Test the pixels that were set aside, now that the noise is known."""
        for doubtful in (entry for part in found for entry in part.doubtful):
            kernels.average_doubtful(*doubtful, noise_variance, self.test, self.out, self.squares)

    def _finish(self, index: int, noise_variance: float) -> RowFit:
        """Complete the result of an amplifier."""
        amplifier = self.detector.amplifiers[index]
        fit, test = RowFit.empty(amplifier.ny), self.test._replace(noise_variance=noise_variance)
        kernels.finish_rows(test, Placement.of(amplifier), self.out, self.squares, fit)
        return fit

    def _buffer(self) -> RowBuffer:
        if not hasattr(self.scratch, "buffer"):
            self.scratch.buffer = RowBuffer()
        return self.scratch.buffer


def spread_of(runs: Rows, n_files: int, amplifiers: Rows, rows: Rows) -> Spread:
    """Return runs (see `grown_runs`) by file, amplifier and row.

    Parameters
    ----------
    amplifiers, rows
        Those that are wanted; rows rise.
    """
    index = np.minimum(np.searchsorted(rows, runs[:, 2]), rows.size - 1)
    wanted = (rows[index] == runs[:, 2]) & np.isin(runs[:, 1], amplifiers)
    runs, index = runs[wanted], index[wanted]
    segment = np.searchsorted(amplifiers, runs[:, 1])
    key = (runs[:, 0] * len(amplifiers) + segment) * rows.size + index
    order = np.argsort(key, kind="stable")
    # Each list of rows ends where that of the next segment begins.
    ends = np.searchsorted(key[order], np.arange(n_files * len(amplifiers) * rows.size + 1))
    starts = np.arange(n_files * len(amplifiers)).reshape(n_files, len(amplifiers), 1) * rows.size
    first = ends[starts + np.arange(rows.size + 1)]
    return Spread(first, runs[order, 3].copy(), runs[order, 4].copy())


def grown_runs(runs: Rows, detector: Detector, pixels: int) -> Rows:
    """Return runs that cover all pixels within a square of ``2 pixels + 1`` around saturated ones, also in other segments.

    Parameters
    ----------
    runs : ndarray, shape (n, 5)
        File, number of the amplifier, raw row, first raw column, column behind the last.

    Returns
    -------
    ndarray, shape (m, 5)
        The same columns; runs may overlap.
    """
    places = [Placement.of(amplifier) for amplifier in detector.amplifiers]
    x_min, width, flip_x, y_first, y_step = (np.array(column) for column in zip(*places, strict=True))
    file, amplifier, row, start, stop = runs.T
    flipped = flip_x[amplifier]
    first = x_min[amplifier] + np.where(flipped, width[amplifier] - stop, start) - pixels
    last = x_min[amplifier] + np.where(flipped, width[amplifier] - start, stop) + pixels
    y = y_first[amplifier] + y_step[amplifier] * row
    grown = []
    for number, target in enumerate(detector.amplifiers):
        # Columns and rows of this amplifier, counted as it is read.
        left, right = np.clip(first - target.x_min, 0, target.nx), np.clip(last - target.x_min, 0, target.nx)
        if flip_x[number]:
            left, right = target.nx - right, target.nx - left
        for step in range(-pixels, pixels + 1):
            own_row = (y + step - y_first[number]) * y_step[number]
            touched = (left < right) & (own_row >= 0) & (own_row < target.ny)
            parts = (file, np.full_like(file, number), own_row, left, right)
            grown.append(np.stack([part[touched] for part in parts], axis=1))
    return np.concatenate(grown)
