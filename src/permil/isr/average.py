"""Averages of a stack: the mean of each pixel, its variance, and how well the noise model describes the scatter.

With ``q`` the relative light of a frame, ``d`` its signal and ``x = d / q``: the best estimate for Poisson noise is
``sum(d) / sum(q)``, and ``sum(q (x - mean)^2) / (mean + n^2 / q)`` is chi-square, ``n^2`` the variance that does not depend on light.

That variance is known when all rows have been seen, and sums of all rows would take several times the memory of the result. So
there are three steps: `average_row` takes the mean of all measurements and sets aside the few pixels in which an extreme stands out
when the noise is as low as it may be; `average_doubtful` tests these against the noise; `finish_rows` adds what the noise tells.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from permil.borrowed import borrowed
from permil.isr.accumulate import Sums, row_of
from permil.isr.means import Averages, average_row, empty_averages, empty_means
from permil.isr.noise_fit import RowFit, finish_rows
from permil.isr.rejection import Doubtful, NoiseTest, average_tested, no_doubtful, with_noise
from permil.isr.rows import Placement
from permil.products.masks import MaskPlane

__all__ = ["NoiseTest", "RowFit", "average", "average_doubtful", "empty_averages"]

_REJECTED = int(MaskPlane.REJECTED)


@njit(cache=True, nogil=True, error_model="numpy")
def average(
    sums: Sums, first_column: int, rows: NDArray[np.int64], test: NoiseTest, place: Placement, out: Averages, fit: RowFit
) -> None:
    """Test the extremes of each pixel of an amplifier and average what is kept.

    Parameters
    ----------
    sums, first_column
        Rows of sums, and where those of the amplifier begin in them.
    rows
        Which rows of the amplifier they are.
    test
        Noise model and threshold.
    place
        Where rows and columns lie in the result.
    out
        Result, shape of the detector.
    fit
        Filled, by row of the amplifier.
    """
    sums, out = borrowed((sums, out))
    squares, means = np.empty_like(out.image), empty_means(place.n_columns)
    doubtful = no_doubtful()
    n_doubtful = len(doubtful.places)
    for index in range(rows.size):
        row = row_of(sums, index, first_column, first_column + place.n_columns)
        doubtful, n_doubtful = average_row(row, rows[index], 0, test, place, means, out, squares, doubtful, n_doubtful)
    average_doubtful(doubtful, n_doubtful, np.array([test.noise_variance]), test, out, squares)
    finish_rows(rows, test, place, squares, out, fit)


@njit(cache=True, nogil=True, error_model="numpy")
def average_doubtful(
    doubtful: Doubtful,
    n_doubtful: int,
    noise_variance: NDArray[np.float64],
    test: NoiseTest,
    out: Averages,
    squares: NDArray[np.float32],
) -> None:
    """Reject outliers of pixels that were set aside, and put the means of what is kept into the result.

    Parameters
    ----------
    doubtful, n_doubtful
        The pixels.
    noise_variance
        By amplifier; counts in place of that of the test.
    test
        The noise model else.
    out, squares
        See `average_row`.
    """
    for entry in range(n_doubtful):
        amplifier, y, x = doubtful.places[entry]
        own = with_noise(test, noise_variance[amplifier])
        tested = average_tested(doubtful.sums[entry], own)
        measured = int(doubtful.sums[entry, 9])
        out.image[y, x] = tested.signal / tested.light * test.mean_light
        out.variance[y, x] = tested.light
        squares[y, x] = test.mean_light * tested.squares
        out.kept[y, x] = tested.kept
        out.rejected[y, x] = measured - tested.kept
        if tested.kept < measured:
            out.mask[y, x] |= _REJECTED
