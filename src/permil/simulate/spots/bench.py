"""The bench of a spot campaign: mask of pinholes, charge of spot exposures, flats of the same sensor, and readout.

With brighter-fatter the photons of the spots are drawn one by one. Each is absorbed at a position drawn from the spot's light, converted
to an electron with the local efficiency, moved by the local displacement and diffusion, and collected by galsim's silicon sensor (Rowe
et al. 2015, Astronomy and Computing 10, 121), in which the charge already present deflects it. Without the silicon sensor this is an
independent check of the maps' action on mean charge.

A spot has an elliptical Gaussian core, round wings and a halo, integrated over each pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray
from scipy import ndimage

from permil._kernels import simulate as kernels
from permil.arrays import Float32Array, FloatArray, Int32Array, IntArray
from permil.camera import Camera, Detector, frames, load_camera
from permil.config.simulate import (
    SimulateCampaign,
    SimulateConfig,
    SimulateEffects,
    SimulateLamp,
    SimulateSensor,
    SimulateSpotsBackground,
    SimulateSpotsConfig,
)
from permil.errors import ConfigError
from permil.simulate.bench import Bench, BenchRecipe, bench_of
from permil.simulate.campaign import PlannedExposure, Position
from permil.simulate.electronics import cosmic_rays, digitise
from permil.simulate.randoms import generator, normal_state
from permil.simulate.sensor import SensorTruth
from permil.simulate.spots.sensor import SensorMaps, sensor_maps

_SHAPE_DEGREE = 3


@dataclass(frozen=True)
class SpotProfile:
    """Round components common to all spots, in addition to their own cores.

    Attributes
    ----------
    fractions, sigmas
        Fraction of the light and sigma (pixels) of each round component; the core has the rest of the light.
    """

    fractions: tuple[float, ...]
    sigmas: tuple[float, ...]

    @property
    def core_fraction(self) -> float:
        """Fraction of the light in the core."""
        return 1.0 - sum(self.fractions)


@dataclass(frozen=True)
class SpotLight:
    """Light of spots on the sensor; arrays over spots.

    Attributes
    ----------
    x, y
        Centre, pixels.
    flux
        Electrons of the whole spot for efficiency 1.
    xx, yy, xy
        Covariance of the core, without the pixel's own extent, pixel^2.
    """

    x: FloatArray
    y: FloatArray
    flux: FloatArray
    xx: FloatArray
    yy: FloatArray
    xy: FloatArray


def add_spots(light: FloatArray, spots: SpotLight, profile: SpotProfile) -> None:
    """Add spots to an image of light per pixel, in place; light outside the image is lost."""
    kernels.add_cores(light, spots.x, spots.y, profile.core_fraction * spots.flux, spots.xx, spots.yy, spots.xy)
    for fraction, sigma in zip(profile.fractions, profile.sigmas, strict=True):
        kernels.add_round(light, spots.x, spots.y, fraction * spots.flux, sigma)


@dataclass(frozen=True, kw_only=True)
class SpotMask(SpotLight):
    """The spots of a mask as their light; arrays over spots, index ``spots * i + j`` for node (i, j) with i along x.

    Attributes
    ----------
    grid_i, grid_j
        Index in the grid, from 0.
    x, y
        Position relative to the image of the mask's centre, along the detector's axes, pixels, including distortion.
    flux
        Electrons for lamp and efficiency 1.
    xx, yy, xy
        Covariance of the core, pixel^2.
    profile
        The components common to all spots.
    """

    grid_i: IntArray
    grid_j: IntArray
    profile: SpotProfile

    def light(self, centre: tuple[float, float], lamp: float) -> SpotLight:
        """Return the light of all spots for a position of the mask's centre (x, y in pixels) and a brightness of the lamp."""
        return SpotLight(self.x + centre[0], self.y + centre[1], lamp * self.flux, self.xx, self.yy, self.xy)


def spot_mask(config: SimulateSpotsConfig) -> SpotMask:
    """Return the mask of a configuration."""
    settings, effects = config.mask, config.effects
    count = settings.spots
    grid_i, grid_j = (index.ravel() for index in np.indices((count, count)))
    # Positions in the mask from -1 to 1, for everything that changes smoothly.
    h, k = (2.0 * index / (count - 1) - 1.0 for index in (grid_i, grid_j))
    half_side = half_side_px(config)
    x, y = half_side * h, half_side * k
    if effects.distortion:
        for place, name in ((x, "distortion x"), (y, "distortion y")):
            rng = generator(config.seed, "spots", name)
            place += settings.distortion_px / 2**0.5 * _smooth_polynomial(rng, h, k, least=2, degree=settings.distortion_degree)
    if effects.node_scatter:
        scatter = settings.node_scatter_px / 2**0.5 * generator(config.seed, "spots", "nodes").standard_normal((2, count**2))
        x, y = x + scatter[0], y + scatter[1]
    cosine, sine = np.cos(settings.angle_rad), np.sin(settings.angle_rad)
    pinholes = 1.0 + settings.flux_scatter * generator(config.seed, "spots", "pinholes").standard_normal(count**2)
    xx, yy, xy = _cores(config, h, k)
    return SpotMask(
        grid_i=grid_i,
        grid_j=grid_j,
        x=cosine * x - sine * y,
        y=sine * x + cosine * y,
        flux=settings.electrons * pinholes * illumination(config, h, k, edge=settings.disc_edge),
        xx=xx,
        yy=yy,
        xy=xy,
        profile=SpotProfile((settings.wing_fraction, settings.halo_fraction), (settings.wing_sigma_px, settings.halo_sigma_px)),
    )


def half_side_px(config: SimulateSpotsConfig) -> float:
    """Return half the distance between the outermost spots of a row, pixels."""
    return 0.5 * (config.mask.spots - 1) * config.mask.pitch_px


