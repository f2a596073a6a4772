"""Dark and bright pixels, vampires (bright with a dark surround), and clusters, from deviations of the response."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from permil.arrays import BoolArray, FloatImage
from permil.config.defects import DefectsConfig
from permil.defects.neighbourhood import RelativeResponse, connected

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
    excess: FloatImage = np.where(known, sign * relative.deviation, np.float32(0))
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
