"""Divide an image by a flat."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy import units as u
from numpy.typing import ArrayLike, NDArray

from permil.arrays import plain_array, plain_image, unit_of
from permil.errors import FlatError, InputError
from permil.products import MaskPlane, is_usable


def apply_flat(
    image: ArrayLike,
    variance: ArrayLike,
    mask: ArrayLike | None,
    *,
    flat: ArrayLike,
    flat_variance: ArrayLike,
    flat_mask: ArrayLike | None,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
    """Divide an image by a flat and carry the errors of both.

    Parameters
    ----------
    image, variance, mask
        Image of one detector, shape (ny, nx); the variance may be 0 where it is not known, or an uncertainty of `astropy.nddata`. A
        pixel that is masked (NumPy, astropy) has no data; a mask of bool is true where there are none, None marks nothing.
    flat, flat_variance, flat_mask
        Flat of the same detector, without a unit or in per cent.

    Returns
    -------
    image, variance, mask
        ``d / F``, ``var(d) / F^2 + d^2 var(F) / F^4`` and the union of the masks. NaN and NO_DATA where the flat is not usable, not
        finite or not positive, and where the image is not finite; the variance is NaN where one of the two is negative or NaN.

    Raises
    ------
    FlatError
        If the shapes of image and flat differ.
    InputError
        If the arrays do not hold real numbers or belong together, the flat has the unit of a signal, or the variance has another
        unit than the square of the image's.
    """
    unit = unit_of(image)
    light, response = plain_image(image, name="image"), plain_image(flat, name="flat", unit="")
    if light.shape != response.shape:
        raise FlatError(
            f"the image has {_size(light.shape)} pixels, the flat {_size(response.shape)}",
            remedy="give an image of the flat's detector, trimmed and assembled (permil assemble)",
            value=(light.shape, response.shape),
        )
    noise = _noise(variance, "variance", light.shape, None if unit is None else unit**2)
    flat_noise = _noise(flat_variance, "flat_variance", light.shape, "")
    planes, flat_planes = (_planes(values, name, light.shape) for values, name in ((mask, "mask"), (flat_mask, "flat_mask")))
    known = is_usable(flat_planes) & np.isfinite(response) & (response > 0)
    divisor = np.where(known, response, np.nan).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        quotient = light / divisor
        corrected = quotient.astype(np.float32)
        lost = ~np.isfinite(corrected)
        error = (noise / divisor**2 + quotient**2 * flat_noise / divisor**2).astype(np.float32)
    corrected[lost] = np.nan
    error[lost | ~np.isfinite(error)] = np.nan
    together = planes | flat_planes
    together[lost] |= np.int32(MaskPlane.NO_DATA)
    return corrected, error, together


def _noise(variance: Any, name: str, shape: tuple[int, ...], unit: str | u.UnitBase | None) -> NDArray[np.floating]:
    """Return a variance, NaN where it is negative."""
    if hasattr(variance, "represent_as") and hasattr(variance, "uncertainty_type"):  # an uncertainty of astropy.nddata
        from astropy.nddata import VarianceUncertainty

        variance = variance.represent_as(VarianceUncertainty).quantity
    noise = plain_image(variance, name=name, unit=unit, shape=shape)
    return np.where(noise >= 0, noise, np.nan)


def _planes(values: ArrayLike | None, name: str, shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Return mask planes; no data where a mask of bool is true or the mask itself is masked."""
    if values is None:
        return np.zeros(shape, dtype=np.int32)
    if type(values) is np.ndarray and values.dtype.kind in "iu" and values.shape == shape:
        return values.astype(np.int32)
    plain = plain_array(values, name=name, shape=shape)
    if np.any(plain != np.rint(plain), where=np.isfinite(plain)):
        raise InputError(f"{name} holds no mask planes", remedy="give whole numbers or bool")
    no_data = int(MaskPlane.NO_DATA)
    if np.asarray(np.ma.getdata(values)).dtype.kind == "b":
        plain = np.where(plain == 1.0, no_data, plain)
    return np.where(np.isfinite(plain), plain, no_data).astype(np.int32)


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
