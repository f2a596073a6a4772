"""Serial overscan: the level under the signal, row by row, and the read noise.

The level of a row is noise itself, and common to all pixels of that row: `Overscan.level_variance` is its variance. It belongs
into the variance of every pixel (as a diagonal term; the correlation along the row is not carried).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from permil.camera import Amplifier
from permil.errors import ConfigError
from permil.isr.lost_rows import LostRuns, lost_runs
from permil.isr.rows import clipped_sums, median_deviation, median_of_counts

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
    """Return raw counts as native 32-bit integers (FITS files are big-endian); no copy when they are already."""
    return np.asarray(raw, dtype=np.int32)


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
    lost = lost_runs(native, amplifier.ny, columns.start, columns.stop, saturation_adu)
    measured = np.ones(amplifier.ny, dtype=bool)
    measured[lost[lost[:, 2] - lost[:, 1] == amplifier.nx, 0]] = False
    counts = native[amplifier.serial_overscan_slices[0], overscan_columns(amplifier, options)]
    medians, deviations = _row_medians(counts, measured)
    limit = clip_limit(deviations)
    means, clipped_mean, variance, freedom, kept = _clipped_moments(counts, measured, medians, limit)
    if measured.any() and not measured.all():
        row, good = np.arange(amplifier.ny), np.flatnonzero(measured)
        medians, means = (np.interp(row, good, levels[good]) for levels in (medians, means))
    read_noise, read_noise_err = noise_with_error(variance, freedom)
    level, level_variance = _level(options, counts.shape, medians, means, clipped_mean, variance, kept)
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
    options: OverscanOptions,
    shape: tuple[int, ...],
    medians: FloatArray,
    means: FloatArray,
    clipped_mean: float,
    variance: float,
    kept: int,
) -> tuple[FloatArray, float]:
    """Return level per row and the variance of one of them for the chosen method."""
    n_rows, n_columns = shape
    if options.method == "row_mean":
        return means, variance / n_columns
    if options.method == "constant":
        return np.full(n_rows, clipped_mean), variance / max(kept, 1)
    median_variance = row_median_variance(variance, n_columns)
    if options.method == "row_median":
        return medians, median_variance
    window = min(options.window, n_rows)
    return running_mean(medians, window), median_variance / window


def running_mean(samples: FloatArray, window: int) -> FloatArray:
    """Return the mean over `window` samples around each one; at the ends over those that exist."""
    sums = np.concatenate([[0.0], np.cumsum(samples - samples[0])])
    centre = np.arange(samples.size)
    first = np.maximum(centre - window // 2, 0)
    stop = np.minimum(centre - window // 2 + window, samples.size)
    return samples[0] + (sums[stop] - sums[first]) / (stop - first)


@njit(cache=True, nogil=True)
def _row_medians(counts: NDArray[np.int32], measured: NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    """Return the median of each row that was measured, and for a sample of them the median absolute deviation from it."""
    n_rows = counts.shape[0]
    step = deviation_step(n_rows)
    medians, deviations = np.zeros(n_rows), np.empty((n_rows + step - 1) // step)
    n_deviations = 0
    for row in range(n_rows):
        if not measured[row]:
            continue
        medians[row] = median_of_counts(counts[row], medians[max(row - 1, 0)])
        if row % step == 0:
            deviations[n_deviations] = median_deviation(counts[row], medians[row])
            n_deviations += 1
    return medians, deviations[:n_deviations]


@njit(cache=True, nogil=True)
def deviation_step(n_rows: int) -> int:
    """Return the step of the rows in which the typical deviation is measured."""
    return max(1, n_rows // _ROWS_FOR_DEVIATION)


@njit(cache=True, nogil=True)
def _clipped_moments(
    counts: NDArray[np.int32], measured: NDArray[np.bool_], centre: FloatArray, limit: float
) -> tuple[FloatArray, float, float, int, int]:
    """Return row means, the overall mean, the variance within rows, its degrees of freedom and how many counts were kept."""
    n_rows = counts.shape[0]
    means = np.empty(n_rows)
    total, squares, freedom, kept_all = 0.0, 0.0, 0, 0
    for row in range(n_rows):
        means[row] = centre[row]
        if not measured[row]:
            continue
        kept, row_sum, row_squares = clipped_sums(counts[row], centre[row], limit)
        if kept > 0:
            means[row] += row_sum / kept
            squares += row_squares - row_sum * row_sum / kept
            freedom += kept - 1
            kept_all += kept
            total += kept * (means[row] - centre[0])
    overall = centre[0] + total / kept_all if kept_all > 0 else centre[0]
    return means, overall, (squares / freedom if freedom > 0 else 0.0), freedom, kept_all
