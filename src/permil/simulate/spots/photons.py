"""Photon by photon: the way to brighter-fatter, and an independent check of the maps' action on mean charge.

A photon is absorbed at a place drawn from the spot's light, becomes an electron with the efficiency there, is moved by the
displacement and diffusion there, and is gathered: in the pixel under it, or by galsim's silicon sensor (Rowe et al. 2015, Astronomy
and Computing 10, 121), where charge that is there already deflects it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from permil.errors import ConfigError
from permil.simulate.spots.profile import SpotLight, SpotProfile
from permil.simulate.spots.sensor import SensorMaps

FloatArray = NDArray[np.float64]

_SENSORS = {"E2V": "lsst_e2v_50_8", "ITL": "lsst_itl_50_8"}
_MARGIN = 8


def shoot_photons(
    spots: SpotLight, spot: int, profile: SpotProfile, maps: SensorMaps, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Return where the electrons of one spot arrive, pixels, shape (n,) each; n is a Poisson number."""
    # Thinning to the efficiency keeps the process Poisson; the largest efficiency on the sensor bounds it.
    ceiling = float(maps.efficiency.max())
    count = rng.poisson(spots.flux[spot] * ceiling)
    component = rng.choice(len(profile.fractions) + 1, count, p=[profile.core_fraction, *profile.fractions])
    u, v = rng.standard_normal((2, count))
    # Steps need a variance that is positive everywhere: as much of the mean sensor's diffusion is taken out of the profile.
    least = min(float(maps.diffusion.min()), 0.0)
    root = np.sqrt(spots.xx[spot] + least)
    slope = spots.xy[spot] / root
    core = component == 0
    sigma = np.sqrt(np.array([1.0, *profile.sigmas]) ** 2 + least)[component]
    # Cholesky factor of the core's covariance; round components scale only.
    x = spots.x[spot] + np.where(core, root, sigma) * u
    y = spots.y[spot] + np.where(core, slope * u + np.sqrt(spots.yy[spot] + least - slope**2) * v, sigma * v)
    ny, nx = maps.efficiency.shape
    column, row = np.rint(x).astype(np.int64), np.rint(y).astype(np.int64)
    inside = (column >= 0) & (column < nx) & (row >= 0) & (row < ny)
    x, y, row, column = x[inside], y[inside], row[inside], column[inside]
    detected = ceiling * rng.random(x.size) < maps.efficiency[row, column]
    x, y, row, column = x[detected], y[detected], row[detected], column[detected]
    # Borders hold the displacement: column border b lies at b - 0.5. Diffusion is known at the centres.
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
    # Diffusion is the maps' part here. Photons without wavelength are absorbed near the surface: charge takes the whole way.
    sensor = galsim.SiliconSensor(name=_SENSORS.get(vendor, "lsst_e2v_50_8"), rng=deviate, diffusion_factor=0.0)
    ny, nx = charge.shape
    for spot in range(spots.x.size):
        x, y = shoot_photons(spots, spot, profile, maps, rng)
        if x.size == 0:
            continue
        # Each spot on its own piece of the sensor, with the charge that is there.
        left, right = max(int(x.min()) - _MARGIN, 0), min(int(x.max()) + _MARGIN, nx - 1)
        bottom, top = max(int(y.min()) - _MARGIN, 0), min(int(y.max()) + _MARGIN, ny - 1)
        if right <= left or top <= bottom:
            continue
        piece = galsim.ImageD(charge[bottom : top + 1, left : right + 1].astype(np.float64), xmin=left, ymin=bottom, scale=1.0)
        photons = galsim.PhotonArray(x.size, x=x, y=y, flux=np.ones(x.size))
        sensor.accumulate(photons, piece)
        charge[bottom : top + 1, left : right + 1] = piece.array
