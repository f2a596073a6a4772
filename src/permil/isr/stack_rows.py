"""What goes into the compiled loop of a stack, and what it finds.

Each row goes through all files before the next one (``_kernels``), so that its sums stay in the nearest cache while the files pass by, and
no reduced exposure nor the sums of an image are ever in memory as a whole.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


class FrameRows(NamedTuple):
    """What differs from file to file; shapes (n_files, n_segments), of ``light`` (n_files,), of the last three (.., n_rows).

    ``light``: relative light q; ``gain``: electrons per adu; ``dead``: channels without data; ``clip``: deviation from which a count of
    the overscan is an outlier; ``level``: of the overscan, adu; ``squares``, ``freedom``: sum of squared
    deviations from the mean of the overscan, and their degrees of freedom.
    """

    light: NDArray[np.float32]
    gain: FloatArray
    dead: NDArray[np.bool_]
    clip: FloatArray
    level: FloatArray
    squares: FloatArray
    freedom: NDArray[np.int64]


class SumsOfRows(NamedTuple):
    """What the kernel ``add_rows`` returns.

    ``damaged_file``, ``damaged_segment``: the first one with a row that does not decode, -1 if there is none; ``runs``: saturated pixels:
    file, segment, row, first column, column behind the last, shape (n, 5); ``lost``: file, segment, and what `LostRuns` holds, shape
    (n, 7); ``places``, ``sums``: see `Doubtful`.
    """

    damaged_file: int
    damaged_segment: int
    runs: NDArray[np.int64]
    lost: NDArray[np.int64]
    places: NDArray[np.int64]
    sums: FloatArray


class Spread(NamedTuple):
    """Pixels beside saturated ones: for file f, segment s and the i-th row those from ``start[k]`` to ``stop[k] - 1``.

    k runs from ``first[f, s, i]`` to ``first[f, s, i + 1] - 1`` (``first`` has no elements where nothing is saturated); columns are raw.
    """

    first: NDArray[np.int64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]

    @classmethod
    def nothing(cls) -> Spread:
        """Return the spread where nothing is saturated."""
        none = np.empty(0, dtype=np.int64)
        return cls(np.empty((0, 0, 0), dtype=np.int64), none, none)
