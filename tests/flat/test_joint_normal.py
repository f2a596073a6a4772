"""The normal equations of the joint solution against a dense Jacobian, and errors against the dense covariance."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from joint_bench import Boards, RandomBeam, simulate, weather_pattern
from scipy import linalg

from permil.beam.model import SplineTable
from permil.beam.parameters import Hull
from permil.errors import FlatError
from permil.flat.joint.covariance import FlatCovariance, plane_operator
from permil.flat.joint.data import DetectorSignals, ExposureList, logarithm_of
from permil.flat.joint.gains import Coefficient, StepTerm, board_terms
from permil.flat.joint.model import JointModel, make_model
from permil.flat.joint.normal import normal_equations
from permil.flat.joint.photodiode import PhotodiodeModel
from permil.flat.joint.prior import Prior
from permil.flat.joint.solve import solve_joint
from permil.flat.joint.spline import SplineGrid
from permil.flat.joint.weather import WeatherFrame


def small_campaign(seed=1, **changes):
    return simulate(
        np.random.default_rng(seed), **{"columns": 2, "rows": 1, "pixels": 5, "pixel_mm": 2.0, "scan": 4, "images": 2} | changes
    )


def dense_model(model: JointModel, detectors, vector):
    """All logarithms without the response, from the formula: sums of B-splines at x + sign c, and scales."""
    signals = []
    for detector in detectors:
        centres = model.centres(vector)[detector.exposures]
        total = np.repeat(vector[model.scales][detector.exposures], len(detector.x_mm))
        for pattern, where in zip(model.patterns, model.pattern_slices, strict=True):
            places = [
                (place + pattern.sign * centre[:, None]).ravel()
                for place, centre in zip((detector.x_mm, detector.y_mm), centres.T, strict=True)
            ]
            total = total + pattern.grid.design(*places) @ vector[where]
        if model.weather_frame is not None:
            frame, chosen = model.weather_frame, detector.exposures
            places = frame.projector[chosen] + frame.centre
            u, v = ((place - places[:, axis, None]) / frame.half_mm for axis, place in enumerate((detector.x_mm, detector.y_mm)))
            total = total + weather_pattern(vector[model.weather].reshape(5, -1).T[chosen], u, v).ravel()
        if model.boards is not None:
            board = model.boards.board_of[detector.name]
            unknowns = vector[model.board_gains].reshape(-1, len(model.boards.names))[:, board]
            change = model.boards.offset[board] + sum(
                unknown * values[board] for unknown, values in zip(unknowns, model.boards.values, strict=True)
            )
            total = total + np.repeat(change[detector.exposures], len(detector.x_mm))
        for size, step in zip(vector[model.step_sizes], model.gain_steps, strict=True):
            if step.detector == detector.name:
                total = total - size * np.outer(step.before[detector.exposures], step.pixels).ravel()
        signals.append(total)
    return np.concatenate(signals)


def dense_system(model, detectors, vector):
    """Jacobian of all unknowns (the response last) by differences, weights, residuals at response 0."""
    step = 1e-5
    unknowns = [
        (dense_model(model, detectors, vector + move) - dense_model(model, detectors, vector - move)) / (2 * step)
        for move in step * np.eye(model.size)
    ]
    response = linalg.block_diag(*[np.tile(np.eye(len(d.x_mm)), (len(d.exposures), 1)) for d in detectors])
    weights = np.concatenate([detector.weights.ravel() for detector in detectors])
    signals = np.concatenate([detector.log_signal.ravel() for detector in detectors])
    return np.array(unknowns).T, response, weights, signals - dense_model(model, detectors, vector)


def with_gains(model, campaign):
    """The model with boards, one of which has no temperatures, and steps of two amplifiers of one detector, one of them twice."""
    blind = replace(campaign.boards[1], temperature=np.full((len(campaign.boards[1].exposures), 1), np.nan))
    boards = board_terms(model.exposures.time, [campaign.boards[0], blind], Coefficient(6.5e-4, 3e-4))
    detector = campaign.detectors[0]
    steps = []
    for amplifier, first in ((0, 5), (0, 12), (1, 9)):
        pixels = (detector.x_mm > np.median(detector.x_mm)) == bool(amplifier)
        pixels[0] = False
        steps.append(StepTerm(detector.name, amplifier, first, pixels, model.exposures.time < first))
    return replace(model, boards=boards, gain_steps=tuple(steps))


# Each pair of terms together and apart in the quick ones.
@pytest.mark.parametrize(
    ("full", "with_weather", "gains"),
    [
        (True, True, True),
        (True, False, False),
        (False, True, False),
        (False, False, True),
        *(
            pytest.param(*case, marks=pytest.mark.full)
            for case in ((False, False, False), (True, True, False), (True, False, True), (False, True, True))
        ),
    ],
)
def test_normal_equations_are_those_of_the_dense_jacobian(full, with_weather, gains):
    campaign = small_campaign(boards=Boards() if gains else None)
    campaign.detectors[0].log_signal[3, 5:9] = np.nan
    for detector in campaign.detectors:
        np.nan_to_num(detector.variance, copy=False, nan=1.0)
    model = make_model(
        campaign.exposures, campaign.detectors, spacing_mm=8.0, reflection=full, position_errors=full, geometry=full
    )
    if with_weather:
        model = replace(model, weather_frame=WeatherFrame(campaign.exposures.positions, np.array([1.0, -2.0]), 20.0))
    if gains:
        model = with_gains(model, campaign)
    vector = model.start() + 0.01 * np.random.default_rng(2).standard_normal(model.size)
    equations = normal_equations(model, campaign.detectors, vector)
    jacobian, response, weights, residual = dense_system(model, campaign.detectors, vector)
    residual = np.where(weights > 0, residual, 0.0)
    cross = response.T @ (weights[:, None] * jacobian)
    inner = response.T @ (weights * response.T).T
    expected = jacobian.T @ (weights[:, None] * jacobian) - cross.T @ np.linalg.solve(inner, cross)
    fitted = np.linalg.solve(inner, response.T @ (weights * residual))
    gradient = jacobian.T @ (weights * (residual - response @ fitted))
    np.testing.assert_allclose(equations.full_matrix, expected, atol=1e-9 * np.abs(expected).max())
    np.testing.assert_allclose(equations.gradient, gradient, atol=1e-8 * np.abs(gradient).max())
    assert equations.objective == pytest.approx(np.sum(weights * (residual - response @ fitted) ** 2), rel=1e-9)
    np.testing.assert_allclose(np.concatenate(list(equations.fits.values())), fitted, atol=1e-10)


@pytest.mark.parametrize("gains", [False, True])
def test_solution_and_covariance_are_those_of_dense_least_squares(gains):
    smooth = RandomBeam.draw(np.random.default_rng(0), rms=0.0, width=25.0)
    campaign = small_campaign(jitter=0.01, pixels=8, beam=smooth, boards=Boards() if gains else None)
    boards = board_terms(campaign.exposures.time, campaign.boards, Coefficient(6.5e-4))
    solution = solve_joint(
        campaign.exposures, campaign.detectors, spacing_mm=8.0, threshold=np.inf, leave_out=False, tolerance=1e-5, boards=boards
    )
    model, vector = solution.model, solution.vector
    jacobian, response, weights, residual = dense_system(model, campaign.detectors, vector)
    full = np.hstack([jacobian, response])
    matrix = full.T @ (weights[:, None] * full)
    prior = np.zeros((model.size, model.size))
    solution.prior.add_to(prior)
    # Of the prior only what holds the levels depends on the data; it changes no difference of responses.
    matrix[: model.size, : model.size] += prior
    matrix += np.diag(np.r_[np.zeros(model.size), np.full(response.shape[1], 1e-6)])
    for hold in (model.pattern_slices[0], model.scales):
        matrix[hold, hold] += 1e6
    pull = full.T @ (weights * residual)
    pull[: model.size] += solution.prior.gradient(vector)
    step = np.linalg.solve(matrix, pull)
    dense = step[model.size :] - step[model.size :].mean()
    ours = np.concatenate([solution.log_response[d.name] for d in campaign.detectors])
    np.testing.assert_allclose(ours, dense, atol=1e-8)
    # At the optimum the step of the other unknowns vanishes but for what nothing depends on.
    assert np.abs(np.diff(step[model.scales])).max() < 1e-8
    centre = np.eye(len(dense)) - 1.0 / len(dense)
    covariance = centre @ np.linalg.inv(matrix)[model.size :, model.size :] @ centre
    errors = FlatCovariance(solution, campaign.detectors)
    pixels = len(campaign.detectors[0].x_mm)
    first = np.zeros(pixels)
    first[:7] = 1 / 7
    second = np.zeros(pixels)
    second[5:] = 1 / (pixels - 5)
    regions = [{"D00": first}, {"D10": second}, {"D00": second, "D10": -second}]
    rows = np.array([np.concatenate([region.get(name, np.zeros(pixels)) for name in ("D00", "D10")]) for region in regions])
    # The independent noise of the mean over all is left out: at most a part in the number of super-pixels.
    np.testing.assert_allclose(errors.covariance(regions), rows @ covariance @ rows.T, rtol=0.03, atol=1e-12)
    modes = errors.modes_and_shared(len(dense) - 1, {})[0]
    named = [modes.covariance_of_means(region, other) for region in regions for other in regions]
    np.testing.assert_allclose(np.reshape(named, (3, 3)), errors.covariance(regions), rtol=1e-3, atol=1e-13)


def test_modes_state_the_errors_of_levels_and_gradients_exactly():
    campaign = small_campaign()
    solution = solve_joint(campaign.exposures, campaign.detectors, spacing_mm=8.0)
    errors = FlatCovariance(solution, campaign.detectors)
    modes = errors.modes_and_shared(2, {})[0]
    regions = [
        {detector.name: row}
        for detector in campaign.detectors
        for row in plane_operator(detector.x_mm, detector.y_mm, np.isfinite(solution.log_response[detector.name]))
    ]
    exact = errors.planes()[1]
    stated = np.array([[modes.covariance_of_means(one, other) for other in regions] for one in regions])
    scale = np.sqrt(np.diag(exact))
    assert 2 < len(modes.variance) <= 2 + len(regions)
    patterns = np.concatenate(list(modes.patterns.values()), axis=1)
    gram = patterns @ patterns.T
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-6 * gram.max())
    # What is left is independent noise, which counts a little more beside the modes.
    np.testing.assert_allclose(stated / np.outer(scale, scale), exact / np.outer(scale, scale), atol=2e-2)


def test_modes_are_the_largest_of_the_dense_covariance():
    campaign = small_campaign()
    solution = solve_joint(campaign.exposures, campaign.detectors, spacing_mm=8.0)
    errors = FlatCovariance(solution, campaign.detectors)
    pixels = sum(len(detector.x_mm) for detector in campaign.detectors)
    unit = [
        {detector.name: row for detector, row in zip(campaign.detectors, np.split(line, 2), strict=True)}
        for line in np.eye(pixels)
    ]
    independent = np.concatenate([1.0 / detector.weights.sum(axis=0) for detector in campaign.detectors])
    shared = errors.covariance(unit) - np.diag(independent)
    strength, directions = np.linalg.eigh(shared)
    modes = errors.modes_and_shared(5, {})[0]
    np.testing.assert_allclose(modes.variance[:5], strength[::-1][:5] / pixels, rtol=1e-3)
    assert modes.total == pytest.approx(np.trace(shared) / pixels, rel=1e-3)
    pattern = np.concatenate([modes.patterns[name][0] for name in ("D00", "D10")])
    assert abs(pattern @ directions[:, -1]) / np.linalg.norm(pattern) == pytest.approx(1.0, abs=1e-6)


def test_beam_on_an_image_is_the_beam_at_its_pixels():
    campaign = small_campaign()
    solution = solve_joint(campaign.exposures, campaign.detectors, spacing_mm=8.0)
    grid = solution.model.patterns[0].grid
    hull = Hull.of(np.array([grid.lower, grid.upper, [grid.lower[0], grid.upper[1]], [grid.upper[0], grid.lower[1]]]))
    origin, matrix = np.array([-3.0, 2.0]), np.array([[0.0, 0.1], [0.1, 0.0]])
    grid, coefficients = solution.model.beam(solution.vector)
    table = SplineTable(coefficients.reshape(grid.shape), np.array(grid.origin), grid.spacing)
    image = table.image((30, 40), origin, matrix, hull)
    row, column = np.indices(image.shape)
    expected = solution.log_beam(origin[0] + 0.1 * row, origin[1] + 0.1 * column)
    np.testing.assert_allclose(image, expected, atol=1e-6)


def test_prior_gradient_is_that_of_its_quadratic_form():
    campaign = small_campaign()
    model = make_model(campaign.exposures, campaign.detectors, spacing_mm=8.0, position_errors=True, geometry=True)
    prior = Prior(model, (1e5,), PhotodiodeModel(1e-3, 0.0), np.isfinite(campaign.exposures.log_photodiode))
    rng = np.random.default_rng(0)
    vector = model.start() + 1e-3 * rng.standard_normal(model.size)
    for move in rng.standard_normal((3, model.size)):
        slope = (prior.chi_square(vector + 1e-5 * move) - prior.chi_square(vector - 1e-5 * move)) / 2e-5
        assert prior.gradient(vector) @ move == pytest.approx(-slope / 2, rel=1e-5)


@pytest.mark.parametrize("spacing", [0.7, 3.0])
def test_spline_reproduces_planes_and_has_their_roughness(spacing):
    grid = SplineGrid.covering(np.array([-4.0, 2.0]), np.array([5.0, 9.0]), spacing)
    x, y = np.meshgrid(np.linspace(-4, 5, 7), np.linspace(2, 9, 7))
    middle = grid.knots().mean(axis=0)
    values = [grid.evaluate(column, x, y) for column in grid.planes().T]
    np.testing.assert_allclose(values, [np.ones_like(x), x - middle[0], y - middle[1]], atol=1e-12)
    np.testing.assert_allclose(grid.roughness() @ grid.planes(), 0, atol=1e-9)
    # A parabola x^2 has the second derivative 2 everywhere.
    knots = grid.knots()
    parabola = knots[:, 0] ** 2 - grid.spacing**2 / 3
    np.testing.assert_allclose(grid.evaluate(parabola, x, y), x**2, atol=1e-9)
    area = grid.spacing**2 * (grid.shape[0] - 2) * grid.shape[1]
    assert parabola @ (grid.roughness() @ parabola) == pytest.approx(4 * area, rel=1e-9)
    assert np.isnan(grid.evaluate(parabola, grid.upper[0] + 0.1, 3.0))


def test_logarithm_has_no_bias():
    rng = np.random.default_rng(0)
    mean = np.full(400_000, 200.0)
    signal = mean + np.sqrt(mean) * rng.standard_normal(mean.size)
    logarithm, variance = logarithm_of(signal, mean)
    error = np.sqrt(1 / 200 / mean.size)
    assert np.nanmean(np.log(signal)) - np.log(200) < -10 * error
    assert abs(np.nanmean(logarithm) - np.log(200)) < 6 * error
    assert np.nanmean(variance) == pytest.approx(1 / 200, rel=0.02)
    assert np.isnan(logarithm_of(np.array([-1.0, 3.0]), np.array([1.0, 9.0]))[0]).all()


def test_bad_input_is_named():
    exposures = ExposureList(np.zeros(2), np.zeros(2), np.zeros(2), np.arange(2.0))
    x = np.arange(3.0)
    with pytest.raises(FlatError, match="2 exposures"):
        ExposureList(np.zeros(2), np.zeros(3), np.zeros(2), np.zeros(2))
    with pytest.raises(FlatError, match="x_mm of an exposure is not finite"):
        ExposureList(np.array([0.0, np.nan]), np.zeros(2), np.zeros(2), np.zeros(2))
    with pytest.raises(FlatError, match="one row for each exposure"):
        DetectorSignals("A", x, x, np.arange(2), np.zeros((3, 2)), np.ones((3, 2)))
    with pytest.raises(FlatError, match="variance is not positive"):
        DetectorSignals("A", x, x, np.arange(2), np.zeros((2, 3)), np.zeros((2, 3)))
    with pytest.raises(FlatError, match="twice"):
        DetectorSignals("A", x, x, np.zeros(2, dtype=int), np.zeros((2, 3)), np.ones((2, 3)))
    dark = DetectorSignals("A", x, x, np.arange(2), np.full((2, 3), np.nan), np.ones((2, 3)))
    with pytest.raises(FlatError, match="no detector has a signal"):
        make_model(exposures, [dark], spacing_mm=1.0)
    lit = DetectorSignals("A", x, x, np.arange(2), np.zeros((2, 3)), np.ones((2, 3)))
    with pytest.raises(FlatError, match="choose a larger spacing"):
        make_model(exposures, [lit], spacing_mm=0.01)


@pytest.mark.parametrize("spacing_mm", [None, 12.0])
def test_no_detector_at_all_is_refused(spacing_mm):
    exposures = ExposureList(np.arange(3.0), np.zeros(3), np.zeros(3), np.arange(3.0))
    with pytest.raises(FlatError, match="no detector has a signal"):
        solve_joint(exposures, [], spacing_mm=spacing_mm)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_exposures_that_are_too_few_to_choose_knots_are_refused(count):
    exposures, detector = _few_exposures(count, np.zeros((count, 4)))
    with pytest.raises(FlatError, match=f"{count} exposures do not determine .* unknowns"):
        solve_joint(exposures, [detector])


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_few_signals_of_few_exposures_are_refused_or_solved_for_without_a_warning(count, noise):
    exposures, detector = _few_exposures(count, noise * np.random.default_rng(count).standard_normal((count, 4)))
    with suppress(FlatError):
        solution = solve_joint(exposures, [detector], spacing_mm=12.0)
        assert solution.certificate.converged
        assert np.abs(solution.log_response["A"]).max() <= 4 * noise


def _few_exposures(count, log_signal):
    step = np.arange(float(count))
    x = np.arange(4.0)
    detector = DetectorSignals("A", x, x % 2, np.arange(count), log_signal, np.full((count, 4), 1e-6))
    return ExposureList(step, 2 * step, np.zeros(count), step), detector
