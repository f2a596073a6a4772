"""Cosine modes at the points: the statistics from which the covariance of a map is estimated.

Cosines (as in the DCT-II) have no jump at the border, unlike the waves of a Fourier transform. They are made orthogonal at the points, from
long to short, so that a short mode does not pick up long ones through holes and irregular positions, and orthogonal to the constant, so
that subtracting the mean has no effect. All long modes are used, and a sample of the shorter ones, of equal number per octave.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

from permil.compare.correlation.cells import Cells

FloatArray = NDArray[np.float64]

# All modes with fewer half waves across the field than this are used.
_ALL_BELOW = 10.0
# Limit of modes times cells, with at least a hundred modes.
_MODES, _FEWEST_MODES, _WORK = 800, 100, 30_720_000
# Largest ratio of modes to positions: short modes at irregular points are nearly dependent.
_SHARE = 0.7
_RIDGE = 1e-5
_POINTS_AT_ONCE = 512
_SEED = 20_240_701


def mode_numbers(cells: Cells) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return half waves along x and y of the modes used, from long to short."""
    width, height = (cells.shape[1] * cells.step_x, cells.shape[0] * cells.step_y)
    # A lattice resolves no more waves than it has columns and rows.
    along_x, along_y = (
        np.arange(min(size, max(1, round(extent / spacing))))
        for size, extent, spacing in zip(cells.shape[::-1], (width, height), cells.spacings, strict=True)
    )
    kx, ky = (half_waves.ravel() for half_waves in np.meshgrid(along_x, along_y))
    # Rounded, so that equal wavelengths keep their order in any unit of length.
    number = np.round(np.hypot(kx / width, ky / height) * np.sqrt(width * height), 6)
    order = np.argsort(number, kind="stable")[1:]
    kx, ky, number = kx[order], ky[order], number[order]
    affordable = min(_MODES, max(_FEWEST_MODES, _WORK // (cells.shape[0] * cells.shape[1])))
    wanted = min(affordable, int(_SHARE * (cells.places - 1)), len(number))
    low = min(int(np.searchsorted(number, _ALL_BELOW)), wanted)
    taken = np.arange(low)
    if wanted > low:
        density = number[low:] ** -2.0
        rng = np.random.default_rng(_SEED)
        sample = rng.choice(len(number) - low, wanted - low, replace=False, p=density / density.sum())
        taken = np.concatenate([taken, low + np.sort(sample)])
    return kx[taken], ky[taken]


def cosine_modes(x: FloatArray, y: FloatArray, cells: Cells) -> NDArray[np.float32]:
    """Return the orthonormal modes at the points, shape (n, modes)."""
    kx, ky = mode_numbers(cells)
    phase_x = np.pi * ((x - x.min()) / cells.step_x + 0.5) / cells.shape[1]
    phase_y = np.pi * ((y - y.min()) / cells.step_y + 0.5) / cells.shape[0]
    modes = np.empty((len(x), len(kx)), dtype=np.float32)
    for begin in range(0, len(x), _POINTS_AT_ONCE):
        piece = slice(begin, begin + _POINTS_AT_ONCE)
        modes[piece] = _cosines(phase_x[piece], kx) * _cosines(phase_y[piece], ky)
    modes -= modes.mean(axis=0, dtype=float).astype(np.float32)
    modes /= np.sqrt(np.sum(modes**2, axis=0, dtype=float)).astype(np.float32)
    gram = (modes.T @ modes).astype(float)
    factor = cholesky(gram + _RIDGE * np.eye(len(gram)), check_finite=False)
    return modes @ solve_triangular(factor, np.eye(len(gram)), check_finite=False).astype(np.float32)


def _cosines(phase: FloatArray, half_waves: NDArray[np.int64]) -> FloatArray:
    """Return ``cos(k phase)``, shape (points, modes)."""
    different, which = np.unique(half_waves, return_inverse=True)
    return np.cos(np.outer(phase, different))[:, which]
