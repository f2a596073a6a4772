"""The light of a spot: an elliptical Gaussian core, round wings and a halo, integrated over each pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil._kernels import simulate as kernels

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class SpotProfile:
    """Round components that all spots share, beside their own cores.

    Attributes
    ----------
    fractions, sigmas
        Part of the light and sigma (pixels) of each round component; the core has the rest of the light.
    """

    fractions: tuple[float, ...]
    sigmas: tuple[float, ...]

    @property
    def core_fraction(self) -> float:
        """Part of the light in the core."""
        return 1.0 - sum(self.fractions)


@dataclass(frozen=True)
class SpotLight:
    """Light of spots on the sensor; arrays over spots.

    Attributes
    ----------
    x, y
        Centre, pixels.
    flux
        Electrons that the whole spot would make where the sensor's efficiency is 1.
    xx, yy, xy
        Covariance of the core, without the pixel's own extent, pixel^2.
    """

    x: FloatArray
    y: FloatArray
    flux: FloatArray
    xx: FloatArray
    yy: FloatArray
    xy: FloatArray


def add_spots(light: FloatArray, spots: SpotLight, profile: SpotProfile) -> None:
    """Add spots to an image of light per pixel, in place; what falls beside the image is lost."""
    kernels.add_cores(light, spots.x, spots.y, profile.core_fraction * spots.flux, spots.xx, spots.yy, spots.xy)
    for fraction, sigma in zip(profile.fractions, profile.sigmas, strict=True):
        kernels.add_round(light, spots.x, spots.y, fraction * spots.flux, sigma)
