"""Fine structure of the beam: against dense solutions with fine knots, and in the errors of levels and gradients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from joint_bench import RandomBeam, simulate
from scipy import linalg

from permil.errors import FlatError
from permil.flat.joint import FlatCovariance, choose_spacing, coarse_spacing, solve_joint
from permil.flat.joint import details as details_module
from permil.flat.joint import solve as solve_module
from permil.flat.joint.amplifier_linearity import errors_with_losses, measure_losses
from permil.flat.joint.covariance import plane_operator
from permil.flat.joint.data import thinned
from permil.flat.joint.details import detail_grid, solve_details
from permil.flat.joint.grouped import GroupedFactor
from permil.flat.joint.model import Pattern, make_model
from permil.flat.joint.normal import normal_equations
from permil.flat.joint.prior import roughness_of
from permil.flat.joint.spline import SplineGrid

COARSE_MM, FINE_MM = 8.0, 4.0


@pytest.fixture(scope="module")
def campaign():
    rng = np.random.default_rng(3)
    return simulate(rng, columns=2, rows=1, pixels=12, pixel_mm=1.4, beam=RandomBeam.draw(rng, sigma=4.0))


@pytest.fixture(scope="module")
def solution(campaign):
    return solve_joint(campaign.exposures, campaign.detectors, spacing_mm=COARSE_MM, finest_mm=FINE_MM, with_weather=False)


def on_fine_knots(solution):
    """The model of a solution whose beam has fine knots of its own, and its unknowns."""
    grid, coefficients = solution.model.beam(solution.vector)
    model = replace(solution.model, patterns=(Pattern(grid, -1.0),), details=None)
    return model, np.concatenate([coefficients, solution.vector[solution.model.scales.start :]])


def dense_equations(campaign, solution):
    """Dense normal equations with fine knots at a solution, its prior added, and the pull."""
    model, vector = on_fine_knots(solution)
    weights = solution.exposure_weights
    equations = normal_equations(model, campaign.detectors, vector, threshold=solution.threshold, exposure_weights=weights)
    prior = replace(solution.prior, model=model)
    matrix = equations.full_matrix
    prior.add_to(matrix)
    return matrix, equations.gradient + prior.gradient(vector)


@pytest.mark.parametrize("shape", [(5, 9), (12, 6)])
def test_halved_knots_have_the_same_function(shape):
    rng = np.random.default_rng(1)
    grid = SplineGrid((-3.0, 4.0), 2.5, shape)
    coefficients = rng.standard_normal(grid.size)
    fine = grid.halved()
    np.testing.assert_allclose((fine.lower, fine.upper), (grid.lower, grid.upper), atol=1e-12)
    x, y = (rng.uniform(low, high, 200) for low, high in zip(grid.lower, grid.upper, strict=True))
    found = fine.evaluate(grid.prolongation() @ coefficients, x, y)
    np.testing.assert_allclose(found, grid.evaluate(coefficients, x, y), atol=1e-12)


def test_the_solution_is_the_optimum_of_the_dense_equations_with_fine_knots(campaign, solution):
    matrix, pull = dense_equations(campaign, solution)
    decrement = float(pull @ linalg.solve(matrix, pull, assume_a="pos")) ** 0.5
    assert solution.model.beam(solution.vector)[0].spacing == FINE_MM
    assert decrement < 0.02
    assert solution.certificate.converged


def test_a_first_solution_from_few_super_pixels_leads_to_the_same_one(campaign, solution, monkeypatch):
    few = thinned(campaign.detectors, COARSE_MM)
    assert len(few[0].x_mm) == len(campaign.detectors[0].x_mm) // 4
    assert thinned(campaign.detectors, 2.0) is campaign.detectors
    monkeypatch.setattr(solve_module, "thinned", lambda detectors, _: detectors)
    whole = solve_joint(campaign.exposures, campaign.detectors, spacing_mm=COARSE_MM, finest_mm=FINE_MM, with_weather=False)
    assert abs(np.log(solution.prior.stiffness[0] / whole.prior.stiffness[0])) < 0.2
    scales, rows = solution.model.scales, [FlatCovariance(one, campaign.detectors) for one in (solution, whole)]
    np.testing.assert_allclose(solution.error_of(scales), whole.error_of(scales), rtol=2e-2)
    (planes, covariance), (expected, _) = (one.planes() for one in rows)
    assert np.abs((planes - expected).ravel() / np.sqrt(np.diag(covariance))).max() < 0.05


@pytest.fixture(scope="module")
def fine(campaign, solution):
    """The solution with the dense factor of fine knots, whose coefficients are all unknown."""
    matrix, _ = dense_equations(campaign, solution)
    model, vector = on_fine_knots(solution)
    prior = replace(solution.prior, model=model)
    return replace(solution, model=model, vector=vector, prior=prior, factor=GroupedFactor.of(matrix))


def test_covariances_of_regions_are_those_of_the_dense_equations(campaign, solution, fine):
    rng = np.random.default_rng(8)
    regions = []
    for number in range(20):
        weights = {}
        for detector in campaign.detectors[: 1 + number % 2]:
            x, y = rng.choice(detector.x_mm), rng.choice(detector.y_mm)
            inside = np.hypot(detector.x_mm - x, detector.y_mm - y) < rng.uniform(1.5, 12.0)
            weights[detector.name] = inside * rng.uniform(0.5, 1.5, inside.size) / inside.sum()
        regions.append(weights)
    expected = FlatCovariance(fine, campaign.detectors).covariance(regions)
    found = FlatCovariance(solution, campaign.detectors).covariance(regions)
    error = np.sqrt(np.diag(expected))
    np.testing.assert_allclose(found / np.outer(error, error), expected / np.outer(error, error), atol=1e-4)


def stripes_of(campaign):
    """The amplifier of each super-pixel: stripes of two columns in either half of a detector."""
    amplifiers = {}
    for detector in campaign.detectors:
        column, row = (np.unique(np.round(place, 3), return_inverse=True)[1] for place in (detector.x_mm, detector.y_mm))
        amplifiers[detector.name] = (column // 2 + 6 * (row // 6)).astype(np.int64)
    return amplifiers


def test_losses_of_amplifiers_are_those_of_the_dense_equations(campaign, solution, fine):
    """A reference far below the signals makes losses known far better than their prior."""
    amplifiers, everywhere = stripes_of(campaign), {}
    for detector in campaign.detectors:
        everywhere[detector.name] = plane_operator(
            detector.x_mm, detector.y_mm, np.isfinite(solution.log_response[detector.name])
        )
    expected, found = (measure_losses(one, campaign.detectors, amplifiers, reference=3e4) for one in (fine, solution))
    coarse = measure_losses(solution, campaign.detectors, amplifiers, reference=3e4, details_known=True)
    np.testing.assert_allclose(found.loss / expected.error, expected.loss / expected.error, atol=0.1)
    np.testing.assert_allclose(found.error, expected.error, rtol=0.02)
    assert found.levels == pytest.approx(expected.levels, rel=0.02)
    assert np.abs(coarse.loss - expected.loss).max() > 0.5 * expected.error.min()
    added = []
    for losses, errors in (
        (expected, FlatCovariance(fine, campaign.detectors)),
        (found, FlatCovariance(solution, campaign.detectors)),
    ):
        nothing = {name: np.zeros((len(rows), len(rows))) for name, rows in everywhere.items()}
        _, within, planes = errors_with_losses(losses, errors, errors.modes_and_shared(5, {})[0], amplifiers, everywhere, nothing)
        added.append([np.sqrt(np.diag(planes - errors.plane_covariance())), *(np.sqrt(np.diag(one)) for one in within.values())])
    for by_details, by_dense in zip(added[1], added[0], strict=True):
        np.testing.assert_allclose(by_details, by_dense, rtol=0.05)


def test_coarse_knots_know_the_errors_that_detectors_share(campaign, solution, fine):
    """The errors within detectors of a dense factor with coarse knots, details known, against those with fine knots."""
    rows = {}
    for detector in campaign.detectors:
        rows[detector.name] = plane_operator(detector.x_mm, detector.y_mm, np.isfinite(solution.log_response[detector.name]))
    found, expected = (FlatCovariance(one, campaign.detectors).modes_and_shared(5, rows)[1] for one in (solution, fine))
    for name in rows:
        np.testing.assert_allclose(np.sqrt(np.diag(found[name])), np.sqrt(np.diag(expected[name])), rtol=0.02)


def test_fine_structure_spoils_coarse_knots_alone(campaign, solution):
    coarse = solve_joint(campaign.exposures, campaign.detectors, spacing_mm=COARSE_MM, with_weather=False)
    assert coarse.reduced_chi_square > 1.3
    assert 0.9 < solution.reduced_chi_square < 1.1


def test_details_have_no_rough_product_with_the_coarse_beam(solution):
    details = solution.model.details
    product = details.prolongation.T @ (roughness_of(details.grid) @ details.coefficients)
    alone = np.abs(details.prolongation.T) @ np.abs(roughness_of(details.grid) @ details.coefficients)
    assert np.abs(product).max() < 1e-3 * alone.max()


def test_knots_end_at_a_distance_or_at_a_number(monkeypatch):
    grid = SplineGrid((0.0, 0.0), 8.0, (12, 12))
    assert detail_grid(grid, 2.0).spacing == 2.0
    assert detail_grid(grid, 2.1).spacing == 4.0
    assert detail_grid(grid, 5.0) is None
    monkeypatch.setattr(details_module, "MOST_COEFFICIENTS", 500)
    assert detail_grid(grid, 0.1).spacing == 4.0


def test_wanted_knots_are_halved_from_those_of_a_dense_solution(campaign):
    assert coarse_spacing(campaign.exposures, campaign.detectors, 9.0) == 9.0
    spacing = coarse_spacing(campaign.exposures, campaign.detectors, 1.5, most_unknowns=400)
    grid = make_model(campaign.exposures, campaign.detectors, spacing_mm=spacing).patterns[0].grid
    assert grid.size <= 400
    assert detail_grid(grid, 1.5).spacing == pytest.approx(1.5)


def test_knots_that_are_not_halved_from_those_of_the_solution_are_an_error(campaign, solution):
    with pytest.raises(ValueError, match="not a refinement"):
        solve_details(solution, campaign.detectors, SplineGrid((0.0, 0.0), 1.3, (9, 9)), estimate_stiffness=False)


def test_steps_that_do_not_converge_are_an_error(campaign, solution, monkeypatch):
    monkeypatch.setattr(details_module, "_MOST_ROUNDS", 1)
    moved = replace(solution, vector=solution.vector + 1e-3 * np.cos(np.arange(solution.model.size)))
    with pytest.raises(FlatError, match="did not converge"):
        solve_details(moved, campaign.detectors, solution.model.details.grid, estimate_stiffness=False)


def pulls_of(seeds):
    """Deviations of levels and gradients over their errors, chi-square of super-pixels without modes, with fine structure."""
    planes, squares = [], []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        drawn = simulate(rng, columns=3, rows=1, pixels=10, pixel_mm=1.6, beam=RandomBeam.draw(rng, sigma=3.0))
        choice = choose_spacing(drawn.exposures, drawn.detectors, most_unknowns=250)
        assert choice.limited
        found = solve_joint(
            drawn.exposures, drawn.detectors, spacing_mm=choice.spacing_mm, finest_mm=2.0, stiffness=choice.stiffness
        )
        covariance = FlatCovariance(found, drawn.detectors)
        error = drawn.response_error(found)
        wrong = replace(found, log_response=error)
        deviation, errors = covariance.under(wrong).planes()
        planes.append(deviation.ravel() / np.sqrt(np.diag(errors)))
        modes = covariance.modes_and_shared(20, {})[0]
        patterns = np.concatenate([modes.patterns[name] for name in error], axis=1)
        unit = patterns / np.linalg.norm(patterns, axis=1)[:, None]
        whole = np.concatenate(list(error.values()))
        rest = whole - unit.T @ (unit @ whole)
        independent = np.concatenate([modes.independent[name] for name in error])
        squares.append(np.sum(rest**2 / independent) / (rest.size - len(unit)))
    planes = np.array(planes).reshape(len(planes), -1, 3)
    return planes[:, :, 0], planes[:, :, 1:], np.array(squares)


def test_a_first_solution_with_coarse_knots_does_not_go_astray():
    levels, gradients, _ = pulls_of([41000])
    assert np.abs(np.concatenate([levels.ravel(), gradients.ravel()])).max() < 5


@pytest.mark.full
def test_errors_are_true_with_structure_finer_than_dense_knots():
    levels, gradients, squares = pulls_of(range(41000, 41030))
    assert 0.8 < np.sqrt(np.mean(levels**2)) < 1.2
    assert 0.8 < np.sqrt(np.mean(gradients**2)) < 1.2
    assert 0.95 < squares.mean() < 1.05
