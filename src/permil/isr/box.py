"""The mean signal of a reference box of pixels in one exposure: scan nodes, without reducing the rest of the detector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from permil._kernels import isr as kernels
from permil.arrays import BoolArray, FloatArray, Int32Array
from permil.camera import Amplifier, ReferenceBox
from permil.camera.frames import box_in_detector
from permil.errors import CalibrationError, RawFormatError
from permil.isr.calibration.calibration import Calibration, SegmentGroup
from permil.isr.overscan import Overscan, describe_lost, measure_overscan, overscan_columns
from permil.isr.reduce import is_dead
from permil.products.masks import MaskPlane, is_usable

RowReader = Callable[[Amplifier, slice], Int32Array]
"""Returns a range of rows of the raw segment of an amplifier, adu."""


@dataclass(frozen=True)
class BoxSignal:
    """Mean signal of a reference box.

    Parameters
    ----------
    signal, error
        Mean over the good pixels and its standard error, electrons (adu with ``isr.gains: none``). The error contains photon noise,
        read noise and the noise of the overscan levels; errors common to all exposures of a scan (superbias, gain, response of
        the pixels) are excluded.
    count
        Number of pixels in the mean.
    saturated
        Number of saturated pixels.
    rejected
        Number of outlying pixels (cosmic rays).
    read_noise
        Electrons.
    """

    signal: float
    error: float
    count: int
    saturated: int
    rejected: int
    read_noise: float


def measure_box(
    read: RowReader,
    calibration: Calibration,
    place: ReferenceBox,
    *,
    temperature: float | None = None,
    threshold: float = 5.0,
    prnu: float = 0.01,
) -> BoxSignal:
    """Measure the mean signal of a reference box.

    Parameters
    ----------
    read
        Reads the whole segment of the box, for its read noise, and the rows needed of the segments that couple to it by crosstalk.
    calibration
        Calibration of this detector.
    place
        The box.
    temperature
        Readout-board temperature, degree C.
    threshold
        Pixels that differ from the median by this many sigma are rejected; infinity turns the rejection off. Sigma contains the noise
        and `prnu`: a rejection of pixels for their own response would change the set of pixels from exposure to exposure.
    prnu
        Relative rms of the responses of pixels.

    Raises
    ------
    CameraError
        If the amplifier is unknown or the box leaves its segment.
    CalibrationError
        If all pixels are defects, or the board temperature is needed and not known.
    RawFormatError
        If the segment is blank, or rows of the box hold no measurement (`permil.isr.overscan`).
    """
    detector = calibration.detector
    target = detector.amplifier(place.amp)
    rows, columns = box_in_segment(target, place)
    raw = read(target, slice(0, target.ny_raw))
    target_overscan = measure_overscan(raw, target, calibration.overscan, saturation_adu=calibration.saturation_adu)
    _require_rows(raw, target_overscan, target, rows)
    counts, levels = [raw[target.data_slices[0]][rows]], [target_overscan.level[rows]]
    sources = [detector.amplifier(name) for name in calibration.needed_segments(target.name)]
    for source in sources[1:]:
        source_counts, level = _counts_and_level(read, source, rows, calibration)
        counts.append(source_counts)
        levels.append(level)
    electrons, mask = np.empty((place.box, target.nx), dtype=np.float32), np.empty((place.box, target.nx), dtype=np.int16)
    group = SegmentGroup.of(calibration, [detector.amplifiers.index(source) for source in sources])
    gains = calibration.gain_at(temperature)[group.amplifiers]
    kernels.reduce_first_segment(counts, (rows.start, rows.stop), group, gains, np.array(levels), electrons, mask)
    signal, planes = electrons[:, columns].astype(np.float64), mask[:, columns]

    gain = float(gains[0])
    read_noise = gain * target_overscan.read_noise
    saturated, usable = (planes & MaskPlane.SAT) != 0, is_usable(planes)
    if not (usable | saturated).any():
        raise CalibrationError(
            f"the bunch at row {place.row}, column {place.column} of {detector.name} {target.name} has no usable pixel",
            remedy="choose another reference in the section beam, or check the defect table",
            detector=detector.name,
            amplifier=target.name,
        )
    if not usable.any():
        return BoxSignal(np.nan, np.nan, 0, int(saturated.sum()), 0, read_noise)
    kept = usable & _near_median(signal, usable, read_noise=read_noise, threshold=threshold, prnu=prnu)
    count = int(kept.sum())
    mean = float(signal[kept].mean())
    # The level of a row is common to its pixels: its noise averages over rows, not over pixels.
    weights = kept.sum(axis=1) / count
    level_variance = gain**2 * target_overscan.level_variance * float((weights**2).sum())
    error = float(np.sqrt((max(mean, 0.0) + read_noise**2) / count + level_variance))
    return BoxSignal(mean, error, count, int(saturated.sum()), int((usable & ~kept).sum()), read_noise)


def box_in_segment(amplifier: Amplifier, place: ReferenceBox) -> tuple[slice, slice]:
    """Return rows and columns of a reference box in the trimmed raw segment of any amplifier of its size.

    Raises
    ------
    CameraError
        If the box extends beyond the segment.
    """
    box_in_detector(amplifier, row=place.row, column=place.column, box=place.box)
    rows, columns = (slice(centre - place.box // 2, centre - place.box // 2 + place.box) for centre in (place.row, place.column))
    return rows, columns


def _require_rows(raw: Int32Array, overscan: Overscan, amplifier: Amplifier, rows: slice) -> None:
    """Raise an error if a segment is blank, or has lost rows of the box."""
    if is_dead(raw, overscan):
        raise RawFormatError(
            f"segment {amplifier.extname} is blank: all its counts are {raw[0, 0]}", remedy="copy the file again or leave it out"
        )
    inside = (overscan.lost[:, 0] >= rows.start) & (overscan.lost[:, 0] < rows.stop)
    for sentence in describe_lost([overscan.lost[inside]], [amplifier]):
        raise RawFormatError(f"the bunch of pixels is incomplete: {sentence}")


def _counts_and_level(
    read: RowReader, amplifier: Amplifier, rows: slice, calibration: Calibration
) -> tuple[Int32Array, FloatArray]:
    """Return some rows of a segment, and the level of each, adu."""
    options, active = calibration.overscan, amplifier.data_slices[0]
    if options.method != "row_median":
        raw = read(amplifier, slice(0, amplifier.ny_raw))
        overscan = measure_overscan(raw, amplifier, options, saturation_adu=calibration.saturation_adu)
        return np.ascontiguousarray(raw[active][rows]), overscan.level[rows]
    # The level of a row depends on that row only.
    raw = np.ascontiguousarray(read(amplifier, slice(active.start + rows.start, active.start + rows.stop)))
    return raw, np.median(raw[:, overscan_columns(amplifier, options)], axis=1)


def _near_median(signal: FloatArray, usable: BoolArray, *, read_noise: float, threshold: float, prnu: float) -> BoolArray:
    """Return where the signal agrees with its median within the noise and the allowed response."""
    if np.isinf(threshold):
        return usable
    median = float(np.median(signal[usable]))
    deviation = np.abs(signal - median)
    model = read_noise**2 + max(median, 0.0) + (prnu * median) ** 2
    # Structure in the box (gradients, dust) can exceed the model: the limit is never below the scatter of most pixels.
    measured = (1.4826 * float(np.median(deviation[usable]))) ** 2
    return deviation <= threshold * np.sqrt(max(model, measured))
