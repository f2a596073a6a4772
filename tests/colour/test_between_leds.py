"""Terms that LEDs share: responses of the planes against solutions of changed readings, covariances against drawn processes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from led_campaigns import SPACING_MM, Settings, simulate_leds

from permil.flat.between_leds import SharedTerms, covariance_between, drift_between
from permil.flat.joint import FlatCovariance, solve_joint
from permil.flat.joint.covariance import PlaneResponses
from permil.flat.joint.file import DetectorErrors, error_hdus
from permil.flat.joint.photodiode import Drift, PhotodiodeModel


@pytest.fixture(scope="module")
def solved():
    campaign = simulate_leds(3, ("uv",), Settings(columns=2, rows=1, scan=6))[0]
    solution = solve_joint(campaign.exposures, campaign.detectors, spacing_mm=SPACING_MM, position_errors=True)
    return campaign, FlatCovariance(solution, campaign.detectors)


def test_readings_that_slope_with_the_position_tilt_the_flat(solved):
    # F exp(a.x), B exp(-a.u), s exp(-a.c) give the same signals, whatever is assumed of noise and drift.
    campaign, errors = solved
    exposures = campaign.exposures
    moved = (errors.plane_responses().readings @ exposures.x_mm).reshape(-1, 3)
    middle = np.array([detector.x_mm.mean() for detector in campaign.detectors])
    np.testing.assert_allclose(moved[:, 1:], [[-1.0, 0.0]] * 2, atol=2e-3)
    np.testing.assert_allclose(moved[:, 0], middle.mean() - middle, rtol=2e-3)
    changed = replace(exposures, log_photodiode=exposures.log_photodiode + 2e-5 * exposures.x_mm)
    again = solve_joint(changed, campaign.detectors, spacing_mm=SPACING_MM, position_errors=True)
    tilted = FlatCovariance(again, campaign.detectors).planes()[0] - errors.planes()[0]
    np.testing.assert_allclose(tilted[:, 1:] / 2e-5, moved[:, 1:], atol=0.1)


def test_photodiode_and_noise_explain_no_more_than_the_whole_covariance(solved):
    _, errors = solved
    prior = errors.solution.prior
    exposures = errors.solution.model.exposures
    covariance = prior.photodiode.covariance(exposures.time, exposures.epoch)
    readings = errors.plane_responses().readings
    rest = errors.planes()[1] - readings @ covariance @ readings.T
    scale = np.sqrt(np.diag(errors.planes()[1]))
    scale[scale == 0] = 1.0
    assert np.linalg.eigvalsh(rest / np.outer(scale, scale)).min() > -1e-6


def terms(time, *, model, x=None, planes=3, moves=None):
    time = np.asarray(time, dtype=float)
    x = np.arange(len(time), dtype=float) if x is None else np.asarray(x, dtype=float)
    move = np.unique(x, return_inverse=True)[1]
    rng = np.random.default_rng(len(time))
    responses = PlaneResponses(
        rng.standard_normal((planes, len(time))) if moves is None else np.zeros((planes, len(time))),
        np.zeros((planes, 2 * (move.max() + 1))) if moves is None else moves,
        np.zeros((planes, 0)),
    )
    return SharedTerms(
        time,
        x,
        np.zeros(len(time)),
        np.zeros(len(time), int),
        move,
        model,
        0.01,
        (),
        1e-4,
        0.0,
        responses,
        np.zeros((0, planes), bool),
        np.zeros(0),
        np.zeros(0),
    )


def test_equal_leds_leave_nothing_of_what_they_share():
    model = PhotodiodeModel(1e-4, 1e-5, (Drift(1e-3, 0.3, 0.7), Drift(2e-3, 0.1, 0.2, smooth=False)), 3e-3, (), 1e-3)
    one = terms(np.arange(20.0), model=model)
    found = covariance_between(one, one)
    whole = one.responses.readings @ drift_between(one, one, model, 19.0) @ one.responses.readings.T
    np.testing.assert_allclose(found.cross, whole)
    np.testing.assert_allclose(found.first, 0.0, atol=1e-12 * np.abs(whole).max())


def test_the_ratio_of_two_leds_never_has_a_negative_variance():
    rng = np.random.default_rng(5)
    for _ in range(20):
        models = [
            PhotodiodeModel(1e-4, 1e-5, (Drift(rng.uniform(0, 2e-3), 0.3, 1.0),), rng.uniform(0, 4e-3), (), rng.uniform(0, 1e-3))
            for _ in range(2)
        ]
        first, second = (terms(np.sort(rng.uniform(0, 10, 15 + k)), model=models[k]) for k in range(2))
        found = covariance_between(first, second)
        own = []
        for one, change in ((first, found.first), (second, found.second)):
            drift = drift_between(one, one, one.photodiode, float(np.ptp(one.time)))
            own.append(one.responses.readings @ drift @ one.responses.readings.T + change)
        total = own[0] + own[1] - found.cross - found.cross.T
        assert np.linalg.eigvalsh(total).min() > -1e-9 * np.abs(total).max()


def test_drift_has_the_covariance_of_drawn_processes():
    rng = np.random.default_rng(1)
    time = np.arange(12.0)
    model = PhotodiodeModel(0.0, 0.0, (), 3e-3, (), 0.0)
    first, second = terms(time[::2], model=model), terms(time[1::2], model=model)
    slopes = 3e-3 * rng.standard_normal(40_000)
    drawn = [slopes[:, None] * (one.time - 5.0) / 11.0 for one in (first, second)]
    expected = drawn[0].T @ drawn[1] / len(slopes)
    # The middle of the first LED's exposures is the origin: a constant is no error.
    centred = expected - expected.mean(axis=0) - expected.mean(axis=1, keepdims=True) + expected.mean()
    found = drift_between(first, second, model, 11.0)
    found = found - found.mean(axis=0) - found.mean(axis=1, keepdims=True) + found.mean()
    np.testing.assert_allclose(found, centred, atol=2e-2 * np.abs(centred).max())


def test_leds_exposed_by_turns_share_moves_and_others_do_not():
    model = PhotodiodeModel(0.0, 0.0)
    rng = np.random.default_rng(2)
    moves = rng.standard_normal((3, 6))
    first = terms([0.0, 2.0, 4.0], x=[0.0, 5.0, 9.0], model=model, moves=moves)
    by_turns = terms([1.0, 3.0, 5.0], x=[0.0, 5.0, 9.0], model=model, moves=moves)
    np.testing.assert_allclose(covariance_between(first, by_turns).cross, 1e-4 * moves @ moves.T)
    after = terms([10.0, 11.0, 12.0], x=[0.0, 5.0, 9.0], model=model, moves=moves)
    np.testing.assert_allclose(covariance_between(first, after).cross, 0.0)


def test_boards_of_another_temperature_or_time_have_other_gains():
    model = PhotodiodeModel(0.0, 0.0)
    levels = np.array([[True, False, False, True, False, False], [False] * 6])
    boards = {"boards": ("A", "B"), "board_levels": levels, "board_coefficient": np.array([2e-4, 2e-4])}
    one, other = (
        replace(
            terms(np.arange(5.0) + start, model=model, planes=6), board_time_rms=1e-4, board_temperature=np.array(found), **boards
        )
        for start, found in ((0.0, [20.0, 21.0]), (0.1, [21.5, np.nan]))
    )
    gains = covariance_between(one, other).gains
    expected = np.zeros((6, 6))
    expected[np.ix_([0, 3], [0, 3])] = (1.5 * 2e-4) ** 2
    np.testing.assert_allclose(gains, expected)
    later = replace(other, time=other.time + 8.0)
    walked = covariance_between(one, later).gains
    np.testing.assert_allclose(walked[0, 3] - expected[0, 3], 1e-8 * 8.1 / 4.0)


def test_terms_come_back_from_a_file(solved, tmp_path):
    campaign, errors = solved
    written = SharedTerms.of(errors)
    exposures = Table(
        {"time": written.time, "x_mm": written.x_mm, "y_mm": written.y_mm, "epoch": written.epoch, "move": written.move}
    )
    blank = DetectorErrors(np.zeros((1, 2)), np.zeros((1, 1)), *(np.zeros(s, np.float32) for s in ((1, 2, 2), (2, 2), (2, 2, 2))))
    detectors = error_hdus({detector.name: blank for detector in campaign.detectors})[0]
    primary = fits.PrimaryHDU()
    primary.header["POSERROR"] = written.position_error_mm
    path = tmp_path / "joint.fits"
    fits.HDUList([primary, fits.BinTableHDU(exposures, name="EXPOSURES"), detectors, *written.hdus()]).writeto(path)
    with fits.open(path) as hdus:
        found = SharedTerms.read(hdus)
    np.testing.assert_allclose(found.responses.readings, written.responses.readings, rtol=1e-5, atol=1e-9)
    before, after = (covariance_between(one, one).cross for one in (written, found))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-6 * np.abs(before).max())


def test_a_file_of_an_older_version_has_no_terms():
    hdus = fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(Table({"time": [1.0]}), name="EXPOSURES")])
    assert SharedTerms.read(hdus) is None
