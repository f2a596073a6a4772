"""Scatter in excess of noise: the square root of a difference of two variances, with its error.

If a measured variance is close to that of the noise, the difference may be negative and its root is not normally distributed. Tests
therefore use the variance.
"""

from __future__ import annotations

import math


def root_of_variance(variance: float, error: float) -> tuple[float, float]:
    """Return the square root of an excess variance, and its error.

    Parameters
    ----------
    variance, error
        Measured variance minus noise variance, which may be negative, and its standard error.

    Returns
    -------
    root, error
        ``sqrt(max(variance, 0))``, and its increase when the variance is larger by one standard error: ``error / (2 root)`` if the
        root is significant, ``sqrt(error)`` if the variance is 0.
    """
    known = max(variance, 0.0)
    root = math.sqrt(known)
    return root, math.sqrt(known + error) - root


def variance_of_root(root: float, error: float) -> tuple[float, float]:
    """Return the variance and its error from the result of `root_of_variance`."""
    return root**2, (root + error) ** 2 - root**2
