"""The mean signal of a small bunch of pixels in one exposure: scan nodes, without reducing the rest of the detector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permil.camera.frames import box_in_detector, take_segment
from permil.errors import CalibrationError
from permil.isr.calibration import Calibration
from permil.isr.overscan import measure_overscan
from permil.isr.reduce import is_dead, raw_segment
from permil.products.masks import MaskPlane

FloatArray = NDArray[np.float64]


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
    """Measure the mean signal of a square bunch of pixels.

    Parameters
    ----------
    segments
        Raw segments by amplifier name; those that ``calibration.needed_segments(amplifier)`` names are read.
    calibration
        Of this detector.
    amplifier, row, column, box
        The bunch: centre in the trimmed raw segment and side in pixels, as `permil.camera.frames.box_in_detector`.
    temperature
        Readout-board temperature, degree C.
    threshold
        Pixels off the median by this many sigma are left out. Sigma holds the noise and `prnu`, so that pixels are not left out
        for their own response, which would change the set of pixels from exposure to exposure.
    prnu
        Relative rms that the responses of pixels are allowed.

    Raises
    ------
    CameraError
        If the amplifier is unknown or the bunch leaves its segment.
    RawFormatError
        If a needed segment is missing or has another size.
    CalibrationError
        If no good pixel is left for a reason other than saturation, or the board temperature is needed and not known.
    """
    detector = calibration.detector
    target = detector.amplifier(amplifier)
    box_in_detector(target, row=row, column=column, box=box)
    rows = slice(row - box // 2, row - box // 2 + box)
    columns = slice(column - box // 2, column - box // 2 + box)
    index = detector.amplifiers.index(target)
    gain = float(calibration.gain_at(temperature)[index])

    adu = {}
    for name in calibration.needed_segments(amplifier):
        source = detector.amplifier(name)
        raw = raw_segment(segments, detector, source)
        overscan = measure_overscan(raw, source, calibration.overscan)
        adu[name] = raw[source.data_slices][rows, columns] - overscan.level[rows, np.newaxis]
        if calibration.superbias is not None:
            adu[name] -= take_segment(source, calibration.superbias.image)[rows, columns]
        if source is target:
            counts, target_overscan = raw[source.data_slices][rows, columns], overscan
            dead = is_dead(raw, overscan)

    measured = adu[target.name]
    correction = calibration.crosstalk_correction()
    if correction is not None:
        names = [source.name for source in detector.amplifiers]
        measured = measured - sum(correction[index, names.index(name)] * sources for name, sources in adu.items())
    signal = gain * calibration.curve(index)(measured)

    read_noise = gain * target_overscan.read_noise
    saturated = (counts >= calibration.saturation_adu) | (signal >= calibration.saturation[index])
    bad = (take_segment(target, calibration.static_mask)[rows, columns] & MaskPlane.BAD) != 0
    usable = ~saturated & ~bad
    if dead or not (usable | saturated).any():
        raise CalibrationError(
            f"the bunch at row {row}, column {column} of {detector.name} {target.name} has no usable pixel",
            remedy="choose another reference in the section beam, or check the defect table and the segment's overscan",
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


def _near_median(
    signal: FloatArray, usable: NDArray[np.bool_], *, read_noise: float, threshold: float, prnu: float
) -> NDArray[np.bool_]:
    """Return where the signal is within the noise and the allowed response of its median."""
    median = float(np.median(signal[usable]))
    deviation = np.abs(signal - median)
    model = read_noise**2 + max(median, 0.0) + (prnu * median) ** 2
    # Structure in the bunch (gradients, dust) can exceed the model: never clip below what the bulk of the pixels does.
    measured = (1.4826 * float(np.median(deviation[usable]))) ** 2
    return deviation <= threshold * np.sqrt(max(model, measured))
