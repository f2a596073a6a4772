"""Serial overscan: the level of each row, the read noise, and rows that hold no measurement.

The level of a row is noisy and common to all pixels of that row: `Overscan.level_variance` is its variance. It is part of the
variance of every pixel (as a diagonal term; the correlation along the row is neglected).

An interrupted copy whose file size was set in advance leaves blocks of one value, as a rule zero. The noise of an overscan never
repeats a count a dozen times: a row whose overscan ends in equal counts has no level, and the whole row is lost. A block that ends or
lies within the active pixels of a row affects only these pixels. Rows without any noise, as a simulation may write them, step from their
light to a constant overscan exactly where the overscan begins; these are not lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from permil._kernels import isr as kernels
from permil.arrays import BoolArray, FloatArray, Int32Array
from permil.camera import Amplifier
from permil.config.isr import IsrConfig
from permil.errors import ConfigError

OverscanMethod = Literal["row_median", "row_mean", "smoothed", "constant"]

MINIMUM_COLUMNS = 3
# Variance of rounding to whole counts (uniform distribution of width 1).
DIGITISATION_VARIANCE = 1.0 / 12.0
_CLIP = 6.0
_ROWS_FOR_DEVIATION = 64


@dataclass(frozen=True)
class OverscanOptions:
    """Options of the overscan level.

    Parameters
    ----------
    method
        ``row_median``, ``row_mean``, ``smoothed`` (running mean of the row medians) or ``constant``.
    skip_first, skip_last
        Numbers of leading columns (deferred charge) and trailing columns left out; the defaults are those of eotest.
    window
        Rows in the running mean of ``smoothed``.
    """

    method: OverscanMethod = "row_median"
    skip_first: int = 5
    skip_last: int = 2
    window: int = 31


@dataclass(frozen=True)
class Overscan:
    """Level, noise and lost pixels of the serial overscan of one segment, adu.

    Parameters
    ----------
    level
        Level of each active row, shape (ny,); interpolated for lost rows.
    level_variance
        Variance of the level of one row.
    read_noise, read_noise_err
        Read noise including rounding to whole counts, and its standard error.
    mean_level
        Mean of the measured levels; 0 without any.
    lost
        Pixels without a measurement.
    """

    level: FloatArray
    level_variance: float
    read_noise: float
    read_noise_err: float
    mean_level: float
    lost: LostRuns


def native_counts(raw: NDArray[Any]) -> Int32Array:
    """Return raw counts as native 32-bit integers (FITS files are big-endian), C-contiguous; copy only if needed."""
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
        The amplifier of the segment.
    options
        Method and columns.
    saturation_adu
        Raw count from which a pixel is saturated.

    Raises
    ------
    ConfigError
        If fewer than `MINIMUM_COLUMNS` columns remain.
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
        If fewer than `MINIMUM_COLUMNS` columns remain.
    """
    _, columns = amplifier.serial_overscan_slices
    first, last = columns.start + options.skip_first, columns.stop - options.skip_last
    if last - first < MINIMUM_COLUMNS:
        raise ConfigError(
            f"amplifier {amplifier.name} has {amplifier.serial_overscan} overscan columns and "
            f"{options.skip_first} + {options.skip_last} of them are skipped",
            remedy=f"leave at least {MINIMUM_COLUMNS} columns (isr.overscan_skip_first, isr.overscan_skip_last)",
            value=(options.skip_first, options.skip_last),
        )
    return slice(first, last)


def clip_limit(deviations: FloatArray) -> float:
    """Return the deviation from which a count of the overscan is an outlier, from median absolute deviations of a sample of rows."""
    # The typical deviation is a whole number of counts: half a count more keeps the limit above the noise itself.
    return _CLIP * (1.4826 * (float(np.median(deviations)) if deviations.size else 0.0) + 0.5)


def noise_with_error(variance: float, freedom: int) -> tuple[float, float]:
    """Return the read noise and its standard error (NaN when unknown) from a variance and its degrees of freedom."""
    read_noise = float(np.sqrt(variance))
    return read_noise, float(read_noise / np.sqrt(2 * freedom)) if freedom > 0 else np.nan


def row_median_variance(variance: float, n_columns: int) -> float:
    """Return the variance of the median of the counts of a row, including its rounding to a whole count."""
    return variance * median_variance_factor(n_columns) + DIGITISATION_VARIANCE


