"""Weather of the light path: smooth patterns in the light that come and go with a correlation time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from permil.camera import Detector, frames

FloatArray = NDArray[np.float64]

WEATHER_TERMS = ("x", "y", "xx", "xy", "yy")
"""Patterns: Legendre polynomials of ``u`` over the half side of a window, each with the rms 1 over that square window."""


def weather_series(rng: np.random.Generator, seconds: FloatArray, *, rms: float, correlation_s: float) -> FloatArray:
    """Return the coefficient of each pattern in each exposure, shape (n, 5).

    Each is a stationary Ornstein-Uhlenbeck process, ``<c(s) c(t)> = rms^2 / 5 exp(-|s - t| / correlation_s)``; so the light's rms
    over window and time is ``rms``.

    Parameters
    ----------
    rng
        Of the campaign.
    seconds : ndarray, shape (n,)
        Times of the exposures, ascending.
    rms
        Relative.
    correlation_s
        Correlation time, s.
    """
    normals = rng.standard_normal((seconds.size, len(WEATHER_TERMS)))
    kept = np.exp(-np.diff(seconds) / correlation_s)
    series = np.empty_like(normals)
    series[0] = normals[0]
    for number, part in enumerate(kept, start=1):
        series[number] = part * series[number - 1] + np.sqrt(1.0 - part**2) * normals[number]
    return series * (rms / len(WEATHER_TERMS) ** 0.5)


def weather_on_detector(
    coefficients: tuple[float, ...], detector: Detector, centre: tuple[float, float], *, half_window: float
) -> NDArray[np.float32]:
    """Return the factor of the light in each pixel of a detector, shape (ny, nx).

    Parameters
    ----------
    coefficients
        Of the patterns `WEATHER_TERMS`.
    centre
        CCS place (mm) of the beam's centre.
    half_window
        Half side of the window, mm.
    """
    x, y = _relative_places(detector, centre)
    x, y = x / np.float32(half_window), y / np.float32(half_window)
    of_x, of_y, of_xx, of_xy, of_yy = (np.float32(coefficient) for coefficient in coefficients)
    root3, half_root5 = np.float32(3.0**0.5), np.float32(5.0**0.5 / 2)
    along_x = of_x * root3 * x + of_xx * half_root5 * (3 * x * x - 1)
    along_y = of_y * root3 * y + of_yy * half_root5 * (3 * y * y - 1)
    factor: NDArray[np.float32] = (3 * of_xy * x) * y
    factor += 1 + along_x
    factor += along_y
    return factor


def _relative_places(detector: Detector, centre: tuple[float, float]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return ``u`` (mm) of the pixels as two arrays that broadcast to (ny, nx); along a camera's axes they are one-dimensional."""
    origin, matrix = frames.ccs_affine(detector)
    columns, rows = np.arange(detector.nx)[None, :], np.arange(detector.ny)[:, None]
    x, y = (
        origin[axis]
        - centre[axis]
        + (matrix[axis, 0] * columns if matrix[axis, 0] else 0.0)
        + (matrix[axis, 1] * rows if matrix[axis, 1] else 0.0)
        for axis in (0, 1)
    )
    return x.astype(np.float32), y.astype(np.float32)
