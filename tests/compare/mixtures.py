"""Sensors that are a mixture of efficiency, pixel area and diffusion, and calibrated stars on them, as arrays."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import fft, ndimage

from permil.compare.hypotheses.predict import Stars
from permil.compare.scales import Band, bands_between, cosine_wavenumbers, split_bands
from permil.compare.stars.flat_at_stars import RelativeFlat, relative_flat
from permil.compare.stars.profile import StarProfile
from permil.compare.stars.response import QUANTITIES, StarPlaces, StarResponse

SIZE, PITCH, SPOTS, DITHERS = 400, 44.0, 8, 30
PERIODS = (16.0, 32.0, 64.0)
RESPONSE = StarResponse(StarProfile((0.62, 0.30, 0.08), (4.28, 22.2, 108.0)))
ERRORS = {"flux": 1.2e-3, "dx": 0.004, "dy": 0.004, "xx": 0.02, "yy": 0.02, "xy": 0.015}


@dataclass(frozen=True)
class Scene:
    """A sensor (true maps of the three kinds), its measured flat, and stars on it."""

    kinds: np.ndarray
    flat: RelativeFlat
    stars: Stars


def draw_kinds(rng, mixture, rms=1.5e-3, scale=5.0):
    kinds = np.zeros((3, SIZE, SIZE))
    for kind, part in enumerate(mixture):
        field = ndimage.gaussian_filter(rng.standard_normal((SIZE, SIZE)), scale)
        field = split_bands(field, (Band(0.0, 64.0 if kind == 2 else np.inf),))[0][0]
        kinds[kind] = rms * np.sqrt(part) * field / field.std()
    return kinds


def draw_scene(seed, mixture, *, flat_noise=1.5e-3, unseen=0.0):
    """Return a scene; ``unseen`` is the rms of efficiency that stars see and the flat does not have."""
    rng = np.random.default_rng(seed)
    kinds = draw_kinds(rng, mixture)
    measured = 1 + kinds.sum(axis=0) + flat_noise * rng.standard_normal((SIZE, SIZE))
    whole, amplifiers = np.ones((SIZE, SIZE), dtype=bool), np.zeros((SIZE, SIZE), dtype=int)
    flat = relative_flat(measured, np.full((SIZE, SIZE), flat_noise**2), whole, amplifiers)
    seen = kinds.copy()
    seen[0] += draw_kinds(rng, (1.0, 0.0, 0.0), rms=unseen)[0]
    return Scene(kinds, flat, draw_stars(rng, seen))


def draw_stars(rng, kinds):
    i, j = np.divmod(np.arange(SPOTS**2), SPOTS)
    margin = (SIZE - (SPOTS - 1) * PITCH) / 2
    shift = rng.uniform(18 - margin, margin - 18, (DITHERS, 2))
    spot, exposure = np.tile(np.arange(SPOTS**2), DITHERS), np.repeat(np.arange(DITHERS), SPOTS**2)
    places = StarPlaces.round(margin + PITCH * i[spot] + shift[exposure, 0], margin + PITCH * j[spot] + shift[exposure, 1])
    fields = [split_bands(kind, (Band(0.0, np.inf),)) for kind in kinds]
    maps, potentials = (np.concatenate(parts) for parts in zip(*fields, strict=True))
    templates = RESPONSE.predict(places, maps, potentials).templates
    signal = sum(templates[:, :, kind, kind] for kind in range(3))
    faint = np.exp(rng.uniform(-0.5, 0.5, SPOTS**2))[spot]
    errors = {name: ERRORS[name] * faint for name in QUANTITIES}
    values = {name: signal[:, number] + errors[name] * rng.standard_normal(spot.size) for number, name in enumerate(QUANTITIES)}
    # Calibration takes out the means of spots, and brightness, grid and focus of exposures.
    for name in QUANTITIES:
        values[name] += rng.normal(0, 0.01, DITHERS)[exposure] - (np.bincount(spot, values[name]) / DITHERS)[spot]
    turned = rng.normal(0, 1e-4, DITHERS)[exposure]
    values["dx"] -= turned * (places.y - SIZE / 2)
    values["dy"] += turned * (places.x - SIZE / 2)
    return Stars(places, spot, exposure, values, errors)


def chosen_stars(stars, rows):
    """Return some of the stars."""
    return replace(
        stars,
        places=stars.places[rows],
        spot=stars.spot[rows],
        exposure=stars.exposure[rows],
        values={name: column[rows] for name, column in stars.values.items()},
        errors={name: column[rows] for name, column in stars.errors.items()},
    )


def true_fractions(scene):
    """Return cov(kind, F) / var(F) of the maps as stars see them, over the area of the stars."""
    wavenumber = np.hypot(*cosine_wavenumbers((SIZE, SIZE)))
    nodes = np.linspace(0, wavenumber.max(), 500)
    transfer = np.interp(wavenumber, nodes, RESPONSE.transfer(nodes))
    x, y = scene.stars.places.x, scene.stars.places.y
    area = np.s_[int(y.min()) : int(y.max()) + 1, int(x.min()) : int(x.max()) + 1]
    _, *scales, _ = bands_between(PERIODS)
    above, below = np.zeros(3), 0.0
    for band in scales:
        spectra = [np.where(band.holds(wavenumber), transfer * fft.dctn(kind, norm="ortho"), 0.0) for kind in scene.kinds]
        seen = np.array([fft.idctn(spectrum, norm="ortho")[area] for spectrum in spectra])
        above += (seen * seen.sum(axis=0)).mean(axis=(1, 2))
        below += (seen.sum(axis=0) ** 2).mean()
    return above / below
