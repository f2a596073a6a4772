"""The efficiency flat: against the true maps, Wiener filters with the true power, and what dividing does on left-out dithers."""

from __future__ import annotations

from dataclasses import replace

import efficiency_scenes as scenes
import mixtures
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from permil.compare.efficiency.filtering import (
    MAIN,
    PLAIN,
    covered,
    filter_flat,
    fit_filter,
    predict_components,
    ring_image,
)
from permil.compare.efficiency.proof import Division, FluxVariance, Proof, choose_flat, leave_out, prove, removed_rms, scatter_of
from permil.compare.efficiency.weights import BandPower, dither_span, periods_within, weights_of
from permil.compare.hypotheses.fit import BandCoefficients
from permil.compare.rings.profile import RingProfile
from permil.compare.scales import Band
from permil.compare.stars.flat_at_stars import flat_as_seen, relative_flat
from permil.errors import CompareError
from permil.rounding import rounded

SEED = 0
BANDS = (Band(0.0, 6.0), Band(6.0, 16.0), Band(16.0, 32.0), Band(32.0, 64.0), Band(64.0, np.inf))


def power_of(*, reliability=1.0):
    ones = np.ones(len(BANDS))
    return BandPower(BANDS, ones, (1 / reliability - 1) * ones, reliability * ones)


def coefficients(value, error, *, fitted=True):
    """Return independent fractions of the same size in each band of the fit."""
    count = len(BANDS) - 1
    values = np.tile(np.array(value, dtype=float)[:, None], (1, count))
    return BandCoefficients(values, np.full(values.shape, fitted), np.eye(values.size) * error**2)


@given(parts=st.tuples(*[st.floats(0.4, 1.0)] * 3), reliability=st.floats(0.05, 1.0), error=st.floats(1e-3, 0.05))
@settings(max_examples=40, deadline=None)
def test_weights_are_those_of_a_wiener_filter(parts, reliability, error):
    shares = np.array(parts) / sum(parts)
    weights = weights_of(coefficients(shares, error), power_of(reliability=reliability), span=100.0)
    assert weights.measured.tolist() == [False, True, True, True, False]
    within = 4 * weights.errors + 0.01
    assert (np.abs(weights.fractions - shares[:, None]) < within)[:, 1:4].all()
    assert weights.efficiency[1:4] == pytest.approx(reliability * weights.fractions[0, 1:4])
    # The plain flat is kept at the pixel scale, and at periods beyond the dithers.
    assert weights.efficiency[[0, 4]].tolist() == [1.0, 1.0]
    assert not weights.others[:, [0, 4]].any()
    assert (weights.errors[:, 1:4] <= error * 1.01).all()


# Here the error is 1.17 times that of the measurement: mixture and pure efficiency are about equally likely.
@example(parts=(1.0, 0.0703125, 0.046875), error=0.046875)
@given(parts=st.tuples(*[st.floats(0.01, 1.0)] * 3), error=st.floats(1e-3, 0.05))
@settings(max_examples=40)
def test_a_flat_of_almost_one_kind_is_between_its_measurement_and_that_kind(parts, error):
    shares = np.array(parts) / sum(parts)
    weights = weights_of(coefficients(shares, error), power_of(), span=100.0)
    pure = np.where(np.arange(3) == shares.argmax(), 1.0, 0.0)
    ends = np.sort([shares, pure], axis=0)[:, :, None]
    fractions, errors = weights.fractions[:, 1:4], weights.errors[:, 1:4]
    assert (fractions > ends[0] - error).all()
    assert (fractions < ends[1] + error).all()
    # The variance of two values is at most a quarter of their squared distance (Popoviciu 1935).
    assert (errors**2 <= error**2 + (ends[1] - ends[0]) ** 2 / 4).all()


@pytest.mark.parametrize("kind", range(3))
def test_a_flat_that_may_be_of_one_kind_is_taken_to_be_so(kind):
    shares = np.where(np.arange(3) == kind, 0.96, 0.02)
    consistent, other = (weights_of(coefficients(shares, error), power_of(), span=100.0) for error in (0.04, 0.002))
    assert (consistent.fractions[kind, 1:4] > 0.985).all()
    # Known better, it is a mixture.
    assert other.fractions[:, 1:4] == pytest.approx(np.tile(shares[:, None], 3), abs=0.01)


