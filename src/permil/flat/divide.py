"""The solver `divide`: each pointing's stack over the beam, pointings combined by inverse variance.

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
from dataclasses import dataclass, field, replace

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

from permil.errors import FlatError
from permil.flat.superpixel import block_medians
from permil.products import UNUSABLE, MaskPlane

FloatImage = NDArray[np.float32]

CHANCE = 1e-9
"""Probability below which the scatter of a pixel between pointings is not chance: the pixel is SUSPECT (hot, or unstable)."""

_NEIGHBOURHOOD = 32
"""Side in pixels of the blocks in which pixels are compared."""

DEAD_RESPONSE = 0.2
"""Response over the detector's median below which a pixel is BAD (dead)."""


_SAMPLES = 250_000
"""Pixels, about, from which the level and the noise of a pointing are taken."""

_UNUSABLE, _NO_DATA = int(UNUSABLE), int(MaskPlane.NO_DATA)


@dataclass(frozen=True)
class PointingFlat:
    """Response of one detector from one pointing.

    Attributes
    ----------
    response, variance
        Dimensionless up to the scale that all detectors of one LED share, and its independent variance; NaN without data.
    mask
        Planes of `permil.products.MaskPlane`.
    beam
        Beam in each pixel, 1 at its maximum.
    beam_error
        Error of the beam model in each pixel, in units of the beam; NaN outside the model.
    scale_error
        Relative error of the photodiode scale of this pointing.
    photodiode
        Photodiode reading, or scale, that the response is relative to.
    """

    response: FloatImage
    variance: FloatImage
    mask: NDArray[np.int16]
    beam: NDArray[np.floating]
    beam_error: NDArray[np.floating]
    scale_error: float
    photodiode: float


def divide_by_beam(
    signal: FloatImage,
    variance: FloatImage,
    mask: NDArray[np.integer],
    *,
    beam: NDArray[np.floating],
    beam_error: NDArray[np.floating],
    photodiode: float,
    scale_error: float,
) -> PointingFlat:
    """Divide a stack by the beam at its pointing.

    Parameters
    ----------
    signal, variance, mask
        Stack of one position, shape (ny, nx): electrons at the mean photodiode reading, its variance, mask planes.
    beam, beam_error
        Beam model in each pixel (1 at its maximum) and its error; NaN where the model has no data.
    photodiode
        Mean photodiode reading of the stack (1 where the photodiode is not used).
    scale_error
        Relative error of that mean.

    Raises
    ------
    FlatError
        If the photodiode reading is not positive.
    """
    if not photodiode > 0:
        raise FlatError(f"a stack has the photodiode reading {photodiode}", remedy="leave its exposures out", value=photodiode)
    response, response_variance = (np.empty(signal.shape, dtype=np.float32) for _ in range(2))
    planes = np.empty(signal.shape, dtype=np.int16)
    _divide(signal, variance, mask, beam, float(photodiode), response, response_variance, planes)
    return PointingFlat(response, response_variance, planes, beam, beam_error, scale_error, photodiode)


@dataclass(frozen=True)
class PointingWeights:
    """Weights of the pixels of a pointing (module docstring).

    Attributes
    ----------
    level
        Median response.
    photon
        Variance of the response that goes with the inverse of the beam, at its maximum.
    mean
        Mean weight of all pixels, those without data (weight 0) included.
    """

    pointing: PointingFlat
    level: float
    photon: float
    mean: float

    def within(self, rows: slice, columns: slice) -> NDArray[np.float64]:
        """Return the weights in a part of the detector; 0 where there is no data."""
        pointing = self.pointing
        part = (rows, columns)
        return _weights(
            pointing.beam[part],
            pointing.beam_error[part],
            (pointing.mask[part] & int(UNUSABLE)) == 0,
            self.level,
            self.photon,
            pointing.scale_error,
        )


