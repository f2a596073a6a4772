"""The solver `divide`: each pointing's stack over the beam, and the weight that it has among the others (`permil.flat.combine`).

A stack of ``n`` exposures at one position gives, in pixel ``p`` at distance ``u_p`` from the projector, the signal ``d_p`` in
electrons at the mean photodiode reading ``q``. With the beam model ``B`` the response is::

    r_p = d_p / (q B(u_p))                     var(r_p) = var(d_p) / (q B(u_p))^2

The variance plane holds this independent part only. The weight of a pointing also knows what its pixels have in common, the error
``b_p`` of the beam model and the error ``s`` of the pointing's scale (photodiode)::

    w_p = 1 / (var(r_p) + r_p^2 (b_p^2 + s^2))

so that a pointing counts less where the beam is badly known. To keep the weights from following the noise of single pixels (which
would bias the mean, bright fluctuations getting less weight), ``var(r_p)`` is replaced by its smooth expectation, the median over
the detector scaled with ``1 / B``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numba
import numpy as np
from numpy.typing import NDArray

from permil.errors import FlatError
from permil.products import UNUSABLE, MaskPlane

FloatImage = NDArray[np.float32]

_SAMPLES = 60_000
"""Pixels, about, from which the level and the noise of a pointing are taken."""

_UNUSABLE, _NO_DATA = int(UNUSABLE), int(MaskPlane.NO_DATA)


@dataclass(frozen=True)
class LitImage:
    """A stack, or a part of one, with the light that fell on it.

    Attributes
    ----------
    signal, variance, mask
        Stack of one position, shape (ny, nx): electrons at the mean photodiode reading, its variance, planes of
        `permil.products.MaskPlane`.
    beam, beam_error
        Beam in each pixel, 1 at its maximum, and its error in the same units; NaN where the beam is not known.
    photodiode
        Mean photodiode reading, or scale, of the stack.
    scale_error
        Relative error of that.
    """

    signal: FloatImage
    variance: FloatImage
    mask: NDArray[np.integer]
    beam: FloatImage
    beam_error: FloatImage
    photodiode: float
    scale_error: float

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
class PointingFlat:
    """Response of one detector from one pointing.

    Attributes
    ----------
    response, variance
        Dimensionless up to the scale that all detectors of one LED share, and its independent variance; NaN without data.
    mask
        Planes of `permil.products.MaskPlane`.
    """

    response: FloatImage
    variance: FloatImage
    mask: NDArray[np.int16]


def divide_by_beam(lit: LitImage) -> PointingFlat:
    """Divide a stack by its light.

    Raises
    ------
    FlatError
        If the photodiode reading is not positive.
    """
    if not lit.photodiode > 0:
        raise FlatError(
            f"a stack has the photodiode reading {lit.photodiode}", remedy="leave its exposures out", value=lit.photodiode
        )
    shape = lit.signal.shape
    flat = PointingFlat(np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, np.int16))
    _divide(lit.signal, lit.variance, lit.mask, lit.beam, float(lit.photodiode), flat.response, flat.variance, flat.mask)
    return flat


@dataclass(frozen=True)
class PointingWeights:
    """Weights of the pixels of a pointing (module docstring).

    Attributes
    ----------
    level
        Median response.
    photon
        Variance of the response that goes with the inverse of the beam, at its maximum.
    """

    level: float
    photon: float

    @classmethod
    def of(cls, sample: LitImage) -> PointingWeights:
        """Return the weights of a pointing of which there is a sample of pixels (see `sampling_step`).

        Raises
        ------
        FlatError
            If its photodiode reading is not positive.
        """
        flat = divide_by_beam(sample)
        usable = (flat.mask & _UNUSABLE) == 0
        if not usable.any():
            return cls(0.0, 1.0)
        # Photon noise: var(r) is proportional to 1 / B at equal response.
        return cls(float(np.median(flat.response[usable])), float(np.median(flat.variance[usable] * sample.beam[usable])))

    def at(self, lit: LitImage) -> FloatImage:
        """Return the weights of pixels of this pointing; 0 where there is no data."""
        weights = np.empty(lit.signal.shape, dtype=np.float32)
        _fill_weights(lit.signal, lit.variance, lit.mask, lit.beam, lit.beam_error, self.arguments(lit), weights)
        return weights

    def arguments(self, lit: LitImage) -> tuple[np.float32, np.float32, np.float32]:
        """Return what `row_weights` wants to know of a pointing: its light, and its weights."""
        # All in units of the squared level; where that is 0 there is no pixel with data.
        squared = self.level**2 if self.level else 1.0
        return np.float32(lit.photodiode), np.float32(self.photon * lit.photodiode / squared), np.float32(lit.scale_error**2)


def sampling_step(shape: tuple[int, int]) -> int:
    """Return the step, in rows and columns, of a sample of a detector's pixels that is enough for medians."""
    return max(1, math.isqrt(shape[0] * shape[1] // _SAMPLES))


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _divide(signal, variance, mask, beam, photodiode, response, response_variance, planes):  # type: ignore[no-untyped-def]  # pragma: no cover
    for row in range(signal.shape[0]):
        for column in range(signal.shape[1]):
            inverse = 1.0 / (photodiode * beam[row, column])
            level, noise = signal[row, column] * inverse, variance[row, column] * inverse * inverse
            # A stack marks as NO_DATA what it has no value for; saturated or bad pixels may still carry a number that nobody should use.
            usable = np.isfinite(level) and np.isfinite(noise) and (mask[row, column] & _UNUSABLE) == 0
            response[row, column] = level if usable else np.nan
            response_variance[row, column] = noise if usable else np.nan
            planes[row, column] = mask[row, column] | (0 if usable else _NO_DATA)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def row_weights(signal, variance, mask, beam, error, light, inverse, weight):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Fill the inverse of the light, and the weight, of the pixels of a row (see `PointingWeights.arguments`).

    All numbers are of single precision, twice as fast; loops that write one array make vector instructions.
    """
    photodiode, photon, of_scale = light
    one, endless = np.float32(1), np.float32(np.inf)
    for k in range(inverse.size):
        inverse[k] = one / (photodiode * beam[k])
    for k in range(inverse.size):
        relative = error[k] * photodiode * inverse[k]
        weight[k] = one / (photon * inverse[k] + relative * relative + of_scale)
    for k in range(inverse.size):
        usable = (abs(signal[k] * inverse[k]) + variance[k] * inverse[k] < endless) & ((mask[k] & _UNUSABLE) == 0)
        weight[k] = weight[k] if usable else np.float32(0)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _fill_weights(signal, variance, mask, beam, beam_error, light, weights):  # type: ignore[no-untyped-def]  # pragma: no cover  compiled
    inverse, error = np.empty(signal.shape[1], dtype=np.float32), np.empty(signal.shape[1], dtype=np.float32)
    for row in range(signal.shape[0]):
        for k in range(error.size):
            error[k] = beam_error[row, k]
        row_weights(signal[row], variance[row], mask[row], beam[row], error, light, inverse, weights[row])
