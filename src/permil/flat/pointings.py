"""Pointings of a detector with their light: a stack in memory, or a single exposure read strip by strip, without its outliers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from permil._kernels import flat as kernels
from permil.arrays import Float32Array, FloatArray
from permil.camera import Detector
from permil.isr.open_exposure import OpenExposure, RowSample, Strip, strips_of

_MEDIAN_VARIANCE = 0.3
"""Variance of the median of five over that of one."""

_STRIP_ROWS = 256
"""Raw rows read together if a whole exposure is requested."""


@dataclass(frozen=True)
class LitImage:
    """A stack, or a part of one, with its light.

    Attributes
    ----------
    signal, variance, mask
        Stack of one position, shape (ny, nx): electrons at the scale, its variance, planes of
        `permil.products.MaskPlane`.
    beam, beam_error
        Beam in each pixel, 1 at its maximum, and its error in the same units; NaN where the beam is not known.
    scale
        Light of the stack in photodiode units: its mean photodiode reading, or the scale of the joint solution.
    scale_error
        Relative error of that.
    """

    signal: Float32Array
    variance: Float32Array
    mask: NDArray[np.integer]
    beam: Float32Array
    beam_error: Float32Array
    scale: float
    scale_error: float

    @property
    def pixels(self) -> tuple[Float32Array, Float32Array, NDArray[np.integer], Float32Array]:
        """Signal, variance, mask and beam as kernels take them: without gaps between rows or columns."""
        signal, variance, beam = (np.ascontiguousarray(each, np.float32) for each in (self.signal, self.variance, self.beam))
        return signal, variance, np.ascontiguousarray(self.mask), beam

    def part(self, rows: slice, columns: slice) -> LitImage:
        """Return a part of it, without a copy."""
        where = (rows, columns)
        return replace(
            self,
            signal=self.signal[where],
            variance=self.variance[where],
            mask=self.mask[where],
            beam=self.beam[where],
            beam_error=self.beam_error[where],
        )


@dataclass(frozen=True)
class Pointing:
    """A pointing without its pixels.

    Attributes
    ----------
    number
        Number of the pointing on this detector.
    x_mm, y_mm
        Projector position, CCS.
    scale_error
        Relative error of the scale from the photodiode or the joint solution; NaN if unknown.
    exposures
        Exposures in it.
    chi_square
        Reduced chi-square of the exposures about their mean; NaN for a single one.
    aimed
        Whether the projector points at this detector.
    scan
        Whether it belongs to the scan.
    photodiode
        Mean photodiode reading of the exposures; NaN if one has none.
    """

    number: int
    x_mm: float
    y_mm: float
    scale_error: float
    exposures: int
    chi_square: float
    aimed: bool
    scan: bool = False
    photodiode: float = float("nan")

    @property
    def known_scale_error(self) -> float:
        """Error of the scale; 0 if unknown."""
        return 0.0 if np.isnan(self.scale_error) else self.scale_error


class LitRows(NamedTuple):
    """Some rows of a detector with their light."""

    rows: slice
    image: LitImage


@dataclass(frozen=True)
class LitStack:
    """A stack of several exposures with its light, entirely in memory."""

    pointing: Pointing
    image: LitImage
    rejected: int
    neighbours: ClassVar[int] = 0

    def strip(self, strip: Strip) -> list[LitRows]:
        """Return the rows of a strip, without a copy."""
        return [LitRows(run, self.image.part(run, slice(None))) for run in strip.runs]

    def sample(self, step: int) -> LitImage:
        """Return every n-th pixel, without a copy."""
        every = slice(step // 2, None, step)
        return self.image.part(every, every)

    def whole(self) -> LitImage:
        """Return all rows."""
        return self.image


class LitExposure:
    """A single exposure, without pixels that deviate from the median of a few others.

    Parameters
    ----------
    pointing
        Its position and scale.
    exposure
        The open exposure.
    sampled
        Rows of its sample.
    light
        Returns the beam on rows and columns, 1 at its maximum; NaN where it is not known.
    scale
        Electrons for beam and response 1.
    reference
        Median response of a few exposures; NaN where there is none.
    threshold
        Standard deviations from which a pixel is an outlier.
    """

    def __init__(
        self,
        pointing: Pointing,
        exposure: OpenExposure,
        sampled: RowSample,
        light: Callable[[slice, slice], Float32Array],
        *,
        scale: float,
        reference: Float32Array,
        threshold: float,
    ) -> None:
        self.pointing = pointing
        self._exposure, self._sampled, self._light, self._scale = exposure, sampled, light, scale
        self._reference, self._threshold = reference, threshold
        self._rejected: dict[int, int] = {}

    @property
    def rejected(self) -> int:
        """Measurements rejected as outliers in all strips read so far."""
        return sum(self._rejected.values())

    @property
    def neighbours(self) -> int:
        """Adjacent rows that affect the flags of a strip's pixels."""
        return self._exposure.neighbours

    def strip(self, strip: Strip) -> list[LitRows]:
        """Return the rows of a strip, without its neighbours; outliers among them are flagged."""
        found, self._rejected[strip.first] = self._read(strip)
        return found

    def whole(self) -> LitImage:
        """Return the whole exposure; at full size that takes hundreds of megabytes."""
        shape = self._exposure.detector.shape
        signal, variance, beam = (np.empty(shape, dtype=np.float32) for _ in range(3))
        mask = np.empty(shape, dtype=np.int16)
        for strip in strips_of(self._exposure.detector, rows=_STRIP_ROWS, neighbours=self.neighbours):
            for run, lit in self._read(strip)[0]:
                signal[run], variance[run], mask[run], beam[run] = lit.signal, lit.variance, lit.mask, lit.beam
        return self._lit(signal, variance, mask, beam)

    def sample(self, step: int) -> LitImage:
        """Return a sample of the pixels for medians, which outliers and differences between amplifiers do not change."""
        sample, columns = self._exposure.sample, slice(step // 2, None, step)
        signal, mask = sample.image[:, columns], sample.mask[:, columns]
        variance = np.maximum(signal, np.float32(0)) + np.float32(sample.noise_variance.mean())
        beam = np.concatenate([self._light(rows, columns) for rows in self._sampled.regular_rows])
        return self._lit(signal, variance, mask, beam)

    def _read(self, strip: Strip) -> tuple[list[LitRows], int]:
        """Return the rows of a strip, and how many outliers are among them."""
        image, mask = self._exposure.read(strip)
        found, rejected = [], 0
        for run, rows in zip(strip.runs, strip.own_rows, strict=True):
            signal, planes, beam = image[rows], mask[rows], self._light(run, slice(None))
            variance, outliers = flag_outliers(
                signal,
                planes,
                detector=self._exposure.detector,
                noise_variance=self._exposure.noise_variance,
                beam=beam,
                scale=self._scale,
                reference=self._reference[run],
                threshold=self._threshold,
                first_row=run.start,
            )
            rejected += outliers
            found.append(LitRows(run, self._lit(signal, variance, planes, beam)))
        return found, rejected

    def _lit(self, signal: Float32Array, variance: Float32Array, mask: NDArray[np.int16], beam: Float32Array) -> LitImage:
        # The errors of the beam are all in the covariance of the joint solution.
        exact = np.broadcast_to(np.float32(0), beam.shape)
        return LitImage(signal, variance, mask, beam, exact, self._scale, self.pointing.scale_error)


def flag_outliers(
    image: Float32Array,
    mask: NDArray[np.int16],
    *,
    detector: Detector,
    noise_variance: FloatArray,
    beam: Float32Array,
    scale: float,
    reference: Float32Array,
    threshold: float,
    first_row: int = 0,
) -> tuple[Float32Array, int]:
    """Flag the pixels of a single exposure that deviate from the expected signal, in its mask.

    Parameters
    ----------
    image, mask
        Exposure in electrons and its planes of `permil.products.MaskPlane`, or some rows of them; outliers get NO_DATA and REJECTED there.
    noise_variance : ndarray, shape (amplifiers,)
        Variance that does not depend on the signal, electrons^2.
    beam
        Beam on these rows, 1 at its maximum; NaN where it is not known.
    scale
        Electrons for beam and response 1.
    reference
        Median response of a few exposures; NaN where there is none, and nothing is flagged.
    threshold
        Standard deviations from which a pixel is an outlier.
    first_row
        Row of the detector of the first row given.

    Returns
    -------
    variance
        Of each pixel: photons (the signal itself, 0 where it is negative) and noise, electrons^2.
    outliers
        Number of pixels that were flagged and had not been before.
    """
    variance = np.empty(image.shape, dtype=np.float32)
    bounds = np.array([(each.y_min, each.y_min + each.ny, each.x_min, each.x_min + each.nx) for each in detector.amplifiers])
    noise, limit = noise_variance.astype(np.float32), threshold**2 * (1 + _MEDIAN_VARIANCE)
    outliers = kernels.flag_outliers(image, mask, beam, reference, bounds, first_row, scale, noise, limit, variance)
    return variance, outliers


LitPointing = LitStack | LitExposure
"""A pointing with its light. The next call of ``strip`` in the same thread may overwrite the result of the last one."""
