"""Divide an image by a flat."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy import units as u
from numpy.typing import NDArray

from permil.arrays import plain_array, unit_of
from permil.errors import FlatError, InputError
from permil.products import MaskPlane, is_usable


def apply_flat(
    image: Any, variance: Any, mask: Any, *, flat: Any, flat_variance: Any, flat_mask: Any
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
    """Divide an image by a flat and carry the errors of both.

    Arrays may be masked, have units and any byte order: masked values of image and flat are no data, the variance is converted to
    the square of the unit of the image, a flat in per cent is divided by 100.

    Parameters
    ----------
    image, variance, mask
        Image of one detector, shape (ny, nx); the variance may be 0 where it is not known, or an uncertainty of
        `astropy.nddata`. The mask has the planes of
        `MaskPlane`; in one of booleans, true is BAD, and None marks nothing.
    flat, flat_variance, flat_mask
        Flat of the same detector.

    Returns
    -------
    image, variance, mask
        ``d / F``, ``var(d) / F^2 + d^2 var(F) / F^4`` and the union of the masks. NaN and NO_DATA where the flat is not usable, not
        finite or not positive, and where the image is not finite; the variance is NaN where one of the two is negative or NaN.

    Raises
    ------
    FlatError
        If image and flat differ in shape, or the flat has the unit of a signal.
    InputError
        If another array has another shape, or does not hold what it must.
    """
    signal = plain_array(image, name="the image", ndim=2)
    shape = signal.shape
    response = _response(flat, shape)
    unit, relative = unit_of(image), u.dimensionless_unscaled
    noise = _noise(variance, "the variance of the image", shape, None if unit is None else unit**2)
    flat_noise = _noise(flat_variance, "the variance of the flat", shape, relative)
    planes, of_flat = _planes(mask, "the mask of the image", shape), _planes(flat_mask, "the mask of the flat", shape)
    known = is_usable(of_flat) & np.isfinite(response) & (response > 0)
    divisor = np.where(known, response, np.nan)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        quotient = signal / divisor
        corrected = quotient.astype(np.float32)
        lost = ~np.isfinite(corrected)
        corrected[lost] = np.nan
        error = (noise / divisor**2 + quotient**2 * flat_noise / divisor**2).astype(np.float32)
    error[lost | ~np.isfinite(error)] = np.nan
    planes |= of_flat
    planes[lost] |= np.int32(MaskPlane.NO_DATA)
    return corrected, error, planes


def _response(flat: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    unit = unit_of(flat)
    if unit is not None and unit.physical_type != "dimensionless":
        raise FlatError(
            f"the flat is in {unit}, which is the unit of a signal", remedy="give a flat on a relative scale", value=str(unit)
        )
    response = plain_array(flat, name="the flat", unit=u.dimensionless_unscaled)
    if response.shape != shape:
        raise FlatError(
            f"the image has {_size(shape)} pixels, the flat {_size(response.shape)}",
            remedy="give an image of the flat's detector, trimmed and assembled (permil assemble)",
            value=(shape, response.shape),
        )
    return response


def _noise(variance: Any, name: str, shape: tuple[int, ...], unit: u.UnitBase | None) -> NDArray[np.float64]:
    """Return a variance, NaN where it is negative or not finite."""
    if hasattr(variance, "represent_as") and hasattr(variance, "uncertainty_type"):  # an uncertainty of astropy.nddata
        from astropy.nddata import VarianceUncertainty

        variance = variance.represent_as(VarianceUncertainty).quantity
    values = plain_array(variance, name=name, unit=unit)
    if values.ndim and values.shape != shape:
        raise InputError(f"{name} has the shape {values.shape}, the image {shape}", remedy="give arrays that belong together")
    noise = values if values.ndim else np.full(shape, values)
    noise[~(np.isfinite(noise) & (noise >= 0))] = np.nan
    return noise


def _planes(mask: Any, name: str, shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Return a mask as integers of 32 bits."""
    if mask is None:
        return np.zeros(shape, dtype=np.int32)
    planes = np.ma.filled(mask, int(MaskPlane.NO_DATA)) if np.ma.isMaskedArray(mask) else np.asarray(mask)
    if planes.dtype.kind not in "iub" or planes.shape != shape:
        raise InputError(
            f"{name} holds {planes.dtype} in the shape {planes.shape}, not integers in the shape {shape}",
            remedy="give the planes of MaskPlane, or booleans that are true where a pixel is bad",
        )
    return planes.astype(np.int32)


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
