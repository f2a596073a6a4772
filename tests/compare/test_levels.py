"""Variance components over the levels of the focal plane, against known truth and an independent analysis of variance."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from permil.compare.levels.groups import BOTH, COMMON, SPECIFIC, CellPlaces
from permil.compare.levels.split import pair_levels, split_levels
from permil.errors import CompareError

TRUTH = {
    ("raft", COMMON): 2e-3,
    ("raft", SPECIFIC): 0.5e-3,
    ("detector", COMMON): 3e-3,
    ("detector", SPECIFIC): 1e-3,
    ("amplifier", COMMON): 2e-3,
    ("amplifier", SPECIFIC): 0.7e-3,
    ("cell", COMMON): 1e-3,
    ("cell", SPECIFIC): 1e-3,
}
LEVELS = ("raft", "detector", "amplifier", "cell")


def focal_plane(rafts=14, detectors=3, amplifiers=3, cells=3, leds=2):
    """Return the places of a full hierarchy and the index of each level of each measurement."""
    sizes = (rafts, detectors, amplifiers, cells, leds)
    raft, detector, amplifier, cell, led = (index.ravel() for index in np.indices(sizes))
    x_mm = raft % 5 * 126.0 + detector % 3 * 42.0 + amplifier % 4 * 10.0 + cell % 2 * 3.0
    y_mm = raft // 5 * 126.0 + detector // 3 * 42.0 + amplifier // 4 * 20.0 + cell // 2 * 3.0
    raft_name = np.char.add("R", raft.astype(str))
    places = CellPlaces(
        detector=np.char.add(np.char.add(raft_name, "_S"), detector.astype(str)),
        amplifier=amplifier.astype(str),
        raft=raft_name,
        led=np.char.add("led", led.astype(str)),
        cell=cell,
        x_mm=x_mm,
        y_mm=y_mm,
    )
    return places, (raft, detector, amplifier, cell), led, sizes


def draw(rng, places, indices, led, sizes, *, truth=TRUTH, noise=1e-3):
    """Return a quantity with the given rms per level and part, and its errors (which differ by a factor of four)."""
    value = np.zeros(len(places))
    for (level, part), rms in truth.items():
        depth = LEVELS.index(level) + 1
        where = indices[:depth] + ((led,) if part == SPECIFIC else ())
        shape = sizes[:depth] + ((sizes[-1],) if part == SPECIFIC else ())
        value += rms * rng.standard_normal(shape)[where]
    error = noise * rng.uniform(0.5, 2, len(places))
    return value + error * rng.standard_normal(len(places)), error


@cache
def many_splits(planes):
    """Return estimates, errors and truth of some focal planes with a fifth of the measurements and some detectors missing."""
    places, *frame = focal_plane()
    estimates, errors = [], []
    for seed in range(planes):
        rng = np.random.default_rng(seed)
        value, error = draw(rng, places, *frame)
        missing = (rng.random(len(places)) < 0.2) | np.isin(places.detector, rng.choice(np.unique(places.detector), 5))
        split = split_levels(np.where(missing, np.nan, value), error, places, draws=40, seed=seed)
        estimates.append([split[key].variance for key in TRUTH])
        errors.append([split[key].error for key in TRUTH])
    return np.array(estimates), np.array(errors), np.array([rms**2 for rms in TRUTH.values()])


PLANES = [40, pytest.param(150, marks=pytest.mark.full)]


@pytest.mark.parametrize("planes", PLANES)
def test_components_are_unbiased_for_unbalanced_data(planes):
    estimates, _, truth = many_splits(planes)
    standard = estimates.std(axis=0) / np.sqrt(len(estimates))
    np.testing.assert_array_less(np.abs(estimates.mean(axis=0) - truth) / standard, 3.2)


@pytest.mark.parametrize("planes", PLANES)
def test_errors_follow_the_scatter_and_cover(planes):
    estimates, errors, truth = many_splits(planes)
    few = np.sqrt(150 / planes)
    np.testing.assert_allclose(errors.mean(axis=0) / estimates.std(axis=0), 1.0, atol=0.2 * few)
    covered = (np.abs(estimates - truth) < errors).mean(axis=0)
    # 68 per cent, less for the few rafts whose estimates are skew; 150 draws tell 4 per cent.
    assert np.all(covered > 0.68 - 0.11 * few)
    assert covered.mean() == pytest.approx(0.69, abs=0.06 * few)


def test_balanced_data_give_the_classical_analysis_of_variance():
    places, *frame = focal_plane(leds=1)
    value, _ = draw(np.random.default_rng(3), places, *frame)
    value = 0.02 + value
    places = replace(places, led=None, x_mm=None, y_mm=None)
    split = split_levels(value, np.full(len(places), 1e-12), places, draws=10)
    table = value.reshape(14, 3, 3, 3)
    raft, detector, amplifier = (table.mean(axis=axes, keepdims=True) for axes in ((1, 2, 3), (2, 3), 3))
    mean_square = {
        "raft": 27 * ((raft - table.mean()) ** 2).sum() / 13,
        "detector": 9 * ((detector - raft) ** 2).sum() / (14 * 2),
        "amplifier": 3 * ((amplifier - detector) ** 2).sum() / (14 * 3 * 2),
        "cell": ((table - amplifier) ** 2).sum() / (14 * 9 * 2),
    }
    assert split["cell", BOTH].variance == pytest.approx(mean_square["cell"], rel=1e-6)
    assert split["amplifier", BOTH].variance == pytest.approx((mean_square["amplifier"] - mean_square["cell"]) / 3, rel=1e-6)
    expected = (mean_square["detector"] - mean_square["amplifier"]) / 9
    assert split["detector", BOTH].variance == pytest.approx(expected, rel=1e-6)
    assert split["raft", BOTH].variance == pytest.approx((mean_square["raft"] - mean_square["detector"]) / 27, rel=1e-6)
    assert [c.degrees_of_freedom for c in split.components] == [13, 28, 84, 252]


def test_error_of_a_variance_is_the_textbook_one():
    """One detector, its cells alone: the variance of a variance is 2 sigma^4 / (n - 1)."""
    rng = np.random.default_rng(5)
    places = CellPlaces(detector=np.full(400, "R22_S11"))
    value, error = 2e-3 * rng.standard_normal(400), np.full(400, 1e-3)
    value += error * rng.standard_normal(400)
    split = split_levels(value, error, places, draws=400)
    (cell,) = split.components
    assert cell.variance == pytest.approx(value.var(ddof=1) - 1e-6, rel=1e-9)
    assert cell.error == pytest.approx(value.var(ddof=1) * np.sqrt(2 / 399), rel=0.12)


def test_interval_of_few_groups_covers():
    """Sixteen amplifiers, five terms of the place: skew estimates; the 68 per cent interval holds, the upper limit too."""
    places, *frame = focal_plane(rafts=1, detectors=1, amplifiers=16, cells=20, leds=2)
    inside, below = [], []
    for seed in range(120):
        value, error = draw(np.random.default_rng(seed), places, *frame)
        amplifier = split_levels(value, error, places, draws=40, seed=seed)["amplifier", COMMON]
        inside.append(amplifier.interval[0] < 4e-6 < amplifier.interval[1])
        below.append(amplifier.upper_per_mil > 2.0)
    assert 0.57 < np.mean(inside) < 0.79
    assert np.mean(below) > 0.9


def test_smooth_function_of_the_place_is_separated_from_detectors():
    places, *frame = focal_plane(detectors=9, amplifiers=2, cells=1)
    led = frame[1]
    slope = np.array([1.0, 2.0])[led] * 4e-3
    smooth = slope * (places.x_mm - places.x_mm.mean()) / places.x_mm.std()
    truth = {("detector", COMMON): 1e-3, ("detector", SPECIFIC): 0.5e-3}
    found = []
    for seed in range(40):
        value, error = draw(np.random.default_rng(seed), places, *frame, truth=truth, noise=0.5e-3)
        split = split_levels(value + smooth, error, places, draws=10)
        found.append([split["place", part].variance for part in (COMMON, SPECIFIC)] + [split["detector", COMMON].variance])
    # Slopes b and 2 b: between LEDs the variance is b^2 / 2, and half of that is in the square of their mean, 9 b^2 / 4.
    expected = [2.0 * 16e-6, 0.5 * 16e-6, 1e-6]
    found = np.array(found)
    np.testing.assert_array_less(np.abs(found.mean(axis=0) - expected) / (found.std(axis=0) / np.sqrt(40)), 3.2)


def test_pairs_give_slope_and_correlation_of_each_level():
    """Stars follow the flat at the cells (slope 1), not at amplifiers, and opposite at detectors."""
    places, *frame = focal_plane(leds=1)
    places = replace(places, x_mm=None, y_mm=None)
    flat_truth = {("detector", COMMON): 2e-3, ("amplifier", COMMON): 3e-3, ("cell", COMMON): 2e-3}
    slopes = {"detector": -0.5, "amplifier": 0.0, "cell": 1.0}
    found, errors = {level: [] for level in slopes}, {level: [] for level in slopes}
    correlations = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        flat, star = np.zeros(len(places)), np.zeros(len(places))
        for key, rms in flat_truth.items():
            effect, _ = draw(rng, places, *frame, truth={key: rms}, noise=0.0)
            own, _ = draw(rng, places, *frame, truth={key: 1e-3}, noise=0.0)
            flat, star = flat + effect, star + slopes[key[0]] * effect + own
        flat_error, star_error = np.full(len(places), 1.5e-3), 1e-3 * rng.uniform(0.5, 4, len(places))
        flat += flat_error * rng.standard_normal(len(places))
        star += star_error * rng.standard_normal(len(places))
        split = pair_levels(flat, flat_error, star, star_error, places, draws=40, seed=seed)
        for pair in split.pairs:
            if pair.level in slopes:
                found[pair.level].append(pair.slope)
                errors[pair.level].append(pair.slope_error)
            if pair.level == "cell":
                correlations.append((pair.r - 2 / np.sqrt(5)) / pair.r_error)
    for level, slope in slopes.items():
        known = np.isfinite(found[level])
        assert known.mean() > 0.8
        pulls = (np.array(found[level]) - slope)[known] / np.array(errors[level])[known]
        assert abs(np.mean(pulls)) < 0.45
        assert 0.75 < np.std(pulls) < 1.3
    assert abs(np.mean(correlations)) < 0.45
    assert 0.75 < np.std(correlations) < 1.3


def test_one_detector_and_one_led_say_what_they_cannot():
    places, *frame = focal_plane(rafts=1, detectors=1, amplifiers=16, cells=20, leds=1)
    value, error = draw(np.random.default_rng(1), places, *frame)
    split = split_levels(value, error, places, draws=10)
    assert [(c.level, c.part) for c in split.components] == [("place", BOTH), ("amplifier", BOTH), ("cell", BOTH)]
    reasons = {(entry.level, entry.part): entry.reason for entry in split.left_out}
    assert "one detector" in reasons["detector", BOTH]
    assert "one LED" in reasons["cell", SPECIFIC]
    with pytest.raises(CompareError, match="all cells lie on one detector"):
        split["detector", COMMON]


def test_two_leds_on_one_detector_separate_light_from_response():
    places, *frame = focal_plane(rafts=1, detectors=1, amplifiers=16, cells=20, leds=2)
    value, error = draw(np.random.default_rng(1), places, *frame)
    split = split_levels(value, error, places, draws=60)
    assert abs(split["cell", COMMON].variance - 1e-6) < 4 * split["cell", COMMON].error
    assert abs(split["amplifier", SPECIFIC].variance - 0.49e-6) < 4 * split["amplifier", SPECIFIC].error
    assert len(split.rows()) == len(split.components)


def test_rafts_of_one_detector_are_detectors():
    places, *frame = focal_plane(rafts=20, detectors=1, leds=1)
    value, error = draw(np.random.default_rng(1), places, *frame)
    split = split_levels(value, error, places, draws=10)
    assert {c.level for c in split.components} == {"place", "detector", "amplifier", "cell"}
    assert any(entry.level == "raft" and "no raft has more than one detector" in entry.reason for entry in split.left_out)


def test_detectors_seen_in_different_leds_cannot_separate_light_from_response():
    places, *frame = focal_plane(leds=2)
    value, error = draw(np.random.default_rng(1), places, *frame)
    detector_number = np.unique(places.detector, return_inverse=True)[1]
    seen = detector_number % 2 == frame[1]
    split = split_levels(value[seen], error[seen], places.take(seen), draws=10)
    assert ("detector", BOTH) in {(c.level, c.part) for c in split.components}
    assert any(e.level == "detector" and "in one LED only" in e.reason for e in split.left_out)


def test_repeated_measurements_show_scatter_beyond_their_errors():
    places, *frame = focal_plane(rafts=1, detectors=1, amplifiers=8, cells=12, leds=20)
    value, error = draw(np.random.default_rng(1), places, *frame, truth={("cell", COMMON): 2e-3, ("cell", SPECIFIC): 1.5e-3})
    split = split_levels(value, error, replace(places, led=None, x_mm=None, y_mm=None), draws=60)
    assert abs(split["measurement", BOTH].variance - 1.5e-3**2) < 4 * split["measurement", BOTH].error
    assert abs(split["cell", BOTH].variance - 4e-6) < 4 * split["cell", BOTH].error


def test_too_few_detectors_lower_the_degree():
    places, *frame = focal_plane(rafts=2, detectors=3, leds=1)
    value, error = draw(np.random.default_rng(1), places, *frame)
    split = split_levels(value, error, places, draws=10)
    assert split["place", BOTH].groups == 2
    assert any("degree 1 is used" in entry.reason for entry in split.left_out)


def test_levels_without_errors_keep_the_noise():
    places = CellPlaces(detector=np.full(300, "R22_S11"))
    value = 1e-3 * np.random.default_rng(2).standard_normal(300)
    split = split_levels(value, None, places, draws=20)
    assert split.components[0].variance == pytest.approx(value.var(ddof=1))
    assert any("no errors are given" in entry.reason for entry in split.left_out)


def test_same_seed_same_errors():
    places, *frame = focal_plane(rafts=4)
    value, error = draw(np.random.default_rng(1), places, *frame)
    first, again, other = (split_levels(value, error, places, draws=10, seed=seed).rows() for seed in (1, 1, 2))
    assert first == again
    assert [row["variance"] for row in first] == [row["variance"] for row in other]
    assert [row["variance_err"] for row in first] != [row["variance_err"] for row in other]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": np.zeros(5)}, "shape"),
        ({"value": np.ones(100)}, "same value"),
        ({"value": np.where(np.arange(100) < 8, np.arange(100.0), np.nan)}, "8 cells have values"),
        ({"error": np.zeros(100)}, "zero, negative or not finite"),
        ({"error": np.full(100, np.nan)}, "zero, negative or not finite"),
        ({"error": np.full(100, -1.0)}, "zero, negative or not finite"),
        ({"x_mm": np.full(100, np.nan), "y_mm": np.zeros(100)}, "not finite"),
        ({"x_mm": np.zeros(100)}, "only one of x_mm and y_mm is given"),
        ({"amplifier": np.zeros((10, 10), dtype=str)}, "amplifier has shape"),
    ],
)
def test_bad_input(change, message):
    places = {"detector": np.full(100, "R22_S11"), "x_mm": None, "y_mm": None, "amplifier": None}
    given = {"value": np.random.default_rng(0).standard_normal(100), "error": np.full(100, 0.1)}
    given |= {key: entry for key, entry in change.items() if key in given}
    places |= {key: entry for key, entry in change.items() if key in places}
    with pytest.raises(CompareError, match=message):
        split_levels(given["value"], given["error"], CellPlaces(**places))


def test_vendor_is_a_level_above_rafts():
    """Two vendors of seven rafts each: one degree of freedom, which many focal planes determine."""
    places, indices, led, sizes = focal_plane()
    vendor = np.where(indices[0] % 2 == 0, "E2V", "ITL")
    found = []
    for seed in range(40):
        rng = np.random.default_rng(4000 + seed)
        value, error = draw(rng, places, indices, led, sizes)
        value += 6e-3 * rng.standard_normal(2)[(vendor == "ITL").astype(int)]
        split = split_levels(value, error, replace(places, vendor=vendor), degree=1, draws=20, seed=seed)
        found.append((split["vendor", COMMON].variance, split["raft", COMMON].variance))
    variance = np.array(found)
    standard = variance.std(axis=0) / np.sqrt(len(variance))
    np.testing.assert_array_less(np.abs(variance.mean(axis=0) - [(6e-3) ** 2, (2e-3) ** 2]) / standard, 3.5)


def test_one_detector_of_each_vendor_is_given_as_detector():
    places, indices, led, sizes = focal_plane(rafts=2, detectors=1)
    value, error = draw(np.random.default_rng(1), places, indices, led, sizes)
    split = split_levels(value, error, replace(places, vendor=places.raft), degree=0, draws=20)
    assert "vendor" not in {component.level for component in split.components}
    with pytest.raises(CompareError, match="no vendor has more than one detector: given as detector"):
        _ = split["vendor", BOTH]
