"""Find spots: connected pixels above the noise in the image binned 2 x 2, which suits spots of about 2 pixels sigma.

Uses SEP (Barbary 2016, JOSS 1, 58; after Bertin & Arnouts 1996, A&AS 117, 393).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil._kernels import spots as kernels
from permil.spots.errors import SpotError

FloatArray = NDArray[np.float64]
Image = NDArray[np.float32]

_BINNING = 2
_LEAST_PIXELS = 4
_PIXEL_STACK = 2_000_000
"""Pixels above the threshold that SEP can hold at a time; its default is too small for 2401 bright spots."""


@dataclass(frozen=True)
class Detections:
    """What was found; arrays over sources.

    Attributes
    ----------
    x, y
        Barycentre of the pixels above the threshold, pixels.
    sigma
        Root mean square radius per axis of these pixels' light, pixels.
    brightness
        Light of these pixels in units of the noise of a binned pixel.
    """

    x: FloatArray
    y: FloatArray
    sigma: FloatArray
    brightness: FloatArray


def detect_spots(image: Image, usable: NDArray[np.bool_], *, threshold: float, box: int) -> Detections:
    """Find sources.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Signal, electrons; background and all.
    usable : ndarray of bool, shape (ny, nx)
        Pixels that count.
    threshold
        In units of the noise of a binned pixel, after smoothing with a 3 x 3 kernel.
    box
        Side of the boxes in which background and noise are taken, pixels.

    Returns
    -------
    Detections

    Raises
    ------
    SpotError
        If the image holds no usable pixels, or so much light that sources cannot be told apart, or SEP is not installed.
    """
    try:
        import sep
    except ImportError as error:
        raise SpotError("finding spots on images needs SEP", remedy="pip install permil[spots]") from error
    if min(image.shape) < 2 * _BINNING or not usable.any():
        raise SpotError("the image has no usable pixels to find spots in", remedy="check the mask and the exposure")
    # An odd last row or column is left out.
    halves = image.shape[0] // _BINNING, image.shape[1] // _BINNING
    binned, empty = np.empty(halves, dtype=np.float32), np.empty(halves, dtype=np.bool_)
    kernels.bin_pixels(np.ascontiguousarray(image, dtype=np.float32), np.ascontiguousarray(usable), binned, empty)
    side = max(box // _BINNING, 2)
    background = sep.Background(binned, mask=empty, bw=side, bh=side)
    if not background.globalrms > 0:
        # A blank image has no noise, and no spots.
        return Detections(*(np.zeros(0) for _ in range(4)))
    significance = (binned - background.back()) / np.maximum(background.rms(), 1e-3 * background.globalrms)
    sep.set_extract_pixstack(_PIXEL_STACK)
    try:
        found = sep.extract(significance, threshold, mask=empty, minarea=_LEAST_PIXELS)
    except Exception as error:
        # SEP raises bare exceptions when its buffers are full.
        raise SpotError(
            f"sources cannot be told apart ({error})", remedy="the exposure is overexposed, or has no spots"
        ) from error
    offset = (_BINNING - 1) / 2
    return Detections(
        x=_BINNING * found["x"] + offset,
        y=_BINNING * found["y"] + offset,
        sigma=_BINNING * np.sqrt((found["x2"] + found["y2"]) / 2),
        brightness=found["cflux"].astype(np.float64),
    )
