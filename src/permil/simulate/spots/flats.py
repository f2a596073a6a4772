"""Flats of the sensor that the spots fall on: the bench, with the answer of the sensor's maps and the amplifiers of the spots."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permil.camera import Camera, Detector, load_camera
from permil.config.simulate import (
    SimulateCampaign,
    SimulateConfig,
    SimulateEffects,
    SimulateLamp,
    SimulateSensor,
)
from permil.config.simulate_spots import SimulateSpotsConfig
from permil.simulate.bench import Bench, BenchRecipe
from permil.simulate.sensor_truth import SensorTruth
from permil.simulate.spots.sensor import sensor_maps

_LIGHT_EFFECTS = ("offset", "photodiode_noise", "ring", "rotation", "structure")
"""What the projector of flats does and that of spots does not."""


class MappedSensors(SensorTruth):
    """Sensors whose flat is what their maps of efficiency, displacement and diffusion make of uniform light, in every LED."""

    def __init__(self, config: SimulateConfig, camera: Camera, spots: SimulateSpotsConfig) -> None:
        super().__init__(config, camera)
        self._spots = spots

    def response(self, detector: Detector, led: str) -> NDArray[np.float32]:  # noqa: ARG002 - the maps are those of the band
        """Return the flat of a detector, shape (ny, nx)."""
        return sensor_maps(self._spots, detector).flat().astype(np.float32)


@dataclass(frozen=True)
class SpotBenchRecipe(BenchRecipe):
    """From what the bench of a spot campaign is built."""

    spots: SimulateSpotsConfig

    def build(self) -> Bench:
        """Return the bench."""
        return Bench(self.config, sensors=MappedSensors(self.config, load_camera(self.config.camera), self.spots))


def bench_recipe(spots: SimulateSpotsConfig) -> SpotBenchRecipe:
    """Return the recipe of the bench that has the sensor and the amplifiers of a spot campaign, and its flats to expose."""
    switches = spots.effects.model_dump()
    switches |= dict.fromkeys(_LIGHT_EFFECTS, True)
    switches |= {"led_instability": spots.effects.lamp_scatter, "led_drift": spots.effects.lamp_drift}
    # The biases of the spots serve the flats as well, unless the scan reads another detector.
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
