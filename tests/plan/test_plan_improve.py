"""Improved plans: what is changed, and the actual errors under the drift that they are made for."""

from __future__ import annotations

import numpy as np
import pytest
from plan_bench import carry_out, planned_positions, toy_camera
from scipy.stats import ortho_group

from permil.config.plan import PlanConfig
from permil.errors import ConfigError
from permil.flat.joint import PhotodiodeModel, solve_joint
from permil.flat.joint.covariance import plane_operator
from permil.flat.joint.photodiode import Drift
from permil.plan.campaign import plan_seconds
from permil.plan.check import check_plan
from permil.plan.improve import describe_steps, gradient_of, improve_plan, step_table
from permil.plan.positions import in_order, planned_points, visits

NOISE, DRIFT = 5e-5, 3e-3
KNOTS_MM = 8.0
RED = {"leds": [{"led": "red"}], "biases": 0}


def drifting_plan(**changes):
    """Return a scan column by column, whose drift looks like a gradient."""
    scan = {"nx": 6, "ny": 5, "width_mm": 26.0, "read": "all", "images": 2}
    options = {"scan": scan, "photodiode_noise": NOISE, "photodiode_drift": DRIFT, "electrons": 3e4, "files": RED}
    return PlanConfig(**(options | {"beam_knots_mm": KNOTS_MM, "cells": 6} | changes))


def reading_errors(plan, camera, *, seed, draws):
    """Return errors of the readings of all images, noise and drift as the plan states them, shape (draws, n).

    All ``2 n`` draws together are a random rotation of the unit vectors in the space of noise and modes of the drift: their second
    moments are exactly those stated, so that few draws give the error of an estimator that is nearly linear.
    """
    images = sum(position.images for position in planned_positions(plan, camera))
    size, mode = np.linalg.eigh(
        PhotodiodeModel(0.0, 0.0, (Drift(DRIFT, 1.0, 1.0),)).drift_covariance(np.arange(images, dtype=float))
    )
    normal = np.sqrt(2 * images) * ortho_group.rvs(2 * images, random_state=seed)[:draws]
    return NOISE * normal[:, :images] + normal[:, images:] @ (mode * np.sqrt(np.maximum(size, 0.0))).T


def actual_gradient_error(plan, camera, reading_error, *, seed, number):
    """Return the error of the gradient (1/mm) of a campaign that is carried out and solved for."""
    positions = [point.position for point in in_order(planned_points(plan, camera), plan, seed=seed)]
    rng = np.random.default_rng([seed, number])
    exposures, detectors, truth = carry_out(positions, camera, rng, photodiode_noise=0.0, drift=reading_error, cells=6)
    solution = solve_joint(exposures, detectors, spacing_mm=KNOTS_MM, geometry=False, position_errors=False, with_weather=False)
    error = np.concatenate([solution.log_response[detector.name] - truth[detector.name] for detector in detectors])
    x, y = (np.concatenate([getattr(detector, name) for detector in detectors]) for name in ("x_mm", "y_mm"))
    return (plane_operator(x, y, np.ones(x.size, dtype=bool)) @ error)[1:]


def errors_before_and_after(seeds, draws):
    """Return the errors of the gradient of a plan and of the improved one, rms over seeds: predicted, actual, and the latter's errors.

    The errors of the actual ones are those of as many independent normal draws of one number: upper limits.
    """
    camera, plan = toy_camera(2, 1), drifting_plan()
    predicted, actual = [], []
    every = reading_errors(plan, camera, seed=seeds[0], draws=len(seeds) * draws)
    for place, seed in enumerate(seeds):
        steps = improve_plan(plan, camera, seed=seed)
        ends = steps[0], steps[-1]
        assert ends[1].seconds <= ends[0].seconds * (1 + 1e-9)
        predicted.append([step.gradient_error for step in ends])
        for number, errors in enumerate(every[place * draws : (place + 1) * draws]):
            actual.append([actual_gradient_error(step.plan, camera, errors, seed=seed, number=number) for step in ends])
    real = np.sqrt(np.mean(np.square(actual), axis=(0, 2)))
    return np.sqrt(np.mean(np.square(predicted), axis=0)), real, real / np.sqrt(2 * len(actual))


