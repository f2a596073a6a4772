"""Fluxes in circles, with the exact part of each pixel that lies inside, and the growth of the flux with the radius."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from permil.spots.row_noise import RowErrors, no_row_errors

FloatArray = NDArray[np.float64]
Image = NDArray[np.float32]


@dataclass(frozen=True)
class ApertureFluxes:
    """Fluxes of spots in circles.

    Attributes
    ----------
    radii : ndarray, shape (m,)
        Pixels.
    flux, error : ndarray, shape (n, m)
        Electrons; the error has the noise of the pixels and of the background.
    """

    radii: FloatArray
    flux: FloatArray
    error: FloatArray


@dataclass(frozen=True)
class GrowthCurve:
    """Median part of a spot's light within each radius, relative to a reference radius.

    Attributes
    ----------
    radii, fraction, error : ndarray, shape (m,)
        Radius in pixels, flux over flux at the reference radius, and its standard error (0 at the reference).
    reference
        Reference radius, pixels.
    spots
        Number of spots in the median.
    """

    radii: FloatArray
    fraction: FloatArray
    error: FloatArray
    reference: float
    spots: int

    def correction(self, radius: float) -> tuple[float, float]:
        """Return what a flux within one of the radii is multiplied by to be that within the reference, and its error."""
        index = int(np.argmin(np.abs(self.radii - radius)))
        factor = 1.0 / self.fraction[index]
        return float(factor), float(factor**2 * self.error[index])


def aperture_fluxes(
    image: Image,
    variance: Image,
    usable: NDArray[np.bool_],
    x: FloatArray,
    y: FloatArray,
    *,
    radii: Sequence[float],
    background_error: FloatArray,
    row_errors: RowErrors | None = None,
) -> ApertureFluxes:
    """Sum the light in circles around spots.

    Parameters
    ----------
    image, variance : ndarray, shape (ny, nx)
        Signal less background, and its variance.
    usable : ndarray of bool, shape (ny, nx)
        Pixels that count; others, and those beyond the detector's edge, hold no light.
    x, y : ndarray, shape (n,)
        Centres, pixels.
    radii
        Pixels, increasing.
    background_error : ndarray, shape (n,)
        Standard error of the subtracted background, common to the pixels of a spot.
    row_errors
        Noise that pixels of a row have in common; ``variance`` contains it. None: pixels are independent.

    Returns
    -------
    ApertureFluxes
    """
    rows = row_errors or no_row_errors(image.shape[0], x.size)
    circles = np.asarray(radii, dtype=np.float64)
    flux, squared, area, shared = (np.zeros((x.size, circles.size)) for _ in range(4))
    _sum_circles(
        np.ascontiguousarray(image, dtype=np.float32),
        np.ascontiguousarray(variance, dtype=np.float32),
        np.ascontiguousarray(usable),
        np.ascontiguousarray(x, dtype=np.float64),
        np.ascontiguousarray(y, dtype=np.float64),
        circles,
        rows.noise.starts,
        rows.noise.variance,
        rows.first_row,
        rows.answer,
        flux,
        squared,
        area,
        shared,
    )
    spread = squared + (area * np.asarray(background_error)[:, None]) ** 2 - 2.0 * area * shared
    return ApertureFluxes(circles, flux, np.sqrt(np.maximum(spread, 0.0)))


def growth_curve(apertures: ApertureFluxes, good: NDArray[np.bool_], *, reference: float) -> GrowthCurve:
    """Return the growth curve as the median over good spots.

    Parameters
    ----------
    good : ndarray of bool, shape (n,)
        Spots to use: isolated and bright.
    reference
        One of the radii, pixels.

    Returns
    -------
    GrowthCurve
        NaN without good spots. The error is that of the median, from the scatter between spots.
    """
    index = int(np.argmin(np.abs(apertures.radii - reference)))
    used = good & (apertures.flux[:, index] > 0)
    count = int(used.sum())
    if count == 0:
        nothing = np.full(apertures.radii.size, np.nan)
        return GrowthCurve(apertures.radii, nothing, nothing, float(apertures.radii[index]), 0)
    ratio = apertures.flux[used] / apertures.flux[used, index][:, None]
    fraction = np.median(ratio, axis=0)
    scatter = 1.4826 * np.median(np.abs(ratio - fraction), axis=0)
    # The median of normal values scatters by sqrt(pi / 2) more than the mean; one spot alone says nothing of its error.
    error = np.sqrt(np.pi / 2 / count) * scatter if count > 1 else np.full(fraction.size, np.nan)
    return GrowthCurve(apertures.radii, fraction, error, float(apertures.radii[index]), count)


@njit(cache=True, nogil=True, inline="always")
def _under_circle(x, radius):  # type: ignore[no-untyped-def]
    """Return the integral of ``sqrt(radius^2 - t^2)`` from 0 to x."""
    return 0.5 * (x * np.sqrt(max(radius * radius - x * x, 0.0)) + radius * radius * np.arcsin(min(x / radius, 1.0)))


@njit(cache=True, nogil=True)
def _quadrant_overlap(x_low, x_high, y_low, y_high, radius):  # type: ignore[no-untyped-def]
    """Return the area of a rectangle in the first quadrant that lies in the circle around the origin."""
    if x_high <= x_low or y_high <= y_low:
        return 0.0
    squared = radius * radius
    # Left of `full` the circle passes above the rectangle, right of `empty` below it.
    full = min(max(np.sqrt(max(squared - y_high * y_high, 0.0)), x_low), x_high)
    empty = min(max(np.sqrt(max(squared - y_low * y_low, 0.0)), x_low), x_high)
    return (full - x_low) * (y_high - y_low) + _under_circle(empty, radius) - _under_circle(full, radius) - y_low * (empty - full)


@njit(cache=True, nogil=True)
def _pixel_overlap(u, v, radius):  # type: ignore[no-untyped-def]
    """Return the part of a pixel, its centre at (u, v) from the circle's, that lies in the circle."""
    u, v = abs(u), abs(v)
    x_low, x_high, y_low, y_high = u - 0.5, u + 0.5, v - 0.5, v + 0.5
    # A pixel across an axis is folded along it; the second parts are empty for all others.
    area = _quadrant_overlap(max(x_low, 0.0), x_high, max(y_low, 0.0), y_high, radius)
    area += _quadrant_overlap(0.0, -x_low, max(y_low, 0.0), y_high, radius)
    area += _quadrant_overlap(max(x_low, 0.0), x_high, 0.0, -y_low, radius)
    return area + _quadrant_overlap(0.0, -x_low, 0.0, -y_low, radius)


