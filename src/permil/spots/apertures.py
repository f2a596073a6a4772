"""Fluxes in circular apertures, their growth with the radius, and adaptive moments of a spot.

The weight `W = exp(-r M^-1 r / 2)` around the centroid solves `sum W I r = 0` and `sum W I (r r - M / 2) = 0` (Bernstein & Jarvis
2002, AJ 123, 583, section 3; Hirata & Seljak 2003, MNRAS 343, 459), the definition of galsim's ``FindAdaptiveMom`` and of
``SdssShape``. The pixel's own extent is part of the moments (1/12 pixel^2 in xx and yy for a wide spot).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from permil._kernels import spots as kernels
from permil.arrays import BoolArray, Float32Array, FloatArray
from permil.spots.background import RowErrors, no_row_errors


@dataclass(frozen=True)
class ApertureFluxes:
    """Fluxes of spots in circles.

    Attributes
    ----------
    radii : ndarray, shape (m,)
        Radii, pixels.
    flux, error : ndarray, shape (n, m)
        Fluxes and errors, electrons; the error includes the noise of the pixels and of the background.
    """

    radii: FloatArray
    flux: FloatArray
    error: FloatArray


@dataclass(frozen=True)
class GrowthCurve:
    """Median fraction of a spot's light within each radius, relative to a reference radius.

    Attributes
    ----------
    radii, fraction, error : ndarray, shape (m,)
        Radius in pixels, flux over flux at the reference radius, and its standard error (0 at the reference).
    reference
        Reference radius, pixels.
    spots
        Number of spots in the median.
    """

    radii: FloatArray
    fraction: FloatArray
    error: FloatArray
    reference: float
    spots: int

    def correction(self, radius: float) -> tuple[float, float]:
        """Return the factor from a flux within one of the radii to the flux within the reference radius, and its error."""
        index = int(np.argmin(np.abs(self.radii - radius)))
        factor = 1.0 / self.fraction[index]
        return float(factor), float(factor**2 * self.error[index])


def aperture_fluxes(
    image: Float32Array,
    variance: Float32Array,
    usable: BoolArray,
    x: FloatArray,
    y: FloatArray,
    *,
    radii: Sequence[float],
    background_error: FloatArray,
    row_errors: RowErrors | None = None,
) -> ApertureFluxes:
    """Sum the light in circles around spots.

    Parameters
    ----------
    image, variance : ndarray, shape (ny, nx)
        Signal less background, and its variance.
    usable : ndarray of bool, shape (ny, nx)
        Pixels to use; other pixels, and those beyond the edge of the detector, count as zero.
    x, y : ndarray, shape (n,)
        Centres, pixels.
    radii
        Pixels, increasing.
    background_error : ndarray, shape (n,)
        Standard error of the subtracted background, common to the pixels of a spot.
    row_errors
        Noise common to the pixels of a row, included in ``variance``. None: pixels are independent.

    Returns
    -------
    ApertureFluxes
    """
    rows = row_errors or no_row_errors(image.shape[0], x.size)
    circles = np.asarray(radii, dtype=np.float64)
    flux, squared, area, shared = (np.zeros((x.size, circles.size)) for _ in range(4))
    kernels.sum_circles(
        *_contiguous(image, variance, usable, x, y),
        circles,
        rows,
        flux,
        squared,
        area,
        shared,
    )
    spread = squared + (area * np.asarray(background_error)[:, None]) ** 2 - 2.0 * area * shared
    return ApertureFluxes(circles, flux, np.sqrt(np.maximum(spread, 0.0)))


def _contiguous(
    image: Float32Array, variance: Float32Array, usable: BoolArray, x: FloatArray, y: FloatArray
) -> tuple[Float32Array, Float32Array, BoolArray, FloatArray, FloatArray]:
    """Return the arrays as kernels take them."""
    image, variance = (np.ascontiguousarray(plane, dtype=np.float32) for plane in (image, variance))
    x, y = (np.ascontiguousarray(axis, dtype=np.float64) for axis in (x, y))
    return image, variance, np.ascontiguousarray(usable), x, y


def growth_curve(apertures: ApertureFluxes, good: BoolArray, *, reference: float) -> GrowthCurve:
    """Return the growth curve as the median over good spots.

    Parameters
    ----------
    good : ndarray of bool, shape (n,)
        Spots to use: isolated and bright.
    reference
        One of the radii, pixels.

    Returns
    -------
    GrowthCurve
        NaN without good spots. The error is that of the median, from the scatter between spots.
    """
    index = int(np.argmin(np.abs(apertures.radii - reference)))
    used = good & (apertures.flux[:, index] > 0)
    count = int(used.sum())
    if count == 0:
        nothing = np.full(apertures.radii.size, np.nan)
        return GrowthCurve(apertures.radii, nothing, nothing, float(apertures.radii[index]), 0)
    ratio = apertures.flux[used] / apertures.flux[used, index][:, None]
    fraction = np.median(ratio, axis=0)
    scatter = 1.4826 * np.median(np.abs(ratio - fraction), axis=0)
    # The median of normal values scatters by sqrt(pi / 2) more than the mean; one spot alone does not determine its error.
    error = np.sqrt(np.pi / 2 / count) * scatter if count > 1 else np.full(fraction.size, np.nan)
    return GrowthCurve(apertures.radii, fraction, error, float(apertures.radii[index]), count)


WEIGHT_REACH = 5.0
"""Radius of the weight in sigmas, as in galsim."""
LARGEST_SHIFT = 3.0
"""Largest distance of a centroid from the detected position, pixels."""


@dataclass(frozen=True)
class AdaptiveMoments:
    """Adaptive moments of spots; arrays over spots, NaN if the iteration did not converge.

    Attributes
    ----------
    x, y
        Centroid, pixels.
    xx, yy, xy
        Second moments, pixel^2.
    covariance : ndarray, shape (n, 5, 5)
        Covariance of (x, y, xx, yy, xy).
    """

    x: FloatArray
    y: FloatArray
    xx: FloatArray
    yy: FloatArray
    xy: FloatArray
    covariance: FloatArray

    @property
    def converged(self) -> BoolArray:
        """Mask of the spots with a solution."""
        return np.isfinite(self.xx)

    @property
    def errors(self) -> FloatArray:
        """Standard errors of (x, y, xx, yy, xy), shape (n, 5)."""
        return np.sqrt(np.diagonal(self.covariance, axis1=1, axis2=2))


def adaptive_moments(
    image: Float32Array,
    variance: Float32Array,
    usable: BoolArray,
    x: FloatArray,
    y: FloatArray,
    *,
    sigma: float,
    background_error: FloatArray,
    largest_sigma: float,
    row_errors: RowErrors | None = None,
) -> AdaptiveMoments:
    """Measure the adaptive moments of spots.

    Parameters
    ----------
    image, variance : ndarray, shape (ny, nx)
        Signal less background, and its variance.
    usable : ndarray of bool, shape (ny, nx)
        Pixels to use.
    x, y : ndarray, shape (n,)
        Starting positions, pixels.
    sigma
        Sigma of the first weight, pixels.
    background_error : ndarray, shape (n,)
        Standard error of the subtracted background, common to the pixels of a spot.
    largest_sigma
        Largest sigma of the weight; the iteration fails beyond it.
    row_errors
        Noise common to the pixels of a row, included in ``variance``. None: pixels are independent.

    Returns
    -------
    AdaptiveMoments
    """
    rows = row_errors or no_row_errors(image.shape[0], x.size)
    parameters = np.full((x.size, 5), np.nan)
    covariance = np.full((x.size, 5, 5), np.nan)
    kernels.measure_moments(
        *_contiguous(image, variance, usable, x, y),
        sigma,
        largest_sigma,
        LARGEST_SHIFT,
        WEIGHT_REACH,
        np.ascontiguousarray(background_error, dtype=np.float64),
        rows,
        parameters,
        covariance,
    )
    centre_x, centre_y, xx, yy, xy = parameters.T.copy()
    return AdaptiveMoments(centre_x, centre_y, xx, yy, xy, covariance)
