"""Raw counts of one exposure to electrons on the detector.

The chain that is undone: sensor -> amplifier (gain, non-linearity) -> crosstalk between the outputs -> converter (level, bias
structure, noise). So, from the far end: overscan level, superbias, crosstalk, linearity, gain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from permil.camera import Amplifier, Detector
from permil.camera.frames import take_segment
from permil.errors import RawFormatError
from permil.isr.calibration import Calibration
from permil.isr.crosstalk import subtract_crosstalk
from permil.isr.linearity import evaluate_piece
from permil.isr.masks import grow_saturated
from permil.isr.overscan import Overscan, measure_overscan, native_counts
from permil.products.masks import MaskPlane

FloatArray = NDArray[np.float64]

_SAT = int(MaskPlane.SAT)
_SUSPECT = int(MaskPlane.SUSPECT)


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
    """

    detector: Detector
    image: NDArray[np.float32]
    mask: NDArray[np.int16]
    read_noise: FloatArray
    read_noise_err: FloatArray
    level_variance: FloatArray
    overscan_level: FloatArray
    gain: FloatArray

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
    segments: Mapping[str, NDArray[Any]], calibration: Calibration, *, temperature: float | None = None
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

    Returns
    -------
    DetectorImage
        A segment that does not vary at all (a dead channel) is NO_DATA.

    Raises
    ------
    RawFormatError
        If a segment is missing or has another size than the camera's.
    CalibrationError
        If the board temperature is needed and not known.
    """
    detector = calibration.detector
    gain = calibration.gain_at(temperature)
    image = np.empty(detector.shape, dtype=np.float32)
    mask = calibration.static_mask.copy()
    overscans = [_subtract_overscan(segments, detector, amplifier, calibration, image, mask) for amplifier in detector.amplifiers]
    if calibration.superbias is not None:
        image -= calibration.superbias.image
    correction = calibration.crosstalk_correction()
    if correction is not None:
        subtract_crosstalk(image, detector, correction)
    for index, amplifier in enumerate(detector.amplifiers):
        curve = calibration.curve(index)
        _to_electrons(
            image[amplifier.slices],
            mask[amplifier.slices],
            curve.knots,
            curve.coefficients,
            curve.limit,
            gain[index],
            calibration.saturation[index],
        )
    grow_saturated(mask, calibration.saturation_grow)
    for amplifier, overscan in zip(detector.amplifiers, overscans, strict=True):
        if is_dead(segments[amplifier.name], overscan):
            image[amplifier.slices] = np.nan
            mask[amplifier.slices] |= MaskPlane.NO_DATA
    return DetectorImage(
        detector=detector,
        image=image,
        mask=mask,
        read_noise=gain * [overscan.read_noise for overscan in overscans],
        read_noise_err=gain * [overscan.read_noise_err for overscan in overscans],
        level_variance=gain**2 * [overscan.level_variance for overscan in overscans],
        overscan_level=np.array([overscan.level.mean() for overscan in overscans]),
        gain=gain,
    )


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


def _subtract_overscan(
    segments: Mapping[str, NDArray[Any]],
    detector: Detector,
    amplifier: Amplifier,
    calibration: Calibration,
    image: NDArray[np.float32],
    mask: NDArray[np.int16],
) -> Overscan:
    """Put one segment, overscan subtracted, into image and mask."""
    raw = raw_segment(segments, detector, amplifier)
    overscan = measure_overscan(raw, amplifier, calibration.overscan)
    _place(
        raw[amplifier.data_slices],
        overscan.level,
        calibration.saturation_adu,
        take_segment(amplifier, image),
        take_segment(amplifier, mask),
    )
    return overscan


@njit(cache=True, nogil=True)
def _place(
    raw: NDArray[np.int32],
    level: FloatArray,
    saturation_adu: float,
    image: NDArray[np.float32],
    mask: NDArray[np.int16],
) -> None:
    """Subtract the level of each row and flag saturated counts."""
    for row in range(raw.shape[0]):
        for column in range(raw.shape[1]):
            image[row, column] = raw[row, column] - level[row]
            if raw[row, column] >= saturation_adu:
                mask[row, column] |= _SAT


@njit(cache=True, nogil=True)
def _to_electrons(
    image: NDArray[np.float32],
    mask: NDArray[np.int16],
    knots: FloatArray,
    coefficients: FloatArray,
    limit: float,
    gain: float,
    saturation: float,
) -> None:
    """Apply linearity and gain in place; flag what is saturated or beyond the linearity curve."""
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            adu = image[row, column]
            signal = gain * evaluate_piece(knots, coefficients, adu)
            image[row, column] = signal
            if signal >= saturation:
                mask[row, column] |= _SAT
            if adu > limit:
                mask[row, column] |= _SUSPECT
