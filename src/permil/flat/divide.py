"""The solver `divide`: each pointing's stack divided by the beam, and its weight in the combination (`permil.flat.combine`).

A stack of ``n`` exposures at one position gives, in pixel ``p`` at distance ``u_p`` from the projector, the signal ``d_p`` in
electrons at the mean photodiode reading ``q``. With the beam model ``B`` the response is::

    r_p = d_p / (q B(u_p))                     var(r_p) = var(d_p) / (q B(u_p))^2

The variance plane holds this independent part only. The weight of a pointing also contains the errors shared by its pixels, the error
``b_p`` of the beam model and the error ``s`` of the pointing's scale (photodiode)::

    w_p = 1 / (var(r_p) + r_p^2 (b_p^2 + s^2))

so that a pointing has less weight where the beam is poorly known. To keep the weights from following the noise of single pixels (which
would bias the mean, bright fluctuations getting less weight), ``var(r_p)`` is replaced by its smooth expectation, the median over
the detector scaled with ``1 / B``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil._kernels import flat as kernels
from permil.arrays import Float32Array, median
from permil.beam import BeamModel
from permil.camera import Detector, frames
from permil.errors import FlatError
from permil.flat.pointings import LitImage
from permil.isr.exposure_group import ExposureStack
from permil.products import is_usable

_SAMPLES = 60_000
"""Approximate number of pixels for the level and the noise of a pointing."""


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

    response: Float32Array
    variance: Float32Array
    mask: NDArray[np.int16]


def lit_by_beam(exposures: ExposureStack, position: tuple[float, float], beam: BeamModel, detector: Detector) -> LitImage:
    """Return a stack with the light of a beam model on its detector.

    Parameters
    ----------
    position
        Projector position, CCS mm.
    """
    stack = exposures.stack
    origin, matrix = frames.ccs_affine(detector)
    light = beam.evaluate_image(detector.shape, origin - list(position), matrix)
    # A single exposure does not show its own scale error; the nodes of the scan give the error of one photodiode reading.
    known = np.isfinite(exposures.scale_error)
    scale_error = float(exposures.scale_error if known else beam.node_noise / np.sqrt(len(exposures.used)))
    return LitImage(stack.image, stack.variance, stack.mask, *light, exposures.photodiode, scale_error)


def divide_by_beam(lit: LitImage) -> PointingFlat:
    """Divide a stack by its light.

    Raises
    ------
    FlatError
        If the scale is not positive.
    """
    if not lit.scale > 0:
        raise FlatError(
            f"the photodiode reading (or joint scale) of a stack is {lit.scale}",
            remedy="leave its exposures out",
            value=lit.scale,
        )
    shape = lit.signal.shape
    flat = PointingFlat(np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, np.int16))
    kernels.divide(*lit.pixels, float(lit.scale), flat.response, flat.variance, flat.mask)
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
        """Return the weights of a pointing at a sample of its pixels (see `sampling_step`).

        Raises
        ------
        FlatError
            If its scale is not positive.
        """
        flat = divide_by_beam(sample)
        usable = is_usable(flat.mask)
        if not usable.any():
            return cls(0.0, 1.0)
        # Photon noise: var(r) is proportional to 1 / B at equal response.
        return cls(float(median(flat.response[usable])), float(median(flat.variance[usable] * sample.beam[usable])))

    def at(self, lit: LitImage) -> Float32Array:
        """Return the weights of pixels of this pointing; 0 where there is no data."""
        weights = np.empty(lit.signal.shape, dtype=np.float32)
        kernels.fill_weights(*lit.pixels, lit.beam_error, self.arguments(lit), weights)
        return weights

    def arguments(self, lit: LitImage) -> tuple[float, float, float]:
        """Return the arguments of kernels: the light of a pointing, the variance of its photons, and that of its scale."""
        # All in units of the squared level; where that is 0 there is no pixel with data.
        squared = self.level**2 if self.level else 1.0
        return float(lit.scale), float(self.photon * lit.scale / squared), float(lit.scale_error**2)


def sampling_step(shape: tuple[int, int]) -> int:
    """Return the step, in rows and columns, of a sample of a detector's pixels large enough for medians."""
    return max(1, math.isqrt(shape[0] * shape[1] // _SAMPLES))
