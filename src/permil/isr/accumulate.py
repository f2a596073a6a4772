"""Streaming sums of a stack, pixel by pixel.

Of each pixel the two largest and the smallest measurement are kept by themselves, with the light of their frame; everything
between goes into weighted sums (West 1979, Comm. ACM 22, 532). So an outlier never enters a sum, and what is kept does not grow
with the number of frames.

With ``q`` the relative light of a frame and ``d`` its signal, ``x = d / q`` is what is compared and ``q`` its weight.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

MOST_FRAMES = 65535


class Sums(NamedTuple):
    """Arrays of one shape (44 bytes per pixel).

    ``signal``, ``light``, ``squares``: sums of d, q and q (x - mean)^2 over the frames between the extremes; ``high``,
    ``second``, ``low``: extremes x; ``high_light``, ``second_light``, ``low_light``: q of the frames they come from, 0 where there is
    none; ``measured``: how many frames have a measurement; ``planes``: union of the masks.
    """

    signal: NDArray[np.float64]
    light: NDArray[np.float32]
    squares: NDArray[np.float32]
    high: NDArray[np.float32]
    second: NDArray[np.float32]
    low: NDArray[np.float32]
    high_light: NDArray[np.float32]
    second_light: NDArray[np.float32]
    low_light: NDArray[np.float32]
    measured: NDArray[np.uint16]
    planes: NDArray[np.int16]


def empty_sums(shape: tuple[int, ...]) -> Sums:
    """Return sums over no frame."""
    kinds = (np.float64, *[np.float32] * 8, np.uint16, np.int16)
    sums = Sums._make(np.zeros(shape, dtype=kind) for kind in kinds)
    for array in (sums.high, sums.second):
        array.fill(-np.inf)
    sums.low.fill(np.inf)
    return sums


def relative_light(light: ArrayLike) -> NDArray[np.float32]:
    """Return q of the frames: their light relative to that of the first, as the sums keep it."""
    amounts = np.asarray(light, dtype=np.float64)
    return (amounts / amounts[0]).astype(np.float32)
