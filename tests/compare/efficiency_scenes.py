"""Sensors of four amplifiers that are mixtures of the three kinds, stars on them, and what perfect filters would leave."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import mixtures
import numpy as np
from scipy import fft

from permil.compare.efficiency.filtering import Components, EfficiencyFlat, filter_flat, fit_filter, predict_components
from permil.compare.efficiency.proof import LeftOutStars, leave_out
from permil.compare.hypotheses.equations import FixedEffects
from permil.compare.scales import cosine_wavenumbers, flat_spectrum
from permil.compare.stars.flat_at_stars import RelativeFlat, relative_flat

MIXTURES = {"efficiency": (1.0, 0.0, 0.0), "area": (0.0, 1.0, 0.0), "both": (0.5, 0.5, 0.0), "all": (0.4, 0.4, 0.2)}
SCALES = (4.0, 6.0, 5.0)
FLAT_NOISE = 1.5e-3
PERIODS = (16.0, 32.0, 64.0, 128.0, 256.0)
HALF = mixtures.SIZE // 2
AMPLIFIERS = (np.arange(mixtures.SIZE)[:, None] // HALF) * 2 + np.arange(mixtures.SIZE)[None, :] // HALF


@dataclass(frozen=True)
class Scene:
    """True maps of the three kinds, measured flat, and its predictions for stars."""

    kinds: np.ndarray
    flat: RelativeFlat
    components: Components


@cache
def scene_of(name: str, seed: int) -> Scene:
    rng = np.random.default_rng(seed)
    kinds = np.zeros((3, mixtures.SIZE, mixtures.SIZE))
    for kind, (part, scale) in enumerate(zip(MIXTURES[name], SCALES, strict=True)):
        only = [0.0, 0.0, 0.0]
        only[kind] = part
        kinds[kind] = mixtures.draw_kinds(rng, only, scale=scale)[kind]
    measured = 1 + kinds.sum(axis=0) + FLAT_NOISE * rng.standard_normal(kinds.shape[1:])
    whole = np.ones(measured.shape, dtype=bool)
    flat = relative_flat(measured, np.full(measured.shape, FLAT_NOISE**2), whole, AMPLIFIERS)
    stars = mixtures.draw_stars(rng, kinds)
    return Scene(kinds, flat, predict_components(stars, flat, mixtures.RESPONSE, periods=PERIODS))


@cache
def flat_of(name: str, seed: int) -> EfficiencyFlat:
    scene = scene_of(name, seed)
    return filter_flat(scene.flat, fit_filter(scene.components, {}))


@cache
def left_out_of(name: str, seed: int) -> LeftOutStars:
    return leave_out(scene_of(name, seed).components, {}, seed=seed)


def perfect_filter(scene: Scene) -> np.ndarray:
    """Return the Wiener filter of the measured flat with the true power of each kind."""
    wavenumber = np.hypot(*cosine_wavenumbers(scene.kinds.shape[1:]))
    power = np.array([flat_spectrum(kind, 0.0).at(wavenumber) for kind in scene.kinds])
    weight = power[0] / (power.sum(axis=0) + FLAT_NOISE**2)
    whole = scene.flat.excess + scene.flat.means[AMPLIFIERS]
    return fft.idctn(weight * fft.dctn(whole, norm="ortho"), norm="ortho")


def scatter_with(scene: Scene, left_out: LeftOutStars, efficiency: np.ndarray) -> float:
    """Return the variance of the left-out fluxes divided by a map of the efficiency minus 1."""
    stars = scene.components.other.stars
    zero = np.zeros((1, *efficiency.shape), dtype=np.float32)
    seen = mixtures.RESPONSE.predict(stars.places, efficiency[None].astype(np.float32), zero).templates[:, 0, 0, 0]
    total, below = 0.0, 0.0
    for part in np.unique(left_out.part):
        rows = left_out.part == part
        index, weight = left_out.row[rows], left_out.weight[rows]
        effects = FixedEffects(stars.spot[index], stars.exposure[index], weight, np.ones((index.size, 1)))
        left = effects.residuals((stars.values["flux"] - seen)[index, None])[:, 0]
        total += weight @ left**2
        below += weight @ left_out.freedom[rows]
    return float(total / below)


def amplifier_means(image: np.ndarray) -> np.ndarray:
    """Return the map of the means of amplifiers."""
    means = image.reshape(2, HALF, 2, HALF).mean(axis=(1, 3))
    return means.repeat(HALF, axis=0).repeat(HALF, axis=1)


def error_of(scene: Scene, found: EfficiencyFlat) -> np.ndarray:
    """Return the error of the efficiency relative to its amplifiers."""
    return found.excess - (scene.kinds[0] - amplifier_means(scene.kinds[0]))


def cell_pulls(scene: Scene, found: EfficiencyFlat, side: int) -> np.ndarray:
    """Return the errors of means over cells away from the edges, over their standard errors."""
    first, count = 40, 320 // side
    inside = slice(first, first + count * side)
    means = error_of(scene, found)[inside, inside].reshape(count, side, count, side).mean(axis=(1, 3))
    slices = [slice(first + number * side, first + (number + 1) * side) for number in range(count)]
    # Cells of a diagonal sample the positions of all.
    errors = np.array([found.error_of_mean(rows, columns) for rows, columns in zip(slices, slices[::-1], strict=True)])
    return means / np.sqrt((errors**2).mean())


def amplifier_pulls(scene: Scene, found: EfficiencyFlat) -> np.ndarray:
    """Return the errors of the means of amplifiers, over their standard errors."""
    steps = scene.flat.means - amplifier_means(scene.kinds[0])[::HALF, ::HALF].ravel()
    return steps / found.error_of_mean(slice(0, HALF), slice(0, HALF), amplifier=True)


def displacement(area: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the displacement whose divergence is minus a map, by differences of its potential in the cosine transform."""
    frequencies = [np.pi * np.arange(size) / size for size in area.shape]
    eigenvalues = -4 * (np.sin(frequencies[0] / 2)[:, None] ** 2 + np.sin(frequencies[1] / 2) ** 2)
    eigenvalues[0, 0] = np.inf
    potential = fft.idctn(fft.dctn(area, norm="ortho") / eigenvalues, norm="ortho")
    return -np.gradient(potential, axis=1), -np.gradient(potential, axis=0)


def size(diffusion: np.ndarray) -> np.ndarray:
    """Return the change of the variance of a star whose half Laplacian is a map."""
    frequencies = [np.pi * np.arange(count) / count for count in diffusion.shape]
    eigenvalues = -4 * (np.sin(frequencies[0] / 2)[:, None] ** 2 + np.sin(frequencies[1] / 2) ** 2)
    eigenvalues[0, 0] = np.inf
    return 2 * fft.idctn(fft.dctn(diffusion, norm="ortho") / eigenvalues, norm="ortho")
