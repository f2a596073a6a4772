"""Tiles: neighbouring super-pixels of a detector, which depend on the same few unknowns, and the sums of their rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from permil._kernels.joint import add_blocks, add_gradient, mark_windows, predict, slopes_along, sum_tile
from permil.flat.joint.data import DetectorSignals
from permil.flat.joint.model import GainGroup, JointModel

FloatArray = NDArray[np.float64]

_TILE_MM = 10.5
"""Side of the tiles: large enough for matrix products, small enough to depend on few splines."""


@dataclass(frozen=True)
class Tile:
    """Neighbouring super-pixels of a detector and what they depend on.

    Parameters
    ----------
    pixels : ndarray of int, shape (p,)
        Which super-pixels; each has a response.
    columns : ndarray of int, shape (n,)
        The unknowns, rising.
    sums : ndarray, shape (p, n)
        ``S``.
    moments : ndarray, shape (p,)
        ``W``.
    """

    pixels: NDArray[np.int64]
    columns: NDArray[np.int64]
    sums: FloatArray
    moments: FloatArray

    @property
    def shifts(self) -> FloatArray:
        """Rows ``A``, shape (p, n)."""
        return self.sums / self.moments[:, None]

    def scale(self) -> FloatArray:
        """Turn the sums into ``S / sqrt(W)``, whose square the elimination of the responses takes off the matrix, shape (p, n)."""
        return np.divide(self.sums, np.sqrt(self.moments)[:, None], out=self.sums)


@dataclass(frozen=True)
class TilePlan:
    """What a tile depends on, before its rows are summed.

    Parameters
    ----------
    pixels, columns : ndarray of int
        Super-pixels and unknowns.
    windows : ndarray of int, shape (e, patterns, 4)
        See `mark_windows`.
    further : ndarray of int, shape (e, m)
        Unknowns of each exposure besides the patterns.
    parts : ndarray, shape (e, m, 3 or 8)
        See `JointModel.further_columns`.
    """

    pixels: NDArray[np.int64]
    columns: NDArray[np.int64]
    windows: NDArray[np.int64]
    further: NDArray[np.int64]
    parts: FloatArray

    @property
    def shared(self) -> int:
        """Unknowns of a block that stand for all but the B-splines."""
        return int(self.parts.shape[2])

    @property
    def block_size(self) -> int:
        """Side of the largest of the blocks of `sum_tile`."""
        return int((self.windows[:, :, 1] * self.windows[:, :, 3]).sum(axis=1).max(initial=0)) + self.shared


class DetectorRows:
    """The rows of one detector at a vector of unknowns: derivatives of its logarithms, never all of them at a time.

    Parameters
    ----------
    residual, weights : ndarray, shape (e, p)
        Of the logarithms at that vector; what has no weight does not count.
    """

    def __init__(
        self, model: JointModel, detector: DetectorSignals, vector: FloatArray, residual: FloatArray, weights: FloatArray
    ) -> None:
        self._detector, self._vector, self._size = detector, vector, model.size
        self._residual, self._weights = residual, weights
        self._counts, self._places = model.pattern_arrays()
        columns, parts = model.further_columns(vector)
        chosen = detector.exposures
        self._centres, self._frames = model.centres(vector)[chosen], model.frames[chosen]
        self._groups = [
            (group.pixels, *_with_gains(columns[chosen], parts[chosen], group)) for group in model.gain_groups(detector)
        ]

    def product(self, step: FloatArray) -> FloatArray:
        """Return ``x . step`` of all signals, shape (e, p): how much a small step of the unknowns changes the logarithms."""
        detector = self._detector
        result = np.empty(self._residual.shape)
        for pixels, further, parts in self._groups:
            along = (parts * step[further][:, :, None]).sum(axis=1)
            light = self._counts, self._places, step, self._frames, np.ascontiguousarray(along[:, 3:])
            change = predict(
                detector.x_mm[pixels], detector.y_mm[pixels], self._centres, np.ascontiguousarray(along[:, 0]), *light
            )
            change += along[:, 1, None] * self._slopes[:, 0, pixels]
            change += along[:, 2, None] * self._slopes[:, 1, pixels]
            result[:, pixels] = change
        return result

    @cached_property
    def _slopes(self) -> NDArray[np.float32]:
        """Derivatives of the logarithms with respect to the projector's position, shape (e, 2, p)."""
        detector = self._detector
        slopes = np.empty((len(self._centres), 2, len(detector.x_mm)))
        slopes_along(detector.x_mm, detector.y_mm, self._centres, self._counts, self._places, self._vector, slopes)
        return slopes.astype(np.float32)

    def add_gradient(self, gradient: FloatArray, residual: FloatArray | None = None) -> None:
        """Add ``sum w x r`` of all signals, shape (unknowns,), for their residuals or others in place of these."""
        detector, of_signals = self._detector, self._residual if residual is None else residual
        for pixels, further, parts in self._groups:
            alone = len(self._groups) == 1
            residual, weights = (rows if alone else np.ascontiguousarray(rows[:, pixels]) for rows in (of_signals, self._weights))
            state = self._centres, self._counts, self._places, self._vector, further, parts, self._frames
            add_gradient(detector.x_mm[pixels], detector.y_mm[pixels], residual, weights, *state, gradient)

    def plans(self) -> Iterator[TilePlan]:
        """Yield the tiles of the detector."""
        for pixels, further, parts in self._tile_pixels():
            x, y = self._detector.x_mm[pixels], self._detector.y_mm[pixels]
            marked = np.zeros(self._size, dtype=np.bool_)
            windows = np.zeros((len(self._centres), len(self._counts), 4), dtype=np.int64)
            bounds = np.array([x.min(), x.max(), y.min(), y.max()])
            lit = np.asarray(self._weights[:, pixels].any(axis=1))
            mark_windows(bounds, self._centres, self._counts, self._places, further, lit, windows, marked)
            yield TilePlan(pixels, np.flatnonzero(marked), windows, further, parts)

    def tile(self, plan: TilePlan) -> Tile:
        """Return the sums of a tile."""
        return self._sum(plan, np.empty((0, 0, 0)))

    def tile_and_blocks(self, plan: TilePlan) -> tuple[Tile, FloatArray]:
        """Return the sums of a tile, and the products of its rows as if the response were known, for `add_blocks`."""
        blocks = np.zeros((len(self._centres), plan.block_size, plan.block_size))
        return self._sum(plan, blocks), blocks

    def add_blocks(self, matrix: FloatArray, plan: TilePlan, blocks: FloatArray, low: int, high: int) -> None:
        """Add the products of the rows of a tile to the upper triangle of a matrix, in its rows from low to high."""
        add_blocks(matrix, blocks, plan.windows, self._counts, plan.further, plan.parts, low, high)

    def _sum(self, plan: TilePlan, blocks: FloatArray) -> Tile:
        pixels, used = plan.pixels, plan.columns
        positions = np.zeros(self._size, dtype=np.int64)
        positions[used] = np.arange(used.size)
        sums, moments = np.zeros((pixels.size, used.size)), np.zeros(pixels.size)
        x, y = self._detector.x_mm[pixels], self._detector.y_mm[pixels]
        weights = np.ascontiguousarray(self._weights[:, pixels])
        state = self._counts, self._places, self._vector, plan.further, plan.parts, self._frames
        sum_tile(x, y, weights, self._centres, *state, plan.windows, positions, sums, moments, blocks)
        return Tile(pixels, used, sums, moments)

    def _tile_pixels(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], FloatArray]]:
        """Yield the super-pixels of each tile, of one group each, with their further unknowns and parts."""
        is_lit: NDArray[np.bool_] = np.asarray(self._weights.any(axis=0))
        for pixels, further, parts in self._groups:
            lit = pixels[is_lit[pixels]]
            if not lit.size:
                continue
            cells = np.floor(np.column_stack([self._detector.x_mm, self._detector.y_mm])[lit] / _TILE_MM).astype(np.int64)
            _, number = np.unique(cells, axis=0, return_inverse=True)
            order = np.argsort(number, kind="stable")
            for tile in np.split(lit[order], np.flatnonzero(np.diff(number[order])) + 1):
                yield tile, further, parts


def _with_gains(columns: NDArray[np.int64], parts: FloatArray, group: GainGroup) -> tuple[NDArray[np.int64], FloatArray]:
    """Return further unknowns (rising) and parts with those of the gains of a group."""
    if not group.columns.size:
        return columns, parts
    of_gains = np.zeros((len(columns), group.columns.size, parts.shape[2]))
    of_gains[:, :, 0] = group.values
    columns = np.concatenate([columns, np.tile(group.columns, (len(columns), 1))], axis=1)
    # Their order is the same in all exposures.
    order = np.argsort(columns[0]) if len(columns) else np.arange(columns.shape[1])
    return np.ascontiguousarray(columns[:, order]), np.ascontiguousarray(np.concatenate([parts, of_gains], axis=1)[:, order])
