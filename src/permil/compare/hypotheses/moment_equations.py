"""Coupled moment equations of the three kinds and all bands, corrected for the noise of the flat, with errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from permil.compare.errors import CompareError
from permil.compare.stars.kernels import SIGNATURE

if TYPE_CHECKING:
    from permil.compare.hypotheses.structure import FlatSpectrum
    from permil.compare.scales import Band
    from permil.compare.stars.response import StarPlaces, StarResponse

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_LEAST_RELIABILITY = 0.1
"""Smallest fraction of an instrument's variance due to structure, not noise of the flat, for which a coefficient is fitted."""


@dataclass(frozen=True)
class Rows:
    """Measurements of one quantity, with calibration terms projected out.

    Attributes
    ----------
    index
        Indices of the stars.
    x, y, places
        Positions of the stars.
    value, variance, weight : ndarray, shape (n,)
        Measurement, variance of its error, and weight.
    templates : ndarray, shape (n, 3, bands)
        Templates of the three kinds.
    instruments : ndarray, shape (n, bands)
        Instruments of the kind with its signature in this quantity.
    flat_noise : ndarray, shape (3,)
        Weighted sums over the rows of the variance of a pixel of the flat times powers 0 to 2 of the glow, with the lost
        degrees of freedom removed.
    freedom
        Degrees of freedom per row.
    """

    index: IntArray
    x: FloatArray
    y: FloatArray
    places: StarPlaces
    value: FloatArray
    variance: FloatArray
    weight: FloatArray
    templates: FloatArray
    instruments: FloatArray
    flat_noise: FloatArray
    freedom: float


@dataclass(frozen=True)
class MomentFit:
    """Solution of the moment equations.

    Attributes
    ----------
    coefficients : ndarray, shape (3, bands)
        Coefficients of the three kinds; 0 if not fitted.
    fitted : ndarray of bool, shape (3, bands)
        Mask of the coefficients determined by stars and flat.
    gain : ndarray, shape (3 bands, 3 bands)
        Change of the coefficients per change of the weighted sums over stars (kind by kind, band by band); 0 if not fitted.
    noise : ndarray, shape (3 bands, 3 bands)
        Covariance of the sums from the errors of the stars.
    template_noise : ndarray, shape (3, 5, bands)
        Variance of the template of its own kind from white noise of variance 1 of the flat, by powers of the glow: flux, dx, dy, xx, yy.
    """

    coefficients: FloatArray
    fitted: NDArray[np.bool_]
    gain: FloatArray
    noise: FloatArray
    template_noise: FloatArray

    @property
    def bands(self) -> int:
        """Number of bands."""
        return self.coefficients.shape[1]


def solve_moments(rows: list[Rows], response: StarResponse, bands: tuple[Band, ...], spectrum: FlatSpectrum) -> MomentFit:
    """Solve ``sum w z (y - X f) = 0`` for all bands and kinds together.

    Parameters
    ----------
    rows
        Rows of the six quantities.
    response
        Response that determines how noise of the flat enters instruments and templates.
    bands
        Bands of periods.
    spectrum
        Power spectrum of the flat.

    Raises
    ------
    CompareError
        If the flat has no structure above its noise on any scale.
    """
    count = len(bands)
    products, template_noise = response.noise_products(bands)
    normal, correction, noise = (np.zeros((3, count, 3, count)) for _ in range(3))
    side = np.zeros((3, count))
    for quantity, kind in enumerate(SIGNATURE):
        of = rows[quantity]
        weighted = of.weight[:, None] * of.instruments
        side[kind] += weighted.T @ of.value
        normal[kind] += np.einsum("nb,nkc->bkc", weighted, of.templates, optimize=True)
        correction[kind, range(count), :, range(count)] += np.tensordot(of.flat_noise, products[:, quantity], 1).T
        noise[kind, :, kind] += weighted.T @ (of.variance[:, None] * weighted)
    size = 3 * count
    whole = normal.reshape(size, size)
    matrix = whole - correction.reshape(size, size)
    with np.errstate(invalid="ignore", divide="ignore"):
        reliability = np.diag(matrix) / np.diag(whole)
    # If both are negative, the instrument responds to the template with the wrong sign and does not constrain it.
    fitted = np.isfinite(reliability) & (reliability > _LEAST_RELIABILITY) & (np.diag(matrix) > 0)
    # Only fluxes respond to structure finer than a star.
    fitted.reshape(3, count)[1:, [number for number, band in enumerate(bands) if band.shortest == 0]] = False
    if not fitted.any():
        raise CompareError(
            "the flat has no structure above its noise on any scale",
            remedy="average more images into the flat",
            value=spectrum.noise,
        )
    gain = np.zeros((size, size))
    chosen = np.ix_(fitted, fitted)
    scale = np.sqrt(np.diag(matrix)[fitted])
    gain[chosen] = np.linalg.inv(matrix[chosen] / np.outer(scale, scale)) / np.outer(scale, scale)
    return MomentFit(
        coefficients=(gain @ side.ravel()).reshape(3, count),
        fitted=fitted.reshape(3, count),
        gain=gain,
        noise=noise.reshape(size, size),
        template_noise=template_noise,
    )


def scatter_left(of: Rows, coefficients: FloatArray) -> FloatArray:
    """Return the squared residuals of rows from the fit, per degree of freedom."""
    residual = of.value - np.einsum("nkb,kb->n", of.templates, coefficients)
    return np.asarray(residual**2 / of.freedom)