def illumination(config: SimulateSpotsConfig, h: FloatArray, k: FloatArray, *, edge: float) -> FloatArray:
    """Return the light at positions in the mask (in half sides): a bright disc and a skirt that decreases with the fourth power.

    A real catalog of 2401 spots has this shape: flat within 1000 pixels, a factor of 20 lower at 1400 and of 200 at 2250.
    """
    settings = config.mask
    distance = np.hypot(h - settings.disc_offset[0], k - settings.disc_offset[1]) / settings.disc_radius
    # Far outside the disc, which is dark there, the exponential would overflow.
    disc = 1.0 / (1.0 + np.exp(np.minimum((distance - 1.0) * settings.disc_radius / edge, 100.0)))
    return np.asarray((1.0 - settings.skirt) * disc + settings.skirt / (1.0 + distance**4))


def glow(config: SimulateSpotsConfig, shape: tuple[int, int], centre: tuple[float, float]) -> FloatArray:
    """Return the light between the spots, electrons per pixel, for a position of the mask's centre (x, y in pixels)."""
    if not config.effects.background:
        return np.zeros(shape)
    settings: SimulateSpotsBackground = config.background
    half_side = half_side_px(config)
    x, y = (np.arange(shape[1]) - centre[0]) / half_side, (np.arange(shape[0]) - centre[1])[:, None] / half_side
    cosine, sine = np.cos(config.mask.angle_rad), np.sin(config.mask.angle_rad)
    h, k = cosine * x + sine * y, -sine * x + cosine * y
    return settings.pedestal + settings.electrons * illumination(config, h, k, edge=settings.edge)


def _cores(config: SimulateSpotsConfig, h: FloatArray, k: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    settings = config.mask
    variance = np.full(h.shape, settings.core_variance_px2)
    if not config.effects.shape_variation:
        return variance, variance.copy(), np.zeros(h.shape)

    def smooth(name: str, rms: float) -> FloatArray:
        return rms * _smooth_polynomial(generator(config.seed, "spots", name), h, k, least=1, degree=_SHAPE_DEGREE)

    variance = variance * (1.0 + smooth("size", settings.core_variance_scatter))
    plus, cross = (smooth(name, settings.ellipticity_scatter) for name in ("plus", "cross"))
    return variance * (1.0 + plus), variance * (1.0 - plus), variance * cross


def _smooth_polynomial(rng: np.random.Generator, h: FloatArray, k: FloatArray, *, least: int, degree: int) -> FloatArray:
    """Return a random polynomial of total degrees from ``least`` to ``degree``, of rms 1 over the positions."""
    coefficients = rng.standard_normal((degree + 1, degree + 1))
    total = np.add.outer(np.arange(degree + 1), np.arange(degree + 1))
    polynomial = legendre.legval2d(h, k, np.where((total >= least) & (total <= degree), coefficients, 0.0))
    return np.asarray(polynomial / np.sqrt(np.mean(polynomial**2)))


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

    def charge(self, exposure: SpotExposure) -> Float32Array:
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


def draw_exposure(bench: SpotBench, exposure: SpotExposure) -> Float32Array:
    """Return an exposure as a perfectly reduced image: charge with photon and read noise, electrons, shape (ny, nx)."""
    image = bench.charge(exposure)
    if bench.config.effects.read_noise:
        rng = generator(bench.config.seed, "spots", "read noise", exposure.number)
        for amplifier in bench.detector.amplifiers:
            region = image[amplifier.slices]
            region += np.float32(amplifier.read_noise) * rng.standard_normal(region.shape, dtype=np.float32)
    return image


def _with_photon_noise(mean: FloatArray, state: NDArray[np.uint64]) -> Float32Array:
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
    charge: Float32Array,
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


_LIGHT_EFFECTS = ("offset", "photodiode_noise", "ring", "rotation", "structure")
"""Effects of the projector of flats that the spot projector does not have."""


class MappedSensors(SensorTruth):
    """Sensors whose flat is the response of their maps of efficiency, displacement and diffusion to uniform light, in every LED."""

    def __init__(self, config: SimulateConfig, camera: Camera, spots: SimulateSpotsConfig) -> None:
        super().__init__(config, camera)
        self._spots = spots
        self._made: tuple[str, Float32Array] | None = None

    def response(self, detector: Detector, led: str) -> Float32Array:  # noqa: ARG002 - the maps are those of the band
        """Return the flat of a detector, shape (ny, nx)."""
        if self._made is None or self._made[0] != detector.name:
            self._made = detector.name, sensor_maps(self._spots, detector).flat().astype(np.float32)
        return self._made[1].copy()


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

    def raw_segments(self, charge: Float32Array, exposure: PlannedExposure, seconds: float) -> Int32Array:
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

    def _dark_charge(self, rng: np.random.Generator, seconds: float) -> Float32Array:
        """Return electrons without light."""
        config, detector = self._config, self._detector
        dark = np.zeros(detector.shape, dtype=np.float32)
        if config.effects.dark_current:
            dark += rng.poisson(config.sensor.dark_current * seconds, detector.shape).astype(np.float32)
        if config.effects.cosmic_rays:
            for row, column, electrons in cosmic_rays(detector, rng, rate=config.electronics.cosmic_ray_rate, seconds=seconds):
                dark[row, column] += electrons
        return dark


def _counts(electrons: Float32Array, gain: float, full_well: float, curvature: float) -> Float32Array:
    """Return counts above bias: charge up to the full well, over the gain, with ``linear = counts (1 + curvature counts)``."""
    linear = np.minimum(electrons, full_well) / gain
    return (2.0 * linear / (1.0 + np.sqrt(np.maximum(1.0 + 4.0 * curvature * linear, 0.0)))).astype(np.float32)
