"""Gains that change: smooth temperatures, the size of changes in time, and solutions with true errors of boards and steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from joint_bench import THERMOMETER_STEP, Boards, RandomBeam, precision_of, simulate, smooth_process
from scipy import stats
from test_joint_instrument import SETTINGS, amplifiers_of, chi_square
from test_joint_weather import planes_of

from permil.flat.joint import solve
from permil.flat.joint.covariance import FlatCovariance
from permil.flat.joint.gain_steps import board_results, solved_steps
from permil.flat.joint.gains import TIME_FUNCTIONS, BoardReadings, Coefficient, board_terms, fit_time_rms
from permil.flat.joint.grouped import GroupedFactor
from permil.flat.joint.solve import solve_joint
from permil.flat.joint.temperature import smooth_temperature

NOMINAL = Coefficient(6.5e-4)


def campaign_with(seed, *, boards=None, whole=True, noise=1e-4):
    """A campaign with a photodiode that drifts; each detector has a board of its own."""
    rng = np.random.default_rng(seed)
    beam = RandomBeam.draw(rng, width=15.0)
    changes = {"photodiode_noise": noise, "photodiode_drift": 3e-3 * rng.standard_normal()}
    return simulate(rng, beam=beam, boards=boards, whole=whole, **SETTINGS | changes)


def solved(campaign, **changes):
    boards = board_terms(campaign.exposures.time, campaign.boards, NOMINAL)
    return solve_joint(campaign.exposures, campaign.detectors, spacing_mm=3.0, boards=boards, **changes)


def mode_pulls(campaign, solution):
    """Parts of the flat's error along its 20 largest modes, over their errors."""
    error, modes = campaign.response_error(solution), FlatCovariance(solution, campaign.detectors).modes_and_shared(20, {})[0]
    pulls = []
    for number in range(20):
        norm = sum(np.sum(pattern[number] ** 2) for pattern in modes.patterns.values())
        region = {name: pattern[number] / norm for name, pattern in modes.patterns.items()}
        part = sum(np.nansum(weights * error[name]) for name, weights in region.items())
        pulls.append(part / np.sqrt(modes.covariance_of_means(region, region)))
    return np.array(pulls)


@pytest.mark.parametrize("amplitude", [0.05, 0.1, 0.3, 1.5])
@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("seeds", [3, pytest.param(8, marks=pytest.mark.full)])
def test_rounded_temperatures_are_smoothed_with_true_errors(amplitude, alike, seeds):
    ratios, parts = [], []
    for seed in range(seeds):
        rng = np.random.default_rng(100 + seed)
        time = np.sort(rng.uniform(0, 6.0, 200))
        true = amplitude * np.sin(2 * np.pi * time + rng.uniform(0, 6.28)) + 0.3 * amplitude * np.sin(3.1 * time)
        offsets = np.zeros(6) if alike else rng.uniform(0, 1, 6)
        readings = np.round((true[:, None] + offsets) / THERMOMETER_STEP) * THERMOMETER_STEP
        found = smooth_temperature(time, readings)
        raw = readings.mean(axis=1)
        error = found.value - (true - true.mean())
        ratios.append(error.std() / (raw - raw.mean() - true + true.mean()).std())
        errors = found.errors - found.errors.mean(axis=1, keepdims=True)
        parts.append(np.mean(error**2) / np.mean(np.sum(errors**2, axis=0)))
        assert abs(found.value.mean()) < 1e-12
    # Thermometers with different rounding get errors that are too large.
    assert np.mean(parts) < 1.3
    assert not alike or np.mean(parts) > 0.2
    assert np.mean(ratios) < (0.7 if alike else 1.0)