def pointing_weights(pointing: PointingFlat) -> PointingWeights:
    """Return the weights of a pointing; level and noise are taken from every so many-th pixel of a large detector."""
    step = max(1, math.isqrt(pointing.response.size // _SAMPLES))
    sampled = (slice(step // 2, None, step), slice(step // 2, None, step))
    usable = (pointing.mask[sampled] & int(UNUSABLE)) == 0
    if not usable.any():
        return PointingWeights(pointing, 0.0, 1.0, 0.0)
    level = float(np.median(pointing.response[sampled][usable]))
    # Photon noise: var(r) is proportional to 1 / B at equal response.
    photon = float(np.median(pointing.variance[sampled][usable] * pointing.beam[sampled][usable]))
    weights = PointingWeights(pointing, level, photon, 0.0)
    return replace(weights, mean=float(weights.within(*sampled).mean()))


@dataclass
class PointingCombination:
    """Streaming combination of pointings of one detector by inverse variance; memory does not grow with their number.

    Parameters
    ----------
    shape
        Rows and columns of the detector.
    """

    shape: tuple[int, int]
    _mean: NDArray[np.float64] = field(init=False, repr=False)
    _sums: NDArray[np.float32] = field(init=False, repr=False)
    _count: NDArray[np.int16] = field(init=False, repr=False)
    _all_planes: NDArray[np.int16] = field(init=False, repr=False)
    _any_planes: NDArray[np.int16] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Set all sums to zero."""
        self._mean = np.zeros(self.shape)
        # Sums of w, w (r - mean)^2 (updated as in West 1979), w^2 var and w / light.
        self._sums = np.zeros((4, *self.shape), dtype=np.float32)
        self._count = np.zeros(self.shape, dtype=np.int16)
        self._all_planes = np.full(self.shape, -1, dtype=np.int16)
        self._any_planes = np.zeros(self.shape, dtype=np.int16)

    def add(self, pointing: PointingFlat) -> PointingWeights:
        """Add a pointing; return the weights that its pixels got."""
        weights = pointing_weights(pointing)
        _accumulate(
            pointing.response,
            pointing.variance,
            pointing.mask,
            pointing.beam,
            pointing.beam_error,
            float(pointing.photodiode),
            (weights.level, weights.photon, float(pointing.scale_error)),
            self._mean,
            self._sums,
            self._count,
            self._all_planes,
            self._any_planes,
        )
        return weights

    def result(self, *, common_variance: FloatImage | None = None) -> CombinedFlat:
        """Return the combined response.

        Parameters
        ----------
        common_variance
            Variance of what all exposures have in common, electrons^2 per pixel: the superbias. More exposures do not reduce it.

        Raises
        ------
        FlatError
            If no pointing gave any pixel.
        """
        total, squares, noise, per_light = self._sums
        covered = self._count > 0
        if not covered.any():
            raise FlatError("no pointing has light on this detector", remedy="check the positions and the area of the beam scan")
        with np.errstate(invalid="ignore", divide="ignore"):
            response = np.where(covered, self._mean, np.nan).astype(np.float32)
            variance = noise / total**2
            if common_variance is not None:
                variance += common_variance * (per_light / total) ** 2
            scatter = np.sqrt(squares / total)
            # Weights are inverse relative variances at the typical response; photon noise goes with the pixel's own.
            level = float(np.median(response[covered]))
            chi_square = squares / (level * response)
        # Where the beam model is off, all pixels scatter: a pixel stands out against its neighbours, not against the model alone.
        usual = np.maximum(block_medians(chi_square / np.maximum(self._count - 1, 1), _NEIGHBOURHOOD), 1.0)
        inconstant = chi_square > usual * _chi_square_limits(int(self._count.max()))[self._count]
        # What one pointing saw as usable is usable; informative planes are kept if any pointing had them.
        informative = int(MaskPlane.EDGE | MaskPlane.MIDLINE | MaskPlane.REJECTED | MaskPlane.SUSPECT)
        mask = np.where(covered, self._any_planes & informative, self._all_planes | int(MaskPlane.NO_DATA)).astype(np.int32)
        mask[inconstant & covered] |= int(MaskPlane.SUSPECT)
        mask[covered & (response < DEAD_RESPONSE * level)] |= int(MaskPlane.BAD)
        return CombinedFlat(
            response=response,
            variance=variance,
            mask=mask,
            scatter=scatter,
            count=self._count.copy(),
        )


@dataclass(frozen=True)
class CombinedFlat:
    """Response of one detector from all its pointings.

    ``scatter`` is the weighted rms deviation of the pointings from their mean, ``count`` the number of pointings, per pixel.
    """

    response: FloatImage
    variance: FloatImage
    mask: NDArray[np.int32]
    scatter: FloatImage
    count: NDArray[np.int16]


def _chi_square_limits(most: int) -> NDArray[np.float64]:
    """Return the chi-square between n pointings that chance exceeds once in `CHANCE`, for n from 0 to ``most``."""
    freedom = np.arange(most + 1) - 1
    limits = np.full(most + 1, np.inf)
    limits[2:] = chdtri(freedom[2:], CHANCE)
    return limits


@numba.njit(cache=True, nogil=True)
def _divide(signal, variance, mask, beam, photodiode, response, response_variance, planes):  # type: ignore[no-untyped-def]  # pragma: no cover
    for row in range(signal.shape[0]):
        for column in range(signal.shape[1]):
            inverse = 1.0 / (photodiode * beam[row, column])
            level = np.float32(signal[row, column] * inverse)
            noise = np.float32(variance[row, column] * inverse * inverse)
            # A stack marks as NO_DATA what it has no value for; saturated or bad pixels may still carry a number that nobody should use.
            usable = np.isfinite(level) and np.isfinite(noise) and (mask[row, column] & _UNUSABLE) == 0
            response[row, column] = level if usable else np.float32(np.nan)
            response_variance[row, column] = noise if usable else np.float32(np.nan)
            planes[row, column] = mask[row, column] if usable else mask[row, column] | _NO_DATA


@numba.njit(cache=True, nogil=True)
def _weight(
    beam: float, beam_error: float, level: float, photon: float, scale_error: float
) -> float:  # pragma: no cover  compiled
    common = (beam_error / beam) ** 2 + scale_error * scale_error
    return level * level / (photon / beam + level * level * common)


@numba.njit(cache=True)
def _weights(beam, beam_error, usable, level, photon, scale_error):  # type: ignore[no-untyped-def]  # pragma: no cover
    weights = np.zeros(beam.shape)
    for row in range(beam.shape[0]):
        for column in range(beam.shape[1]):
            if usable[row, column]:
                weights[row, column] = _weight(beam[row, column], beam_error[row, column], level, photon, scale_error)
    return weights


@numba.njit(cache=True, nogil=True)
def _accumulate(  # type: ignore[no-untyped-def]  # pragma: no cover
    response, variance, mask, beam, beam_error, photodiode, weighting, mean, sums, count, all_planes, any_planes
):
    level, photon, scale_error = weighting
    for row in range(response.shape[0]):
        for column in range(response.shape[1]):
            planes = mask[row, column]
            all_planes[row, column] &= planes
            any_planes[row, column] |= planes
            if (planes & _UNUSABLE) == 0:
                weight = _weight(beam[row, column], beam_error[row, column], level, photon, scale_error)
                deviation = float(response[row, column]) - mean[row, column]
                before = float(sums[0, row, column])
                total = before + weight
                mean[row, column] += deviation * weight / total
                sums[0, row, column] = total
                sums[1, row, column] += deviation * deviation * weight * before / total
                sums[2, row, column] += weight * weight * float(variance[row, column])
                sums[3, row, column] += weight / (photodiode * beam[row, column])
                count[row, column] += 1
