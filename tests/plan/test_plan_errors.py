"""Predicted errors against those of carried-out plans, and against formulas."""

from __future__ import annotations

import numpy as np
import pytest
from plan_bench import carry_out, planned_positions, random_places, toy_camera

from permil.config.plan import PlanConfig
from permil.flat.joint import FlatCovariance, solve_joint
from permil.flat.joint.covariance import plane_operator
from permil.plan.positions import PlannedPosition
from permil.plan.prediction import planned_signals, plateau, predict

KNOTS_MM = 4.0


def prediction_of(plan, camera, *, cells=8, noise=2e-3, drift=0.0, positions=None):
    positions = positions or planned_positions(plan, camera)
    signals = [
        planned_signals(detector, positions, plateau(140.0), cells=cells, electrons=3e4, lit_above=0.1)
        for detector in camera.science
    ]
    return predict(positions, signals, photodiode_noise=noise, photodiode_drift=drift, knots_mm=KNOTS_MM, limit=1e-4)


def campaign_plan(images=2):
    scan = {"nx": 6, "ny": 6, "width_mm": 30.0, "read": "detector"}
    return PlanConfig(scan=scan, pointings={"images": images, "read": "all"})


def test_errors_are_those_that_the_joint_solution_states():
    camera = toy_camera()
    plan = campaign_plan()
    predicted = prediction_of(plan, camera)
    exposures, detectors, _ = carry_out(predicted.positions, camera, np.random.default_rng(11))
    solution = solve_joint(exposures, detectors, spacing_mm=KNOTS_MM, with_drift=False, geometry=False, position_errors=False)
    stated = FlatCovariance(solution, detectors)
    noise = solution.prior.photodiode.white / 2e-3
    gradient = np.sqrt(np.diag(stated.composite_gradient()[1]))
    np.testing.assert_allclose(predicted.design.gradient_error * noise, gradient, rtol=0.05)
    modes = stated.modes_and_shared(4, {})[0]
    assert predicted.design.large_scale_error * noise == pytest.approx(np.sqrt(modes.total), rel=0.05)
    # Super-pixels of 1 mm have 100 pixels.
    independent = [np.median(variance) ** 0.5 for variance in modes.independent.values()]
    np.testing.assert_allclose([each.independent_error(1.0) for each in predicted.signals], independent, rtol=0.05)


def actual_errors(positions, camera, seeds):
    """Errors of gradients and levels over seeds, and the scatter within super-pixels of a plane per detector."""
    gradients, levels, pixels = [], [], []
    for seed in seeds:
        exposures, detectors, truth = carry_out(positions, camera, np.random.default_rng(seed))
        solution = solve_joint(exposures, detectors, spacing_mm=KNOTS_MM, with_drift=False, geometry=False, position_errors=False)
        error = np.array([solution.log_response[detector.name] - truth[detector.name] for detector in detectors])
        x, y = (np.concatenate([getattr(detector, name) for detector in detectors]) for name in ("x_mm", "y_mm"))
        rows = plane_operator(x, y, np.ones(x.size, dtype=bool))
        gradients.append((rows @ error.ravel())[1:])
        levels.append(error.mean(axis=1) - error.mean())
        across = np.column_stack([np.ones(256), detectors[0].x_mm, detectors[0].y_mm])
        shape = np.linalg.lstsq(across, error.T, rcond=None)[0]
        pixels.append((error.T - across @ shape).std(axis=0) * np.sqrt(256 / 253))
    return (np.sqrt(np.mean(np.square(part), axis=0)) for part in (gradients, levels, pixels))


@pytest.mark.full
def test_errors_are_those_of_plans_carried_out():
    camera = toy_camera()
    predicted = prediction_of(campaign_plan(), camera)
    gradient, level, pixel = actual_errors(predicted.positions, camera, range(100, 140))
    design = predicted.design
    assert np.sqrt(np.mean(gradient**2)) == pytest.approx(np.sqrt(np.mean(design.gradient_error**2)), rel=0.2)
    assert np.sqrt(np.mean(level**2)) == pytest.approx(np.sqrt(np.mean(design.level_error**2)), rel=0.2)
    independent = [each.independent_error(1.0) for each in predicted.signals]
    assert np.median(pixel) == pytest.approx(np.median(independent), rel=0.2)


