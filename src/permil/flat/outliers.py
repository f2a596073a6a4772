"""Outliers of a single exposure: pixels that stand out of what a few other exposures of the same detector make of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from permil._kernels import flat as kernels
from permil.camera import Detector

FloatImage = NDArray[np.float32]

_MEDIAN_VARIANCE = 0.3
"""Variance of the median of five over that of one."""


def flag_outliers(
    image: FloatImage,
    mask: NDArray[np.int16],
    *,
    detector: Detector,
    noise_variance: NDArray[np.float64],
    beam: FloatImage,
    scale: float,
    reference: FloatImage,
    threshold: float,
    first_row: int = 0,
) -> tuple[FloatImage, int]:
    """Flag, in the mask of a single exposure, what is off the signal that is expected.

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
        Of the detector, of those that are given.

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
