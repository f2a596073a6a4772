"""Raw counts of one exposure to electrons on the detector.

The signal chain is: sensor -> amplifier (gain, non-linearity) -> crosstalk between the outputs -> converter (level, bias
structure, noise). It is inverted from its end: overscan level, superbias, crosstalk, linearity, gain.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permil._kernels import isr as kernels
from permil.arrays import ArrayPool, Float32Array, FloatArray, Int32Array
from permil.camera import Camera, Detector
from permil.engine import threaded_map
from permil.errors import InputError, PermilError
from permil.exposures import Checksums, RawFile
from permil.exposures.segment_rows import read_rows
from permil.isr.calibration.calibration import Calibration, SegmentGroup
from permil.isr.calibration.gains import board_temperature, board_thermometers
from permil.isr.calibration.masks import grow_saturated
from permil.isr.overscan import Overscan, describe_lost, measure_overscan
from permil.products.masks import MaskPlane

# Raw rows that a thread reduces at a time if all segments are reduced together.
_ROWS_TOGETHER = 128
_OWN = threading.local()
"""Buffer of each thread for a segment."""


@dataclass(frozen=True)
class DetectorImage:
    """One reduced exposure of one detector; arrays per amplifier are in the order of ``detector.amplifiers``.

    Parameters
    ----------
    detector
        The detector.
    image
        Signal in electrons (adu, treated as electrons, with ``isr.gains: none``), DM frame, shape (ny, nx), float32; NaN without data.
    mask
        `MaskPlane` bits, int16.
    read_noise, read_noise_err
        Electrons, measured in the overscan of this exposure, including rounding to whole counts.
    level_variance
        Variance of the overscan level of a row, electrons^2, common to all pixels of a row.
    overscan_level
        Mean level, adu.
    gain
        Applied gains, e-/adu.
    damage
        Masked rows that the file has lost, a sentence for each segment.
    thermometers
        Temperatures of the readout board, degree C; NaN for a missing one, empty if the headers were not read.
    """

    detector: Detector
    image: Float32Array
    mask: NDArray[np.int16]
    read_noise: FloatArray
    read_noise_err: FloatArray
    level_variance: FloatArray
    overscan_level: FloatArray
    gain: FloatArray
    damage: tuple[str, ...] = ()
    thermometers: tuple[float, ...] = ()

    @property
    def noise_variance(self) -> FloatArray:
        """Variance that does not depend on the signal, per amplifier: read noise and overscan level."""
        return self.read_noise**2 + self.level_variance

    def variance(self) -> Float32Array:
        """Return the variance plane: Poisson, read noise and overscan level, without the superbias, which all exposures share.

        The photon term is the signal itself (0 for negative signals), the only estimate from a single exposure.
        """
        variance = np.maximum(self.image, np.float32(0))
        for amplifier, constant in zip(self.detector.amplifiers, self.noise_variance, strict=True):
            variance[amplifier.slices] += np.float32(constant)
        return variance


def reduce_raw_file(
    raw_file: RawFile,
    calibration: Calibration,
    *,
    temperature: float | None = None,
    pool: ArrayPool | None = None,
    rows: slice | None = None,
) -> tuple[DetectorImage, tuple[Overscan, ...], tuple[bool, ...]]:
    """Reduce an open file; each segment is decoded once, and without crosstalk reduced while it is in the cache of its core.

    Parameters
    ----------
    calibration
        Of this detector, or of the ``rows`` of the raw segments that are read (`permil.isr.open_exposure.RowSample`).
    temperature
        Readout-board temperature, degree C; needed when the gain depends on it.
    pool
        Pool for image and mask.
    rows
        Rows of the raw segments to read, if not all.

    Returns
    -------
    DetectorImage
        Pixels of a segment with constant counts (a dead channel), and those that a damaged file has lost (`permil.isr.overscan`), are
        NO_DATA.
    overscans
        One per amplifier.
    dead
        Whether each channel has constant counts.

    Raises
    ------
    RawFormatError
        If a segment is missing or cannot be decoded.
    CalibrationError
        If the board temperature is needed and not known.
    """
    detector = calibration.detector
    gain = calibration.gain_at(temperature)
    pool = pool or ArrayPool()
    image, mask = pool.empty(detector.shape, np.float32), pool.empty(detector.shape, np.int16)
    segments = _Segments(raw_file, calibration, calibration.groups, gain, image, mask, rows)
    overscans, dead, has_saturated = segments.reduce_each() if calibration.crosstalk is None else segments.reduce_together(pool)
    if has_saturated:
        grow_saturated(mask, calibration.saturation_grow)
    for index in np.flatnonzero(dead):
        part = detector.amplifiers[index].slices
        image[part] = np.nan
        mask[part] |= MaskPlane.NO_DATA
    reduced = DetectorImage(
        detector=detector,
        image=image,
        mask=mask,
        read_noise=gain * [overscan.read_noise for overscan in overscans],
        read_noise_err=gain * [overscan.read_noise_err for overscan in overscans],
        level_variance=gain**2 * [overscan.level_variance for overscan in overscans],
        overscan_level=np.array([overscan.mean_level for overscan in overscans]),
        gain=gain,
        damage=describe_lost(
            [overscan.lost[: 0 if is_blank else None] for overscan, is_blank in zip(overscans, dead, strict=True)],
            detector.amplifiers,
            rows=rows,
        ),
    )
    return reduced, overscans, dead


@dataclass(frozen=True)
class _Segments:
    """The segments of an open file, which are reduced into the image and the mask of the detector."""

    raw_file: RawFile
    calibration: Calibration
    groups: list[SegmentGroup]
    gain: FloatArray
    image: Float32Array
    mask: NDArray[np.int16]
    rows: slice | None

    def reduce_each(self) -> tuple[tuple[Overscan, ...], tuple[bool, ...], bool]:
        """Reduce one segment after the other; return overscans, dead channels, and whether pixels are saturated."""

        def reduce_one(index: int) -> tuple[Overscan, bool, bool]:
            shape = self._shape(index)
            if getattr(_OWN, "pixels", np.empty(0)).shape != shape:
                _OWN.pixels = np.empty(shape, dtype=np.int32)
            counts, overscan, dead = self._measure(index, _OWN.pixels)
            return overscan, dead, self._to_electrons(index, [counts], [overscan], slice(0, len(counts)))

        overscans, dead, saturated = zip(*threaded_map(reduce_one, range(len(self.gain))), strict=True)
        return overscans, dead, any(saturated)

    def reduce_together(self, pool: ArrayPool) -> tuple[tuple[Overscan, ...], tuple[bool, ...], bool]:
        """Reduce rows of all segments at a time, for crosstalk; return the same as `reduce_each`."""

        def measure_one(index: int) -> tuple[Int32Array, Overscan, bool]:
            return self._measure(index, pool.empty(self._shape(index), np.int32))

        counts, overscans, dead = zip(*threaded_map(measure_one, range(len(self.gain))), strict=True)
        count = len(counts[0])
        parts = [slice(first, min(first + _ROWS_TOGETHER, count)) for first in range(0, count, _ROWS_TOGETHER)]
        saturated = list(threaded_map(lambda part: self._to_electrons(0, counts, overscans, part), parts))
        return overscans, dead, any(saturated)

    def _shape(self, index: int) -> tuple[int, int]:
        amplifier = self.calibration.detector.amplifiers[index]
        return amplifier.ny_raw, amplifier.nx_raw

    def _measure(self, index: int, buffer: Int32Array) -> tuple[Int32Array, Overscan, bool]:
        """Read a segment; return the counts of its data rows, its overscan, and whether the channel is dead."""
        calibration, amplifier = self.calibration, self.calibration.detector.amplifiers[index]
        if self.rows is None:
            counts = self.raw_file.segment(amplifier.name, buffer)
        else:
            counts = read_rows(self.raw_file, amplifier.name, self.rows, pixels=buffer)
        overscan = measure_overscan(counts, amplifier, calibration.overscan, saturation_adu=calibration.saturation_adu)
        return counts[amplifier.data_slices[0]], overscan, is_dead(counts, overscan)

    def _to_electrons(self, group: int, counts: Sequence[Int32Array], overscans: Sequence[Overscan], part: slice) -> bool:
        """Reduce some rows of a group of segments; return whether pixels are saturated."""
        segments = self.groups[group]
        levels = np.array([overscan.level[part] for overscan in overscans])
        own_rows = [each[part] for each in counts]
        gain = self.gain[segments.amplifiers]
        return kernels.reduce_segments(own_rows, (part.start, part.stop), segments, gain, levels, self.image, self.mask)[1]


def is_dead(raw: NDArray[Any], overscan: Overscan) -> bool:
    """Return whether a channel is dead: all counts of the segment are the same."""
    return overscan.read_noise == 0 and bool(np.ptp(raw) == 0)


def reduce_file(
    path: str | Path,
    camera: Camera,
    calibration: Calibration,
    *,
    checksums: Checksums = "refuse",
    pool: ArrayPool | None = None,
    rows: slice | None = None,
) -> DetectorImage:
    """Read and reduce one raw file.

    Parameters
    ----------
    checksums
        See `permil.exposures.RawFile`.
    pool
        Pool for image and mask of the result.
    rows
        Rows of the raw segments to read, if not all; the calibration is that of these rows (`RowSample`).

    Raises
    ------
    InputError
        If the file cannot be used or is of another detector, or a required board temperature is missing.
    """
    with RawFile(path, camera, checksums=checksums) as raw_file:
        check_detector(raw_file.detector, calibration.detector, path)
        # Also for single rows: a disk reads a whole file faster than its parts.
        raw_file.read_ahead()
        try:
            temperature = board_temperature(raw_file, calibration)
            reduced, *_ = reduce_raw_file(raw_file, calibration, temperature=temperature, pool=pool, rows=rows)
            return replace(reduced, thermometers=board_thermometers(raw_file, calibration))
        except PermilError as error:
            raise with_path(error, path) from error


def check_detector(found: Detector, expected: Detector, path: str | Path) -> None:
    """Check that a file holds a detector.

    Raises
    ------
    InputError
        If it holds another one.
    """
    if found.name != expected.name:
        raise InputError(
            f"the file holds detector {found.name}, not {expected.name}",
            path=path,
            remedy="check the list of files",
            value=found.name,
        )


def with_path(error: PermilError, path: str | Path) -> PermilError:
    """Return an error of an algorithm with the file added."""
    return type(error)(error.what, path=error.path or path, remedy=error.remedy, **error.data)
