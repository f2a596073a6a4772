"""Unstable and non-linear pixels in single exposures: sizes and errors as drawn, cosmic rays and dead pixels aside."""

from __future__ import annotations

import numpy as np
import pytest

from permil.config.flat import DefectsConfig
from permil.defects.exposures import FEWEST_EXPOSURES, PixelFits, fit_pixels, varying_pixels

NOISE = 36.0


def draw(seed, *, exposures=24, pixels=2000, response=1.0, jumps=0.0, loss=0.0, spread=0.35):
    """Return signals and light, shape (pixels, exposures), of pixels with two levels or a loss in proportion to the charge."""
    rng = np.random.default_rng(seed)
    light = 5e4 * np.linspace(1 - spread, 1, exposures) * np.ones((pixels, 1))
    mean = light * response * (1 + jumps * rng.choice([-1, 1], light.shape))
    mean *= 1 - loss * mean / 5e4
    return mean + np.sqrt(mean + NOISE) * rng.standard_normal(light.shape), light


def fit(signal, light):
    return fit_pixels(signal, light, np.full(signal.shape, NOISE))


def varies(signal, light):
    shape = signal.shape[1], 1, signal.shape[0]
    images = signal.T.reshape(shape).astype(np.float32), light.T.reshape(shape).astype(np.float32)
    return varying_pixels(*images, np.full((shape[0], shape[2]), NOISE, dtype=np.float32))[0]


def test_good_pixels_are_neither() -> None:
    fits = fit(*draw(1, response=0.6))
    options = DefectsConfig()
    assert not fits.unstable(options).any()
    assert not fits.nonlinear(options).any()
    assert fits.response == pytest.approx(np.full(2000, 0.6), abs=0.01)
    assert np.std(fits.nonlinearity / fits.nonlinearity_err) == pytest.approx(1, abs=0.15)
    assert np.max(fits.scatter_significance) < DefectsConfig().significance
    assert np.mean(varies(*draw(2))) < 0.002


@pytest.mark.parametrize("size", [0.125, 0.3])
def test_two_levels(size: float) -> None:
    signal, light = draw(3, jumps=size)
    assert varies(signal, light).all()
    fits = fit(signal, light)
    assert np.median(fits.scatter) == pytest.approx(size, rel=0.05)
    assert np.mean(fits.unstable(DefectsConfig())) > 0.98
    assert np.mean(np.abs(fits.scatter - size) < 3 * fits.scatter_err) > 0.95


@pytest.mark.parametrize("loss", [0.1, 0.4])
def test_nonlinear(loss: float) -> None:
    signal, light = draw(4, loss=loss)
    assert varies(signal, light).all()
    fits = fit(signal, light)
    middle = light.mean() / 5e4
    expected = -loss / (1 - loss * middle)
    assert np.median(fits.nonlinearity) == pytest.approx(expected, rel=0.02)
    assert np.all(fits.nonlinear(DefectsConfig()) == (loss > 0.2))
    assert not fits.unstable(DefectsConfig()).any()
    pulls = (fits.nonlinearity - np.median(fits.nonlinearity)) / fits.nonlinearity_err
    assert np.std(pulls) == pytest.approx(1, abs=0.15)


def test_little_range_of_light_does_not_make_a_pixel_nonlinear() -> None:
    signal, light = draw(5, spread=0.01)
    fits = fit(signal, light)
    assert not fits.nonlinear(DefectsConfig()).any()
    assert np.median(fits.nonlinearity_err) > 0.2


def test_one_cosmic_ray_is_left_out() -> None:
    signal, light = draw(6)
    signal[:, 7] += 3e4
    assert varies(signal, light).all()
    fits = fit(signal, light)
    assert not fits.unstable(DefectsConfig()).any()
    assert not fits.nonlinear(DefectsConfig()).any()


def test_dead_pixels_are_neither() -> None:
    signal, light = draw(7, response=0.01)
    signal += 400 * np.random.default_rng(8).standard_normal(signal.shape)
    fits = fit(signal, light)
    assert not fits.unstable(DefectsConfig()).any()
    assert not fits.nonlinear(DefectsConfig()).any()


def test_exposures_without_signal_do_not_count() -> None:
    signal, light = draw(9, jumps=0.2)
    missing = signal.copy()
    missing[:, ::2] = np.nan
    own = fit(missing, light), fit(signal[:, 1::2], light[:, 1::2])
    for name in PixelFits.__dataclass_fields__:
        assert getattr(own[0], name) == pytest.approx(getattr(own[1], name), rel=1e-6, nan_ok=True), name
    missing[:, FEWEST_EXPOSURES - 1 :] = np.nan
    assert not varies(missing, light).any()
    assert np.isnan(fit(missing, light).scatter).all()
    assert not fit(missing, light).unstable(DefectsConfig()).any()
