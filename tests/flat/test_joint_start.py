"""Where a solution begins, and how long a curvature is kept: both save passes and leave what is found as it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from joint_bench import simulate

from permil.flat.joint import newton
from permil.flat.joint.knots import choose_spacing
from permil.flat.joint.model import make_model
from permil.flat.joint.newton import Curvature
from permil.flat.joint.normal import normal_equations
from permil.flat.joint.photodiode import PhotodiodeModel
from permil.flat.joint.prior import Prior
from permil.flat.joint.solve import solve_joint


@pytest.fixture(scope="module")
def campaign():
    return simulate(np.random.default_rng(31), columns=1, rows=1, pixels=12, pixel_mm=1.4)


def spoilt(campaign, exposure):
    """The signals with light of another shape in one exposure."""
    detector = campaign.detectors[0]
    signal = detector.log_signal.copy()
    signal[detector.exposures == exposure] += 0.05 * np.sin(detector.x_mm / 2)
    return [replace(detector, log_signal=signal)]


def made(monkeypatch):
    """Count the curvatures that are made."""
    numbers, init = [], Curvature.__init__

    def counted(self, *arguments):
        numbers.append(1)
        init(self, *arguments)

    monkeypatch.setattr(Curvature, "__init__", counted)
    return numbers


def assert_same(found, expected):
    """Unknowns agree to a part of their errors; errors agree, where the edge of the light is least well."""
    errors, same = (one.error_of(slice(0, one.model.size)) for one in (expected, found))
    np.testing.assert_allclose(same, errors, rtol=newton.SAME_ROWS)
    scales = expected.model.scales
    np.testing.assert_allclose(found.error_of(scales), expected.error_of(scales), rtol=1e-3)
    assert np.abs((found.vector - expected.vector) / errors).max() < 0.03
    np.testing.assert_array_equal(found.left_out, expected.left_out)


@pytest.mark.parametrize("bad", [None, 20])
def test_a_start_saves_curvatures_and_leads_to_the_same_solution(campaign, bad, monkeypatch):
    detectors = campaign.detectors if bad is None else spoilt(campaign, bad)
    choice = choose_spacing(campaign.exposures, detectors)
    options = {"spacing_mm": choice.spacing_mm, "stiffness": choice.stiffness, "tolerance": 1e-3}
    numbers = made(monkeypatch)
    plain = solve_joint(campaign.exposures, detectors, **options)
    of_plain = len(numbers)
    begun = solve_joint(campaign.exposures, detectors, start=choice.start, **options)
    assert len(numbers) - of_plain < of_plain
    assert begun.certificate.converged
    assert list(np.flatnonzero(begun.left_out)) == ([] if bad is None else [bad])
    assert_same(begun, plain)


def test_a_start_of_other_patterns_is_not_used(campaign):
    choice = choose_spacing(campaign.exposures, campaign.detectors)
    spacing = 1.3 * choice.spacing_mm
    plain, other = (
        solve_joint(campaign.exposures, campaign.detectors, spacing_mm=spacing, stiffness=choice.stiffness, start=start)
        for start in (None, choice.start)
    )
    np.testing.assert_array_equal(other.vector, plain.vector)


def test_a_curvature_that_is_kept_far_away_gives_the_same_errors(campaign, monkeypatch):
    options = {"spacing_mm": 6.0, "stiffness": 1e5, "tolerance": 1e-3}
    kept = solve_joint(campaign.exposures, campaign.detectors, **options)
    monkeypatch.setattr(newton, "SAME_ROWS", 0.0)
    renewed = solve_joint(campaign.exposures, campaign.detectors, **options)
    assert_same(kept, renewed)


def test_change_of_the_rows_is_that_of_places_and_slopes(campaign):
    model = make_model(campaign.exposures, campaign.detectors, spacing_mm=6.0, position_errors=True)
    vector, where = model.start(), model.pattern_slices[0]
    vector[where] = np.random.default_rng(0).standard_normal(where.stop)
    prior = Prior(model, (1e4,), PhotodiodeModel(2e-3, 1e-4), np.isfinite(campaign.exposures.log_photodiode))
    curvature = Curvature(normal_equations(model, campaign.detectors, vector), prior)
    moved, steeper, brighter = vector.copy(), vector.copy(), vector.copy()
    moved[model.errors.start + 3] += 0.3
    steeper[where] *= 1.02
    brighter[where] += 5.0
    brighter[model.scales] -= 1.0
    assert curvature.change(moved) == pytest.approx(0.3 / 6.0)
    assert curvature.change(steeper) == pytest.approx(0.02)
    assert curvature.change(brighter) < 1e-12
