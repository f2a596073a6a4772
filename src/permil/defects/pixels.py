"""Pixels that deviate: dark, bright, vampires (bright with a dark surround), clusters, parts of columns, hot in the superbias.

**Columns.** Runs of pixels that are weak, dead or bright against the columns beside them. Medians of a few rows of each column are
compared with those of the columns around; runs are then cut to the pixel where the cumulative sum of the deviation in excess of half the
mean is largest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from permil.arrays import BoolArray, Float32Array
from permil.config.flat import DefectsConfig
from permil.defects.neighbourhood import TO_SIGMA, RelativeResponse, block_levels, connected, finite_median

LEAST_CLUSTER = 4
"""Pixels of the smallest cluster."""

_WIDEST_VAMPIRE = 6
_FEWEST_IN_WINDOW = 4


def deviating_pixels(relative: RelativeResponse, options: DefectsConfig) -> tuple[BoolArray, BoolArray]:
    """Return which single pixels are dark, and which are bright."""
    with np.errstate(invalid="ignore"):
        far = np.abs(relative.deviation) > np.maximum(options.pixel, options.significance * relative.sigma)
        return far & (relative.deviation < 0), far & (relative.deviation > 0)


def vampires(relative: RelativeResponse, bright: BoolArray, *, significance: float) -> BoolArray:
    """Return which pixels belong to a vampire: a bright pixel whose surrounding rings are darker than the scatter of pixels allows.

    Parameters
    ----------
    bright
        Bright pixels.
    significance
        Least deficit of a ring, in units of the standard error of its mean from the local scatter.
    """
    found = np.zeros(bright.shape, dtype=bool)
    for row, column in np.argwhere(bright):
        radius = 0
        while radius < _WIDEST_VAMPIRE and _is_dark_ring(relative, bright, (row, column), radius + 1, significance):
            radius += 1
        if radius:
            found[_window(row, radius), _window(column, radius)] = True
    return found


def _window(place: int, radius: int) -> slice:
    return slice(max(place - radius, 0), place + radius + 1)


def _is_dark_ring(
    relative: RelativeResponse, bright: BoolArray, place: tuple[int, int], radius: int, significance: float
) -> bool:
    """Return whether the pixels at a distance (along the farther axis) from a place are dark."""
    rows, columns = (_window(each, radius) for each in place)
    deviation = relative.deviation[rows, columns]
    y, x = np.ogrid[rows.start : rows.start + deviation.shape[0], columns.start : columns.start + deviation.shape[1]]
    ring = np.maximum(np.abs(y - place[0]), np.abs(x - place[1])) == radius
    ring = ring & np.isfinite(deviation) & ~bright[rows, columns]
    count = np.count_nonzero(ring)
    if count < _FEWEST_IN_WINDOW:
        return False
    error = float(relative.sigma[place]) / np.sqrt(count)
    return float(deviation[ring].mean()) < -significance * error


def clusters(relative: RelativeResponse, single: BoolArray, options: DefectsConfig, *, sign: int) -> tuple[BoolArray, BoolArray]:
    """Return which pixels belong to clusters, and which remain single.

    A cluster is a group of `LEAST_CLUSTER` pixels or more that touch: pixels that deviate singly, and those about a window of 3 x 3
    pixels whose mean deviation reaches the limit of clusters and is significant.

    Parameters
    ----------
    single
        Pixels that deviate singly, with the sign.
    sign
        -1 for dark, 1 for bright.
    """
    known = np.isfinite(relative.deviation)
    excess: Float32Array = np.where(known, sign * relative.deviation, np.float32(0))
    # A window is judged without pixels that deviate singly, which would lift its mean alone.
    counted = known & ~single
    number = ndimage.uniform_filter(counted.astype(np.float32), 3, mode="constant") * 9
    total = ndimage.uniform_filter(np.where(counted, excess, np.float32(0)), 3, mode="constant") * 9
    mean = total / np.maximum(number, 1)
    limit = np.maximum(options.cluster, options.significance * relative.sigma / np.sqrt(np.maximum(number, 1)))
    seeds = (number >= _FEWEST_IN_WINDOW - 0.5) & (mean >= limit)
    around = ndimage.binary_dilation(seeds, structure=np.ones((3, 3), dtype=bool))
    member = single | (around & counted & (excess > options.cluster / 2))
    labels, count = connected(member)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    in_cluster = (sizes >= LEAST_CLUSTER)[labels]
    return in_cluster, single & ~in_cluster


@dataclass(frozen=True)
class BiasExcess:
    """Excess of the pixels of an amplifier over their neighbours in the superbias, its standard error, and the local scatter."""

    excess: Float32Array
    error: Float32Array
    sigma: float

    def hot(self, options: DefectsConfig) -> BoolArray:
        """Return which pixels are hot."""
        return self.excess > max(options.hot_electrons, options.significance * self.sigma)


def bias_excess(superbias: Float32Array, variance: Float32Array) -> BiasExcess:
    """Compare the superbias of an amplifier with the medians of its columns, rows and blocks of pixels.

    Parameters
    ----------
    superbias, variance : ndarray, shape (rows, columns)
        Electrons and electrons^2.
    """
    rows, columns = (np.arange(length, dtype=np.float64) for length in superbias.shape)
    flattened: Float32Array = superbias - np.median(superbias, axis=0).astype(np.float32)
    flattened -= np.median(flattened, axis=1)[:, None].astype(np.float32)
    excess = flattened - block_levels(flattened, rows, columns).smoothed().filled(0.0).on(rows, columns)
    return BiasExcess(excess, np.sqrt(variance).astype(np.float32), TO_SIGMA * float(np.median(np.abs(excess))))


BIN = 8
"""Rows of the medians."""

LEAST_LENGTH = 2 * BIN
"""Rows of the shortest part of a column; shorter ones are clusters."""

_REACH = 5


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
    sigma = TO_SIGMA * float(np.nanmedian(np.abs(excess)))
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


def _is_significant(excess: Float32Array, sigma: Float32Array, threshold: float, significance: float) -> bool:
    known = np.isfinite(excess)
    if np.count_nonzero(known) < LEAST_LENGTH:
        return False
    mean = abs(float(excess[known].mean()))
    error = float(np.sqrt(np.sum(sigma[known].astype(np.float64) ** 2))) / np.count_nonzero(known)
    return bool(mean >= max(threshold, significance * error))


def _binned(deviation: Float32Array) -> Float32Array:
    """Return medians over `BIN` rows of each column."""
    rows, columns = -(-deviation.shape[0] // BIN), deviation.shape[1]
    padded = np.full((rows * BIN, columns), np.nan, dtype=np.float32)
    padded[: deviation.shape[0]] = deviation
    return finite_median(padded.reshape(rows, BIN, columns).swapaxes(1, 2))


def _beside(binned: Float32Array) -> Float32Array:
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


def _cut(excess: Float32Array, begin: int, end: int) -> tuple[int, int]:
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
