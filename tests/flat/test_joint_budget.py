"""Error budget from the data themselves, and residual maps that show the place of a fault."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from joint_bench import simulate

from permil.errors import FlatError
from permil.flat.joint.budget import check_photodiode, compare_parts, odd_exposures, solve_part
from permil.flat.joint.residuals import FrameSums
from permil.flat.joint.solve import solve_again, solve_joint

SPACING_MM = 3.0
SIGNS = {"beam": -1.0, "reflected": 1.0}


@pytest.fixture(scope="module")
def campaign():
    return simulate(np.random.default_rng(21), columns=3, rows=1, pixels=10, pixel_mm=1.6, images=3)


@pytest.fixture(scope="module")
def solution(campaign):
    return solve_joint(campaign.exposures, campaign.detectors, spacing_mm=SPACING_MM, position_errors=False)


def split_halves(solution, detectors, first):
    return compare_parts(detectors, first, *(solve_part(solution, detectors, held_out) for held_out in (~first, first)))


def residual_map(solution, detectors, *, frame, cell_mm=2.0):
    sums, centres = FrameSums(SIGNS[frame], cell_mm), solution.model.centres(solution.vector)
    for detector in detectors:
        fit, kept = solution.fit(detector), ~solution.left_out[detector.exposures]
        places = np.column_stack([detector.x_mm, detector.y_mm])
        sums.add(places, centres[detector.exposures[kept]], fit.weights[kept], fit.residual[kept])
    return sums.map()


def test_halves_differ_by_their_noise(campaign, solution):
    halves = split_halves(solution, campaign.detectors, odd_exposures(solution))
    pulls = []
    for detector in campaign.detectors:
        plane = np.column_stack([np.ones(detector.x_mm.size), detector.x_mm, detector.y_mm])
        difference = halves.difference[detector.name]
        rest = difference - plane @ np.linalg.lstsq(plane, difference, rcond=None)[0]
        pulls.append(rest / halves.error[detector.name])
    assert 0.85 < np.mean(np.square(pulls)) < 1.2
    assert halves.rms > 0.5 * np.mean([np.mean(error) for error in halves.error.values()]) / 2
    with pytest.raises(FlatError, match="no exposures"):
        split_halves(solution, campaign.detectors, np.ones(len(campaign.exposures), dtype=bool))


def test_an_exposure_left_out_is_predicted_to_its_noise(campaign, solution):
    chi_square = split_halves(solution, campaign.detectors, odd_exposures(solution)).left_out
    assert np.isfinite(chi_square).all()
    # The flat that predicts it has noise of its own: one part in the number of exposures of a super-pixel in the other half.
    exposures = np.mean([len(detector.exposures) for detector in campaign.detectors]) / 2
    assert 0.97 < chi_square.mean() < 1.1 + 1.5 / exposures


def test_held_out_exposures_have_no_effect(campaign, solution):
    held_out = np.zeros(len(campaign.exposures), dtype=bool)
    held_out[150] = True
    spoilt = [replace(detector, log_signal=detector.log_signal.copy()) for detector in campaign.detectors]
    for detector in spoilt:
        detector.log_signal[detector.exposures == 150] += np.linspace(0, 1, detector.x_mm.size)
    first = solve_again(solution, campaign.detectors, held_out=held_out)
    second = solve_again(solution, spoilt, held_out=held_out)
    for name in first.log_response:
        np.testing.assert_allclose(first.log_response[name], second.log_response[name], atol=1e-8)
    assert second.tests.chi_square[150] > 20


def test_photodiode_is_found_noisier_than_the_scales(campaign, solution):
    check = check_photodiode(solution)
    assert check.noisier
    assert 0.7 < check.chi_square < 1.3
    truth = campaign.log_scale - solution.log_scales
    plane = np.column_stack([np.ones(len(truth)), campaign.exposures.positions])
    actual = np.std(truth - plane @ np.linalg.lstsq(plane, truth, rcond=None)[0])
    assert 0.3 * actual < check.scale_error < 3 * actual


@pytest.mark.parametrize("frame", ["beam", "reflected"])
def test_a_pattern_stands_still_in_its_own_frame(campaign, frame):
    sign = SIGNS[frame]
    detectors = []
    for detector in campaign.detectors:
        centres = campaign.exposures.positions[detector.exposures]
        ux, uy = detector.x_mm + sign * centres[:, :1], detector.y_mm + sign * centres[:, 1:]
        spot = 2e-3 * np.exp(-((ux - 3) ** 2 + (uy + 2) ** 2) / 2 / 0.8**2)
        detectors.append(replace(detector, log_signal=detector.log_signal + spot))
    # Knots too wide for a spot of the beam leave it in the residuals; a reflected one the beam cannot take up at all.
    spacing = 6.0 if frame == "beam" else SPACING_MM
    solution = solve_joint(
        campaign.exposures, detectors, spacing_mm=spacing, position_errors=False, geometry=False, leave_out=False
    )
    own = residual_map(solution, detectors, frame=frame, cell_mm=1.6)
    other = residual_map(solution, detectors, frame="reflected" if frame == "beam" else "beam", cell_mm=1.6)
    assert own.excess_rms > 1.5 * other.excess_rms
    strongest = np.unravel_index(np.nanargmax(own.mean / own.error), own.mean.shape)
    np.testing.assert_allclose(own.lower + own.cell_mm * (np.array(strongest) + 0.5), (3.0, -2.0), atol=2.0)


def test_a_reflected_pattern_is_taken_up_when_asked_for(campaign):
    detectors = []
    for detector in campaign.detectors:
        centres = campaign.exposures.positions[detector.exposures]
        vx, vy = detector.x_mm + centres[:, :1], detector.y_mm + centres[:, 1:]
        ghost = 2e-3 * np.exp(-(vx**2 + vy**2) / 2 / 9.0**2)
        detectors.append(replace(detector, log_signal=detector.log_signal + ghost))
    settings = {"spacing_mm": 4.0, "position_errors": False, "geometry": False, "leave_out": False, "with_weather": False}
    plain = solve_joint(campaign.exposures, detectors, **settings)
    reflected = solve_joint(campaign.exposures, detectors, reflection=True, **settings)
    assert plain.reduced_chi_square > 1.15
    assert reflected.reduced_chi_square < 1.03


def test_cells_without_structure_have_no_excess(campaign, solution):
    for frame in SIGNS:
        found = residual_map(solution, campaign.detectors, frame=frame)
        assert found.excess_rms < 3e-5
        assert 0.9 < np.nanmean(found.chi_square) < 1.1
