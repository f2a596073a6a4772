"""How gains change in the course of a campaign: temperatures of readout boards, and steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from permil.camera import Detector
from permil.config.simulate import SimulateGainSteps
from permil.errors import ConfigError
from permil.simulate.randoms import generator

FloatArray = NDArray[np.float64]
Board = tuple[str, str]


def board_of(detector: Detector) -> Board:
    """Return the readout board of a detector: raft and name of the board."""
    return detector.raft, detector.reb


def board_temperature(seed: int, board: Board, seconds: float, *, amplitude: float, period_s: float) -> float:
    """Return the temperature of a readout board above its reference, deg C.

    ``amplitude * sin(2 pi seconds / period_s + phase)``; each board has a phase of its own.

    Parameters
    ----------
    seconds
        Since the first exposure.
    """
    phase = generator(seed, "board phase", *board).uniform(0, 2 * np.pi)
    return float(amplitude * np.sin(2 * np.pi * seconds / period_s + phase))


def board_coefficient(seed: int, board: Board, *, mean: float, rms: float) -> float:
    """Return the relative change of the counts of a readout board per deg C."""
    return float(mean + rms * generator(seed, "board coefficient", *board).standard_normal())


def board_drift(seed: int, board: Board, phase: float, *, rms: float) -> float:
    """Return the relative change of the counts of a readout board, linear in the phase of the campaign and 0 in its middle."""
    return float(rms * generator(seed, "board drift", *board).standard_normal() * (phase - 0.5))


def gain_steps(seed: int, detectors: Sequence[Detector], settings: SimulateGainSteps) -> dict[str, FloatArray]:
    """Return the relative step of the gain of each amplifier, 0 for most, by the name of the detector.

    Which amplifiers or boards step, and up or down, comes from the seed; the size is the same for all.

    Raises
    ------
    ConfigError
        If more amplifiers or boards should step than are read.
    """
    steps = {detector.name: np.zeros(len(detector.amplifiers)) for detector in detectors}
    by_board = settings.unit == "board"
    places: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for detector in detectors:
        for number, amplifier in enumerate(detector.amplifiers):
            unit = board_of(detector) if by_board else (detector.name, amplifier.name)
            places.setdefault(unit, []).append((detector.name, number))
    if settings.count > len(places):
        raise ConfigError(
            f"simulate.gain_steps.count is {settings.count}, but the campaign reads {len(places)} {settings.unit}s",
            remedy=f"set it to {len(places)} or less",
            value=settings.count,
        )
    draws = {unit: generator(seed, "gain step", *unit).uniform(-1, 1) for unit in places}
    for unit in sorted(places, key=lambda unit: abs(draws[unit]))[: settings.count]:
        for name, number in places[unit]:
            steps[name][number] = np.copysign(settings.size, draws[unit])
    return steps
