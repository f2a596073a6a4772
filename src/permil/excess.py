"""Scatter beyond noise: the root of a difference of two variances, with its error.

Where a measured variance is close to that of the noise, their difference may be negative and its root is not normal: judgements are made
on the variance.
"""

from __future__ import annotations

import math


def root_of_variance(variance: float, error: float) -> tuple[float, float]:
    """Return the root of a variance beyond noise, and its error.

    Parameters
    ----------
    variance, error
        Measured variance minus that of the noise, which may be negative, and its standard error.

    Returns
    -------
    root, error
        ``sqrt(max(variance, 0))``, and how much larger it is one standard error above: ``error / (2 root)`` where the root is significant,
        ``sqrt(error)`` where the variance is 0.
    """
    known = max(variance, 0.0)
    root = math.sqrt(known)
    return root, math.sqrt(known + error) - root


def variance_of_root(root: float, error: float) -> tuple[float, float]:
    """Return the variance and its error from what `root_of_variance` returned."""
    return root**2, (root + error) ** 2 - root**2
