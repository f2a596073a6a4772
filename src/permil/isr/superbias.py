"""Superbias: the mean of bias exposures after overscan subtraction, outliers rejected by the noise model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.camera import Detector
from permil.isr.calibration import Calibration
from permil.isr.file_stack import FileStack
from permil.isr.gains import unit_gains
from permil.isr.overscan import OverscanOptions

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class BiasSummary:
    """What the overscans of bias exposures tell per amplifier, adu; the read noise is the root mean square over the exposures."""

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


def summarise_bias(stacked: FileStack) -> BiasSummary:
    """Return the means over the exposures of a stack that was made with `bias_calibration`."""
    count = len(stacked.read_noise)
    return BiasSummary(
        overscan_level=stacked.overscan_level.mean(axis=0),
        read_noise=np.sqrt((stacked.read_noise**2).mean(axis=0)),
        read_noise_err=np.sqrt((np.nan_to_num(stacked.read_noise_err) ** 2).sum(axis=0)) / count,
    )
