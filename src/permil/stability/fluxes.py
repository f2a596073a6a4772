"""Flux of each amplifier in each exposure, from the residuals of a joint solution on super-pixels."""

from __future__ import annotations

import numpy as np

from permil.arrays import FloatArray, IntArray

_LEAST_SHARE = 0.25
"""Part of the super-pixels of an amplifier that an exposure must light."""


def amplifier_fluxes(residual: FloatArray, weight: FloatArray, amplifier: IntArray, count: int) -> tuple[FloatArray, FloatArray]:
    """Return the mean residual of each amplifier and its error from the noise of its signals, shape (e, count).

    Parameters
    ----------
    residual, weight : ndarray, shape (e, p)
        Residual of the logarithm of the signals after light and response, and its inverse variance, 0 without signal.
    amplifier : ndarray of int, shape (p,)
        Number of the amplifier of each super-pixel.
    count
        Amplifiers.

    Examples
    --------
    >>> import numpy as np
    >>> from permil.stability.fluxes import amplifier_fluxes
    >>> mean, error = amplifier_fluxes(np.array([[0.1, 0.3, 0.5]]), np.array([[4.0, 4.0, 0.0]]), np.array([0, 0, 1]), 2)
    >>> mean.tolist(), error.round(3).tolist()
    ([[0.2, nan]], [[0.354, nan]])
    """
    member = (amplifier[:, None] == np.arange(count)).astype(np.float64)
    total, lit = weight @ member, (weight > 0).astype(np.float64) @ member
    enough = lit >= np.maximum(_LEAST_SHARE * member.sum(axis=0), 1.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, error = (weight * residual) @ member / total, total**-0.5
    return np.where(enough, mean, np.nan), np.where(enough, error, np.nan)
