"""A single exposure that is never in memory as a whole: its file is open, and strips of it are reduced when they are asked for."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from permil._kernels import isr as kernels
from permil.camera import Camera
from permil.config.isr import IsrConfig
from permil.errors import RawFormatError
from permil.exposures import Checksums, RawFile
from permil.exposures.coded_rows import mapped_rows
from permil.isr.calibration import Calibration
from permil.isr.exposure_stack import check_detector, with_path
from permil.isr.lost_rows import LostRuns, describe_lost
from permil.isr.masks import grow_saturated
from permil.isr.overscan import measure_overscan
from permil.isr.reduce import DetectorImage, reduce_raw_file
from permil.isr.row_sample import RowSample
from permil.isr.segment_group import SegmentGroup
from permil.isr.stage import board_temperature
from permil.isr.strip import Strip

FloatArray = NDArray[np.float64]


class _Memory(threading.local):
    """Of each thread: image and mask of a strip; fresh memory for each strip would cost as much time as filling it."""

    def __init__(self) -> None:
        self.image, self.mask = np.empty((0, 0), dtype=np.float32), np.empty((0, 0), dtype=np.int16)

    def for_strip(self, n_rows: int, n_columns: int) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
        """Return image and mask for a strip; their previous content is overwritten."""
        if self.image.shape[0] < n_rows or self.image.shape[1] != n_columns:
            self.image, self.mask = np.empty((n_rows, n_columns), dtype=np.float32), np.empty((n_rows, n_columns), dtype=np.int16)
        return self.image[:n_rows], self.mask[:n_rows]


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
    checksums
        See `permil.exposures.RawFile`.

    Raises
    ------
    InputError
        If the file cannot be used or is that of another detector.
    CalibrationError
        If the board temperature is needed and not in the file.
    """

    def __init__(
        self,
        path: str | Path,
        camera: Camera,
        calibration: Calibration,
        sample: RowSample,
        config: IsrConfig,
        *,
        checksums: Checksums = "refuse",
    ) -> None:
        self.path, self.calibration, self.detector = Path(path), calibration, calibration.detector
        self._file = RawFile(path, camera, checksums=checksums)
        try:
            self._look(sample, config)
        except BaseException:
            self._file.close()
            raise

        self._lost: list[LostRuns] = []

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
            saturation = self.calibration.saturation_adu
            options = self.calibration.overscan
            levels = [measure_overscan(counts, each, options, saturation_adu=saturation).level for each, counts in segments]
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

    @property
    def damage(self) -> tuple[str, ...]:
        """What the file does not hold in the strips that were read, a sentence for each segment; it is masked."""
        if not self._lost:
            return ()
        # Neighbours of strips are read twice.
        lost = np.unique(np.concatenate(self._lost), axis=0)
        own = [lost[(lost[:, 0] == index) & ~dead, 1:] for index, dead in enumerate(self._dead)]
        return describe_lost(own, self.detector.amplifiers)

    def read(self, strip: Strip) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
        """Return image and mask of the rows ``strip.detector_rows``, as `permil.isr.reduce` makes them.

        They are overwritten when the thread that asks asks again.

        Raises
        ------
        RawFormatError
            If they cannot be decoded.
        """
        image, mask = _MEMORY.for_strip(strip.detector_rows.size, self.detector.nx)
        # Rows of the detector follow each other within a strip: where those of a segment go is found once.
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
