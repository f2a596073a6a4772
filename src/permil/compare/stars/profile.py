"""The light of a star as a mixture of Gaussians: from its adaptive moments alone, or with wings from its growth curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq, least_squares

from permil.arrays import FloatArray, plain_array
from permil.errors import CompareError

_COMPONENTS = 3
_LARGEST_RATIO = 4.0
"""Largest ratio of widths of successive components of a fitted mixture."""
_STEP = 0.05
_PIXEL = 1.0 / 12.0


@dataclass(frozen=True)
class StarProfile:
    """A mixture of Gaussians around one centre; including the extent of the pixel (1/12 pixel^2 per axis).

    The first component, the core, may be elliptical and differ from star to star; the others are round and common to all.

    Attributes
    ----------
    fractions : tuple of float
        Fraction of the light in each component; their sum is 1.
    variances : tuple of float
        Variance per axis of each component, pixel^2, increasing.
    """

    fractions: tuple[float, ...]
    variances: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check the mixture.

        Raises
        ------
        CompareError
            If the mixture is empty, or has components without light or width.
        """
        fractions, variances = np.array(self.fractions), np.array(self.variances)
        if not (fractions.size == variances.size > 0 and (fractions > 0).all() and (variances > 0).all()):
            raise CompareError(
                f"a star profile cannot have fractions {self.fractions} and variances {self.variances}",
                remedy="give as many positive fractions as positive variances",
            )
        if not np.isclose(fractions.sum(), 1.0):
            raise CompareError(
                f"the sum of the fractions of a star profile is {fractions.sum():.4g}",
                remedy="normalise it to 1",
                value=self.fractions,
            )

    @classmethod
    def gaussian(cls, moment: float) -> StarProfile:
        """Return the profile of a star with a given adaptive moment ``(xx + yy) / 2``, pixel^2, and no other information."""
        return cls((1.0,), (float(moment),))

    @property
    def moment(self) -> float:
        """Adaptive moment ``(xx + yy) / 2`` of a star with the mean core, pixel^2."""
        return _adaptive_moment(np.array(self.fractions), np.array(self.variances))

    def within(self, radius: ArrayLike) -> FloatArray:
        """Return the fraction of the light in sums over pixels within a radius (pixels).

        Such sums assume uniform light within a pixel crossed by the circle, which adds the blur of one pixel (1/12 pixel^2).
        """
        return _within(np.asarray(radius, dtype=np.float64), np.array(self.fractions), np.array(self.variances))

    def covariances(self, xx: FloatArray, yy: FloatArray, xy: FloatArray) -> FloatArray:
        """Return the covariances of the components of stars with given adaptive moments.

        The core absorbs the difference from the mean star, to first order; without known moments it is that of the mean star.

        Parameters
        ----------
        xx, yy, xy : ndarray, shape (n,)
            Adaptive moments, pixel^2; NaN: unknown.

        Returns
        -------
        ndarray, shape (n, components, 3)
            xx, yy, xy of each component, pixel^2.
        """
        size_gain, shape_gain = self._gains()
        mean, half = (xx + yy) / 2 - self.moment, (xx - yy) / 2
        core = self.variances[0]
        # A core narrower than a fifth of the mean one is not physical.
        size = np.maximum(core + np.nan_to_num(mean) / size_gain, 0.2 * core)
        stretch, tilt = np.nan_to_num(half) / shape_gain, np.nan_to_num(xy) / shape_gain
        ellipticity = np.hypot(stretch, tilt) / size
        limit = np.minimum(1.0, 0.9 / np.maximum(ellipticity, 1e-9))
        covariances = np.zeros((xx.size, len(self.variances), 3))
        covariances[:, :, :2] = np.array(self.variances)[None, :, None]
        covariances[:, 0, 0] = size + limit * stretch
        covariances[:, 0, 1] = size - limit * stretch
        covariances[:, 0, 2] = limit * tilt
        return covariances

    def _gains(self) -> tuple[float, float]:
        """Return the changes of adaptive size and shape per change of those of the core."""
        fractions, variances = np.array(self.fractions), np.array(self.variances)

        def moment(step: float) -> float:
            changed = variances.copy()
            changed[0] += step
            return _adaptive_moment(fractions, changed)

        step = _STEP * variances[0]
        size = (moment(step) - moment(-step)) / (2 * step)
        # Under a weight of variance m, a component of variance s has the variance m s / (m + s). Its shape follows the component's own
        # shape with (m / (m + s))^2 and that of the weight with (s / (m + s))^2; the mean over the light balances half the weight's.
        m = self.moment
        light = fractions * m / (m + variances)
        answer_weight = (light * (variances / (m + variances)) ** 2).sum() / light.sum()
        answer_core = light[0] * (m / (m + variances[0])) ** 2 / light.sum()
        return size, answer_core / (0.5 - answer_weight)


