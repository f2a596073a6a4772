"""Exposures of the spot projector on one sensor, as charge.

With brighter-fatter the photons of the spots are drawn one by one. Each is absorbed at a position drawn from the spot's light, converted
to an electron with the local efficiency, moved by the local displacement and diffusion, and collected by galsim's silicon sensor (Rowe
et al. 2015, Astronomy and Computing 10, 121), in which the charge already present deflects it. Without the silicon sensor this is an
independent check of the maps' action on mean charge.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from permil._kernels import simulate as kernels
from permil.camera import Detector, frames, load_camera
from permil.config.simulate import SimulateSpotsConfig
from permil.errors import ConfigError
from permil.simulate.campaign import Position
from permil.simulate.randoms import generator, normal_state
from permil.simulate.spots.mask import SpotLight, SpotMask, SpotProfile, add_spots, glow, spot_mask
from permil.simulate.spots.sensor import SensorMaps, sensor_maps

FloatArray = NDArray[np.float64]

# Plastic number: the additive recurrence with its powers fills a square evenly for any number of points (M. Roberts 2018).
_PLASTIC = 1.32471795724474602596


@dataclass(frozen=True)
class SpotExposure:
    """The truth of one exposure.

    Attributes
    ----------
    number
        Index in the campaign.
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
    """The truth of a spot campaign: projector, sensor and exposures.

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
        """Response of the sensor."""
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
        """Return position, light and core of every spot in an exposure."""
        return self.mask.light(exposure.centre, exposure.lamp)

    def mean_charge(self, exposure: SpotExposure) -> FloatArray:
        """Return the mean charge in each pixel without brighter-fatter, electrons, shape (ny, nx)."""
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


_SENSORS = {"E2V": "lsst_e2v_50_8", "ITL": "lsst_itl_50_8"}
_MARGIN = 8


def shoot_photons(
    spots: SpotLight, spot: int, profile: SpotProfile, maps: SensorMaps, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Return the final positions of the electrons of one spot, pixels, shape (n,) each; n is a Poisson number."""
    # Thinning by the efficiency relative to its maximum on the sensor keeps the process Poisson.
    ceiling = float(maps.efficiency.max())
    count = rng.poisson(spots.flux[spot] * ceiling)
    component = rng.choice(len(profile.fractions) + 1, count, p=[profile.core_fraction, *profile.fractions])
    u, v = rng.standard_normal((2, count))
    # Random steps need a positive variance everywhere: the same amount of diffusion is removed from the profile.
    least = min(float(maps.diffusion.min()), 0.0)
    root = np.sqrt(spots.xx[spot] + least)
    slope = spots.xy[spot] / root
    core = component == 0
    sigma = np.sqrt(np.array([1.0, *profile.sigmas]) ** 2 + least)[component]
    # Cholesky factor of the core's covariance; round components are only scaled.
    x = spots.x[spot] + np.where(core, root, sigma) * u
    y = spots.y[spot] + np.where(core, slope * u + np.sqrt(spots.yy[spot] + least - slope**2) * v, sigma * v)
    ny, nx = maps.efficiency.shape
    column, row = np.rint(x).astype(np.int64), np.rint(y).astype(np.int64)
    inside = (column >= 0) & (column < nx) & (row >= 0) & (row < ny)
    x, y, row, column = x[inside], y[inside], row[inside], column[inside]
    detected = ceiling * rng.random(x.size) < maps.efficiency[row, column]
    x, y, row, column = x[detected], y[detected], row[detected], column[detected]
    # The displacement is defined on borders: column border b is at b - 0.5. Diffusion is defined at pixel centres.
    moved_x = x + ndimage.map_coordinates(maps.shift_x, np.stack([y, x + 0.5]), order=1, mode="nearest")
    moved_y = y + ndimage.map_coordinates(maps.shift_y, np.stack([y + 0.5, x]), order=1, mode="nearest")
    spread = np.sqrt(ndimage.map_coordinates(maps.diffusion, np.stack([y, x]), order=1, mode="nearest") - least)
    return moved_x + spread * rng.standard_normal(x.size), moved_y + spread * rng.standard_normal(x.size)


def gather_photons(
    charge: NDArray[np.float32],
    spots: SpotLight,
    profile: SpotProfile,
    maps: SensorMaps,
    rng: np.random.Generator,
    *,
    vendor: str,
) -> None:
    """Add all spots to an image of charge, in place, through galsim's silicon sensor of the vendor.

    Raises
    ------
    ConfigError
        If galsim is not installed.
    """
    try:
        import galsim
    except ImportError as error:
        raise ConfigError(
            "brighter-fatter needs galsim", remedy="pip install permil[spots], or set effects.brighter_fatter to false"
        ) from error
    deviate = galsim.BaseDeviate(int(rng.integers(1, 2**31)))
    # The maps contain the diffusion. Photons without wavelength are absorbed near the surface.
    sensor = galsim.SiliconSensor(name=_SENSORS.get(vendor, "lsst_e2v_50_8"), rng=deviate, diffusion_factor=0.0)
    ny, nx = charge.shape
    for spot in range(spots.x.size):
        x, y = shoot_photons(spots, spot, profile, maps, rng)
        if x.size == 0:
            continue
        # Each spot is collected on its own part of the sensor, with the charge already present.
        left, right = max(int(x.min()) - _MARGIN, 0), min(int(x.max()) + _MARGIN, nx - 1)
        bottom, top = max(int(y.min()) - _MARGIN, 0), min(int(y.max()) + _MARGIN, ny - 1)
        if right <= left or top <= bottom:
            continue
        piece = galsim.ImageD(charge[bottom : top + 1, left : right + 1].astype(np.float64), xmin=left, ymin=bottom, scale=1.0)
        photons = galsim.PhotonArray(x.size, x=x, y=y, flux=np.ones(x.size))
        sensor.accumulate(photons, piece)
        charge[bottom : top + 1, left : right + 1] = piece.array
