"""Divide an image by a flat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from permil.errors import FlatError
from permil.products import MaskPlane, is_usable


def apply_flat(
    image: NDArray[np.floating],
    variance: NDArray[np.floating],
    mask: NDArray[np.int32],
    *,
    flat: NDArray[np.floating],
    flat_variance: NDArray[np.floating],
    flat_mask: NDArray[np.int32],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
    """Divide an image by a flat and carry the errors of both.

    Parameters
    ----------
    image, variance, mask
        Image of one detector, shape (ny, nx); the variance may be 0 where it is not known.
    flat, flat_variance, flat_mask
        Flat of the same detector.

    Returns
    -------
    image, variance, mask
        ``d / F``, ``var(d) / F^2 + d^2 var(F) / F^4`` and the union of the masks; NaN where the flat has no data.

    Raises
    ------
    FlatError
        If the shapes differ.
    """
    if image.shape != flat.shape:
        raise FlatError(
            f"the image has {image.shape[0]} x {image.shape[1]} pixels, the flat {flat.shape[0]} x {flat.shape[1]}",
            remedy="give an image of the flat's detector, trimmed and assembled (permil assemble)",
            value=(image.shape, flat.shape),
        )
    known = is_usable(flat_mask) & (flat > 0)
    divisor = np.where(known, flat, np.nan).astype(np.float64)
    corrected = image / divisor
    noise = variance / divisor**2 + corrected**2 * flat_variance / divisor**2
    planes = np.where(known, mask | flat_mask, mask | flat_mask | int(MaskPlane.NO_DATA)).astype(np.int32)
    return corrected.astype(np.float32), noise.astype(np.float32), planes
