"""Factors, curvature, stiffness and passes for the gradient alone of the joint solution, against dense algebra."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from joint_bench import precision_of, simulate
from scipy import linalg

from permil.engine.threads import allow_threads
from permil.flat.joint import factor as factor_module
from permil.flat.joint import normal as normal_module
from permil.flat.joint.budget import without_drift
from permil.flat.joint.factor import factorise_rows, inverse_of, lower_factor
from permil.flat.joint.grouped import GroupedFactor
from permil.flat.joint.knots import _roughness_determinant, best_stiffness
from permil.flat.joint.model import make_model
from permil.flat.joint.newton import Curvature
from permil.flat.joint.normal import normal_equations
from permil.flat.joint.photodiode import Drift, PhotodiodeModel
from permil.flat.joint.prior import Prior, roughness_of
from permil.flat.joint.solve import solve_again, solve_joint
from permil.flat.joint.spline import SplineGrid


def small_campaign(seed=1):
    return simulate(np.random.default_rng(seed), columns=2, rows=1, pixels=5, pixel_mm=2.0, scan=4, images=2)


def posed(seed=1, stiffness=3e3):
    """A model, its campaign, a vector away from the start, and a prior with a drift."""
    campaign = small_campaign(seed)
    model = make_model(campaign.exposures, campaign.detectors, spacing_mm=6.0, position_errors=True, geometry=True)
    rng = np.random.default_rng(seed)
    vector = model.start()
    vector[: model.scales.start] += 1e-2 * rng.standard_normal(model.scales.start)
    known = np.isfinite(campaign.exposures.log_photodiode)
    prior = Prior(model, (stiffness,), PhotodiodeModel(2e-3, 1e-4, (Drift(2e-3, 0.3, 0.4),)), known)
    return campaign, model, vector, prior


@pytest.fixture
def small_blocks(monkeypatch):
    """Several panels, pieces and strips in a small matrix."""
    monkeypatch.setattr(factor_module, "_PANEL", 16)
    monkeypatch.setattr(factor_module, "_PIECE", 24)
    monkeypatch.setattr(normal_module, "_ONE_STRIP", 10)
    monkeypatch.setattr(normal_module, "_STRIP_ROWS", 7)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("size", [1, 15, 16, 100, 131])
@pytest.mark.parametrize("threads", [1, 3])
def test_factor_in_two_steps_is_the_cholesky_factor(size, threads):
    rows = np.random.default_rng(size).standard_normal((size, size + 5))
    matrix = rows @ rows.T + np.eye(size)
    upper = np.triu(matrix) + np.tril(np.full((size, size), np.nan), -1)
    first = size // 3
    with allow_threads(threads):
        factorise_rows(upper, 0, first)
        schur = matrix[first:, first:] - matrix[first:, :first] @ linalg.solve(matrix[:first, :first], matrix[:first, first:])
        np.testing.assert_allclose(np.triu(upper[first:, first:]), np.triu(schur), atol=1e-10 * size)
        factorise_rows(upper, first, size)
    lower = lower_factor(upper)
    np.testing.assert_allclose(lower, np.linalg.cholesky(matrix), atol=1e-10 * size)
    np.testing.assert_allclose(inverse_of(lower), np.linalg.inv(matrix), atol=1e-10 * size)


def test_a_matrix_that_is_not_positive_has_no_factor():
    matrix = np.diag([1.0, 2.0, -1.0, 4.0])
    with pytest.raises(linalg.LinAlgError):
        factorise_rows(matrix, 0, 4)


@pytest.mark.usefixtures("small_blocks")
def test_bits_do_not_depend_on_threads():
    campaign, model, vector, _ = posed()
    alone = normal_equations(model, campaign.detectors, vector, threshold=3.0)
    with allow_threads(3):
        shared = normal_equations(model, campaign.detectors, vector, threshold=3.0)
    np.testing.assert_array_equal(alone.full_matrix, shared.full_matrix)
    np.testing.assert_array_equal(alone.gradient, shared.gradient)


def test_the_gradient_is_the_derivative_of_the_objective():
    campaign, model, vector, _ = posed()
    gradient = normal_equations(model, campaign.detectors, vector, with_matrix=False).gradient
    direction = np.random.default_rng(2).standard_normal(model.size) * 1e-3
    ends = [
        normal_equations(model, campaign.detectors, vector + step * direction, with_matrix=False).objective
        for step in (-1e-3, 1e-3)
    ]
    assert -(ends[1] - ends[0]) / 2 / 2e-3 == pytest.approx(gradient @ direction, rel=1e-5)


def test_exposures_that_are_held_out_add_nothing():
    campaign, model, vector, _ = posed()
    held_out = np.arange(len(campaign.exposures)) % 3 == 0
    found = normal_equations(
        model, campaign.detectors, vector, held_out=held_out, exposure_weights=np.where(held_out, 1e-12, 1.0)
    )
    rest = normal_equations(model, [detector.only(~held_out) for detector in campaign.detectors], vector)
    scale = np.abs(rest.full_matrix).max()
    np.testing.assert_allclose(found.full_matrix, rest.full_matrix, atol=1e-9 * scale)
    np.testing.assert_allclose(found.gradient, rest.gradient, atol=1e-9 * np.abs(rest.gradient).max())


def test_curvature_gives_what_dense_algebra_gives():
    campaign, model, vector, prior = posed()
    equations = normal_equations(model, campaign.detectors, vector)
    matrix = equations.full_matrix
    total = matrix.copy()
    prior.add_to(total)
    pull = equations.gradient + prior.gradient(vector)
    curvature = Curvature(equations, prior)
    # Another prior of the photodiode first: the second must not see it.
    curvature.factorise(replace(prior, photodiode=PhotodiodeModel(1e-2, 1e-3)))
    curvature.factorise(prior)
    covariance = np.linalg.inv(total)
    errors = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(curvature.solve(pull) / errors, covariance @ pull / errors, rtol=1e-5, atol=1e-6)
    assert curvature.relative_norm(pull) == pytest.approx(np.linalg.norm(pull / np.sqrt(np.diag(total))))
    step = 1e-4 * np.random.default_rng(0).standard_normal(model.size)
    assert curvature.distance(vector + step) == pytest.approx(np.sqrt(step @ total @ step))
    for block in (model.scales, model.errors):
        others = np.r_[0 : block.start, block.stop : model.size]
        solved = linalg.solve(
            total[np.ix_(others, others)], np.column_stack([matrix[others, block], pull[others]]), assume_a="pos"
        )
        expected = matrix[block, block] - matrix[block, others] @ solved[:, :-1]
        information, of_signals = curvature.information(prior, equations.gradient, pull, block)
        np.testing.assert_allclose(information, expected, atol=1e-7 * np.abs(matrix[block, block]).max())
        expected_pull = equations.gradient[block] - matrix[block, others] @ solved[:, -1]
        np.testing.assert_allclose(of_signals, expected_pull, atol=1e-6 * np.abs(equations.gradient[block]).max())
    np.testing.assert_allclose(
        curvature.factor.covariance(np.arange(model.size)) / np.outer(errors, errors),
        covariance / np.outer(errors, errors),
        atol=1e-5,
    )


@pytest.mark.parametrize("shape", [(4, 5), (11, 7)])
def test_determinant_of_the_roughness_is_that_of_its_eigenvalues(shape):
    grid = SplineGrid((-3.0, 2.0), 2.1, shape)
    strengths = np.linalg.eigvalsh(roughness_of(grid).toarray())
    assert strengths[2] < 1e-9 < strengths[3]
    assert _roughness_determinant(grid) == pytest.approx(np.log(strengths[3:]).sum(), rel=1e-9)


@pytest.mark.parametrize("start", [1e-2, 3e3, 1e11])
def test_the_stiffness_has_the_largest_evidence(start):
    campaign, model, _, prior = posed(stiffness=start)
    equations = normal_equations(model, campaign.detectors, model.start())
    pull = equations.gradient + prior.gradient(equations.vector)
    matrix = equations.full_matrix

    def evidence(log_stiffness):
        """Up to a constant, from the whole matrix."""
        held = prior.with_stiffness((float(np.exp(log_stiffness)),))
        total = matrix.copy()
        held.add_to(total)
        rank = model.patterns[0].grid.size - 3
        return 0.5 * (pull @ linalg.solve(total, pull, assume_a="pos") - np.linalg.slogdet(total)[1] + rank * log_stiffness)

    grid = np.arange(0.0, 27.0, 0.05)
    best = grid[np.argmax([evidence(place) for place in grid])]
    chosen, highest, step = best_stiffness(equations.matrix, pull, prior)
    found = np.log(chosen.stiffness[0])
    assert abs(found - best) < 0.2
    # The evidence goes with the stiffness that was tried last before the vertex of the parabola.
    assert abs(evidence(found) - evidence(best)) < 0.2
    # The step is one of a stiffness near the best.
    total = matrix.copy()
    chosen.add_to(total)
    exact = linalg.solve(total, pull, assume_a="pos")
    assert (exact - step) @ total @ (exact - step) < 0.05**2 * (exact @ pull)
    again, same, _ = best_stiffness(normal_equations(model, campaign.detectors, model.start()).matrix, pull, chosen)
    assert abs(np.log(again.stiffness[0]) - found) < 0.2
    assert same == pytest.approx(highest, abs=0.5)


def test_kept_curvature_leads_to_the_same_solution():
    campaign = small_campaign(3)
    solution = solve_joint(campaign.exposures, campaign.detectors, spacing_mm=6.0, tolerance=1e-3)
    held_out = np.arange(len(campaign.exposures)) % 2 == 0
    kept, renewed = (
        solve_again(solution, campaign.detectors, held_out=held_out, tolerance=1e-3, near=near) for near in (np.inf, 0.0)
    )
    assert kept.certificate.converged
    assert kept.certificate.passes >= renewed.certificate.passes
    errors = renewed.error_of(slice(0, renewed.model.size))
    assert np.abs((kept.vector - renewed.vector) / errors).max() < 5e-3
    # The errors of the kept one are those of where its curvature was made.
    assert not np.array_equal(kept.factor.lower, renewed.factor.lower)
    np.testing.assert_allclose(renewed.error_of(renewed.model.scales), kept.error_of(kept.model.scales), rtol=0.05)


def test_errors_without_drift_are_those_of_the_prior_without_it():
    campaign, _, _, _ = posed()
    solution = solve_joint(campaign.exposures, campaign.detectors, spacing_mm=6.0)
    drifting = replace(solution.prior, photodiode=PhotodiodeModel(2e-3, 1e-4, (Drift(2e-3, 0.3, 0.4),)))
    scales = solution.model.scales
    total = precision_of(replace(solution, prior=drifting), campaign.detectors)
    drifting_solution = replace(solution, prior=drifting, factor=GroupedFactor.of(total))
    steady = without_drift(drifting_solution)
    total[scales, scales] += steady.prior.scale_precision - drifting.scale_precision
    errors = steady.error_of(slice(0, len(total)))
    found = steady.factor.covariance(np.arange(len(total)))
    np.testing.assert_allclose(found / np.outer(errors, errors), np.linalg.inv(total) / np.outer(errors, errors), atol=1e-5)
    assert steady.error_of(scales).max() < drifting_solution.error_of(scales).max()


def test_what_the_prior_determines_takes_no_degree_of_freedom():
    """The signals determine ``tr(H (H + P)^-1)`` unknowns, with their own information ``H``: from the model's derivatives, dense."""
    campaign, *_ = posed()
    solution = solve_joint(campaign.exposures, campaign.detectors, spacing_mm=3.0)
    equations = normal_equations(
        solution.model,
        campaign.detectors,
        solution.vector,
        threshold=solution.threshold,
        exposure_weights=solution.exposure_weights,
    )
    information = equations.full_matrix
    whole = information.copy()
    solution.prior.add_to(whole)
    expected = np.trace(linalg.solve(whole, information, assume_a="pos"))
    assert expected < 0.9 * solution.model.size
    assert solution.determined == pytest.approx(expected, abs=0.05 * solution.model.size)
    freedom = solution.signals - solution.responses - expected
    assert solution.reduced_chi_square == pytest.approx(solution.objective / freedom, rel=0.02)


def test_progress_rises_after_each_detector_of_each_pass():
    campaign, *_ = posed()
    shares: list[float] = []
    solution = solve_joint(campaign.exposures, campaign.detectors, spacing_mm=6.0, progress=shares.append)
    assert len(shares) >= len(campaign.detectors) * solution.certificate.passes
    assert (np.diff(shares) > 0).all()
    assert 0 < shares[0] < shares[-1] < 1
