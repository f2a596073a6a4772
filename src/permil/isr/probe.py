"""What must be known of a file before it can be stacked: its light, dead channels, and how noisy its overscan is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from permil._kernels import isr as kernels
from permil.errors import RawFormatError
from permil.exposures import RawFile
from permil.exposures.coded_rows import RowBuffer
from permil.isr.calibration import Calibration
from permil.isr.file_noise import level_variance
from permil.isr.overscan import Overscan, clip_limit, clipped_moments, deviation_step, row_medians
from permil.isr.reduce import reduce_raw_file
from permil.isr.segment_group import SegmentGroup
from permil.isr.stack import frame_light, light_steps, median_light
from permil.products.masks import is_usable

FloatArray = NDArray[np.float64]

# Rows that are read at a time, bytes when decoded to 16 bits.
_READ_AT_A_TIME = 4_000_000


@dataclass(frozen=True)
class ProbedFile:
    """An open raw file, and what is known of it; arrays per amplifier.

    Parameters
    ----------
    raw_file
        The file.
    gain
        Electrons per adu.
    median
        Median signal of a regular sample of good pixels, electrons; NaN when there is none.
    is_usable
        Whether any pixel of that sample holds a measurement.
    dead
        Channels that do not vary at all.
    clip
        Deviation from which a count of the overscan is an outlier, adu.
    noise_variance
        Variance of a pixel that does not depend on the light, electrons^2, as far as a sample of rows tells.
    overscans
        Known where the whole file had to be reduced: empty otherwise.
    lost
        Raw rows of each segment of which pixels hold no measurement, as far as was looked.
    """

    raw_file: RawFile
    gain: FloatArray
    median: float
    is_usable: bool
    dead: NDArray[np.bool_]
    clip: FloatArray
    noise_variance: FloatArray
    overscans: tuple[Overscan, ...]
    lost: tuple[NDArray[np.int64], ...]


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
    """Return whether a row can be reduced without knowing other rows."""
    return calibration.overscan.method in ("row_median", "row_mean")


def probe_file(raw_file: RawFile, calibration: Calibration, *, temperature: float | None, threads: int = 1) -> ProbedFile:
    """Look at a file: at some rows where that is enough, else at all of it.

    Parameters
    ----------
    temperature
        Readout-board temperature, degree C.
    threads
        Segments that are decoded at the same time, where the whole file must be.

    Raises
    ------
    RawFormatError
        If the file is damaged.
    CalibrationError
        If the board temperature is needed and not known.
    """
    gain = calibration.gain_at(temperature)
    if is_row_by_row(calibration):
        return _probe_rows(raw_file, calibration, gain)
    reduced, overscans, dead = reduce_raw_file(raw_file, calibration, temperature=temperature, threads=threads)
    median, usable = frame_light(reduced.image, reduced.mask), bool(is_usable(reduced.mask).any())
    lost = tuple(overscan.lost[:, 0] for overscan in overscans)
    return ProbedFile(
        raw_file, gain, median, usable, np.array(dead), np.zeros(gain.size), reduced.noise_variance, overscans, lost
    )


def _probe_rows(raw_file: RawFile, calibration: Calibration, gain: FloatArray) -> ProbedFile:
    amplifiers = calibration.detector.amplifiers
    samples = _samples(raw_file, calibration, gain)
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
    # A dead channel sees no light.
    n_light = np.where(dead, 0, samples.n_light)
    light = np.concatenate([each[:number] for each, number in zip(samples.light, n_light, strict=True)])
    lost = tuple(np.flatnonzero(own) for own in samples.lost)
    usable = bool(samples.n_usable[~dead].any())
    return ProbedFile(raw_file, gain, median_light(light), usable, dead, clip, noise_variance, (), lost)


def _samples(raw_file: RawFile, calibration: Calibration, gain: FloatArray) -> RowSamples:
    detector = calibration.detector
    n_rows = detector.amplifiers[0].ny
    row_step, column_step = light_steps(detector.shape)
    overscan_step = deviation_step(n_rows)
    # One sample of rows serves both purposes where that of the overscan is dense enough.
    steps = Steps(min(overscan_step, row_step), column_step, overscan_step)
    group = SegmentGroup.of(calibration, range(len(detector.amplifiers)))
    samples, buffer = RowSamples.empty(group, n_rows, steps), RowBuffer()
    row = np.arange(n_rows)
    wanted = row[(row % steps.light_rows == 0) | (row % steps.overscan_rows == 0)]
    size = max(1, _READ_AT_A_TIME // (2 * group.width * group.amplifiers.size))
    places = [[raw_file.rows(amplifier.name) for amplifier in detector.amplifiers]]
    for first in range(0, wanted.size, size):
        rows = wanted[first : first + size]
        damaged = kernels.probe_rows(buffer.read(places, rows), rows, group, gain, steps, samples)
        if damaged >= 0:
            raise damaged_segment(raw_file, detector.amplifiers[damaged].extname)
    return samples


def damaged_segment(raw_file: RawFile, extname: str) -> RawFormatError:
    """Return the error of a segment with a row that does not decode."""
    return RawFormatError(
        f"segment {extname} cannot be decompressed", path=raw_file.path, remedy="copy the file again or leave it out"
    )
