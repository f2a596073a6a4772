"""Correction of correlation and slope for measurement errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from permil.arrays import plain_array, unit_of
from permil.compare.correlation.blocks import ONE_BLOCK, block_sums, centred_squares, correlation_of, jackknife, moments, tiles
from permil.compare.errors import CompareError
from permil.errors import InputError

FloatArray = NDArray[np.float64]

_HALVES_BLOCKS = 36


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error; NaN with a reason if it cannot be determined."""

    value: float
    error: float
    reason: str = ""

    def __str__(self) -> str:
        """Return value and error, or the reason."""
        return self.reason if np.isnan(self.value) else f"{self.value:.3g} ± {self.error:.2g}"


@dataclass(frozen=True)
class Corrected:
    """Results corrected for measurement errors.

    Attributes
    ----------
    reliability_a, reliability_b
        Fraction of each map's variance that is not measurement error.
    r
        Correlation of the true maps.
    slope
        Slope of the true b on the true a.
    plain_slope
        Least-squares slope, which is biased low by the errors of a.
    """

    reliability_a: Estimate
    reliability_b: Estimate
    r: Estimate
    slope: Estimate
    plain_slope: Estimate


def correct(
    a: FloatArray,
    b: FloatArray,
    labels: NDArray[np.int64],
    *,
    a_variance: FloatArray | float,
    b_variance: FloatArray | float,
    a_reliability: float | None = None,
    b_reliability: float | None = None,
    r_err: float = 0.0,
) -> Corrected:
    """Return reliabilities, disattenuated r, and the slope with errors in both variables.

    ``r / sqrt(rel_a rel_b)`` (Spearman 1904, Am. J. Psychol. 15, 72) with ``rel = 1 - <err^2> / var``, and ``cov / (var_a - <err_a^2>)``
    (Fuller 1987, Measurement Error Models, section 1.2; Akritas & Bershady 1996, ApJ 470, 706, for errors that differ from point to point
    and are independent between the maps). Points are not weighted.
    Errors are from the jackknife over blocks, which allows for correlated neighbours.

    Parameters
    ----------
    a, b : ndarray, shape (n,)
        Standardised maps.
    labels : ndarray of int, shape (n,)
        Block of each point.
    a_variance, b_variance
        Squared errors of the points in the units of the standardised maps; 0 for none.
    a_reliability, b_reliability
        Known reliabilities, used instead of the errors.
    r_err
        Standard error of r from elsewhere. If it is larger than that of the jackknife, blocks are not independent, and all errors are
        scaled by the ratio.
    """
    columns = np.column_stack([moments(a, b), np.broadcast_to(a_variance, a.shape), np.broadcast_to(b_variance, b.shape)])

    def statistic(sums: FloatArray) -> FloatArray:
        n = sums[..., 0]
        variance_a, variance_b = (centred_squares(n, sums[..., k], sums[..., k + 2]) / (n - 1) for k in (1, 2))
        covariance = (sums[..., 5] - sums[..., 1] * sums[..., 2] / n) / (n - 1)
        share_a = 1.0 - sums[..., 6] / n / variance_a if a_reliability is None else np.full_like(n, a_reliability)
        share_b = 1.0 - sums[..., 7] / n / variance_b if b_reliability is None else np.full_like(n, b_reliability)
        with np.errstate(invalid="ignore", divide="ignore"):
            r = correlation_of(sums) / np.sqrt(share_a * share_b)
            slope = covariance / (variance_a * share_a)
        return np.stack([share_a, share_b, r, slope, covariance / variance_a, correlation_of(sums)], axis=-1)

    values, errors = jackknife(block_sums(columns, labels), statistic)
    if np.isfinite(errors[-1]):
        errors *= max(1.0, r_err / max(errors[-1], 1e-300))
    share_a, share_b, r, slope, plain = (
        Estimate(float(v), float(e)) if np.isfinite(e) else Estimate(np.nan, np.nan, ONE_BLOCK)
        for v, e in zip(values[:-1], errors[:-1], strict=True)
    )
    bad = [name for name, share in (("a", share_a), ("b", share_b)) if share.value <= 0.0]
    if bad:
        reason = f"the errors of {' and '.join(bad)} explain all of its variance"
        r = Estimate(np.nan, np.nan, reason)
        if "a" in bad:
            slope = Estimate(np.nan, np.nan, reason)
    return Corrected(share_a, share_b, r, slope, plain)


def split_half_reliability(
    first: ArrayLike, second: ArrayLike, *, x: ArrayLike | None = None, y: ArrayLike | None = None
) -> Estimate:
    """Return the reliability of the mean of two independently measured halves.

    ``2 r / (1 + r)`` with the correlation r of the halves (Spearman 1910; Brown 1910, Br. J. Psychol. 3).

    Parameters
    ----------
    first, second : array_like
        The map from each half of the data (odd and even exposures). Points that are masked or not finite in one are dropped.
    x, y : array_like, optional
        Positions: with them the error is from a jackknife over blocks of the field, else over points.

    Raises
    ------
    CompareError
        If the shapes differ or fewer than 30 points are left.
    """
    try:
        halves = [plain_array(first, name="first").ravel(), plain_array(second, name="second", unit=unit_of(first)).ravel()]
        places = [
            np.zeros(len(halves[0])) if p is None else plain_array(p, name=name, unit=unit_of(x)).ravel()
            for name, p in (("x", x), ("y", y))
        ]
    except InputError as problem:
        raise CompareError(problem.what, remedy=problem.remedy, **problem.data) from problem
    if len({len(column) for column in (*halves, *places)}) > 1:
        raise CompareError("the halves and their positions differ in length", remedy="give both halves at the same points")
    good = np.logical_and.reduce([np.isfinite(column) for column in (*halves, *places)])
    if good.sum() < 30:
        raise CompareError(
            f"only {int(good.sum())} points are finite in both halves", remedy="at least 30 are needed", value=int(good.sum())
        )
    a, b = (half[good] - half[good].mean() for half in halves)
    px, py = (place[good] for place in places)
    if x is None or y is None:
        labels = np.arange(len(a))
    else:
        labels = tiles(px, py, max(np.ptp(px), np.ptp(py)) / np.sqrt(_HALVES_BLOCKS) * (1.0 + 1e-9))

    def statistic(sums: FloatArray) -> FloatArray:
        r = correlation_of(sums)
        return 2.0 * r / (1.0 + r)

    value, error = jackknife(block_sums(moments(a, b), labels), statistic)
    if not value > 0.0:
        return Estimate(np.nan, np.nan, "the halves do not correlate: no signal is detected")
    return Estimate(float(value), float(error))
