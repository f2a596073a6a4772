"""Images of one position: the last against the first, and whether they differ by more than noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from permil.arrays import FloatArray, IntArray


def first_to_last(position: IntArray, series: FloatArray) -> tuple[float, float, int]:
    """Return the mean change from the first to the last image of a position, its error, and the number of positions.

    Parameters
    ----------
    position : ndarray of int, shape (n,)
        Number of the stage's move of each reading, ascending.
    series : ndarray, shape (n,)
        Readings; those that are not finite do not count.

    Returns
    -------
    mean, error
        NaN for fewer than two positions with two images or more. The error is that of the scatter between positions.

    Examples
    --------
    >>> import numpy as np
    >>> from permil.stability.repeats import first_to_last
    >>> first_to_last(np.array([1, 1, 1, 2, 2, 3]), np.array([1.0, 5.0, 2.0, 1.0, 4.0, 7.0]))
    (2.0, 1.0, 2)
    """
    position, series = position[np.isfinite(series)], series[np.isfinite(series)]
    _, first, count = np.unique(position, return_index=True, return_counts=True)
    several = count > 1
    change = series[first[several] + count[several] - 1] - series[first[several]]
    if len(change) < 2:
        return float("nan"), float("nan"), len(change)
    return float(change.mean()), float(change.std(ddof=1) / np.sqrt(len(change))), len(change)


@dataclass(frozen=True)
class StackChiSquare:
    """Sum over positions of squared differences of repeated images over their errors, and its degrees of freedom."""

    chi_square: float
    freedom: int

    @property
    def reduced(self) -> tuple[float, float]:
        """Chi-square per degree of freedom and its error from normal noise; NaN without repeated images."""
        if not self.freedom:
            return float("nan"), float("nan")
        return self.chi_square / self.freedom, float(np.sqrt(2.0 / self.freedom))


def stack_chi_square(position: IntArray, log_signal: FloatArray, weight: FloatArray) -> StackChiSquare:
    """Compare the images of each position on super-pixels, after a factor for each image.

    Parameters
    ----------
    position : ndarray of int, shape (e,)
        Number of the stage's move of each exposure.
    log_signal, weight : ndarray, shape (e, p)
        Logarithm of the signals and its inverse variance, 0 without signal.

    Notes
    -----
    Mean of each super-pixel and factor of each image are fitted by weighted means in turn; of ``n`` images on ``p`` super-pixels they leave
    ``(n - 1) (p - 1)`` degrees of freedom. Super-pixels that one of the images does not have are left out.
    """
    total, freedom = 0.0, 0
    for move in np.unique(position):
        own = np.flatnonzero(position == move)
        lit = (weight[own] > 0).all(axis=0)
        if len(own) < 2 or lit.sum() < 2:
            continue
        values, weights = log_signal[np.ix_(own, lit)], weight[np.ix_(own, lit)]
        for _ in range(5):
            values = values - (weights * values).sum(axis=0) / weights.sum(axis=0)
            values = values - ((weights * values).sum(axis=1) / weights.sum(axis=1))[:, None]
        total += float((weights * values**2).sum())
        freedom += (len(own) - 1) * (int(lit.sum()) - 1)
    return StackChiSquare(total, freedom)