@pytest.mark.full
def test_an_improved_plan_has_the_predicted_error():
    predicted, actual, actual_err = errors_before_and_after(range(1200, 1220), 6)
    gain, gain_err = actual[0] / actual[1], actual[0] / actual[1] * np.hypot(*(actual_err / actual))
    assert gain == pytest.approx(predicted[0] / predicted[1], rel=0.2)
    # The number of draws suffices for this.
    assert gain_err < 0.1 * gain
    np.testing.assert_allclose(actual, predicted, rtol=0.2)
    assert gain > 5


def test_the_error_of_the_gradient_falls():
    predicted, actual, _ = errors_before_and_after([31], 4)
    assert predicted[0] / predicted[1] > 5
    assert actual[0] / actual[1] > 3


def test_steps_are_what_plan_check_predicts_and_fit_into_the_budget():
    camera = toy_camera(2, 1)
    plan = drifting_plan(
        scan={"nx": 4, "ny": 4, "width_mm": 24.0, "read": "all"},
        pointings={"images": 3, "read": "all"},
        files={"leds": [{"led": "red"}, {"led": "uv"}], "biases": 0},
    )
    steps = improve_plan(plan, camera, budget_s=700.0, seed=3)
    assert len(steps) > 2
    table = step_table(steps)
    assert (table["seconds"] <= 700.0).all()
    assert (table["gain"][1:] > 1).all()
    gain = steps[0].gradient_error / steps[-1].gradient_error
    assert describe_steps(steps).endswith(f"the gain is {gain:.3g}.")
    np.testing.assert_allclose(np.prod(table["gain"]), gain)
    last = steps[-1]
    assert last.gradient_error == gradient_of(check_plan(None, camera, last.plan, seed=3))
    assert last.seconds == plan_seconds(last.plan, camera, seed=3)
    with pytest.raises(ConfigError, match=r"does not fit into 1\.0 min even with one image at each position of the pointings"):
        improve_plan(plan, camera, budget_s=60.0)


def test_leds_are_interleaved_where_moves_take_too_long():
    camera = toy_camera(2, 1)
    leds = {"leds": [{"led": "red"}, {"led": "uv"}, {"led": "blue"}], "biases": 0, "move_s": 60.0}
    plan = drifting_plan(files=leds, interleaved=False)
    budget_s = plan_seconds(plan.model_copy(update={"interleaved": True}), camera)
    steps = improve_plan(plan, camera, budget_s=budget_s)
    assert steps[1].change.startswith("all LEDs at each position")
    assert steps[1].seconds < 0.6 * steps[0].seconds


def test_nothing_helps_without_a_drift():
    camera = toy_camera(2, 1)
    steps = improve_plan(drifting_plan(photodiode_drift=0.0), camera)
    assert [step.change for step in steps] == ["as planned"]
    assert "No drift is stated. Set plan.photodiode_drift" in describe_steps(steps)


def test_visits():
    assert visits([3, 1], passes=1, shuffle=None) == [(0, 3), (1, 1)]
    assert visits([3, 1, 2], passes=2, shuffle=None) == [(0, 2), (1, 1), (2, 1), (0, 1), (2, 1)]
    assert visits([1, 1, 1], passes=1, shuffle=None, fiducial=2, every=2) == [(2, 1), (0, 1), (1, 1), (2, 1), (2, 1), (2, 1)]


@pytest.mark.parametrize("passes", [1, 2, 4])
def test_images_are_kept_in_any_order(passes):
    images = [5, 1, 2, 4]
    shuffled = visits(images, passes=passes, shuffle=np.random.default_rng(passes))
    assert [sum(count for number, count in shuffled if number == position) for position in range(4)] == images
    assert len(shuffled) == sum(min(count, passes) for count in images)
    assert max(count for _, count in shuffled) == -(-5 // passes)


def test_an_order_keeps_what_is_listed_by_default():
    camera = toy_camera(2, 1)
    plan = drifting_plan()
    points = planned_points(plan, camera)
    assert in_order(points, plan) == points
    shuffled = in_order(points, plan.model_copy(update={"order": "shuffled"}), seed=4)
    assert shuffled != points
    assert sorted(point.position.x_mm for point in shuffled) == sorted(
        position.x_mm for position in planned_positions(plan, camera)
    )
