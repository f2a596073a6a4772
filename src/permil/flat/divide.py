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

from dataclasses import dataclass, field

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


@dataclass(frozen=True)
class PointingFlat:
    """Response of one detector from one pointing.

    Attributes
    ----------
    response, variance
        Dimensionless up to the scale that all detectors of one LED share, and its independent variance; NaN without data.
    mask
        Planes of `permil.products.MaskPlane`.
    beam_error
        Relative error of the beam model in each pixel, NaN outside the model.
    scale_error
        Relative error of the photodiode scale of this pointing.
    photodiode
        Photodiode reading, or scale, that the response is relative to.
    """

    response: FloatImage
    variance: FloatImage
    mask: NDArray[np.int32]
    beam: FloatImage
    beam_error: FloatImage
    scale_error: float
    photodiode: float


def divide_by_beam(
    signal: FloatImage,
    variance: FloatImage,
    mask: NDArray[np.int32],
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
    expected = photodiode * beam
    with np.errstate(invalid="ignore", divide="ignore"):
        response = (signal / expected).astype(np.float32)
        response_variance = (variance / expected**2).astype(np.float32)
        relative_error = (beam_error / beam).astype(np.float32)
    # A stack marks as NO_DATA what it has no value for; saturated or bad pixels may still carry a number that nobody should use.
    usable = np.isfinite(response) & np.isfinite(response_variance) & ((mask & int(UNUSABLE)) == 0)
    planes = np.where(usable, mask, mask | int(MaskPlane.NO_DATA)).astype(np.int32)
    response[~usable] = np.nan
    response_variance[~usable] = np.nan
    return PointingFlat(response, response_variance, planes, beam.astype(np.float32), relative_error, scale_error, photodiode)


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

    def add(self, pointing: PointingFlat) -> NDArray[np.float32]:
        """Add a pointing; return the weights that its pixels got (0 where it has no data)."""
        usable = (pointing.mask & int(UNUSABLE)) == 0
        weights = pointing_weights(pointing)
        light = np.float32(pointing.photodiode) * pointing.beam
        _accumulate(pointing.response, pointing.variance, light, weights, usable, self._mean, self._sums, self._count)
        planes = pointing.mask.astype(np.int16)
        self._all_planes &= planes
        self._any_planes |= planes
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


def pointing_weights(pointing: PointingFlat) -> FloatImage:
    """Return the weight of each pixel of a pointing (module docstring); 0 where it has no data."""
    usable = (pointing.mask & int(UNUSABLE)) == 0
    weights = np.zeros(pointing.response.shape, dtype=np.float32)
    if not usable.any():
        return weights
    level = float(np.median(pointing.response[usable]))
    # Photon noise: var(r) is proportional to 1 / B at equal response.
    photon = float(np.median(pointing.variance[usable] * pointing.beam[usable])) / pointing.beam[usable]
    common = level**2 * (pointing.beam_error[usable] ** 2 + pointing.scale_error**2)
    weights[usable] = level**2 / (photon + common)
    return weights


@numba.njit(cache=True)
def _accumulate(
    response: FloatImage,
    variance: FloatImage,
    light: FloatImage,
    weights: FloatImage,
    usable: NDArray[np.bool_],
    mean: NDArray[np.float64],
    sums: NDArray[np.float32],
    count: NDArray[np.int16],
) -> None:
    rows, columns = response.shape
    for row in range(rows):
        for column in range(columns):
            if usable[row, column]:
                weight = float(weights[row, column])
                deviation = float(response[row, column]) - mean[row, column]
                before = float(sums[0, row, column])
                total = before + weight
                mean[row, column] += deviation * weight / total
                sums[0, row, column] = total
                sums[1, row, column] += deviation * deviation * weight * before / total
                sums[2, row, column] += weight * weight * float(variance[row, column])
                sums[3, row, column] += weight / float(light[row, column])
                count[row, column] += 1
