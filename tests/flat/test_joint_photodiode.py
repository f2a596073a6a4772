"""The photodiode's noise and drift from what the joint solution knows of the exposure scales."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from joint_bench import simulate
from scipy import stats

from permil.flat.joint.covariance import FlatCovariance
from permil.flat.joint.photodiode import (
    PhotodiodeModel,
    constants,
    drift_correlation,
    fit_photodiode,
    left_out_deviations,
    log_evidence,
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


def test_evidence_is_the_likelihood_of_what_the_signals_leave():
    # Contrasts free of the constant and of what is open are normal with covariance C + noise of the signals.
    rng = np.random.default_rng(0)
    time, information, pull = readings(rng)
    strength, directions = np.linalg.eigh(information)
    contrasts = directions[:, strength > 1.0].T
    error = contrasts @ (np.linalg.pinv(information) @ -pull)
    fixed = constants(np.zeros((COUNT, 0)), COUNT)
    evidences, likelihoods = [], []
    for white, amplitude in ((1e-3, 0.0), (2e-3, 0.0), (2e-3, 2e-3), (3e-3, 1e-3)):
        covariance = white**2 * np.eye(COUNT) + amplitude**2 * drift_correlation(time, 0.3)
        evidences.append(log_evidence(covariance, fixed, information, pull))
        signals = contrasts @ covariance @ contrasts.T + np.eye(len(contrasts)) / 1e10
        # What is open but for the constant has a flat prior; given the contrasts its own readings add a factor.
        likelihoods.append(stats.multivariate_normal(cov=signals, allow_singular=False).logpdf(error))
    np.testing.assert_allclose(np.diff(evidences), np.diff(likelihoods), rtol=0.02, atol=0.5)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_white_noise_is_found_and_no_drift_invented(seed):
    time, information, pull = readings(np.random.default_rng(seed))
    model = fit_photodiode(time, np.zeros((COUNT, 0)), information, pull)
    assert abs(model.white - 2e-3) < 4 * model.white_err
    assert model.drift_probability < 0.6


@pytest.mark.parametrize("drift", [1e-3, 4e-3])
def test_drift_is_found(drift):
    time, information, pull = readings(np.random.default_rng(3), drift=drift)
    model = fit_photodiode(time, np.zeros((COUNT, 0)), information, pull)
    assert model.drift_probability > 0.95
    assert drift / 3 < model.drift < 4 * drift
    assert abs(model.white - 2e-3) < 4 * model.white_err


def test_a_regressor_takes_its_part():
    rng = np.random.default_rng(4)
    temperature = np.cumsum(rng.standard_normal(COUNT))
    time, information, pull = readings(rng, slope=1e-2, regressor=temperature - temperature.mean())
    without = fit_photodiode(time, np.zeros((COUNT, 0)), information, pull)
    regressed = fit_photodiode(time, temperature[:, None], information, pull)
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


def test_drift_is_covered_and_a_random_order_reduces_its_error():
    in_order, predicted = gradient_error(drift=8e-3)
    shuffled, smaller = gradient_error(drift=8e-3, order="random")
    assert (np.abs(in_order) < 3 * predicted).all()
    assert (np.abs(shuffled) < 3 * smaller).all()
    assert smaller[0] < 0.8 * predicted[0]


def test_a_revisited_fiducial_position_reduces_the_error_of_a_drift():
    options = {"drift": 4e-3, "photodiode_noise": 1e-4}
    once = [gradient_error(seed=seed, **options) for seed in range(3)]
    revisited = [gradient_error(seed=seed, fiducial_every=4, **options) for seed in range(3)]
    predicted, smaller = (np.median([error[0] for _, error in runs]) for runs in (once, revisited))
    assert smaller < 0.85 * predicted
    for runs in (once, revisited):
        pulls = [deviation / error for deviation, error in runs]
        assert np.sqrt(np.mean(np.square(pulls))) < 1.5
    actual, less = (np.sqrt(np.mean([deviation[0] ** 2 for deviation, _ in runs])) for runs in (once, revisited))
    assert less < 0.85 * actual
