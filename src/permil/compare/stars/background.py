"""The subtracted background under stars as a filter: its response at a star to waves in uniform light.

The background was measured between the stars (`permil.spots.background`): planes in boxes, joined by a spline. It follows waves much longer
than the boxes, which leave no residual. For shorter waves the pixels between the stars sample the opposite phase: the background then
has the wrong sign, and the residual at a star is larger than the wave itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import j1

from permil._kernels import spots as kernels
from permil.spots.background import fit_background

FloatArray = NDArray[np.float64]

_BOXES = 9
"""Number of boxes along a side of the test square."""
_RIM = 2.5
"""Width of its border without stars, boxes."""
_DIRECTIONS = 9
_PERIODS_PER_OCTAVE = 4
_SHORTEST, _LONGEST = 0.4, 6.0
"""Limits of the tested periods, in boxes: shorter waves are not followed, longer ones completely."""
_LEAST_SEEN = 0.3
"""Smallest response of uniform light in the aperture to a wave for which the background is relevant."""


@dataclass(frozen=True)
class BackgroundFilter:
    """Parameters of the measurement of the background under stars; lengths in pixels.

    Attributes
    ----------
    box
        Side of the boxes.
    mask_radius
        Radius around each star that was excluded from the background.
    pitch
        Distance of neighbouring stars.
    """

    box: float = 64.0
    mask_radius: float = 28.0
    pitch: float = 65.0

    def unseen(self, shortest: float, longest: float, radius: float) -> float:
        """Return the residual response of uniform light in an aperture to a band of periods, after background subtraction.

        All modes of the band have equal weight.

        Parameters
        ----------
        shortest, longest
            Limits of the band, pixels.
        radius
            Radius of the aperture, pixels.
        """
        if np.isinf(longest):
            longest = 4 * shortest
        periods = np.geomspace(max(shortest, 1.0), longest, 31)[1::2]
        angle = 2 * np.pi * radius / periods
        seen = 2 * j1(angle) / angle
        known, followed = _followed(self)
        at = np.interp(np.log(periods), np.log(known), followed, left=0.0, right=1.0)
        left = 1 - np.where(seen > _LEAST_SEEN, at / np.maximum(seen, _LEAST_SEEN), 0.0)
        # A map has more modes at the shorter periods.
        return float(np.average(left, weights=periods**-2.0))


def typical_pitch(x: FloatArray, y: FloatArray, exposure: NDArray[np.int64]) -> float:
    """Return the median nearest-neighbour distance of stars in the exposure with the most stars; NaN for single stars."""
    numbers, counts = np.unique(exposure, return_counts=True)
    members = exposure == numbers[np.argmax(counts)]
    if members.sum() < 2:
        return float("nan")
    points = np.stack([x[members], y[members]], axis=1)
    distance, _ = cKDTree(points).query(points, k=2)
    return float(np.median(np.asarray(distance)[:, 1]))


@lru_cache(maxsize=8)
def _followed(background: BackgroundFilter) -> tuple[FloatArray, FloatArray]:
    """Return periods, and the response of the background at stars, averaged over directions and positions in boxes."""
    box = round(background.box)
    side = _BOXES * box
    rng = np.random.default_rng(0)
    periods = np.geomspace(_SHORTEST * box, _LONGEST * box, round(_PERIODS_PER_OCTAVE * np.log2(_LONGEST / _SHORTEST)))
    found = np.zeros((_DIRECTIONS, periods.size))
    along = np.arange(side, dtype=np.float64)
    for number in range(_DIRECTIONS):
        x, y = _lattice(background.pitch, side, rng)
        free = _between(x, y, background.mask_radius, side)
        inside = (np.abs(x - side / 2) < side / 2 - _RIM * box) & (np.abs(y - side / 2) < side / 2 - _RIM * box)
        x, y = x[inside], y[inside]
        direction = np.pi * (number + rng.random()) / _DIRECTIONS
        for column, period in enumerate(periods):
            kx, ky = 2 * np.pi / period * np.cos(direction), 2 * np.pi / period * np.sin(direction)
            wave = np.exp(1j * ky * along)[:, None] * np.exp(1j * kx * along)[None, :]
            level = [fit_background(part.astype(np.float32), free, box=box).at(x, y) for part in (wave.real, wave.imag)]
            found[number, column] = ((level[0] + 1j * level[1]) * np.exp(-1j * (kx * x + ky * y))).real.mean()
    return periods, found.mean(axis=0)


def _lattice(pitch: float, side: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Return a square lattice, slightly rotated and randomly shifted, that covers a square with a margin."""
    reach = np.arange(-np.ceil(side / pitch), np.ceil(side / pitch) + 1)
    i, j = (node.ravel() + shift for node, shift in zip(np.meshgrid(reach, reach), rng.random(2), strict=True))
    angle = rng.uniform(-0.1, 0.1)
    x = side / 2 + pitch * (np.cos(angle) * i - np.sin(angle) * j)
    y = side / 2 + pitch * (np.sin(angle) * i + np.cos(angle) * j)
    return x, y


def _between(x: FloatArray, y: FloatArray, radius: float, side: int) -> NDArray[np.bool_]:
    free = np.ones((side, side), dtype=bool)
    kernels.clear_discs(free, x, y, radius)
    return free
