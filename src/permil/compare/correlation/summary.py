"""The results to quote: r, its error and interval, the effective number of points and the p-value."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from permil.compare.correlation.anisotropy import excess_variance, exposure_variance
from permil.compare.correlation.candidates import Candidates, Posterior
from permil.compare.correlation.geometry import Geometry
from permil.compare.correlation.textbook import fisher_interval
from permil.compare.errors import CompareError

FloatArray = NDArray[np.float64]

FEWEST_EFFECTIVE = 15.0
_MOST_LEVERAGE = 0.9
_CROSS_FLOOR = 0.1
# Scatter of the variance over simulated maps in addition to its posterior (modes are not quite independent).
_OVERCONFIDENCE = 2.0
# Below this fraction of a map's variance its means at each position are not used.
_LEAST_SHARE = 1e-9


@dataclass(frozen=True)
class Summary:
    """Correlation of two maps with its error and significance.

    Attributes
    ----------
    r
        Correlation.
    r_err
        Standard error.
    interval
        Two-sided 68.3 % interval.
    n_eff
        Number of independent pairs with the same scatter of r.
    n_eff_low
        The same, at the lower end of its error.
    p_value
        Probability of such an r, of either sign, for independent maps.
    freedom
        Degrees of freedom of the t-test.
    null_variance
        Variance of r of independent maps.
    scatter
        Posterior variance of its logarithm.
    posterior_a, posterior_b
        Posteriors of the covariances of both maps.
    a, b
        The standardised maps, or their means at each position if positions have several points.
    geometry
        Positions of these values.
    """

    r: float
    r_err: float
    interval: tuple[float, float]
    n_eff: float
    n_eff_low: float
    p_value: float
    freedom: float
    null_variance: float
    scatter: float
    posterior_a: Posterior
    posterior_b: Posterior
    a: FloatArray
    b: FloatArray
    geometry: Geometry


def correlation(a: FloatArray, b: FloatArray) -> float:
    """Return the correlation of standardised maps."""
    return float(np.clip(np.mean(a * b), -1.0, 1.0))


def summarise(geometry: Geometry, a: FloatArray, b: FloatArray) -> Summary:
    """Return the results to quote.

    If positions have several points, r is the sum of a part between positions, from the means at each position, and a part within, from
    the deviations from these means. The two are uncorrelated if the deviations are independent of the means, and their variances add.
    That of the part within is ``(1 - share_a) (1 - share_b) / (n - places)`` for white deviations, with the fractions of the variances
    between positions; `exposure_variance` adds the effect of deviations correlated with their neighbours.

    On a lattice with unequal steps, neighbours may be equally correlated per unit of length or per step: the result with the smaller
    effective number of values is used.

    Parameters
    ----------
    geometry
        Positions of the points.
    a, b : ndarray, shape (n,)
        Standardised maps.
    """
    if geometry.place is None:
        return _more_cautious(geometry, a, b)
    number = np.bincount(geometry.place)
    means = [np.bincount(geometry.place, values) / number for values in (a, b)]
    deviations = [values - mean[geometry.place] for values, mean in zip((a, b), means, strict=True)]
    shares = [float(np.mean(mean[geometry.place] ** 2)) for mean in means]
    if min(shares) < _LEAST_SHARE:
        raise CompareError("the means of a map at its positions are all equal", remedy="give a map that varies over the field")
    between = _more_cautious(geometry, *((mean - mean.mean()) / mean.std() for mean in means))
    r = correlation(a, b)
    # Positions with more points have larger weights.
    weight = shares[0] * shares[1] * len(number) * float(np.sum(number.astype(float) ** 2)) / len(a) ** 2
    variances = [max(0.0, 1.0 - share) for share in shares]
    within = variances[0] * variances[1] / (len(a) - len(number))
    r_within = float(np.mean(deviations[0] * deviations[1]) / max(np.sqrt(variances[0] * variances[1]), 1e-300))
    within += exposure_variance(geometry.cells, *deviations)
    variance = weight * between.null_variance + within
    return _with_figures(
        replace(between, r=r, scatter=between.scatter * (weight * between.null_variance / variance) ** 2, null_variance=variance),
        weight * between.r_err**2 + within * max(0.0, 1.0 - r_within**2) ** 2,
        n=len(a),
    )


def _more_cautious(geometry: Geometry, a: FloatArray, b: FloatArray) -> Summary:
    """Return the results for one value per position, in the metric with the smaller effective number of values."""
    metrics = [geometry.once] if geometry.even is None else [geometry.once, geometry.even]
    return min((_at_places(metric, a, b) for metric in metrics), key=lambda summary: summary.n_eff)


def _at_places(geometry: Geometry, a: FloatArray, b: FloatArray) -> Summary:
    """Return the results for maps with one value per position.

    The variance of r of independent maps is ``tr(B Sa B Sb) / (tr(B Sa) tr(B Sb))`` (Clifford, Richardson & Hemon 1989,
    Biometrics 45, 123; Dutilleul 1993, Biometrics 49, 305) with the covariances from `Candidates`. For the test, one map is taken as given
    and the part of the other explained by it is removed before the other's covariance is estimated (as a t-test takes its variance from
    the residuals); the geometric mean of both directions is used. Degrees of freedom are reduced by the posterior scatter of the variance
    (Satterthwaite 1946, Biometrics Bull. 2, 110).
    """
    candidates = geometry.candidates
    r = correlation(a, b)
    mode_a, mode_b = candidates.project(a), candidates.project(b)
    posterior_a, posterior_b = candidates.posterior(mode_a**2), candidates.posterior(mode_b**2)
    means = candidates.mean_weights(posterior_a), candidates.mean_weights(posterior_b)
    excess = excess_variance(geometry.cells, candidates.expectations, a, b, *means)
    residual_a = candidates.posterior(_residual_power(mode_a, mode_b, r, len(a)))
    residual_b = candidates.posterior(_residual_power(mode_b, mode_a, r, len(a)))
    ways = [candidates.null_variance(residual_a, posterior_b), candidates.null_variance(posterior_a, residual_b)]
    scatter = _OVERCONFIDENCE * float(np.mean([spread for _, spread in ways]))
    # The mean of a lognormal variance.
    variance = float(np.exp(np.mean([mean for mean, _ in ways]) + scatter / 2.0 / _OVERCONFIDENCE)) + excess
    unknown = (np.nan, (np.nan, np.nan), np.nan, np.nan, np.nan, np.nan)
    return _with_figures(
        Summary(r, *unknown, variance, scatter, posterior_a, posterior_b, a, b, geometry),
        _error_variance(candidates, mode_a, mode_b, r, *means) + excess * (1.0 - r * r) ** 2,
        n=len(a),
    )


def _with_figures(summary: Summary, error_variance: float, *, n: int) -> Summary:
    """Complete a summary from r, its variance for independent maps, and its variance for correlated maps."""
    r, variance, scatter = summary.r, summary.null_variance, summary.scatter
    n_eff = min(1.0 + 1.0 / variance, float(n))
    p_value, freedom = np.nan, np.nan
    if n_eff > 3.0:
        freedom = 1.0 / (1.0 / (n_eff - 2.0) + scatter / 2.0)
        t = abs(r) * np.sqrt((n_eff - 2.0) / max(1.0 - r * r, 1e-15))
        p_value = float(2.0 * stats.t.sf(t, freedom))
    r_err = float(np.sqrt(error_variance))
    return replace(
        summary,
        r_err=r_err,
        interval=fisher_interval(r, r_err),
        n_eff=n_eff,
        n_eff_low=n_eff * float(np.exp(-np.sqrt(scatter / _OVERCONFIDENCE))),
        p_value=p_value,
        freedom=float(freedom),
    )


def _residual_power(mode: FloatArray, other: FloatArray, r: float, n: int) -> FloatArray:
    """Return the mode powers of one map without the part explained by the other, corrected for the part removed by chance."""
    leverage = np.minimum(other**2 / n, _MOST_LEVERAGE)
    return (mode - r * other) ** 2 / (1.0 - leverage)


def _error_variance(
    candidates: Candidates, mode_a: FloatArray, mode_b: FloatArray, r: float, of_a: FloatArray, of_b: FloatArray
) -> float:
    """Return the variance of r of correlated maps.

    To first order, with covariances ``Sa, Sb`` and the cross-covariance ``C`` of maps of unit variance (Bartlett 1966, Introduction to
    Stochastic Processes, section 9; here with the traces of the centred maps, ``<X Y> = tr(B X B Y) / n^2``):
    ``<Sa Sb> + <C C> - 2 r (<Sa C> + <Sb C>) + r^2 (<Sa Sa> / 2 + <C C> + <Sb Sb> / 2)``. C is r times a mean of Sa and Sb, the one
    that best fits the products of the modes: the common part resembles one of the maps, or is intermediate.
    """
    traces, power = candidates.expectations.traces, candidates.expectations.power
    power_a, power_b = power @ of_a, power @ of_b
    weight = 1.0 / ((power_a + _CROSS_FLOOR) * (power_b + _CROSS_FLOOR))
    contrast = power_a - power_b
    slope = np.sum(weight * contrast * (mode_a * mode_b - r * power_b)) / max(np.sum(weight * contrast**2), 1e-300)
    share = np.clip(slope / r, 0.0, 1.0) if r else 0.5
    cross = r * (share * of_a + (1.0 - share) * of_b)
    aa, bb, cc = of_a @ traces @ of_a, of_b @ traces @ of_b, cross @ traces @ cross
    ac, bc = of_a @ traces @ cross, of_b @ traces @ cross
    variance = of_a @ traces @ of_b + cc - 2.0 * r * (ac + bc) + r * r * (aa / 2.0 + cc + bb / 2.0)
    return float(max(variance, (1.0 - r * r) ** 2 * 0.5 * (of_a @ traces @ of_b)))
