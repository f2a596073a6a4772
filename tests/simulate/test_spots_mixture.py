"""Flats of known parts: the fields, the displacement and the diffusion that show them, and what the sensor makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from permil.camera import load_camera
from permil.config.simulate import SimulateSpotsConfig
from permil.errors import ConfigError
from permil.simulate.spots import SensorMaps, sensor_mixture
from permil.simulate.spots.sensor import diffusion_of, displacement_of, half_laplacian, random_field, sensor_maps

SCALES = {"scale_px": 12.0, "high_pass_px": 30.0}
SIZES = st.integers(5, 40)


def of_mean_zero(ny: int, nx: int, seed: int) -> np.ndarray:
    field = np.random.default_rng(seed).standard_normal((ny, nx))
    return field - field.mean()


@settings(max_examples=30)
@given(ny=SIZES, nx=SIZES, seed=st.integers(0, 2**32 - 1))
def test_divergence_of_the_displacement_is_minus_the_field(ny: int, nx: int, seed: int) -> None:
    area = of_mean_zero(ny, nx, seed)
    shift_x, shift_y = displacement_of(area)
    assert np.abs(np.diff(shift_x, axis=1) + np.diff(shift_y, axis=0) + area).max() < 1e-11
    assert not shift_x[:, [0, -1]].any()
    assert not shift_y[[0, -1]].any()
    # No circulation around any corner of four pixels.
    curl = np.diff(shift_x[:, 1:-1], axis=0) - np.diff(shift_y[1:-1], axis=1)
    assert np.abs(curl).max() < 1e-11


@settings(max_examples=30)
@given(ny=SIZES, nx=SIZES, seed=st.integers(0, 2**32 - 1))
def test_diffusion_shows_the_field_in_the_flat(ny: int, nx: int, seed: int) -> None:
    wanted = 1e-4 * of_mean_zero(ny, nx, seed)
    diffusion = diffusion_of(wanted)
    zero_x, zero_y = np.zeros((ny, nx + 1)), np.zeros((ny + 1, nx))
    maps = SensorMaps(np.ones((ny, nx)), zero_x, zero_y, diffusion)
    assert np.abs(maps.diffusion_flat - wanted).max() < 1e-13
    # The flat has a second order, 1/8 of the double Laplacian of the square: it goes with the square of the map.
    tenth = SensorMaps(np.ones((ny, nx)), zero_x, zero_y, 0.1 * diffusion)
    excess, excess_of_tenth = maps.flat() - 1 - wanted, tenth.flat() - 1 - 0.1 * wanted
    assert excess_of_tenth == pytest.approx(0.01 * excess, abs=1e-14)


def test_half_laplacian_is_that_of_a_known_function() -> None:
    y, x = np.indices((60, 80)) + 0.5
    # Its slope vanishes on the outer borders.
    wave_y, wave_x = 2 * np.pi / 60, 3 * np.pi / 80
    function = np.cos(wave_y * y) * np.cos(wave_x * x)
    assert half_laplacian(function) == pytest.approx(-0.5 * (wave_x**2 + wave_y**2) * function, abs=1e-6)


def test_random_field_has_the_autocorrelation_of_its_spectrum() -> None:
    scale, high_pass = 4.0, 10.0
    # Transform of exp(-k² scale²) (1 - exp(-k² high_pass² / 2))²: three Gaussians.
    weights, variances = np.array([1.0, -2.0, 1.0]), scale**2 + np.array([0.0, 0.5, 1.0]) * high_pass**2
    lags = np.array([0, 3, 6, 10, 15])
    expected = np.sum(weights / variances * np.exp(-(lags[:, None] ** 2) / (4 * variances)), axis=1)
    inner = slice(30, -30)
    measured = []
    for seed in range(20):
        field = random_field(np.random.default_rng(seed), (400, 360), scale=scale, high_pass=high_pass)
        assert field.mean() == pytest.approx(0.0, abs=1e-12)
        assert field.std() == pytest.approx(1.0)
        piece = field[inner, inner]
        measured.append([np.mean(piece[:, lag:] * piece[:, : piece.shape[1] - lag]) for lag in lags])
    mean, error = np.mean(measured, axis=0), np.std(measured, axis=0) / np.sqrt(20)
    # The mirror adds to the variance at the borders, so that the middle has a little less than 1.
    assert 0.9 < mean[0] < 1.0
    ratio = mean / mean[0]
    assert np.all(np.abs(ratio - expected / expected[0]) < 4 * error + 1e-3)


@pytest.mark.parametrize("fractions", [(1, 0, 0), (0, 1, 0), (0.5, 0.5, 0), (0.4, 0.4, 0.2)])
def test_mixture_has_the_asked_parts_and_its_flat_is_their_sum(fractions: tuple[float, float, float]) -> None:
    rms = 3e-3
    maps = sensor_mixture((800, 700), rms=rms, fractions=fractions, seed=5, **SCALES)
    parts = maps.efficiency - 1, maps.area, maps.diffusion_flat
    for part, fraction in zip(parts, fractions, strict=True):
        assert np.std(part) == pytest.approx(rms * fraction**0.5, rel=1e-9)
    flat = maps.flat() - 1
    # Second order: products of two parts, and steps of some 0.02 pixel on a scale of 12.
    assert np.std(flat - sum(parts)) < 0.01 * rms
    realised = [np.mean(part * flat) / flat.var() for part in parts]
    assert sum(realised) == pytest.approx(1.0, abs=0.01)
    # About 500 independent cells: chance correlations of 0.05.
    assert realised == pytest.approx(fractions, abs=0.1)


def test_fields_are_independent_of_the_fractions_and_of_each_other() -> None:
    first, second = (
        sensor_mixture((300, 300), rms=1e-3, fractions=fractions, seed=2, **SCALES) for fractions in ((4, 4, 2), (1, 2, 0))
    )
    assert (second.efficiency - 1) * (0.4 * 3) ** 0.5 == pytest.approx(first.efficiency - 1, abs=1e-13)
    assert second.area * (0.4 * 1.5) ** 0.5 == pytest.approx(first.area, abs=1e-13)
    assert not second.diffusion.any()
    other = sensor_mixture((300, 300), rms=1e-3, fractions=(4, 4, 2), seed=3, **SCALES)
    pairs = [(first.efficiency, first.area), (first.area, first.diffusion_flat), (first.efficiency, other.efficiency)]
    for one, two in pairs:
        assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.35


@pytest.mark.parametrize(
    "wrong", [{"fractions": (0, 0, 0)}, {"fractions": (1, -1, 1)}, {"scale_px": 0.0}, {"high_pass_px": -1.0}]
)
def test_a_mixture_that_cannot_be_is_an_error(wrong: dict[str, object]) -> None:
    asked = {"rms": 1e-3, "fractions": (1, 0, 0), "seed": 1, **SCALES} | wrong
    with pytest.raises(ConfigError):
        sensor_mixture((50, 50), **asked)


def test_mixture_of_the_configuration_is_added_to_the_other_maps() -> None:
    detector = load_camera("spots-cutout")["R22_S11"]
    mixture = {"rms": 1.5e-3, "efficiency": 40, "area": 40, "diffusion": 20}
    plain, mixed = (sensor_maps(SimulateSpotsConfig(sensor=sensor), detector) for sensor in ({}, {"mixture": mixture}))
    for name, fraction in (("efficiency", 0.4), ("area", 0.4), ("diffusion_flat", 0.2)):
        added = getattr(mixed, name) - getattr(plain, name)
        assert np.std(added) == pytest.approx(1.5e-3 * fraction**0.5, rel=1e-6)
    off = {"efficiency": False, "displacement": False, "diffusion": False}
    nothing = sensor_maps(SimulateSpotsConfig(sensor={"mixture": mixture}, effects=off), detector)
    assert (nothing.flat() == 1).all()


def test_diffusion_that_leaves_no_width_to_the_spots_is_an_error() -> None:
    detector = load_camera("spots-cutout")["R22_S11"]
    config = SimulateSpotsConfig(sensor={"mixture": {"rms": 3e-3, "efficiency": 0, "area": 0, "diffusion": 1}})
    with pytest.raises(ConfigError, match="from the variance of spots"):
        sensor_maps(config, detector)


def test_mixture_without_parts_is_an_error() -> None:
    with pytest.raises(ValidationError, match="must be above 0"):
        SimulateSpotsConfig(sensor={"mixture": {"efficiency": 0, "area": 0, "diffusion": 0}})
