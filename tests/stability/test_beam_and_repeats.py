"""Shape of the beam, repeated images and fluxes of amplifiers against the truth."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from permil.stability.residuals import (
    TERMS,
    UNIT_MM,
    BeamResiduals,
    amplifier_fluxes,
    first_to_last,
    shape_change,
    stack_chi_square,
)

FloatArray = NDArray[np.float64]
CHANGE = 1e-3 * np.array([1.0, -2.0, 3.0, 0.0, 1.0])


def beam_residuals(seed: int, change: FloatArray, *, exposures: int = 120, pixels: int = 100) -> BeamResiduals:
    """Return residuals with a change of the beam, free responses and scales, and a tilt of each exposure of its own."""
    rng = np.random.default_rng(seed)
    exposure, pixel = (part.ravel() for part in np.indices((exposures, pixels)))
    place = rng.uniform(-15, 15, (pixels, 2))[pixel] - rng.uniform(-30, 30, (exposures, 2))[exposure]
    lit = np.hypot(*place.T) < 38
    exposure, pixel, place = exposure[lit], pixel[lit], place[lit]
    x, y = (place / UNIT_MM).T
    later = np.where(exposure < exposures / 2, -0.5, 0.5) * (change @ np.array([x, y, x * x, x * y, y * y]))
    tilts = 2e-4 * rng.standard_normal((exposures, 2))[exposure]
    free = 0.01 * rng.standard_normal(exposures)[exposure] + 0.01 * rng.standard_normal(pixels)[pixel]
    noise = 1e-3 * rng.standard_normal(exposure.size) + (tilts * place / UNIT_MM).sum(axis=1)
    return BeamResiduals(exposure, pixel, place, later + free + noise, np.full(exposure.size, 1e6))


def shape_pulls(seeds: range) -> tuple[FloatArray, FloatArray]:
    """Return pulls of the terms of a change, and p-values without one."""
    pulls, chances = [], []
    for seed in seeds:
        found = shape_change(beam_residuals(seed, CHANGE))
        pulls.append((found.change - CHANGE) / found.error)
        chances.append(shape_change(beam_residuals(seed, 0 * CHANGE)).p_value)
    return np.array(pulls), np.array(chances)


@pytest.mark.full
def test_a_change_of_the_beam_is_recovered() -> None:
    pulls, chances = shape_pulls(range(12))
    assert np.sqrt(np.mean(pulls**2)) == pytest.approx(1.05, abs=0.3)
    assert (chances < 1e-3).sum() == 0
    assert shape_change(beam_residuals(1, CHANGE)).p_value < 1e-6


@pytest.mark.full
def test_acceptance_shape_with_fresh_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    pulls, chances = shape_pulls(range(760_000, 760_060))
    with capsys.disabled():
        print("\nshape: pulls", np.sqrt(np.mean(pulls**2, axis=0)).round(2), "p < 0.05:", np.mean(chances < 0.05))
    assert 0.85 <= np.sqrt(np.mean(pulls**2)) <= 1.15
    assert np.mean(chances < 0.05) <= 0.12


def test_a_shape_that_is_not_determined() -> None:
    data = beam_residuals(3, CHANGE)
    few = BeamResiduals(data.exposure[:100], data.pixel[:100], data.place[:100], data.residual[:100], data.weight[:100])
    assert np.isnan(few_change := shape_change(few).change).all()
    assert few_change.shape == (len(TERMS),)
    assert np.isnan(shape_change(few).p_value)
    # Each pixel is seen in one half only, at one place of the beam: responses explain any change.
    exposure = np.repeat(np.arange(40), 5)
    pixel = np.arange(200)
    alone = BeamResiduals(exposure, pixel, np.random.default_rng(1).uniform(-20, 20, (200, 2)), np.zeros(200), np.ones(200))
    assert np.isnan(shape_change(alone).change).all()


def test_repeated_images_that_differ_by_noise_alone() -> None:
    rng = np.random.default_rng(5)
    position = np.repeat(np.arange(6), [5, 5, 5, 1, 2, 5])
    error = rng.uniform(1e-3, 3e-3, (len(position), 200))
    signal = rng.standard_normal((6, 200))[position] + 0.01 * rng.standard_normal(len(position))[:, None]
    weight = error**-2
    weight[:, :7] = 0.0
    weight[3, 9] = 0.0
    found = stack_chi_square(position, signal + error * rng.standard_normal(error.shape), weight)
    reduced, uncertainty = found.reduced
    assert found.freedom == (4 * 191) + 3 * (4 * 192) + 192
    assert abs(reduced - 1.0) < 4 * uncertainty
    changed = stack_chi_square(position, signal + 2 * error * rng.standard_normal(error.shape), weight)
    assert changed.reduced[0] == pytest.approx(4.0, abs=0.4)
    assert np.isnan(stack_chi_square(np.arange(4), signal[:4], weight[:4]).reduced[0])


def test_last_image_against_the_first() -> None:
    rng = np.random.default_rng(6)
    position, number = np.repeat(np.arange(40), 5), np.tile(np.arange(5), 40)
    values = rng.standard_normal(40)[position] + 0.02 * number + 0.01 * rng.standard_normal(200)
    mean, error, count = first_to_last(position, values)
    assert count == 40
    assert error == pytest.approx(0.01 * np.sqrt(2 / 40), rel=0.4)
    assert abs(mean - 0.08) < 4 * error
    values[0] = np.nan
    assert first_to_last(position, values)[2] == 40
    assert first_to_last(position[:5], values[:5])[2] == 1
    assert np.isnan(first_to_last(np.arange(9), values[:9])[0])


def test_fluxes_are_weighted_means_of_what_is_lit() -> None:
    rng = np.random.default_rng(7)
    amplifier = np.repeat([0, 1, 2], 100)
    weight = rng.uniform(1e6, 4e6, (50, 300))
    true = np.array([0.001, -0.002, 0.0])
    residual = true[amplifier] + weight**-0.5 * rng.standard_normal(weight.shape)
    weight[:, 220:] = 0.0
    weight[7, 30:100] = 0.0
    mean, error = amplifier_fluxes(residual, weight, amplifier, 4)
    assert np.isnan(mean[:, 3]).all()
    assert np.isnan(mean[:, 2]).all()
    assert np.isfinite(mean[7, 0])
    pulls = ((mean - [*true, 0.0]) / error)[:, :2]
    assert pulls.std() == pytest.approx(1.0, abs=0.25)
    assert mean[7, 0] == pytest.approx(np.average(residual[7, :30], weights=weight[7, :30]))
