"""Light of the LEDs and the control photodiode that watches it."""

from __future__ import annotations

import numpy as np

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


def photodiode_reading(
    rng: np.random.Generator, relative_light: float, *, nominal: float, phase: float, noise: float, drift: float
) -> float:
    """Return a reading of the photodiode, which follows the light with its own noise and drift.

    ``nominal * light * (1 + drift (phase - 1/2)) * (1 + noise z)``
    """
    return float(nominal * relative_light * (1.0 + drift * (phase - 0.5)) * (1.0 + noise * rng.standard_normal()))
