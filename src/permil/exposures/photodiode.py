"""Photodiode readings that are not independent measurements: repeated from the previous exposure, or saturated."""

from __future__ import annotations

import numpy as np

from permil.arrays import BoolArray, FloatArray

# Readings of a fine converter hardly ever repeat; this share of repetitions is that of a coarse one.
_COARSE_SHARE = 0.05
# Fewer different readings do not show how fine the converter is.
_FEWEST = 5
# Number of readings with the largest value from which the photodiode is saturated.
_SATURATED = 6


def repeated_readings(readings: FloatArray) -> BoolArray:
    """Return which readings repeat the previous one exactly; none if a coarse converter repeats values.

    Parameters
    ----------
    readings : ndarray, shape (n,)
        In the order of time; NaN without a reading.
    """
    known = np.flatnonzero(np.isfinite(readings))
    is_same = np.diff(readings[known], prepend=np.nan) == 0
    changed = readings[known[~is_same]]
    repetitions = np.diff(np.flatnonzero(~is_same), append=len(known))
    repeated = np.zeros(len(readings), dtype=bool)
    # Where most values are repeated, one reading was taken for several exposures.
    if len(changed) >= _FEWEST and np.median(repetitions) < 2 and not _is_coarse(changed[changed < changed.max()]):
        repeated[known[is_same]] = True
    return repeated


def saturated_readings(readings: FloatArray) -> BoolArray:
    """Return which readings have the largest value, if many do and others hardly repeat.

    Parameters
    ----------
    readings : ndarray, shape (n,)
        Of one LED; NaN without a reading.
    """
    known = readings[np.isfinite(readings)]
    largest = readings == known.max(initial=-np.inf)
    others = known[known < known.max(initial=-np.inf)]
    is_saturated = np.count_nonzero(largest) >= _SATURATED and len(others) >= _FEWEST and not _is_coarse(others)
    return largest & is_saturated


def _is_coarse(readings: FloatArray) -> bool:
    return len(np.unique(readings)) < (1.0 - _COARSE_SHARE) * len(readings)
