"""Repeated images of amplifiers with photon noise, read noise and brighter-fatter, made here for tests of photon transfer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from permil.isr.photon_transfer import TransferPoints
from permil.isr.repeated_images import NoiseMoments, noise_moments
from permil.simulate.electronics import repel_charge, strength

FloatArray = NDArray[np.float64]
IMAGES = 5
NOISE = 5.4
LARGEST = 50_000.0


@dataclass(frozen=True)
class Amplifiers:
    """How amplifiers are simulated: their shape, how many, groups of images; loss of variance at 50,000 electrons, relative scatters."""

    shape: tuple[int, int] = (500, 256)
    count: int = 16
    groups: int = 3
    loss: float = 0.15
    strength_rms: float = 0.0
    bend: float = 0.0
    bend_rms: float = 0.0
    gain_rms: float = 0.03


def repeated(
    rng: np.random.Generator,
    light: NDArray[np.float32],
    *,
    gain: float = 1.45,
    loss: float = 0.15,
    strength_factor: float = 1.0,
    bend: float = 0.0,
) -> NDArray[np.float32]:
    """Return images, adu above bias, of pixels that expect some electrons; the lamp scatters by 1e-3."""
    images = np.empty((IMAGES, *light.shape), dtype=np.float32)
    for image in images:
        mean = light * np.float32(1 + 1e-3 * rng.standard_normal())
        charge = mean + np.sqrt(mean) * rng.standard_normal(light.shape, dtype=np.float32)
        if loss:
            repel_charge(charge, strength(loss) * strength_factor)
        charge *= 1 - np.float32(bend / 5e4) * charge
        image[:] = np.rint((charge + NOISE * rng.standard_normal(light.shape, dtype=np.float32)) / np.float32(gain))
    return images


def moments_of(images: NDArray[np.float32], *, gain: float = 1.45, **kwargs: Any) -> NoiseMoments:
    """Return the moments of images with the read noise that `repeated` gives them."""
    variance = np.full(len(images), (NOISE / gain) ** 2 + 1 / 12)
    usable = np.ones(images.shape[1:], dtype=bool)
    return noise_moments(images, usable, noise_variance=variance, level_variance=np.zeros(len(images)), **kwargs)


def slope(shape: tuple[int, int], along_y: float, along_x: float) -> NDArray[np.float32]:
    """Return a plane through 1 that changes by these amounts from the middle to the edge."""
    y, x = (np.linspace(-1, 1, size, dtype=np.float32) for size in shape)
    return (1 + np.float32(along_y) * y[:, None] + np.float32(along_x) * x).astype(np.float32)


def campaign(seed: int, amplifiers: Amplifiers) -> tuple[FloatArray, FloatArray, TransferPoints]:
    """Return true gains, mean light of each amplifier (electrons) and moments of a campaign."""
    rng = np.random.default_rng(seed)
    count, shape = amplifiers.count, amplifiers.shape
    gains = 1.45 * (1 + amplifiers.gain_rms * rng.standard_normal(count))
    bends = amplifiers.bend + amplifiers.bend_rms * rng.standard_normal(count)
    strengths = 1 + amplifiers.strength_rms * rng.standard_normal(count)
    # Half of the amplifiers have more light, as those under the middle of a beam.
    levels = LARGEST * rng.uniform(0.55, 0.75, (count, amplifiers.groups))
    levels[::2] += 0.25 * LARGEST
    moments = []
    for number in range(count):
        response = 1 + np.float32(5e-3) * rng.standard_normal(shape, dtype=np.float32)
        for group in range(amplifiers.groups):
            light = np.float32(levels[number, group]) * slope(shape, *0.05 * rng.standard_normal(2)) * response
            images = repeated(
                rng, light, gain=gains[number], loss=amplifiers.loss, strength_factor=strengths[number], bend=bends[number]
            )
            moments.append((number, group, moments_of(images, gain=gains[number]).merged()))
    return gains, levels.mean(axis=1), TransferPoints.of(moments)
