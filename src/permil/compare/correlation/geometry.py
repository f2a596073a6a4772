"""One set of places: cells, modes and candidate covariances, kept for the next map at the same places."""

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
# From this ratio of its steps a lattice is also taken with equal ones.
_UNEVEN = 1.5
_KEPT = 4
# In units of a cell: points nearer than this are at one place.
_SAME_PLACE = 1e-3


@dataclass(frozen=True)
class Geometry:
    """Places of the points and what follows from them alone.

    Attributes
    ----------
    x, y : ndarray, shape (n,)
        Positions.
    cells
        Lattice of the points.
    candidates
        Covariances with their predictions, for one value at each place.
    place : ndarray of int, shape (n,), or None
        Number of the place of each point; None where no place has several points.
    once : Geometry
        The geometry with each place once; itself where no place has several points.
    even : Geometry, or None
        On a lattice with unequal steps the geometry with equal steps and the same area, each place once; else None.
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
        """The geometry with each place once."""
        return self if self._once is None else self._once

    @classmethod
    def of(cls, x: FloatArray, y: FloatArray) -> Geometry:
        """Return the geometry of some places; the last four are kept, since one mask is used for many maps.

        Raises
        ------
        CompareError
            If the points lie in so few places that nothing can be said about neighbours.
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
                f"the {cells.n} points lie in only {cells.places} places, on the scale of the field",
                remedy=f"the correlation of neighbours is taken from maps with values at {FEWEST_PLACES} places or more",
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
        """Return the geometry of points of which no two are at one place."""
        cells = Cells.of(x, y)
        return cls(x, y, cells, Candidates(expectations(cells, cosine_modes(x, y, cells))), None, None, None)


def _place_numbers(x: FloatArray, y: FloatArray, cells: Cells) -> NDArray[np.int64] | None:
    """Return the number of each point's place, None if all places differ."""
    if cells.on_lattice:
        labels = np.unique(cells.flat, return_inverse=True)[1]
    else:
        fine = [np.rint((axis - axis.min()) / (_SAME_PLACE * step)) for axis, step in ((x, cells.step_x), (y, cells.step_y))]
        labels = np.unique(np.column_stack(fine), axis=0, return_inverse=True)[1]
    labels = labels.reshape(-1).astype(np.int64)
    return None if labels.max() + 1 == len(labels) else labels


_geometries: OrderedDict[bytes, Geometry] = OrderedDict()
