"""Superbias: the mean of bias exposures after overscan subtraction, outliers rejected by the noise model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.camera import Detector
from permil.isr.calibration import Calibration
from permil.isr.gains import unit_gains
from permil.isr.overscan import OverscanOptions
from permil.isr.reduce import DetectorImage
from permil.isr.stack import DEFAULT_THRESHOLD, FrameStack, Stack

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class SuperbiasSummary:
    """A stack of bias frames in adu, and per amplifier what their overscans tell (adu).

    The read noise is the root mean square over the frames.
    """

    stack: Stack
    overscan_level: FloatArray
    read_noise: FloatArray
    read_noise_err: FloatArray


def bias_calibration(detector: Detector, *, overscan: OverscanOptions) -> Calibration:
    """Return the calibration with which bias exposures are reduced: overscan subtracted, in adu, nothing flagged."""
    return Calibration(
        detector=detector,
        gains=unit_gains(detector),
        static_mask=np.zeros(detector.shape, dtype=np.int16),
        saturation=np.full(len(detector.amplifiers), np.inf),
        saturation_adu=np.inf,
        overscan=overscan,
    )


def stack_superbias(
    frames: Iterable[DetectorImage], detector: Detector, *, threshold: float = DEFAULT_THRESHOLD
) -> SuperbiasSummary | None:
    """Stack bias frames one by one; None when there is none.

    Parameters
    ----------
    frames
        Reduced with `bias_calibration`.
    threshold
        Rejection threshold, in sigma; see `FrameStack`.
    """
    frame_stack = FrameStack(detector, threshold=threshold, poisson=False)
    level, noise_square, noise_error_square = (np.zeros(len(detector.amplifiers)) for _ in range(3))
    count = 0
    for frame in frames:
        frame_stack.add(frame.image, frame.mask, frame.noise_variance, light=1.0)
        level += frame.overscan_level
        noise_square += frame.read_noise**2
        noise_error_square += np.nan_to_num(frame.read_noise_err) ** 2
        count += 1
    if count == 0:
        return None
    return SuperbiasSummary(
        stack=frame_stack.result(),
        overscan_level=level / count,
        read_noise=np.sqrt(noise_square / count),
        read_noise_err=np.sqrt(noise_error_square) / count,
    )
