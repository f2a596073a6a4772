"""The mean of many exposures of one scene: streaming sums, outliers rejected by a noise model, exact variance.

The two largest and the smallest measurement of each pixel are stored separately, with the light of their frames; all others
enter weighted sums (West 1979, Comm. ACM 22, 532). An outlier therefore never enters a sum, and the memory does not grow with the
number of frames.

With ``q`` the relative light of a frame, ``d`` its signal and ``x = d / q``: the best estimate for Poisson noise is
``sum(d) / sum(q)``, and ``sum(q (x - mean)^2) / (mean + n^2 / q)`` is chi-square, with ``n^2`` the variance that does not depend on light.

That variance is known only after all rows have been read, and sums of all rows would take several times the memory of the result.
The compiled kernels therefore work in three steps: ``average_row`` takes the mean of all measurements and sets aside the few pixels
with an extreme that is significant for the lowest possible noise; ``average_doubtful`` tests these against the measured noise;
``finish_rows`` adds the variance of the noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from permil.arrays import ArrayPool, Float32Array, FloatArray, Int32Array, IntArray
from permil.camera import Detector
from permil.products.masks import is_good

MOST_FRAMES = 65535


def relative_light(light: ArrayLike) -> Float32Array:
    """Return q of the frames: their light relative to that of the first, in the precision of the sums."""
    amounts = np.asarray(light, dtype=np.float64)
    return (amounts / amounts[0]).astype(np.float32)


class Averages(NamedTuple):
    """Results per pixel: mean, its variance, mask, and the numbers of frames kept and rejected."""

    image: Float32Array
    variance: Float32Array
    mask: Int32Array
    kept: NDArray[np.uint16]
    rejected: NDArray[np.uint8]


def empty_averages(shape: tuple[int, int], pool: ArrayPool) -> Averages:
    """Return uninitialised averages; image, variance and mask, which outlive the stack, come from the pool."""
    return Averages(
        image=pool.empty(shape, np.float32),
        variance=pool.empty(shape, np.float32),
        mask=pool.empty(shape, np.int32),
        kept=np.empty(shape, dtype=np.uint16),
        rejected=np.empty(shape, dtype=np.uint8),
    )


class NoiseTest(NamedTuple):
    """Parameters of the test of the extremes.

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
    """Pixels whose extremes are tested when the noise is known.

    ``places``: index of the amplifier, row and column in the result, shape (n, 3); ``sums``: signal, light, squares, the three extremes,
    their three q, and the number of measurements, shape (n, 10).
    """

    places: IntArray
    sums: FloatArray


class RowFit(NamedTuple):
    """Chi-square of the frames about their mean and its degrees of freedom, over the unflagged pixels of each row of an amplifier."""

    chi_square: FloatArray
    freedom: IntArray

    @classmethod
    def empty(cls, n_rows: int) -> RowFit:
        """Return the fit before any pixel is added."""
        return cls(np.zeros(n_rows), np.zeros(n_rows, dtype=np.int64))

    @property
    def reduced(self) -> float:
        """Reduced chi-square; NaN without degrees of freedom."""
        freedom = int(self.freedom.sum())
        return float(self.chi_square.sum() / freedom) if freedom else float("nan")


DEFAULT_THRESHOLD = 5.0
# Number of pixels for the median of a frame: its noise is then some 1e-5 of the signal of a pixel.
_PIXELS_FOR_MEDIAN = 250_000


@dataclass(frozen=True)
class Stack:
    """Mean of the frames with its variance, mask and quality.

    Parameters
    ----------
    detector
        The detector.
    image
        Mean signal at the mean light of the frames, shape (ny, nx), unit of the frames; NaN without data.
    variance
        Its variance: photons, read noise, overscan level and, once, the superbias.
    mask
        `MaskPlane` bits, int32.
    kept, rejected
        Frames in the mean and frames rejected as outliers, per pixel; in all other frames the pixel was saturated or had no data.
    light
        Relative light of the frames, the first one 1, shape (n_frames,).
    noise_variance
        Variance of a pixel of one frame that does not depend on the light, mean of the frames, per amplifier.
    chi_square
        Reduced chi-square of the frames about their mean over unflagged pixels, per amplifier; NaN when there is none.
    """

    detector: Detector
    image: Float32Array
    variance: Float32Array
    mask: Int32Array
    kept: NDArray[np.uint16]
    rejected: NDArray[np.uint8]
    light: FloatArray
    noise_variance: FloatArray
    chi_square: FloatArray

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return self.light.size

    @property
    def n_rejected(self) -> int:
        """Number of measurements (pixel and frame) that were rejected as outliers."""
        return int(self.rejected.sum(dtype=np.int64))

    @property
    def mean_chi_square(self) -> float:
        """Mean of the chi-squares of the amplifiers; NaN when there is none."""
        return float(np.nanmean(self.chi_square)) if np.isfinite(self.chi_square).any() else float("nan")


def frame_light(image: Float32Array, mask: NDArray[Any]) -> float:
    """Return the median signal over good pixels (a regular sample of large frames); NaN without good pixels.

    The ratio of two such medians is the ratio of the light of two frames of one scene, to some 1e-5, without the noise of the
    photodiode. The pattern of the scene cancels.
    """
    row_step, column_step = light_steps(image.shape)
    sample, sample_mask = image[::row_step, ::column_step], mask[::row_step, ::column_step]
    return median_light(sample[is_good(sample_mask)])


def median_light(sample: Float32Array) -> float:
    """Return the median of finite signals; NaN for an empty sample."""
    if sample.size == 0:
        return np.nan
    # Five times as fast as `numpy.median`; NaN come last.
    ordered = np.sort(sample)
    return float((ordered[(ordered.size - 1) // 2] + ordered[ordered.size // 2]) / np.float32(2))


def light_steps(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the steps in rows and columns of the sample whose median is the light of a frame.

    The sample of a large frame has few rows and many pixels of each, since whole rows must be decoded.
    """
    step = max(1, int(np.sqrt(shape[0] * shape[1] / _PIXELS_FOR_MEDIAN)))
    row_step = step * max(1, step // 2)
    return row_step, max(1, step**2 // row_step)
