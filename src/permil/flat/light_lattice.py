"""The light of one exposure on a detector: exact on a lattice of pixels, cubic between them.

A beam is smooth over millimetres. With nodes some tenths of a millimetre apart what is left between them, ``3 h^4 B'''' / 128`` along
each axis (the remainder of Lagrange's formula on four nodes), is below the rounding of single precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

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
        _interpolate(self.nodes, chosen.start, chosen.step, image)
        return image[:, columns]


@numba.njit(cache=True, nogil=True)
def _interpolate(nodes, first, step, image):  # type: ignore[no-untyped-def]  # pragma: no cover  compiled
    number, columns = nodes.shape[1], image.shape[1]
    scratch = np.empty((5, number), dtype=np.float32)
    line, zeroth, linear, square, cube = scratch[0], scratch[1], scratch[2], scratch[3], scratch[4]
    third, half, sixth = np.float32(1 / 3), np.float32(0.5), np.float32(1 / 6)
    width = np.float32(1 / CELL)
    for index in range(image.shape[0]):
        y = first + index * step
        cell = y // CELL
        t = y / CELL - cell
        w0, w1 = np.float32(-t * (t - 1) * (t - 2) / 6), np.float32((t + 1) * (t - 1) * (t - 2) / 2)
        w2, w3 = np.float32(-(t + 1) * t * (t - 2) / 2), np.float32((t + 1) * t * (t - 1) / 6)
        for k in range(number):
            line[k] = w0 * nodes[cell, k] + w1 * nodes[cell + 1, k] + w2 * nodes[cell + 2, k] + w3 * nodes[cell + 3, k]
        # Between the second and the third of four nodes the light is one polynomial.
        for k in range(number - 3):
            zeroth[k] = line[k + 1]
        for k in range(number - 3):
            linear[k] = line[k + 2] - third * line[k] - half * line[k + 1] - sixth * line[k + 3]
        for k in range(number - 3):
            square[k] = half * (line[k] + line[k + 2]) - line[k + 1]
        for k in range(number - 3):
            cube[k] = half * (line[k + 1] - line[k + 2]) + sixth * (line[k + 3] - line[k])
        whole = columns // CELL
        _fill_cells(image[index], whole, zeroth, linear, square, cube)
        for column in range(whole * CELL, columns):
            s = np.float32(column - whole * CELL) * width
            image[index, column] = zeroth[whole] + s * (linear[whole] + s * (square[whole] + s * cube[whole]))


@numba.njit(cache=True, nogil=True)
def _fill_cells(pixels, number, zeroth, linear, square, cube):  # type: ignore[no-untyped-def]  # pragma: no cover  compiled
    # Written out, the pixels of a cell become one vector; a loop over them does not.
    s1, s2, s3, s4 = np.float32(0.125), np.float32(0.25), np.float32(0.375), np.float32(0.5)
    s5, s6, s7 = np.float32(0.625), np.float32(0.75), np.float32(0.875)
    for k in range(number):
        first = k * CELL
        c0, c1, c2, c3 = zeroth[k], linear[k], square[k], cube[k]
        pixels[first] = c0
        pixels[first + 1] = c0 + s1 * (c1 + s1 * (c2 + s1 * c3))
        pixels[first + 2] = c0 + s2 * (c1 + s2 * (c2 + s2 * c3))
        pixels[first + 3] = c0 + s3 * (c1 + s3 * (c2 + s3 * c3))
        pixels[first + 4] = c0 + s4 * (c1 + s4 * (c2 + s4 * c3))
        pixels[first + 5] = c0 + s5 * (c1 + s5 * (c2 + s5 * c3))
        pixels[first + 6] = c0 + s6 * (c1 + s6 * (c2 + s6 * c3))
        pixels[first + 7] = c0 + s7 * (c1 + s7 * (c2 + s7 * c3))
