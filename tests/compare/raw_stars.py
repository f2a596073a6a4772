"""Raw star fluxes of several sensors with known parts, calibrated as the package does: means of spots and exposures are taken out."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from permil.compare.sensors.origins import RawStars

SIDE, SPOTS, EXPOSURES, CELL_PX = 256, 64, 30, 16
TRUTH = {
    "mask": 0.1,
    "lamp": 3e-3,
    "vendor": 0.02,
    "sensor": 0.012,
    "amplifier": 4e-3,
    "pixels": 3e-3,
    "noise": 5e-3,
}
"""Rms of each part."""


def draw_campaigns(rng, vendors=("E2V", "E2V", "E2V", "ITL", "ITL", "ITL"), bands=("red",), truth=TRUTH):
    """Return stars of some sensors of two vendors, each in some bands; all parts are drawn anew."""
    mask = np.exp(truth["mask"] * rng.standard_normal(SPOTS))
    of_vendor = {vendor: truth["vendor"] * rng.standard_normal() for vendor in dict.fromkeys(vendors)}
    campaigns = []
    places = rng.permutation(len(vendors))
    for number, vendor in enumerate(vendors):
        level = of_vendor[vendor] + truth["sensor"] * rng.standard_normal()
        steps = truth["amplifier"] * rng.standard_normal((2, 2))
        field = ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), 3.0, mode="wrap")
        response = truth["pixels"] * (field - field.mean()) / field.std() + np.kron(steps, np.ones((SIDE // 2, SIDE // 2)))
        campaigns += [_draw_stars(rng, places[number], vendor, band, mask, level, response, truth) for band in bands]
    return campaigns


def _draw_stars(rng, number, vendor, band, mask, level, response, truth):
    spot, exposure = np.tile(np.arange(SPOTS), EXPOSURES), np.repeat(np.arange(EXPOSURES), SPOTS)
    column, row = (rng.integers(0, SIDE, spot.size) for _ in range(2))
    lamp = truth["lamp"] * rng.standard_normal(EXPOSURES)
    noise = truth["noise"] * np.exp(rng.uniform(-0.6, 0.6, SPOTS))
    noise *= truth["noise"] / np.sqrt(np.mean(noise**2))
    flux = (
        1e5
        * mask[spot]
        * np.exp(lamp[exposure] + level + response[row, column])
        * (1 + noise[spot] * rng.standard_normal(spot.size))
    )
    sigma = np.hypot(noise, np.hypot(truth["pixels"], truth["amplifier"]))
    logarithm, weight = np.log(flux), sigma[spot] ** -2.0
    # Alternating means of spots and exposures; the mean scale is 1.
    of_spot, of_exposure = np.zeros(SPOTS), np.zeros(EXPOSURES)
    for _ in range(30):
        of_spot = np.bincount(spot, weight * (logarithm - of_exposure[exposure])) / np.bincount(spot, weight)
        of_exposure = np.bincount(exposure, weight * (logarithm - of_spot[spot])) / np.bincount(exposure, weight)
        of_exposure -= of_exposure.mean()
    return RawStars(
        detector=f"{vendor}{number}",
        vendor=vendor,
        raft=f"R{vendor}{number}",
        band=band,
        spot=spot,
        exposure=exposure,
        flux=flux,
        residual=np.expm1(logarithm - of_spot[spot] - of_exposure[exposure]),
        noise=noise[spot],
        amplifier=np.char.add("C", (2 * (row // (SIDE // 2)) + column // (SIDE // 2)).astype(str)),
        cell=(row // CELL_PX) * (SIDE // CELL_PX) + column // CELL_PX,
        x_mm=0.01 * column + 42.0 * number,
        y_mm=0.01 * row,
        spot_flux=np.exp(of_spot),
        spot_error=sigma / np.sqrt(EXPOSURES),
        scale=np.exp(of_exposure),
        scale_error=np.full(EXPOSURES, np.mean(sigma) / np.sqrt(SPOTS)),
    )