@njit(cache=True, nogil=True)
def _sum_circles(image, variance, usable, x, y, radii, starts, row_variance, first_row, answer, flux, squared, area, shared):  # type: ignore[no-untyped-def]
    """Sum up flux, variance and area of each circle, and its covariance with the background through the rows (``shared``)."""
    half_diagonal = np.sqrt(0.5)
    reach = radii[-1] + 0.5
    in_row = np.zeros(radii.size)
    for spot in range(x.size):
        left, right = max(int(np.ceil(x[spot] - reach)), 0), min(int(np.floor(x[spot] + reach)), image.shape[1] - 1)
        for row in range(max(int(np.ceil(y[spot] - reach)), 0), min(int(np.floor(y[spot] + reach)), image.shape[0] - 1) + 1):
            v = row - y[spot]
            line = row - first_row[spot]
            for strip in range(starts.size):
                low = max(left, starts[strip])
                high = min(right, starts[strip + 1] - 1) if strip + 1 < starts.size else right
                if low > high:
                    continue
                level = row_variance[row, strip]
                in_row[:] = 0.0
                for column in range(low, high + 1):
                    if not usable[row, column]:
                        continue
                    u = column - x[spot]
                    distance = np.sqrt(u * u + v * v)
                    # Circles are counted from the largest inwards until the pixel lies outside.
                    for circle in range(radii.size - 1, -1, -1):
                        if distance >= radii[circle] + half_diagonal:
                            break
                        part = 1.0 if distance <= radii[circle] - half_diagonal else _pixel_overlap(u, v, radii[circle])
                        flux[spot, circle] += part * image[row, column]
                        squared[spot, circle] += part * part * (variance[row, column] - level)
                        in_row[circle] += part
                background = answer[spot, line, strip] if 0 <= line < answer.shape[1] else 0.0
                for circle in range(radii.size):
                    area[spot, circle] += in_row[circle]
                    squared[spot, circle] += level * in_row[circle] ** 2
                    shared[spot, circle] += level * in_row[circle] * background
