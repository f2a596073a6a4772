"""Simulated beams with known truth for the tests of the beam."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RectBivariateSpline
from scipy.ndimage import gaussian_filter

from permil.beam import BeamNodes

FloatArray = NDArray[np.float64]
Beam = Callable[[FloatArray, FloatArray], FloatArray]

HALF_WIDTH_MM = 40.0
RING_RADIUS_MM = 25.0
RING_BREAK_PER_MM = 2e-3
STRUCTURE_RMS = 3e-3
STRUCTURE_SIGMA_MM = 4.0
NODE_NOISE = 3.3e-4


def plateau(ux: FloatArray, uy: FloatArray) -> FloatArray:
    """Return a smooth beam: within 1.2 % of 1 to 18 mm, 0.83 at 40 mm, 0.66 in the corners of the window."""
    radii = np.array([18.0, 40.0, np.hypot(40.0, 40.0)]) / 40.0
    coefficients = np.linalg.solve(radii[:, None] ** [2, 4, 6], [0.012, 0.17, 0.34])
    square = (np.square(ux) + np.square(uy)) / 40.0**2
    return 1.0 - square * (coefficients[0] + square * (coefficients[1] + square * coefficients[2]))


def structured_beam(seed: int) -> Beam:
    """Return the plateau with a ring where the slope breaks, and Gaussian random structure."""
    step, limit = 0.5, 60.0
    axis = np.arange(-limit, limit + step / 2, step)
    white = np.random.default_rng(seed).standard_normal((axis.size, axis.size))
    field = gaussian_filter(white, STRUCTURE_SIGMA_MM / step, mode="wrap")
    structure = RectBivariateSpline(axis, axis, STRUCTURE_RMS * field / field.std())

    def beam(ux: FloatArray, uy: FloatArray) -> FloatArray:
        beyond = np.maximum(np.hypot(ux, uy) - RING_RADIUS_MM, 0.0)
        ring = -RING_BREAK_PER_MM * beyond * np.exp(-beyond / 8.0)
        return plateau(ux, uy) + ring + structure.ev(ux, uy)

    return beam


def scan_positions(count: int, half_width: float = HALF_WIDTH_MM) -> tuple[FloatArray, FloatArray]:
    """Return the positions of a ``count`` x ``count`` scan, x slow."""
    axis = np.linspace(-half_width, half_width, count)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    return x.ravel(), y.ravel()


def scan(beam: Beam, count: int, seed: int, *, noise: float = NODE_NOISE, level: float = 5e4) -> BeamNodes:
    """Return the nodes of a scan of one bunch at (0, 0)."""
    x, y = scan_positions(count)
    signal = level * beam(-x, -y) * (1.0 + noise * np.random.default_rng(seed).standard_normal(x.size))
    return BeamNodes.from_columns(x, y, signal)


def scan_of_bunches(
    beam: Beam, count: int, places: FloatArray, gains: FloatArray, seed: int, *, noise: float, exposure_noise: float
) -> BeamNodes:
    """Return the nodes of a scan seen by several bunches, with a scale error of each exposure."""
    rng = np.random.default_rng(seed)
    x, y = scan_positions(count)
    scales = 1.0 + exposure_noise * rng.standard_normal(x.size)
    ux, uy = places[:, :1] - x, places[:, 1:] - y
    signal = gains[:, None] * scales * beam(ux, uy) * (1.0 + noise * rng.standard_normal(ux.shape))
    shape = ux.shape
    return BeamNodes.from_columns(
        np.broadcast_to(x, shape).ravel(),
        np.broadcast_to(y, shape).ravel(),
        signal.ravel(),
        ref_x_mm=np.broadcast_to(places[:, :1], shape).ravel(),
        ref_y_mm=np.broadcast_to(places[:, 1:], shape).ravel(),
        bunch=np.repeat([f"bunch{number:02d}" for number in range(len(places))], x.size),
    )


def lattice_inside(half_width: float, count: int = 40) -> tuple[FloatArray, FloatArray]:
    """Return the points of a square lattice in the beam's coordinates."""
    axis = np.linspace(-half_width, half_width, count)
    ux, uy = np.meshgrid(axis, axis)
    return ux.ravel(), uy.ravel()


def rms(deviation: FloatArray) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(np.square(deviation))))