@pytest.mark.parametrize(
    ("drift", "noise"),
    # Where a reading is better than the signals of its image, which give the scale to 3e-5, these limit what images there say of a drift.
    [(0.0, 2e-4), (5e-3, 2e-4), (5e-3, 1e-5)],
)
def test_images_at_a_position_count_as_one_exposure(drift, noise):
    camera = toy_camera(1, 1)
    places = sorted(random_places(3, 12, 15))
    together = [PlannedPosition(x, y, 5, frozenset(camera.detectors)) for x, y in places]
    apart = [PlannedPosition(each.x_mm, each.y_mm, 1, each.read) for each in together for _ in range(5)]
    merged, single = (
        prediction_of(None, camera, positions=positions, noise=noise, drift=drift).design for positions in (together, apart)
    )
    np.testing.assert_allclose(merged.gradient_error, single.gradient_error, rtol=1e-3)
    assert merged.large_scale_error == pytest.approx(single.large_scale_error, rel=1e-3)
    assert merged.pixel_error == pytest.approx(single.pixel_error)


def test_pixel_error_is_that_of_photons_and_read_noise():
    camera = toy_camera(1, 1, read_noise=30.0)
    positions = [PlannedPosition(x, y, 3, frozenset(camera.detectors)) for x, y in random_places(5, 4, 20)]
    signals = planned_signals(camera["R00_S00"], positions, plateau(60.0), cells=4, electrons=2000.0, lit_above=0.3)
    for cell in range(16):
        information = 0.0
        for position in positions:
            radius = np.hypot(signals.footprint.x_mm[cell] - position.x_mm, signals.footprint.y_mm[cell] - position.y_mm)
            electrons = 2000 * 0.5 ** ((radius / 30) ** 2.5)
            if electrons > 600:
                information += 3 * electrons**2 / (electrons + 900)
        expected = information**-0.5 if information else np.inf
        assert signals.pixel_error[cell] == pytest.approx(expected)
    assert signals.independent_error(1.0) == pytest.approx(0.1 * np.median(signals.pixel_error))


def test_the_planned_beam_is_that_of_the_measured_scans():
    np.testing.assert_allclose(
        plateau(140.0)(np.array([0.0, 40.0, 40.0]), np.array([0.0, 0.0, 40.0])), [1, 0.84, 0.66], atol=0.01
    )


def test_gradient_error_follows_the_photodiode():
    camera = toy_camera(1, 1)
    plan = campaign_plan()
    good, bad = (prediction_of(plan, camera, noise=noise).design for noise in (1e-3, 4e-3))
    np.testing.assert_allclose(bad.gradient_error, 4 * good.gradient_error, rtol=1e-2)
    assert bad.pixel_error == good.pixel_error


def test_random_order_makes_a_drift_look_less_like_a_gradient():
    camera = toy_camera(1, 1)
    plan = campaign_plan()
    listed = prediction_of(plan, camera, noise=1e-4, drift=2e-3).design
    positions = planned_positions(plan, camera)
    order = np.random.default_rng(4).permutation(len(positions))
    shuffled = prediction_of(plan, camera, noise=1e-4, drift=2e-3, positions=[positions[number] for number in order]).design
    steady = prediction_of(plan, camera, noise=1e-4).design
    assert listed.gradient_error.max() > 2 * shuffled.gradient_error.max() > 2 * steady.gradient_error.max()


def test_cells_hardly_change_the_prediction():
    camera = toy_camera(2, 1)
    coarse, fine = (prediction_of(campaign_plan(), camera, cells=cells).design for cells in (6, 12))
    np.testing.assert_allclose(coarse.gradient_error, fine.gradient_error, rtol=0.02)
    np.testing.assert_allclose(coarse.level_error, fine.level_error, rtol=0.02)
