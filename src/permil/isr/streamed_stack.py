"""Stack many files without holding any of them in memory: a few rows at a time, through all files.

`probe_file` measures light, dead channels and overscan noise of a file in a sample of its rows. `stack_files` then reads the coded rows
of all open files, and decodes, reduces, adds and averages them while they are in the cache of a core. Memory holds the result and
the coded rows: nothing grows with the number of files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from permil._kernels import isr as kernels
from permil.arrays import ArrayPool, BoolArray, Float32Array, FloatArray, Int32Array, IntArray
from permil.camera import Detector
from permil.engine import threaded_map
from permil.errors import InputError, RawFormatError
from permil.exposures import RawFile
from permil.exposures.segment_rows import ROW_BUFFER
from permil.isr.calibration.calibration import Calibration, Placement, SegmentGroup
from permil.isr.overscan import (
    FileNoise,
    Overscan,
    OverscanSums,
    clip_limit,
    clipped_moments,
    describe_lost,
    deviation_step,
    level_variance,
    row_medians,
)
from permil.isr.reduce import reduce_raw_file
from permil.isr.stack import (
    MOST_FRAMES,
    Doubtful,
    NoiseTest,
    RowFit,
    Stack,
    empty_averages,
    frame_light,
    light_steps,
    median_light,
    relative_light,
)
from permil.products.masks import is_usable

# Rows that are read at a time, bytes when decoded to 16 bits.
_PROBED_AT_A_TIME = 4_000_000


@dataclass(frozen=True)
class ProbedFile:
    """An open raw file and the results of its probe; arrays per amplifier.

    Parameters
    ----------
    raw_file
        The file.
    gain
        Electrons per adu.
    median
        Median signal of a regular sample of good pixels, electrons; NaN without good pixels.
    is_usable
        Whether any pixel of that sample has a measurement.
    dead
        Channels with constant counts.
    clip
        Deviation from which a count of the overscan is an outlier, adu.
    noise_variance
        Variance of a pixel that does not depend on the light, electrons^2, from a sample of rows.
    overscans
        Of the whole segments if the whole file had to be reduced, else empty.
    lost
        Raw rows of each segment with pixels that hold no measurement, among the rows that were read.
    """

    raw_file: RawFile
    gain: FloatArray
    median: float
    is_usable: bool
    dead: BoolArray
    clip: FloatArray
    noise_variance: FloatArray
    overscans: tuple[Overscan, ...]
    lost: tuple[IntArray, ...]


class Steps(NamedTuple):
    """Steps of the samples: rows and columns for the light, rows for the overscan."""

    light_rows: int
    light_columns: int
    overscan_rows: int


class RowSamples(NamedTuple):
    """Samples of each segment of a file.

    ``overscans``: counts of the overscan in a sample of rows, shape (n_segments, n_rows, n_overscan), with the first ``n_overscans``
    rows filled; ``lowest``, ``highest``: counts; ``light``: signal of good pixels, shape (n_segments, n), with the first ``n_light``
    filled; ``n_usable``: pixels of the same sample with a measurement, good or not; ``lost``: whether pixels of a row hold no
    measurement, shape (n_segments, n_rows).
    """

    overscans: Int32Array
    n_overscans: IntArray
    lowest: Int32Array
    highest: Int32Array
    light: Float32Array
    n_light: IntArray
    n_usable: IntArray
    lost: BoolArray

    @classmethod
    def empty(cls, group: SegmentGroup, n_rows: int, steps: Steps) -> RowSamples:
        """Return buffers for segments of a number of rows."""
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


def is_row_by_row(calibration: Calibration) -> bool:
    """Return whether a row can be reduced without reading other rows."""
    return calibration.overscan.method in ("row_median", "row_mean")


def probe_file(raw_file: RawFile, calibration: Calibration, *, temperature: float | None, with_light: bool = True) -> ProbedFile:
    """Measure light, dead channels and noise of a file, from some rows if they suffice, else from all.

    Parameters
    ----------
    temperature
        Readout-board temperature, degree C.
    with_light
        Whether rows are read for the light, which needs more of them than the noise.

    Raises
    ------
    RawFormatError
        If the file is damaged.
    CalibrationError
        If the board temperature is needed and not known.
    """
    gain = calibration.gain_at(temperature)
    if is_row_by_row(calibration):
        return _probe_rows(raw_file, calibration, gain, with_light)
    reduced, overscans, dead = reduce_raw_file(raw_file, calibration, temperature=temperature)
    median, usable = frame_light(reduced.image, reduced.mask), bool(is_usable(reduced.mask).any())
    lost = tuple(overscan.lost[:, 0] for overscan in overscans)
    return ProbedFile(
        raw_file, gain, median, usable, np.array(dead), np.zeros(gain.size), reduced.noise_variance, overscans, lost
    )


def _probe_rows(raw_file: RawFile, calibration: Calibration, gain: FloatArray, with_light: bool) -> ProbedFile:
    amplifiers = calibration.detector.amplifiers
    samples = _samples(raw_file, calibration, gain, with_light)
    dead, clip, noise_variance = np.zeros(gain.size, dtype=bool), np.zeros(gain.size), np.zeros(gain.size)
    for index, n_overscans in enumerate(samples.n_overscans):
        overscan, measured = samples.overscans[index, :n_overscans], np.ones(n_overscans, dtype=bool)
        columns = slice(0, overscan.shape[1])
        medians, deviations = row_medians(overscan, columns, measured, 1)
        clip[index] = clip_limit(deviations)
        variance = clipped_moments(overscan, columns, measured, medians, clip[index]).variance
        of_level = level_variance(calibration.overscan, variance, overscan.shape[1])
        noise_variance[index] = gain[index] ** 2 * (variance + of_level)
        constant = samples.lowest[index] == samples.highest[index]
        dead[index] = constant and np.ptp(raw_file.segment(amplifiers[index].name)) == 0
    # A dead channel has no light.
    n_light = np.where(dead, 0, samples.n_light)
    light = np.concatenate([each[:number] for each, number in zip(samples.light, n_light, strict=True)])
    lost = tuple(np.flatnonzero(own) for own in samples.lost)
    usable = bool(samples.n_usable[~dead].any())
    return ProbedFile(raw_file, gain, median_light(light), usable, dead, clip, noise_variance, (), lost)


def _samples(raw_file: RawFile, calibration: Calibration, gain: FloatArray, with_light: bool) -> RowSamples:
    detector = calibration.detector
    n_rows = detector.amplifiers[0].ny
    row_step, column_step = light_steps(detector.shape)
    overscan_step = deviation_step(n_rows)
    # The sample of the overscan also serves for the light if it is dense enough.
    steps = Steps(min(overscan_step, row_step) if with_light else overscan_step, column_step, overscan_step)
    group = calibration.whole_group
    samples = RowSamples.empty(group, n_rows, steps)
    row = np.arange(n_rows)
    wanted = row[(row % steps.light_rows == 0) | (row % steps.overscan_rows == 0)]
    size = max(1, _PROBED_AT_A_TIME // (2 * group.width * group.amplifiers.size))
    places = [[raw_file.rows(amplifier.name) for amplifier in detector.amplifiers]]
    for first in range(0, wanted.size, size):
        rows = wanted[first : first + size]
        damaged = kernels.probe_rows(ROW_BUFFER.read(places, rows), rows, group, gain, steps, samples)
        if damaged >= 0:
            raise damaged_segment(raw_file, detector.amplifiers[damaged].extname)
    return samples


def damaged_segment(raw_file: RawFile, extname: str) -> RawFormatError:
    """Return the error for a segment with a row that cannot be decoded."""
    return RawFormatError(
        f"segment {extname} cannot be decompressed", path=raw_file.path, remedy="copy the file again or leave it out"
    )


# Coded rows that a thread holds at a time, bytes; rows in a block, divided by the number of segments.
_READ_AT_A_TIME = 8_000_000
_ROWS_TOGETHER = 1024
# Until all rows have been read, the variance of the noise is taken as this fraction of the variance in a sample of rows: below the true
# value, so that no outlier is missed, and not far below, so that few pixels are set aside.
_SURE_PART = 0.75


@dataclass(frozen=True)
class FileStack:
    """A stack of files, with noise and level of the overscan of each file and amplifier.

    Parameters
    ----------
    stack
        The mean.
    read_noise, read_noise_err
        Electrons, shape (n_files, n_amplifiers).
    overscan_level
        Mean level, adu, same shape.
    damage
        Masked rows without a measurement: index of the file, and a sentence for each segment.
    """

    stack: Stack
    read_noise: FloatArray
    read_noise_err: FloatArray
    overscan_level: FloatArray
    damage: tuple[tuple[int, str], ...]


class FrameRows(NamedTuple):
    """Arrays that differ between files: shape (n_files, n_segments), ``light`` (n_files,), the last three (n_files, n_segments, n_rows).

    ``light``: relative light q; ``gain``: electrons per adu; ``dead``: channels without data; ``clip``: deviation from which a count of
    the overscan is an outlier; ``level``: of the overscan, adu; ``squares``, ``freedom``: sum of squared
    deviations from the mean of the overscan, and their degrees of freedom.
    """

    light: Float32Array
    gain: FloatArray
    dead: BoolArray
    clip: FloatArray
    level: FloatArray
    squares: FloatArray
    freedom: IntArray


class SumsOfRows(NamedTuple):
    """Results of the kernel ``add_rows``.

    ``damaged_file``, ``damaged_segment``: the first one with a row that cannot be decoded, -1 without any; ``runs``: saturated pixels:
    file, segment, row, first column, end column, shape (n, 5); ``lost``: file, segment, and the columns of `LostRuns`, shape
    (n, 7); ``places``, ``sums``: see `Doubtful`.
    """

    damaged_file: int
    damaged_segment: int
    runs: IntArray
    lost: IntArray
    places: IntArray
    sums: FloatArray


class Spread(NamedTuple):
    """Pixels beside saturated ones: for file f, segment s and row index i, columns ``start[k]`` to ``stop[k] - 1``.

    k goes from ``first[f, s, i]`` to ``first[f, s, i + 1] - 1`` (``first`` is empty if nothing is saturated); columns are raw.
    """

    first: IntArray
    start: IntArray
    stop: IntArray

    @classmethod
    def nothing(cls) -> Spread:
        """Return the spread without saturated pixels."""
        none = np.empty(0, dtype=np.int64)
        return cls(np.empty((0, 0, 0), dtype=np.int64), none, none)


@dataclass(frozen=True)
class _RowBlock:
    """Rows of some segments that are stacked together, through all files."""

    group: SegmentGroup
    rows: IntArray


@dataclass(frozen=True)
class _Exceptions:
    """Exceptional pixels of a block of rows.

    Runs of saturated pixels (see `grown_runs`); file, amplifier and `permil.isr.overscan.LostRuns` of pixels without a measurement;
    pixels that wait for their test.
    """

    runs: IntArray
    lost: IntArray
    doubtful: list[Doubtful]


def stack_files(
    files: Sequence[ProbedFile],
    calibration: Calibration,
    *,
    light: Sequence[float],
    threshold: float,
    poisson: bool = True,
    pool: ArrayPool | None = None,
) -> FileStack:
    """Reduce and stack files; the result is the mean of the reduced exposures (`permil.isr.stack`).

    Parameters
    ----------
    files
        At least one file.
    light
        Light of each file, in any unit.
    threshold
        A measurement is rejected when it differs from the mean of the others by this many sigma of the difference; infinity turns the
        rejection off.
    poisson
        Whether the signal is in electrons and adds its own variance (not so for bias frames).
    pool
        Pool for the result.

    Raises
    ------
    RawFormatError
        If a file is damaged; its path is that of the file.
    InputError
        If there are more files than can be numbered.
    """
    if len(files) >= MOST_FRAMES:
        raise InputError(f"more than {MOST_FRAMES} exposures at one position", remedy="stack them in parts")
    return _Stacking(files, calibration, np.asarray(light, dtype=np.float64), threshold, poisson, pool or ArrayPool()).run()


class _Stacking:
    """The state of a stack in progress; arrays per file and amplifier."""

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
        self.measure = is_row_by_row(calibration)

    def run(self) -> FileStack:
        """Stack all files."""
        noise, variance, found = self._first_time()
        self._test(found, variance)
        saturated = np.concatenate([part.runs for part in found])
        grow = self.calibration.saturation_grow
        if saturated.size and grow > 0:
            # Neighbours of saturated pixels, also in other segments, are known only now: their rows are summed again.
            grown = grown_runs(saturated, self.detector, grow)
            self._test(self._add_all(self._blocks(grown), variance, grown)[0], variance)
        fits = list(threaded_map(lambda index: self._finish(index, float(variance[index])), range(variance.size)))
        stack = Stack(
            self.detector,
            *self.out,
            light=self.light.astype(np.float64),
            noise_variance=variance,
            chi_square=np.array([fit.reduced for fit in fits]),
        )
        damage = self._damage(np.concatenate([part.lost for part in found]))
        return FileStack(stack, self.gain * noise.read_noise, self.gain * noise.read_noise_err, noise.level, damage)

    def _damage(self, lost: IntArray) -> tuple[tuple[int, str], ...]:
        """Return a sentence for each segment with lost rows; blank segments are left out."""
        found = []
        for file in np.unique(lost[:, 0]).tolist():
            own = lost[lost[:, 0] == file, 1:]
            runs = [own[(own[:, 0] == index) & ~dead, 1:] for index, dead in enumerate(self.dead[file])]
            found += [(file, sentence) for sentence in describe_lost(runs, self.detector.amplifiers)]
        return tuple(found)

    def _first_time(self) -> tuple[FileNoise, FloatArray, list[_Exceptions]]:
        """Sum all rows; return the overscan noise, the variance that does not depend on the light, and the exceptional pixels."""
        blocks = self._blocks()
        if not self.measure:
            noise = FileNoise.of([file.overscans for file in self.files])
            variance = noise.variance(self.gain)
            return noise, variance, self._add_all(blocks, variance)[0]
        assumed = _SURE_PART * np.mean([file.noise_variance for file in self.files], axis=0)
        found, sums = self._add_all(blocks, assumed)
        noise = sums.noise(self.calibration.overscan, blocks[0].group.last_overscan - blocks[0].group.first_overscan)
        variance = noise.variance(self.gain)
        if (variance < assumed).any():
            # The sample of rows was not representative. All rows are summed again with the measured noise.
            found, _ = self._add_all(blocks, variance)
        return noise, variance, found

    def _blocks(self, runs: IntArray | None = None) -> list[_RowBlock]:
        """Return blocks of all rows, or of the rows with runs, in the order of readout."""
        blocks = []
        for group in self.calibration.groups:
            own = slice(None) if runs is None else np.isin(runs[:, 1], group.amplifiers)
            n_rows = self.detector.amplifiers[group.amplifiers[0]].ny
            rows = np.arange(n_rows) if runs is None else np.unique(runs[own, 2])
            size = max(1, _ROWS_TOGETHER // group.amplifiers.size)
            blocks += [_RowBlock(group, rows[first : first + size]) for first in range(0, rows.size, size)]
        return blocks

    def _add_all(
        self, blocks: list[_RowBlock], noise_variance: FloatArray, grown: IntArray | None = None
    ) -> tuple[list[_Exceptions], OverscanSums]:
        """Sum and average blocks of rows; ``noise_variance`` is a lower limit, by amplifier."""
        sums, found = OverscanSums(self.gain.shape), []
        for block, (frames, part) in zip(
            blocks, threaded_map(lambda block: self._add(block, noise_variance, grown), blocks), strict=True
        ):
            sums.add(block.group.amplifiers, frames.level, frames.squares, frames.freedom)
            found.append(part)
        return found, sums

    def _add(self, block: _RowBlock, noise_variance: FloatArray, grown: IntArray | None) -> tuple[FrameRows, _Exceptions]:
        group, own = block.group, block.group.amplifiers
        places = [[of_file[index] for index in own] for of_file in self.places]
        frames = self._frames(block)
        runs, lost, doubtful = [], [], []
        size = max(1, _READ_AT_A_TIME // (2 * group.width * len(self.files) * own.size))
        first = 0
        while first < block.rows.size:
            rows = block.rows[first : np.searchsorted(block.rows, block.rows[first] + size)]
            coded = ROW_BUFFER.read(places, rows)
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
        return frames, _Exceptions(saturated, without, doubtful)

    def _frames(self, block: _RowBlock) -> FrameRows:
        own = block.group.amplifiers
        shape = len(self.files), own.size, block.rows.size
        level = np.zeros(shape)
        if not self.measure:
            level[:] = [[file.overscans[index].level[block.rows] for index in own] for file in self.files]
        return FrameRows(
            light=self.light,
            gain=np.ascontiguousarray(self.gain[:, own]),
            dead=np.ascontiguousarray(self.dead[:, own]),
            clip=np.ascontiguousarray(self.clip[:, own]),
            level=level,
            squares=np.zeros(shape),
            freedom=np.zeros(shape, dtype=np.int64),
        )

    def _test(self, found: list[_Exceptions], noise_variance: FloatArray) -> None:
        """Test the pixels that were set aside against the measured noise."""
        for doubtful in (entry for part in found for entry in part.doubtful):
            kernels.average_doubtful(*doubtful, noise_variance, self.test, self.out, self.squares)

    def _finish(self, index: int, noise_variance: float) -> RowFit:
        """Complete the result of an amplifier."""
        amplifier = self.detector.amplifiers[index]
        fit, test = RowFit.empty(amplifier.ny), self.test._replace(noise_variance=noise_variance)
        kernels.finish_rows(test, Placement.of(amplifier), self.out, self.squares, fit)
        return fit


def spread_of(runs: IntArray, n_files: int, amplifiers: IntArray, rows: IntArray) -> Spread:
    """Return runs (see `grown_runs`) by file, amplifier and row.

    Parameters
    ----------
    amplifiers, rows
        The selected ones; rows in ascending order.
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


def grown_runs(runs: IntArray, detector: Detector, pixels: int) -> IntArray:
    """Return runs that cover all pixels within a square of ``2 pixels + 1`` around saturated ones, also in other segments.

    Parameters
    ----------
    runs : ndarray, shape (n, 5)
        File, index of the amplifier, raw row, first raw column, end column.

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
        # Columns and rows of this amplifier, in readout order.
        left, right = np.clip(first - target.x_min, 0, target.nx), np.clip(last - target.x_min, 0, target.nx)
        if flip_x[number]:
            left, right = target.nx - right, target.nx - left
        for step in range(-pixels, pixels + 1):
            own_row = (y + step - y_first[number]) * y_step[number]
            touched = (left < right) & (own_row >= 0) & (own_row < target.ny)
            parts = (file, np.full_like(file, number), own_row, left, right)
            grown.append(np.stack([part[touched] for part in parts], axis=1))
    return np.concatenate(grown)