def test_the_expected_error_is_that_of_drawn_amplitudes():
    rng = np.random.default_rng(SEED)
    weights = weights_of(coefficients((0.5, 0.3, 0.2), 1e-4), power_of(reliability=0.7), span=100.0)
    structure, noise = weights.error_factors()
    power = power_of(reliability=0.7)
    kinds = np.sqrt(weights.fractions)[:, :, None] * rng.standard_normal((3, len(BANDS), 20_000))
    flat = kinds.sum(axis=0) + np.sqrt(power.noise)[:, None] * rng.standard_normal(kinds.shape[1:])
    found = ((weights.efficiency[:, None] * flat - kinds[0]) ** 2).mean(axis=1)
    assert found == pytest.approx(structure * power.power + noise * power.noise, rel=0.04)


def test_fractions_that_do_not_add_up_to_one_are_kept():
    weights = weights_of(coefficients((0.3, 0.3, 0.0), 0.01), power_of(), span=100.0)
    assert weights.fractions[0, 1:4] == pytest.approx(0.3, abs=0.03)
    # Consistent with 1: shifts and sizes, known better, determine the efficiency.
    fit = coefficients((0.8, 0.4, 0.0), 0.01)
    fit.covariance[range(4), range(4)] = 0.3**2
    assert weights_of(fit, power_of(), span=100.0).fractions[0, 1:4] == pytest.approx(0.6, abs=0.08)


def test_unknown_fractions_keep_the_plain_flat():
    assert not weights_of(coefficients((0.5, 0.5, 0.0), 5.0), power_of(), span=100.0).measured.any()
    assert not weights_of(coefficients((0.5, 0.5, 0.0), 0.01, fitted=False), power_of(), span=100.0).measured.any()
    # Dithers of 2 pixels measure periods up to 20 pixels.
    assert weights_of(coefficients((0.5, 0.5, 0.0), 0.01), power_of(), span=2.0).measured.tolist() == [
        False,
        True,
        False,
        False,
        False,
    ]


def test_a_region_starts_from_the_whole_detector():
    whole = weights_of(coefficients((0.8, 0.2, 0.0), 0.01), power_of(), span=100.0)
    vague = weights_of(coefficients((0.1, 0.9, 0.0), 2.0), power_of(), span=100.0, whole=whole)
    sharp = weights_of(coefficients((0.1, 0.9, 0.0), 0.01), power_of(), span=100.0, whole=whole)
    assert vague.fractions[0, 1:4] == pytest.approx(0.8, abs=0.1)
    assert sharp.fractions[0, 1:4] == pytest.approx(0.1, abs=0.03)


def test_span_of_the_dithers_and_periods():
    spot = np.array([0, 0, 0, 1, 1, 2])
    x, y = np.array([0.0, 5, 10, 100, 104, 50]), np.array([0.0, 1, 2, 7, 9, 50])
    assert dither_span(x, y, spot) == pytest.approx(3.0)
    assert periods_within((16.0, 32.0), 10.0, (400, 400)) == (16.0, 32.0, 64.0, 100.0)
    assert periods_within((16.0, 32.0), 3.3, (400, 400)) == (16.0, 32.0)
    assert periods_within((16.0, 32.0), 1e3, (40, 400)) == (16.0, 32.0, 64.0, 80.0)


@pytest.mark.parametrize("name", ["efficiency", "area", "all", pytest.param("both", marks=pytest.mark.full)])
def test_fluxes_on_left_out_dithers(name):
    scene, left_out = scenes.scene_of(name, SEED), scenes.left_out_of(name, SEED)
    filtered, *others = (
        scatter_of(left_out, division).variance for division in (Division.EFFICIENCY, Division.PLAIN, Division.UNDIVIDED)
    )
    better = Division.PLAIN if others[0] < others[1] else Division.UNDIVIDED
    change = scatter_of(left_out, Division.EFFICIENCY, minus=better)
    assert change.variance < 2 * change.error
    if name in ("both", "all"):
        assert change.variance < -3 * change.error
    assert filtered < 1.03 * scenes.scatter_with(scene, left_out, scenes.perfect_filter(scene))


@pytest.mark.parametrize("name", ["both", "all"])
def test_errors_of_cells_and_pixels(name):
    scene, found = scenes.scene_of(name, SEED), scenes.flat_of(name, SEED)
    error = scenes.error_of(scene, found)
    inside = ~found.plain
    assert (error[inside] ** 2).mean() == pytest.approx(found.variance[inside].mean(), rel=0.06)
    for side in (16, 32):
        pulls = scenes.cell_pulls(scene, found, side)
        assert 0.8 < np.sqrt((pulls**2).mean()) < 1.2
    # Not as large as that of the plain flat.
    plain = scene.flat.excess - scene.kinds[0] + scenes.amplifier_means(scene.kinds[0])
    assert error[inside].std() < 0.95 * plain[inside].std()


