"""Parts of columns that are weak, dead or bright: runs of pixels that deviate from the columns beside them.

Medians of a few rows of each column are compared with those of the columns around; runs are then cut to the pixel where the
cumulative sum of the deviation in excess of half the mean is largest.
"""

from __future__ import annotations

import numpy as np

from permil.arrays import BoolArray, FloatImage
from permil.defects.neighbourhood import RelativeResponse, finite_median

BIN = 8
"""Rows of the medians."""

LEAST_LENGTH = 2 * BIN
"""Rows of the shortest part of a column; shorter ones are clusters."""

_REACH = 5
_TO_SIGMA = 1.4826


def defective_columns(relative: RelativeResponse, *, threshold: float, significance: float) -> BoolArray:
    """Return which pixels belong to a part of a column that deviates from the columns beside it.

    Parameters
    ----------
    relative
        Response of the pixels of an amplifier, relative to their neighbourhood.
    threshold
        Least mean deviation, relative.
    significance
        Least mean deviation in units of its standard error from the local scatter of pixels.
    """
    deviation = relative.deviation
    found = np.zeros(deviation.shape, dtype=bool)
    binned = _binned(deviation)
    beside = _beside(binned)
    excess = binned - beside
    if not np.isfinite(excess).any():
        return found
    sigma = _TO_SIGMA * float(np.nanmedian(np.abs(excess)))
    with np.errstate(invalid="ignore"):
        candidates = np.abs(excess) > max(threshold / 2, 3 * sigma)
    for column in np.flatnonzero(np.count_nonzero(candidates, axis=0) > 1):
        rows = slice(None), column
        # The neighbours of a bin are those of all its rows.
        own = deviation[rows] - np.repeat(beside[rows], BIN)[: deviation.shape[0]]
        for sign in (-1, 1):
            is_in = candidates[rows] & (np.sign(excess[rows]) == sign)
            for first, last in _runs(is_in):
                begin, end = _cut(sign * own, first * BIN, min(last * BIN, own.size))
                if _is_significant(own[begin:end], relative.sigma[begin:end, column], threshold, significance):
                    found[begin:end, column] = True
    return found


def _is_significant(excess: FloatImage, sigma: FloatImage, threshold: float, significance: float) -> bool:
    known = np.isfinite(excess)
    if np.count_nonzero(known) < LEAST_LENGTH:
        return False
    mean = abs(float(excess[known].mean()))
    error = float(np.sqrt(np.sum(sigma[known].astype(np.float64) ** 2))) / np.count_nonzero(known)
    return bool(mean >= max(threshold, significance * error))


def _binned(deviation: FloatImage) -> FloatImage:
    """Return medians over `BIN` rows of each column."""
    rows, columns = -(-deviation.shape[0] // BIN), deviation.shape[1]
    padded = np.full((rows * BIN, columns), np.nan, dtype=np.float32)
    padded[: deviation.shape[0]] = deviation
    return finite_median(padded.reshape(rows, BIN, columns).swapaxes(1, 2))


def _beside(binned: FloatImage) -> FloatImage:
    """Return the median over the columns on both sides, up to `_REACH` away; 0 where none was measured."""
    padded = np.pad(binned, ((0, 0), (_REACH, _REACH)), constant_values=np.nan)
    shifts = [shift for shift in range(2 * _REACH + 1) if shift != _REACH]
    around = np.stack([padded[:, shift : shift + binned.shape[1]] for shift in shifts], axis=-1)
    return np.nan_to_num(finite_median(around))


def _runs(is_in: BoolArray) -> list[tuple[int, int]]:
    """Return begin and end of runs; a gap of one is bridged."""
    closed = is_in.copy()
    closed[1:-1] |= is_in[:-2] & is_in[2:]
    edges = np.flatnonzero(np.diff(np.concatenate([[0], closed.astype(np.int8), [0]])))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


def _cut(excess: FloatImage, begin: int, end: int) -> tuple[int, int]:
    """Return first and last pixel of a run whose bins are known: where the sum of the excess over half its mean is largest."""
    known = excess[begin:end]
    known = known[np.isfinite(known)]
    if not known.size:
        return begin, end
    # Pixels far beyond the mean, of another defect nearby, do not carry the run to them.
    usual = np.median(known)
    over = np.nan_to_num(np.minimum(excess, usual) - usual / 2)
    middle = (begin + end) // 2
    first, last = max(begin - BIN, 0), min(end + BIN, excess.size)
    before = np.cumsum(over[first:middle][::-1])
    after = np.cumsum(over[middle:last])
    return (
        middle - (int(np.argmax(before)) + 1 if before.size else 0),
        middle + (int(np.argmax(after)) + 1 if after.size else 0),
    )
