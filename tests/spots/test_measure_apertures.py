"""Aperture fluxes, growth curve and background against independent calculations."""

from __future__ import annotations

import numpy as np
import pytest
import sep

from permil.errors import SpotError
from permil.spots.apertures import SpotImage, aperture_fluxes, growth_curve
from permil.spots.background import fit_background

RADII = (3.0, 4.5, 6.0, 9.0, 12.0, 17.0, 25.0, 35.0)


def test_sums_are_those_of_sep_with_exact_overlaps() -> None:
    rng = np.random.default_rng(1)
    image = rng.normal(100, 30, (200, 220)).astype(np.float32)
    x, y = rng.uniform(40, 180, 40), rng.uniform(40, 160, 40)
    ours = aperture_fluxes(
        SpotImage(image, np.ones_like(image), np.ones(image.shape, dtype=bool), np.zeros(40)), x, y, radii=RADII
    )
    for column, radius in enumerate(RADII):
        theirs, _, _ = sep.sum_circle(image, x, y, radius, subpix=0)
        assert ours.flux[:, column] == pytest.approx(theirs, rel=2e-6)


@pytest.mark.parametrize("place", [(50.0, 50.0), (50.5, 50.5), (50.25, 49.9), (-0.5, 30.0), (-0.5, -0.5)])
def test_area_on_the_image_is_exact(place: tuple[float, float]) -> None:
    image = np.ones((101, 101), dtype=np.float32)
    fluxes = aperture_fluxes(
        SpotImage(image, np.zeros_like(image), np.ones(image.shape, dtype=bool), np.zeros(1)),
        np.array([place[0]]),
        np.array([place[1]]),
        radii=(0.3, 0.5, 2.0, 12.0),
    )
    whole = np.pi * fluxes.radii**2
    # The image begins at -0.5: there a half or a quarter of the circle lies on it.
    on_image = np.prod([0.5 if coordinate == -0.5 else 1.0 for coordinate in place])
    assert fluxes.flux[0] == pytest.approx(on_image * whole, rel=1e-6)


def test_error_adds_pixels_in_squares_and_background_in_full() -> None:
    image = np.zeros((101, 101), dtype=np.float32)
    fluxes = aperture_fluxes(
        SpotImage(image, np.full_like(image, 9.0), np.ones(image.shape, dtype=bool), np.array([0.5])),
        np.array([50.0]),
        np.array([50.0]),
        radii=(12.0,),
    )
    area = np.pi * 12.0**2
    # Squared weights of the pixels along the rim are a little less than the weights.
    assert fluxes.error[0, 0] == pytest.approx(np.hypot(3 * np.sqrt(area), 0.5 * area), rel=0.01)


def test_growth_curve_is_that_of_the_profile() -> None:
    rng = np.random.default_rng(2)
    sigma, radii = 2.3, np.array(RADII)
    flux = 10 ** rng.uniform(5, 6, 50)[:, None] * (1 - np.exp(-(radii**2) / 2 / sigma**2))
    flux[7] *= np.linspace(0.2, 1.5, radii.size)  # a cosmic ray beside one spot
    apertures = aperture_fluxes(
        SpotImage(
            np.zeros((5, 5), dtype=np.float32), np.zeros((5, 5), dtype=np.float32), np.ones((5, 5), dtype=bool), np.zeros(50)
        ),
        np.zeros(50),
        np.zeros(50),
        radii=RADII,
    )
    curve = growth_curve(type(apertures)(apertures.radii, flux, apertures.error), np.ones(50, dtype=bool), reference=25.0)
    assert curve.fraction == pytest.approx(1 - np.exp(-(radii**2) / 2 / sigma**2), rel=1e-9)
    factor, error = curve.correction(3.0)
    assert factor == pytest.approx(1 / (1 - np.exp(-9 / 2 / sigma**2)))
    assert error < 1e-6


def smooth_light(shape: tuple[int, int]) -> np.ndarray:
    y, x = np.indices(shape)
    return 80 + 100 / (1 + np.exp((np.hypot(x - 200, y - 250) - 250) / 90)) + 0.02 * x


def test_background_between_spots_has_the_error_that_it_says() -> None:
    rng = np.random.default_rng(3)
    truth = smooth_light((512, 640))
    y, x = np.indices(truth.shape)
    free = np.hypot((x + 5) % 65 - 32, (y + 9) % 65 - 32) > 28
    pulls = []
    for _ in range(12):
        image = rng.normal(truth, np.sqrt(truth)).astype(np.float32)
        image[~free] += 1e4
        background = fit_background(image, free, box=64)
        places = rng.uniform([40, 40], [600, 470], (200, 2)).T
        level, (error, _) = background.at(*places), background.errors(*places, reach=0.0)
        pulls.append((level - truth[np.rint(places[1]).astype(int), np.rint(places[0]).astype(int)]) / error)
    assert abs(np.mean(pulls)) < 0.15
    # Errors of neighbouring places are one and the same, so that the scatter is known to some per cent only.
    assert 0.85 < np.std(pulls) < 1.25


def test_subtracted_image_is_the_image_less_the_background_at_each_pixel() -> None:
    truth = smooth_light((300, 260))
    background = fit_background(truth.astype(np.float32), np.ones(truth.shape, dtype=bool), box=64)
    left = background.subtracted(truth.astype(np.float32))
    y, x = (index.ravel() for index in np.indices(truth.shape))
    level = background.at(x.astype(float), y.astype(float))
    assert left.ravel() == pytest.approx(truth.ravel() - level, abs=1e-3)
    # Light that changes by 100 electrons over 90 pixels is followed to 3 in 1000, away from the outermost boxes.
    assert np.std(left[64:-64, 64:-64]) < 0.3


def test_curved_light_between_spots_is_followed_exactly() -> None:
    y, x = np.indices((384, 320))
    truth = (50 + 0.05 * x + 2e-3 * (x - 100.0) ** 2 - 1e-3 * (y - 80.0) ** 2).astype(np.float32)
    # Spots in the middle of every box: only the corners are free, where a plane alone would be most wrong.
    free = np.hypot(x % 64 - 31.5, y % 64 - 31.5) > 28
    left = fit_background(truth, free, box=64).subtracted(truth)
    inner = left[32:-32, 32:-32]
    assert np.abs(inner).max() < 0.02 * 2e-3 * 64**2


def test_boxes_without_background_take_that_of_their_neighbours() -> None:
    image = np.full((320, 320), 50.0, dtype=np.float32)
    free = np.ones(image.shape, dtype=bool)
    free[:140, :140] = False
    background = fit_background(image, free, box=64)
    assert background.level == pytest.approx(np.full((5, 5), 50.0))


def test_no_free_pixel_is_an_error() -> None:
    with pytest.raises(SpotError, match="no background"):
        fit_background(np.zeros((64, 64), dtype=np.float32), np.zeros((64, 64), dtype=bool), box=64)
