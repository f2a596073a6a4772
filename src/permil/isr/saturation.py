"""Growth of saturated pixels, as runs of columns: what `permil.isr.masks.grow_saturated` does, without any image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from permil.camera import Detector
from permil.isr.rows import Placement

Runs = NDArray[np.int64]


def grown_runs(runs: Runs, detector: Detector, pixels: int) -> Runs:
    """Return runs that cover all pixels within a square of ``2 pixels + 1`` around saturated ones, also in other segments.

    Parameters
    ----------
    runs : ndarray, shape (n, 5)
        File, number of the amplifier, raw row, first raw column, column behind the last.

    Returns
    -------
    ndarray, shape (m, 5)
        The same columns; runs may overlap.
    """
    places = [Placement.of(amplifier) for amplifier in detector.amplifiers]
    x_min, width, flip_x, y_first, y_step = (np.array(column) for column in zip(*places, strict=True))
    file, amplifier, row, start, stop = runs.T
    flipped = flip_x[amplifier]
    first = x_min[amplifier] + np.where(flipped, width[amplifier] - stop, start) - pixels
    last = x_min[amplifier] + np.where(flipped, width[amplifier] - start, stop) + pixels
    y = y_first[amplifier] + y_step[amplifier] * row
    grown = []
    for number, target in enumerate(detector.amplifiers):
        # Columns and rows of this amplifier, counted as it is read.
        left, right = np.clip(first - target.x_min, 0, target.nx), np.clip(last - target.x_min, 0, target.nx)
        if flip_x[number]:
            left, right = target.nx - right, target.nx - left
        for step in range(-pixels, pixels + 1):
            own_row = (y + step - y_first[number]) * y_step[number]
            touched = (left < right) & (own_row >= 0) & (own_row < target.ny)
            parts = (file, np.full_like(file, number), own_row, left, right)
            grown.append(np.stack([part[touched] for part in parts], axis=1))
    return np.concatenate(grown)
