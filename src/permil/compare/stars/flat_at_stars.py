"""The flat at the stars: relative to its sensor or amplifier, and averaged over the light of a star."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from permil._kernels import compare as kernels
from permil.arrays import BoolArray, FloatArray
from permil.compare.stars.response import MARGIN, StarPlaces, StarResponse
from permil.errors import CompareError

Reference = Literal["detector", "amplifier"]
LARGEST_LOSS = 0.02
"""Stars that lose a larger fraction of their weight to unusable pixels are not compared."""


@dataclass(frozen=True)
class RelativeFlat:
    """A flat divided by the mean of its sensor or amplifiers.

    Attributes
    ----------
    excess : ndarray, shape (ny, nx)
        ``F - 1``; 0 at unusable pixels.
    variance : ndarray, shape (ny, nx)
        Variance of the excess.
    usable : ndarray of bool, shape (ny, nx)
        Usable pixels.
    means, mean_errors : ndarray, shape (amplifiers,)
        Mean of each amplifier relative to that of the sensor, minus 1, with errors; with reference ``amplifier`` it is removed from
        ``F - 1``. It is degenerate with wrong gains. NaN for amplifiers without a usable pixel.
    reference
        Reference of the excess.
    """

    excess: FloatArray
    variance: FloatArray
    usable: BoolArray
    means: FloatArray
    mean_errors: FloatArray
    reference: Reference

    @property
    def between_amplifiers(self) -> tuple[float, float]:
        """Rms of the amplifier means about that of the sensor, and its error, as wrong gains would cause."""
        known = np.isfinite(self.means)
        if known.sum() < 2:
            return float("nan"), float("nan")
        means, errors = self.means[known], self.mean_errors[known]
        rms = float(means.std())
        return rms, float(np.sqrt(((means - means.mean()) ** 2 * errors**2).sum()) / (known.sum() * max(rms, 1e-300)))


def relative_flat(
    flat: NDArray[np.floating],
    variance: NDArray[np.floating],
    usable: BoolArray,
    amplifiers: NDArray[np.integer],
    *,
    reference: Reference = "amplifier",
) -> RelativeFlat:
    """Divide a flat by the mean over its sensor, or by that of each amplifier.

    Parameters
    ----------
    flat, variance : ndarray, shape (ny, nx)
        Response and its variance.
    usable : ndarray of bool, shape (ny, nx)
        Usable pixels.
    amplifiers : ndarray of int, shape (ny, nx)
        Number of each pixel's amplifier, from 0.
    reference
        ``amplifier`` for the headline: variation between amplifiers is degenerate with wrong gains.

    Raises
    ------
    CompareError
        If shapes differ, nothing is usable, the flat is not finite and positive where it is usable, or it is constant.
    """
    for name, array in (("variance", variance), ("mask", usable), ("map of amplifiers", amplifiers)):
        if array.shape != flat.shape:
            raise CompareError(
                f"the {name} of the flat has shape {array.shape}, but the flat {flat.shape}",
                remedy="give arrays of one detector",
                value=array.shape,
                allowed=flat.shape,
            )
    if not usable.any():
        raise CompareError("no pixel of the flat is usable", remedy="check the mask of the flat")
    values, spread = flat[usable].astype(np.float64), variance[usable].astype(np.float64)
    if not (np.isfinite(values) & np.isfinite(spread) & (values > 0) & (spread >= 0)).all():
        raise CompareError("the flat is not finite and positive in all pixels marked as usable", remedy="mask the other pixels")
    if np.ptp(values) == 0:
        raise CompareError("the flat is constant: there is nothing to compare", remedy="give the measured flat", value=values[0])
    of_pixel = amplifiers[usable].astype(np.int64)
    count = int(amplifiers.max()) + 1
    pixels = np.bincount(of_pixel, minlength=count)
    whole = values.mean()
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.bincount(of_pixel, values, minlength=count) / pixels / whole
        errors = np.sqrt(np.bincount(of_pixel, spread, minlength=count)) / pixels / whole
    scale = whole * (means[of_pixel] if reference == "amplifier" else np.ones(of_pixel.size))
    excess, noise = np.zeros(flat.shape), np.zeros(flat.shape)
    excess[usable], noise[usable] = values / scale - 1, spread / scale**2
    return RelativeFlat(excess, noise, usable.copy(), means - 1, errors, reference)


@dataclass(frozen=True)
class SeenFlat:
    """A flat averaged over the light of stars; arrays of shape (n,).

    Attributes
    ----------
    excess, error
        Mean of ``F - 1`` with the weights of the star, and its standard error; NaN if too much is lost.
    lost
        Fraction of the star's weight on unusable pixels or beyond the detector.
    """

    excess: FloatArray
    error: FloatArray
    lost: FloatArray


def flat_as_seen(
    flat: RelativeFlat,
    places: StarPlaces,
    response: StarResponse,
    *,
    largest_loss: float = LARGEST_LOSS,
) -> SeenFlat:
    """Average a flat over the light of each star in the aperture of its flux, at its sub-pixel position.

    Parameters
    ----------
    flat
        Relative flat.
    places
        Positions of stars, pixels of the flat.
    response
        Profile and aperture of the stars.
    largest_loss
        Stars that lose a larger fraction of their weight are not used.

    Raises
    ------
    CompareError
        If stars lie outside of the flat.
    """
    require_inside(places, flat.excess.shape)
    shapes = response.shapes(places)
    # The pixels that kernels of area and diffusion need around the circle are not needed here.
    shapes = replace(shapes, half=shapes.half - MARGIN + 1)
    seen, spread, lost = np.full(len(places), np.nan), np.full(len(places), np.nan), np.zeros(len(places))
    kernels.weigh_flat(shapes, flat.excess, flat.variance, flat.usable, seen, spread, lost)
    kept = lost <= largest_loss
    return SeenFlat(np.where(kept, seen, np.nan), np.where(kept, np.sqrt(spread), np.nan), lost)


def require_inside(places: StarPlaces, shape: tuple[int, ...]) -> None:
    """Raise an error if stars lie outside a flat, or have no position.

    Raises
    ------
    CompareError
        If so: stars and flat are not of one detector.
    """
    if not (np.isfinite(places.x) & np.isfinite(places.y)).all():
        raise CompareError("some stars have no position", remedy="remove rows whose x or y is not finite")
    outside = (places.x < -0.5) | (places.y < -0.5) | (places.x > shape[1] - 0.5) | (places.y > shape[0] - 0.5)
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        raise CompareError(
            f"{int(outside.sum())} stars lie outside the flat ({shape[1]} x {shape[0]} pixels), the first at "
            f"({places.x[first]:.1f}, {places.y[first]:.1f})",
            remedy="give stars and flat of one detector, in pixels of the detector",
            value=(float(places.x[first]), float(places.y[first])),
        )
