"""Exposures of artificial stars whose truth is known: a mask of pinholes, a sensor that answers, raw files."""

from permil.simulate.spots.exposing import SpotBench, SpotExposure, draw_exposure
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
