"""Significance of many tests: the number of tests, and the ones that are significant at a false-discovery rate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from permil.arrays import BoolArray, FloatArray
from permil.errors import CompareError

RATE = 0.05
"""Expected fraction of chance results among those called significant."""


@dataclass(frozen=True)
class Discoveries:
    """Tests that are significant.

    Attributes
    ----------
    adjusted : ndarray, shape (n,)
        Smallest false-discovery rate at which each test is significant; NaN without a p-value.
    found : ndarray of bool, shape (n,)
        Whether it is significant at the rate.
    tests
        Number of tests with a p-value.
    rate
        False-discovery rate.
    """

    adjusted: FloatArray
    found: BoolArray
    tests: int
    rate: float

    @property
    def expected_by_chance(self) -> float:
        """Number of p-values below the rate that unrelated maps alone would give."""
        return self.rate * self.tests


def find_discoveries(p_values: ArrayLike, *, rate: float = RATE) -> Discoveries:
    """Return the significant ones of many tests.

    The procedure of Benjamini & Hochberg (1995, J. R. Stat. Soc. B 57, 289), `scipy.stats.false_discovery_control`: at most ``rate`` of the
    tests called significant are so by chance, on average. It is valid for independent tests and those with positive dependence, as of one
    pair of maps on several scales.

    Parameters
    ----------
    p_values : array_like, shape (n,)
        NaN for tests without one, which do not count.
    rate
        False-discovery rate.

    Raises
    ------
    CompareError
        If a p-value or the rate is not between 0 and 1.

    Examples
    --------
    >>> found = find_discoveries([1e-4, 0.03, 0.5, float("nan")])
    >>> found.tests, found.found.tolist()
    (3, [True, True, False, False])
    """
    p_value = np.asarray(p_values, dtype=np.float64).ravel()
    known = np.isfinite(p_value)
    if not 0 < rate < 1:
        raise CompareError(f"the false-discovery rate {rate} is not valid", remedy="give a number between 0 and 1", value=rate)
    if ((p_value[known] < 0) | (p_value[known] > 1)).any():
        raise CompareError("a p-value is not between 0 and 1", remedy="give probabilities, and NaN for tests without one")
    adjusted = np.full(p_value.shape, np.nan)
    if known.any():
        adjusted[known] = stats.false_discovery_control(p_value[known], method="bh")
    with np.errstate(invalid="ignore"):
        return Discoveries(adjusted, adjusted <= rate, int(known.sum()), rate)
