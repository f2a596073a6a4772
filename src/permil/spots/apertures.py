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


@dataclass(frozen=True)
class SpotImage:
    """An image of spots less its background, with the inputs of their errors.

    Attributes
    ----------
    signal, variance : ndarray, shape (ny, nx)
        Signal less background, and its variance.
    usable : ndarray of bool, shape (ny, nx)
        Pixels to use; other pixels, and those beyond the edge of the detector, count as zero.
    background_error : ndarray, shape (n,)
        Standard error of the subtracted background, common to the pixels of a spot.
    row_errors
        Noise common to the pixels of a row, included in ``variance``. None: pixels are independent.
    """

    signal: Float32Array
    variance: Float32Array
    usable: BoolArray
    background_error: FloatArray
    row_errors: RowErrors | None = None

    def __post_init__(self) -> None:
        """Lay the arrays out as kernels take them."""
        for name, kind in (("signal", np.float32), ("variance", np.float32), ("usable", bool), ("background_error", np.float64)):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype=kind))

    @property
    def rows(self) -> RowErrors:
        """Noise of rows, 0 where pixels are independent."""
        return self.row_errors or no_row_errors(self.signal.shape[0], self.background_error.size)


def aperture_fluxes(image: SpotImage, x: FloatArray, y: FloatArray, *, radii: Sequence[float]) -> ApertureFluxes:
    """Sum the light in circles around spots.

    Parameters
    ----------
    image
        Image with the errors of these spots.
    x, y : ndarray, shape (n,)
        Centres, pixels.
    radii
        Pixels, increasing.

    Returns
    -------
    ApertureFluxes
    """
    circles = np.asarray(radii, dtype=np.float64)
    flux, squared, area, shared = (np.zeros((x.size, circles.size)) for _ in range(4))
    planes = image.signal, image.variance, image.usable
    x, y = (np.ascontiguousarray(axis, dtype=np.float64) for axis in (x, y))
    kernels.sum_circles(*planes, x, y, circles, image.rows, flux, squared, area, shared)
    spread = squared + (area * image.background_error[:, None]) ** 2 - 2.0 * area * shared
    return ApertureFluxes(circles, flux, np.sqrt(np.maximum(spread, 0.0)))


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


def adaptive_moments(image: SpotImage, x: FloatArray, y: FloatArray, *, sigma: float, largest_sigma: float) -> AdaptiveMoments:
    """Measure the adaptive moments of spots.

    Parameters
    ----------
    image
        Image with the errors of these spots.
    x, y : ndarray, shape (n,)
        Starting positions, pixels.
    sigma
        Sigma of the first weight, pixels.
    largest_sigma
        Largest sigma of the weight; the iteration fails beyond it.

    Returns
    -------
    AdaptiveMoments
    """
    parameters, covariance = np.full((x.size, 5), np.nan), np.full((x.size, 5, 5), np.nan)
    planes, limits = (image.signal, image.variance, image.usable), (sigma, largest_sigma, LARGEST_SHIFT, WEIGHT_REACH)
    x, y = (np.ascontiguousarray(axis, dtype=np.float64) for axis in (x, y))
    kernels.measure_moments(*planes, x, y, *limits, image.background_error, image.rows, parameters, covariance)
    centre_x, centre_y, xx, yy, xy = parameters.T.copy()
    return AdaptiveMoments(centre_x, centre_y, xx, yy, xy, covariance)
