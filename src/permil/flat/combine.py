"""One detector's pointings combined into its flat by inverse variance (formulas: `permil.flat.divide`).

Pointings are added one at a time, whole or by strips, so that memory does not grow with their number. Deviations are counted from the
first response of each pixel, so that sums in single precision are enough (Chan, Golub & LeVeque 1983, The American Statistician 37, 242).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

from permil._kernels import flat as kernels
from permil.arrays import Float32Array, Int32Array, median
from permil.engine import threaded_map
from permil.errors import FlatError
from permil.flat.divide import PointingWeights
from permil.flat.pointings import LitImage
from permil.flat.superpixel import block_medians
from permil.products import MaskPlane

CHANCE = 1e-9
"""Probability below which the scatter of a pixel between pointings is not chance: the pixel is SUSPECT (hot, or unstable)."""

_NEIGHBOURHOOD = 32
"""Side in pixels of the blocks in which pixels are compared."""

DEAD_RESPONSE = 0.2
"""Response over the detector's median below which a pixel is BAD (dead)."""

_ROWS_OF_RESULT = 8 * _NEIGHBOURHOOD
"""Rows of the result that are computed together: whole neighbourhoods."""


@dataclass
class PointingCombination:
    """Streaming combination of pointings of one detector by inverse variance; memory does not grow with their number.

    Parameters
    ----------
    shape
        Rows and columns of the detector.
    """

    shape: tuple[int, int]
    _first: Float32Array = field(init=False, repr=False)
    _sums: Float32Array = field(init=False, repr=False)
    _count: NDArray[np.int16] = field(init=False, repr=False)
    _all_planes: NDArray[np.int16] = field(init=False, repr=False)
    _any_planes: NDArray[np.int16] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Set all sums to zero."""
        # The first response r0 of each pixel; sums of w, w (r - r0), w (r - r0)^2, w^2 var, w / light and w var.
        self._first = np.zeros(self.shape, dtype=np.float32)
        self._sums = np.zeros((self.shape[0], 6, self.shape[1]), dtype=np.float32)
        self._count = np.zeros(self.shape, dtype=np.int16)
        self._all_planes = np.full(self.shape, -1, dtype=np.int16)
        self._any_planes = np.zeros(self.shape, dtype=np.int16)

    def add(self, lit: LitImage, weights: PointingWeights, rows: slice = slice(None)) -> None:
        """Add a pointing, or some rows of it.

        Parameters
        ----------
        lit
            The pointing, shape (number of rows, columns).
        weights
            Weights of its pixels.
        rows
            Rows of the detector.
        """
        kernels.add_pointing(
            *lit.pixels,
            lit.beam_error,
            weights.arguments(lit),
            self._first[rows],
            self._sums[rows],
            self._count[rows],
            self._all_planes[rows],
            self._any_planes[rows],
        )

    def result(self, *, common_variance: Float32Array | None = None) -> CombinedFlat:
        """Return the combined response.

        Parameters
        ----------
        common_variance
            Variance that all exposures share, electrons^2 per pixel: the superbias. More exposures do not reduce it.

        Raises
        ------
        FlatError
            If no pointing gave any pixel.
        """
        covered = self._count > 0
        if not covered.any():
            raise FlatError("no pointing has light on this detector", remedy="check the positions and the area of the beam scan")
        response, variance, scatter, predicted = (np.empty(self.shape, dtype=np.float32) for _ in range(4))
        mask = np.empty(self.shape, dtype=np.int32)
        # A few rows at a time: at full size each intermediate image would be another 65 MB of fresh memory.
        parts = [slice(first, first + _ROWS_OF_RESULT) for first in range(0, self.shape[0], _ROWS_OF_RESULT)]

        def mean(rows: slice) -> None:
            total, deviations, squares, noise, per_light, weighted = np.moveaxis(self._sums[rows], 1, 0)
            with np.errstate(invalid="ignore", divide="ignore"):
                shift = deviations / total
                response[rows] = np.where(covered[rows], self._first[rows] + shift, np.nan)
                variance[rows] = noise / total**2
                predicted[rows] = np.sqrt(np.maximum(weighted / total - variance[rows], 0))
                if common_variance is not None:
                    variance[rows] += common_variance[rows] * (per_light / total) ** 2
                scatter[rows] = np.sqrt(np.maximum(squares - deviations * shift, 0) / total)

        def flag(rows: slice) -> None:
            mask[rows] = self._mask(rows, response[rows], scatter[rows], level)

        for _ in threaded_map(mean, parts):
            pass
        level = float(median(response[covered]))
        for _ in threaded_map(flag, parts):
            pass
        return CombinedFlat(
            response=response,
            variance=variance,
            mask=mask,
            scatter=scatter,
            predicted_scatter=predicted,
            count=self._count.copy(),
        )

    def _mask(self, rows: slice, response: Float32Array, scatter: Float32Array, level: float) -> Int32Array:
        """Return the mask of some rows."""
        count = self._count[rows]
        covered = count > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            # Weights are inverse relative variances at the typical response; photon noise goes with the pixel's own.
            chi_square = scatter**2 * self._sums[rows, 0] / (level * response)
        # Where the beam model is off, all pixels scatter: a pixel stands out against its neighbours, not against the model alone.
        reduced = (chi_square / np.maximum(count - 1, 1)).astype(np.float32, copy=False)
        usual = np.maximum(block_medians(reduced, _NEIGHBOURHOOD), 1.0)
        inconstant = chi_square > usual * _chi_square_limits(int(self._count.max()))[count]
        # A pixel is usable if it was usable in one pointing; informative planes are kept if any pointing had them.
        informative = int(MaskPlane.EDGE | MaskPlane.MIDLINE | MaskPlane.REJECTED | MaskPlane.SUSPECT)
        without = self._all_planes[rows] | int(MaskPlane.NO_DATA)
        mask = np.where(covered, self._any_planes[rows] & informative, without).astype(np.int32)
        mask[inconstant & covered] |= int(MaskPlane.SUSPECT)
        mask[covered & (response < DEAD_RESPONSE * level)] |= int(MaskPlane.BAD)
        return mask


@dataclass(frozen=True)
class CombinedFlat:
    """Response of one detector from all its pointings.

    ``scatter`` is the weighted rms deviation of the pointings from their mean, ``predicted_scatter`` its expectation from
    photon and read noise alone, ``count`` the number of pointings, per pixel. With weights ``w`` and independent variances ``v``

        E(scatter^2) = sum(w v) / sum(w) - sum(w^2 v) / sum(w)^2
    """

    response: Float32Array
    variance: Float32Array
    mask: Int32Array
    scatter: Float32Array
    predicted_scatter: Float32Array
    count: NDArray[np.int16]


def _chi_square_limits(most: int) -> Float32Array:
    """Return the chi-square between n pointings that chance exceeds once in `CHANCE`, for n from 0 to ``most``."""
    freedom = np.arange(most + 1) - 1
    limits = np.full(most + 1, np.inf)
    limits[2:] = chdtri(freedom[2:], CHANCE)
    return limits.astype(np.float32)
