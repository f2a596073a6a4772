"""The joint solution on an instrument that behaves like a real one: it converges, and its errors are true, over seeds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from joint_bench import RandomBeam, simulate
from scipy import linalg, stats

from permil.errors import FlatError
from permil.flat.joint.covariance import FlatCovariance, plane_operator
from permil.flat.joint.gain_steps import find_gain_steps
from permil.flat.joint.solve import solve_joint
from permil.flat.steps.solve_led import require_plausible_gradient

SETTINGS = {"columns": 3, "rows": 1, "pixels": 10, "pixel_mm": 1.6, "jitter": 0.01, "rotation": 2e-3, "offset": (5.0, -7.0)}
SCAN = 144


def campaign_of(row, seed):
    """One campaign; sizes of what is injected are drawn from normal distributions."""
    rng = np.random.default_rng(seed)
    changes = {"photodiode_noise": 1e-4, "photodiode_drift": 3e-3 * rng.standard_normal()}
    if row == "as in the preset":
        changes = {"photodiode_noise": 2e-3}
    elif row == "walk":
        changes["photodiode_walk"] = 1e-3
    elif row == "step":
        changes["photodiode_step"] = 2e-3 * rng.standard_normal()
    elif row == "random order":
        changes["order"] = "random"
    campaign = simulate(rng, beam=RandomBeam.draw(rng, width=15.0), **SETTINGS | changes)
    if row in ("no photodiode", "unconnected"):
        blind = replace(campaign.exposures, log_photodiode=np.full(len(campaign.exposures), np.nan))
        campaign = replace(campaign, exposures=blind)
    if row == "unconnected":
        # The scan reads the middle detector, each pointing the detector that it aims at.
        aimed = np.concatenate([np.ones(SCAN, dtype=int), np.repeat([0, 1, 2], 10)])
        detectors = [detector.only(aimed == number) for number, detector in enumerate(campaign.detectors)]
        campaign = replace(campaign, detectors=detectors)
    return campaign


def planes_of(row, seed):
    """Errors of levels and gradients of the detectors, their covariance, and the solution."""
    campaign = campaign_of(row, seed)
    solution = solve_joint(campaign.exposures, campaign.detectors, spacing_mm=3.0)
    deviation = campaign.response_error(solution)
    planes = np.concatenate(
        [
            plane_operator(detector.x_mm, detector.y_mm, np.isfinite(deviation[detector.name])) @ deviation[detector.name]
            for detector in campaign.detectors
        ]
    )
    return planes, FlatCovariance(solution, campaign.detectors).planes()[1], solution


def chi_square(planes, covariance):
    """Chi-square of levels and gradients; the mean of the levels is not free."""
    return float(planes @ np.linalg.pinv(covariance, rcond=1e-9, hermitian=True) @ planes), len(planes) - 1


def whitened(planes, covariance):
    """Levels and gradients as independent numbers of unit variance, without the mean of the levels, in units that seeds share."""
    level = np.repeat([[1.0, 0.0, 0.0]], len(planes) // 3, axis=0).ravel()
    size = np.tile([1.0, 8.0, 8.0], len(planes) // 3)
    free = linalg.null_space(level[None])
    strength, directions = np.linalg.eigh(free.T @ (covariance * np.outer(size, size)) @ free)
    return directions @ ((directions.T @ free.T @ (size * planes)) / np.sqrt(strength))


def largest_variance(numbers):
    """Largest mean square of whitened numbers along any direction, and what true errors exceed in one case of 10000.

    The direction is found from the same seeds: with ``k`` numbers and ``n`` seeds chance alone makes it about ``(1 + sqrt(k / n))^2``
    (Marchenko & Pastur 1967, Mathematics of the USSR-Sbornik 1, 457), far more than in a direction chosen beforehand.
    """
    numbers = np.asarray(numbers)
    drawn = np.random.default_rng(0).standard_normal((10000, *numbers.shape))
    by_chance = np.linalg.eigvalsh(np.swapaxes(drawn, 1, 2) @ drawn)[:, -1].max()
    return np.linalg.eigvalsh(numbers.T @ numbers)[-1] / len(numbers), by_chance / len(numbers)


ROWS = ("as in the preset", "drift", "walk", "step", "random order")


@pytest.mark.parametrize("seeds", [(41,), pytest.param((41, 42), marks=pytest.mark.full)])
@pytest.mark.parametrize("row", ROWS)
def test_a_drift_far_above_the_noise_is_solved_for_with_true_errors(row, seeds):
    total, freedom = 0.0, 0
    for seed in seeds:
        planes, covariance, solution = planes_of(row, seed)
        assert solution.certificate.converged
        assert not solution.left_out.any()
        assert solution.prior.has_photodiode.all()
        assert 0.97 < solution.reduced_chi_square < 1.03
        one, free = chi_square(planes, covariance)
        total, freedom = total + one, freedom + free
    assert 1e-3 < stats.chi2.sf(total, freedom) < 0.9999


@pytest.mark.parametrize("row", ["no photodiode", "unconnected"])
def test_what_nothing_determines_has_the_error_of_its_prior(row):
    planes, covariance, solution = planes_of(row, 43)
    assert solution.certificate.converged
    errors = np.sqrt(np.diag(covariance)).reshape(-1, 3)
    assert (np.abs(planes.reshape(-1, 3)) < 3 * errors).all()
    # A factor e for each scale: gradients of a few per mil per mm, and levels of unconnected detectors of tens of per cent.
    assert (errors[:, 1] > 1e-3).all()
    assert (errors[:, 0] > 0.1).all() == (row == "unconnected")


def test_a_response_that_no_camera_has_is_refused():
    error = np.diag([1e-10, 1e-10])
    require_plausible_gradient(np.array([5e-4, -5e-4]), error, led="red")
    # Without a photodiode the gradient is not known at all, and its error says so.
    require_plausible_gradient(np.array([5e-3, 0.0]), np.diag([1e-4, 1e-4]), led="red")
    with pytest.raises(FlatError, match="red: the response would change by 2 per cent per mm"):
        require_plausible_gradient(np.array([0.0, -2e-2]), error, led="red")


@pytest.mark.full
@pytest.mark.parametrize("row", ROWS)
def test_errors_are_true_over_a_hundred_seeds(row):
    total, freedom, pulls, numbers = 0.0, 0, [], []
    for seed in range(7000, 7100):
        planes, covariance, solution = planes_of(row, seed)
        assert solution.certificate.converged
        assert not solution.left_out.any()
        one, free = chi_square(planes, covariance)
        total, freedom = total + one, freedom + free
        pulls.append(planes / np.sqrt(np.diag(covariance)))
        numbers.append(whitened(planes, covariance))
    rms = np.sqrt(np.mean(np.square(pulls)))
    assert 0.85 < rms < 1.15, rms
    assert 0.9 < total / freedom < 1.1, total / freedom
    largest, by_chance = largest_variance(numbers)
    assert largest < by_chance, largest


def amplifiers_of(detector):
    """Five amplifiers of two columns of super-pixels in either half."""
    column = np.unique(np.round(detector.x_mm, 3), return_inverse=True)[1] // 2
    row = np.unique(np.round(detector.y_mm, 3), return_inverse=True)[1] // 5
    return (column + 5 * row).astype(np.int64)


@pytest.mark.parametrize(
    ("first", "last", "size"),
    [
        pytest.param(60, 174, 1e-2, marks=pytest.mark.full),
        pytest.param(40, 100, -1e-2, marks=pytest.mark.full),
        pytest.param(SCAN, 174, -2e-3, marks=pytest.mark.full),
        (40, 100, 2e-3),
    ],
)
def test_a_gain_that_changes_is_found_where_both_epochs_constrain_the_amplifier(first, last, size):
    campaign = campaign_of("drift", 44)
    number = 1
    detector = campaign.detectors[number]
    amplifier = amplifiers_of(detector) == 6
    later = (detector.exposures >= first) & (detector.exposures < last)
    changed = detector.log_signal + size * later[:, None] * amplifier
    campaign.detectors[number] = replace(detector, log_signal=changed)
    solution = solve_joint(campaign.exposures, campaign.detectors, spacing_mm=3.0)
    steps = find_gain_steps(solution, campaign.detectors, {one.name: amplifiers_of(one) for one in campaign.detectors})
    assert all(step.detector == detector.name and step.amplifier == 6 for step in steps)
    times = [first] if last == len(campaign.exposures) else [first, last]
    assert [step.exposure for step in steps] == pytest.approx(times, abs=1)
    for step, sign in zip(steps, (1, -1), strict=False):
        # Beam and exposure scales absorb a part.
        assert 0.6 < sign * step.size / size < 1.1


# Knots that do not follow the beam leave residuals that change with the position, that is, with time.
@pytest.mark.parametrize(
    ("row", "spacing_mm"),
    [("walk", 6.0), ("step", 3.0), *(pytest.param(*case, marks=pytest.mark.full) for case in (("walk", 3.0), ("step", 6.0)))],
)
def test_no_gain_changes_where_the_photodiode_does(row, spacing_mm):
    campaign = campaign_of(row, 45)
    solution = solve_joint(campaign.exposures, campaign.detectors, spacing_mm=spacing_mm)
    assert not find_gain_steps(solution, campaign.detectors, {one.name: amplifiers_of(one) for one in campaign.detectors})