def test_displacement_and_size_have_the_signs_and_sizes_of_the_truth():
    scene, found = scenes.scene_of("area", SEED), scenes.flat_of("area", SEED)
    true_x, true_y = scenes.displacement(scene.kinds[1])
    for shift, true in ((found.shift_x, true_x), (found.shift_y, true_y)):
        inside = np.s_[40:-40, 40:-40]
        assert np.corrcoef(shift[inside].ravel(), true[inside].ravel())[0, 1] > 0.95
        assert (shift - true)[inside].std() < 0.35 * true[inside].std()
    assert not scenes.flat_of("efficiency", SEED).shift_x.any()
    size = scenes.flat_of("all", SEED).size
    true = scenes.size(scenes.scene_of("all", SEED).kinds[2])
    assert np.corrcoef(size[40:-40, 40:-40].ravel(), true[40:-40, 40:-40].ravel())[0, 1] > 0.2
    assert not found.size.any()
    # Where half of the flat is pixel area, the error is what the flat cannot tell.
    mixed = scenes.flat_of("both", SEED)
    errors = mixed.shift_x - scenes.displacement(scenes.scene_of("both", SEED).kinds[1])[0]
    assert 0.6 < mixed.map_errors()[0] / errors[40:-40, 40:-40].std() < 1.5


def test_stars_see_the_map_that_is_written():
    scene = scenes.scene_of("both", SEED)
    model = fit_filter(scene.components, {})
    found = filter_flat(scene.flat, model)
    flat = replace(scene.flat, excess=found.excess)
    seen = flat_as_seen(flat, scene.components.other.stars.places, mixtures.RESPONSE).excess
    effect = model.star_effect()
    assert (seen - effect).std() < 0.05 * effect.std()


def test_few_stars_keep_the_plain_flat():
    scene = scenes.scene_of("both", SEED)
    stars = scene.components.other.stars
    left = stars.places.x < mixtures.SIZE / 2
    chosen = mixtures.chosen_stars(stars, left)
    found = filter_flat(
        scene.flat, fit_filter(predict_components(chosen, scene.flat, mixtures.RESPONSE, periods=scenes.PERIODS), {})
    )
    assert not found.plain[100:300, 50:200].any()
    assert found.plain[:, 200 + int(mixtures.PITCH) + 8 :].all()
    assert np.array_equal(found.excess[found.plain], scene.flat.excess[found.plain])
    assert not np.isclose(found.excess, scene.flat.excess, atol=1e-7)[~found.plain].all()
    near = covered(chosen, scene.flat.excess.shape)
    y, x = np.indices(near.shape)[:, ::37, ::37]
    distance = np.hypot(x.ravel()[:, None] - chosen.places.x, y.ravel()[:, None] - chosen.places.y)
    for slack, sign in ((8, 1), (-8, -1)):
        enough = (distance < mixtures.PITCH + slack).sum(axis=1) >= 3
        assert (sign * near[::37, ::37].ravel() <= sign * enough).all()


def test_regions_have_fractions_of_their_own():
    scene = scenes.scene_of("both", SEED)
    regions = {"left": np.zeros(scene.flat.usable.shape, dtype=bool), "nowhere": np.zeros(scene.flat.usable.shape, dtype=bool)}
    regions["left"][:, :150] = True
    regions["nowhere"][:3, 150:] = True
    model = fit_filter(scene.components, regions)
    assert (model.zones[200, :140] == MAIN + 1).all()
    assert (model.zones[200, 160:390] == MAIN).all()
    assert (model.zones[:3, 150:] == PLAIN).all()
    assert set(model.weights) == {MAIN, MAIN + 1}


@pytest.mark.parametrize("seeds", [2, pytest.param(3, marks=pytest.mark.full)])
def test_amplifier_steps_are_kept_and_their_errors_are_true(seeds):
    sensors = [(name, seed) for seed in range(seeds) for name in ("area", "both")]
    pulls = [scenes.amplifier_pulls(scenes.scene_of(*sensor), scenes.flat_of(*sensor)) for sensor in sensors]
    assert 0.55 < np.sqrt(np.mean(np.square(pulls))) < 1.5
    scene = scenes.scene_of("both", SEED)
    steps = np.where(np.arange(4) % 2, 0.01, -0.01)
    flat = replace(scene.flat, means=steps)
    components = predict_components(
        scene.components.other.stars, flat, mixtures.RESPONSE, amplifiers=scenes.AMPLIFIERS, periods=scenes.PERIODS
    )
    places = components.other.stars.places
    assert np.array_equal(components.steps, np.where(places.x > mixtures.SIZE / 2 - 0.5, 0.01, -0.01))
    effect, without = (fit_filter(each, {}).star_effect() for each in (components, scene.components))
    assert effect - without == pytest.approx(components.steps)


