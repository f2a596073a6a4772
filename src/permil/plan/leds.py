"""Currents and exposure times of LEDs."""

from __future__ import annotations

from permil.config.plan import PlanConfig, PlanLed
from permil.errors import ConfigError
from permil.plan.acquisition import LedExposure

USUAL = {
    "nm960": (0.01, 0.32),
    "nm850": (0.01, 0.09),
    "nm750": (0.01, 0.13),
    "red": (0.009, 0.07),
    "blue": (0.006, 0.08),
    "uv": (0.1, 0.03),
}
"""Current (A) and exposure time (s) of each LED in the campaigns of the test stand, in the order of their files."""


def led_exposures(plan: PlanConfig) -> list[LedExposure]:
    """Return the LEDs of a plan in the order of acquisition; exposure times are scaled to ``plan.electrons`` where the signal is known.

    Raises
    ------
    ConfigError
        If an LED has no usual current or exposure time and none is given, or ``plan.led`` is not among them.
    """
    listed = plan.files.leds or [PlanLed(led=name) for name in USUAL]
    if plan.led:
        listed = [entry for entry in listed if entry.led == plan.led] or [PlanLed(led=plan.led)]
    return [_exposure(entry, plan.electrons) for entry in listed]


def _exposure(entry: PlanLed, electrons: float) -> LedExposure:
    current, seconds = USUAL.get(entry.led, (None, None))
    current, seconds = entry.current_a or current, entry.exposure_s or seconds
    if current is None or seconds is None:
        raise ConfigError(
            f"current and exposure time of the LED {entry.led!r} are not known",
            remedy=f"give current_a and exposure_s in plan.files.leds; known LEDs are {', '.join(USUAL)}",
            value=entry.led,
        )
    if entry.electrons is not None:
        # Charge grows with the time.
        seconds *= electrons / entry.electrons
    return LedExposure(entry.led, current, float(f"{seconds:.3g}"))


def unknown_signals(plan: PlanConfig) -> list[str]:
    """Return the LEDs whose exposure time is used as it is, since the signal that it gives is not known."""
    known = {entry.led for entry in plan.files.leds if entry.electrons is not None}
    return [each.led for each in led_exposures(plan) if each.led not in known]
