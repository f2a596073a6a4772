"""Corrections and tests for structure beyond a single isotropic covariance: stripes, rings, exposures, changes of variance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft, stats

from permil.compare.correlation.cells import Cells
from permil.compare.correlation.covariance import Expectations

FloatArray = NDArray[np.float64]

# The products of lag covariances must exceed what isotropic maps give by this factor and by this number of standard deviations.
_FACTOR, _SIGNIFICANT = 1.5, 4.0
_SHARE_OF_EXTENT = 0.5
# Lags up to this fraction of the extents are used for maps that change between exposures.
_SHARE_OF_EXPOSURES, _SIGNIFICANT_EXPOSURES = 0.25, 3.0
# The same for directions that vary over the field: within tiles, this number along each side.
_TURNING_FACTOR, _TURNING_SIGNIFICANT, _TILES = 1.4, 3.0, 4

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
    tile_rows, tile_columns = (-(-size // _TILES) for size in cells.shape)
    padded = tuple(fft.next_fast_len(2 * size - 1, real=True) for size in (tile_rows, tile_columns))
    margin = ((0, -cells.shape[0] % tile_rows), (0, -cells.shape[1] % tile_columns))
    fields = [np.pad(cells.total(values), margin) for values in (a, b, np.ones(cells.n))]
    product, pooled = 0.0, [np.zeros(padded) for _ in fields]
    for row in range(0, cells.shape[0], tile_rows):
        for column in range(0, cells.shape[1], tile_columns):
            tile = (slice(row, row + tile_rows), slice(column, column + tile_columns))
            powers = [np.abs(fft.rfft2(field[tile], padded)) ** 2 for field in fields]
            lag_a, lag_b, pairs = (fft.irfft2(power, padded) for power in powers)
            product += float(np.sum(lag_a * lag_b / np.maximum(pairs, 1.0)))
            for total, lags in zip(pooled, (lag_a, lag_b, pairs), strict=True):
                total += lags
    together = float(np.sum(pooled[0] * pooled[1] / np.maximum(pooled[2], 1.0)))
    lag_y, lag_x = (np.rint(np.fft.fftfreq(size, 1.0 / size)).astype(np.int64) for size in padded)
    expected = float(np.sum(pooled[2] * (models[0] * models[1])[np.ix_(lag_y, lag_x)]))
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
    counted = cells.transform(np.ones(cells.n))
    row_sums = cells.smoothed(counted, fft.rfft2(function))
    products = cells.lag_products(np.ones(cells.n), row_sums)
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
        if stats.chi2.sf(chi_square, used.sum() - 1) > _CHANCE:
            return 1.0
        profiles.append(relative)
    factor = float(np.average(profiles[0] * profiles[1], weights=counts[used]))
    return factor if factor > _MATTERS else 1.0


def _tile(coordinate: FloatArray) -> NDArray[np.int64]:
    extent = np.ptp(coordinate)
    return np.minimum((_VARIANCE_TILES * (coordinate - coordinate.min()) / extent).astype(np.int64), _VARIANCE_TILES - 1)
