"""The flat at the stars: relative to sensor and amplifiers, and as stars see it."""

from __future__ import annotations

import numpy as np
import pytest

from permil.compare.stars.flat_at_stars import flat_as_seen, relative_flat
from permil.compare.stars.profile import StarProfile
from permil.compare.stars.response import StarPlaces, StarResponse
from permil.errors import CompareError

PROFILE = StarProfile((0.7, 0.3), (4.5, 22.0))
RESPONSE = StarResponse(PROFILE, aperture=9.0)
SHAPE = (90, 120)
HALVES = np.repeat([0, 1], 60)[None, :] * np.ones((90, 1), dtype=int)


def noisy_flat(seed=0, step=0.02):
    rng = np.random.default_rng(seed)
    flat = 0.9 * (1 + step * HALVES + 1e-3 * rng.standard_normal(SHAPE))
    return flat, np.full(SHAPE, (0.9e-3) ** 2), np.ones(SHAPE, dtype=bool)


def relative(flat=None, usable=None, **settings):
    found, variance, everywhere = noisy_flat()
    flat, usable = found if flat is None else flat, everywhere if usable is None else usable
    return relative_flat(flat, variance, usable, HALVES, **settings)


def test_amplifier_means_are_subtracted_and_given_with_their_errors():
    found = relative()
    for amplifier in (0, 1):
        assert abs(found.excess[amplifier == HALVES].mean()) < 1e-12
    assert found.means[1] - found.means[0] == pytest.approx(0.02 / 1.01, abs=5 * 1e-3 / np.sqrt(2700))
    scatter = np.std([relative(flat=noisy_flat(seed)[0]).means[0] for seed in range(60)])
    # The mean of the sensor, half of it this amplifier, has noise as well.
    assert found.mean_errors[0] / np.sqrt(2) == pytest.approx(scatter, rel=0.3)
    rms, error = found.between_amplifiers
    assert rms == pytest.approx(0.01 / 1.01, rel=0.01)
    assert 0 < error < 0.1 * rms


def test_relative_to_the_detector_amplifiers_keep_their_levels():
    found = relative(reference="detector")
    assert found.excess[HALVES == 1].mean() - found.excess[HALVES == 0].mean() == pytest.approx(0.02 / 1.01, rel=0.01)
    assert abs(found.excess.mean()) < 1e-12


def test_variance_follows_the_scale_of_the_flat():
    assert relative().variance[0, 0] == pytest.approx(1e-6, rel=0.02)


def expected_mean(flat, x, y, weight_of):
    """Average over the light drawn on pixels of a tenth: an independent way."""
    fine = 10
    place = (np.arange(fine) + 0.5) / fine - 0.5
    total = weighted = 0.0
    for row in range(int(y) - 12, int(y) + 13):
        for column in range(int(x) - 12, int(x) + 13):
            u, v = column + place[None, :] - x, row + place[:, None] - y
            weight = weight_of(column - x, row - y, u, v)
            total += weight
            weighted += weight * flat[row, column]
    return weighted / total


def light_of(u, v):
    return sum(f / s * np.exp(-(u**2 + v**2) / (2 * s)) for f, s in zip(PROFILE.fractions, PROFILE.variances, strict=True))


def test_the_flat_is_weighted_with_the_light_in_the_aperture_at_the_sub_pixel_place():
    found = relative()
    places = StarPlaces.round(np.array([30.3, 71.8]), np.array([40.6, 35.1]))
    seen = flat_as_seen(found, places, RESPONSE)
    for star in range(2):
        expected = expected_mean(
            found.excess, places.x[star], places.y[star], lambda a, b, u, v: light_of(a, b) * (np.hypot(u, v) < 9.0).mean()
        )
        assert seen.excess[star] == pytest.approx(expected, abs=2e-7)


def test_error_is_the_scatter_of_noise_in_the_flat():
    places = StarPlaces.round(np.array([30.3, 71.8]), np.array([40.6, 35.1]))
    seen = [flat_as_seen(relative(flat=noisy_flat(seed)[0]), places, RESPONSE) for seed in range(300)]
    assert np.std([entry.excess for entry in seen], axis=0) == pytest.approx(seen[0].error, rel=0.12)


def test_masked_pixels_do_not_count_and_losses_are_reported():
    flat, _, usable = noisy_flat()
    usable[41, 30] = usable[41, 31] = False
    usable[10:40, 90:] = False
    flat[~usable] = 7.0
    places = StarPlaces.round(np.array([30.3, 100.0, 60.0]), np.array([40.6, 25.0, 70.0]))
    seen = flat_as_seen(relative(flat=flat, usable=usable), places, RESPONSE, largest_loss=0.2)
    assert 0.02 < seen.lost[0] < 0.2
    assert abs(seen.excess[0]) < 1e-3
    assert seen.lost[1] > 0.9
    assert np.isnan(seen.excess[1])
    assert seen.lost[2] == 0


def test_stars_at_the_edge_lose_what_lies_beyond():
    places = StarPlaces.round(np.array([-0.5]), np.array([45.0]))
    assert flat_as_seen(relative(), places, RESPONSE).lost[0] == pytest.approx(0.5, abs=0.01)


def test_bad_flats():
    flat, variance, usable = noisy_flat()
    with pytest.raises(CompareError, match="shape"):
        relative_flat(flat, variance[:-1], usable, HALVES)
    with pytest.raises(CompareError, match="no pixel"):
        relative_flat(flat, variance, ~usable, HALVES)
    with pytest.raises(CompareError, match="constant"):
        relative_flat(np.ones(SHAPE), variance, usable, HALVES)
    for wrong in (np.nan, -1.0):
        spoilt = flat.copy()
        spoilt[3, 4] = wrong
        with pytest.raises(CompareError, match="finite and positive"):
            relative_flat(spoilt, variance, usable, HALVES)


@pytest.mark.parametrize("place", [(130.0, 20.0), (20.0, -3.0)])
def test_stars_of_another_detector(place):
    with pytest.raises(CompareError, match="outside the flat"):
        flat_as_seen(relative(), StarPlaces.round(np.array([50.0, place[0]]), np.array([50.0, place[1]])), RESPONSE)


def test_stars_without_a_place():
    with pytest.raises(CompareError, match="no position"):
        flat_as_seen(relative(), StarPlaces.round(np.array([np.nan]), np.array([5.0])), RESPONSE)
