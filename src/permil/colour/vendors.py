"""Sensors of two vendors in each LED: the ratio of their mean response, with its error.

With the logarithm ``l`` of the median response of each detector, the ratio is ``exp(mean l of one vendor - mean l of the other)``. Two
errors belong to it. That of the measurement, from the covariance of all levels, says how well the ratio of *these* sensors is known.
Sensors of one vendor differ; with their variance ``s^2`` beyond the errors (pooled over both vendors, by the method of moments) the ratio
stands for *the vendors* with the error ``sqrt(measurement^2 + s^2 (1/n + 1/m))``.

The ratio in one LED contains the gains of all amplifiers. Its change from LED to LED does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from permil.arrays import FloatArray


@dataclass(frozen=True)
class VendorRatio:
    """Mean response of the sensors of one vendor over those of another.

    Attributes
    ----------
    ratio : float
    error : float
        Of the measurement: for these sensors.
    vendor_error : float
        For the vendors, including the scatter of their sensors; NaN if neither has two sensors.
    scatter : float
        Relative standard deviation of sensors of one vendor beyond errors; 0 if there is none.
    freedom : int
        Degrees of freedom of the scatter.
    counts : tuple of int
        Sensors of each vendor.
    """

    ratio: float
    error: float
    vendor_error: float
    scatter: float
    freedom: int
    counts: tuple[int, int]


def vendor_ratio(
    log_levels: FloatArray, covariance: FloatArray, vendors: Sequence[str], pair: tuple[str, str]
) -> VendorRatio | None:
    """Return the ratio of two vendors; None if one of them has no sensor.

    Parameters
    ----------
    log_levels : ndarray, shape (n,)
        Logarithm of the response of each detector, of one LED or of a ratio of two; any common constant. NaN counts as absent.
    covariance : ndarray, shape (n, n)
    vendors
        Of each detector.
    pair
        Vendors of numerator and denominator.
    """
    known = np.isfinite(log_levels)
    members = [known & np.array([vendor == name for vendor in vendors], dtype=bool) for name in pair]
    counts = (int(members[0].sum()), int(members[1].sum()))
    if min(counts) == 0:
        return None
    contrast = members[0] / counts[0] - members[1] / counts[1]
    values = np.where(known, log_levels, 0.0)
    error = float(np.sqrt(max(contrast[known] @ covariance[np.ix_(known, known)] @ contrast[known], 0.0)))
    ratio = float(np.exp(contrast @ values))
    freedom = sum(counts) - 2
    if freedom < 1:
        return VendorRatio(ratio, ratio * error, np.nan, np.nan, 0, counts)
    squares = expected = 0.0
    for member in members:
        own = values[member] - values[member].mean()
        block = covariance[np.ix_(member, member)]
        squares += float(own @ own)
        expected += float(np.trace(block) - block.sum() / len(block))
    variance = max((squares - expected) / freedom, 0.0)
    whole = float(np.sqrt(error**2 + variance * (1 / counts[0] + 1 / counts[1])))
    return VendorRatio(ratio, ratio * error, ratio * whole, float(np.sqrt(variance)), freedom, counts)
