"""Sums and averages of a stack: the mean of each pixel, its variance, and how well the noise model describes the scatter.

Of each pixel the two largest and the smallest measurement are kept by themselves, with the light of their frame; everything
between goes into weighted sums (West 1979, Comm. ACM 22, 532). So an outlier never enters a sum, and what is kept does not grow
with the number of frames.

With ``q`` the relative light of a frame, ``d`` its signal and ``x = d / q``: the best estimate for Poisson noise is
``sum(d) / sum(q)``, and ``sum(q (x - mean)^2) / (mean + n^2 / q)`` is chi-square, ``n^2`` the variance that does not depend on light.

That variance is known when all rows have been seen, and sums of all rows would take several times the memory of the result. So
there are three steps (``_kernels``): ``average_row`` takes the mean of all measurements and sets aside the few pixels in which an extreme
stands out when the noise is as low as it may be; ``average_doubtful`` tests these against the noise; ``finish_rows`` adds what the noise
tells.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from permil.isr.array_pool import ArrayPool

MOST_FRAMES = 65535


class Sums(NamedTuple):
    """Arrays of one shape (44 bytes per pixel).

    ``signal``, ``light``, ``squares``: sums of d, q and q (x - mean)^2 over the frames between the extremes; ``high``,
    ``second``, ``low``: extremes x; ``high_light``, ``second_light``, ``low_light``: q of the frames they come from, 0 where there is
    none; ``measured``: how many frames have a measurement; ``planes``: union of the masks.
    """

    signal: NDArray[np.float64]
    light: NDArray[np.float32]
    squares: NDArray[np.float32]
    high: NDArray[np.float32]
    second: NDArray[np.float32]
    low: NDArray[np.float32]
    high_light: NDArray[np.float32]
    second_light: NDArray[np.float32]
    low_light: NDArray[np.float32]
    measured: NDArray[np.uint16]
    planes: NDArray[np.int16]


def empty_sums(shape: tuple[int, ...]) -> Sums:
    """Return sums over no frame."""
    kinds = (np.float64, *[np.float32] * 8, np.uint16, np.int16)
    sums = Sums._make(np.zeros(shape, dtype=kind) for kind in kinds)
    for array in (sums.high, sums.second):
        array.fill(-np.inf)
    sums.low.fill(np.inf)
    return sums


def relative_light(light: ArrayLike) -> NDArray[np.float32]:
    """Return q of the frames: their light relative to that of the first, as the sums keep it."""
    amounts = np.asarray(light, dtype=np.float64)
    return (amounts / amounts[0]).astype(np.float32)


class Averages(NamedTuple):
    """Results per pixel: mean, its variance, mask, and how many frames were kept and rejected."""

    image: NDArray[np.float32]
    variance: NDArray[np.float32]
    mask: NDArray[np.int32]
    kept: NDArray[np.uint16]
    rejected: NDArray[np.uint8]


def empty_averages(shape: tuple[int, int], pool: ArrayPool) -> Averages:
    """Return averages that are still to be filled; those that a flat needs for long are made in the pool, others are soon given up."""
    return Averages(
        image=pool.empty(shape, np.float32),
        variance=pool.empty(shape, np.float32),
        mask=pool.empty(shape, np.int32),
        kept=np.empty(shape, dtype=np.uint16),
        rejected=np.empty(shape, dtype=np.uint8),
    )


class NoiseTest(NamedTuple):
    """What the extremes are tested against.

    ``n_frames``, ``mean_light``: number of frames and mean of their q; ``noise_variance``: variance of a pixel in one frame that does not
    depend on the light; ``threshold``: in sigma of the difference between a measurement and the mean of the others, infinite where no
    extremes are kept; ``photon_variance``: variance that a signal of 1 adds, 1 for electrons and 0 for bias frames.
    """

    n_frames: int
    mean_light: float
    noise_variance: float
    threshold: float
    photon_variance: float


class Doubtful(NamedTuple):
    """Pixels whose test has to wait until the noise is known.

    ``places``: number of the amplifier, row and column in the result, shape (n, 3); ``sums``: signal, light, squares, the three extremes,
    their three q, and the number of measurements, shape (n, 10).
    """

    places: NDArray[np.int64]
    sums: NDArray[np.float64]


class RowFit(NamedTuple):
    """Per row of an amplifier: chi-square of the frames about their mean, and its degrees of freedom, over unflagged pixels."""

    chi_square: NDArray[np.float64]
    freedom: NDArray[np.int64]

    @classmethod
    def empty(cls, n_rows: int) -> RowFit:
        """Return the fit of no pixel."""
        return cls(np.zeros(n_rows), np.zeros(n_rows, dtype=np.int64))

    @property
    def reduced(self) -> float:
        """Reduced chi-square; NaN when there is none."""
        freedom = int(self.freedom.sum())
        return float(self.chi_square.sum() / freedom) if freedom else float("nan")
