"""The way down an objective against SciPy's, where steps shrink slowly and where a curvature that was kept leads too far."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from joint_bench import simulate
from scipy.optimize import minimize

from permil.errors import FlatError
from permil.flat.joint.newton import Descent, Place
from permil.flat.joint.solve import solve_joint

THRESHOLD = 1.0


class Regression:
    """A linear model with Huber's objective and a quadratic prior; its curvature is that of iterated reweighting."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.design = rng.standard_normal((400, 12))
        # Most measurements are beyond the threshold: reweighting goes slowly.
        self.data = self.design @ rng.standard_normal(12) + 3 * rng.standard_t(2, 400)
        self.prior = 0.5

    def _weights(self, vector):
        return np.minimum(1, THRESHOLD / np.maximum(np.abs(self.data - self.design @ vector), 1e-300))

    def objective(self, vector):
        """Return the objective of the data."""
        size = np.abs(self.data - self.design @ vector)
        return np.where(size < THRESHOLD, size**2 / 2, THRESHOLD * (size - THRESHOLD / 2)).sum()

    def whole(self, vector):
        """Return the objective with the prior."""
        return self.objective(vector) + self.prior * vector @ vector / 2

    def curvature(self, vector):
        """Return the matrix of iterated reweighting."""
        return (self.design.T * self._weights(vector)) @ self.design + self.prior * np.eye(12)

    def pulls(self, vector):
        """Return minus the gradient of all, and of the prior."""
        residual = self.data - self.design @ vector
        prior = -self.prior * vector
        return self.design.T @ (self._weights(vector) * residual) + prior, prior

    def optimum(self):
        """Return what SciPy finds."""
        found = minimize(
            self.whole, np.zeros(12), jac=lambda vector: -self.pulls(vector)[0], method="BFGS", options={"gtol": 1e-9}
        )
        return found.x


def _descend(problem, *, kept: float, tolerance=1e-6, most=200):
    """Return the vector, the distances in standard errors and the curvatures made; a kept curvature is a share of the true one."""
    vector, descent, again = np.zeros(12), Descent(), False
    curvature, number, distances = kept * problem.curvature(vector), 1, []
    for _ in range(most):
        fresh = again
        if again:
            curvature, number = problem.curvature(vector), number + 1
        pull, prior_pull = problem.pulls(vector)
        step = np.linalg.solve(curvature, pull)
        distances.append(float(pull @ step) ** 0.5)
        if distances[-1] < tolerance:
            break
        vector, again = descent.next(Place(vector, problem.objective(vector), prior_pull, pull, step, number, fresh))
    return vector, distances, number


def _plain_passes(problem, tolerance=1e-6):
    vector, curvature = np.zeros(12), problem.curvature(np.zeros(12))
    for number in range(1000):
        pull, _ = problem.pulls(vector)
        step = np.linalg.solve(curvature, pull)
        if float(pull @ step) ** 0.5 < tolerance:
            return number + 1
        vector = vector + step
    return 1000


@pytest.mark.parametrize("seed", range(5))
def test_end_is_the_optimum_in_fewer_passes(seed):
    problem = Regression(seed)
    vector, distances, _ = _descend(problem, kept=1.0)
    np.testing.assert_allclose(vector, problem.optimum(), atol=1e-5)
    assert len(distances) < 0.7 * _plain_passes(problem)


@pytest.mark.parametrize("kept", [0.02, 0.2])
def test_a_curvature_that_leads_too_far_is_made_again(kept):
    problem = Regression(7)
    vector, distances, made = _descend(problem, kept=kept)
    assert distances[-1] < 1e-6
    assert made > 1
    np.testing.assert_allclose(vector, problem.optimum(), atol=1e-5)


def test_the_rise_counts_the_prior():
    problem = Regression(3)
    rng = np.random.default_rng(3)
    places = []
    for _ in range(2):
        vector = rng.standard_normal(12)
        pull, prior_pull = problem.pulls(vector)
        places.append(Place(vector, problem.objective(vector), prior_pull, pull, pull, 1, True))
    rise = problem.whole(places[1].vector) - problem.whole(places[0].vector)
    assert places[1].rise_from(places[0]) == pytest.approx(rise, rel=1e-12)


def test_a_step_of_a_fresh_curvature_that_leads_up_is_halved():
    problem = Regression(4)
    start, descent = problem.optimum() + 0.5, Descent()
    pull, prior_pull = problem.pulls(start)
    step = 30 * np.linalg.solve(problem.curvature(start), pull)
    vector, again = descent.next(Place(start, problem.objective(start), prior_pull, pull, step, 1, True))
    np.testing.assert_array_equal(vector, start + step)
    assert not again
    pull, prior_pull = problem.pulls(vector)
    far = Place(
        vector, problem.objective(vector), prior_pull, pull, 30 * np.linalg.solve(problem.curvature(start), pull), 1, False
    )
    vector, again = descent.next(far)
    np.testing.assert_allclose(vector, start + step / 2)
    assert not again


@pytest.fixture(scope="module")
def bent():
    """Return signals of a sensor whose response depends on its light, far beyond the noise: many are beyond the threshold."""
    campaign = simulate(np.random.default_rng(5), columns=1, rows=1, pixels=12, pixel_mm=1.5, scan=7, images=2)
    detectors = []
    for detector in campaign.detectors:
        light = detector.log_signal - np.nanmean(detector.log_signal)
        detectors.append(replace(detector, log_signal=detector.log_signal + 0.03 * np.sin(20 * light)))

    def solve(**options):
        return solve_joint(campaign.exposures, detectors, spacing_mm=6.0, leave_out=False, threshold=0.5, **options)

    return solve


def test_data_that_the_model_does_not_fit_have_a_solution(bent):
    certificate = bent().certificate
    assert certificate.passes < 16
    assert certificate.decrement <= certificate.tolerance


def test_solution_that_stops_near_its_optimum_says_so(bent):
    whole = bent()
    near = bent(most_passes=whole.certificate.passes - 2)
    assert near.certificate.tolerance < near.certificate.decrement < 1
    # No unknown is farther from its optimum than that, in its own errors.
    apart = np.abs(near.vector - whole.vector) / whole.error_of(slice(0, whole.model.size))
    assert apart.max() < 1.5 * near.certificate.decrement


def test_solution_that_stops_far_away_is_an_error(bent):
    with pytest.raises(FlatError, match=r"did not converge: .* standard errors from its optimum after 3 passes"):
        bent(most_passes=3)
