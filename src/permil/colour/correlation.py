"""Correlation of the response in two LEDs on four scales: pixels, tree rings, amplifiers, and the large scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.arrays import FloatArray
from permil.compare.correlation.correlate import correlate
from permil.compare.rings.profile import RingProfile
from permil.errors import CompareError

MOST_PIXELS = 900
"""Pixels of a detector that are correlated, on a regular lattice: independent of each other but for real structure."""


@dataclass(frozen=True)
class LedCorrelation:
    """Correlation of two LEDs on one scale.

    Attributes
    ----------
    r, r_err : float
        Of the values as they are.
    r_corrected, r_corrected_err : float
        Without noise; NaN where the noise leaves nothing.
    p_value : float
        NaN with a reason if the maps do not allow a statement.
    n, n_eff : float
        Values, and independent ones of the same scatter.
    reason : str
    """

    r: float = np.nan
    r_err: float = np.nan
    r_corrected: float = np.nan
    r_corrected_err: float = np.nan
    p_value: float = np.nan
    n: int = 0
    n_eff: float = np.nan
    reason: str = ""


def correlate_maps(values: FloatArray, errors: FloatArray, x: FloatArray, y: FloatArray) -> LedCorrelation:
    """Return the correlation of two maps with independent errors; see `permil.correlate`.

    Parameters
    ----------
    values, errors : ndarray, shape (2, n)
        NaN does not count.
    x, y : ndarray, shape (n,)
    """
    try:
        found = correlate(values[0], values[1], x, y, a_err=errors[0], b_err=errors[1], methods=())
    except CompareError as error:
        return LedCorrelation(reason=error.what)
    corrected = found.corrected.r
    return LedCorrelation(
        found.r,
        found.r_err,
        corrected.value,
        corrected.error,
        found.p_value,
        found.n,
        found.n_eff,
        found.reason or corrected.reason,
    )


def correlate_pixels(deviations: NDArray[np.floating], errors: FloatArray) -> LedCorrelation:
    """Return the correlation of pixels of two LEDs about their super-pixels, on a lattice of at most `MOST_PIXELS`.

    Parameters
    ----------
    deviations, errors : ndarray, shape (2, ny, nx)
        NaN where a pixel does not count.
    """
    step = max(1, int(np.ceil(np.sqrt(deviations[0].size / MOST_PIXELS))))
    rows, columns = (np.arange(step // 2, size, step) for size in deviations.shape[1:])
    y, x = (part.ravel() for part in np.meshgrid(rows.astype(np.float64), columns.astype(np.float64), indexing="ij"))
    sampled, noise = (part[:, rows[:, None], columns].reshape(2, -1).astype(np.float64) for part in (deviations, errors))
    return correlate_maps(sampled, noise, x, y)


def correlate_rings(profiles: Sequence[RingProfile]) -> LedCorrelation:
    """Return the correlation of the radial profiles of two LEDs about one axis.

    Neighbouring radii lie on two staggered rows, since a correlation needs places in a plane.
    """
    radius = profiles[0].radius
    levels, errors = (np.array([getattr(profile, name) for profile in profiles]) for name in ("level", "error"))
    return correlate_maps(levels, errors, radius, np.asarray(profiles[0].width * (np.arange(radius.size) % 2)))