def test_tree_rings_are_filtered_apart():
    # Rings are pixel area, the rest is efficiency: one filter for both could not tell them apart.
    rng = np.random.default_rng(5)
    kinds = mixtures.draw_kinds(rng, (1.0, 0.0, 0.0))
    y, x = np.indices(kinds.shape[1:])
    radius = np.hypot(x + 60, y + 40)
    waves = 2e-3 * np.sin(2 * np.pi * radius / 40.0)
    kinds[1] = waves - waves.mean()
    noise = scenes.FLAT_NOISE
    measured = 1 + kinds.sum(axis=0) + noise * rng.standard_normal(waves.shape)
    flat = relative_flat(
        measured, np.full(waves.shape, noise**2), np.ones(waves.shape, dtype=bool), np.zeros(waves.shape, dtype=int)
    )
    radii = np.arange(60.0, 650.0, 2.0)
    level = 2e-3 * np.sin(2 * np.pi * radii / 40.0)
    profile = RingProfile((-60.0, -40.0), radii, level, np.full(radii.size, 1e-5), np.full(radii.size, 1e3))
    assert np.corrcoef(ring_image(profile, waves.shape).ravel(), waves.ravel())[0, 1] > 0.99
    stars = mixtures.draw_stars(rng, kinds)
    apart, together = (
        predict_components(stars, flat, mixtures.RESPONSE, rings=rings, periods=scenes.PERIODS) for rings in (profile, None)
    )
    model = fit_filter(apart, {})
    other, rings = model.weights[MAIN]
    band = next(number for number, band in enumerate(apart.power[0].bands) if band.holds(np.array([2 * np.pi / 40.0]))[0])
    assert other.fractions[0, band] > 0.85
    assert rings.fractions[0, band] < 0.15
    found, mixed = (filter_flat(flat, fit_filter(each, {})) for each in (apart, together))
    inside = np.s_[60:-60, 60:-60]
    assert (found.excess - kinds[0])[inside].var() == pytest.approx(found.variance[inside].mean(), rel=0.1)
    # Without the noise of the pixels.
    rms = [ndimage.gaussian_filter(each.excess - kinds[0], 4.0)[inside].std() for each in (found, mixed)]
    assert rms[0] < 0.5 * rms[1]


def test_proof_and_choice():
    scene = scenes.scene_of("both", SEED)
    proof = prove(fit_filter(scene.components, {}), {}, seed=SEED)
    choice = choose_flat(proof, scenes.flat_of("both", SEED))
    assert choice.fluxes is Division.EFFICIENCY
    assert choice.sky is Division.PLAIN
    assert choice.sentence.startswith(
        "Use the efficiency flat for fluxes of stars and the plain flat for the sky: on 30 left-out"
    )
    for figures in (proof.best, proof.noise, *proof.scatter.values()):
        assert rounded(1e3 * figures.rms, 1e3 * figures.rms_error) in choice.sentence
    change = proof.change(Division.PLAIN)
    assert f"change from the plain flat {rounded(*(1e3 * each for each in change), sign=True)}" in choice.sentence
    assert f"leave structure of {rounded(*(1e3 * each for each in choice.removed))} per mil" in choice.sentence
    rows = {row["division"]: row for row in proof.rows()}
    assert list(rows) == ["undivided", "plain flat", "efficiency flat", "best filter", "noise"]
    best, found = rows["best filter"], rows["efficiency flat"]
    assert abs(best["scatter"] - found["scatter"]) < 3 * best["scatter_err"]
    assert rows["noise"]["scatter"] < best["scatter"]
    assert np.isnan(rows["noise"]["sensor_scatter"])
    assert proof.exposures == mixtures.DITHERS
    assert proof.parts == 3
    # Half of a flat of 1.5 per mil is pixel area.
    assert removed_rms(scenes.flat_of("both", SEED))[0] == pytest.approx(1.5e-3 * 0.5**0.5, rel=0.2)


