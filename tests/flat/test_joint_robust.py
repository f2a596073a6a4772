"""One defective exposure does not move the flat by more than its error, and is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from joint_bench import RandomBeam, simulate

from permil.flat.joint.covariance import FlatCovariance
from permil.flat.joint.exposure_tests import LEFT_OUT
from permil.flat.joint.newton import Solver
from permil.flat.joint.solve import solve_joint

SPACING_MM = 4.0
BAD = 116
"""A pointing; all detectors are read."""


@pytest.fixture(scope="module")
def campaign():
    return simulate(np.random.default_rng(11), pixels=8, pixel_mm=2.0, scan=10, images=2, jitter=0.01)


@pytest.fixture(scope="module")
def clean(campaign):
    return solve_joint(campaign.exposures, campaign.detectors, spacing_mm=SPACING_MM)


def spoiled(campaign, change):
    """The same data with one exposure changed: ``change(x, y)`` is added to its logarithms."""
    detectors = []
    for detector in campaign.detectors:
        logarithms = detector.log_signal.copy()
        row = np.flatnonzero(detector.exposures == BAD)
        logarithms[row] += change(detector.x_mm, detector.y_mm)
        detectors.append(replace(detector, log_signal=logarithms))
    return detectors


def shutter(x, y):
    return np.where(x > 1.0, np.log(0.5), 0.0)


def wrong_led(x, y):
    return 0.004 * np.sin(x / 5.0) + 0.003 * np.cos(y / 4.0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (shutter, "different shape"),
        pytest.param(wrong_led, "different shape", marks=pytest.mark.full),
        (None, "projector displaced"),
    ],
)
def test_an_exposure_of_another_shape_is_left_out(campaign, clean, change, named):
    if change is None:
        beam, centre = campaign.beam, campaign.centres[BAD]

        def change(x, y):
            return beam.log(x - centre[0] - 0.7, y - centre[1] + 0.4) - beam.log(x - centre[0], y - centre[1])

    detectors = spoiled(campaign, change)
    solution = solve_joint(campaign.exposures, detectors, spacing_mm=SPACING_MM)
    assert list(solution.findings()) == [BAD]
    assert named in solution.findings()[BAD]
    assert solution.certificate.converged
    moved = np.concatenate([solution.log_response[name] - clean.log_response[name] for name in clean.log_response])
    modes = FlatCovariance(clean, campaign.detectors).modes_and_shared(3, {})[0]
    error = np.sqrt(np.concatenate([modes.independent[name] for name in clean.log_response]))
    assert (np.abs(moved) < error + 1e3 * np.sqrt(modes.total)).all()
    assert np.sqrt(np.mean(np.square(moved))) < 0.7 * np.sqrt(np.mean(error**2) + modes.total)


def test_half_the_light_is_seen_against_the_photodiode(campaign, clean):
    detectors = spoiled(campaign, lambda x, _: np.full(x.size, np.log(0.5)))
    solution = solve_joint(campaign.exposures, detectors, spacing_mm=SPACING_MM)
    assert not solution.left_out.any()
    assert "photodiode reading off" in solution.findings()[BAD]
    change = solution.log_scales - clean.log_scales
    assert change[BAD] - np.median(change) == pytest.approx(np.log(0.5), abs=1e-3)
    moved = np.concatenate([solution.log_response[name] - clean.log_response[name] for name in clean.log_response])
    assert np.sqrt(np.mean(np.square(moved))) < 0.5 * np.sqrt(
        FlatCovariance(clean, campaign.detectors).modes_and_shared(3, {})[0].total
    )


def test_single_outliers_are_weighted_down(campaign, clean):
    detectors = [replace(detector, log_signal=detector.log_signal.copy()) for detector in campaign.detectors]
    detectors[4].log_signal[20, 30] += 0.5
    solution = solve_joint(campaign.exposures, detectors, spacing_mm=SPACING_MM)
    assert not solution.findings()
    name = detectors[4].name
    error = 1 / np.sqrt(detectors[4].weights[:, 30].sum())
    assert abs(solution.log_response[name][30] - clean.log_response[name][30]) < 1.5 * error


def test_a_clean_campaign_has_no_findings_and_the_right_chi_square(clean):
    assert not clean.findings()
    assert 0.95 < clean.reduced_chi_square < 1.05


def test_stage_errors_rotation_and_offset_cost_nothing():
    rng = np.random.default_rng(3)
    beam = RandomBeam.draw(rng)
    error = {}
    for kind, change in (("none", {}), ("all", {"jitter": 0.01, "rotation": 2e-3, "offset": (5.0, -7.0)})):
        campaign = simulate(np.random.default_rng(4), pixels=10, pixel_mm=1.6, beam=beam, **change)
        solution = solve_joint(campaign.exposures, campaign.detectors, spacing_mm=SPACING_MM)
        deviations = []
        for detector in campaign.detectors:
            plane = np.column_stack([np.ones(detector.x_mm.size), detector.x_mm, detector.y_mm])
            deviation = campaign.response_error(solution)[detector.name]
            deviations.append(deviation - plane @ np.linalg.lstsq(plane, deviation, rcond=None)[0])
        error[kind] = np.sqrt(np.mean(np.square(deviations)))
    assert error["all"] < 1.1 * error["none"]
    assert abs(solution.rotation[0] - 2e-3) < 4 * solution.rotation[1]
    assert 0.007 < solution.prior.position_error_mm < 0.013


@pytest.mark.parametrize("is_good", [True, pytest.param(False, marks=pytest.mark.full)])
def test_the_only_images_of_a_part_of_the_beam_have_a_second_chance(monkeypatch, is_good):
    rng = np.random.default_rng(77)
    campaign = simulate(rng, pixels=8, pixel_mm=2.0, images=2, jitter=0.01, beam=RandomBeam.draw(rng, width=15.0))
    first, shift = slice(144, 146), np.array([-14.0, -14.0])
    x_mm, y_mm = campaign.exposures.x_mm.copy(), campaign.exposures.y_mm.copy()
    x_mm[first] += shift[0]
    y_mm[first] += shift[1]
    detectors = []
    for detector in campaign.detectors:
        logarithms = detector.log_signal.copy()
        for row in np.flatnonzero(np.isin(detector.exposures, range(first.start, first.stop))):
            x, y = detector.x_mm - campaign.centres[first.start][0], detector.y_mm - campaign.centres[first.start][1]
            logarithms[row] += campaign.beam.log(x - shift[0], y - shift[1]) - campaign.beam.log(x, y)
            if not is_good:
                # Where other exposures light the same part of the beam.
                logarithms[row] += np.where(x > 20.0, np.log(0.8), 0.0)
        detectors.append(replace(detector, log_signal=logarithms))
    judge, judged = Solver._leave_out_exposures, []

    def leave_out_wrongly(solver, tests):
        judged.append(judge(solver, tests))
        if len(judged) == 1:
            solver.exposure_weights[first] = LEFT_OUT
        return judged[-1] or len(judged) == 1

    monkeypatch.setattr(Solver, "_leave_out_exposures", leave_out_wrongly)
    solution = solve_joint(replace(campaign.exposures, x_mm=x_mm, y_mm=y_mm), detectors, spacing_mm=3.0)
    assert solution.certificate.converged
    assert list(np.flatnonzero(solution.left_out)) == ([] if is_good else [144, 145])
    assert 0.97 < solution.reduced_chi_square < 1.03
