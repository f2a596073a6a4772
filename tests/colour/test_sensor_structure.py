"""Structure of simulated flats in several LEDs: what is shared and own per scale, the periodic pattern, medians, correlations."""

from __future__ import annotations

import numpy as np
import pytest

from permil.colour.detector import measure_colour
from permil.colour.moments import (
    AMPLIFIER,
    CELL,
    PIXEL,
    Moments,
    detector_moments,
    joined,
    split_variance,
)
from permil.colour.pattern import find_waves
from permil.colour.regions import LedFlat, change_of_regions, ratio_errors, region_medians
from permil.errors import FlatError
from permil.flat.shared_errors import FlatModes

LEDS = ("uv", "blue", "red")


def flats_of(detector, rng, *, noise=1e-3, own=(5e-4, 5e-4, 5e-4), shared=2e-3, amplifier=1e-3, pattern=0.0, block=16):
    """Flats with pixel structure that LEDs share and their own, amplifier levels that they share, a pattern of the first."""
    ny, nx = detector.shape
    common = shared * rng.standard_normal((ny, nx))
    levels = amplifier * rng.standard_normal(len(detector.amplifiers))[detector.amplifier_map()]
    x = detector.pixel_mm * np.arange(nx)
    waves = np.broadcast_to(np.cos(2 * np.pi / 1.7 * x), (ny, nx))
    shape = (-(-ny // block), -(-nx // block))
    modes = FlatModes(np.full((1, *shape), 1e-4), np.zeros(shape), block)
    flats = []
    for number, led in enumerate(LEDS):
        true = 1 + common + levels + own[number] * rng.standard_normal((ny, nx)) + pattern * waves * (number == 0)
        image = true * (1 + noise * rng.standard_normal((ny, nx)))
        variance = np.full((ny, nx), noise**2)
        flats.append(LedFlat(led, image.astype(np.float32), variance.astype(np.float32), np.ones((ny, nx), bool), modes))
    return flats


@pytest.fixture(scope="module")
def detector(bin8):
    return bin8["R22_S11"]


@pytest.fixture(scope="module")
def found(detector):
    flats = flats_of(detector, np.random.default_rng(4), own=(5e-4, 5e-4, 9e-4), pattern=3e-3)
    return measure_colour(flats, detector, super_pixel_mm=0.64, seed=1)


def test_pixels_are_split_into_shared_and_own(found):
    split = split_variance(found.moments[PIXEL])
    # The others, whose own variance is in the way, predict a part of the shared one.
    precision = 1 / 5e-4**2 + 1 / 9e-4**2
    shared = 2e-3**2 * (1 - 1 / (1 + 2e-3**2 * precision))
    assert split.shared[0] == pytest.approx(shared, rel=0.02)
    assert split.variance[2] == pytest.approx(2e-3**2 + 9e-4**2, rel=0.02)
    assert split.correlation[0, 1] == pytest.approx(2e-3**2 / (2e-3**2 + 5e-4**2), abs=4 * split.correlation_error[0, 1] + 2e-3)


def test_amplifiers_are_shared(found):
    split = split_variance(joined([found.moments[AMPLIFIER]] * 3))
    assert split.variance[0] == pytest.approx(1e-6, rel=1.0)
    assert split.correlation[0, 2] == pytest.approx(1.0, abs=0.02)


def test_cells_without_structure_have_no_variance(detector):
    flats = flats_of(detector, np.random.default_rng(8), shared=0.0, own=(0.0, 0.0, 0.0), amplifier=0.0)
    measured = measure_colour(flats, detector, super_pixel_mm=0.64, seed=1)
    for scale, size in ((PIXEL, 1e-3), (CELL, 1e-3 / 16)):
        split = split_variance(measured.moments[scale])
        assert np.all(np.abs(split.variance) < 4 * split.errors[0] + 1e-3 * size**2), scale


def test_the_pattern_is_found_apart_from_all_else(found):
    assert len(found.waves.vectors) == 1
    assert found.waves.periods_mm[0] == pytest.approx(1.7, abs=0.01)
    assert abs(found.waves.angles_deg[0]) < 0.5
    amplitude, error = found.waves.amplitudes[:, 0], found.waves.errors
    assert abs(amplitude[0] - 3e-3) < 4 * error[0]
    assert amplitude[1] < 4 * error[1]
    pixel = {entry.apart: entry.found for entry in found.correlations if entry.scale == PIXEL and entry.leds == ("uv", "blue")}
    assert pixel[True].r_corrected > pixel[False].r_corrected + 0.1


def test_no_pattern_is_a_result(detector):
    measured = measure_colour(flats_of(detector, np.random.default_rng(5)), detector, super_pixel_mm=0.64, seed=1)
    assert measured.waves.vectors.shape == (0, 2)
    assert all(not entry.apart for entry in measured.correlations)


def test_errors_of_wave_amplitudes_are_true():
    pulls = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[:100, :100] * 0.2
        wave = 4e-3 * np.cos(2 * np.pi * (0.5 * x + 0.3 * y) + 1.0)
        maps = 1e-2 * rng.standard_normal((2, 100, 100)) + np.array([wave, 0.2 * wave])
        waves = find_waves(maps, np.ones((100, 100), bool), 0.2)
        assert len(waves.vectors) == 1
        true = np.array([[4e-3 * np.cos(1.0), -4e-3 * np.sin(1.0)]] * 2) * [[1.0], [0.2]]
        pulls.append((waves.coefficients[1, 0] - true[1]) / waves.errors[1])
    assert 0.75 < np.sqrt(np.mean(np.square(pulls))) < 1.3


def test_medians_have_true_errors(detector):
    pulls = []
    regions = [amplifier.slices for amplifier in detector.amplifiers]
    for seed in range(12):
        rng = np.random.default_rng(seed)
        flat = flats_of(detector, rng, shared=0.0, own=(0.0, 0.0, 0.0), amplifier=0.0, noise=0.02)[0]
        common = 1e-4 * rng.standard_normal()
        image = (flat.image * (1 + common)).astype(np.float32)
        shown = LedFlat("uv", image, flat.variance, flat.good, flat.modes)
        medians = region_medians(shown, flat.good, regions)
        pulls += list((medians.median - 1) / medians.relative_error)
    assert 0.75 < np.sqrt(np.mean(np.square(pulls))) < 1.3


def test_a_region_without_good_pixels_has_no_median(detector):
    flat = flats_of(detector, np.random.default_rng(1))[0]
    good = flat.good.copy()
    good[detector.amplifiers[0].slices] = False
    medians = region_medians(flat, good, [detector.amplifiers[0].slices, detector.amplifiers[1].slices])
    assert np.isnan(medians.median[0])
    assert medians.pixels[0] == 0
    assert medians.median[1] == pytest.approx(1.0, abs=0.01)


def test_shared_terms_reduce_the_error_of_a_ratio():
    change = change_of_regions(np.diag([-1e-8, 0.0, 0.0]), np.array([[0.0, 0.0], [3.0, 4.0]]))
    np.testing.assert_allclose(change, -1e-8)
    np.testing.assert_allclose(ratio_errors(np.full(2, 1e-4), np.full(2, 1e-4), change), 1e-4)
    tilted = change_of_regions(np.diag([0.0, 1e-10, 0.0]), np.array([[3.0, 4.0]]))
    np.testing.assert_allclose(tilted, 9e-10)


def test_one_led_is_not_enough(detector):
    flats = flats_of(detector, np.random.default_rng(1))
    with pytest.raises(FlatError, match="R22_S11 has a flat in one LED only"):
        measure_colour(flats[:1], detector, super_pixel_mm=0.64, seed=0)


def test_flats_without_common_pixels_are_refused(detector):
    flats = flats_of(detector, np.random.default_rng(1))
    lost = LedFlat("red", flats[2].image, flats[2].variance, np.zeros(detector.shape, bool), flats[2].modes)
    with pytest.raises(FlatError, match=r"0\.0% of the pixels are good in all LEDs"):
        measure_colour([flats[0], lost], detector, super_pixel_mm=0.64, seed=0)


def test_levels_of_detectors_are_freed_from_noise_that_leds_share():
    rng = np.random.default_rng(3)
    count, draws = 40, []
    for _ in range(60):
        real = 1e-3 * rng.standard_normal(count)
        drift = 2e-3 * rng.standard_normal(count)
        levels = np.array([real + drift, real + drift + 3e-4 * rng.standard_normal(count)])
        covariance = np.zeros((2, 2, count, count))
        covariance[:] = 4e-6 * np.eye(count)
        draws.append(detector_moments(levels, covariance).covariance())
    mean = np.mean(draws, axis=0)
    np.testing.assert_allclose(mean, [[1e-6, 1e-6], [1e-6, 1e-6 + 9e-8]], atol=3e-7)


def test_a_single_part_has_no_error():
    split = split_variance(Moments(np.array([[[2.0, 1.0], [1.0, 2.0]]]), np.zeros((1, 2, 2)), np.array([10.0])))
    assert np.isnan(split.errors).all()
    assert split.correlation[0, 1] == pytest.approx(0.5)
    assert split.own[0] == pytest.approx(0.2 * (1 - 0.25) * 10 / 9)
