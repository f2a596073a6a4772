"""Predicted errors of the joint solution against actual ones, over seeds."""

from __future__ import annotations

import numpy as np
import pytest
from joint_bench import RandomBeam, simulate

from permil.flat.joint.covariance import CorrelatedModes, FlatCovariance, plane_operator
from permil.flat.joint.file import detector_errors
from permil.flat.joint.knots import choose_spacing
from permil.flat.joint.solution import beam_centre, centroid
from permil.flat.joint.solve import solve_joint

SPACING_MM = 3.0
OFFSET = (5.0, -7.0)


def pulls_of(seed, **changes):
    """Errors over predicted errors of one campaign: detector levels, gradients, modes, rotation, beam centre; chi-squares."""
    settings = {"columns": 3, "rows": 1, "pixels": 10, "pixel_mm": 1.6, "jitter": 0.01, "rotation": 2e-3, "offset": OFFSET}
    rng = np.random.default_rng(seed)
    campaign = simulate(rng, beam=RandomBeam.draw(rng, width=15.0), **settings | changes)
    solution = solve_joint(campaign.exposures, campaign.detectors, spacing_mm=SPACING_MM)
    errors = FlatCovariance(solution, campaign.detectors)
    deviation = campaign.response_error(solution)
    planes = [
        plane_operator(detector.x_mm, detector.y_mm, np.isfinite(deviation[detector.name])) @ deviation[detector.name]
        for detector in campaign.detectors
    ]
    sigma = np.sqrt(np.diag(errors.planes()[1])).reshape(-1, 3)
    modes = errors.modes_and_shared(20, {})[0]
    names = [detector.name for detector in campaign.detectors]
    patterns = np.concatenate([modes.patterns[name] for name in names], axis=1)
    independent = np.concatenate([modes.independent[name] for name in names])
    unit = patterns / np.linalg.norm(patterns, axis=1)[:, None]
    whole = np.concatenate([deviation[name] for name in names])
    mode_error = np.sqrt(np.square(patterns).sum(axis=1) + np.square(unit) @ independent)
    rest = whole - unit.T @ (unit @ whole)
    x, y = (part.ravel() for part in np.meshgrid(np.arange(-20, 20, 0.5), np.arange(-20, 20, 0.5), indexing="ij"))
    centre, covariance = beam_centre(solution)
    # The true beam's coordinates start at its own centre, those of the solution at the recorded position.
    true_centre = centroid(x, y, np.exp(campaign.beam.log(x, y))) + OFFSET
    return {
        "levels": (np.array(planes) / sigma)[:, 0],
        "gradients": (np.array(planes) / sigma)[:, 1:].ravel(),
        "modes": unit @ whole / mode_error,
        "rotation": np.array([(solution.rotation[0] - 2e-3) / solution.rotation[1]]),
        "centre": (centre - true_centre) / np.sqrt(np.diag(covariance)),
        "chi-square of the flat": np.sum(rest**2 / independent) / (rest.size - len(unit)),
        "chi-square of the signals": solution.reduced_chi_square,
    }


def pooled(seeds, **changes):
    runs = [pulls_of(seed, **changes) for seed in seeds]
    return {
        name: np.mean([run[name] for run in runs])
        if name.startswith("chi")
        else np.sqrt(np.mean(np.square(np.concatenate([run[name] for run in runs]))))
        for name in runs[0]
    }


@pytest.mark.parametrize("seeds", [3, pytest.param(6, marks=pytest.mark.full)])
def test_predicted_errors_are_true_over_a_few_seeds(seeds):
    found = pooled(range(seeds))
    assert found["chi-square of the flat"] == pytest.approx(1.015, abs=0.045 * np.sqrt(6 / seeds))
    assert 0.98 < found["chi-square of the signals"] < 1.03
    assert 0.8 < found["modes"] < 1.2
    for name in ("levels", "gradients", "centre"):
        assert 0.4 < found[name] < 1.7
    assert found["rotation"] < 2.2


@pytest.mark.full
def test_predicted_errors_are_true_over_a_hundred_seeds():
    found = pooled(range(1000, 1100))
    assert 0.97 < found["chi-square of the flat"] < 1.03
    for name in ("levels", "gradients", "modes"):
        assert 0.9 < found[name] < 1.1, found


@pytest.mark.parametrize(("sigma", "low", "high"), [(8.0, 6.0, 9.0), (4.0, 2.9, 4.3), (2.5, 1.4, 3.1)])
def test_knots_follow_the_structure_of_the_beam(sigma, low, high):
    rng = np.random.default_rng(5)
    campaign = simulate(rng, columns=1, rows=1, pixels=16, pixel_mm=1.0, beam=RandomBeam.draw(rng, sigma=sigma))
    choice = choose_spacing(campaign.exposures, campaign.detectors)
    assert low <= choice.spacing_mm <= high
    assert not choice.limited


def test_knots_out_of_reach_are_reported():
    campaign = simulate(np.random.default_rng(5), columns=1, rows=1, pixels=10, pixel_mm=1.6)
    assert choose_spacing(campaign.exposures, campaign.detectors, most_unknowns=130).limited


def test_super_pixels_without_a_response_have_the_correlated_errors_of_the_nearest_one():
    row, column = (part.ravel() for part in np.meshgrid(np.arange(3), np.arange(4), indexing="ij"))
    values = np.arange(1.0, 13.0)
    values[5] = np.nan
    modes = CorrelatedModes(
        {"D": np.nan_to_num(np.array([values, -values]))}, {"D": values}, {"D": values}, np.array([2.0, 1.0]), 3.0
    )
    found = detector_errors(modes, "D", np.zeros((1, 2)), np.zeros((1, 1)), (4, 4), (row, column), None)
    np.testing.assert_array_equal(found.remainder[3], found.remainder[2])
    np.testing.assert_array_equal(found.modes[:, 3], found.modes[:, 2])
    assert found.remainder[1, 1] in values[[1, 4, 6, 9]]
    assert found.remainder[0, 0] == 1.0
