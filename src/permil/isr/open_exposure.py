"""Parts of a single exposure: regular samples of its rows, and strips that are reduced on request from an open file."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from permil._kernels import isr as kernels
from permil.arrays import Float32Array, FloatArray, IntArray
from permil.camera import Camera, Detector
from permil.camera.frames import segment_to_detector
from permil.errors import RawFormatError
from permil.exposures import Checksums, RawFile
from permil.exposures.segment_rows import mapped_rows
from permil.isr.calibration.calibration import Calibration, Superbias
from permil.isr.calibration.gains import board_temperature
from permil.isr.calibration.masks import grow_saturated
from permil.isr.overscan import LostRuns, describe_lost, measure_overscan
from permil.isr.reduce import DetectorImage, check_detector, reduce_raw_file, with_path


@dataclass(frozen=True)
class RowSample:
    """Every n-th row, presented as a smaller detector: enough for means over many pixels, in a fraction of the time.

    It consists of the same raw rows of all segments, since these are read at the same time and couple by crosstalk. Saturation spreads to
    neighbours within the sample only: its effect from a row that is not read must be found as an outlier.

    Parameters
    ----------
    calibration
        Calibration of a detector that consists of these rows.
    raw_rows
        Rows of a raw segment in the sample; None for whole segments.
    detector_rows : ndarray of int, shape (n,)
        Row in the whole detector of each row of the sample.
    """

    calibration: Calibration
    raw_rows: slice | None
    detector_rows: IntArray

    @property
    def regular_rows(self) -> list[slice]:
        """Rows of the detector as regular slices, in order: the rows of a detector that is read from two sides may have several."""
        steps = np.diff(self.detector_rows)
        found, begin = [], 0
        while begin < self.detector_rows.size:
            step = int(steps[begin]) if begin < steps.size else 1
            same = steps[begin:] == step
            end = begin + 1 + (int(np.argmin(same)) if not same.all() else same.size)
            found.append(slice(int(self.detector_rows[begin]), int(self.detector_rows[end - 1]) + 1, step))
            begin = end
        return found

    @classmethod
    def of(cls, calibration: Calibration, step: int) -> RowSample:
        """Return the sample of every ``step``-th row; smoothed overscan levels differ from those of the whole detector."""
        detector = calibration.detector
        if step == 1:
            return cls(calibration, None, np.arange(detector.ny))
        begin = step // 2
        in_detector = []
        for amplifier in detector.amplifiers:
            raw_rows = np.arange(begin, amplifier.ny, step)
            in_detector.append(np.sort(segment_to_detector(amplifier, np.zeros(raw_rows.size), raw_rows)[1]).astype(np.int64))
        detector_rows = np.unique(np.concatenate(in_detector))
        amplifiers = tuple(
            replace(amplifier, ny=rows.size, parallel_overscan=0, y_min=int(np.searchsorted(detector_rows, rows[0])))
            for amplifier, rows in zip(detector.amplifiers, in_detector, strict=True)
        )
        bias = calibration.superbias
        sampled = replace(
            calibration,
            detector=replace(detector, ny=detector_rows.size, amplifiers=amplifiers),
            static_mask=calibration.static_mask[detector_rows],
            superbias=None if bias is None else Superbias(bias.image[detector_rows], bias.variance[detector_rows]),
        )
        return cls(sampled, slice(begin, detector.amplifiers[0].ny, step), detector_rows)


@dataclass(frozen=True, eq=False)
class Strip:
    """The same raw rows of all segments, reduced and used together: one run of rows of the detector, or two from opposite sides.

    Parameters
    ----------
    first, last
        Raw rows from ``first`` to ``last - 1`` are read, including neighbours.
    runs
        Rows of the detector without neighbours.
    detector_rows : ndarray of int, shape (n,)
        Rows of the detector with neighbours, ascending.
    """

    first: int
    last: int
    runs: tuple[slice, ...]
    detector_rows: IntArray

    @cached_property
    def own_rows(self) -> tuple[slice, ...]:
        """Positions of the runs within ``detector_rows``."""
        begins = np.searchsorted(self.detector_rows, [run.start for run in self.runs])
        return tuple(slice(begin, begin + run.stop - run.start) for begin, run in zip(begins.tolist(), self.runs, strict=True))

    @cached_property
    def adjoining(self) -> tuple[slice, ...]:
        """Parts of ``detector_rows`` with consecutive rows of the detector."""
        return tuple(slice(*bounds) for bounds in _bounds(self.detector_rows))


def strips_of(detector: Detector, *, rows: int, neighbours: int) -> list[Strip]:
    """Return the strips of a detector; every row belongs to one.

    Parameters
    ----------
    rows
        Raw rows of a strip.
    neighbours
        Rows beside them that are read as well.
    """
    n_rows = detector.amplifiers[0].ny
    strips = []
    for begin in range(0, n_rows, rows):
        end = min(begin + rows, n_rows)
        first, last = max(begin - neighbours, 0), min(end + neighbours, n_rows)
        own = _detector_rows(detector, begin, end)
        runs = tuple(slice(int(own[start]), int(own[stop - 1]) + 1) for start, stop in _bounds(own))
        strips.append(Strip(first, last, runs, _detector_rows(detector, first, last)))
    return strips


def _detector_rows(detector: Detector, first: int, last: int) -> IntArray:
    raw_rows = np.arange(first, last)
    places = [segment_to_detector(amplifier, np.zeros(raw_rows.size), raw_rows)[1] for amplifier in detector.amplifiers]
    return np.unique(np.concatenate(places)).astype(np.int64)


def _bounds(rows: IntArray) -> list[tuple[int, int]]:
    """Return begin and end of each run of consecutive numbers."""
    breaks = (np.flatnonzero(np.diff(rows) != 1) + 1).tolist()
    return list(zip([0, *breaks], [*breaks, rows.size], strict=True))


class _StripBuffer(threading.local):
    """Buffers of each thread for image and mask of a strip: fresh memory for each strip would cost as much time as filling it."""

    def __init__(self) -> None:
        self.image, self.mask = np.empty((0, 0), dtype=np.float32), np.empty((0, 0), dtype=np.int16)

    def for_strip(self, n_rows: int, n_columns: int) -> tuple[Float32Array, NDArray[np.int16]]:
        """Return the buffers for image and mask of a strip."""
        if self.image.shape[0] < n_rows or self.image.shape[1] != n_columns:
            self.image, self.mask = np.empty((n_rows, n_columns), dtype=np.float32), np.empty((n_rows, n_columns), dtype=np.int16)
        return self.image[:n_rows], self.mask[:n_rows]


_BUFFER = _StripBuffer()
FEW_PIXELS = 2**20
"""Pixels of the largest detector of which an exposure is reduced as a whole, when it is opened."""


class OpenExposure:
    """An open exposure whose strips are reduced on request; use it in a ``with`` statement, or close it.

    Parameters
    ----------
    path
        Raw file.
    sample
        Rows that are reduced when the file is opened, for read noise and light.
    calibration
        Calibration of the whole detector.
    checksums
        See `permil.exposures.RawFile`.

    Raises
    ------
    InputError
        If the file cannot be used or holds another detector.
    CalibrationError
        If the board temperature is needed and missing in the file.
    """

    def __init__(
        self,
        path: str | Path,
        camera: Camera,
        calibration: Calibration,
        sample: RowSample,
        *,
        checksums: Checksums = "refuse",
    ) -> None:
        self.path, self.calibration, self.detector = Path(path), calibration, calibration.detector
        self._file = RawFile(path, camera, checksums=checksums)
        try:
            self._look(sample)
        except BaseException:
            self._file.close()
            raise

        self._lost: list[LostRuns] = []
        self._whole: tuple[Float32Array, NDArray[np.int16]] | None = None
        if self.detector.nx * self.detector.ny <= FEW_PIXELS:
            try:
                image, mask = self.read(strips_of(self.detector, rows=self.detector.amplifiers[0].ny, neighbours=0)[0])
            except BaseException:
                self.close()
                raise
            self._whole = image.copy(), mask.copy()

    def _look(self, sample: RowSample) -> None:
        check_detector(self._file.detector, self.detector, self.path)
        self._file.read_ahead()
        try:
            temperature = board_temperature(self._file, self.calibration)
            self.sample: DetectorImage
            reduced = reduce_raw_file(self._file, sample.calibration, temperature=temperature, rows=sample.raw_rows)
            self.sample, _, constant = reduced
        except RawFormatError as error:
            raise with_path(error, self.path) from error
        amplifiers = self.detector.amplifiers
        self._coded = mapped_rows(self._file)
        # A channel with a constant sample may vary elsewhere.
        self._dead = np.array(
            [
                found and np.ptp(self._file.segment(amplifier.name)) == 0
                for found, amplifier in zip(constant, amplifiers, strict=True)
            ]
        )
        self._levels = np.empty((0, 0))
        if self.calibration.overscan.method != "row_median":
            segments = ((amplifier, self._file.segment(amplifier.name)) for amplifier in amplifiers)
            saturation = self.calibration.saturation_adu
            options = self.calibration.overscan
            levels = [measure_overscan(counts, each, options, saturation_adu=saturation).level for each, counts in segments]
            self._levels = np.array(levels)
        self._group = self.calibration.whole_group

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
        """Rows beside a strip that must be read with it, since pixels beside saturated ones are flagged."""
        return self.calibration.saturation_grow

    @property
    def noise_variance(self) -> FloatArray:
        """Variance that does not depend on the signal, per amplifier, electrons^2, from the sample."""
        return self.sample.noise_variance

    @property
    def damage(self) -> tuple[str, ...]:
        """Masked rows that the file has lost, in the strips read so far, a sentence for each segment."""
        if not self._lost:
            return ()
        # Neighbours of strips are read twice.
        lost = np.unique(np.concatenate(self._lost), axis=0)
        own = [lost[(lost[:, 0] == index) & ~dead, 1:] for index, dead in enumerate(self._dead)]
        return describe_lost(own, self.detector.amplifiers)

    def read(self, strip: Strip) -> tuple[Float32Array, NDArray[np.int16]]:
        """Return image and mask of the rows ``strip.detector_rows``, with the bits of `permil.isr.reduce`.

        The next call in the same thread overwrites them.

        Raises
        ------
        RawFormatError
            If the rows cannot be decoded.
        """
        image, mask = _BUFFER.for_strip(strip.detector_rows.size, self.detector.nx)
        if self._whole is not None:
            image[:], mask[:] = (plane[strip.detector_rows] for plane in self._whole)
            return image, mask
        # Rows of the detector are consecutive within a strip: the place of the first row of a segment is enough.
        first_row = self._group.y_first + self._group.y_step * strip.first
        damaged, flagged, lost = kernels.reduce_coded(
            self._coded,
            (strip.first, strip.last),
            self._group,
            self.sample.gain,
            self._dead,
            np.ascontiguousarray(self._levels[:, strip.first : strip.last]),
            np.searchsorted(strip.detector_rows, first_row),
            image,
            mask,
        )
        if len(lost):
            self._lost.append(lost)
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
