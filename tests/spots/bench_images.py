"""Images of artificial stars for tests of the measurement, and the truth of what is measured on them."""

from __future__ import annotations

from dataclasses import dataclass

import galsim
import numpy as np
from scipy.spatial import cKDTree

from permil.config.simulate import SimulateSpotsConfig
from permil.config.spots import MeasureConfig
from permil.simulate.spots import SpotBench, draw_exposure
from permil.simulate.spots.bench import SpotLight, SpotProfile
from permil.spots.measure import SpotMeasurement, measure_spots

PERFECT_SENSOR = {"efficiency": False, "displacement": False, "diffusion": False, "brighter_fatter": False}
QUANTITIES = ("x", "y", "xx", "yy", "xy", "flux")


def fixed_bench(exposures: int, **mask: object) -> SpotBench:
    """Return a bench on which nothing but the noise changes from exposure to exposure."""
    return SpotBench(
        SimulateSpotsConfig(
            effects=PERFECT_SENSOR | {"jitter": False, "lamp_drift": False, "lamp_scatter": False},
            campaign={"exposures": exposures, "mode": "fixed"},
            mask=mask,
        )
    )


def measure(
    bench: SpotBench, image: np.ndarray, *, mask: np.ndarray | None = None, options: MeasureConfig | None = None
) -> SpotMeasurement:
    """Measure an image as an exposure that has just been reduced."""
    detector = bench.detector
    noise = np.float32(detector.amplifiers[0].read_noise ** 2)
    mask = np.zeros(detector.shape, dtype=np.int16) if mask is None else mask
    return measure_spots(image, np.maximum(image, 0) + noise, mask, detector, options=options)


@dataclass(frozen=True)
class Repeated:
    """Measurements [exposure, spot of the mask] by quantity, their errors, their flags, and the light of the spots."""

    measured: dict[str, np.ndarray]
    errors: dict[str, np.ndarray]
    flags: np.ndarray
    light: SpotLight


def measure_repeatedly(bench: SpotBench) -> Repeated:
    """Draw and measure all exposures of a bench; a spot that is not found is NaN."""
    rows = []
    for exposure in bench.exposures():
        catalog = measure(bench, draw_exposure(bench, exposure)).catalog
        light = bench.spot_light(exposure)
        distance, index = cKDTree(np.column_stack([catalog.x, catalog.y])).query(np.column_stack([light.x, light.y]))
        found = distance < 1
        rows.append(
            [np.where(found, getattr(catalog, name)[index], np.nan) for name in QUANTITIES]
            + [np.where(found, getattr(catalog, f"{name}_err")[index], np.nan) for name in QUANTITIES]
            + [np.where(found, catalog.flags[index], -1)]
        )
    stacked = np.array(rows)
    return Repeated(
        {name: stacked[:, number] for number, name in enumerate(QUANTITIES)},
        {name: stacked[:, number + len(QUANTITIES)] for number, name in enumerate(QUANTITIES)},
        stacked[:, -1].astype(int),
        light,
    )


def galsim_profile(light: SpotLight, spot: int, profile: SpotProfile) -> galsim.GSObject:
    """Return the profile of one spot as galsim knows it, flux 1, centred."""
    covariance = np.array([[light.xx[spot], light.xy[spot]], [light.xy[spot], light.yy[spot]]])
    minor, major = np.sqrt(np.linalg.eigvalsh(covariance))
    direction = np.linalg.eigh(covariance)[1][:, 1]
    core = galsim.Gaussian(sigma=np.sqrt(minor * major), flux=profile.core_fraction)
    core = core.shear(q=minor / major, beta=np.arctan2(direction[1], direction[0]) * galsim.radians)
    rounds = [galsim.Gaussian(sigma=sigma, flux=part) for part, sigma in zip(profile.fractions, profile.sigmas, strict=True)]
    return galsim.Add([core, *rounds])


def hsm_moments(image: galsim.Image, scale: float = 1.0) -> tuple[float, float, float]:
    """Return xx, yy and xy of an image by galsim's HSM, in squared units of ``scale`` pixels."""
    found = image.FindAdaptiveMom(guess_sig=2.3 / scale)
    e1, e2 = found.observed_shape.e1, found.observed_shape.e2
    trace = 2 * (found.moments_sigma * scale) ** 2 / np.sqrt(1 - e1**2 - e2**2)
    return trace * (1 + e1) / 2, trace * (1 - e1) / 2, trace * e2 / 2


def true_moments(light: SpotLight, spot: int, profile: SpotProfile) -> tuple[float, float, float]:
    """Return the moments of the noiseless profile, convolved with a pixel and drawn five times finer than one."""
    convolved = galsim.Convolve(galsim_profile(light, spot, profile), galsim.Pixel(1.0))
    return hsm_moments(convolved.drawImage(nx=251, ny=251, scale=0.2, method="no_pixel"), scale=0.2)
