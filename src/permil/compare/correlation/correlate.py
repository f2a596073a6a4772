"""The correlation of two maps, with its error and significance: r, its error and interval, the effective number of points, the p-value.

Corrections and tests for structure beyond a single isotropic covariance: stripes, rings, exposures, changes of variance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy
from numpy.typing import ArrayLike
from scipy import fft

from permil.arrays import FloatArray, IntArray
from permil.compare.correlation.blocks import Corrected, Estimate, correct, jackknife_labels
from permil.compare.correlation.covariance import Candidates, Expectations, Geometry, Posterior
from permil.compare.correlation.methods import METHODS, fisher_interval, other_methods
from permil.compare.correlation.points import Cells, Points, prepare
from permil.compare.correlation.result import CorrelationResult
from permil.engine.threads import one_thread
from permil.errors import CompareError

# The products of lag covariances must exceed what isotropic maps give by this factor and by this number of standard deviations.
_FACTOR, _SIGNIFICANT = 1.5, 4.0
_SHARE_OF_EXTENT = 0.5
# Lags up to this fraction of the extents are used for maps that change between exposures.
_SHARE_OF_EXPOSURES, _SIGNIFICANT_EXPOSURES = 0.25, 3.0
# The same for directions that vary over the field: within tiles.
_TURNING_FACTOR, _TURNING_SIGNIFICANT = 1.4, 3.0

_VARIANCE_TILES = 4
_FEWEST_IN_TILE = 6
# A map is non-stationary below this p-value; it is relevant if the common variances of both maps increase that of r by this factor.
_CHANCE = 1e-4
_MATTERS = 1.3
# Smallest effective number of values per tile for a test.
_FEWEST_EFFECTIVE = 4.0


def excess_variance(
    cells: Cells, expectations: Expectations, a: FloatArray, b: FloatArray, weights_a: FloatArray, weights_b: FloatArray
) -> float:
    """Return the excess of the variance of r from measured lag covariances over isotropic ones, 0 if not significant.

    The sum ``sum_h N(h) Ca(h) Cb(h) / n^2`` over the measured lag covariances has a known expectation for independent maps of the fitted
    covariances (centring included), and far more scatter than the fit. It replaces the fit only if it exceeds it clearly: stripes or rings
    concentrate both maps in few waves, which an isotropic covariance cannot describe.

    Parameters
    ----------
    cells, expectations
        Positions of the points.
    a, b : ndarray, shape (n,)
        Standardised maps.
    weights_a, weights_b : ndarray, shape (components,)
        Weights of the fitted components, fractions of the mean square.
    """
    rows, columns = (np.abs(lag) <= _SHARE_OF_EXTENT * np.abs(lag).max() for lag in (cells.lag_y, cells.lag_x))
    used = rows[:, None] & columns[None, :] & (cells.pairs > 0)
    pairs = cells.pairs[used]
    measured = np.sum(cells.lag_products(a)[used] * cells.lag_products(b)[used] / pairs) / cells.n**2
    models = [covariance(cells, expectations, weights) for weights in (weights_a, weights_b)]
    first, second = (_expected_products(cells, model)[used] for model in models)
    expected = np.sum(first * second / pairs) / cells.n**2
    # Correlated maps share waves, which contributes a term proportional to r^2 to the sum.
    r = np.mean(a * b)
    expected *= 1.0 + 2.0 * r * r
    threshold = expected * max(_FACTOR, 1.0 + _SIGNIFICANT * _scatter(cells, expectations, weights_a, weights_b))
    return float(measured - expected) if measured > threshold else 0.0


def exposure_variance(cells: Cells, a: FloatArray, b: FloatArray) -> float:
    """Return the variance of r due to deviations of both maps from their means at each position; 0 if these are white.

    If both maps are correlated between neighbours within an exposure, the sum over the lags of the products ``c(p) c(q)`` of two points,
    with c the product of the deviations, is positive; it is 0 for white deviations. It is used if it clearly exceeds its scatter.

    Parameters
    ----------
    cells
        Positions of the points.
    a, b : ndarray, shape (n,)
        Deviations of the standardised maps from their means at each position.
    """
    product = a * b
    product = np.where(product != 0.0, product - product.mean(), 0.0)
    limit = [_SHARE_OF_EXPOSURES * np.abs(lag).max() for lag in (cells.lag_y, cells.lag_x)]
    used = (np.abs(cells.lag_y) <= limit[0])[:, None] & (np.abs(cells.lag_x) <= limit[1])[None, :] & (cells.pairs > 0)
    used[0, 0] = False
    excess = float(np.sum(cells.lag_products(product)[used]))
    # Each pair of points is counted in both directions.
    scatter = np.sqrt(2.0 * max(float(np.sum(cells.lag_products(product**2)[used])), 0.0))
    if excess <= _SIGNIFICANT_EXPOSURES * scatter:
        return 0.0
    # Subtracting the mean makes the sum over all lags 0, and that over the lags in use too small by their fraction.
    return excess / cells.n**2 / (1.0 - float(cells.pairs[used].sum()) / cells.n**2)


def common_directions(
    cells: Cells, expectations: Expectations, a: FloatArray, b: FloatArray, weights_a: FloatArray, weights_b: FloatArray
) -> float:
    """Return the factor by which local directions common to both maps increase the variance of r; 1 if not significant.

    Lag covariances are measured within 4 x 4 tiles and multiplied tile by tile; for stationary independent maps the sum is
    expected to equal that of the covariances of all tiles together. Rings about one centre have the same direction in both maps at each
    position, but not over the whole field, and their effective number of values cannot be determined from lags.

    Parameters
    ----------
    cells, expectations, a, b, weights_a, weights_b
        As for `excess_variance`.
    """
    models = [covariance(cells, expectations, weights) for weights in (weights_a, weights_b)]
    lag_a, lag_b = (cells.lags_in_tiles(values) for values in (a, b))
    pairs = cells.pairs_in_tiles
    product = float(np.sum(lag_a * lag_b / np.maximum(pairs, 1.0)))
    pooled_a, pooled_b, pooled = (lags.sum(axis=0) for lags in (lag_a, lag_b, pairs))
    together = float(np.sum(pooled_a * pooled_b / np.maximum(pooled, 1.0)))
    lag_y, lag_x = (np.rint(np.fft.fftfreq(size, 1.0 / size)).astype(np.int64) for size in pooled.shape)
    expected = float(np.sum(pooled * (models[0] * models[1])[np.ix_(lag_y, lag_x)]))
    r = np.mean(a * b)
    factor = float(product / (max(together, expected) * (1.0 + 2.0 * r * r)))
    needed = max(_TURNING_FACTOR, 1.0 + _TURNING_SIGNIFICANT * _scatter(cells, expectations, weights_a, weights_b))
    return factor if factor > needed else 1.0


def _scatter(cells: Cells, expectations: Expectations, weights_a: FloatArray, weights_b: FloatArray) -> float:
    """Return the relative scatter of the sum of products of measured covariances: ``sqrt(8 / shared waves)``."""
    products = (expectations.power @ weights_a) * (expectations.power @ weights_b)
    variance = float(weights_a @ expectations.traces @ weights_b)
    waves = min((cells.n**2 * variance) ** 2 / np.sum(products**2), 1.0 / variance)
    return float(np.sqrt(8.0 / max(waves, 1.0)))


def covariance(cells: Cells, expectations: Expectations, weights: FloatArray) -> FloatArray:
    """Return the covariance function of a mixture on the padded lattice of lags."""
    variances = weights * expectations.variance
    along_x, along_y = (np.exp(-0.5 * (lag / expectations.lengths[:, None]) ** 2) for lag in (cells.lag_x, cells.lag_y))
    function = (along_y.T * variances[1:]) @ along_x
    # White noise correlates a point only with itself, not with other points at the same position.
    function[0, 0] += variances[0] * cells.n / cells.pairs[0, 0]
    return function


def _expected_products(cells: Cells, function: FloatArray) -> FloatArray:
    """Return the expected sum of lag products of a centred map with a given covariance function."""
    counted = cells.transformed_counts
    row_sums = cells.smoothed(counted, fft.rfft2(function))
    products = fft.irfft2(counted.conj() * cells.transform(row_sums), cells.padded)
    reflected = np.roll(products[::-1, ::-1], (1, 1), (0, 1))
    return cells.pairs * (function + row_sums.sum() / cells.n**2) - (products + reflected) / cells.n


def changes_in_common(x: FloatArray, y: FloatArray, a: FloatArray, b: FloatArray, own_a: float, own_b: float) -> float:
    """Return the factor by which common changes of both variances over the field increase the variance of r; else 1.

    Parameters
    ----------
    x, y : ndarray, shape (n,)
        Positions.
    a, b : ndarray, shape (n,)
        Standardised maps.
    own_a, own_b
        Effective number of values of each map.

    Notes
    -----
    The variances within 4 x 4 tiles (about the mean of each) are compared with their scatter for stationary maps of the same kurtosis.
    One stationary map is sufficient for the test of r, so both must fail.
    """
    tiles = _tile(x) * _VARIANCE_TILES + _tile(y)
    counts = np.bincount(tiles, minlength=_VARIANCE_TILES**2).astype(float)
    used = counts >= _FEWEST_IN_TILE
    if used.sum() < 2:
        return 1.0
    profiles = []
    for values, own in ((a, own_a), (b, own_b)):
        per_tile = min(own / used.sum(), counts[used].mean())
        if per_tile < _FEWEST_EFFECTIVE:
            return 1.0
        mean = np.bincount(tiles, values, minlength=_VARIANCE_TILES**2) / np.maximum(counts, 1.0)
        variance = np.bincount(tiles, (values - mean[tiles]) ** 2, minlength=_VARIANCE_TILES**2)[used] / counts[used]
        relative = variance / np.average(variance, weights=counts[used])
        kurtosis = max(float(np.mean(values**4)) - 1.0, 2.0)
        # Squares are correlated over a shorter distance than values: per_tile counts too few of them, which is conservative.
        chi_square = np.sum((relative - 1.0) ** 2 * per_tile * counts[used] / counts[used].mean()) / kurtosis
        if scipy.stats.chi2.sf(chi_square, used.sum() - 1) > _CHANCE:
            return 1.0
        profiles.append(relative)
    factor = float(np.average(profiles[0] * profiles[1], weights=counts[used]))
    return factor if factor > _MATTERS else 1.0


def _tile(coordinate: FloatArray) -> IntArray:
    extent = np.ptp(coordinate)
    return np.minimum((_VARIANCE_TILES * (coordinate - coordinate.min()) / extent).astype(np.int64), _VARIANCE_TILES - 1)


_WAY_OUT = "apply a high-pass filter of a stated scale to both maps and correlate again"

FEWEST_EFFECTIVE = 15.0
_MOST_LEVERAGE = 0.9
_CROSS_FLOOR = 0.1
# Scatter of the variance over simulated maps in addition to its posterior (modes are not quite independent).
_OVERCONFIDENCE = 2.0
# Below this fraction of a map's variance its means at each position are not used.
_LEAST_SHARE = 1e-9


@one_thread()
def correlate(
    a: ArrayLike,
    b: ArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    *,
    a_err: ArrayLike | None = None,
    b_err: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    seed: int = 0,
    resamples: int = 1000,
    methods: Sequence[str] = METHODS,
    a_reliability: float | None = None,
    b_reliability: float | None = None,
) -> CorrelationResult:
    """Correlate two maps, with a significance that allows for correlated neighbours.

    The quoted results (``r``, ``r_err``, ``interval``, ``n_eff``, ``p_value``) use the covariances of the maps, estimated from their cosine
    modes and averaged over the posterior (see ``docs/theory/correlation.md``). They use no random numbers and do not depend on ``methods``.

    Parameters
    ----------
    a, b : array_like, 1-D or 2-D
        The maps, of one shape. A point that is masked or not finite in one of them is ignored. A point given several times, with equal
        position, values and errors, counts once (`CorrelationResult.n_repeated`); different values at one position are allowed.
    x, y : array_like
        Positions of the points, finite, same shape, same unit. Points with a masked position are ignored.
    a_err, b_err : array_like or float, optional
        Standard errors of the values, for the noise-corrected results, in the units of a and b. Errors of a and b must be mutually
        independent. Points with a masked error are ignored.
    groups : array_like, optional
        Label of each point (its exposure), for the jackknife over groups; at least five groups.
    seed
        Seed of bootstrap and surrogates.
    resamples
        Number of bootstrap and of surrogate samples.
    methods
        Further methods to run, of `METHODS`; all by default. () is the fastest.
    a_reliability, b_reliability
        Known reliability (see `split_half_reliability`) instead of errors.

    Returns
    -------
    CorrelationResult
        The results; ``print`` shows a summary.

    Raises
    ------
    CompareError
        If the input cannot be used: see `permil.compare.correlation.points.prepare`.

    Examples
    --------
    >>> import numpy as np, permil
    >>> y, x = np.mgrid[:20, :20]
    >>> a, b = np.random.default_rng(0).standard_normal((2, 20, 20))
    >>> permil.correlate(a, b, x, y, methods=()).n
    400
    """
    _check_options(methods, resamples, (a_reliability, b_reliability))
    points = prepare(a, b, x, y, a_err=a_err, b_err=b_err, groups=groups)
    geometry = Geometry.of(points.x, points.y)
    summary = summarise(geometry, points.a, points.b)
    p_value, reason = _quotable(points, summary)
    ranks = [_ranks(values) for values in (points.a, points.b)]
    ranked = summarise(geometry, *ranks)
    found, scan, nulls = other_methods(geometry, points, summary.r, seed, resamples, methods)
    candidates = summary.geometry.candidates
    return CorrelationResult(
        r=summary.r,
        r_err=summary.r_err,
        interval=summary.interval,
        n=points.n,
        n_masked=points.masked,
        n_repeated=points.repeated,
        n_eff=summary.n_eff,
        n_eff_test=summary.n_eff_test,
        p_value=p_value,
        reason=reason,
        rank=ranked.r,
        rank_p_value=np.nan if np.isnan(p_value) else ranked.p_value,
        length_a=candidates.length(summary.posterior_a),
        length_b=candidates.length(summary.posterior_b),
        corrected=_corrected(geometry, points, summary.r_err, a_reliability, b_reliability),
        methods=found,
        scan=scan,
        nulls=nulls,
        seed=seed,
        a=points.a * points.a_scale + points.a_mean,
        b=points.b * points.b_scale + points.b_mean,
    )


def _check_options(methods: Sequence[str], resamples: int, reliabilities: tuple[float | None, float | None]) -> None:
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise CompareError(
            f"unknown method {unknown[0]!r}", remedy=f"choose from {', '.join(METHODS)}", value=unknown[0], allowed=METHODS
        )
    if resamples < 20:
        raise CompareError(f"{resamples} resamples are too few for an error", remedy="use at least 20", value=resamples)
    for reliability in reliabilities:
        if reliability is not None and not 0.0 < reliability <= 1.0:
            raise CompareError(
                f"the reliability {reliability} is not a fraction of the variance",
                remedy="give a number above 0, at most 1",
                value=reliability,
            )


def _quotable(points: Points, summary: Summary) -> tuple[float, str]:
    """Return the p-value, or NaN and the reason for it."""
    geometry = summary.geometry
    candidates, cells = geometry.candidates, geometry.cells
    posteriors = summary.posterior_a, summary.posterior_b
    if summary.n_eff_low < FEWEST_EFFECTIVE or np.isnan(summary.p_value):
        lengths = [candidates.length(posterior)[0] for posterior in posteriors]
        return np.nan, (
            f"the maps vary so slowly (over {lengths[0]:.3g} and {lengths[1]:.3g}, in a field of {cells.diagonal:.3g}) that "
            f"{points.n} values are equivalent to only about {summary.n_eff_test:.0f} (at least {summary.n_eff_low:.0f}) independent ones, "
            f"but {FEWEST_EFFECTIVE:.0f} are needed; {_WAY_OUT}"
        )
    weights_a, weights_b = (candidates.mean_weights(posterior) for posterior in posteriors)
    # Related maps share directions because they are related: the part of one map explained by the other is removed first.
    turning = min(
        common_directions(cells, candidates.expectations, first, second, weights_a, weights_b)
        for first, second in ((summary.a, _unexplained(summary.b, summary.a)), (_unexplained(summary.a, summary.b), summary.b))
    )
    if turning > 1.0:
        return np.nan, (
            "both maps have stripes or rings with the same local direction (non-stationary), along which "
            f"values are not independent (the variance of r would be at least {turning:.2g} times larger); correlate profiles "
            f"across them, or {_WAY_OUT}"
        )
    own_a, own_b = (1.0 + np.exp(-candidates.null_variance(posterior, posterior)[0]) for posterior in posteriors)
    factor = changes_in_common(geometry.x, geometry.y, summary.a, summary.b, own_a, own_b)
    if factor > 1.0:
        return np.nan, (
            "both maps vary much more in the same parts of the field than in others (non-stationary: the variance of r would be "
            f"{factor:.2g} times that of one covariance for the whole field); divide each map by its local scatter, correlate the parts "
            f"separately, or {_WAY_OUT}"
        )
    return summary.p_value, ""


def _unexplained(values: FloatArray, given: FloatArray) -> FloatArray:
    """Return the part of a standardised map not explained by another, standardised."""
    left = values - np.mean(values * given) * given
    spread = left.std()
    return left / spread if spread > 0 else left


def _ranks(values: FloatArray) -> FloatArray:
    ranks = scipy.stats.rankdata(values)
    return (ranks - ranks.mean()) / ranks.std()


def _corrected(
    geometry: Geometry, points: Points, r_err: float, a_reliability: float | None, b_reliability: float | None
) -> Corrected:
    """Return the noise-corrected results, with slopes in the units of the input."""
    corrected = correct(
        points.a,
        points.b,
        jackknife_labels(points.x, points.y, geometry.cells),
        a_variance=0.0 if points.a_err is None else points.a_err**2,
        b_variance=0.0 if points.b_err is None else points.b_err**2,
        a_reliability=a_reliability,
        b_reliability=b_reliability,
        r_err=r_err,
    )
    unit = points.b_scale / points.a_scale
    slope, plain = (Estimate(s.value * unit, s.error * unit, s.reason) for s in (corrected.slope, corrected.plain_slope))
    return Corrected(corrected.reliability_a, corrected.reliability_b, corrected.r, slope, plain)


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
        Number of independent pairs with the same scatter of r as unrelated maps with the covariances of these two.
    n_eff_test
        The same for the test, which uses the covariances of what the relation does not explain.
    n_eff_low
        n_eff_test at the lower end of its error.
    p_value
        Probability of such an r, of either sign, for independent maps.
    freedom
        Degrees of freedom of the t-test.
    null_variance
        Variance of r of independent maps, for the test.
    map_variance
        Variance of r of independent maps with the covariances of these two.
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
    n_eff_test: float
    n_eff_low: float
    p_value: float
    freedom: float
    null_variance: float
    map_variance: float
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
    variance, map_variance = (weight * each + within for each in (between.null_variance, between.map_variance))
    scatter = between.scatter * (weight * between.null_variance / variance) ** 2
    return _with_figures(
        replace(between, r=r, scatter=scatter, null_variance=variance, map_variance=map_variance),
        weight * between.r_err**2 + within * max(0.0, 1.0 - r_within**2) ** 2,
        n=len(a),
    )


def _more_cautious(geometry: Geometry, a: FloatArray, b: FloatArray) -> Summary:
    """Return the results for one value per position, in the metric with the smaller effective number of values."""
    metrics = [geometry.once] if geometry.even is None else [geometry.once, geometry.even]
    return min((_at_places(metric, a, b) for metric in metrics), key=lambda summary: summary.n_eff_test)


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
    of_maps, spread = candidates.null_variance(posterior_a, posterior_b)
    map_variance = float(np.exp(of_maps + spread / 2.0)) + excess
    unknown = (np.nan, (np.nan, np.nan), np.nan, np.nan, np.nan, np.nan, np.nan)
    return _with_figures(
        Summary(r, *unknown, variance, map_variance, scatter, posterior_a, posterior_b, a, b, geometry),
        _error_variance(candidates, mode_a, mode_b, r, *means) + excess * (1.0 - r * r) ** 2,
        n=len(a),
    )


def _with_figures(summary: Summary, error_variance: float, *, n: int) -> Summary:
    """Complete a summary from r, its variance for independent maps, and its variance for correlated maps."""
    r, variance, scatter = summary.r, summary.null_variance, summary.scatter
    n_eff, n_eff_test = (min(1.0 + 1.0 / each, float(n)) for each in (summary.map_variance, variance))
    p_value, freedom = np.nan, np.nan
    if n_eff_test > 3.0:
        freedom = 1.0 / (1.0 / (n_eff_test - 2.0) + scatter / 2.0)
        t = abs(r) * np.sqrt((n_eff_test - 2.0) / max(1.0 - r * r, 1e-15))
        p_value = float(2.0 * scipy.stats.t.sf(t, freedom))
    r_err = float(np.sqrt(error_variance))
    return replace(
        summary,
        r_err=r_err,
        interval=fisher_interval(r, r_err),
        n_eff=n_eff,
        n_eff_test=n_eff_test,
        n_eff_low=n_eff_test * float(np.exp(-np.sqrt(scatter / _OVERCONFIDENCE))),
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
