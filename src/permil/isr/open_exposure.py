"""A single exposure that is never in memory as a whole: its file is open, and strips of it are reduced when they are asked for."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

from permil.camera import Camera
from permil.config.isr import IsrConfig
from permil.errors import RawFormatError
from permil.exposures import RawFile
from permil.exposures.coded_rows import CodedRows, decode_row, mapped_rows
from permil.isr.calibration import Calibration
from permil.isr.exposure_stack import check_detector, with_path
from permil.isr.group_rows import response_of
from permil.isr.masks import grow_saturated
from permil.isr.overscan import measure_overscan
from permil.isr.reduce import DetectorImage, reduce_raw_file
from permil.isr.row_sample import RowSample
from permil.isr.rows import (
    any_saturated,
    copy_flipped,
    copy_row,
    flag_response,
    flag_saturated,
    median_of_counts,
    subtract_crosstalk_row,
    to_electrons,
    to_measured,
)
from permil.isr.segment_group import SegmentGroup
from permil.isr.stage import board_temperature
from permil.isr.strip import Strip
from permil.products.masks import MaskPlane

FloatArray = NDArray[np.float64]

_NO_DATA = int(MaskPlane.NO_DATA)

_ROWS_TOGETHER = 4
"""Raw rows of all segments that are worked on together: some hundred kilobytes."""


class _Rows(NamedTuple):
    """Room for some rows of all segments: ``counts`` by segment and row; adu by row and segment, as measured and without crosstalk."""

    counts: NDArray[np.int32]
    measured: NDArray[np.float32]
    corrected: NDArray[np.float32]

    @classmethod
    def of(cls, group: SegmentGroup) -> _Rows:
        """Return room for segments of this size."""
        n_segments = group.x_min.size
        counts = np.empty((n_segments, _ROWS_TOGETHER, group.width), dtype=np.int32)
        measured = np.empty((_ROWS_TOGETHER, n_segments, group.n_columns), dtype=np.float32)
        return cls(counts, measured, np.empty_like(measured) if group.factors.size else measured)


class _Memory(threading.local):
    """Of each thread: image and mask of a strip; fresh memory for each strip would cost as much time as filling it."""

    def __init__(self) -> None:
        self.of_rows: dict[tuple[int, int, int, bool], _Rows] = {}
        self.image, self.mask = np.empty((0, 0), dtype=np.float32), np.empty((0, 0), dtype=np.int16)

    def room(self, n_rows: int, n_columns: int) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
        """Return room for a strip; what was there before is overwritten."""
        if self.image.shape[0] < n_rows or self.image.shape[1] != n_columns:
            self.image, self.mask = np.empty((n_rows, n_columns), dtype=np.float32), np.empty((n_rows, n_columns), dtype=np.int16)
        return self.image[:n_rows], self.mask[:n_rows]

    def rows(self, group: SegmentGroup) -> _Rows:
        """Return room for some rows of all segments."""
        key = (group.x_min.size, group.width, group.n_columns, bool(group.factors.size))
        if key not in self.of_rows:
            self.of_rows = {key: _Rows.of(group)}
        return self.of_rows[key]


_MEMORY = _Memory()


class OpenExposure:
    """An exposure whose strips are reduced when they are asked for; use it in a ``with`` statement, or close it.

    Parameters
    ----------
    path
        Raw file.
    sample
        Rows that are reduced at once: they tell read noise and light.
    calibration
        Of the whole detector.

    Raises
    ------
    InputError
        If the file cannot be used or is that of another detector.
    CalibrationError
        If the board temperature is needed and not in the file.
    """

    def __init__(self, path: str | Path, camera: Camera, calibration: Calibration, sample: RowSample, config: IsrConfig) -> None:
        self.path, self.calibration, self.detector = Path(path), calibration, calibration.detector
        self._file = RawFile(path, camera)
        try:
            self._look(sample, config)
        except BaseException:
            self._file.close()
            raise

    def _look(self, sample: RowSample, config: IsrConfig) -> None:
        check_detector(self._file.detector, self.detector, self.path)
        self._file.read_ahead()
        try:
            temperature = board_temperature(self._file, config)
            self.sample: DetectorImage
            reduced = reduce_raw_file(self._file, sample.calibration, temperature=temperature, rows=sample.raw_rows)
            self.sample, _, constant = reduced
        except RawFormatError as error:
            raise with_path(error, self.path) from error
        amplifiers = self.detector.amplifiers
        self._coded = mapped_rows(self._file)
        # A channel whose sample is constant may still have something to say elsewhere.
        self._dead = np.array(
            [
                found and np.ptp(self._file.segment(amplifier.name)) == 0
                for found, amplifier in zip(constant, amplifiers, strict=True)
            ]
        )
        self._levels = np.empty((0, 0))
        if self.calibration.overscan.method != "row_median":
            segments = ((amplifier, self._file.segment(amplifier.name)) for amplifier in amplifiers)
            levels = [measure_overscan(counts, each, self.calibration.overscan).level for each, counts in segments]
            self._levels = np.array(levels)
        self._group = SegmentGroup.of(self.calibration, range(len(amplifiers)))

    def __enter__(self) -> Self:
        """Return the exposure itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        del self._coded

    @property
    def neighbours(self) -> int:
        """Rows beside a strip that must be read with it: pixels beside saturated ones are flagged."""
        return self.calibration.saturation_grow

    @property
    def noise_variance(self) -> FloatArray:
        """Variance that does not depend on the signal, per amplifier, electrons^2, from the sample."""
        return self.sample.noise_variance

    def read(self, strip: Strip) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
        """Return image and mask of the rows ``strip.detector_rows``, as `permil.isr.reduce` makes them.

        They are overwritten when the thread that asks asks again.

        Raises
        ------
        RawFormatError
            If they cannot be decoded.
        """
        image, mask = _MEMORY.room(strip.detector_rows.size, self.detector.nx)
        own, rows = _Exposure(self.sample.gain, self._dead, self._levels), _MEMORY.rows(self._group)
        damaged, flagged = _reduce_strip(
            self._coded, strip.first, strip.last, self._group, own, strip.detector_rows, rows, image, mask
        )
        if damaged >= 0:
            raise RawFormatError(
                f"rows {strip.first} to {strip.last - 1} of segment {self.detector.amplifiers[damaged].extname} "
                "cannot be decompressed",
                path=self.path,
                remedy="copy the file again or leave it out",
            )
        if flagged:
            for part in strip.adjoining:
                grow_saturated(mask[part], self.calibration.saturation_grow)
        return image, mask


