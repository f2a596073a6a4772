"""The background that is subtracted under stars, as a filter: how much of a wave in even light it follows at a star.

What is subtracted was found between the stars (`permil.spots.background`): planes in boxes, joined by a spline. Waves much longer than
the boxes are followed, and leave nothing. Of shorter ones the pixels between the stars see the other half: there the background goes
the wrong way, and a star shows more of them than the light under it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import j1

from permil.spots.background import fit_background

FloatArray = NDArray[np.float64]

_BOXES = 9
"""Boxes along a side of the square on which waves are tried."""
_RIM = 2.5
"""Boxes along its edges in which stars do not count."""
_DIRECTIONS = 9
_PERIODS_PER_OCTAVE = 4
_SHORTEST, _LONGEST = 0.4, 6.0
"""Periods between which waves are tried, in boxes: shorter ones are not followed, longer ones are."""
_LEAST_SEEN = 0.3
"""Part of a wave that even light in the circle must show, for the background to matter beside it."""


@dataclass(frozen=True)
class BackgroundFilter:
    """How the background under stars was found; lengths in pixels.

    Attributes
    ----------
    box
        Side of the boxes.
    mask_radius
        Radius around each star that did not count as background.
    pitch
        Distance of neighbouring stars.
    """

    box: float = 64.0
    mask_radius: float = 28.0
    pitch: float = 65.0

    def unseen(self, shortest: float, longest: float, radius: float) -> float:
        """Return the part of a band of periods that even light in a circle shows after the background was subtracted.

        All modes of the band count alike.

        Parameters
        ----------
        shortest, longest
            Limits of the band, pixels.
        radius
            Of the circle, pixels.
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
    """Return the median distance of stars to their nearest neighbour, in the exposure with the most of them; NaN for single stars."""
    numbers, counts = np.unique(exposure, return_counts=True)
    members = exposure == numbers[np.argmax(counts)]
    if members.sum() < 2:
        return float("nan")
    points = np.stack([x[members], y[members]], axis=1)
    distance, _ = cKDTree(points).query(points, k=2)
    return float(np.median(np.asarray(distance)[:, 1]))


@lru_cache(maxsize=8)
def _followed(background: BackgroundFilter) -> tuple[FloatArray, FloatArray]:
    """Return periods, and the part of waves that the background follows at stars: over directions, and places of stars in boxes."""
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
            level = [fit_background(part.astype(np.float32), free, box=box).at(x, y)[0] for part in (wave.real, wave.imag)]
            found[number, column] = ((level[0] + 1j * level[1]) * np.exp(-1j * (kx * x + ky * y))).real.mean()
    return periods, found.mean(axis=0)


def _lattice(pitch: float, side: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Return a square lattice, turned by a small angle and shifted at random, that covers a square and what is masked beyond it."""
    reach = np.arange(-np.ceil(side / pitch), np.ceil(side / pitch) + 1)
    i, j = (node.ravel() + shift for node, shift in zip(np.meshgrid(reach, reach), rng.random(2), strict=True))
    angle = rng.uniform(-0.1, 0.1)
    x = side / 2 + pitch * (np.cos(angle) * i - np.sin(angle) * j)
    y = side / 2 + pitch * (np.sin(angle) * i + np.cos(angle) * j)
    return x, y


def _between(x: FloatArray, y: FloatArray, radius: float, side: int) -> NDArray[np.bool_]:
    pixels = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)
    distance = cKDTree(np.stack([x, y], axis=1)).query(pixels, distance_upper_bound=radius)[0]
    return np.asarray(np.isinf(distance).reshape(side, side))
