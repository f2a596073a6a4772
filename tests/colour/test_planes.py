"""Ratios of two LEDs of campaigns with known truth: errors of levels and gradients, light against sensor, vendors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from led_campaigns import Settings, deviation, simulate_leds
from scipy import stats

from permil.colour.planes import CommonGradient, LedPlanes, ratio_planes, vendor_ratio
from permil.errors import FlatError

LEDS = ("uv", "blue")
DRIFTING = Settings(drift=3e-3, walk=1e-3, step=1e-3, noise=1e-4, jitter=0.02)
DISTANT = replace(DRIFTING, columns=4, rows=1, raft_gap_mm=230.0, whole=False, images=2)


def pulls_of(seeds, settings, leds=LEDS):
    """Deviations of levels and gradients over their errors, and of levels where LEDs are taken as independent."""
    levels, gradients, independent = [], [], []
    for seed in seeds:
        campaigns = simulate_leds(seed, leds, settings)
        planes = [campaign.planes() for campaign in campaigns]
        for number in range(len(leds) - 1):
            pair = slice(number, number + 2)
            ratio = ratio_planes(*planes[pair])
            off = deviation(ratio, campaigns[pair])
            levels.append((off / ratio.errors)[:, 0])
            gradients.append((off / ratio.errors)[:, 1:])
            apart = ratio_planes(*(replace(one, shared=None) for one in planes[pair]))
            independent.append(apart.errors / ratio.errors)
    return levels, gradients, np.array(independent)


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


def test_what_leds_share_cancels_in_their_ratio():
    levels, gradients, independent = pulls_of(range(2), DRIFTING)
    assert 0.4 < rms(levels) < 1.8
    assert 0.4 < rms(gradients) < 1.8
    assert np.median(independent[..., 0]) > 1.05


def test_levels_of_distant_rafts_deviate_by_what_the_readings_do():
    campaigns = simulate_leds(11, LEDS, replace(DISTANT, images=1, electrons=1e8, jitter=0.0))
    planes = [campaign.planes() for campaign in campaigns]
    expected = [one.shared.responses.readings @ campaign.reading_error for one, campaign in zip(planes, campaigns, strict=True)]
    expected = (expected[0] - expected[1])[::3]
    off = deviation(ratio_planes(*planes), campaigns)[:, 0]
    assert np.ptp(expected) > 1e-4
    np.testing.assert_allclose(off, expected - expected.mean(), atol=0.12 * np.ptp(expected))


@pytest.mark.full
@pytest.mark.parametrize("settings", [Settings(), DRIFTING], ids=["steady photodiode", "photodiode that drifts"])
def test_errors_of_ratios_are_true_over_forty_campaigns(settings):
    levels, gradients, _ = pulls_of(range(5000, 5040), settings)
    assert 0.85 < rms(levels) < 1.15
    assert 0.85 < rms(gradients) < 1.15


def chi_squares_of(seeds, settings, leds=LEDS):
    """Chi-squares of the levels of ratios of neighbouring LEDs, and their number of levels beyond the mean."""
    found = []
    for seed in seeds:
        campaigns = simulate_leds(seed, leds, settings)
        planes = [campaign.planes() for campaign in campaigns]
        for pair in (slice(number, number + 2) for number in range(len(leds) - 1)):
            ratio = ratio_planes(*planes[pair])
            off, covariance = deviation(ratio, campaigns[pair])[1:, 0], ratio.covariance[3::3, 3::3]
            found.append(float(off @ np.linalg.solve(covariance, off)))
    return np.array(found), len(off)


@pytest.mark.full
def test_errors_between_distant_rafts_that_are_read_one_at_a_time_are_true():
    # Nothing but the photodiode compares the rafts: one campaign is hardly more than one number, whatever the number of detectors.
    chi_squares, freedom = chi_squares_of(range(9100, 9160), DISTANT)
    assert 0.85 < np.sqrt(chi_squares.mean() / freedom) < 1.15
    assert stats.kstest(chi_squares, stats.chi2(freedom).cdf).pvalue > 1e-3


@pytest.mark.full
def test_a_colour_of_the_light_is_not_one_of_the_sensor():
    settings = Settings(columns=2, rows=1, scan=6, light_gradient=2e-3, drift=2e-3, noise=3e-4)
    called = 0
    for seed in range(6000, 6200):
        ratio = ratio_planes(*(campaign.planes() for campaign in simulate_leds(seed, LEDS, settings)))
        called += ratio.common_gradient.is_of_sensor
    assert called <= 10


@pytest.mark.full
def test_the_ratio_of_vendors_is_within_its_error():
    ratios = {("ITL", "uv"): 0.92, ("ITL", "blue"): 0.97, ("ITL", "red"): 0.99}
    settings = Settings(columns=3, rows=2, pixels=6, scan=6, vendor_ratio=ratios, sensor_scatter=3e-3, noise=3e-4, drift=2e-3)
    within = {"sensors": [], "vendors": []}
    for seed in range(7000, 7040):
        for campaign in simulate_leds(seed, ("uv", "blue", "red"), settings):
            planes = campaign.planes()
            found = vendor_ratio(planes.values[:, 0], planes.covariance[::3, ::3], campaign.vendors, ("E2V", "ITL"))
            levels = campaign.true_planes()[:, 0]
            itl = np.array(campaign.vendors) == "ITL"
            true = np.exp(levels[~itl].mean() - levels[itl].mean())
            within["sensors"].append(abs(found.ratio - true) < found.error)
            within["vendors"].append(abs(found.ratio - 1 / ratios["ITL", campaign.led]) < found.vendor_error)
    assert np.mean(within["sensors"]) >= 0.6
    assert np.mean(within["vendors"]) >= 0.6


def planes(led, levels, *, error=1e-4, names=("A", "B", "C")):
    values = np.column_stack([levels, np.zeros((len(levels), 2))])
    return LedPlanes(led, names, values, error**2 * np.eye(3 * len(levels)))


def test_independent_leds_have_the_sum_of_their_variances():
    ratio = ratio_planes(planes("uv", [0.1, 0.2, 0.3]), planes("red", [0.0, 0.0, 0.0]))
    np.testing.assert_allclose(ratio.values[:, 0], [-0.1, 0.0, 0.1], atol=1e-12)
    # The mean of three levels is taken off.
    np.testing.assert_allclose(ratio.errors[:, 0], 1e-4 * np.sqrt(2 * 2 / 3))
    np.testing.assert_allclose(ratio.errors[:, 1:], 1e-4 * np.sqrt(2))


def test_only_common_detectors_are_compared():
    ratio = ratio_planes(planes("uv", [0.1, 0.2, 0.3]), planes("red", [0.0, 0.0], names=("C", "A")))
    assert ratio.detectors == ("A", "C")
    np.testing.assert_allclose(ratio.values[:, 0], [-0.1, 0.1], atol=1e-12)
    with pytest.raises(FlatError, match="uv and red have no detector in common"):
        ratio_planes(planes("uv", [0.1, 0.2, 0.3]), planes("red", [0.0], names=("Z",)))


def test_planes_need_an_error_for_each_value():
    with pytest.raises(FlatError, match="for 2 detectors"):
        LedPlanes("uv", ("A", "B"), np.zeros((2, 3)), np.eye(3))


def test_a_gradient_is_of_the_sensor_beyond_three_errors():
    covariance = np.diag([1e-12, 4e-12])
    assert not CommonGradient(np.array([2e-6, 0.0]), covariance).is_of_sensor
    assert CommonGradient(np.array([0.0, 8e-6]), covariance).is_of_sensor
    assert CommonGradient(np.zeros(2), covariance).p_value == pytest.approx(1.0)
