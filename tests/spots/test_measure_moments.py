"""Adaptive moments against galsim's HSM and the properties that they must have."""

from __future__ import annotations

import galsim
import numpy as np
import pytest
from bench_images import hsm_moments
from hypothesis import given, settings
from hypothesis import strategies as st

from permil.spots.apertures import AdaptiveMoments, SpotImage, adaptive_moments

SIZE = 61


def spot_image(*, g1: float, g2: float, sigma: float, x: float, y: float, noise_seed: int | None = None) -> np.ndarray:
    profile = galsim.Add([galsim.Gaussian(sigma=sigma, flux=8e4), galsim.Moffat(beta=3, half_light_radius=2 * sigma, flux=2e4)])
    middle = (SIZE - 1) / 2
    image = profile.shear(g1=g1, g2=g2).drawImage(nx=SIZE, ny=SIZE, scale=1.0, offset=(x - middle, y - middle)).array
    if noise_seed is not None:
        image = image + np.random.default_rng(noise_seed).normal(0, 5, image.shape)
    return image.astype(np.float32)


def measured(image: np.ndarray, x: float = 30.0, y: float = 30.0, **options: float) -> AdaptiveMoments:
    return adaptive_moments(
        SpotImage(image, np.full(image.shape, 25.0, dtype=np.float32), np.ones(image.shape, dtype=bool), np.zeros(1)),
        np.array([x]),
        np.array([y]),
        sigma=options.get("sigma", 2.0),
        largest_sigma=options.get("largest_sigma", 8.0),
    )


@settings(max_examples=25)
@given(
    g1=st.floats(-0.3, 0.3),
    g2=st.floats(-0.3, 0.3),
    sigma=st.floats(1.3, 4.0),
    x=st.floats(29.0, 31.0),
    y=st.floats(29.0, 31.0),
    seed=st.integers(0, 1000),
)
def test_moments_are_those_of_hsm(g1: float, g2: float, sigma: float, x: float, y: float, seed: int) -> None:
    image = spot_image(g1=g1, g2=g2, sigma=sigma, x=x, y=y, noise_seed=seed)
    ours = measured(image, sigma=sigma)
    theirs = galsim.Image(image, xmin=0, ymin=0).FindAdaptiveMom(guess_sig=sigma)
    assert ours.x[0] == pytest.approx(theirs.moments_centroid.x, abs=2e-5)
    assert ours.y[0] == pytest.approx(theirs.moments_centroid.y, abs=2e-5)
    xx, yy, xy = hsm_moments(galsim.Image(image, xmin=0, ymin=0))
    assert [ours.xx[0], ours.yy[0], ours.xy[0]] == pytest.approx([xx, yy, xy], rel=3e-5, abs=3e-5 * xx)


def test_result_does_not_depend_on_where_the_iteration_begins() -> None:
    image = spot_image(g1=0.1, g2=-0.05, sigma=2.2, x=30.2, y=29.9)
    first, second = measured(image, sigma=1.2), measured(image, 29.3, 30.8, sigma=4.0)
    for quantity in ("x", "y", "xx", "yy", "xy"):
        assert getattr(first, quantity)[0] == pytest.approx(getattr(second, quantity)[0], abs=1e-6)


def test_turned_image_has_turned_moments() -> None:
    image = spot_image(g1=0.15, g2=0.08, sigma=2.2, x=30.3, y=30.6)
    upright, turned = measured(image), measured(np.ascontiguousarray(image.T))
    assert turned.xx[0] == pytest.approx(upright.yy[0], rel=1e-6)
    assert turned.xy[0] == pytest.approx(upright.xy[0], rel=1e-6)
    assert turned.x[0] == pytest.approx(upright.y[0], abs=1e-6)


def test_error_of_background_widens_errors_of_moments_as_a_shifted_background_does() -> None:
    image = spot_image(g1=0.0, g2=0.0, sigma=2.2, x=30.0, y=30.0)
    variance, usable, place = np.zeros(image.shape, dtype=np.float32), np.ones(image.shape, dtype=bool), np.array([30.0])
    options = {"sigma": 2.2, "largest_sigma": 8.0}
    known = adaptive_moments(SpotImage(image, variance, usable, np.array([3.0])), place, place, **options)
    shifted = adaptive_moments(SpotImage(image + np.float32(3.0), variance, usable, np.zeros(1)), place, place, **options)
    assert known.errors[0, 2] == pytest.approx(shifted.xx[0] - known.xx[0], rel=0.02)
    assert known.errors[0, 0] < 1e-3


@pytest.mark.parametrize(
    "image",
    [np.zeros((SIZE, SIZE)), np.full((SIZE, SIZE), -10.0), np.full((SIZE, SIZE), 100.0)],
    ids=["empty", "negative", "flat light"],
)
def test_what_is_no_spot_has_no_moments(image: np.ndarray) -> None:
    moments = measured(image.astype(np.float32))
    assert not moments.converged[0]
    assert np.isnan(moments.errors).all()
