"""Many sensors: combined estimates, false discoveries, and origins of the variance of star fluxes, against simulated truth."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import mixtures
import numpy as np
import pytest
from astropy.table import Table
from hypothesis import given
from hypothesis import strategies as st
from raw_stars import TRUTH, draw_campaigns
from scipy import ndimage, optimize, stats

from permil.compare.correlation import correlate
from permil.compare.hypotheses.fit import fit_hypotheses
from permil.compare.hypotheses.predict import predict_bands
from permil.compare.hypotheses.results import KINDS, TOTAL
from permil.compare.sensors.combine import combine, difference, find_discoveries
from permil.compare.sensors.origins import MASK, RAW, SUM, SUM_WITHIN, find_origins, sensor_levels
from permil.compare.sensors.stage import require_distinct
from permil.errors import CompareError, InputError
from permil.products import write_table
from permil.products.folder import CompareFolder

NAMES = np.array([f"S{number:02d}" for number in range(40)])


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


def pull(found, true):
    """Return a deviation over its error as a normal score: the interval is that of Student's t."""
    tail = stats.t.sf(abs(found.value - true) / found.standard_error, min(found.freedom, 1e6))
    return float(np.copysign(stats.norm.isf(tail), found.value - true))


def draw_vendor(rng, mean, heterogeneity, sensors):
    """Return estimates of some sensors of a vendor with errors that differ, and the errors."""
    error = 0.02 * np.exp(0.3 * rng.standard_normal(sensors))
    return mean + heterogeneity * rng.standard_normal(sensors) + error * rng.standard_normal(sensors), error


@pytest.mark.parametrize("seeds", [100, pytest.param(300, marks=pytest.mark.full)])
@pytest.mark.parametrize("heterogeneity", [0.0, 0.02, 0.06])
@pytest.mark.parametrize("sensors", [6, 12])
def test_combined_fractions_of_two_vendors_and_their_difference_have_true_errors(heterogeneity, sensors, seeds):
    pulls, differences = [], []
    for seed in range(seeds):
        rng = np.random.default_rng(1000 + seed)
        means = {"E2V": (0.6, 0.4), "ITL": (0.35, 0.65)}
        for of in range(2):
            found = {}
            for vendor, fractions in means.items():
                found[vendor] = combine(*draw_vendor(rng, fractions[of], heterogeneity, sensors), NAMES[:sensors])
                pulls.append(pull(found[vendor], fractions[of]))
            apart = difference(found["E2V"], found["ITL"])
            differences.append((apart.value - (means["E2V"][of] - means["ITL"][of])) / apart.error)
    few = np.sqrt(300 / seeds)
    assert rms(pulls) == pytest.approx(1, abs=0.15 * few)
    assert np.mean(np.abs(pulls) < 1) == pytest.approx(0.705, abs=0.065 * few)
    assert np.mean(np.abs(differences) < 1) == pytest.approx(0.705, abs=0.065 * few)


