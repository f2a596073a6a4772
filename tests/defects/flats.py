"""Flats of simulated sensors as arrays, with noise, without raw files."""

from __future__ import annotations

from typing import Any

import numpy as np

from permil.camera import Detector
from permil.config.simulate import SimulateConfig
from permil.defects import LedResponse
from permil.products import MaskPlane
from permil.simulate import Bench

CLEAN = {"bad_columns": 0, "hot_pixels": 0}


def bench_of(seed: int, *, camera: str = "lsstcam-bin8", leds: tuple[str, ...] = ("red", "nm960"), **sensor: Any) -> Bench:
    preset = "mini" if camera == "lsstcam-bin8" else "raft"
    return Bench(SimulateConfig(preset=preset, camera=camera, seed=seed, leds=leds, sensor=CLEAN | sensor))


def noisy_flats(bench: Bench, detector: Detector, *, electrons: float = 1e6, seed: int = 0) -> list[LedResponse]:
    """Return flats from a number of electrons per pixel; the zone along the edges is not searched."""
    rng = np.random.default_rng((seed, bench.config.seed))
    edge = (bench.sensors.mask(detector) & MaskPlane.EDGE) != 0
    flats = []
    for led in bench.config.leds:
        truth = bench.sensors.response(detector, led)
        variance = np.maximum(truth, np.float32(1e-4)) / np.float32(electrons)
        response = truth + np.sqrt(variance) * rng.standard_normal(truth.shape, dtype=np.float32)
        response[edge] = np.nan
        flats.append(LedResponse(led, response, variance))
    return flats
