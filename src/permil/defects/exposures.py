"""Unstable and non-linear pixels, from single exposures.

The response of a pixel in an exposure is its signal over the light of its neighbourhood, which needs neither the beam nor the photodiode.
Pixels whose responses scatter more than noise are fitted with a straight line in the light; a single exposure far from the line through
the others is left out, since a cosmic ray hits a pixel once. The slope of the line is the non-linearity, the scatter about it in excess
of noise the instability.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from permil.arrays import BoolArray, Float32Array, FloatArray
from permil.config.flat import DefectsConfig
from permil.flat.combine import DEAD_RESPONSE

FEWEST_EXPOSURES = 5
"""Exposures from which pixels are searched."""

_CANDIDATE = 5.0
_OUTLIER = 6.0
"""Deviation from the line through the other exposures, in units of their scatter, above which an exposure is left out."""


@dataclass(frozen=True)
class PixelFits:
    """Fits to the responses of pixels in single exposures, arrays of shape (n,).

    Attributes
    ----------
    response
        Mean response, relative to the neighbourhood.
    scatter, scatter_err
        Relative rms about the line in excess of noise, and its standard error (of a normal distribution).
    scatter_significance
        Scatter over the noise of a single exposure, times the root of their number.
    nonlinearity, nonlinearity_err
        Change of the response from no light to the most light of the pixel, relative, and its standard error from the scatter about the
        line.
    """

    response: FloatArray
    scatter: FloatArray
    scatter_err: FloatArray
    scatter_significance: FloatArray
    nonlinearity: FloatArray
    nonlinearity_err: FloatArray

    def unstable(self, options: DefectsConfig) -> BoolArray:
        """Return which pixels are unstable; dead ones are neither unstable nor non-linear."""
        is_far = (self.scatter >= options.scatter) & (self.scatter_significance >= options.significance)
        return is_far & (self.response >= DEAD_RESPONSE)

    def nonlinear(self, options: DefectsConfig) -> BoolArray:
        """Return which pixels are non-linear."""
        limit = np.maximum(options.nonlinearity, options.significance * self.nonlinearity_err)
        return (np.abs(self.nonlinearity) >= limit) & (self.response >= DEAD_RESPONSE)


def varying_pixels(signal: Float32Array, light: Float32Array, noise_variance: Float32Array) -> BoolArray:
    """Return which pixels have responses that scatter more than noise.

    Parameters
    ----------
    signal : ndarray, shape (n_exposures, rows, columns)
        Electrons; NaN where it cannot be used.
    light : ndarray, same shape
        Electrons of a pixel of ordinary response.
    noise_variance : ndarray, shape (n_exposures, columns)
        Variance that does not depend on the signal, electrons^2.
    """
    usable = np.isfinite(signal) & (light > 0)
    safe = np.where(usable, light, np.float32(1))
    response = np.where(usable, signal, np.float32(0)) / safe
    count = usable.sum(axis=0)
    enough = count >= FEWEST_EXPOSURES
    mean = response.sum(axis=0) / np.maximum(count, 1)
    squares = np.einsum("eyx,eyx->yx", response, response) - count * mean**2
    inverse = usable / safe
    # The variance of signal over light: photons of the pixel itself, and readout.
    noise = np.abs(mean) * inverse.sum(axis=0) + np.einsum("eyx,ex->yx", inverse**2, noise_variance)
    freedom = np.maximum(count - 1, 1)
    limit = noise / np.maximum(count, 1) * (1 + _CANDIDATE * np.sqrt(2 / freedom))
    return enough & (squares / freedom > limit)


def fit_pixels(signal: FloatArray, light: FloatArray, noise_variance: FloatArray) -> PixelFits:
    """Fit straight lines in the light to the responses of pixels.

    Parameters
    ----------
    signal, light, noise_variance : ndarray, shape (n_pixels, n_exposures)
        As for `varying_pixels`.
    """
    usable = np.isfinite(signal) & (light > 0)
    light = np.where(usable, light, 1.0)
    signal = np.where(usable, signal, 0.0)
    most = np.where(usable, light, 0.0).max(axis=1, initial=0.0)
    place = light / np.maximum(most, 1e-30)[:, None]
    mean = signal.sum(axis=1) / np.maximum(np.where(usable, light, 0.0).sum(axis=1), 1e-30)
    variance = (np.maximum(mean[:, None] * light, 0) + noise_variance) / light**2
    weight = np.where(usable, 1 / np.maximum(variance, 1e-30), 0.0)
    response = signal / light
    first = _lines(response, place, weight)
    # The residual that the exposure had if it were not in the fit decides which one is left out.
    worst = np.argmax(np.abs(first.residual) * np.sqrt(weight) / np.sqrt(np.maximum(1 - first.leverage, 1e-3)), axis=1)
    others = weight.copy()
    np.put_along_axis(others, worst[:, None], 0.0, axis=1)
    second = _lines(response, place, others)
    rest = np.sum(others * second.residual**2, axis=1)
    lost = np.sum(weight * first.residual**2, axis=1) - rest
    is_outlier = lost * np.maximum(np.count_nonzero(others, axis=1) - 2, 1) > _OUTLIER**2 * rest
    kept = np.where(is_outlier[:, None], others, weight)
    line = _lines(response, place, kept)
    count = np.count_nonzero(kept, axis=1)
    freedom = np.maximum(count - 2, 1)
    total = kept.sum(axis=1)
    chi_square = np.sum(kept * line.residual**2, axis=1) / freedom
    noise = count / np.maximum(total, 1e-30)
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = np.abs(line.mean)
        scatter = np.sqrt(np.maximum(chi_square - 1, 0) * noise) / relative
        spread = np.sqrt(chi_square * noise) / relative
        scatter_err = np.where(scatter > 0, spread**2 / np.maximum(scatter, 1e-30) / np.sqrt(2 * freedom), np.nan)
        nonlinearity = line.slope / relative
        nonlinearity_err = np.sqrt(np.maximum(chi_square, 1) / line.leverage_sum) / relative
    enough = count >= FEWEST_EXPOSURES - 1
    unknown = np.where(enough, 1.0, np.nan)
    return PixelFits(
        line.mean * unknown,
        scatter * unknown,
        scatter_err * unknown,
        np.sqrt(np.maximum(chi_square - 1, 0) * count) * unknown,
        nonlinearity * unknown,
        nonlinearity_err * unknown,
    )


@dataclass(frozen=True)
class _Lines:
    """Weighted straight lines: mean, slope, sum of the weighted squares of the places, residuals and leverages."""

    mean: FloatArray
    slope: FloatArray
    leverage_sum: FloatArray
    residual: FloatArray
    leverage: FloatArray


def _lines(response: FloatArray, place: FloatArray, weight: FloatArray) -> _Lines:
    total = np.maximum(weight.sum(axis=1), 1e-30)
    mean, middle = (np.sum(weight * each, axis=1) / total for each in (response, place))
    off = place - middle[:, None]
    squares = np.maximum(np.sum(weight * off**2, axis=1), 1e-30)
    slope = np.sum(weight * off * response, axis=1) / squares
    residual = response - mean[:, None] - slope[:, None] * off
    leverage = weight * (1 / total[:, None] + off**2 / squares[:, None])
    return _Lines(mean, slope, squares, residual, leverage)
