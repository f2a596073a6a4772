"""Efficiency, pixel area and diffusion: recovered from simulated stars within the stated errors."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import mixtures
import numpy as np
import pytest

from permil.compare.hypotheses.equations import FixedEffects
from permil.compare.hypotheses.fit import fit_hypotheses
from permil.compare.hypotheses.predict import predict_bands
from permil.compare.hypotheses.results import KINDS, TOTAL, verdict
from permil.compare.stars.response import QUANTITIES
from permil.errors import CompareError

MIXTURES = {"efficiency": (1.0, 0.0, 0.0), "area": (0.0, 1.0, 0.0), "both": (0.5, 0.5, 0.0), "all": (0.4, 0.4, 0.2)}
SEEDS = 4


@cache
def scene_of(name, seed, flat_noise=1.5e-3, unseen=0.0):
    return mixtures.draw_scene(seed, MIXTURES[name], flat_noise=flat_noise, unseen=unseen)


def predicted_of(scene):
    return predict_bands(scene.stars, scene.flat, mixtures.RESPONSE, periods=mixtures.PERIODS)


@cache
def fit_of(name, seed, flat_noise=1.5e-3, unseen=0.0):
    return fit_hypotheses(predicted_of(scene_of(name, seed, flat_noise, unseen)))


def pulls(name, seeds, **settings):
    found = []
    for seed in range(seeds):
        fit, truth = fit_of(name, seed, **settings), mixtures.true_fractions(scene_of(name, seed, **settings))
        found.append(
            [(fit.fraction(kind).value - true) / fit.fraction(kind).error for kind, true in zip(KINDS, truth, strict=True)]
        )
    return np.array(found)


FEW = {"efficiency": 2, "area": 2, "both": 3, "all": 2}
"""Sensors of each mixture; the full tests have `SEEDS` of each."""


@pytest.mark.parametrize(
    ("name", "seeds"), [*FEW.items(), *(pytest.param(name, SEEDS, marks=pytest.mark.full) for name in MIXTURES)]
)
def test_mixtures_are_recovered_within_their_errors(name, seeds):
    found = pulls(name, seeds)
    # Of 6 to 12 pulls, not all independent.
    assert np.abs(found).max() < 4
    assert 0.5 < np.sqrt((found**2).mean()) < 1.5
    assert np.abs(found.mean(axis=0)).max() < 1.6
    # And the errors are of use.
    assert max(fit_of(name, 0).fraction(kind).error for kind in KINDS) < 0.12


def test_the_three_kinds_account_for_the_whole_flat():
    for name in MIXTURES:
        whole = fit_of(name, 1).fraction("sum")
        assert abs(whole.value - 1) < 3.5 * whole.error


@pytest.mark.parametrize("seeds", ["few", pytest.param("all", marks=pytest.mark.full)])
@pytest.mark.parametrize(("name", "flux", "shift"), [("efficiency", 1.0, 0.0), ("area", 0.0, 1.0), ("both", 0.5, 0.5)])
def test_simple_slopes(name, flux, shift, seeds):
    count = SEEDS if seeds == "all" else FEW[name]
    slopes = {
        quantity: np.array(
            [[fit_of(name, seed).slope(quantity).value, fit_of(name, seed).slope(quantity).error] for seed in range(count)]
        )
        for quantity in ("flux", "shift", "size")
    }
    for quantity, expected in (("flux", flux), ("shift", shift), ("size", 0.0)):
        mean, error = slopes[quantity].mean(axis=0)
        # Fields of one sensor differ in how much of each kind they have by chance.
        chance = 0.06 if name == "both" else 0.0
        assert abs(mean - expected) < 4 * error / np.sqrt(count) + chance
    assert fit_of(name, 0).slope("flux").expected == (1, 0, 0)


@pytest.mark.parametrize("seeds", [2, pytest.param(SEEDS, marks=pytest.mark.full)])
def test_noise_of_the_flat_does_not_dilute_the_fractions(seeds):
    # Of the flat as stars see it, more than a third is noise on the shortest scale.
    found = pulls("efficiency", seeds, flat_noise=8e-3)
    assert np.abs(found.mean(axis=0)).max() < 1.6
    values = [fit_of("efficiency", seed, flat_noise=8e-3).fraction("efficiency").value for seed in range(seeds)]
    assert np.mean(values) == pytest.approx(1.0, abs=0.08)


def test_dividing_by_the_flat_is_put_back():
    scene = scene_of("both", 0)
    predicted = predicted_of(scene)
    seen = predicted.templates.templates[:, :, 0].sum(axis=2)
    divided = {name: scene.stars.values[name] - seen[:, number] for number, name in enumerate(QUANTITIES)}
    stars = replace(scene.stars, values=divided)
    found = fit_hypotheses(predict_bands(stars, scene.flat, mixtures.RESPONSE, periods=mixtures.PERIODS), flat_fielded=True)
    for kind in KINDS:
        assert found.fraction(kind).value == pytest.approx(fit_of("both", 0).fraction(kind).value, abs=1e-6)
    assert found.slope("flux").value == pytest.approx(fit_of("both", 0).slope("flux").value - 1, abs=1e-6)
    assert found.slope("flux").expected == (0, -1, -1)


def test_structure_that_only_stars_see_is_found_and_makes_errors_larger():
    plain, found = fit_of("efficiency", 0), fit_of("efficiency", 0, unseen=2e-3)
    assert plain.excess_scatter["flux"] == pytest.approx(1.0, abs=0.1)
    assert found.excess_scatter["flux"] > 1.5
    assert found.fraction("efficiency").error > 2 * plain.fraction("efficiency").error
    assert abs(found.fraction("efficiency").value - 1) < 4 * found.fraction("efficiency").error


def test_errors_as_a_sample_are_larger_where_kinds_mix():
    mixed, pure = fit_of("both", 0).fraction("efficiency"), fit_of("efficiency", 0).fraction("efficiency")
    assert mixed.population_error > 1.05 * mixed.error
    assert pure.population_error == pytest.approx(pure.error, rel=0.2)
    scatter = np.std([fit_of("both", seed).fraction("efficiency").value for seed in range(SEEDS)], ddof=1)
    assert 0.4 < scatter / mixed.population_error < 2.0


def test_a_region_has_its_own_fractions():
    scene = scene_of("both", 0)
    left = scene.stars.places.x < mixtures.SIZE / 2
    predicted = predicted_of(scene)
    found = [fit_hypotheses(predicted, region=region) for region in (left, ~left)]
    assert found[0].stars + found[1].stars == fit_of("both", 0).stars
    for part in found:
        assert part.fraction("efficiency").error > 1.15 * fit_of("both", 0).fraction("efficiency").error
    mean = np.mean([part.fraction("efficiency").value for part in found])
    assert mean == pytest.approx(fit_of("both", 0).fraction("efficiency").value, abs=2 * found[0].fraction("efficiency").error)


def test_half_of_one_kind_and_half_of_another_are_separated():
    # Efficiency on the left, pixel area on the right.
    rng = np.random.default_rng(4)
    kinds = mixtures.draw_kinds(rng, (1.0, 1.0, 0.0))
    window = 0.5 * (1 + np.tanh((np.arange(mixtures.SIZE) - mixtures.SIZE / 2) / 20))[None, :]
    kinds = np.stack([kinds[0] * (1 - window), kinds[1] * window, kinds[2]])
    scene = scene_of("both", 0)
    flat = replace(scene.flat, excess=kinds.sum(axis=0) - kinds.sum(axis=0).mean(), variance=np.full_like(kinds[0], 1e-12))
    predicted = predict_bands(mixtures.draw_stars(rng, kinds), flat, mixtures.RESPONSE, periods=mixtures.PERIODS)
    x = predicted.stars.places.x
    assert fit_hypotheses(predicted, region=x < 160).fraction("efficiency").value == pytest.approx(1.0, abs=0.15)
    assert fit_hypotheses(predicted, region=x > 240).fraction("pixel area").value == pytest.approx(1.0, abs=0.15)


def test_what_dividing_does_follows_the_kind():
    corrected, harmed = (verdict(fit_of(name, 0).flux_change) for name in ("efficiency", "area"))
    assert corrected.outcome == "lowers"
    assert harmed.outcome == "raises"
    # Efficiency: what is left is the noise of the flat.
    assert corrected.after < 0.5 * corrected.before
    # Pixel area: fluxes have no scatter of their own, and get that of the flat.
    assert harmed.after > 2 * harmed.before


def test_tables_have_a_row_for_each_figure():
    rows = fit_of("both", 0).rows()
    assert {(row["of"], row["scale"]) for row in rows if row["figure"] == "fraction"} == {
        (kind, scale) for kind in (*KINDS, "sum") for scale in ("16-32 px", "32-64 px", TOTAL)
    }
    assert [row["of"] for row in rows if row["figure"] == "slope"] == ["flux", "shift", "size"]
    assert "efficiency" in str(fit_of("both", 0))


def test_fixed_effects_are_those_of_a_regression_with_one_column_each():
    rng = np.random.default_rng(2)
    spot, exposure = np.divmod(rng.permutation(60)[:50], 6)
    weight, x, y = rng.uniform(0.5, 2, (3, 50))
    columns = rng.standard_normal((50, 3))
    trend = np.stack([np.ones(50), x, y], axis=1)
    found = FixedEffects(spot, exposure, weight, trend)
    design = np.concatenate(
        [spot[:, None] == np.arange(10), *((exposure[:, None] == np.arange(6)) * part[:, None] for part in trend.T)], axis=1
    )
    root = np.sqrt(weight)[:, None]
    factors = np.linalg.lstsq(root * design, root * columns, rcond=None)[0]
    assert found.residuals(columns) == pytest.approx(columns - design @ factors, abs=1e-9)
    assert found.rank == np.linalg.matrix_rank(design.astype(float))


def predict(stars, flat, **settings):
    return predict_bands(stars, flat, mixtures.RESPONSE, periods=mixtures.PERIODS, **settings)


def test_bad_input():
    scene = scene_of("both", 0)
    stars, flat = scene.stars, scene.flat
    with pytest.raises(CompareError, match="20 stars, but 30 are needed"):
        predict(mixtures.chosen_stars(stars, slice(20)), flat)
    with pytest.raises(CompareError, match="constant"):
        predict(stars, replace(flat, excess=np.zeros_like(flat.excess)))
    with pytest.raises(CompareError, match="outside the flat"):
        predict(stars, replace(flat, excess=flat.excess[:200], variance=flat.variance[:200], usable=flat.usable[:200]))
    nowhere = np.zeros_like(flat.usable)
    nowhere[:3, :3] = True
    with pytest.raises(CompareError, match="0 stars lie on usable pixels"):
        predict(stars, replace(flat, usable=nowhere))
    with pytest.raises(CompareError, match="have no flux"):
        predict(replace(stars, values={}), flat)
    with pytest.raises(CompareError, match="differ in length"):
        predict(replace(stars, spot=stars.spot[:-1]), flat)
    with pytest.raises(CompareError, match="periods up to"):
        predict_bands(stars, flat, mixtures.RESPONSE, periods=(16.0, 2000.0))
    silent = replace(stars, errors={**stars.errors, "dx": np.full(len(stars), np.nan)})
    with pytest.raises(CompareError, match="finite dx"):
        fit_hypotheses(predict(silent, flat))
    with pytest.raises(CompareError, match="degrees of freedom"):
        fit_hypotheses(predict(mixtures.chosen_stars(stars, stars.exposure == 3), flat))
    with pytest.raises(CompareError, match="region has 0 stars"):
        fit_hypotheses(predict(stars, flat), region=np.zeros(len(stars), dtype=bool))


def test_a_flat_of_noise_alone_has_no_result():
    scene = scene_of("both", 0)
    noise = 1e-2 * np.random.default_rng(3).standard_normal(scene.flat.excess.shape)
    flat = replace(scene.flat, excess=noise - noise.mean(), variance=np.full_like(noise, 1.1e-4))
    with pytest.raises(CompareError, match="no structure above its noise"):
        fit_hypotheses(predict(scene.stars, flat))


def test_rows_that_are_not_finite_do_not_count():
    scene = scene_of("both", 0)
    flux = scene.stars.values["flux"].copy()
    flux[::7] = np.nan
    found = fit_hypotheses(predict(replace(scene.stars, values={**scene.stars.values, "flux": flux}), scene.flat))
    whole = fit_of("both", 0)
    assert found.fraction("efficiency").error > whole.fraction("efficiency").error
    assert abs(found.fraction("efficiency").value - whole.fraction("efficiency").value) < 2 * whole.fraction("efficiency").error


def test_stars_on_masked_pixels_are_left_out():
    scene = scene_of("both", 0)
    usable = np.random.default_rng(1).random(scene.flat.usable.shape) > 2e-4
    found = fit_hypotheses(predict(scene.stars, replace(scene.flat, usable=usable)))
    assert 0 < found.lost < 0.3 * len(scene.stars)
    assert found.stars + found.lost == len(scene.stars)
    whole = fit_of("both", 0)
    assert abs(found.fraction("efficiency").value - whole.fraction("efficiency").value) < 2 * whole.fraction("efficiency").error
