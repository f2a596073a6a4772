"""Divide an image by a flat."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from permil.arrays import mask_of, plain_array, plain_image, unit_of
from permil.errors import FlatError, InputError
from permil.products import MaskPlane, is_usable


def apply_flat(
    image: ArrayLike,
    variance: ArrayLike,
    mask: ArrayLike,
    *,
    flat: ArrayLike,
    flat_variance: ArrayLike,
    flat_mask: ArrayLike,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
    """Divide an image by a flat and carry the errors of both.

    Parameters
    ----------
    image, variance, mask
        Image of one detector, shape (ny, nx); the variance may be 0 where it is not known. A pixel that is masked (NumPy, astropy) has
        no data; a mask of bool is true where there are none.
    flat, flat_variance, flat_mask
        Flat of the same detector, without a unit.

    Returns
    -------
    image, variance, mask
        ``d / F``, ``var(d) / F^2 + d^2 var(F) / F^4`` and the union of the masks; NaN where the flat has no data.

    Raises
    ------
    FlatError
        If the shapes differ.
    InputError
        If the arrays do not hold real numbers, the flat has a unit, or the variance has another unit than the square of the image's.
    """
    unit = unit_of(image)
    lost = mask_of(image)
    light, response = plain_image(image, name="image"), plain_image(flat, name="flat", unit="")
    if light.shape != response.shape:
        raise FlatError(
            f"the image has {light.shape[0]} x {light.shape[1]} pixels, the flat {response.shape[0]} x {response.shape[1]}",
            remedy="give an image of the flat's detector, trimmed and assembled (permil assemble)",
            value=(light.shape, response.shape),
        )
    noise = plain_image(variance, name="variance", unit=None if unit is None else unit**2, shape=light.shape)
    flat_noise = plain_image(flat_variance, name="flat_variance", unit="", shape=light.shape)
    planes, flat_planes = (_planes(values, name, light.shape) for values, name in ((mask, "mask"), (flat_mask, "flat_mask")))
    planes = np.where(lost, planes | int(MaskPlane.NO_DATA), planes)
    known = is_usable(flat_planes) & (response > 0)
    divisor = np.where(known, response, np.nan).astype(np.float64)
    corrected = light / divisor
    noise = noise / divisor**2 + corrected**2 * flat_noise / divisor**2
    together = planes | flat_planes
    together = np.where(known, together, together | int(MaskPlane.NO_DATA)).astype(np.int32)
    return corrected.astype(np.float32), noise.astype(np.float32), together


def _planes(values: ArrayLike, name: str, shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Return mask planes; no data where a mask of bool is true or the mask itself is masked."""
    if type(values) is np.ndarray and values.dtype.kind in "iu" and values.shape == shape:
        return values.astype(np.int32)
    plain = plain_array(values, name=name, shape=shape)
    if np.any(plain != np.rint(plain), where=np.isfinite(plain)):
        raise InputError(f"{name} holds no mask planes", remedy="give whole numbers or bool")
    no_data = int(MaskPlane.NO_DATA)
    if np.asarray(np.ma.getdata(values)).dtype.kind == "b":
        plain = np.where(plain == 1.0, no_data, plain)
    return np.where(np.isfinite(plain), plain, no_data).astype(np.int32)
