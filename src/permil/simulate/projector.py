"""The projector: its stage, the light of its LEDs, the control photodiode, and the weather of the light path."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.camera import Detector, frames
from permil.simulate.campaign import Position

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Stage:
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
    rng: np.random.Generator, phases: FloatArray, stepped: NDArray[np.bool_], *, drift: float, walk: float, step: float
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
) -> NDArray[np.float32]:
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
    factor: NDArray[np.float32] = (3 * of_xy * x) * y
    factor += 1 + along_x
    factor += along_y
    return factor


def _relative_places(detector: Detector, centre: tuple[float, float]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
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
