"""Serial overscan: the level under the signal, row by row, and the read noise.

The level of a row is noise itself, and common to all pixels of that row: `Overscan.level_variance` is its variance. It belongs
into the variance of every pixel (as a diagonal term; the correlation along the row is not carried).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from permil._kernels import isr as kernels
from permil.camera import Amplifier
from permil.errors import ConfigError
from permil.isr.lost_rows import LostRuns, lost_runs

FloatArray = NDArray[np.float64]
OverscanMethod = Literal["row_median", "row_mean", "smoothed", "constant"]

MINIMUM_COLUMNS = 3
# Variance of rounding to whole counts (uniform distribution of width 1).
DIGITISATION_VARIANCE = 1.0 / 12.0
_CLIP = 6.0
_ROWS_FOR_DEVIATION = 64


@dataclass(frozen=True)
class OverscanOptions:
    """How the level is taken from the serial overscan.

    Parameters
    ----------
    method
        ``row_median``, ``row_mean``, ``smoothed`` (running mean of the row medians) or ``constant``.
    skip_first, skip_last
        Leading columns (deferred charge) and trailing columns that are left out; the defaults are those of eotest.
    window
        Rows in the running mean of ``smoothed``.
    """

    method: OverscanMethod = "row_median"
    skip_first: int = 5
    skip_last: int = 2
    window: int = 31


@dataclass(frozen=True)
class Overscan:
    """What the serial overscan of one segment tells, all in adu.

    Parameters
    ----------
    level
        Level of each active row, shape (ny,); where a row has lost it, that of its neighbours.
    level_variance
        Variance of the level of one row.
    read_noise, read_noise_err
        Read noise with rounding to whole counts included, and its standard error.
    mean_level
        Mean of the levels that were measured; 0 if none was.
    lost
        Pixels without a measurement; see `permil.isr.lost_rows`.
    """

    level: FloatArray
    level_variance: float
    read_noise: float
    read_noise_err: float
    mean_level: float
    lost: LostRuns


def native_counts(raw: NDArray[Any]) -> NDArray[np.int32]:
    """Return raw counts as native 32-bit integers (FITS files are big-endian), C-contiguous; no copy when they are already."""
    return np.ascontiguousarray(raw, dtype=np.int32)


def median_variance_factor(size: int) -> float:
    r"""Return the variance of the median of `size` normal deviates in units of their variance.

    :math:`\pi / (2 n + \pi - 2)`: exact for n = 1 and for large n (:math:`\pi / 2n`), within 2 % between (Kendall & Stuart,
    Advanced Theory of Statistics, vol. 1, section 14.6, give the large-n limit).
    """
    return float(np.pi / (2 * size + np.pi - 2))


def measure_overscan(
    raw: NDArray[Any], amplifier: Amplifier, options: OverscanOptions | None = None, *, saturation_adu: float = np.inf
) -> Overscan:
    """Measure level and read noise in the serial overscan of the active rows of a raw segment.

    Parameters
    ----------
    raw
        Whole raw segment, adu, shape (ny_raw, nx_raw).
    amplifier
        Where its overscan lies.
    options
        Method and columns.
    saturation_adu
        Raw count from which a pixel is saturated.

    Raises
    ------
    ConfigError
        If too few overscan columns are left.
    """
    options = OverscanOptions() if options is None else options
    native, columns = native_counts(raw), amplifier.data_slices[1]
    lost = lost_runs(native, amplifier.ny, columns, saturation_adu)
    measured = np.ones(amplifier.ny, dtype=bool)
    measured[lost[lost[:, 2] - lost[:, 1] == amplifier.nx, 0]] = False
    counts, overscan = native[amplifier.serial_overscan_slices[0]], overscan_columns(amplifier, options)
    medians, deviations = row_medians(counts, overscan, measured, deviation_step(amplifier.ny))
    moments = clipped_moments(counts, overscan, measured, medians, clip_limit(deviations))
    means = moments.row_means
    if measured.any() and not measured.all():
        row, good = np.arange(amplifier.ny), np.flatnonzero(measured)
        medians, means = (np.interp(row, good, levels[good]) for levels in (medians, means))
    read_noise, read_noise_err = noise_with_error(moments.variance, moments.freedom)
    level, level_variance = _level(options, overscan.stop - overscan.start, medians, means, moments)
    mean_level = float(level[measured].mean()) if measured.any() else 0.0
    return Overscan(level, level_variance, read_noise, read_noise_err, mean_level, lost)


def overscan_columns(amplifier: Amplifier, options: OverscanOptions) -> slice:
    """Return the overscan columns of a raw segment that are used.

    Raises
    ------
    ConfigError
        If too few are left.
    """
    _, columns = amplifier.serial_overscan_slices
    first, last = columns.start + options.skip_first, columns.stop - options.skip_last
    if last - first < MINIMUM_COLUMNS:
        raise ConfigError(
            f"amplifier {amplifier.name} has {amplifier.serial_overscan} overscan columns, of which "
            f"{options.skip_first} + {options.skip_last} are skipped",
            remedy=f"leave at least {MINIMUM_COLUMNS} columns (isr.overscan_skip_first, isr.overscan_skip_last)",
            value=(options.skip_first, options.skip_last),
        )
    return slice(first, last)


def clip_limit(deviations: FloatArray) -> float:
    """Return from which deviation a count of the overscan is an outlier, for median absolute deviations of a sample of rows."""
    # The typical deviation is a whole number of counts: half a count more keeps the clip off the noise itself.
    return _CLIP * (1.4826 * (float(np.median(deviations)) if deviations.size else 0.0) + 0.5)


def noise_with_error(variance: float, freedom: int) -> tuple[float, float]:
    """Return the read noise and its standard error (NaN when unknown) from a variance and its degrees of freedom."""
    read_noise = float(np.sqrt(variance))
    return read_noise, float(read_noise / np.sqrt(2 * freedom)) if freedom > 0 else np.nan


def row_median_variance(variance: float, n_columns: int) -> float:
    """Return the variance of the median of the counts of a row: a median of whole counts is a whole count."""
    return variance * median_variance_factor(n_columns) + DIGITISATION_VARIANCE


def _level(
    options: OverscanOptions, n_columns: int, medians: FloatArray, means: FloatArray, moments: ClippedMoments
) -> tuple[FloatArray, float]:
    """Return level per row and the variance of one of them for the chosen method."""
    if options.method == "row_mean":
        return means, moments.variance / n_columns
    if options.method == "constant":
        return np.full(medians.size, moments.mean), moments.variance / max(moments.kept, 1)
    median_variance = row_median_variance(moments.variance, n_columns)
    if options.method == "row_median":
        return medians, median_variance
    window = min(options.window, medians.size)
    return running_mean(medians, window), median_variance / window


def running_mean(samples: FloatArray, window: int) -> FloatArray:
    """Return the mean over `window` samples around each one; at the ends over those that exist."""
    sums = np.concatenate([[0.0], np.cumsum(samples - samples[0])])
    centre = np.arange(samples.size)
    first = np.maximum(centre - window // 2, 0)
    stop = np.minimum(centre - window // 2 + window, samples.size)
    return samples[0] + (sums[stop] - sums[first]) / (stop - first)


def row_medians(
    counts: NDArray[np.int32], columns: slice, measured: NDArray[np.bool_], step: int
) -> tuple[FloatArray, FloatArray]:
    """Return the median of each row that was measured (0 else), and every ``step`` rows the median absolute deviation from it.

    Parameters
    ----------
    counts
        Raw rows, C-contiguous.
    columns
        Those of the overscan.
    """
    medians, deviations = np.empty(measured.size), np.empty(-(-measured.size // step))
    n_deviations = kernels.row_medians(counts, (columns.start, columns.stop), measured, step, medians, deviations)
    return medians, deviations[:n_deviations]


def deviation_step(n_rows: int) -> int:
    """Return the step of the rows in which the typical deviation is measured."""
    return max(1, n_rows // _ROWS_FOR_DEVIATION)


@dataclass(frozen=True)
class ClippedMoments:
    """Counts of an overscan without outliers: mean of each row and of all, variance within rows, its degrees of freedom, counts kept."""

    row_means: FloatArray
    mean: float
    variance: float
    freedom: int
    kept: int


def clipped_moments(
    counts: NDArray[np.int32], columns: slice, measured: NDArray[np.bool_], centre: FloatArray, limit: float
) -> ClippedMoments:
    """Return the moments of the counts of measured rows that deviate from ``centre`` by no more than ``limit``.

    Parameters
    ----------
    counts, columns, measured
        See `row_medians`.
    centre
        Of each row, a multiple of 1/2.
    """
    kept, (total, squares) = np.empty(measured.size, dtype=np.int64), np.empty((2, measured.size))
    kernels.clip_rows(counts, (columns.start, columns.stop), measured, centre, limit, kept, total, squares)
    number = np.maximum(kept, 1)
    means = centre + total / number
    # Rows are added in their order, so that stacks, which see few rows at a time, have the same bits.
    all_kept, freedom = int(kept.sum()), int((kept - (kept > 0)).sum())
    about_means = _sum_in_order(squares - total * total / number)
    mean = centre[0] + _sum_in_order(kept * (means - centre[0])) / max(all_kept, 1) if measured.size else 0.0
    return ClippedMoments(means, float(mean), about_means / freedom if freedom > 0 else 0.0, freedom, all_kept)


def _sum_in_order(addends: FloatArray) -> float:
    return float(np.cumsum(addends)[-1]) if addends.size else 0.0
