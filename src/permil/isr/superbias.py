"""Superbias: the mean of bias exposures after overscan subtraction, outliers rejected by the noise model; light that they carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.camera import Amplifier, Detector
from permil.errors import InputError
from permil.exposures import RawFile
from permil.exposures.segment_rows import read_rows
from permil.isr.calibration import Calibration
from permil.isr.file_stack import FileStack
from permil.isr.gains import unit_gains
from permil.isr.lost_rows import lost_runs
from permil.isr.overscan import OverscanOptions, overscan_columns

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


LIGHT_SIGMA, LEAST_LIGHT = 3.0, 3.0
"""Standard errors, and electrons, above which bias exposures carry light."""

_PART_OF_ROWS = 0.1
_FEWEST_ROWS = 8
_CLIP = 6.0


@dataclass(frozen=True)
class BiasLight:
    """Light in bias exposures: their last active rows over the parallel overscan, which sees none, electrons.

    Parameters
    ----------
    light : ndarray, shape (n_files, n_amplifiers)
        Of each exposure and amplifier; NaN where a segment is blank or has no parallel overscan.
    """

    light: FloatArray

    @property
    def by_file(self) -> tuple[FloatArray, FloatArray]:
        """Mean over the amplifiers of each exposure, and its standard error from their scatter."""
        found = [mean_with_error(own) for own in self.light]
        return np.array([mean for mean, _ in found]), np.array([error for _, error in found])

    @property
    def is_lit(self) -> NDArray[np.bool_]:
        """Which exposures carry light."""
        return carries_light(*self.by_file)

    @property
    def mean(self) -> tuple[float, float]:
        """Mean over all exposures and amplifiers, and its standard error from the scatter of the amplifiers."""
        known = np.isfinite(self.light)
        count = known.sum(axis=0)
        by_amplifier = np.where(known, self.light, 0.0).sum(axis=0)[count > 0] / count[count > 0]
        return mean_with_error(by_amplifier)


def carries_light(light: FloatArray, error: FloatArray) -> NDArray[np.bool_]:
    """Return where light is significant; see `LIGHT_SIGMA`."""
    with np.errstate(invalid="ignore"):
        return (light > LEAST_LIGHT) & (light > LIGHT_SIGMA * error)


def mean_with_error(values: FloatArray) -> tuple[float, float]:
    """Return the mean of finite values and its standard error; NaN for fewer than three."""
    values = values[np.isfinite(values)]
    if values.size < 3:
        return np.nan, np.nan
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(values.size))


def bias_light(files: Sequence[RawFile], detector: Detector, *, overscan: OverscanOptions) -> BiasLight:
    """Compare the last active rows of bias exposures with their parallel overscan.

    Structure along rows and columns comes from the electronics, and is the same in rows that hold pixels and in those behind them;
    each row is taken over its own serial overscan. Light is in the pixels only. Gains are the nominal ones.

    Parameters
    ----------
    files
        Open bias exposures of the detector.
    overscan
        Columns of the serial overscan that are used.
    """
    light = np.full((len(files), len(detector.amplifiers)), np.nan)
    for number, file in enumerate(files):
        for index, amplifier in enumerate(detector.amplifiers):
            if amplifier.parallel_overscan > 1:
                try:
                    light[number, index] = amplifier.gain * _light_of_segment(file, amplifier, overscan)
                except InputError:
                    # It is left out when the biases are stacked.
                    break
    return BiasLight(light)


def _light_of_segment(file: RawFile, amplifier: Amplifier, overscan: OverscanOptions) -> float:
    """Return the step between the last active rows and the parallel overscan, adu; NaN where rows hold no measurement."""
    n_rows = max(_FEWEST_ROWS, int(_PART_OF_ROWS * amplifier.ny))
    # The first rows of the overscan may hold deferred charge.
    skipped = amplifier.parallel_overscan // 2
    first = max(amplifier.ny - n_rows, 0)
    counts = np.asarray(read_rows(file, amplifier.name, slice(first, amplifier.ny_raw)), dtype=np.int32)
    columns, serial = amplifier.data_slices[1], overscan_columns(amplifier, overscan)
    if len(lost_runs(np.ascontiguousarray(counts), len(counts), columns, np.inf)):
        return np.nan
    n_active = amplifier.ny - first
    parts = (counts[:n_active], counts[n_active + skipped :])
    levels = [_clipped_mean(part[:, columns]) - _clipped_mean(part[:, serial]) for part in parts]
    return levels[0] - levels[1]


def _clipped_mean(counts: NDArray[np.int32]) -> float:
    """Return the mean of counts without cosmic rays."""
    deviation = counts - np.median(counts)
    limit = _CLIP * (1.4826 * float(np.median(np.abs(deviation))) + 0.5)
    return float(counts[np.abs(deviation) <= limit].mean())
