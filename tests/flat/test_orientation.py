"""Detectors whose pixels or places are not those that they are taken for are named, and no other detector is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from joint_bench import detector_places, simulate

from permil.camera import load_camera
from permil.flat.orientation import (
    SYMMETRIES,
    Contradiction,
    best_symmetry,
    contradiction_error,
    describe_symmetry,
    detector_levels,
    find_contradictions,
    unexplained_share,
)

PIXELS = 16
NAMES = list(detector_places(3, 3))
COUNTS = [1, pytest.param(3, marks=pytest.mark.full)]
"""Numbers of campaigns."""
ORDERS = {
    "rows": lambda grid: grid[:, ::-1],
    "columns": lambda grid: grid[:, :, ::-1],
    "half turn": lambda grid: grid[:, ::-1, ::-1],
    "exchanged axes": lambda grid: grid.transpose(0, 2, 1),
    "quarter turn": lambda grid: grid.transpose(0, 2, 1)[:, ::-1],
}


@pytest.fixture(scope="module")
def campaigns():
    return [simulate(np.random.default_rng(seed), scan=8, images=1) for seed in (1, 2, 3)]


def found(campaign, detectors):
    return find_contradictions([detector_levels(campaign.exposures, each) for each in detectors])


def reordered(detector, order):
    grids = (part.reshape(-1, PIXELS, PIXELS) for part in (detector.log_signal, detector.variance))
    signal, variance = (ORDERS[order](grid).reshape(detector.log_signal.shape) for grid in grids)
    return replace(detector, log_signal=signal, variance=variance)


def exchanged(detectors, pairs):
    changed = list(detectors)
    for first, second in pairs:
        for own, other in ((first, second), (second, first)):
            source = detectors[other]
            parts = {"exposures": source.exposures, "log_signal": source.log_signal, "variance": source.variance}
            changed[own] = replace(detectors[own], **parts)
    return changed


def test_detectors_in_order_are_not_named(campaigns):
    for campaign in campaigns:
        assert found(campaign, campaign.detectors) == []
        assert found(campaign, campaign.detectors[:1]) == []
    moved = simulate(
        np.random.default_rng(4), scan=8, images=1, rotation=0.01, jitter=0.1, offset=(1.0, -2.0), photodiode_noise=0.02
    )
    assert found(moved, moved.detectors) == []
    without = replace(moved.exposures, log_photodiode=np.full(len(moved.exposures), np.nan))
    assert find_contradictions([detector_levels(without, each) for each in moved.detectors]) == []


@pytest.mark.parametrize("detectors", [1, 2, 3])
def test_detectors_with_defective_exposures_are_not_named(campaigns, detectors):
    campaign = campaigns[0]
    levels = [detector_levels(campaign.exposures, each) for each in campaign.detectors[:detectors]]
    noise = np.random.default_rng(5)
    levels = [replace(each, level=each.level + np.where(noise.random(each.level.size) < 0.3, -0.7, 0.0)) for each in levels]
    assert find_contradictions(levels) == []


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("wrong", [0, 4, 7])
def test_a_detector_with_its_pixels_in_another_order_is_named(campaigns, order, wrong, count):
    for campaign in campaigns[:count]:
        detectors = [reordered(each, order) if number == wrong else each for number, each in enumerate(campaign.detectors)]
        (one,) = found(campaign, detectors)
        assert (one.name, one.fits) == (NAMES[wrong], NAMES[wrong])
        assert not np.array_equal(one.symmetry, SYMMETRIES[0])


def test_several_detectors_with_other_orders_are_all_named(campaigns):
    wrong = {1: "rows", 3: "half turn", 8: "columns"}
    campaign = campaigns[0]
    detectors = [reordered(each, wrong[number]) if number in wrong else each for number, each in enumerate(campaign.detectors)]
    assert [one.name for one in found(campaign, detectors)] == [NAMES[number] for number in wrong]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("pairs", [[(0, 1)], [(4, 8)], [(3, 5)], [(0, 1), (7, 8)]])
def test_detectors_whose_files_were_exchanged_are_named(campaigns, pairs, count):
    for campaign in campaigns[:count]:
        names = {(one.name, one.fits) for one in found(campaign, exchanged(campaign.detectors, pairs))}
        assert names == {(NAMES[a], NAMES[b]) for pair in pairs for a, b in (pair, pair[::-1])}


def test_symmetries_are_found_from_slopes_and_not_from_noise():
    rng = np.random.default_rng(5)
    gradient = rng.normal(0, 1e-3, (30, 2))
    for symmetry in SYMMETRIES:
        slope = gradient @ symmetry.T + 0.01 + rng.normal(0, 1e-4, gradient.shape)
        np.testing.assert_array_equal(best_symmetry(slope, gradient, 20.0), symmetry)
    for _ in range(100):
        np.testing.assert_array_equal(best_symmetry(rng.normal(0, 1e-3, (30, 2)), gradient, 20.0), SYMMETRIES[0])
    # So little light that no gradient is seen.
    np.testing.assert_array_equal(best_symmetry(-1e-3 * gradient, 1e-3 * gradient, 20.0), SYMMETRIES[0])


def test_the_share_of_the_light_that_is_not_explained():
    rng = np.random.default_rng(6)
    x = np.linspace(-20, 20, 40)
    expected = -1e-4 * (x - np.linspace(-10, 10, 5)[:, np.newaxis]) ** 2
    flat, scale = rng.normal(0, 0.05, x.size), rng.normal(0, 0.05, (5, 1))
    assert unexplained_share(expected + flat + scale, expected) < 1e-20
    assert unexplained_share(expected[:, ::-1] + flat + scale, expected) == pytest.approx(4, rel=1e-6)
    halves = np.concatenate([np.arange(20)[::-1], np.arange(20, 40)[::-1]])
    assert unexplained_share(expected[:, halves] + flat, expected) > 0.25
    assert unexplained_share(rng.normal(0, 1e-3, (5, 40)), 1e-3 * expected) == 0


def test_messages_about_pixels_depend_on_the_axes_of_the_detector():
    camera = load_camera("lsstcam")
    science = camera["R22_S11"]
    # Rows of a science detector run along CCS X.
    assert describe_symmetry(np.diag([-1.0, 1.0]), science) == "its rows look flipped"
    assert describe_symmetry(np.diag([1.0, -1.0]), science) == "its columns look flipped"
    assert describe_symmetry(-np.eye(2), science) == "it looks rotated by 180 degrees"
    assert describe_symmetry(np.array([[0.0, 1.0], [1.0, 0.0]]), science) == "its rows and columns look exchanged"
    assert describe_symmetry(np.array([[0.0, -1.0], [1.0, 0.0]]), science) == "it looks rotated by 90 degrees"
    every = [Contradiction("R22_S11", SYMMETRIES[0], "R22_S12"), Contradiction("R22_S10", np.diag([-1.0, 1.0]), "R22_S10")]
    error = contradiction_error(every, camera.detectors, led="red")
    assert "the signals of R22_S11 contradict its position or orientation: they fit the position of R22_S12" in str(error)
    assert "the signals of R22_S10 contradict its position or orientation: its rows look flipped" in str(error)
    assert error.contradicting == ["R22_S11", "R22_S10"]
