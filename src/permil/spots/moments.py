"""Adaptive moments: centroid and second moments under an elliptical Gaussian weight that matches the spot.

The weight `W = exp(-r M^-1 r / 2)` around the centroid solves `sum W I r = 0` and `sum W I (r r - M / 2) = 0` (Bernstein & Jarvis
2002, AJ 123, 583, section 3; Hirata & Seljak 2003, MNRAS 343, 459), the definition of galsim's ``FindAdaptiveMom`` and of
``SdssShape``. The pixel's own extent is part of the moments (1/12 pixel^2 in xx and yy for a wide spot).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil._kernels import spots as kernels
from permil.spots.background import RowErrors, no_row_errors

FloatArray = NDArray[np.float64]
Image = NDArray[np.float32]

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
    def converged(self) -> NDArray[np.bool_]:
        """Mask of the spots with a solution."""
        return np.isfinite(self.xx)

    @property
    def errors(self) -> FloatArray:
        """Standard errors of (x, y, xx, yy, xy), shape (n, 5)."""
        return np.sqrt(np.diagonal(self.covariance, axis1=1, axis2=2))


def adaptive_moments(
    image: Image,
    variance: Image,
    usable: NDArray[np.bool_],
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
        np.ascontiguousarray(image, dtype=np.float32),
        np.ascontiguousarray(variance, dtype=np.float32),
        np.ascontiguousarray(usable),
        np.ascontiguousarray(x, dtype=np.float64),
        np.ascontiguousarray(y, dtype=np.float64),
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
