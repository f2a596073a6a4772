"""The bench with the sensor and the amplifiers of a spot campaign: its flats, and the readout of spot exposures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from permil.arrays import FloatImage, IntegerImage
from permil.camera import Camera, Detector, frames, load_camera
from permil.config.simulate import (
    SimulateCampaign,
    SimulateConfig,
    SimulateEffects,
    SimulateLamp,
    SimulateSensor,
    SimulateSpotsConfig,
)
from permil.simulate.bench import Bench, BenchRecipe, bench_of
from permil.simulate.campaign import PlannedExposure
from permil.simulate.electronics import cosmic_rays, digitise
from permil.simulate.randoms import generator, normal_state
from permil.simulate.sensor import SensorTruth
from permil.simulate.spots.sensor import sensor_maps

_LIGHT_EFFECTS = ("offset", "photodiode_noise", "ring", "rotation", "structure")
"""Effects of the projector of flats that the spot projector does not have."""


class MappedSensors(SensorTruth):
    """Sensors whose flat is the response of their maps of efficiency, displacement and diffusion to uniform light, in every LED."""

    def __init__(self, config: SimulateConfig, camera: Camera, spots: SimulateSpotsConfig) -> None:
        super().__init__(config, camera)
        self._spots = spots

    def response(self, detector: Detector, led: str) -> FloatImage:  # noqa: ARG002 - the maps are those of the band
        """Return the flat of a detector, shape (ny, nx)."""
        return sensor_maps(self._spots, detector).flat().astype(np.float32)


@dataclass(frozen=True)
class SpotBenchRecipe(BenchRecipe):
    """The inputs of the bench of a spot campaign."""

    spots: SimulateSpotsConfig

    def build(self) -> Bench:
        """Return the bench."""
        return Bench(self.config, sensors=MappedSensors(self.config, load_camera(self.config.camera), self.spots))


def bench_recipe(spots: SimulateSpotsConfig) -> SpotBenchRecipe:
    """Return the recipe of the bench with the sensor, the amplifiers and the flats of a spot campaign."""
    switches = spots.effects.model_dump()
    switches |= dict.fromkeys(_LIGHT_EFFECTS, True)
    switches |= {"led_instability": spots.effects.lamp_scatter, "led_drift": spots.effects.lamp_drift}
    # The flats use the biases of the spots, unless the scan reads another detector.
    scanned = load_camera(spots.camera).reference.detector
    config = SimulateConfig(
        preset="raft",
        camera=spots.camera,
        rafts=(spots.detector[:3],),
        detectors=(spots.detector,),
        leds=(spots.flats.led,),
        seed=spots.seed,
        effects=SimulateEffects(**{name: switches.get(name, False) for name in SimulateEffects.model_fields}),
        electronics=spots.electronics,
        sensor=SimulateSensor(dark_current=spots.sensor.dark_current),
        lamp=SimulateLamp(electrons=spots.flats.electrons),
        campaign=SimulateCampaign(
            scan_size=spots.flats.scan_size,
            scan_width_mm=spots.flats.scan_width_mm,
            images=max(spots.flats.images, 1),
            biases=0 if scanned == spots.detector else spots.campaign.biases,
            compression="rice" if spots.campaign.compressed else "none",
        ),
    )
    return SpotBenchRecipe(config, spots)


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

    def raw_segments(self, charge: FloatImage, exposure: PlannedExposure, seconds: float) -> IntegerImage:
        """Return the raw segments, shape (n, ny_raw, nx_raw), for charge in electrons, collected in some seconds."""
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
        drifts = (settings.offset_drift_adu, settings.row_drift_adu) if config.effects.offset_drift else (0.0, 0.0)
        return digitise(counts, amplifiers, amplifiers.gain, self._detector.amplifiers[0].prescan, drifts, rng, state)

    def _dark_charge(self, rng: np.random.Generator, seconds: float) -> FloatImage:
        """Return electrons without light."""
        config, detector = self._config, self._detector
        dark = np.zeros(detector.shape, dtype=np.float32)
        if config.effects.dark_current:
            dark += rng.poisson(config.sensor.dark_current * seconds, detector.shape).astype(np.float32)
        if config.effects.cosmic_rays:
            for row, column, electrons in cosmic_rays(detector, rng, rate=config.electronics.cosmic_ray_rate, seconds=seconds):
                dark[row, column] += electrons
        return dark


def _counts(electrons: FloatImage, gain: float, full_well: float, curvature: float) -> FloatImage:
    """Return counts above bias: charge up to the full well, over the gain, with ``linear = counts (1 + curvature counts)``."""
    linear = np.minimum(electrons, full_well) / gain
    return (2.0 * linear / (1.0 + np.sqrt(np.maximum(1.0 + 4.0 * curvature * linear, 0.0)))).astype(np.float32)
