"""What must be known of a file before it can be stacked: its light, dead channels, and how noisy its overscan is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.errors import RawFormatError
from permil.exposures import RawFile
from permil.exposures.coded_rows import RowBuffer
from permil.isr.calibration import Calibration
from permil.isr.overscan import Overscan, clip_limit, deviation_step
from permil.isr.reduce import reduce_raw_file
from permil.isr.segment_group import SegmentGroup
from permil.isr.stack import frame_light, light_steps
from permil.isr.stack_rows import probe_rows

FloatArray = NDArray[np.float64]


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
    dead
        Channels that do not vary at all.
    clip
        Deviation from which a count of the overscan is an outlier, adu.
    overscans
        Known where the whole file had to be reduced: empty otherwise.
    """

    raw_file: RawFile
    gain: FloatArray
    median: float
    dead: NDArray[np.bool_]
    clip: FloatArray
    overscans: tuple[Overscan, ...]


def is_row_by_row(calibration: Calibration) -> bool:
    """Return whether a row can be reduced without knowing other rows and other segments."""
    return calibration.crosstalk is None and calibration.overscan.method == "row_median"


def probe_file(
    raw_file: RawFile, calibration: Calibration, *, temperature: float | None, buffer: RowBuffer, threads: int = 1
) -> ProbedFile:
    """Look at a file: at some rows where that is enough, else at all of it.

    Parameters
    ----------
    temperature
        Readout-board temperature, degree C.
    buffer
        Memory to read into.
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
        return _probe_rows(raw_file, calibration, gain, buffer)
    reduced, overscans, dead = reduce_raw_file(raw_file, calibration, temperature=temperature, threads=threads)
    median = frame_light(reduced.image, reduced.mask)
    return ProbedFile(raw_file, gain, median, np.array(dead), np.zeros(gain.size), overscans)


def _probe_rows(raw_file: RawFile, calibration: Calibration, gain: FloatArray, buffer: RowBuffer) -> ProbedFile:
    detector = calibration.detector
    row_step, column_step = light_steps(detector.shape)
    dead, clip = np.zeros(gain.size, dtype=bool), np.zeros(gain.size)
    samples = []
    for index, amplifier in enumerate(detector.amplifiers):
        group = SegmentGroup.of(calibration, [index])
        row = np.arange(amplifier.ny)
        spacing = deviation_step(amplifier.ny)
        wanted = row[((group.y_first[0] + group.y_step[0] * row) % row_step == 0) | (row % spacing == 0)]
        coded = buffer.read([[raw_file.rows(amplifier.name)]], 0, amplifier.ny)
        deviations = np.zeros(-(-amplifier.ny // spacing))
        sample = np.empty((amplifier.ny // row_step + 1) * (amplifier.nx // column_step + 1), dtype=np.float32)
        decoded, constant, count = probe_rows(
            coded, wanted, group, gain[index], row_step, column_step, spacing, deviations, sample
        )
        if not decoded:
            raise damaged_segment(raw_file, amplifier.extname)
        samples.append(sample[:count])
        clip[index] = clip_limit(deviations)
        dead[index] = constant and np.ptp(raw_file.segment(amplifier.name)) == 0
    good = np.concatenate(samples)
    return ProbedFile(raw_file, gain, float(np.median(good)) if good.size else np.nan, dead, clip, ())


def damaged_segment(raw_file: RawFile, extname: str) -> RawFormatError:
    """Return the error of a segment with a row that does not decode."""
    return RawFormatError(
        f"segment {extname} cannot be decompressed", path=raw_file.path, remedy="copy the file again or leave it out"
    )
