"""The projector: its stage, the light of its LEDs, the true beam, the control photodiode, and the weather of the light path."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from permil._kernels import simulate as kernels
from permil.arrays import BoolArray, Float32Array, FloatArray
from permil.camera import Detector, frames
from permil.simulate.campaign import Position


@dataclass(frozen=True)
class ProjectorStage:
    """The stage that carries the projector.

    Attributes
    ----------
    jitter
        Rms per axis of the true position about the commanded one, mm.
    readback
        Noise of the recorded position, mm.
    recorded
        Whether the measured position is recorded, or the commanded one.
    offset
        Beam centre minus commanded position, CCS mm.
    rotation
        Angle of the stage's axes to the camera's, radians, counter-clockwise from X to Y.
    added
        Offset that the stage adds to the commanded position (XOFFSET and YOFFSET), mm. It corrects most of the shift between lamp and
        beam; ``offset`` is the rest.
    """

    jitter: float = 0.0
    readback: float = 0.0
    recorded: bool = True
    offset: Position = (0.0, 0.0)
    rotation: float = 0.0
    added: Position = (0.0, 0.0)

    def lamp(self, commanded: Position, rng: np.random.Generator) -> Position:
        """Return the true position of the lamp, in the stage's axes; ``rng`` is that of the point."""
        x, y = rng.normal(0.0, self.jitter, 2)
        return commanded[0] + self.added[0] + float(x), commanded[1] + self.added[1] + float(y)

    def record(self, commanded: Position, lamp: Position, rng: np.random.Generator) -> Position:
        """Return the position that the header records; ``rng`` is that of the exposure."""
        if not self.recorded:
            return commanded[0] + self.added[0], commanded[1] + self.added[1]
        x, y = rng.normal(0.0, self.readback, 2)
        return lamp[0] + float(x), lamp[1] + float(y)

    def beam_centre(self, lamp: Position) -> Position:
        """Return the CCS position of the beam's centre: the lamp in the camera's axes plus the shift between lamp and beam."""
        x, y = lamp[0] - self.added[0], lamp[1] - self.added[1]
        cosine, sine = math.cos(self.rotation), math.sin(self.rotation)
        return cosine * x - sine * y + self.offset[0], sine * x + cosine * y + self.offset[1]


PHOTODIODE = {"uv": 0.4613, "blue": 0.3861, "red": 0.3319, "nm750": 0.3190, "nm850": 0.3138, "nm960": 0.5109}
"""Control photodiode (CCOBADC) of each LED at its production setting, run 13259."""

_DRIFT_PERIODS = 1.5


def light(rng: np.random.Generator, start: float, *, phase: float, instability: float, drift: float) -> float:
    """Return the light of one exposure relative to nominal.

    Parameters
    ----------
    rng
        Generator of the exposure.
    start
        Phase of the slow change at the start of the campaign, radians; differs between LEDs.
    phase
        Phase of the campaign, 0 to 1.
    instability, drift
        Relative rms of the scatter between exposures; relative amplitude of the slow change.
    """
    return float((1.0 + instability * rng.standard_normal()) * (1.0 + drift * np.sin(start + 2 * np.pi * _DRIFT_PERIODS * phase)))


def photodiode_response(
    rng: np.random.Generator, phases: FloatArray, stepped: BoolArray, *, drift: float, walk: float, step: float
) -> FloatArray:
    """Return the response of the photodiode in each exposure of a campaign, relative to nominal, shape (n,).

    ``(1 + d (phase - 1/2)) (1 + w) (1 + j stepped)`` with normal ``d`` and ``j`` and a random walk ``w`` that begins at 0.

    Parameters
    ----------
    rng
        Generator of the campaign; its draws do not depend on the sizes.
    phases : ndarray, shape (n,)
        Phases of the exposures in the campaign, from 0 to 1, ascending.
    stepped : ndarray, shape (n,)
        Exposures after the step.
    drift, walk, step
        Relative rms over seeds of the linear change from start to end, of the walk at the end, and of the step.
    """
    slope, jump = drift * rng.standard_normal(), step * rng.standard_normal()
    increments = walk * np.sqrt(np.diff(phases)) * rng.standard_normal(phases.size - 1)
    walked = np.concatenate([[0.0], np.cumsum(increments)])
    return (1.0 + slope * (phases - 0.5)) * (1.0 + walked) * np.where(stepped, 1.0 + jump, 1.0)


def photodiode_reading(rng: np.random.Generator, light: float, *, nominal: float, noise: float) -> float:
    """Return a reading of the photodiode: ``nominal * light * (1 + noise z)``.

    Parameters
    ----------
    rng
        Generator of the exposure.
    light
        Light of the exposure relative to nominal, times the photodiode's response.
    nominal
        Reading at nominal light and response.
    noise
        Relative rms.
    """
    return float(nominal * light * (1.0 + noise * rng.standard_normal()))


WEATHER_TERMS = ("x", "y", "xx", "xy", "yy")
"""Patterns: Legendre polynomials of ``u`` over the half side of a window, each with the rms 1 over that square window."""


def weather_series(rng: np.random.Generator, seconds: FloatArray, *, rms: float, correlation_s: float) -> FloatArray:
    """Return the coefficient of each pattern in each exposure, shape (n, 5).

    Each is a stationary Ornstein-Uhlenbeck process, ``<c(s) c(t)> = rms^2 / 5 exp(-|s - t| / correlation_s)``; so the light's rms
    over window and time is ``rms``.

    Parameters
    ----------
    rng
        Generator of the campaign.
    seconds : ndarray, shape (n,)
        Times of the exposures, ascending.
    rms
        Relative rms.
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
) -> Float32Array:
    """Return the factor of the light in each pixel of a detector, shape (ny, nx).

    Parameters
    ----------
    coefficients
        Coefficients of the patterns `WEATHER_TERMS`.
    centre
        CCS position (mm) of the beam's centre.
    half_window
        Half side of the window, mm.
    """
    x, y = _relative_places(detector, centre)
    x, y = x / np.float32(half_window), y / np.float32(half_window)
    of_x, of_y, of_xx, of_xy, of_yy = (np.float32(coefficient) for coefficient in coefficients)
    root3, half_root5 = np.float32(3.0**0.5), np.float32(5.0**0.5 / 2)
    along_x = of_x * root3 * x + of_xx * half_root5 * (3 * x * x - 1)
    along_y = of_y * root3 * y + of_yy * half_root5 * (3 * y * y - 1)
    factor: Float32Array = (3 * of_xy * x) * y
    factor += 1 + along_x
    factor += along_y
    return factor


def _relative_places(detector: Detector, centre: tuple[float, float]) -> tuple[Float32Array, Float32Array]:
    """Return ``u`` (mm) of the pixels as two arrays that broadcast to (ny, nx); one-dimensional if the axes are parallel."""
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

    def on_detector(self, detector: Detector, centre: tuple[float, float]) -> Float32Array:
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
