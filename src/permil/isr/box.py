"""The mean signal of a small bunch of pixels in one exposure: scan nodes, without reducing the rest of the detector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permil.camera import Amplifier, ReferenceBox
from permil.camera.frames import box_in_detector, take_segment
from permil.errors import CalibrationError, RawFormatError
from permil.isr.calibration import Calibration
from permil.isr.lost_rows import describe_lost, lost_runs
from permil.isr.overscan import Overscan, measure_overscan, overscan_columns
from permil.isr.reduce import is_dead, raw_segment
from permil.products.masks import MaskPlane

FloatArray = NDArray[np.float64]
RowReader = Callable[[Amplifier, slice], NDArray[np.int32]]
"""Returns a range of rows of the raw segment of an amplifier, adu."""


@dataclass(frozen=True)
class BoxSignal:
    """Mean signal of a bunch of pixels.

    Parameters
    ----------
    signal, error
        Mean over the good pixels and its standard error, electrons (adu with ``isr.gains: none``). The error holds photon noise,
        read noise and the noise of the overscan levels; what is common to all exposures of a scan (superbias, gain, response of
        the pixels) is not in it.
    count
        Pixels in the mean.
    saturated
        Pixels that are saturated.
    rejected
        Pixels that were left out because they deviate (cosmic rays).
    read_noise
        Electrons.
    """

    signal: float
    error: float
    count: int
    saturated: int
    rejected: int
    read_noise: float


def reduce_box(
    segments: Mapping[str, NDArray[Any]],
    calibration: Calibration,
    *,
    amplifier: str,
    row: int,
    column: int,
    box: int,
    temperature: float | None = None,
    threshold: float = 5.0,
    prnu: float = 0.01,
) -> BoxSignal:
    """Measure the mean signal of a square bunch of pixels of segments that are in memory.

    Parameters
    ----------
    segments
        Raw segments by amplifier name; those that ``calibration.needed_segments(amplifier)`` names are read.
    amplifier, row, column, box
        The bunch: centre in the trimmed raw segment and side in pixels, as `permil.camera.frames.box_in_detector`.
    calibration, temperature, threshold, prnu
        See `measure_box`.

    Raises
    ------
    CameraError, CalibrationError
        See `measure_box`.
    RawFormatError
        If a needed segment is missing or has another size; and see `measure_box`.
    """
    detector = calibration.detector
    place = ReferenceBox(detector.name, amplifier, row, column, box)

    def read(source: Amplifier, rows: slice) -> NDArray[np.int32]:
        return raw_segment(segments, detector, source)[rows]

    return measure_box(read, calibration, place, temperature=temperature, threshold=threshold, prnu=prnu)


def measure_box(
    read: RowReader,
    calibration: Calibration,
    place: ReferenceBox,
    *,
    temperature: float | None = None,
    threshold: float = 5.0,
    prnu: float = 0.01,
) -> BoxSignal:
    """Measure the mean signal of a square bunch of pixels.

    Parameters
    ----------
    read
        Is asked for the whole segment of the bunch, since all its rows tell the read noise, and for what is needed of those
        whose crosstalk it sees.
    calibration
        Of this detector; of superbias and mask only the pixels of the bunch are looked at, in each of these segments.
    place
        The bunch.
    temperature
        Readout-board temperature, degree C.
    threshold
        Pixels off the median by this many sigma are left out; with infinity none is. Sigma holds the noise and `prnu`, so that pixels
        are not left out for their own response, which would change the set of pixels from exposure to exposure.
    prnu
        Relative rms that the responses of pixels are allowed.

    Raises
    ------
    CameraError
        If the amplifier is unknown or the bunch leaves its segment.
    CalibrationError
        If all pixels are defects, or the board temperature is needed and not known.
    RawFormatError
        If the segment is blank, or rows of the bunch hold no measurement (`permil.isr.lost_rows`).
    """
    detector = calibration.detector
    target = detector.amplifier(place.amp)
    rows, columns = box_in_segment(target, place)
    index = detector.amplifiers.index(target)
    gain = float(calibration.gain_at(temperature)[index])

    raw = read(target, slice(0, target.ny_raw))
    target_overscan = measure_overscan(raw, target, calibration.overscan, saturation_adu=calibration.saturation_adu)
    _require_rows(raw, target_overscan, target, rows)
    counts = raw[target.data_slices][rows, columns]
    adu = {}
    for name in calibration.needed_segments(target.name):
        source = detector.amplifier(name)
        if source is target:
            adu[name] = counts - target_overscan.level[rows, np.newaxis]
        else:
            adu[name] = _counts_over_level(read, source, rows, columns, calibration)
        if calibration.superbias is not None:
            adu[name] -= take_segment(source, calibration.superbias.image)[rows, columns]

    measured = adu[target.name]
    correction = calibration.crosstalk_correction()
    if correction is not None:
        names = [source.name for source in detector.amplifiers]
        measured = measured - sum(correction[index, names.index(name)] * sources for name, sources in adu.items())
    signal = gain * calibration.curve(index)(measured)

    read_noise = gain * target_overscan.read_noise
    saturated = (counts >= calibration.saturation_adu) | (signal >= calibration.saturation[index])
    bad = (take_segment(target, calibration.static_mask)[rows, columns] & MaskPlane.BAD) != 0
    held = np.ones(raw[target.data_slices].shape, dtype=bool)
    for number, begin, end in target_overscan.lost[:, :3]:
        held[number, begin:end] = False
    usable = ~saturated & ~bad & held[rows, columns]
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
    # The level of a row is common to its pixels: it averages over rows, not over pixels.
    weights = kept.sum(axis=1) / count
    level_variance = gain**2 * target_overscan.level_variance * float((weights**2).sum())
    error = float(np.sqrt((max(mean, 0.0) + read_noise**2) / count + level_variance))
    return BoxSignal(mean, error, count, int(saturated.sum()), int((usable & ~kept).sum()), read_noise)


def box_in_segment(amplifier: Amplifier, place: ReferenceBox) -> tuple[slice, slice]:
    """Return rows and columns of a bunch in the trimmed raw segment of any amplifier of its size.

    Raises
    ------
    CameraError
        If the bunch leaves the segment.
    """
    box_in_detector(amplifier, row=place.row, column=place.column, box=place.box)
    rows, columns = (slice(centre - place.box // 2, centre - place.box // 2 + place.box) for centre in (place.row, place.column))
    return rows, columns


def _require_rows(raw: NDArray[np.int32], overscan: Overscan, amplifier: Amplifier, rows: slice) -> None:
    """Raise an error if a segment is blank, or does not hold some rows of a bunch."""
    if is_dead(raw, overscan):
        raise RawFormatError(
            f"segment {amplifier.extname} is blank: all its counts are {raw[0, 0]}", remedy="copy the file again or leave it out"
        )
    inside = (overscan.lost[:, 0] >= rows.start) & (overscan.lost[:, 0] < rows.stop)
    for sentence in describe_lost([overscan.lost[inside]], [amplifier]):
        raise RawFormatError(f"the bunch of pixels is incomplete: {sentence}")


def _counts_over_level(
    read: RowReader, amplifier: Amplifier, rows: slice, columns: slice, calibration: Calibration
) -> FloatArray:
    """Return a bunch of pixels over the level of its rows, adu; 0 where the file does not hold it."""
    options, saturation = calibration.overscan, calibration.saturation_adu
    active_rows, active_columns = amplifier.data_slices
    if options.method != "row_median":
        raw = read(amplifier, slice(0, amplifier.ny_raw))
        overscan = measure_overscan(raw, amplifier, options, saturation_adu=saturation)
        level, lost = overscan.level[rows], overscan.lost
        raw = raw[active_rows][rows]
        first = rows.start
    else:
        # The level of a row needs no other row.
        raw = read(amplifier, slice(active_rows.start + rows.start, active_rows.start + rows.stop))
        level = np.median(raw[:, overscan_columns(amplifier, options)], axis=1)
        lost = lost_runs(np.ascontiguousarray(raw), len(raw), active_columns.start, active_columns.stop, saturation)
        first = 0
    adu = raw[:, active_columns] - level[:, np.newaxis]
    for row, begin, end in lost[:, :3] - [first, 0, 0]:
        if 0 <= row < len(adu):
            adu[row, begin:end] = 0
    return adu[:, columns]


def _near_median(
    signal: FloatArray, usable: NDArray[np.bool_], *, read_noise: float, threshold: float, prnu: float
) -> NDArray[np.bool_]:
    """Return where the signal is within the noise and the allowed response of its median."""
    if np.isinf(threshold):
        return usable
    median = float(np.median(signal[usable]))
    deviation = np.abs(signal - median)
    model = read_noise**2 + max(median, 0.0) + (prnu * median) ** 2
    # Structure in the bunch (gradients, dust) can exceed the model: never clip below what the bulk of the pixels does.
    measured = (1.4826 * float(np.median(deviation[usable]))) ** 2
    return deviation <= threshold * np.sqrt(max(model, measured))
