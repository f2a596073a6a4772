"""The light of a spot: an elliptical Gaussian core, round wings and a halo, integrated over each pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_REACH = 5.5
"""Sigmas at which a Gaussian ends; beyond lie 3e-7 of its light."""
# Two nodes per axis integrate the core over a pixel so that flux and second moments are exact and the fourth derivative enters
# with 1/4320 only.
_GAUSS_NODE = 0.5 / math.sqrt(3.0)


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
    _add_cores(light, spots.x, spots.y, profile.core_fraction * spots.flux, spots.xx, spots.yy, spots.xy)
    for fraction, sigma in zip(profile.fractions, profile.sigmas, strict=True):
        _add_round(light, spots.x, spots.y, fraction * spots.flux, sigma)


@njit(cache=True)
def _add_cores(light, x, y, flux, xx, yy, xy):  # type: ignore[no-untyped-def]
    for spot in range(x.size):
        determinant = xx[spot] * yy[spot] - xy[spot] ** 2
        ixx, iyy, ixy = yy[spot] / determinant, xx[spot] / determinant, -xy[spot] / determinant
        height = 0.25 * flux[spot] / (2.0 * math.pi * math.sqrt(determinant))
        reach_x, reach_y = _REACH * math.sqrt(xx[spot]) + 0.5, _REACH * math.sqrt(yy[spot]) + 0.5
        for row in range(max(math.ceil(y[spot] - reach_y), 0), min(math.floor(y[spot] + reach_y), light.shape[0] - 1) + 1):
            for column in range(max(math.ceil(x[spot] - reach_x), 0), min(math.floor(x[spot] + reach_x), light.shape[1] - 1) + 1):
                total = 0.0
                for v in (row - y[spot] - _GAUSS_NODE, row - y[spot] + _GAUSS_NODE):
                    for u in (column - x[spot] - _GAUSS_NODE, column - x[spot] + _GAUSS_NODE):
                        total += math.exp(-0.5 * (ixx * u * u + iyy * v * v) - ixy * u * v)
                light[row, column] += height * total


@njit(cache=True)
def _integrals(centre, sigma, first, last):  # type: ignore[no-untyped-def]
    """Return the part of a one-dimensional Gaussian in each of the pixels first to last."""
    parts = np.empty(max(last - first + 1, 0))
    scale = 1.0 / (sigma * math.sqrt(2.0))
    below = math.erf((first - 0.5 - centre) * scale)
    for pixel in range(parts.size):
        above = math.erf((first + pixel + 0.5 - centre) * scale)
        parts[pixel] = 0.5 * (above - below)
        below = above
    return parts


@njit(cache=True)
def _add_round(light, x, y, flux, sigma):  # type: ignore[no-untyped-def]
    reach = _REACH * sigma + 0.5
    for spot in range(x.size):
        first_row, last_row = max(math.ceil(y[spot] - reach), 0), min(math.floor(y[spot] + reach), light.shape[0] - 1)
        first_column, last_column = max(math.ceil(x[spot] - reach), 0), min(math.floor(x[spot] + reach), light.shape[1] - 1)
        along_y = _integrals(y[spot], sigma, first_row, last_row)
        along_x = _integrals(x[spot], sigma, first_column, last_column)
        for row in range(along_y.size):
            part = flux[spot] * along_y[row]
            for column in range(along_x.size):
                light[first_row + row, first_column + column] += part * along_x[column]
