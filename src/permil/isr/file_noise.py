"""Level and read noise of many files, from rows of their overscans as they come by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.isr.overscan import Overscan, OverscanOptions, noise_with_error, row_median_variance

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class FileNoise:
    """What overscans tell, adu, shape (n_files, n_amplifiers): read noise, its error, variance of the level of a row, mean level."""

    read_noise: FloatArray
    read_noise_err: FloatArray
    level_variance: FloatArray
    level: FloatArray

    @classmethod
    def of(cls, overscans: Sequence[Sequence[Overscan]]) -> FileNoise:
        """Return what whole segments tell."""
        return cls(
            read_noise=np.array([[own.read_noise for own in of_file] for of_file in overscans]),
            read_noise_err=np.array([[own.read_noise_err for own in of_file] for of_file in overscans]),
            level_variance=np.array([[own.level_variance for own in of_file] for of_file in overscans]),
            level=np.array([[own.mean_level for own in of_file] for of_file in overscans]),
        )

    def variance(self, gain: FloatArray) -> FloatArray:
        """Return the variance of a pixel that does not depend on the light, electrons^2, mean of the files.

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
    """Return the variance of the level of a row where it is taken from that row only.

    Parameters
    ----------
    variance
        Of a count of the overscan.
    n_columns
        Columns of the overscan that are used.
    """
    return variance / n_columns if options.method == "row_mean" else row_median_variance(variance, n_columns)


class OverscanSums:
    """Sums over rows of overscans, per file and amplifier.

    Rows are added one by one in the order of readout, so that the sums have the bits of those over a whole segment.

    Parameters
    ----------
    shape
        Numbers of files and amplifiers.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self._level, self._squares = np.zeros(shape), np.zeros(shape)
        self._freedom, self._rows = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)

    def add(self, amplifiers: NDArray[np.int64], level: FloatArray, squares: FloatArray, freedom: NDArray[np.int64]) -> None:
        """Add the next rows of some amplifiers; see `permil.isr.file_stack.FrameRows`."""
        for sums, rows in ((self._level, level), (self._squares, squares)):
            sums[:, amplifiers] = np.cumsum(np.concatenate([sums[:, amplifiers, np.newaxis], rows], axis=2), axis=2)[:, :, -1]
        self._freedom[:, amplifiers] += freedom.sum(axis=2)
        # A row that has lost its level has no degrees of freedom, and level 0.
        self._rows[:, amplifiers] += (freedom > 0).sum(axis=2)

    def noise(self, options: OverscanOptions, n_columns: int) -> FileNoise:
        """Return what all rows tell; arguments are those of `level_variance`."""
        read_noise, error, variance_of_level = (np.zeros(self._level.shape) for _ in range(3))
        for place in np.ndindex(*self._level.shape):
            freedom = int(self._freedom[place])
            variance = float(self._squares[place]) / freedom if freedom > 0 else 0.0
            read_noise[place], error[place] = noise_with_error(variance, freedom)
            variance_of_level[place] = level_variance(options, variance, n_columns)
        return FileNoise(read_noise, error, variance_of_level, self._level / np.maximum(self._rows, 1))
