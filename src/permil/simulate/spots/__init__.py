"""Exposures of artificial stars with known truth: a mask of pinholes, the response of the sensor, raw files."""

from permil.simulate.spots.bench import SpotBench, SpotExposure, draw_exposure
from permil.simulate.spots.sensor import SensorMaps, sensor_mixture
from permil.simulate.spots.stage import SpotSimulationSummary, simulate_spots

__all__ = [
    "SensorMaps",
    "SpotBench",
    "SpotExposure",
    "SpotSimulationSummary",
    "draw_exposure",
    "sensor_mixture",
    "simulate_spots",
]
