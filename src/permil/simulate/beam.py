"""The true beam: an exact function of ``u``, the position on the camera relative to the projector (CCS mm)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from permil._kernels import simulate as kernels
from permil.camera import Detector, frames

FloatArray = NDArray[np.float64]

_STRUCTURE_HALF_SIDE_MM = 180.0
_KNOTS_PER_SIGMA = 5.0
_MINIMUM_SPACING_MM = 0.2


def plateau_profile(
    *, edge: float, corner: float, half_window: float, ring_radius: float, ring_break: float
) -> tuple[float, float]:
    """Return the two constants of the smooth radial profile of the beam.

    The profile is ``exp(-q)`` with ``q = slope s^3 / (s^2 + turn)`` and ``s = r^2``: flat like ``r^6`` in the middle (an
    integrating sphere seen through a baffle), a Gaussian far out. Multiplied by the ring it has the level ``edge`` on the axes at
    ``half_window`` and ``corner`` in the corners of the window.

    Returns
    -------
    slope : float
        1/mm^2.
    turn : float
        mm^4.

    Raises
    ------
    ValueError
        If no such profile exists: ``log(corner) / log(edge)`` must lie between 2 and 8.
    """
    at_edge, at_corner = half_window, math.sqrt(2) * half_window
    q_edge = -math.log(edge / _ring(at_edge, ring_radius, ring_break))
    q_corner = -math.log(corner / _ring(at_corner, ring_radius, ring_break))
    ratio = q_corner / q_edge if q_edge > 0 else math.inf
    if not 2.0 < ratio < 8.0:
        raise ValueError(f"no smooth beam has the levels {edge} and {corner} at the edge and in the corners of its window")
    relative_turn = (4 * ratio - 8) / (8 - ratio)
    s_edge = half_window**2
    return q_edge * (1 + relative_turn) / s_edge, relative_turn * s_edge**2


def _ring(radius: float, ring_radius: float, ring_break: float) -> float:
    return 1.0 - ring_break * max(radius - ring_radius, 0.0)


def smooth_structure(rng: np.random.Generator, *, sigma: float, rms: float) -> tuple[FloatArray, float]:
    """Return spline coefficients of random structure: white noise smoothed by a Gaussian.

    Parameters
    ----------
    sigma
        Sigma of the smoothing Gaussian, mm.
    rms
        Relative rms.

    Returns
    -------
    coefficients : ndarray, shape (n, n)
        Coefficients of a cubic B-spline on a square grid of knots centred on ``u = 0``, indexed [x, y].
    spacing : float
        Knot spacing, mm.
    """
    spacing = max(sigma / _KNOTS_PER_SIGMA, _MINIMUM_SPACING_MM)
    side = 2 * int(_STRUCTURE_HALF_SIDE_MM / spacing) + 1
    smoothed = ndimage.gaussian_filter(rng.standard_normal((side, side)), sigma / spacing, mode="wrap")
    return smoothed * (rms / smoothed.std()), spacing


class BeamTruth:
    """The beam of one LED, 1 at its maximum.

    ``B(u) = plateau(r) * ring(r) * (1 + structure(u)) / maximum`` with ``r`` the elliptical radius.

    Parameters
    ----------
    rng
        Draws the structure.
    edge, corner, half_window
        Levels on the axes at the edge and in the corners of the window of half side ``half_window`` (mm).
    size
        Relative size of the beam (differs between LEDs).
    ellipticity
        Relative difference of the squared radii along the two axes, halved.
    ring_radius, ring_break
        Radius (mm) where the radial slope drops by ``ring_break`` (1/mm).
    structure_rms, structure_sigma
        Relative rms and smoothing sigma (mm) of the random structure.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        *,
        edge: float = 0.83,
        corner: float = 0.66,
        half_window: float = 40.0,
        size: float = 1.0,
        ellipticity: float = 0.0,
        ring_radius: float = 25.0,
        ring_break: float = 0.0,
        structure_rms: float = 0.0,
        structure_sigma: float = 4.0,
    ) -> None:
        slope, turn = plateau_profile(
            edge=edge, corner=corner, half_window=half_window, ring_radius=ring_radius, ring_break=ring_break
        )
        self._shape = np.array(
            [slope, turn, ring_radius, ring_break, (1 + ellipticity) / size**2, (1 - ellipticity) / size**2, 1.0]
        )
        self._knots, self._spacing = smooth_structure(rng, sigma=structure_sigma, rms=structure_rms)
        self._shape[6] = 1.0 / self._maximum(half_window)

    def _maximum(self, half_window: float) -> float:
        """Return the largest level in the window: the best of a grid, refined around it."""
        centre, half_side = np.zeros(2), half_window
        for _ in range(4):
            steps = np.linspace(-half_side, half_side, 161)
            levels = self(centre[0] + steps[:, None], centre[1] + steps[None, :])
            best = np.unravel_index(np.argmax(levels), levels.shape)
            centre = centre + steps[list(best)]
            half_side /= 20
        return float(levels.max())

    def __call__(self, u_x: ArrayLike, u_y: ArrayLike) -> FloatArray:
        """Return the beam at positions relative to the projector (mm, any shapes that broadcast)."""
        x, y = np.broadcast_arrays(np.asarray(u_x, dtype=np.float64), np.asarray(u_y, dtype=np.float64))
        levels = np.empty(x.size)
        kernels.beam_at_points(x.ravel(), y.ravel(), self._knots, self._spacing, self._shape, levels)
        return levels.reshape(x.shape)

    def on_detector(self, detector: Detector, centre: tuple[float, float]) -> NDArray[np.float32]:
        """Return the beam on all pixels of a detector, with the values of a call for each pixel in a tenth of the time.

        Parameters
        ----------
        centre
            CCS position (mm) of the beam's centre.

        Returns
        -------
        ndarray, shape (ny, nx)
        """
        origin, matrix = frames.ccs_affine(detector)
        x, y = np.arange(detector.nx), np.arange(detector.ny)
        levels = np.empty(detector.shape, dtype=np.float32)
        start = origin - np.asarray(centre)
        if matrix[0, 0] == 0 and matrix[1, 1] == 0:
            along_rows, along_columns = start[0] + matrix[0, 1] * y, start[1] + matrix[1, 0] * x
            kernels.beam_on_grid(along_rows, along_columns, self._knots, self._spacing, self._shape, levels)
        elif matrix[0, 1] == 0 and matrix[1, 0] == 0:
            along_rows, along_columns = start[1] + matrix[1, 1] * y, start[0] + matrix[0, 0] * x
            shape = self._shape.copy()
            shape[[4, 5]] = shape[[5, 4]]
            kernels.beam_on_grid(along_rows, along_columns, self._knots.T.copy(), self._spacing, shape, levels)
        else:
            levels[:] = self(
                start[0] + matrix[0, 0] * x + matrix[0, 1] * y[:, None], start[1] + matrix[1, 0] * x + matrix[1, 1] * y[:, None]
            )
        return levels
