"""Raw counts of one exposure to electrons on the detector.

The chain that is undone: sensor -> amplifier (gain, non-linearity) -> crosstalk between the outputs -> converter (level, bias
structure, noise). So, from the far end: overscan level, superbias, crosstalk, linearity, gain.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from permil.borrowed import borrowed
from permil.camera import Amplifier, Detector
from permil.errors import RawFormatError
from permil.exposures import RawFile
from permil.exposures.coded_rows import RowBuffer
from permil.exposures.some_rows import read_rows
from permil.isr.calibration import Calibration
from permil.isr.crosstalk import subtract_crosstalk
from permil.isr.lost_rows import LostRuns, describe_lost
from permil.isr.masks import grow_saturated
from permil.isr.overscan import Overscan, measure_overscan, native_counts
from permil.isr.rooms import Rooms
from permil.isr.rows import (
    Placement,
    Response,
    any_saturated,
    copy_flipped,
    copy_row,
    flag_response,
    flag_saturated,
    to_electrons,
    to_measured,
)
from permil.products.masks import MaskPlane

FloatArray = NDArray[np.float64]
_NO_DATA = int(MaskPlane.NO_DATA)
_OWN = threading.local()
"""Memory of each thread for a segment."""


@dataclass(frozen=True)
class DetectorImage:
    """One reduced exposure of one detector; arrays per amplifier are in the order of ``detector.amplifiers``.

    Parameters
    ----------
    detector
        The detector.
    image
        Signal in electrons (adu, taken for electrons, with ``isr.gains: none``), DM frame, shape (ny, nx), float32; NaN without data.
    mask
        `MaskPlane` bits, int16.
    read_noise, read_noise_err
        Electrons, measured in the overscan of this exposure, rounding to whole counts included.
    level_variance
        Variance of the overscan level of a row, electrons^2, common to all pixels of a row.
    overscan_level
        Mean level, adu.
    gain
        Gains that were applied, e-/adu.
    damage
        What the file does not hold, a sentence for each segment; it is masked.
    """

    detector: Detector
    image: NDArray[np.float32]
    mask: NDArray[np.int16]
    read_noise: FloatArray
    read_noise_err: FloatArray
    level_variance: FloatArray
    overscan_level: FloatArray
    gain: FloatArray
    damage: tuple[str, ...] = ()

    @property
    def noise_variance(self) -> FloatArray:
        """Variance that does not depend on the signal, per amplifier: read noise and overscan level."""
        return self.read_noise**2 + self.level_variance

    def variance(self) -> NDArray[np.float32]:
        """Return the variance plane: Poisson, read noise and overscan level; that of the superbias is common to all exposures.

        The photon term is the signal itself (0 for negative signals), which is what a single exposure knows.
        """
        variance = np.maximum(self.image, np.float32(0))
        for amplifier, constant in zip(self.detector.amplifiers, self.noise_variance, strict=True):
            variance[amplifier.slices] += np.float32(constant)
        return variance


def reduce_exposure(
    segments: Mapping[str, NDArray[Any]], calibration: Calibration, *, temperature: float | None = None, threads: int = 1
) -> DetectorImage:
    """Reduce one exposure of one detector.

    Parameters
    ----------
    segments
        Whole raw segments by amplifier name, adu, as read (not trimmed, not flipped).
    calibration
        Of this detector.
    temperature
        Readout-board temperature, degree C; needed when the gain depends on it.
    threads
        Segments that are reduced at the same time.

    Returns
    -------
    DetectorImage
        A segment that does not vary at all (a dead channel) is NO_DATA, and so is what a damaged file does not hold
        (`permil.isr.lost_rows`).

    Raises
    ------
    RawFormatError
        If a segment is missing or has another size than the camera's.
    CalibrationError
        If the board temperature is needed and not known.
    """

    def segment(amplifier: Amplifier) -> NDArray[np.int32]:
        return raw_segment(segments, calibration.detector, amplifier)

    return _reduce_segments(segment, calibration, temperature=temperature, threads=threads)[0]


def reduce_raw_file(
    raw_file: RawFile,
    calibration: Calibration,
    *,
    temperature: float | None = None,
    threads: int = 1,
    rooms: Rooms | None = None,
    rows: slice | None = None,
) -> tuple[DetectorImage, tuple[Overscan, ...], tuple[bool, ...]]:
    """Reduce an open file; a decoded segment is reduced while it is in the cache of its core.

    Parameters and errors are those of `reduce_exposure`; ``rooms`` may be used for image and mask of the result. Where only some
    ``rows`` of the raw segments are read the calibration is that of these rows (`permil.isr.row_sample`).

    Returns
    -------
    DetectorImage
        The exposure.
    overscans
        One per amplifier.
    dead
        Which channels do not vary at all.
    """

    def segment(amplifier: Amplifier) -> NDArray[np.int32]:
        if getattr(_OWN, "pixels", np.empty(0)).shape != (amplifier.ny_raw, amplifier.nx_raw):
            _OWN.pixels, _OWN.buffer = np.empty((amplifier.ny_raw, amplifier.nx_raw), dtype=np.int32), RowBuffer()
        if rows is None:
            return raw_file.segment(amplifier.name, _OWN.pixels)
        return read_rows(raw_file, amplifier.name, rows, buffer=_OWN.buffer, pixels=_OWN.pixels)

    return _reduce_segments(segment, calibration, temperature=temperature, threads=threads, rooms=rooms, rows=rows)


def _reduce_segments(
    segment: Callable[[Amplifier], NDArray[np.int32]],
    calibration: Calibration,
    *,
    temperature: float | None,
    threads: int,
    rooms: Rooms | None = None,
    rows: slice | None = None,
) -> tuple[DetectorImage, tuple[Overscan, ...], tuple[bool, ...]]:
    """Reduce segments that are fetched one by one, each one once, by several threads."""
    detector = calibration.detector
    gain = calibration.gain_at(temperature)
    rooms = rooms or Rooms()
    image, mask = rooms.empty(detector.shape, np.float32), rooms.empty(detector.shape, np.int16)
    correction = calibration.crosstalk_correction()

    def respond(index: int) -> bool:
        place = Placement.of(detector.amplifiers[index])
        return _respond(image, mask, place, detector.amplifiers[index].ny, calibration.response(index, gain[index]))

    def reduce_one(index: int) -> tuple[Overscan, bool, bool]:
        amplifier = detector.amplifiers[index]
        counts = segment(amplifier)
        overscan = measure_overscan(counts, amplifier, calibration.overscan, saturation_adu=calibration.saturation_adu)
        rows, columns = amplifier.data_slices
        flagged = _measure(
            counts,
            (rows.start, columns.start),
            overscan.level,
            overscan.lost,
            calibration.bias_image,
            calibration.static_mask,
            Placement.of(amplifier),
            calibration.saturation_adu,
            calibration.response(index, gain[index]),
            correction is None,
            image,
            mask,
        )
        return overscan, flagged, is_dead(counts, overscan)

    indices = range(len(detector.amplifiers))
    with ThreadPoolExecutor(threads) as pool:
        in_turn = pool.map if threads > 1 else map
        overscans, flagged, dead = zip(*in_turn(reduce_one, indices), strict=True)
        if correction is not None:
            subtract_crosstalk(image, detector, correction)
            flagged = (*flagged, *in_turn(respond, indices))
    if any(flagged):
        grow_saturated(mask, calibration.saturation_grow)
    for overscan, amplifier in zip(overscans, detector.amplifiers, strict=True):
        if len(overscan.lost):
            _drop_lost(image, mask, overscan.lost, Placement.of(amplifier))
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


def raw_segment(segments: Mapping[str, NDArray[Any]], detector: Detector, amplifier: Amplifier) -> NDArray[np.int32]:
    """Return a raw segment after checking that it is there and has the camera's size.

    Raises
    ------
    RawFormatError
        If it is missing or has another size.
    """
    if amplifier.name not in segments:
        raise RawFormatError(
            f"segment {amplifier.extname} of detector {detector.name} is missing",
            remedy="take the file again or leave the exposure out",
            detector=detector.name,
            amplifier=amplifier.name,
        )
    raw = segments[amplifier.name]
    if raw.shape != (amplifier.ny_raw, amplifier.nx_raw):
        raise RawFormatError(
            f"segment {amplifier.extname} of detector {detector.name} has {raw.shape[0]} rows by {raw.shape[1]} columns, "
            f"not {amplifier.ny_raw} by {amplifier.nx_raw}",
            remedy="check that the camera of the configuration is that of the data",
            value=raw.shape,
            allowed=(amplifier.ny_raw, amplifier.nx_raw),
        )
    return native_counts(raw)


def is_dead(raw: NDArray[Any], overscan: Overscan) -> bool:
    """Return whether a channel is dead: all counts of the segment are the same."""
    return overscan.read_noise == 0 and bool(np.ptp(raw) == 0)


@njit(cache=True, nogil=True)
def _measure(
    counts: NDArray[np.int32],
    first_pixel: tuple[int, int],
    level: FloatArray,
    lost: LostRuns,
    bias: NDArray[np.float32],
    static_mask: NDArray[np.int16],
    place: Placement,
    saturation_adu: float,
    response: Response,
    to_response: bool,
    image: NDArray[np.float32],
    mask: NDArray[np.int16],
) -> bool:
    """Put a segment into the image, level and bias subtracted, and its flags into the mask; return whether anything was flagged.

    With ``to_response`` it becomes electrons at once, while a row is in the nearest cache.
    """
    counts, lost, bias, static_mask, response, image, mask = borrowed((counts, lost, bias, static_mask, response, image, mask))
    # Parts of rows of whole arrays: those of a part of an array are not known to be contiguous, and make no vector instructions.
    first_row, first_column = first_pixel
    flipped, measured = np.empty(place.n_columns, dtype=np.int32), np.empty(place.n_columns, dtype=np.float32)
    found, next_lost = False, 0
    for row in range(level.size):
        y, first, last = place.y_first + place.y_step * row, place.x_min, place.x_min + place.n_columns
        ordered = counts[first_row + row, first_column : first_column + place.n_columns]
        if place.flip_x:
            copy_flipped(ordered, flipped)
            ordered = flipped
        to_measured(ordered, level[row], bias[y, first:last] if bias.size else bias[0], measured)
        if next_lost < lost.shape[0] and lost[next_lost, 0] == row:
            begin, end = _flipped(lost[next_lost], place)
            for column in range(begin, end):
                measured[column] = 0.0
            next_lost += 1
        copy_row(static_mask[y, first:last], mask[y, first:last])
        if not to_response:
            copy_row(measured, image[y, first:last])
        elif to_electrons(measured, response, image[y, first:last]):
            flag_response(measured, response, mask[y, first:last])
            found = True
        if any_saturated(ordered, saturation_adu):
            flag_saturated(ordered, saturation_adu, mask[y, first:last])
            found = True
    return found


@njit(cache=True, nogil=True)
def _flipped(run: NDArray[np.int64], place: Placement) -> tuple[int, int]:
    """Return first and last + 1 column of a lost run in the order of the detector."""
    return (place.n_columns - run[2], place.n_columns - run[1]) if place.flip_x else (run[1], run[2])


@njit(cache=True, nogil=True)
def _drop_lost(image: NDArray[np.float32], mask: NDArray[np.int16], lost: LostRuns, place: Placement) -> None:
    """Mask what holds no measurement."""
    for run in range(lost.shape[0]):
        y = place.y_first + place.y_step * lost[run, 0]
        begin, end = _flipped(lost[run], place)
        for column in range(place.x_min + begin, place.x_min + end):
            image[y, column] = np.nan
            mask[y, column] |= _NO_DATA


@njit(cache=True, nogil=True)
def _respond(image: NDArray[np.float32], mask: NDArray[np.int16], place: Placement, n_rows: int, response: Response) -> bool:
    """Turn adu of a segment into electrons in place; return whether anything was flagged."""
    image, mask, response = borrowed((image, mask, response))
    found = False
    measured = np.empty(place.n_columns, dtype=np.float32)
    for row in range(n_rows):
        y, first, last = place.y_first + place.y_step * row, place.x_min, place.x_min + place.n_columns
        copy_row(image[y, first:last], measured)
        if to_electrons(measured, response, image[y, first:last]):
            flag_response(measured, response, mask[y, first:last])
            found = True
    return found
