"""From charge to raw segments, through the electronics of the bench."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from permil.camera import Detector, frames
from permil.config.simulate_spots import SimulateSpotsConfig
from permil.simulate.bench import bench_of
from permil.simulate.campaign import PlannedExposure
from permil.simulate.electronics import cosmic_rays, level_drift, read_out
from permil.simulate.randoms import generator, normal_state
from permil.simulate.spots.flats import bench_recipe


class SpotReadout:
    """Reads out one sensor.

    Parameters
    ----------
    config
        Section ``simulate_spots``.
    detector
        The sensor.
    """

    def __init__(self, config: SimulateSpotsConfig, detector: Detector) -> None:
        self._config = config
        self._detector = detector
        self._electronics = bench_of(bench_recipe(config)).electronics(detector)

    def raw_segments(self, charge: NDArray[np.float32], exposure: PlannedExposure, seconds: float) -> NDArray[np.int32]:
        """Return the raw segments, shape (n, ny_raw, nx_raw), for charge in electrons, gathered over some seconds."""
        config, amplifiers = self._config, self._electronics
        names = ("spots", self._detector.name, exposure.kind, exposure.image)
        rng, state = generator(config.seed, "readout", *names), normal_state(config.seed, "readout noise", *names)
        electrons = charge + self._dark_charge(rng, seconds)
        counts = np.stack(
            [
                _counts(frames.take_segment(amplifier, electrons), gain, well, curvature)
                for amplifier, gain, well, curvature in zip(
                    self._detector.amplifiers, amplifiers.gain, amplifiers.full_well, amplifiers.curvature, strict=True
                )
            ]
        )
        settings = config.electronics
        drift = level_drift(
            rng,
            amplifiers.bias.shape[:2],
            exposure=settings.offset_drift_adu if config.effects.offset_drift else 0.0,
            row=settings.row_drift_adu if config.effects.offset_drift else 0.0,
        )
        raw: NDArray[np.int32] = np.empty(amplifiers.bias.shape, dtype=np.int32)
        noise = amplifiers.read_noise / amplifiers.gain
        prescan = self._detector.amplifiers[0].prescan
        read_out(counts, amplifiers, drift, noise, prescan, state, raw)
        return raw

    def _dark_charge(self, rng: np.random.Generator, seconds: float) -> NDArray[np.float32]:
        """Return electrons that come without light."""
        config, detector = self._config, self._detector
        dark = np.zeros(detector.shape, dtype=np.float32)
        if config.effects.dark_current:
            dark += rng.poisson(config.sensor.dark_current * seconds, detector.shape).astype(np.float32)
        if config.effects.cosmic_rays:
            for row, column, electrons in cosmic_rays(detector, rng, rate=config.electronics.cosmic_ray_rate, seconds=seconds):
                dark[row, column] += electrons
        return dark


def _counts(electrons: NDArray[np.float32], gain: float, full_well: float, curvature: float) -> NDArray[np.float32]:
    """Return counts above bias: clipped at the full well, over the gain, bent by ``linear = counts (1 + curvature counts)``."""
    linear = np.minimum(electrons, full_well) / gain
    return (2.0 * linear / (1.0 + np.sqrt(np.maximum(1.0 + 4.0 * curvature * linear, 0.0)))).astype(np.float32)