@pytest.mark.parametrize(
    ("plain", "undivided", "expected", "words"),
    [
        (-9.0, -9.0, Division.EFFICIENCY, "Use the efficiency flat for fluxes of stars and the plain"),
        (-9.0, 0.5, Division.UNDIVIDED, "Do not divide fluxes of stars by a flat"),
        (0.5, -9.0, Division.PLAIN, "Use the plain flat for fluxes of stars and for the sky"),
        (0.5, -0.5, None, "do not determine"),
        (9.0, 1.0, Division.PLAIN, "Use the plain flat for fluxes of stars and for the sky"),
    ],
)
def test_words_of_the_choice(plain, undivided, expected, words):
    filtered = 100.0
    scatter = {
        Division.EFFICIENCY: FluxVariance(filtered, 5.0),
        Division.PLAIN: FluxVariance(filtered - plain, 5.0),
        Division.UNDIVIDED: FluxVariance(filtered - undivided, 5.0),
    }
    differences = {Division.PLAIN: FluxVariance(plain, 1.0), Division.UNDIVIDED: FluxVariance(undivided, 1.0)}
    proof = Proof(
        scatter, differences, noise=FluxVariance(80.0, 1.0), best=FluxVariance(95.0, 5.0), stars=1000, exposures=10, parts=2
    )
    choice = choose_flat(proof, scenes.flat_of("both", SEED))
    assert choice.fluxes is expected
    assert words in choice.sentence
    assert proof.change(Division.PLAIN)[0] == pytest.approx(np.sqrt(filtered) - np.sqrt(filtered - plain))


def test_dividing_by_the_flat_is_put_back():
    scene = scenes.scene_of("both", SEED)
    predicted = scene.components.other
    seen = predicted.templates.templates[:, :, 0].sum(axis=2)
    values = {name: value - seen[:, number] for number, (name, value) in enumerate(predicted.stars.values.items())}
    divided = replace(scene.components, other=replace(predicted, stars=replace(predicted.stars, values=values)))
    first, second = leave_out(scene.components, {}, seed=1), leave_out(divided, {}, seed=1, flat_fielded=True)
    for division in Division:
        assert second.left(division) == pytest.approx(first.left(division), abs=1e-8)


def test_bad_input():
    scene = scenes.scene_of("both", SEED)
    stars = scene.components.other.stars
    whole = relative_flat(1 + scene.flat.excess, scene.flat.variance, scene.flat.usable, scenes.AMPLIFIERS, reference="detector")
    with pytest.raises(CompareError, match="relative to its amplifiers"):
        predict_components(stars, whole, mixtures.RESPONSE)
    few = replace(stars, exposure=stars.exposure % 4)
    predicted = replace(scene.components.other, stars=few)
    with pytest.raises(CompareError, match="4 exposures of stars are too few"):
        leave_out(replace(scene.components, other=predicted), {})
    alone = replace(stars, exposure=np.arange(len(stars)))
    assert not covered(alone, (400, 400)).any()


@pytest.mark.full
@pytest.mark.parametrize("name", scenes.MIXTURES)
def test_twenty_sensors_of_each_mixture(name):
    worst, ratios, pulls = [], [], {16: [], 32: [], 64: [], "amplifier": []}
    for seed in range(7000, 7020):
        scene = scenes.scene_of.__wrapped__(name, seed)
        left_out = leave_out(scene.components, {}, seed=seed)
        found = filter_flat(scene.flat, fit_filter(scene.components, {}))
        variance = {division: scatter_of(left_out, division).variance for division in Division}
        better = min((Division.UNDIVIDED, Division.PLAIN), key=variance.__getitem__)
        change = scatter_of(left_out, Division.EFFICIENCY, minus=better)
        worst.append(change.variance / change.error)
        perfect = scenes.scatter_with(scene, left_out, scenes.perfect_filter(scene))
        ratios.append(np.sqrt(variance[Division.EFFICIENCY] / perfect))
        for side in (16, 32, 64):
            pulls[side].append(scenes.cell_pulls(scene, found, side).ravel())
        pulls["amplifier"].append(scenes.amplifier_pulls(scene, found))
    assert max(worst) < 2
    assert max(ratios) < 1.15
    assert np.mean(ratios) < 1.02
    rms = {scale: np.sqrt(np.mean(np.concatenate(each) ** 2)) for scale, each in pulls.items()}
    # A fraction of 0 or 1 is known within its error only, which counts as structure: errors of pure sensors are too large, not too small.
    low = 0.6 if name in ("efficiency", "area") else 0.85
    assert all(low < each < 1.2 for each in rms.values()), rms
