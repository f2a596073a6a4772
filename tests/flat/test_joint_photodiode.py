"""The photodiode's noise and drift from what the joint solution knows of the exposure scales."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from joint_bench import simulate
from scipy.special import logsumexp

from permil.flat.joint.covariance import FlatCovariance
from permil.flat.joint.photodiode import (
    PhotodiodeModel,
    constants,
    deviations_from_others,
    drift_correlation,
    follows_exposure_before,
    left_out_deviations,
    stuck_readings,
)
from permil.flat.joint.photodiode_fit import (
    _RATIOS,
    KERNELS,
    NO_DRIFT_PRIOR,
    USUAL_AMPLITUDE,
    Contrasts,
    _amplitude_prior,
    _Components,
    _gains,
    _HypothesisPosterior,
    fit_photodiode,
    marginal,
)
from permil.flat.joint.solve import solve_joint

COUNT = 200


def readings(rng, *, white=2e-3, drift=0.0, slope=0.0, regressor=None):
    """Information that leaves the constant and two gradients open, and the pull of readings with these errors."""
    time = np.arange(COUNT, dtype=float)
    positions = np.column_stack([np.linspace(-40, 40, COUNT), 40 * np.sin(np.arange(COUNT))])
    open_to = np.linalg.qr(np.column_stack([np.ones(COUNT), positions]))[0]
    information = 1e10 * (np.eye(COUNT) - open_to @ open_to.T)
    error = white * rng.standard_normal(COUNT) + drift * np.sin(time / 25) + (0 if regressor is None else slope * regressor)
    return time, information, -information @ error


def test_components_add_what_the_whole_covariance_adds():
    rng = np.random.default_rng(5)
    values, columns = rng.standard_normal((2, 30)), rng.standard_normal((2, 30, 4))
    both = np.concatenate([values[:, :, None], columns], axis=2)
    # The third column is absent in all trials.
    relative = np.array([[[0, 0, 0, 0], [0.5, 0, 0, 1e2], [2, 1e3, 0, 0]], [[1e-3, 1, 0, 1], [0, 0, 0, 1e3], [7, 7, 0, 7]]])
    gain, quadratic = _gains(both.transpose(0, 2, 1) @ both, 30, relative)
    for hypothesis, trial in np.ndindex(2, 3):
        own = columns[hypothesis]
        covariance = np.eye(30) + own * relative[hypothesis, trial] @ own.T
        chi_square = values[hypothesis] @ np.linalg.solve(covariance, values[hypothesis])
        assert quadratic[hypothesis, trial] == pytest.approx(chi_square, rel=1e-8)
        likelihood = -15 * np.log(chi_square / np.sum(values[hypothesis] ** 2)) - np.linalg.slogdet(covariance)[1] / 2
        assert gain[hypothesis, trial] == pytest.approx(likelihood, rel=1e-8, abs=1e-12)


def test_components_that_depend_on_each_other_may_be_large():
    rng = np.random.default_rng(6)
    columns = rng.standard_normal((30, 3))
    # Offsets of epochs whose sum the contrasts do not know: rounding of a zero eigenvalue may be negative.
    products = np.zeros((1, 4, 4))
    products[0, 0, 0] = 30.0
    products[0, 1:, 1:] = (columns - columns.mean(axis=1, keepdims=True)).T @ (columns - columns.mean(axis=1, keepdims=True))
    products[0, 1:, 1:] -= 1e-9
    gain, quadratic = _gains(products, 30, np.full((1, 1, 3), 1e12))
    assert quadratic == pytest.approx(30.0)
    assert np.isfinite(gain).all()


def test_evidence_is_the_likelihood_of_the_contrasts_averaged_over_noise_and_amplitudes():
    # By brute force: normal densities with the whole covariance, summed over a grid of the logarithm of the white noise.
    rng = np.random.default_rng(0)
    time, information, pull = readings(rng, drift=1e-3)
    used = np.ones(COUNT, dtype=bool)
    contrasts = Contrasts.of(information, pull, constants(np.zeros((COUNT, 0)), COUNT), used)
    search = _HypothesisPosterior(time, np.zeros(COUNT, dtype=np.int64), contrasts, 2e-3, [1])
    components = _Components.of(time, np.zeros(COUNT, dtype=np.int64), [])
    posterior = search.posterior(components)
    smooth, length = KERNELS[1]
    rows, phase = contrasts.rows, (time - time[0]) / np.ptp(time) - 0.5
    unit = rows @ rows.T + contrasts.noise / 2e-3**2
    kernel = rows @ drift_correlation(time, length, smooth=smooth) @ rows.T
    slope = rows @ phase
    chosen = [0, 5, 12]
    found, expected = posterior.log_evidence[chosen], []
    for place in chosen:
        shape = unit + posterior.ratio[place] ** 2 * (kernel if posterior.kernel[place] >= 0 else 0)
        white = np.sqrt(contrasts.values @ np.linalg.solve(shape, contrasts.values) / (contrasts.size - 2))
        amplitudes = np.concatenate([[0.0], np.geomspace(0.3, 1e6, 24)])
        density = amplitudes[1:] / (1 + (amplitudes[1:] * white / USUAL_AMPLITUDE) ** 2 / 3) ** 2
        priors = np.concatenate([[NO_DRIFT_PRIOR], (1 - NO_DRIFT_PRIOR) * density / density.sum()])
        grid = np.log(white) + np.linspace(-1.0, 1.0, 81)
        terms = []
        for amplitude, prior in zip(amplitudes, priors, strict=True):
            covariance = shape + amplitude**2 * np.outer(slope, slope)
            _, log_determinant = np.linalg.slogdet(covariance)
            chi_square = contrasts.values @ np.linalg.solve(covariance, contrasts.values)
            terms += list(np.log(prior) - contrasts.size * grid - log_determinant / 2 - chi_square * np.exp(-2 * grid) / 2)
        amplitude_prior = _amplitude_prior(_RATIOS * white)[place - 1] if posterior.kernel[place] >= 0 else 1.0
        prior = NO_DRIFT_PRIOR if posterior.kernel[place] < 0 else (1 - NO_DRIFT_PRIOR) * amplitude_prior
        expected.append(logsumexp(terms) + np.log(prior))
    np.testing.assert_allclose(np.diff(found), np.diff(expected), atol=0.05)


def test_contrasts_know_nothing_of_readings_that_are_not_used():
    rng = np.random.default_rng(8)
    _, information, pull = readings(rng)
    used = np.ones(COUNT, dtype=bool)
    used[[3, 77]] = False
    contrasts = Contrasts.of(information, pull, constants(np.zeros((COUNT, 0)), COUNT), used)
    np.testing.assert_allclose(contrasts.rows[:, ~used], 0.0, atol=1e-9)
    np.testing.assert_allclose(contrasts.rows.sum(axis=1), 0.0, atol=1e-9)
    assert contrasts.size == COUNT - 3 - 2


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_white_noise_is_found_and_no_drift_invented(seed):
    time, information, pull = readings(np.random.default_rng(seed))
    model = fit_photodiode(time, np.zeros((COUNT, 0)), information, pull).model
    assert abs(model.white - 2e-3) < 4 * model.white_err
    assert model.drift_probability < 0.6


@pytest.mark.parametrize("drift", [1e-3, 4e-3])
def test_drift_is_found(drift):
    time, information, pull = readings(np.random.default_rng(3), drift=drift)
    model = fit_photodiode(time, np.zeros((COUNT, 0)), information, pull).model
    assert model.drift_probability > 0.95
    assert drift / 3 < model.drift < 4 * drift
    assert abs(model.white - 2e-3) < 4 * model.white_err


def fitted(errors, *, epoch=None):
    """Fit to readings with these errors."""
    time = np.arange(COUNT, dtype=float)
    positions = np.column_stack([np.sin(time), np.cos(1.7 * time)])
    open_to = np.linalg.qr(np.column_stack([np.ones(COUNT), positions]))[0]
    information = 1e10 * (np.eye(COUNT) - open_to @ open_to.T)
    return fit_photodiode(time, np.zeros((COUNT, 0)), information, -information @ errors, epoch=epoch)


@pytest.mark.parametrize("size", [3e-3, -2e-2, 0.3])
def test_a_linear_drift_far_above_the_noise_is_measured(size):
    noise = 1e-4 * np.random.default_rng(1).standard_normal(COUNT)
    model = fitted(size * (np.arange(COUNT) / (COUNT - 1) - 0.5) + noise).model
    assert abs(model.white - 1e-4) < 4 * model.white_err
    assert model.drift > 0.2 * abs(size)
    assert not model.steps
    assert model.found == (model.whole_drift,)
    assert abs(model.whole_drift.size - size) < 4 * model.whole_drift.size_err


@pytest.mark.parametrize("seeds", [16, pytest.param(40, marks=pytest.mark.full)])
def test_changes_are_reported_where_they_happen_with_true_errors(seeds):
    """Drift, walk and differences between three epochs of sizes from far below the noise to far above it, over seeds."""
    epoch = np.repeat(np.arange(3), [80, 40, 80])
    pulls, reported, large = [], [], []
    for seed in range(seeds):
        rng = np.random.default_rng([17, seed])
        sizes = rng.choice([0.0, 1e-4, 3e-3]) * rng.standard_normal(3)
        walk = np.cumsum(rng.standard_normal(COUNT)) * rng.choice([0.0, 1e-3]) / COUNT**0.5
        drift = sizes[0] * np.linspace(-0.5, 0.5, COUNT) + walk
        errors = drift + np.array([0.0, sizes[1], sizes[1] + sizes[2]])[epoch] + 1e-4 * rng.standard_normal(COUNT)
        model = fitted(errors, epoch=epoch).model
        effects = (model.whole_drift, *model.changes)
        assert [effect.time for effect in model.changes] == [80.0, 120.0]
        for effect, true in zip(effects, (drift[-1] - drift[0], *sizes[1:]), strict=True):
            pulls.append((effect.size - true) / effect.size_err)
            large.append(abs(true) / effect.size_err)
            reported.append(effect in model.found)
    reported, large = np.array(reported), np.array(large)
    assert 0.7 < np.sqrt(np.mean(np.square(pulls))) < 1.15
    assert reported[large > 5].mean() > 0.95
    assert (large > 5).mean() > 0.125
    assert reported[large < 1].mean() < 0.05


@pytest.mark.parametrize("size", [1e-3, -5e-3, np.log(1000.0)])
def test_a_step_at_an_unknown_time_is_measured(size):
    noise = 1e-4 * np.random.default_rng(2).standard_normal(COUNT)
    model = fitted(size * (np.arange(COUNT) >= 130) + noise).model
    assert abs(model.white - 1e-4) < 4 * model.white_err
    (step,) = model.steps
    assert step.time == 130
    assert abs(step.size - size) < 4 * step.size_err
    assert step.significance > 5


def test_offsets_of_epochs_are_allowed_for():
    epoch = np.repeat(np.arange(4), COUNT // 4)
    noise = 1e-4 * np.random.default_rng(3).standard_normal(COUNT)
    found = fitted(np.array([0.0, 2e-3, -1e-3, 3e-3])[epoch] + noise, epoch=epoch)
    assert abs(found.model.white - 1e-4) < 4 * found.model.white_err
    assert 5e-4 < found.model.epoch_rms < 1e-2
    assert found.used.all()


@pytest.mark.parametrize("count", [1, 5, 30])
def test_outlying_readings_are_found_and_no_others(count):
    rng = np.random.default_rng(4)
    errors = 1e-4 * rng.standard_normal(COUNT)
    bad = rng.choice(COUNT, count, replace=False)
    errors[bad] += rng.choice([-1, 1], count) * rng.uniform(0.01, 0.5, count)
    found = fitted(errors)
    assert set(np.flatnonzero(~found.used)) == set(bad)
    assert abs(found.model.white - 1e-4) < 4 * found.model.white_err


@pytest.mark.parametrize("first", [5, 20, 30])
def test_readings_that_repeat_one_value_are_stuck(first):
    """The first of them is a measurement, however many follow."""
    rng = np.random.default_rng(5)
    reading, time = np.log(0.5 + 1e-3 * rng.standard_normal(40)), np.arange(40.0)
    reading[first:] = reading[first]
    assert list(np.flatnonzero(stuck_readings(reading, time))) == list(range(first + 1, 40))
    reading[35] = np.nan
    assert list(np.flatnonzero(stuck_readings(reading, time))) == [*range(first + 1, 35), *range(36, 40)]


def test_readings_of_several_exposures_or_a_coarse_converter_are_not_stuck():
    rng = np.random.default_rng(5)
    time = np.arange(40.0)
    shared = np.repeat(np.log(0.5 + 1e-3 * rng.standard_normal(20)), 2)
    assert not stuck_readings(shared, time).any()
    coarse = np.log(0.5 + np.round(np.linspace(0, 1e-3, 40), 4))
    assert not stuck_readings(coarse, time).any()


def test_few_repeated_and_saturated_readings_are_stuck():
    """Readings of a fine converter do not repeat; the first of the repeated ones is a measurement."""
    rng = np.random.default_rng(6)
    reading, time = np.log(0.5 + 1e-3 * rng.standard_normal(40)), rng.permutation(40).astype(float)
    assert not stuck_readings(reading, time).any()
    stale = reading.copy()
    stale[time == 12] = reading[time == 11]
    assert list(time[stuck_readings(stale, time)]) == [12]
    largest = np.sort(reading)[-8]
    np.testing.assert_array_equal(stuck_readings(np.minimum(reading, largest), time), reading >= largest)
    np.testing.assert_array_equal(stuck_readings(np.round(reading, 3), time), False)


@pytest.mark.parametrize("seed", range(5))
def test_readings_that_follow_the_exposure_before(seed):
    rng = np.random.default_rng(seed)
    time, light = rng.permutation(60).astype(float), 1e-3 * rng.standard_normal(60)
    in_order = np.argsort(time)
    noise = 1e-4 * rng.standard_normal(60) + 5e-3 * time / 60
    stale = np.empty(60)
    stale[in_order] = light[np.append(in_order[0], in_order[:-1])]
    assert follows_exposure_before(stale + noise, light, time)
    assert not follows_exposure_before(light + noise, light, time)
    # A lamp that is steadier than the readings, readings that are missing, and few exposures say nothing.
    assert not follows_exposure_before(stale + 100 * noise, light, time)
    assert not follows_exposure_before(np.where(time % 2 == 0, np.nan, stale), light, time)
    assert not follows_exposure_before(stale[in_order[:15]], light[in_order[:15]], time[in_order[:15]])


def test_a_regressor_takes_its_part():
    rng = np.random.default_rng(4)
    temperature = np.cumsum(rng.standard_normal(COUNT))
    time, information, pull = readings(rng, slope=1e-2, regressor=temperature - temperature.mean())
    without = fit_photodiode(time, np.zeros((COUNT, 0)), information, pull).model
    regressed = fit_photodiode(time, temperature[:, None], information, pull).model
    assert abs(regressed.white - 2e-3) < 5 * regressed.white_err
    assert regressed.drift < without.drift / 3


def test_marginal_information_is_that_of_the_inverse_covariance():
    rng = np.random.default_rng(5)
    root = rng.standard_normal((8, 8))
    information, pull = root @ root.T, rng.standard_normal(8)
    kept = np.array([0, 3, 4])
    inside, moved = marginal(information, pull, kept)
    np.testing.assert_allclose(np.linalg.inv(inside), np.linalg.inv(information)[np.ix_(kept, kept)], rtol=1e-5)
    np.testing.assert_allclose(np.linalg.solve(inside, moved), np.linalg.solve(information, pull)[kept], rtol=1e-5)


def test_left_out_deviations_are_those_of_conditional_normals():
    rng = np.random.default_rng(6)
    root = rng.standard_normal((6, 6))
    covariance, values = root @ root.T + np.eye(6), rng.standard_normal(6)
    others = np.arange(1, 6)
    share = np.linalg.solve(covariance[np.ix_(others, others)], covariance[others, 0])
    expected = (values[0] - share @ values[others]) / np.sqrt(covariance[0, 0] - share @ covariance[others, 0])
    assert left_out_deviations(np.linalg.inv(covariance), values)[0] == pytest.approx(expected)


def test_readings_that_are_not_used_are_predicted_one_by_one():
    # The precision of those that count and of one more gives the same, at the cost of a factor for each.
    rng = np.random.default_rng(7)
    root = rng.standard_normal((12, 12))
    covariance, values = root @ root.T + np.eye(12), rng.standard_normal(12)
    fixed = constants(rng.standard_normal((12, 1)), 12)
    used = np.ones(12, dtype=bool)
    used[[2, 5, 11]] = False
    found = deviations_from_others(covariance, fixed, values, used)
    for reading in np.flatnonzero(~used):
        some = np.append(np.flatnonzero(used), reading)
        inverse = np.linalg.inv(covariance[np.ix_(some, some)])
        x = fixed[some]
        precision = inverse - inverse @ x @ np.linalg.solve(x.T @ inverse @ x, x.T @ inverse)
        assert found[reading] == pytest.approx(left_out_deviations(precision, values[some])[-1])


def test_precision_is_the_limit_of_a_free_constant():
    model = PhotodiodeModel(1e-3, 0.0)
    time = np.arange(7.0)
    broad = model.covariance(time) + 1e2
    np.testing.assert_allclose(model.precision(time, np.zeros((7, 0))), np.linalg.inv(broad), rtol=1e-4, atol=10)


def gradient_error(*, drift, seed=7, **changes):
    """Found minus true gradient of the composite and its predicted error."""
    rng = np.random.default_rng(seed)
    options = {"pixels": 6, "pixel_mm": 2.7, "images": 2, "photodiode_drift": drift, "photodiode_noise": 5e-4} | changes
    campaign = simulate(rng, **options)
    solution = solve_joint(campaign.exposures, campaign.detectors, spacing_mm=5.0, geometry=False, position_errors=False)
    errors = FlatCovariance(solution, campaign.detectors)
    found, covariance = errors.composite_gradient()
    truth = replace(solution, log_response=campaign.log_response)
    true, _ = FlatCovariance(truth, campaign.detectors).composite_gradient()
    return found - true, np.sqrt(np.diag(covariance))


@pytest.mark.full
def test_drift_is_covered_and_a_random_order_reduces_its_error():
    in_order, predicted = gradient_error(drift=8e-3)
    shuffled, smaller = gradient_error(drift=8e-3, order="random")
    assert (np.abs(in_order) < 3 * predicted).all()
    assert (np.abs(shuffled) < 3 * smaller).all()
    assert smaller[0] < 0.8 * predicted[0]


@pytest.mark.full
def test_a_revisited_fiducial_position_reduces_the_error_of_a_wandering_photodiode():
    options = {"drift": 0.0, "photodiode_walk": 3e-3, "photodiode_noise": 1e-4, "rows": 1}
    once = [gradient_error(seed=seed, **options) for seed in range(3)]
    revisited = [gradient_error(seed=seed, fiducial_every=4, **options) for seed in range(3)]
    predicted, smaller = (np.median([error[0] for _, error in runs]) for runs in (once, revisited))
    assert smaller < 0.85 * predicted
    for runs in (once, revisited):
        pulls = [deviation / error for deviation, error in runs]
        assert np.sqrt(np.mean(np.square(pulls))) < 1.5


def group_deviations(seed, *, groups=189, images=5, noise=1e-4, drift=3e-3, walk=1e-3, signals=2e-5):
    """Mean scales of groups of exposures that only the photodiode compares (pointings that read one detector each), over their errors.

    A scan before them tells how the photodiode drifts, but for gradients of the flat; noise, drift and walk are unknown.
    """
    rng = np.random.default_rng(seed)
    steps = np.arange(12) - 5.5
    scan = np.linalg.qr(np.column_stack([np.ones(144), np.tile(steps, 12), np.repeat(steps, 12)]))[0]
    count = 144 + groups * images
    time = np.arange(count, dtype=float)
    walked = walk / np.sqrt(count) * np.cumsum(rng.standard_normal(count))
    error = drift * rng.standard_normal() * time / count + walked + noise * rng.standard_normal(count)
    known = np.zeros((count, count))
    known[:144, :144] = np.eye(144) - scan @ scan.T
    for first in range(144, count, images):
        known[first : first + images, first : first + images] = np.eye(images) - 1 / images
    information = known / signals**2
    pull = information @ (known @ (signals * rng.standard_normal(count)) - error)
    model = fit_photodiode(time, np.zeros((count, 0)), information, pull).model
    values, vectors = np.linalg.eigh(information + model.precision(time, np.zeros((count, 0))))
    inside = values > 1e-12 * values[-1]
    covariance = (vectors[:, inside] / values[inside]) @ vectors[:, inside].T
    means = np.kron(np.eye(groups), np.full((1, images), 1 / images)) - 1 / (groups * images)
    found = means @ (covariance @ pull + error)[144:]
    expected = means @ covariance[144:, 144:] @ means.T
    return found @ np.linalg.pinv(expected, rcond=1e-10, hermitian=True) @ found / (groups - 1)


@pytest.mark.full
def test_levels_that_only_the_photodiode_compares_have_true_errors():
    found = [group_deviations(seed) for seed in range(700, 712)]
    assert 0.85 < np.median(found) < 1.2, found
