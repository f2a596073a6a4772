"""Tree rings: found where the simulator put them, not found where there are none; profile, template and zone against truth."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from permil.camera import load_camera
from permil.compare.rings.profile import RingProfile, radial_profile, ring_zone
from permil.compare.rings.search import find_rings
from permil.config.simulate import SimulateSpotsConfig
from permil.errors import CompareError
from permil.simulate.randoms import generator
from permil.simulate.spots.sensor import sensor_maps

SHAPE = (1024, 1024)
ALL = np.ones(SHAPE, dtype=bool)


@cache
def detector():
    return load_camera("spots-cutout")["R22_S11"]


def simulated(seed: int, *, rings: bool = True, tree_ring_rms: float = 1e-3, noise: float = 1e-3):
    """Return a flat of the simulator with photon noise, and the axis of its rings (drawn as the simulator draws it)."""
    config = SimulateSpotsConfig(seed=seed, effects={"displacement": rings}, sensor={"tree_ring_rms": tree_ring_rms})
    flat = sensor_maps(config, detector()).flat()
    rng = generator(seed, "spots", "rings", detector().name)
    axis = rng.integers(0, 2, 2) * np.array(SHAPE[::-1]) + rng.normal(0, 0.1, 2) * np.array(SHAPE[::-1])
    return flat + noise * np.random.default_rng(seed).standard_normal(SHAPE), axis


def drawn_rings(axis, *, rms=1e-3, shape=SHAPE, scale=12.0, seed=0):
    """Return rings around an axis, random in radius, and their profile at integer radii."""
    profile = ndimage.gaussian_filter1d(np.random.default_rng(seed).standard_normal(8000), scale)
    profile = np.gradient(profile)
    profile *= rms / profile.std()
    y, x = np.indices(shape)
    return np.interp(np.hypot(x - axis[0], y - axis[1]), np.arange(profile.size), profile), profile


@pytest.mark.parametrize("seeds", [2, pytest.param(4, marks=pytest.mark.full)])
@pytest.mark.parametrize(("tree_ring_rms", "furthest"), [(5e-3, 2.5), (1e-3, 6.0)])
def test_axis_of_the_simulator_is_found(tree_ring_rms, furthest, seeds):
    pulls = []
    for seed in range(seeds):
        flat, axis = simulated(seed, tree_ring_rms=tree_ring_rms)
        search = find_rings(flat, ALL, segments=detector().amplifier_map(), surrogates=19, cell_px=4, seed=seed)
        assert search.found
        assert search.significance > 30
        assert np.hypot(*(np.array(search.centre) - axis)) < furthest
        pulls.append((np.array(search.centre) - axis) / search.centre_error)
    # Errors hold the correlated structure of the sensor but roughly.
    assert 0.2 < np.sqrt(np.mean(np.square(pulls))) < 2.0


@pytest.mark.parametrize("seeds", [4, pytest.param(14, marks=pytest.mark.full)])
def test_no_rings_is_a_result(seeds):
    p_values, found = [], []
    for seed in range(seeds):
        flat, _ = simulated(seed + 100, rings=False)
        search = find_rings(flat, ALL, surrogates=19, cell_px=4, seed=seed)
        p_values.append(search.p_value)
        found.append(search.found)
    assert not any(found)
    # Uniform: one tenth below 0.1 and half below 0.5, within three standard deviations, but not all on one side.
    assert np.mean(np.array(p_values) <= 0.1) < 0.1 + 3 * 0.3 / np.sqrt(seeds)
    assert abs(np.mean(np.array(p_values) <= 0.5) - 0.5) < min(3 * 0.5 / np.sqrt(seeds), 0.5)
    assert search.profile is None
    assert np.isnan(search.centre).all()
    assert np.isnan(search.centre_error).all()
    assert str(search).startswith("no tree rings found")


def straight_lines(rng):
    x, y = np.arange(1024), np.arange(1024)[:, None]
    return 1e-3 * (np.sin(2 * np.pi * (x + y) / 60 + rng.uniform(0, 6)) + np.sin(2 * np.pi * (x - y) / 60))


def columns(rng):
    return 1e-3 * rng.standard_normal(1024) + 3e-3 * ndimage.gaussian_filter1d(rng.standard_normal(1024), 10.0)


def blemishes(rng):
    y, x = np.indices(SHAPE)
    pattern = np.zeros(SHAPE)
    for centre in rng.uniform(0, 1024, (3, 2)):
        pattern[np.abs(np.hypot(x - centre[0], y - centre[1]) - 40) < 15] -= 2e-2
    return pattern


def wrong_gains(rng):
    return 0.01 * rng.standard_normal(4)[detector().amplifier_map()]


@pytest.mark.parametrize("pattern", [straight_lines, columns, blemishes, wrong_gains])
def test_other_patterns_are_no_rings(pattern):
    for seed in range(2):
        rng = np.random.default_rng(seed)
        flat = 1 + 1e-3 * rng.standard_normal(SHAPE) + pattern(rng)
        assert not find_rings(flat, ALL, segments=detector().amplifier_map(), surrogates=19, cell_px=4, seed=seed).found


def test_masks_and_gains_do_not_move_the_axis():
    axis = (1100.0, -150.0)
    rng = np.random.default_rng(4)
    rings, _ = drawn_rings(axis, rms=2e-3)
    flat = (1 + rings + 1e-3 * rng.standard_normal(SHAPE)) * (1 + 0.02 * rng.standard_normal(4))[detector().amplifier_map()]
    good = rng.random(SHAPE) > 0.05
    good[300:500, 100:400] = False
    flat[~good] = np.nan
    search = find_rings(flat, good, segments=detector().amplifier_map(), surrogates=19)
    assert search.found
    assert np.all(np.abs(np.array(search.centre) - axis) < 4 * np.array(search.centre_error) + 0.5)
    assert "tree rings around" in str(search)


def test_profile_follows_the_rings_within_its_errors():
    axis = (-120.0, -60.0)
    rings, truth = drawn_rings(axis, rms=1e-3)
    flat = 1 + rings + 3e-3 * np.random.default_rng(1).standard_normal(SHAPE)
    profile = radial_profile(flat, ALL, axis, width_px=4.0, highpass_px=None)
    known = np.isfinite(profile.level)
    expected = np.interp(profile.radius, np.arange(truth.size), truth) - rings.mean()
    pulls = ((profile.level - expected) / profile.error)[known]
    assert known.mean() > 0.85
    assert abs(pulls.mean()) < 0.25
    assert 0.85 < pulls.std() < 1.25
    # The noise of an annulus is that of its pixels.
    independent = 3e-3 / np.sqrt(profile.count[known])
    assert np.median(profile.error[known] / independent) == pytest.approx(1.0, abs=0.12)


def test_a_profile_on_the_detector_is_the_pattern():
    axis = (1150.0, 1100.0)
    rings, _ = drawn_rings(axis, rms=1e-3)
    flat = 1 + rings + 2e-3 * np.random.default_rng(2).standard_normal(SHAPE)
    profile = radial_profile(flat, ALL, axis, width_px=2.0, highpass_px=None)
    template = profile.at(np.arange(SHAPE[1])[None, :], np.arange(SHAPE[0])[:, None])
    known = np.isfinite(template)
    assert known.mean() > 0.98
    assert np.corrcoef(template[known], rings[known])[0, 1] > 0.97
    assert np.polyfit(rings[known], template[known], 1)[0] == pytest.approx(1.0, abs=0.04)


def test_binned_sensor_has_the_same_rings():
    """Pixels of eight: the scales are in pixels of the image that is given."""
    axis = np.array([560.0, -40.0])
    rings, _ = drawn_rings(axis, rms=3e-4, shape=(500, 512), scale=1.5)
    flat = 1 + rings + 3e-4 * np.random.default_rng(2).standard_normal(rings.shape)
    search = find_rings(flat, np.ones(rings.shape, dtype=bool), highpass_px=6.25, surrogates=19)
    assert search.found
    assert np.hypot(*(np.array(search.centre) - axis)) < 1.0


def test_zone_is_where_rings_are_strong():
    """Rings of 2 per mil within 400 to 700 pixels of the axis, 0.1 per mil elsewhere."""
    axis = (0.0, 0.0)
    rings, _ = drawn_rings(axis, rms=1.0)
    y, x = np.indices(SHAPE)
    distance = np.hypot(x, y)
    strength = np.where((distance > 400) & (distance < 700), 2e-3, 1e-4)
    flat = 1 + strength * rings + 1e-3 * np.random.default_rng(3).standard_normal(SHAPE)
    zone = ring_zone(radial_profile(flat, ALL, axis), amplitude=1e-3, window_px=100.0)
    inside = zone.contains(x, y)
    assert inside[(distance > 460) & (distance < 640)].mean() > 0.95
    assert inside[(distance < 330) | (distance > 770)].mean() < 0.02
    assert not zone.contains(5000.0, 5000.0)


def test_local_amplitude_is_free_of_noise():
    rng = np.random.default_rng(8)
    radius = np.arange(0.5, 40000, 4.0)
    error = np.full(radius.size, 2e-3)
    level = 1e-3 * rng.standard_normal(radius.size) + error * rng.standard_normal(radius.size)
    profile = RingProfile((0.0, 0.0), radius, level, error, np.ones(radius.size))
    amplitude, _ = profile.local_amplitude(window_px=8000.0)
    assert np.median(amplitude) == pytest.approx(1e-3, rel=0.15)


def test_same_seed_same_result():
    flat, _ = simulated(3)
    first, again, other = (find_rings(flat, ALL, surrogates=19, cell_px=4, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.null_scores, again.null_scores)
    assert not np.array_equal(first.null_scores, other.null_scores)
    assert first.centre == other.centre


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"good": np.zeros(SHAPE, dtype=bool)}, "no pixel"),
        ({"good": np.ones((10, 10), dtype=bool)}, "do not match"),
        ({"flat": np.zeros(SHAPE)}, "not positive"),
        ({"cell_px": 100}, "too few for rings"),
        ({"highpass_px": 0.5}, "shorter than a cell"),
        ({"surrogates": 5}, "too few"),
        ({"good": (np.indices(SHAPE) < 200).all(axis=0)}, "too little"),
    ],
)
def test_bad_input(change, message):
    given = {"flat": 1 + 1e-3 * np.random.default_rng(0).standard_normal(SHAPE), "good": ALL} | change
    with pytest.raises(CompareError, match=message):
        find_rings(given.pop("flat"), given.pop("good"), **given)


def test_constant_flat_has_no_rings_to_look_for():
    with pytest.raises(CompareError, match="constant"):
        find_rings(np.ones(SHAPE), ALL)


def test_profile_refuses_bad_widths_and_amplitudes():
    flat, _ = simulated(3)
    with pytest.raises(CompareError, match="positive width"):
        radial_profile(flat, ALL, (0.0, 0.0), width_px=0.0)
    with pytest.raises(CompareError, match="threshold"):
        ring_zone(radial_profile(flat, ALL, (0.0, 0.0)), amplitude=0.0)
