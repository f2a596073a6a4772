"""Exposures of the spot projector on one sensor, as charge."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from permil._kernels import simulate as kernels
from permil.camera import Detector, frames, load_camera
from permil.config.simulate_spots import SimulateSpotsConfig
from permil.simulate.randoms import generator, normal_state
from permil.simulate.spots.mask import SpotMask, glow, spot_mask
from permil.simulate.spots.photons import gather_photons
from permil.simulate.spots.profile import SpotLight, add_spots
from permil.simulate.spots.sensor import SensorMaps, sensor_maps
from permil.simulate.targets import Position

FloatArray = NDArray[np.float64]

# Plastic number: the additive recurrence with its powers fills a square evenly however many points there are (M. Roberts 2018).
_PLASTIC = 1.32471795724474602596


@dataclass(frozen=True)
class SpotExposure:
    """The truth of one exposure.

    Attributes
    ----------
    number
        Place in the campaign.
    commanded, projector
        Commanded and true position of the projector, CCS mm.
    centre
        Image of the mask's centre, detector pixels (x, y).
    lamp
        Brightness relative to the nominal one.
    """

    number: int
    commanded: Position
    projector: Position
    centre: tuple[float, float]
    lamp: float


class SpotBench:
    """The spot projector and one sensor: everything that is true of a campaign.

    Parameters
    ----------
    config
        Section ``simulate_spots``.

    Raises
    ------
    CameraError
        If there is no such camera or detector.
    """

    def __init__(self, config: SimulateSpotsConfig) -> None:
        self.config = config
        self.camera = load_camera(config.camera)
        self.detector: Detector = self.camera[config.detector]
        self.mask: SpotMask = spot_mask(config)

    @cached_property
    def maps(self) -> SensorMaps:
        """How the sensor answers."""
        return sensor_maps(self.config, self.detector)

    def exposures(self) -> list[SpotExposure]:
        """Return the truth of all exposures of the campaign."""
        return [self._exposure(number) for number in range(self.config.campaign.exposures)]

    def _exposure(self, number: int) -> SpotExposure:
        campaign, effects, lamp = self.config.campaign, self.config.effects, self.config.lamp
        rng = generator(self.config.seed, "spots", "exposure", number)
        jitter = campaign.jitter_um * 1e-3 * rng.standard_normal(2) if effects.jitter else np.zeros(2)
        scatter = lamp.scatter * float(rng.standard_normal()) if effects.lamp_scatter else 0.0
        phase = number / max(campaign.exposures - 1, 1) - 0.5
        commanded = self._commanded(number)
        projector = commanded[0] + float(jitter[0]), commanded[1] + float(jitter[1])
        x, y = frames.ccs_to_detector(self.detector, *projector)
        brightness = (1.0 + scatter) * (1.0 + (lamp.drift * phase if effects.lamp_drift else 0.0))
        return SpotExposure(number, commanded, projector, (float(x), float(y)), brightness)

    def _commanded(self, number: int) -> Position:
        """Return the commanded position, CCS mm to the micrometre: the detector's centre, or a dither around it."""
        campaign, detector = self.config.campaign, self.detector
        side = campaign.window_pitches * self.config.mask.pitch_px if campaign.mode == "dithered" else 0.0
        steps = (number * np.array([1 / _PLASTIC, 1 / _PLASTIC**2]) + 0.5) % 1.0 - 0.5
        pixel = np.array(detector.centre_pixel) + side * steps
        x, y = frames.detector_to_ccs(detector, *pixel)
        return round(float(x), 3), round(float(y), 3)

    def light(self, exposure: SpotExposure) -> FloatArray:
        """Return the light in each pixel, electrons at efficiency 1, shape (ny, nx)."""
        light = exposure.lamp * glow(self.config, self.detector.shape, exposure.centre)
        add_spots(light, self.spot_light(exposure), self.mask.profile)
        return light

    def spot_light(self, exposure: SpotExposure) -> SpotLight:
        """Return place, light and core of every spot in an exposure."""
        return self.mask.light(exposure.centre, exposure.lamp)

    def mean_charge(self, exposure: SpotExposure) -> FloatArray:
        """Return the mean charge in each pixel, electrons, shape (ny, nx); brighter-fatter has none, as it follows the charge."""
        return self.maps.respond(self.light(exposure))

    def charge(self, exposure: SpotExposure) -> NDArray[np.float32]:
        """Return charge with photon noise, electrons, shape (ny, nx).

        Photon noise is normal of variance equal to the mean, as in the simulation of flats.
        """
        state = normal_state(self.config.seed, "spots", "photons", exposure.number)
        if not self.config.effects.brighter_fatter:
            return _with_photon_noise(self.mean_charge(exposure), state)
        rng = generator(self.config.seed, "spots", "photon places", exposure.number)
        lit = self.maps.respond(exposure.lamp * glow(self.config, self.detector.shape, exposure.centre))
        charge = _with_photon_noise(lit, state)
        gather_photons(charge, self.spot_light(exposure), self.mask.profile, self.maps, rng, vendor=self.detector.vendor)
        return charge


def draw_exposure(bench: SpotBench, exposure: SpotExposure) -> NDArray[np.float32]:
    """Return an exposure as a perfectly reduced image: charge with photon and read noise, electrons, shape (ny, nx)."""
    image = bench.charge(exposure)
    if bench.config.effects.read_noise:
        rng = generator(bench.config.seed, "spots", "read noise", exposure.number)
        for amplifier in bench.detector.amplifiers:
            region = image[amplifier.slices]
            region += np.float32(amplifier.read_noise) * rng.standard_normal(region.shape, dtype=np.float32)
    return image


def _with_photon_noise(mean: FloatArray, state: NDArray[np.uint64]) -> NDArray[np.float32]:
    charge = np.empty(mean.shape, dtype=np.float32)
    kernels.add_photon_noise(mean, state, charge)
    return charge
