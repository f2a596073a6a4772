"""Grids of points with known labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TrueGrid:
    """Points in random order; ``i``, ``j`` are -1 for spurious ones."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    i: NDArray[np.int64]
    j: NDArray[np.int64]


def draw_grid(
    rng: np.random.Generator,
    *,
    angle_deg: float = 0.0,
    pitch: float = 65.3,
    size: tuple[int, int] = (49, 49),
    centre: tuple[float, float] = (2035.0, 1999.0),
    detector: tuple[int, int] = (4072, 4000),
    missing: float = 0.0,
    spurious: float = 0.0,
    noise: float = 0.1,
    distortion: float = 1.1,
    empty_rows: tuple[int, ...] = (),
) -> TrueGrid:
    """Draw a grid, cut by the edges of the detector; the distortion is of third order, about so many pixels rms.

    A spurious source keeps a twentieth of the pitch, and twelve times the noise, from every node: closer ones could not be told
    by anybody.
    """
    i, j = (index.ravel() for index in np.meshgrid(np.arange(size[0]), np.arange(size[1]), indexing="ij"))

    def place(i, j):
        u, v = (i - (size[0] - 1) / 2) * pitch, (j - (size[1] - 1) / 2) * pitch
        radius2 = (u**2 + v**2) / (24 * pitch) ** 2
        u, v = u + distortion * u / (24 * pitch) * radius2, v + distortion * v / (24 * pitch) * radius2
        angle = np.deg2rad(angle_deg)
        return centre[0] + u * np.cos(angle) - v * np.sin(angle), centre[1] + u * np.sin(angle) + v * np.cos(angle)

    x, y = place(i, j)
    keep = (x > 5) & (x < detector[0] - 6) & (y > 5) & (y < detector[1] - 6) & (rng.random(len(x)) >= missing)
    keep &= ~np.isin(j, empty_rows)
    x, y, i, j = x[keep], y[keep], i[keep], j[keep]
    wanted = round(spurious * len(x))
    wide_i, wide_j = (index.ravel() for index in np.meshgrid(np.arange(-40, size[0] + 40), np.arange(-40, size[1] + 40)))
    nodes = np.stack(place(wide_i, wide_j), axis=1)
    from scipy.spatial import cKDTree

    candidates = rng.random((4 * wanted + 20, 2)) * detector
    far = cKDTree(nodes).query(candidates)[0] > max(pitch / 20, 12 * noise)
    extra = candidates[far][:wanted]
    x = np.concatenate([x + rng.normal(0, noise, len(x)), extra[:, 0]])
    y = np.concatenate([y + rng.normal(0, noise, len(y)), extra[:, 1]])
    none = np.full(len(extra), -1)
    order = rng.permutation(len(x))
    return TrueGrid(x[order], y[order], np.concatenate([i, none])[order], np.concatenate([j, none])[order])


def draw_rim(
    rng: np.random.Generator,
    *,
    angle_deg: float,
    share: float,
    saddles: str,
    centre: tuple[float, float] = (2900.0, 2700.0),
    jitter: float = 0.5,
    missing: float = 0.0,
    radius: float = 1000.0,
) -> TrueGrid:
    """Draw the mask with false sources along the rim of a disc around its centre: one at each saddle between spots next to the rim.

    ``saddles`` are the midpoints of neighbours (``edges``; along i only: ``i``), the middle of four spots (``cells``), or all; ``share``
    is that of the false ones among all sources.
    """
    pitch, detector = 65.3, np.array([4072, 4000])
    true = draw_grid(rng, angle_deg=angle_deg, centre=centre, missing=missing, noise=0.1)
    nodes = np.stack([index.ravel() for index in np.meshgrid(np.arange(49.0), np.arange(49.0), indexing="ij")], axis=1)
    offsets = {"i": [(0.5, 0)], "edges": [(0.5, 0), (0, 0.5)], "cells": [(0.5, 0.5)], "all": [(0.5, 0), (0, 0.5), (0.5, 0.5)]}
    places = np.concatenate([nodes + offset for offset in offsets[saddles]])
    u, v = ((places[places.max(axis=1) < 48] - 24) * pitch).T
    angle = np.deg2rad(angle_deg)
    x, y = centre[0] + u * np.cos(angle) - v * np.sin(angle), centre[1] + u * np.sin(angle) + v * np.cos(angle)
    on = (x > 5) & (x < detector[0] - 6) & (y > 5) & (y < detector[1] - 6)
    from_rim = np.abs(np.hypot(x - centre[0], y - centre[1]) - radius)
    chosen = np.argsort(np.where(on, from_rim, np.inf))[: round(share / (1 - share) * len(true.x))]
    false_x, false_y = x[chosen] + rng.normal(0, jitter, len(chosen)), y[chosen] + rng.normal(0, jitter, len(chosen))
    none = np.full(len(chosen), -1)
    order = rng.permutation(len(true.x) + len(chosen))
    parts = ((true.x, false_x), (true.y, false_y), (true.i, none), (true.j, none))
    return TrueGrid(*(np.concatenate(part)[order] for part in parts))


def label_faults(true: TrueGrid, grid_i, grid_j) -> tuple[int, int]:
    """Return how many true spots have no label, and how many labels are wrong, up to quarter turns and a shift of the window."""
    spot = true.i >= 0
    labelled = grid_i >= 0
    fewest = len(true.x) + 1
    both = spot & labelled
    for turn_i, turn_j in ((grid_i, grid_j), (grid_j, -grid_i), (-grid_i, -grid_j), (-grid_j, grid_i)):
        shift_i, shift_j = np.median(turn_i[both] - true.i[both]), np.median(turn_j[both] - true.j[both])
        wrong = labelled & ~(spot & (turn_i - shift_i == true.i) & (turn_j - shift_j == true.j))
        fewest = min(fewest, int(wrong.sum()))
    return int((spot & ~labelled).sum()), fewest
