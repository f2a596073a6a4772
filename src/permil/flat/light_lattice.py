"""The light of one exposure on a detector: exact on a lattice of pixels, cubic between them.

A beam is smooth over millimetres. With nodes some tenths of a millimetre apart what is left between them, ``3 h^4 B'''' / 128`` along
each axis (the remainder of Lagrange's formula on four nodes), is below the rounding of single precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil._kernels import flat as kernels

FloatImage = NDArray[np.float32]

CELL = 8
"""Pixels from node to node."""


@dataclass(frozen=True)
class LightLattice:
    """Light on the pixels of a detector.

    Parameters
    ----------
    nodes : ndarray, shape (rows, columns)
        Light at the pixels ``CELL * (index - 1)`` along each axis, as far as `node_shape` says.
    shape
        Rows and columns of the detector.
    """

    nodes: FloatImage
    shape: tuple[int, int]

    @staticmethod
    def node_shape(shape: tuple[int, int]) -> tuple[int, int]:
        """Return rows and columns of nodes that a detector of some shape needs: one cell beyond it on all sides."""
        return -(-shape[0] // CELL) + 3, -(-shape[1] // CELL) + 3

    def on_pixels(self, rows: slice, columns: slice) -> FloatImage:
        """Return the light on rows and columns; NaN where a node nearby has none."""
        chosen = range(self.shape[0])[rows]
        image = np.empty((len(chosen), self.shape[1]), dtype=np.float32)
        kernels.interpolate(self.nodes, chosen.start, chosen.step, image)
        return image[:, columns]
