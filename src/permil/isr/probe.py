"""What must be known of a file before it can be stacked: its light, dead channels, and how noisy its overscan is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.errors import RawFormatError
from permil.exposures import RawFile
from permil.exposures.coded_rows import RowBuffer
from permil.isr.calibration import Calibration
from permil.isr.file_noise import level_variance
from permil.isr.overscan import Overscan, clip_limit, deviation_step
from permil.isr.probe_rows import RowSamples, Steps, overscan_deviations, overscan_variance, probe_rows
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
        overscan = samples.overscans[index, :n_overscans]
        clip[index] = clip_limit(overscan_deviations(overscan))
        variance = overscan_variance(overscan, clip[index])
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
        damaged = probe_rows(buffer.read(places, rows), rows, group, gain, steps, samples)
        if damaged >= 0:
            raise damaged_segment(raw_file, detector.amplifiers[damaged].extname)
    return samples


def damaged_segment(raw_file: RawFile, extname: str) -> RawFormatError:
    """Return the error of a segment with a row that does not decode."""
    return RawFormatError(
        f"segment {extname} cannot be decompressed", path=raw_file.path, remedy="copy the file again or leave it out"
    )