def _within(radius: FloatArray, fractions: FloatArray, variances: FloatArray) -> FloatArray:
    return np.asarray((fractions * -np.expm1(-(radius[..., None] ** 2) / (2 * (variances + _PIXEL)))).sum(axis=-1))


def _adaptive_moment(fractions: FloatArray, variances: FloatArray) -> float:
    """Return the adaptive moment of a round mixture: ``sum W I (r^2 / 2 - m / 2) = 0`` with ``W = exp(-r^2 / 2 m)``."""

    def balance(moment: float) -> float:
        narrowed = variances * moment / (variances + moment)
        light = fractions * narrowed / variances
        return float((light * (narrowed - moment / 2)).sum())

    low, high = float(variances.min()), float(variances.max())
    return low if high - low < 1e-12 * high else float(brentq(balance, low * (1 - 1e-9), high * (1 + 1e-9), xtol=1e-12))


def fit_profile(radii: ArrayLike, fraction: ArrayLike, *, moment: float) -> StarProfile:
    """Fit a mixture of three round Gaussians, fewer if there are less than two radii for each, to a growth curve and an adaptive moment.

    Parameters
    ----------
    radii : array_like, shape (m,)
        Radii of the apertures, pixels.
    fraction : array_like, shape (m,)
        Light within each radius, relative to any one of them.
    moment
        Adaptive moment ``(xx + yy) / 2``, pixel^2; including the pixel. The mixture reproduces it exactly.

    Returns
    -------
    StarProfile

    Raises
    ------
    CompareError
        If the growth curve is not finite or the moment is not positive.
    """
    radii, fraction = plain_array(radii, name="radii", unit="pixel"), plain_array(fraction, name="fraction", unit="")
    if not (np.isfinite(moment) and moment > 0):
        raise CompareError(
            f"adaptive moment {moment} pixel^2 is not positive", remedy="measure the moments of stars first", value=moment
        )
    if radii.shape != fraction.shape or not (np.isfinite(radii) & np.isfinite(fraction)).all():
        raise CompareError("the growth curve of the stars is not finite at all radii", remedy="remove radii without a flux")
    count = max(1, min(_COMPONENTS, radii.size // 2))
    if count == 1:
        return StarProfile.gaussian(moment)

    def mixture(parameters: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return fractions and variances: softmax, and widths that increase, scaled to the moment."""
        exponent = np.concatenate([[0.0], parameters[: count - 1]])
        fractions = np.exp(exponent - exponent.max())
        fractions /= fractions.sum()
        ratio = 1 + (_LARGEST_RATIO - 1) / (1 + np.exp(-parameters[count - 1 :]))
        variances = np.concatenate([[1.0], np.cumprod(ratio**2)])
        return fractions, variances * moment / _adaptive_moment(fractions, variances)

    def misfit(parameters: FloatArray) -> FloatArray:
        fractions, variances = mixture(parameters)
        model = _within(radii, fractions, variances)
        return np.asarray(model * (model @ fraction) / (model @ model) - fraction)

    start = np.concatenate([np.log(0.3 ** np.arange(1, count)), np.zeros(count - 1)])
    solution = least_squares(misfit, start, method="trf", xtol=1e-12, ftol=1e-12)
    fractions, variances = mixture(solution.x)
    return StarProfile(tuple(float(f) for f in fractions), tuple(float(v) for v in variances))
