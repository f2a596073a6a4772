"""Geometry of a set of positions: cells, modes and candidate covariances, cached for further maps at the same positions."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from permil.compare.correlation.candidates import Candidates
from permil.compare.correlation.cells import Cells
from permil.compare.correlation.expectations import expectations
from permil.compare.correlation.modes import cosine_modes
from permil.compare.errors import CompareError

FloatArray = NDArray[np.float64]

FEWEST_PLACES = 12
# Above this ratio of its steps a lattice is also evaluated with equal steps.
_UNEVEN = 1.5
_KEPT = 4
# In units of a cell: points nearer than this are at one position.
_SAME_PLACE = 1e-3


@dataclass(frozen=True)
class Geometry:
    """Positions of the points, and quantities that depend on them alone.

    Attributes
    ----------
    x, y : ndarray, shape (n,)
        Positions.
    cells
        Lattice of the points.
    candidates
        Covariances with their predictions, for one value per position.
    place : ndarray of int, shape (n,), or None
        Index of the position of each point; None if all positions differ.
    once : Geometry
        The geometry of the distinct positions; itself if all positions differ.
    even : Geometry, or None
        On a lattice with unequal steps, the geometry of the distinct positions with equal steps and the same area; else None.
    """

    x: FloatArray
    y: FloatArray
    cells: Cells
    candidates: Candidates
    place: NDArray[np.int64] | None
    even: Geometry | None
    _once: Geometry | None

    @property
    def once(self) -> Geometry:
        """The geometry of the distinct positions."""
        return self if self._once is None else self._once

    @classmethod
    def of(cls, x: FloatArray, y: FloatArray) -> Geometry:
        """Return the geometry of positions; the last four are cached, since one mask is used for many maps.

        Raises
        ------
        CompareError
            If there are too few distinct positions to estimate the correlation of neighbours.
        """
        key = hashlib.sha256(np.ascontiguousarray([x, y]).tobytes()).digest()
        if key in _geometries:
            _geometries.move_to_end(key)
            return _geometries[key]
        geometry = cls._made(x, y)
        _geometries[key] = geometry
        while len(_geometries) > _KEPT:
            _geometries.popitem(last=False)
        return geometry

    @classmethod
    def _made(cls, x: FloatArray, y: FloatArray) -> Geometry:
        cells = Cells.of(x, y)
        if cells.places < FEWEST_PLACES:
            raise CompareError(
                f"the {cells.n} points have only {cells.places} distinct positions on the scale of the field",
                remedy=f"the correlation of neighbours needs values at {FEWEST_PLACES} positions or more",
                value=cells.places,
                allowed=FEWEST_PLACES,
            )
        place = _place_numbers(x, y, cells)
        first = slice(None) if place is None else np.unique(place, return_index=True)[1]
        even = None
        if cells.on_lattice and not 1.0 / _UNEVEN < cells.step_x / cells.step_y < _UNEVEN:
            stretch = np.sqrt(cells.step_y / cells.step_x)
            even = cls._single(x[first] * stretch, y[first] / stretch)
        if place is None:
            return replace(cls._single(x, y), even=even)
        once = cls._single(x[first], y[first])
        return cls(x, y, cells, once.candidates, place, even, once)

    @classmethod
    def _single(cls, x: FloatArray, y: FloatArray) -> Geometry:
        """Return the geometry of points at distinct positions."""
        cells = Cells.of(x, y)
        return cls(x, y, cells, Candidates(expectations(cells, cosine_modes(x, y, cells))), None, None, None)


def _place_numbers(x: FloatArray, y: FloatArray, cells: Cells) -> NDArray[np.int64] | None:
    """Return the index of each point's position, None if all positions differ."""
    if cells.on_lattice:
        labels = np.unique(cells.flat, return_inverse=True)[1]
    else:
        fine = [np.rint((axis - axis.min()) / (_SAME_PLACE * step)) for axis, step in ((x, cells.step_x), (y, cells.step_y))]
        labels = np.unique(np.column_stack(fine), axis=0, return_inverse=True)[1]
    labels = labels.reshape(-1).astype(np.int64)
    return None if labels.max() + 1 == len(labels) else labels


_geometries: OrderedDict[bytes, Geometry] = OrderedDict()
