"""Light of the LEDs and the control photodiode that watches it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

PHOTODIODE = {"uv": 0.4613, "blue": 0.3861, "red": 0.3319, "nm750": 0.3190, "nm850": 0.3138, "nm960": 0.5109}
"""Control photodiode (CCOBADC) of each LED at its production setting, run 13259."""

_DRIFT_PERIODS = 1.5


def light(rng: np.random.Generator, start: float, *, phase: float, instability: float, drift: float) -> float:
    """Return the light of one exposure relative to nominal.

    Parameters
    ----------
    rng
        Of the exposure.
    start
        Phase of the slow change at the start of the campaign, radians; differs between LEDs.
    phase
        Place in the campaign, 0 to 1.
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
        Of the campaign. What it draws does not depend on the sizes.
    phases : ndarray, shape (n,)
        Places of the exposures in the campaign, from 0 to 1, ascending.
    stepped : ndarray, shape (n,)
        Exposures after the step.
    drift, walk, step
        Relative rms over seeds of the linear change from begin to end, of the walk at the end, and of the step.
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
        Of the exposure.
    light
        Light of the exposure relative to nominal, times the photodiode's response.
    nominal
        Reading at nominal light and response.
    noise
        Relative rms.
    """
    return float(nominal * light * (1.0 + noise * rng.standard_normal()))