def test_a_rough_temperature_is_taken_as_it_is_read():
    rng = np.random.default_rng(3)
    time, true = np.arange(150.0), 0.3 * rng.standard_normal(150)
    readings = np.round(true[:, None] / THERMOMETER_STEP) * THERMOMETER_STEP * np.ones(2)
    found = smooth_temperature(time, readings)
    np.testing.assert_allclose(found.value, readings[:, 0] - readings[:, 0].mean(), atol=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_readings_that_hardly_round_are_taken_as_they_are(seed):
    rng = np.random.default_rng(400 + seed)
    time = np.sort(rng.uniform(0, 1, 90))
    true = 10 ** rng.uniform(-2, 1) * smooth_process(rng, time, 0.2)
    readings = true[:, None] + rng.uniform(0, 1, 2)
    found = smooth_temperature(time, readings)
    np.testing.assert_allclose(found.value, true - true.mean(), atol=1e-12)
    readings[10:13] = np.nan
    filled = smooth_temperature(time, readings)
    assert filled is None or np.abs(filled.value - found.value).max() < 0.2 * np.ptp(true)


def test_missing_readings_are_filled_and_thermometers_without_enough_do_not_count():
    rng = np.random.default_rng(4)
    time = np.arange(120.0)
    true = 0.5 * smooth_process(rng, time, 20.0)
    readings = np.round((true[:, None] + rng.uniform(-5, 5, 3)) / THERMOMETER_STEP) * THERMOMETER_STEP
    readings[rng.uniform(size=120) < 0.2, 0] = np.nan
    readings[:100, 1] = np.nan
    found = smooth_temperature(time, readings)
    error = found.value - (true - true.mean())
    assert error.std() < 0.5 * THERMOMETER_STEP
    np.testing.assert_array_equal(found.value, smooth_temperature(time, np.delete(readings, 1, axis=1)).value)
    assert smooth_temperature(time, readings[:, 1:2]) is None


def test_a_reading_that_never_changes_leaves_half_a_step():
    found = smooth_temperature(np.arange(60.0), np.full((60, 2), 8.5))
    np.testing.assert_allclose(found.value, 0, atol=1e-9)
    rms = np.sqrt(np.mean(np.sum(found.errors**2, axis=0)))
    assert 0.1 * THERMOMETER_STEP < rms < 0.5 * THERMOMETER_STEP


def test_the_change_in_time_has_the_covariance_of_a_random_walk():
    time = np.sort(np.random.default_rng(5).uniform(0, 10, 60))
    own = np.arange(10, 60)
    terms = board_terms(time, [BoardReadings("a", ("D",), own, np.full((50, 1), np.nan))], NOMINAL)
    blind = terms.time_variance(0.0)
    assert terms.blind.all()
    functions = terms.values[1:9, 0, own]
    found = (functions.T * (terms.time_variance(1e-3) - blind)) @ functions
    walk = np.minimum.outer(time[own], time[own]) / np.ptp(time) * 1e-6
    centring = np.eye(50) - 1 / 50
    expected = centring @ walk @ centring
    # What varies faster than the functions is left out.
    assert np.linalg.norm(found - expected, 2) < 0.05 * np.linalg.norm(expected, 2)
    assert 0.85 < np.trace(found) / np.trace(expected) < 1.0


def test_the_size_of_the_change_in_time_follows_the_signals():
    time = np.arange(40.0)
    readings = [BoardReadings(name, (name,), np.arange(40), np.round(np.sin(time / 5), 2)[:, None]) for name in "abcdef"]
    terms = board_terms(time, readings, NOMINAL)
    unit = np.sqrt(terms.time_variance(1.0))
    rng = np.random.default_rng(6)
    sizes = []
    for rms in (1e-5, 4e-5, 3e-4):
        information = np.diag(np.full(len(unit), (1e-6) ** -2))
        pull = information @ (rms * unit * rng.standard_normal(len(unit))) + 1e6 * rng.standard_normal(len(unit))
        sizes.append(fit_time_rms(terms, information, pull) / rms)
    assert all(0.7 < size < 1.4 for size in sizes)
    # Signals that know nothing leave the prior, whose mean square is above its median.
    assert 5e-5 < fit_time_rms(terms, np.zeros((len(unit), len(unit))), np.zeros(len(unit))) < 1.2e-4


def test_a_coefficient_that_was_applied_to_rounded_readings_is_corrected_for_the_rounding():
    rng = np.random.default_rng(7)
    time = np.arange(100.0)
    true = smooth_process(rng, time, 25.0)
    reading = np.round(true / THERMOMETER_STEP) * THERMOMETER_STEP
    board = BoardReadings("a", ("D",), np.arange(100), reading[:, None])
    terms = board_terms(time, [board], Coefficient(6.5e-4, 6.5e-4))
    assert terms.coefficient.centre == 0
    # The reduction has multiplied the signals by 1 + k (reading - reference), the board by 1 - k (temperature - reference).
    left = 6.5e-4 * (reading - true)
    corrected = left - terms.changes(np.zeros(terms.count))[0]
    assert (corrected - corrected.mean()).std() < 0.6 * left.std()


def test_the_mean_of_the_rounding_is_corrected_with_its_error():
    left, errors = [], []
    for seed in range(10):
        rng = np.random.default_rng(700 + seed)
        time = np.linspace(0, 2, 40)
        true = 0.1 * np.sin(2 * np.pi * time + rng.uniform(0, 6.28)) + rng.uniform(0, 1)
        reading = np.round(true / THERMOMETER_STEP) * THERMOMETER_STEP
        board = BoardReadings("a", ("D",), np.arange(40), np.repeat(reading[:, None], 6, axis=1) + np.arange(6.0))
        terms = board_terms(time, [board], Coefficient(6.5e-4, 6.5e-4))
        rounding = 6.5e-4 * (reading - true)
        left.append((rounding.mean(), (rounding - terms.changes(np.zeros(terms.count))[0]).mean()))
        errors.append(np.linalg.norm(terms.values[1 + TIME_FUNCTIONS :, 0].mean(axis=1)))
    before, after = np.array(left).T
    assert np.sqrt(np.mean(after**2)) < 0.95 * np.sqrt(np.mean(before**2))
    assert 0.7 < np.sqrt(np.mean((after / errors) ** 2)) < 1.5


@pytest.fixture(scope="module")
def read_one_at_a_time():
    campaign = campaign_with(61, boards=Boards(), whole=False)
    return campaign, solved(campaign)


@pytest.mark.parametrize("whole", [True, False])
def test_boards_of_unknown_coefficient_are_solved_for_with_true_errors(whole, request):
    if whole:
        campaign = campaign_with(61, boards=Boards())
        solution = solved(campaign)
    else:
        campaign, solution = request.getfixturevalue("read_one_at_a_time")
    assert solution.certificate.converged
    assert not solution.left_out.any()
    assert solution.prior.has_photodiode.all()
    assert 0.97 < solution.reduced_chi_square < 1.03
    one, free = chi_square(*planes_of(campaign, solution))
    assert 1e-3 < stats.chi2.sf(one, free) < 0.9999
    results = board_results(solution)
    for result, true in zip(results, campaign.coefficients, strict=True):
        assert abs(result.coefficient - true) < 4 * result.coefficient_err
        assert abs(result.change) < 5 * result.change_err
    # Detectors that are read one at a time, at the side of the scan, have nothing but the photodiode.
    assert [result.is_dominated for result in results] == [not whole, False, not whole]


def test_boards_that_do_not_move_cost_little():
    campaign = campaign_with(62, boards=Boards(temperature=0.0, drift=0.0))
    solution = solved(campaign)
    before = solve_joint(campaign.exposures, campaign.detectors, spacing_mm=3.0)
    assert not board_results(before)
    assert before.model.board_gains.stop == before.model.weather.start == before.model.size
    levels = [np.sqrt(np.diag(planes_of(campaign, each)[1]))[::3] for each in (before, solution)]
    assert (levels[1] > 0.9 * levels[0]).all()
    assert (levels[1] < 1.15 * levels[0]).all()
    assert not any(result.is_unusual or result.has_changed for result in board_results(solution))


def test_a_board_without_temperatures_is_followed_in_time_with_a_larger_error():
    campaign = campaign_with(66, boards=Boards(temperature=0.1))
    before = FlatCovariance(solved(campaign), campaign.detectors).planes()[1]
    blind = campaign.boards[0]
    campaign.boards[0] = replace(blind, temperature=np.full_like(blind.temperature, np.nan))
    solution = solved(campaign)
    assert solution.certificate.converged
    result = board_results(solution)[0]
    assert np.isnan(result.coefficient)
    assert not result.is_unusual
    planes, covariance = planes_of(campaign, solution)
    one, free = chi_square(planes, covariance)
    assert 1e-3 < stats.chi2.sf(one, free) < 0.9999
    assert covariance[0, 0] > before[0, 0]


def test_a_campaign_without_boards_has_no_terms_of_boards():
    assert board_terms(np.arange(20.0), [], NOMINAL) is None


def test_what_boards_add_to_the_errors_is_what_known_boards_would_take_off(read_one_at_a_time):
    campaign, solution = read_one_at_a_time
    precision = precision_of(solution, campaign.detectors)
    errors = FlatCovariance(replace(solution, factor=GroupedFactor.of(precision)), campaign.detectors)
    places = solution.model.board_gains
    precision[range(places.start, places.stop), range(places.start, places.stop)] += 1e24
    known = errors.under(replace(solution, factor=GroupedFactor.of(precision)))
    regions = [{name: np.full(len(response), 1 / len(response))} for name, response in solution.log_response.items()]
    expected = errors.covariance(regions) - known.covariance(regions)
    np.testing.assert_allclose(errors.added_by(places), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    total, rest = errors.modes_and_shared(20, {})[0].total, known.modes_and_shared(20, {})[0].total
    assert errors.common_variance_added_by(places) == pytest.approx(total - rest, rel=0.3)
    unit = np.eye(solution.model.size)
    unknowns = solution.factor.solve(unit)[places, places]
    np.testing.assert_allclose(solution.covariance_of(places), unknowns, rtol=1e-4, atol=1e-12)


def with_step(campaign, size, first, *, number=1, amplifier=6):
    """The campaign with signals of one amplifier that are larger from an exposure on, and its flat, that of the last epoch."""
    detector = campaign.detectors[number]
    pixels = amplifiers_of(detector) == amplifier
    later = detector.exposures >= first
    campaign.detectors[number] = replace(detector, log_signal=detector.log_signal + np.log1p(size) * later[:, None] * pixels)
    campaign.log_response[detector.name] = campaign.log_response[detector.name] + np.log1p(size) * pixels
    return {one.name: amplifiers_of(one) for one in campaign.detectors}


@pytest.mark.parametrize(("first", "size"), [pytest.param(60, 1e-2, marks=pytest.mark.full), (144, -2e-3)])
def test_a_step_of_an_amplifier_is_solved_for_and_the_flat_is_that_after_it(first, size):
    campaign = campaign_with(65, boards=Boards())
    amplifiers = with_step(campaign, size, first)
    solution = solved(campaign, amplifiers=amplifiers)
    (step,) = solved_steps(solution)
    assert (step.detector, step.amplifier, step.exposure) == ("D10", 6, pytest.approx(first, abs=1))
    assert abs(step.size - size) < 4 * step.size_err < 2e-4
    assert 0.97 < solution.reduced_chi_square < 1.03
    error = campaign.response_error(solution)["D10"]
    inside = amplifiers["D10"] == 6
    weights = np.where(inside, 1 / inside.sum(), -1 / (~inside).sum())
    variance = FlatCovariance(solution, campaign.detectors).covariance([{"D10": weights}])
    assert abs(error @ weights) < 4 * variance[0, 0] ** 0.5
    assert variance[0, 0] ** 0.5 < 0.1 * abs(size)


def test_a_step_that_the_solution_does_not_confirm_is_dropped(monkeypatch):
    campaign = campaign_with(66, boards=Boards())
    amplifiers = with_step(campaign, 2e-3, 144)
    sought, rounds = solve.new_steps, []

    def with_an_echo(solution, detectors, numbers):
        steps = sought(solution, detectors, numbers)
        rounds.append(len(steps))
        return (*steps, *(replace(step, amplifier=5, pixels=numbers[step.detector] == 5) for step in steps))

    monkeypatch.setattr(solve, "new_steps", with_an_echo)
    solution = solved(campaign, amplifiers=amplifiers)
    assert rounds == [1, 0]
    (step,) = solved_steps(solution)
    assert step.amplifier == 6
    assert abs(step.size - 2e-3) < 4 * step.size_err < 2e-4
    assert solution.vector.size == solution.model.size


@pytest.mark.full
@pytest.mark.parametrize("whole", [True, False])
def test_errors_are_true_over_forty_seeds_of_boards(whole):
    total, freedom, pulls, modes, coefficients = 0.0, 0, [], [], []
    for seed in range(31000, 31040):
        campaign = campaign_with(seed, boards=Boards(), whole=whole)
        solution = solved(campaign)
        assert solution.certificate.converged
        assert not solution.left_out.any()
        planes, covariance = planes_of(campaign, solution)
        one, free = chi_square(planes, covariance)
        total, freedom = total + one, freedom + free
        pulls.append(planes / np.sqrt(np.diag(covariance)))
        modes.append(mode_pulls(campaign, solution))
        coefficients += [
            (result.coefficient - true) / result.coefficient_err
            for result, true in zip(board_results(solution), campaign.coefficients, strict=True)
        ]
    for rms in (np.sqrt(np.mean(np.square(each))) for each in (pulls, modes, coefficients)):
        assert 0.85 < rms < 1.15, rms
    assert 0.8 < total / freedom < 1.2, total / freedom


@pytest.mark.full
def test_sizes_of_steps_have_true_errors_over_twenty_seeds():
    pulls, levels = [], []
    for seed in range(32000, 32020):
        campaign = campaign_with(seed, boards=Boards())
        amplifiers = with_step(campaign, 2e-3, 144)
        solution = solved(campaign, amplifiers=amplifiers)
        (step,) = solved_steps(solution)
        pulls.append((step.size - 2e-3) / step.size_err)
        planes, covariance = planes_of(campaign, solution)
        levels.append(planes / np.sqrt(np.diag(covariance)))
    assert 0.65 < np.sqrt(np.mean(np.square(pulls))) < 1.4
    assert 0.85 < np.sqrt(np.mean(np.square(levels))) < 1.15