def test_heterogeneity_is_found_and_its_interval_holds():
    inside, sizes, chances = [], [], []
    for seed in range(300):
        value, error = draw_vendor(np.random.default_rng(seed), 0.5, 0.04, 15)
        found = combine(value, error, NAMES[:15])
        inside.append(found.heterogeneity_low < 0.04 < found.heterogeneity_high)
        sizes.append(found.heterogeneity**2)
        chances.append(combine(*draw_vendor(np.random.default_rng(seed), 0.5, 0.0, 15), NAMES[:15]).p_value)
    assert np.mean(inside) == pytest.approx(0.683, abs=0.09)
    assert np.mean(sizes) == pytest.approx(0.04**2, rel=0.1)
    assert stats.kstest(chances, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("sensors", [2, 10])
def test_limit_of_the_heterogeneity_is_never_zero_and_holds(sensors):
    holds = []
    for seed in range(300):
        found = combine(*draw_vendor(np.random.default_rng(7000 + seed), 0.5, 0.02, sensors), NAMES[:sensors])
        assert found.heterogeneity_limit >= found.heterogeneity
        assert found.heterogeneity_limit > 0
        holds.append(found.heterogeneity_limit > 0.02)
    assert np.mean(holds) > 0.92


def test_alike_sensors_give_the_weighted_mean():
    value, error = np.array([0.50, 0.501, 0.499]), np.array([0.02, 0.01, 0.04])
    found = combine(value, error, NAMES[:3])
    weight = error**-2
    assert found.value == pytest.approx(np.sum(weight * value) / weight.sum())
    assert found.heterogeneity == 0
    assert found.standard_error == pytest.approx(weight.sum() ** -0.5)
    assert found.error > found.standard_error


def test_the_heterogeneity_is_that_at_which_the_sum_of_squares_has_its_expectation():
    value, error = np.array([0.1, 0.5, 0.9, 0.4]), np.array([0.1, 0.05, 0.1, 0.08])

    def excess(variance):
        weight = 1 / (error**2 + variance)
        return np.sum(weight * (value - np.average(value, weights=weight)) ** 2) - 3

    assert combine(value, error, NAMES[:4]).heterogeneity ** 2 == pytest.approx(optimize.brentq(excess, 0, 10), rel=1e-6)


def test_a_sensor_in_several_bands_counts_once():
    value, error = np.array([0.5, 0.5, 0.5, 0.6]), np.full(4, 0.02)
    found = combine(value, error, ["A", "A", "A", "B"])
    assert (found.sensors, found.estimates) == (2, 4)
    once = combine([0.5, 0.6], [0.02, 0.02], ["A", "B"])
    assert (found.value, found.error) == (pytest.approx(once.value), pytest.approx(once.error))
    assert found.between_bands == 0
    assert np.isnan(once.between_bands)


@pytest.mark.parametrize("how", ["itself", "by a link", "as a copy"])
def test_a_run_is_not_combined_twice(tmp_path, how):
    """Its stars would count as further ones, and errors shrink."""
    for name, r in (("first", 0.1), ("second", 0.2), ("copy", 0.1)):
        row = {"detector": ["R22_S11"], "band": ["red"], "quantity": ["flux"], "region": ["whole"], "scale": ["single"]}
        write_table(CompareFolder(tmp_path / name).correlations, Table(row | {"r": [r], "r_err": [0.1], "p_value": [0.5]}))
    (tmp_path / "link").symlink_to(tmp_path / "first")
    again = tmp_path / {"itself": "first", "by a link": "link", "as a copy": "copy"}[how]
    runs = [tmp_path / "first", tmp_path / "second"]
    require_distinct(runs)
    with pytest.raises(InputError, match=r"repeat those of the run .*first; list each run once in compare\.with_runs"):
        require_distinct([*runs, again])


def test_one_sensor_has_its_own_error_and_no_heterogeneity():
    found = combine([0.5], [0.02], ["A"])
    assert (found.value, found.error, found.sensors) == (0.5, 0.02, 1)
    assert np.isnan([found.heterogeneity, found.p_value]).all()
    assert difference(found, combine([0.44], [0.03], ["B"])).p_value == pytest.approx(
        2 * stats.norm.sf(0.06 / np.hypot(0.02, 0.03))
    )


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(0.01, 1)), min_size=2, max_size=12), st.floats(-5, 5), st.floats(0.1, 10))
def test_combined_estimates_follow_shifts_and_scales(entries, shift, scale):
    value, error = np.array(entries).T
    first, second = combine(value, error, NAMES[: len(value)]), combine(shift + scale * value, scale * error, NAMES[: len(value)])
    assert second.value == pytest.approx(shift + scale * first.value, abs=1e-6)
    assert second.error == pytest.approx(scale * first.error, rel=1e-4)
    assert value.min() - 1e-9 <= first.value <= value.max() + 1e-9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.5, 0.6], [0.1], ["A", "B"]), "have shapes"),
        (([np.nan], [0.1], ["A"]), "none of the values is finite"),
        (([0.5], [0.0], ["A"]), "an error is not positive"),
        (([0.5], [np.nan], ["A"]), "an error is not positive"),
    ],
)
def test_bad_estimates_are_refused(arguments, message):
    with pytest.raises(CompareError, match=message):
        combine(*arguments)


def test_false_discoveries_of_null_runs_with_dependent_tests():
    false = []
    for seed in range(500):
        rng = np.random.default_rng(5000 + seed)
        # Six sensors with four scales each, which share most of their chance.
        score = np.repeat(rng.standard_normal(6), 4) * np.sqrt(0.7) + np.sqrt(0.3) * rng.standard_normal(24)
        false.append(find_discoveries(2 * stats.norm.sf(np.abs(score))).found.any())
    assert np.mean(false) <= 0.075


def test_the_fraction_of_false_discoveries_among_true_ones():
    shares = []
    for seed in range(500):
        rng = np.random.default_rng(seed)
        score = rng.standard_normal(40)
        score[:15] += 3.5
        found = find_discoveries(2 * stats.norm.sf(np.abs(score))).found
        shares.append(found[15:].sum() / max(found.sum(), 1))
    assert 0.01 < np.mean(shares) <= 0.075


def test_tests_without_a_p_value_do_not_count():
    found = find_discoveries([0.001, np.nan, 0.02, 0.9])
    assert found.tests == 3
    np.testing.assert_allclose(found.adjusted, [0.003, np.nan, 0.03, 0.9])
    assert find_discoveries([np.nan]).tests == 0


@pytest.mark.parametrize(("chances", "rate"), [([1.2], 0.05), ([-0.1], 0.05), ([0.5], 0.0), ([0.5], 1.0)])
def test_bad_probabilities_are_refused(chances, rate):
    with pytest.raises(CompareError):
        find_discoveries(chances, rate=rate)