def _level(
    options: OverscanOptions, n_columns: int, medians: FloatArray, means: FloatArray, moments: ClippedMoments
) -> tuple[FloatArray, float]:
    """Return the level of each row and the variance of a level for the chosen method."""
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
    """Return the mean over `window` samples around each sample; windows are cut at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(samples - samples[0])])
    centre = np.arange(samples.size)
    first = np.maximum(centre - window // 2, 0)
    stop = np.minimum(centre - window // 2 + window, samples.size)
    return samples[0] + (sums[stop] - sums[first]) / (stop - first)


def row_medians(counts: Int32Array, columns: slice, measured: BoolArray, step: int) -> tuple[FloatArray, FloatArray]:
    """Return the median of each measured row (0 for others), and in every ``step``-th row the median absolute deviation from it.

    Parameters
    ----------
    counts
        Raw rows, C-contiguous.
    columns
        Columns of the overscan.
    """
    medians, deviations = np.empty(measured.size), np.empty(-(-measured.size // step))
    n_deviations = kernels.row_medians(counts, (columns.start, columns.stop), measured, step, medians, deviations)
    return medians, deviations[:n_deviations]


def deviation_step(n_rows: int) -> int:
    """Return the step between rows in which the typical deviation is measured."""
    return max(1, n_rows // _ROWS_FOR_DEVIATION)


@dataclass(frozen=True)
class ClippedMoments:
    """Counts of an overscan without outliers: mean of each row and of all, variance within rows, its degrees of freedom, counts kept."""

    row_means: FloatArray
    mean: float
    variance: float
    freedom: int
    kept: int


def clipped_moments(counts: Int32Array, columns: slice, measured: BoolArray, centre: FloatArray, limit: float) -> ClippedMoments:
    """Return the moments of the counts of measured rows that deviate from ``centre`` by no more than ``limit``.

    Parameters
    ----------
    counts, columns, measured
        See `row_medians`.
    centre
        Centre of each row, a multiple of 1/2.
    """
    kept, (total, squares) = np.empty(measured.size, dtype=np.int64), np.empty((2, measured.size))
    kernels.clip_rows(counts, (columns.start, columns.stop), measured, centre, limit, kept, total, squares)
    number = np.maximum(kept, 1)
    means = centre + total / number
    # Rows are added in order, so that stacks, which read a few rows at a time, have the same bits.
    all_kept, freedom = int(kept.sum()), int((kept - (kept > 0)).sum())
    about_means = _sum_in_order(squares - total * total / number)
    mean = centre[0] + _sum_in_order(kept * (means - centre[0])) / max(all_kept, 1) if measured.size else 0.0
    return ClippedMoments(means, float(mean), about_means / freedom if freedom > 0 else 0.0, freedom, all_kept)


def _sum_in_order(addends: FloatArray) -> float:
    return float(np.cumsum(addends)[-1]) if addends.size else 0.0


def overscan_options(config: IsrConfig) -> OverscanOptions:
    """Return the overscan options of the configuration."""
    return OverscanOptions(config.overscan, config.overscan_skip_first, config.overscan_skip_last, config.overscan_window)


LostRuns = NDArray[np.int64]
"""Active columns without a measurement: raw row, first column, end column, value, whether the file is at fault; shape (n, 5)."""

_MOST_RANGES = 3


def lost_runs(raw: Int32Array, n_rows: int, columns: slice, saturation_adu: float) -> LostRuns:
    """Return the pixels without a measurement in the first rows of a raw segment.

    Parameters
    ----------
    raw
        Whole raw rows, C-contiguous.
    columns
        The active columns.
    saturation_adu
        Raw count from which a pixel is saturated; a repeated saturated count is not a fault of the file.
    """
    return kernels.find_lost(raw, n_rows, (columns.start, columns.stop), saturation_adu)


def describe_lost(runs: Sequence[LostRuns], amplifiers: Sequence[Amplifier], *, rows: slice | None = None) -> tuple[str, ...]:
    """Return a sentence for each segment with rows that the file has lost.

    Parameters
    ----------
    runs
        Lost pixels of each segment; empty for a blank segment.
    amplifiers
        The segments.
    rows
        Raw rows that were read, if not all.
    """
    first, step = (0, 1) if rows is None else (rows.start, rows.step)
    faults = [own[own[:, 4] == 1] for own in runs]
    return tuple(_sentence(own, each, first, step) for own, each in zip(faults, amplifiers, strict=True) if len(own))


def _sentence(faults: LostRuns, amplifier: Amplifier, first: int, step: int) -> str:
    rows = np.unique(faults[:, 0])
    parts = [part * step + first for part in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)]
    named = [f"{part[0]}" if part.size == 1 else f"{part[0]} to {part[-1]}" for part in parts[:_MOST_RANGES]]
    more = f" and {len(parts) - _MOST_RANGES} more ranges" if len(parts) > _MOST_RANGES else ""
    values = np.unique(faults[:, 3]).tolist()
    shown = ", ".join(str(value) for value in values[:_MOST_RANGES]) + (", ..." if len(values) > _MOST_RANGES else "")
    about = "about " if step > 1 else ""
    return (
        f"{'row' if rows.size == 1 else 'rows'} {about}{', '.join(named)}{more} of segment {amplifier.extname} repeat one count "
        f"({shown}) and are masked; copy the file again"
    )


@dataclass(frozen=True)
class FileNoise:
    """Noise of the overscans of files, adu, shape (n_files, n_amplifiers): read noise, its error, variance of a level, mean level."""

    read_noise: FloatArray
    read_noise_err: FloatArray
    level_variance: FloatArray
    level: FloatArray

    @classmethod
    def of(cls, overscans: Sequence[Sequence[Overscan]]) -> FileNoise:
        """Return the noise from the overscans of whole segments."""
        return cls(
            read_noise=np.array([[own.read_noise for own in of_file] for of_file in overscans]),
            read_noise_err=np.array([[own.read_noise_err for own in of_file] for of_file in overscans]),
            level_variance=np.array([[own.level_variance for own in of_file] for of_file in overscans]),
            level=np.array([[own.mean_level for own in of_file] for of_file in overscans]),
        )

    def variance(self, gain: FloatArray) -> FloatArray:
        """Return the variance of a pixel that does not depend on the light, electrons^2, averaged over the files.

        Parameters
        ----------
        gain
            Electrons per adu, shape (n_files, n_amplifiers).
        """
        total = np.zeros(gain.shape[1])
        for factor, read_noise, level_variance in zip(gain, self.read_noise, self.level_variance, strict=True):
            total += (factor * read_noise) ** 2 + factor**2 * level_variance
        return total / len(gain)


def level_variance(options: OverscanOptions, variance: float, n_columns: int) -> float:
    """Return the variance of the level of a row for the methods that use only that row.

    Parameters
    ----------
    variance
        Variance of a count of the overscan.
    n_columns
        Number of overscan columns used.
    """
    return variance / n_columns if options.method == "row_mean" else row_median_variance(variance, n_columns)


class OverscanSums:
    """Sums over rows of overscans, per file and amplifier.

    Rows are added one by one in the order of readout, so that the sums have the same bits as those of a whole segment.

    Parameters
    ----------
    shape
        Numbers of files and amplifiers.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self._level, self._squares = np.zeros(shape), np.zeros(shape)
        self._freedom, self._rows = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)

    def add(self, amplifiers: NDArray[np.int64], level: FloatArray, squares: FloatArray, freedom: NDArray[np.int64]) -> None:
        """Add the next rows of some amplifiers; see `permil.isr.streamed_stack.FrameRows`."""
        for sums, rows in ((self._level, level), (self._squares, squares)):
            sums[:, amplifiers] = np.cumsum(np.concatenate([sums[:, amplifiers, np.newaxis], rows], axis=2), axis=2)[:, :, -1]
        self._freedom[:, amplifiers] += freedom.sum(axis=2)
        # A lost row has no degrees of freedom, and level 0.
        self._rows[:, amplifiers] += (freedom > 0).sum(axis=2)

    def noise(self, options: OverscanOptions, n_columns: int) -> FileNoise:
        """Return the noise from all rows; for the arguments see `level_variance`."""
        read_noise, error, variance_of_level = (np.zeros(self._level.shape) for _ in range(3))
        for place in np.ndindex(*self._level.shape):
            freedom = int(self._freedom[place])
            variance = float(self._squares[place]) / freedom if freedom > 0 else 0.0
            read_noise[place], error[place] = noise_with_error(variance, freedom)
            variance_of_level[place] = level_variance(options, variance, n_columns)
        return FileNoise(read_noise, error, variance_of_level, self._level / np.maximum(self._rows, 1))
