"""Outliers of a single exposure: pixels that stand out of what a few other exposures of the same detector make of them."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from permil.borrowed import borrowed
from permil.camera import Detector
from permil.products import MaskPlane

FloatImage = NDArray[np.float32]

_MEDIAN_VARIANCE = 0.3
"""Variance of the median of five over that of one."""

_OUTLIER = np.int16(MaskPlane.NO_DATA | MaskPlane.REJECTED)


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
    limit = np.float32(threshold**2 * (1 + _MEDIAN_VARIANCE))
    constants = noise_variance.astype(np.float32)
    return variance, int(_flag(image, mask, beam, reference, bounds, first_row, np.float32(scale), constants, limit, variance))


@numba.njit(cache=True, nogil=True)
def _flag(image, mask, beam, reference, bounds, first_row, scale, constants, limit, variance):  # type: ignore[no-untyped-def]  # pragma: no cover
    image, mask, beam, reference, variance = borrowed((image, mask, beam, reference, variance))
    width = image.shape[1]
    off, outlier = np.empty(width, dtype=np.float32), np.empty(width, dtype=np.int16)
    found = 0
    for amplifier in range(bounds.shape[0]):
        low, high, left, right = bounds[amplifier]
        for row in range(max(low - first_row, 0), min(high - first_row, image.shape[0])):
            signals, planes, varied = image[row, left:right], mask[row, left:right], variance[row, left:right]
            offs, outliers = off[left:right], outlier[left:right]
            _compare(
                signals,
                beam[row, left:right],
                reference[row, left:right],
                scale,
                constants[amplifier],
                limit,
                varied,
                offs,
                outliers,
            )
            number = 0
            for k in range(outliers.size):
                number += outliers[k] != 0
            if number:
                for k in range(outliers.size):
                    found += (outliers[k] & ~planes[k]) != 0
                    planes[k] |= outliers[k]
    return found


@numba.njit(cache=True, nogil=True)
def _compare(signals, beam, reference, scale, constant, limit, variance, off, outlier):  # type: ignore[no-untyped-def]  # pragma: no cover
    # Loops that write one array and have no branches become vector instructions.
    for k in range(off.size):
        variance[k] = (signals[k] if signals[k] > 0 else np.float32(0)) + constant
    for k in range(off.size):
        off[k] = signals[k] - scale * beam[k] * reference[k]
    for k in range(off.size):
        # A pixel far below what is expected has a photon noise that is too small: that of what is expected is added.
        spread = variance[k] + (np.float32(0) if off[k] > 0 else -off[k])
        outlier[k] = _OUTLIER if off[k] * off[k] > limit * spread else np.int16(0)