@cache
def many_origins(runs=150):
    """Return estimates and errors of all parts over simulated campaigns of two vendors, and the names of the parts."""
    rows = []
    for seed in range(runs):
        found = find_origins(draw_campaigns(np.random.default_rng(70_000 + seed)), draws=40, seed=seed)
        rows.append([(part.variance, part.error) for part in found])
    return np.array(rows), [part.name for part in found]


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "true"),
    [
        ("lamp: between exposures", TRUTH["lamp"]),
        ("vendor", TRUTH["vendor"]),
        ("sensor", TRUTH["sensor"]),
        ("amplifier", TRUTH["amplifier"]),
        ("pixels: structure within amplifiers", TRUTH["pixels"]),
        ("noise of the measurements", TRUTH["noise"]),
        (MASK, TRUTH["mask"]),
    ],
)
def test_parts_of_the_variance_are_unbiased_and_their_errors_follow_the_scatter(name, true):
    rows, names = many_origins()
    variance, error = rows[:, names.index(name)].T
    scatter = max(variance.std(), 1e-3 * true**2)
    # The variance of the mask is that of its 64 spots.
    assert abs(variance.mean() - true**2) < 3.5 * scatter / np.sqrt(len(variance)) + (0.03 if name == MASK else 0.02) * true**2
    if name != "noise of the measurements":
        assert np.sqrt(np.mean(error**2)) == pytest.approx(scatter, rel=0.7 if name in ("vendor", "sensor") else 0.25)


def test_parts_within_a_sensor_and_band_explain_the_measured_variance():
    rows, names = many_origins(runs=10)
    within, measured, total = (rows[:, names.index(name), 0] for name in (SUM_WITHIN, RAW, SUM))
    np.testing.assert_allclose(within, measured, rtol=0.02)
    assert total.mean() > within.mean()


def test_levels_of_one_sensor_or_of_different_masks_are_unknown_with_the_reason():
    campaigns = draw_campaigns(np.random.default_rng(3), vendors=("E2V",), bands=("red", "blue"))
    parts = {part.name: part for part in find_origins(campaigns, draws=20)}
    assert parts["sensor"].reason == "all stars were measured on one sensor"
    assert np.isnan(parts["vendor"].variance)
    assert np.isfinite(parts["amplifier"].variance)
    two = draw_campaigns(np.random.default_rng(4), vendors=("E2V", "ITL"))
    other = replace(two[1], spot_flux=np.random.default_rng(5).permutation(two[1].spot_flux))
    assert "different masks" in sensor_levels([two[0], other], 0.0)[2]
    assert "numbers of spots" in sensor_levels([two[0], replace(two[1], spot_flux=two[1].spot_flux[:-1])], 0.0)[2]
    unseen = replace(two[1], spot_flux=np.where(np.arange(64) < 60, np.nan, two[1].spot_flux))
    assert "4 spots were measured on all" in sensor_levels([two[0], unseen], 0.0)[2]
    with pytest.raises(CompareError, match="there are no stars"):
        find_origins([])


def smooth_map(rng, sigma):
    field = ndimage.gaussian_filter(rng.standard_normal((44, 44)), sigma)[10:34, 10:34]
    return field / field.std() + 0.4 * rng.standard_normal(field.shape)


@pytest.mark.full
def test_false_discoveries_of_maps_over_null_runs():
    """Two vendors, four sensors, single values, cells and a half of each; no map is related to another."""
    y, x = np.mgrid[:24, :24].astype(float)
    false = []
    for seed in range(500):
        rng = np.random.default_rng(90_000 + seed)
        chances = []
        for _ in range(4):
            a, b = smooth_map(rng, 1.5), smooth_map(rng, 1.0)
            for one, other, row, column in (
                (a, b, y, x),
                (a[:12], b[:12], y[:12], x[:12]),
                *((*(part.reshape(12, 2, 12, 2).mean(axis=(1, 3)) for part in (a, b, y, x)),),),
            ):
                chances.append(correlate(one, other, column, row, methods=()).p_value)
        false.append(find_discoveries(chances).found.any())
    assert np.mean(false) <= 0.075


@pytest.mark.full
def test_combined_fractions_of_simulated_sensors_of_two_vendors():
    mixed = {"E2V": (0.7, 0.3, 0.0), "ITL": (0.3, 0.7, 0.0)}
    pulls = []
    for campaign in range(12):
        for vendor, shares in mixed.items():
            fits = []
            for sensor in range(4):
                scene = mixtures.draw_scene(40_000 + 100 * campaign + 10 * sensor + (vendor == "ITL"), shares)
                fits.append(fit_hypotheses(predict_bands(scene.stars, scene.flat, mixtures.RESPONSE, periods=mixtures.PERIODS)))
            for kind, share in zip(KINDS[:2], shares[:2], strict=True):
                found = [fit.fraction(kind, TOTAL) for fit in fits]
                combined = combine([one.value for one in found], [one.error for one in found], NAMES[:4])
                pulls.append(pull(combined, share))
    assert 0.85 < rms(pulls) < 1.15
