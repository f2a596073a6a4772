"""Fractions of the three kinds and Wiener weights of each band, from the measurements of stars.

In a band of periods, ``F - 1 = e + a + b + n``: efficiency, pixel area, diffusion and noise. The stars measure the fractions
``f_k = cov(k, F) / var(F)`` (`permil.compare.hypotheses.fit.fit_bands`), which for independent kinds are their shares of the power P of the
flat. The best linear estimate of the efficiency from the flat alone is the Wiener filter (Wiener 1949; Rybicki & Press 1992, ApJ 398, 169)

    e_hat = f_e r (F - 1),    r = P / (P + N).

Fractions of neighbouring bands resemble each other, and add up to 1 unless the flat has structure that stars do not show. Both are prior
knowledge; the posterior of all bands together follows from the covariance of the measured fractions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy
from scipy import linalg

from permil.arrays import BoolArray, FloatArray, IntArray
from permil.compare.hypotheses.fit import BandCoefficients
from permil.compare.hypotheses.predict import PredictedStars
from permil.compare.scales import Band, cosine_wavenumbers

SPANS = 10.0
"""Longest period of measured structure, in spans of the dithers: of longer structure less than 4 % of the variance differs between the
dithers of a spot, the rest is part of the flux of the spot."""
LARGEST_ERROR = 0.2
"""Largest error of the fraction of efficiency after the fit of all bands; the plain flat is kept in bands with a larger one."""
LEAST_TRANSFER = 0.1
"""Damping in the flux of a star below which structure counts as pixel scale: the plain flat is kept."""

_PIXEL_SCALE = 2.0
"""Least period (pixels) that ends the pixel scale."""
_CHANGES = (0.01, 0.03, 0.1, 0.25, 0.5)
"""Prior standard deviations of a fraction from its mean over bands, equally likely."""
_REACH = 2.0
"""Correlation length of the prior, octaves of the period."""
_PURE, _PURE_CHANGE = 0.1, 1e-3
"""Prior probability that a flat is entirely of one kind, for each kind, and standard deviation of its fractions in that case."""
_MEAN = 1.0
"""Prior standard deviation of the mean over bands: hardly any constraint."""
_LEAST_BAND = 1.2
"""Smallest ratio of the limits of a band."""
_REGION = 0.2
"""Prior standard deviation of a fraction of a region from that of the whole detector."""
_SUM = 0.05
"""Prior standard deviation of the sum of the fractions of a band from 1."""
_SIGNIFICANT = 3.0
"""Significance (standard errors) above which a fraction enters the maps of displacement and size."""
_LEAST_FRACTION = 0.05
"""Smallest fraction that enters the maps of displacement and size."""
_INCONSISTENT = 3.0
"""Deviation of the measured sum from 1, in standard errors, above which the sum is not constrained."""


@dataclass(frozen=True)
class BandPower:
    """Power of a flat in the bands of the filter: those of the fit, the first divided into the pixel scale and the rest.

    Attributes
    ----------
    bands
        Bands of periods, the pixel scale first.
    power, noise : ndarray, shape (bands,)
        Variance of the pixels of the flat due to the structure in each band, and due to its white noise.
    reliability : ndarray, shape (bands,)
        ``P / (P + N)``, where P and N are weighted with the response of the flux of a star.
    """

    bands: tuple[Band, ...]
    power: FloatArray
    noise: FloatArray
    reliability: FloatArray


@dataclass(frozen=True)
class BandWeights:
    """Fractions and Wiener weights of each band of the filter for one component of the flat in one zone.

    Attributes
    ----------
    fractions : ndarray, shape (3, bands)
        Fractions of efficiency, pixel area and diffusion, 0 to 1.
    covariance : ndarray, shape (3 bands, 3 bands)
        Covariance of their errors.
    measured : ndarray of bool, shape (bands,)
        Bands in which stars measure the efficiency; elsewhere the plain flat is kept.
    reliability : ndarray, shape (bands,)
        See `BandPower`.
    """

    fractions: FloatArray
    covariance: FloatArray
    measured: BoolArray
    reliability: FloatArray

    @property
    def efficiency(self) -> FloatArray:
        """Factor of each band of ``F - 1`` in the efficiency flat; 1 where the plain flat is kept."""
        return np.where(self.measured, self.fractions[0] * self.reliability, 1.0)

    @property
    def others(self) -> FloatArray:
        """Factors of each band in pixel area and diffusion, shape (2, bands).

        0 where the plain flat is kept, and for fractions below three errors or 0.05: at long periods the displacement, and even more the
        diffusion, of a small fraction would be larger than all others, and most of it structure of other kinds.
        """
        significant = (self.fractions[1:] > _SIGNIFICANT * self.errors[1:]) & (self.fractions[1:] > _LEAST_FRACTION)
        return np.where(self.measured & significant, self.fractions[1:] * self.reliability, 0.0)

    @property
    def errors(self) -> FloatArray:
        """Standard errors of the fractions, shape (3, bands)."""
        return np.sqrt(np.diag(self.covariance)).reshape(self.fractions.shape)

    def error_factors(self) -> tuple[FloatArray, FloatArray]:
        """Return the variance of the error of the efficiency relative to that of structure and of noise, shape (bands,) each.

        With w the weight of a band, for independent kinds,

            error = P (f (1 - f) + (f - w)^2) + N w^2 = P (f - 2 f w + w^2) + N w^2:

        what the flat alone cannot separate, damping by the filter (or pixel area that is kept, where w is 1), and noise. It is linear
        in f: the error of f does not change its expectation.
        """
        return _error_factors(self.fractions[0], self.efficiency)

    def other_error_factors(self) -> tuple[FloatArray, FloatArray]:
        """Return the same for pixel area and diffusion, shape (2, bands) each; 0 in bands that do not enter their maps."""
        used = self.others > 0
        structure, noise = _error_factors(self.fractions[1:], self.others)
        return np.where(used, structure, 0.0), np.where(used, noise, 0.0)

    def plain(self) -> BandWeights:
        """Return the same fractions with the plain flat kept in all bands."""
        return replace(self, measured=np.zeros_like(self.measured))


def _error_factors(fraction: FloatArray, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    return fraction * (1 - 2 * weight) + weight**2, weight**2


def band_power(predicted: PredictedStars) -> BandPower:
    """Return the power of the flat in each band of the filter, and its reliability for the flux of stars."""
    wavenumber = np.hypot(*cosine_wavenumbers(predicted.shape)).ravel()
    spectrum = predicted.spectrum
    nodes = np.linspace(0, float(wavenumber.max()), 500)
    transfer = predicted.response.transfer(nodes)
    seen = np.interp(wavenumber, nodes, transfer) ** 2
    power = spectrum.at(wavenumber)
    finer, *others = predicted.bands
    faint = nodes[transfer < LEAST_TRANSFER]
    split = float(np.clip(2 * np.pi / faint[0] if faint.size else 0.0, _PIXEL_SCALE, 0.9 * finer.longest))
    bands = (Band(0.0, split), Band(split, finer.longest), *others)
    found = np.zeros((3, len(bands)))
    for number, band in enumerate(bands):
        modes = band.holds(wavenumber)
        signal, noise = float(seen[modes] @ power[modes]), spectrum.noise * float(seen[modes].sum())
        reliability = signal / (signal + noise) if signal + noise > 0 else 0.0
        found[:, number] = power[modes].sum() / wavenumber.size, spectrum.noise * modes.mean(), reliability
    return BandPower(bands, *found)


def weights_of(fit: BandCoefficients, power: BandPower, *, span: float, whole: BandWeights | None = None) -> BandWeights:
    """Return the posterior fractions of all bands, and with them the weights of the filter.

    Parameters
    ----------
    fit
        Measured fractions in the bands of the fit: those of the filter, without the pixel scale.
    power
        Power of the flat in the bands of the filter.
    span
        Span of the dithers, pixels.
    whole
        Fractions of the whole detector, as prior for a region.

    Notes
    -----
    Either the flat is all of one kind (prior chance 0.1 for each), or the prior mean is 1/3 for each kind, unknown by 1, and fractions
    change with the period by 0.01 to 0.5 with a correlation length of two octaves (Gaussian process, Rasmussen & Williams 2006,
    chapter 2). All cases are averaged with their evidence (Hoeting et al. 1999, Statistical Science 14, 382). Fractions of a region
    differ from those of the whole detector by 0.2. The sum is 1 +- 0.05 in each band where its measurement is consistent with 1. The
    fraction of each kind and band is the mean of the posterior between 0 and 1.
    """
    bands = power.bands[1:]
    count = len(bands)
    within = np.array([band.longest <= SPANS * span for band in bands])
    used = (fit.fitted & within).ravel()
    constrained = _sums_to_one(fit, within)
    design = np.concatenate([np.eye(3 * count)[used], np.tile(np.eye(count), 3)[constrained]])
    value = np.concatenate([fit.value.ravel()[used], np.ones(int(constrained.sum()))])
    noise = linalg.block_diag(fit.covariance[np.ix_(used, used)], _SUM**2 * np.eye(int(constrained.sum())))
    models = _models(bands, whole)
    found = [_posterior(mean, prior, design, value, noise) for _, mean, prior in models]
    odds = np.log([chance for chance, _, _ in models]) + np.array([evidence for evidence, _, _ in found])
    odds = np.exp(odds - odds.max()) / np.exp(odds - odds.max()).sum()
    means = np.array([mean for _, mean, _ in found])
    middle = odds @ means
    covariance, limited = np.zeros((3 * count, 3 * count)), np.zeros(3 * count)
    for chance, (_, mean, spread) in zip(odds, found, strict=True):
        covariance += chance * (spread + np.outer(mean - middle, mean - middle))
        limited += chance * _mean_within_limits(mean, np.sqrt(np.diag(spread)))
    fractions = limited.reshape(3, count)
    error = np.sqrt(np.diag(covariance))
    measured = within & (error[:count] <= LARGEST_ERROR)
    # The pixel scale, which stars do not measure, has the fractions of the next band as prior.
    of_band = np.r_[0, np.arange(count)]
    of_kinds = (count * np.arange(3)[:, None] + of_band).ravel()
    return BandWeights(fractions[:, of_band], covariance[np.ix_(of_kinds, of_kinds)], np.r_[False, measured], power.reliability)


def _posterior(
    mean: FloatArray, prior: FloatArray, design: FloatArray, value: FloatArray, noise: FloatArray
) -> tuple[float, FloatArray, FloatArray]:
    """Return the logarithm of the evidence, and mean and covariance of normal parameters after a linear measurement."""
    spread = linalg.cho_factor(design @ prior @ design.T + noise)
    left = value - design @ mean
    evidence = -0.5 * float(left @ linalg.cho_solve(spread, left)) - float(np.log(np.diag(spread[0])).sum())
    gain = linalg.cho_solve(spread, design @ prior).T
    covariance = prior - gain @ design @ prior
    return evidence, mean + gain @ left, (covariance + covariance.T) / 2


def _models(bands: tuple[Band, ...], whole: BandWeights | None) -> list[tuple[float, FloatArray, FloatArray]]:
    """Return the possible priors of the fractions: their probability, mean and covariance."""
    place = np.array([_octave(band) for band in bands])
    alike = np.exp(-0.5 * ((place[:, None] - place) / _REACH) ** 2) + 1e-9 * np.eye(place.size)
    kinds, chance = np.eye(3), 1 / len(_CHANGES)
    if whole is not None:
        own = np.arange(whole.covariance.shape[0]).reshape(3, -1)[:, 1:].ravel()
        mean, covariance = whole.fractions[:, 1:].ravel(), whole.covariance[np.ix_(own, own)]
        return [(chance, mean, covariance + np.kron(kinds, _REGION**2 + change**2 * alike)) for change in _CHANGES]
    mixed = np.full(3 * place.size, 1 / 3)
    pure = [(_PURE, np.repeat(kind, place.size), np.kron(kinds, _PURE_CHANGE**2 * alike)) for kind in kinds]
    chance *= 1 - 3 * _PURE
    return [(chance, mixed, np.kron(kinds, _MEAN**2 + change**2 * alike)) for change in _CHANGES] + pure


def _mean_within_limits(mean: FloatArray, error: FloatArray) -> FloatArray:
    """Return the mean of normal distributions between 0 and 1."""
    limits = -mean / error, (1 - mean) / error
    # From the densities at the limits: SciPy's own mean takes the distributions one by one.
    below, above = (scipy.stats.truncnorm.pdf(limit, *limits) for limit in limits)
    return np.asarray(mean + error * (below - above))


def _octave(band: Band) -> float:
    """Return the logarithm (base 2) of the middle of a band; an open end is taken as a factor of two away."""
    shortest = band.shortest if band.shortest > 0 else band.longest / 2
    longest = band.longest if np.isfinite(band.longest) else band.shortest * 2
    return float(np.log2(shortest * longest) / 2)


def _sums_to_one(fit: BandCoefficients, within: BoolArray) -> BoolArray:
    """Return the bands whose measured fractions add up to 1 within their error; none if all together do not."""
    count = within.size
    whole = fit.fitted.all(axis=0) & within
    if not whole.any():
        return whole
    sums = np.tile(np.eye(count)[whole], 3)
    variance = sums @ fit.covariance @ sums.T
    deviation = fit.value.sum(axis=0)[whole] - 1
    weight = 1 / np.diag(variance)
    total_error = np.sqrt(weight @ variance @ weight)
    if abs(weight @ deviation) > _INCONSISTENT * total_error:
        return np.zeros(count, dtype=bool)
    consistent = whole.copy()
    consistent[whole] = np.abs(deviation) <= _INCONSISTENT * np.sqrt(np.diag(variance))
    return consistent


def periods_within(periods: tuple[float, ...], span: float, shape: tuple[int, ...]) -> tuple[float, ...]:
    """Return limits of bands, extended to the longest period that dithers of a span (pixels) measure on a detector."""
    longest = min(SPANS * span, 2.0 * min(shape))
    while 2 * periods[-1] <= longest:
        periods = (*periods, 2 * periods[-1])
    return (*periods, longest) if longest > _LEAST_BAND * periods[-1] else periods


def dither_span(x: FloatArray, y: FloatArray, spot: IntArray) -> float:
    """Return the span of the dithers, pixels: the median over spots of the range of their positions, averaged over both axes."""
    order = np.argsort(spot, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(spot[order]) != 0])
    ranges = [np.maximum.reduceat(place[order], starts) - np.minimum.reduceat(place[order], starts) for place in (x, y)]
    return float(np.median(np.mean(ranges, axis=0)))