class _Exposure(NamedTuple):
    """What differs between exposures, per segment; ``level`` per row, without elements where it is that row's median."""

    gain: FloatArray
    dead: NDArray[np.bool_]
    level: FloatArray


@njit(cache=True, nogil=True)
def _reduce_strip(
    coded: CodedRows,
    first: int,
    last: int,
    group: SegmentGroup,
    exposure: _Exposure,
    detector_rows: NDArray[np.int64],
    memory: _Rows,
    image: NDArray[np.float32],
    mask: NDArray[np.int16],
) -> tuple[int, bool]:
    """Fill image and mask; return the first segment that does not decode (-1: all do) and whether anything was flagged."""
    n_segments, n_columns = group.x_min.size, group.n_columns
    counts, measured, corrected = memory
    room, level = np.empty(n_columns, dtype=np.float32), np.zeros(n_segments)
    # Rows of the detector follow each other within a run: where a segment's rows go is found once.
    shift = np.empty(n_segments, dtype=np.int64)
    for segment in range(n_segments):
        y = group.y_first[segment] + group.y_step[segment] * first
        shift[segment] = np.searchsorted(detector_rows, y) - y
    flagged = False
    for begin in range(first, last, _ROWS_TOGETHER):
        size = min(_ROWS_TOGETHER, last - begin)
        for segment in range(n_segments):
            if not _measure(coded, begin, size, group, exposure, segment, level, counts, measured):
                return segment, False
        if group.factors.size:
            for index in range(size):
                subtract_crosstalk_row(measured[index], group.factors, room, corrected[index])
        for segment in range(n_segments):
            flagged |= _put(corrected, counts, begin, size, group, exposure, segment, shift[segment], room, image, mask)
    return -1, flagged


@njit(cache=True, nogil=True)
def _measure(
    coded: CodedRows,
    begin: int,
    size: int,
    group: SegmentGroup,
    exposure: _Exposure,
    segment: int,
    level: FloatArray,
    counts: NDArray[np.int32],
    measured: NDArray[np.float32],
) -> bool:
    """Decode rows of a segment and take level and superbias off; return whether they could be decoded."""
    bias = np.empty(group.n_columns if group.bias.size else 0, dtype=np.float32)
    first, last = group.first_column, group.first_column + group.n_columns
    left, right = group.x_min[segment], group.x_min[segment] + group.n_columns
    for index in range(size):
        own = counts[segment, index]
        if not decode_row(coded, 0, segment, begin + index, own):
            return False
        if exposure.level.size:
            level[segment] = exposure.level[segment, begin + index]
        else:
            level[segment] = median_of_counts(own[group.first_overscan : group.last_overscan], level[segment])
        if bias.size:
            y = group.y_first[segment] + group.y_step[segment] * (begin + index)
            if group.flip_x[segment]:
                copy_flipped(group.bias[y, left:right], bias)
            else:
                copy_row(group.bias[y, left:right], bias)
        to_measured(own[first:last], level[segment], bias, measured[index, segment])
    return True


@njit(cache=True, nogil=True)
def _put(
    adu: NDArray[np.float32],
    counts: NDArray[np.int32],
    begin: int,
    size: int,
    group: SegmentGroup,
    exposure: _Exposure,
    segment: int,
    shift: int,
    room: NDArray[np.float32],
    image: NDArray[np.float32],
    mask: NDArray[np.int16],
) -> bool:
    """Turn rows of a segment into electrons where they lie on the detector; return whether anything was flagged."""
    first, last = group.first_column, group.first_column + group.n_columns
    left, right = group.x_min[segment], group.x_min[segment] + group.n_columns
    response, flip = response_of(group, segment, exposure.gain[segment]), group.flip_x[segment]
    found = False
    for index in range(size):
        y = group.y_first[segment] + group.y_step[segment] * (begin + index)
        copy_row(group.static_mask[y, left:right], mask[y + shift, left:right])
        if flip:
            flagged = to_electrons(adu[index, segment], response, room)
            copy_flipped(room, image[y + shift, left:right])
        else:
            flagged = to_electrons(adu[index, segment], response, image[y + shift, left:right])
        flagged |= any_saturated(counts[segment, index, first:last], group.saturation_adu)
        if flagged:
            planes = np.zeros(right - left, dtype=np.int16)
            flag_response(adu[index, segment], response, planes)
            flag_saturated(counts[segment, index, first:last], group.saturation_adu, planes)
            mask[y + shift, left:right] |= planes[::-1] if flip else planes[::1]
        if exposure.dead[segment]:
            image[y + shift, left:right] = np.nan
            mask[y + shift, left:right] |= _NO_DATA
        found |= flagged
    return found
