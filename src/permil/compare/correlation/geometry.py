"""One set of places: cells, modes and candidate covariances, kept for the next map at the same places."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.compare.correlation.candidates import Candidates
from permil.compare.correlation.cells import Cells
from permil.compare.correlation.expectations import expectations
from permil.compare.correlation.modes import cosine_modes

FloatArray = NDArray[np.float64]

_KEPT = 4


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
        Covariances with their predictions.
    """

    x: FloatArray
    y: FloatArray
    cells: Cells
    candidates: Candidates

    @classmethod
    def of(cls, x: FloatArray, y: FloatArray) -> Geometry:
        """Return the geometry of some places; the last four are kept, since one mask is used for many maps."""
        key = hashlib.sha256(np.ascontiguousarray([x, y]).tobytes()).digest()
        if key in _geometries:
            _geometries.move_to_end(key)
            return _geometries[key]
        cells = Cells.of(x, y)
        geometry = cls(x, y, cells, Candidates(expectations(cells, cosine_modes(x, y, cells))))
        _geometries[key] = geometry
        while len(_geometries) > _KEPT:
            _geometries.popitem(last=False)
        return geometry


_geometries: OrderedDict[bytes, Geometry] = OrderedDict()
