"""The image of the mask of pinholes: positions, fluxes and widths of the spots, and the light between them.

A spot has an elliptical Gaussian core, round wings and a halo, integrated over each pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray

from permil._kernels import simulate as kernels
from permil.config.simulate import SimulateSpotsBackground, SimulateSpotsConfig
from permil.simulate.randoms import generator

FloatArray = NDArray[np.float64]


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


IntArray = NDArray[np.int64]

_SHAPE_DEGREE = 3


@dataclass(frozen=True)
class SpotMask:
    """The spots of a mask; arrays over spots, index ``spots * i + j`` for node (i, j) with i along x.

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
    x: FloatArray
    y: FloatArray
    flux: FloatArray
    xx: FloatArray
    yy: FloatArray
    xy: FloatArray
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
