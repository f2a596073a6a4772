"""Slopes, jumps and scatter of series with white and wandering noise, against the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from permil.camera import load_camera
from permil.config.simulate import SimulateConfig
from permil.simulate.bench import Bench
from permil.simulate.projector import photodiode_response
from permil.stability.findings import SeriesGroup, analyse, call
from permil.stability.trends import (
    CALLED,
    FEWEST,
    MOST,
    adjust_for_number,
    find_jumps,
    fit_trends,
    measure_scatter,
)

FloatArray = NDArray[np.float64]


def series_of(seed: int, n: int, count: int, *, walk: float) -> tuple[FloatArray, FloatArray]:
    """Return times from 0 to 1 and series of unit white noise with random walks that change by ``walk`` (rms) over that time."""
    rng = np.random.default_rng(seed)
    white = rng.standard_normal((n, count))
    return np.linspace(0.0, 1.0, n), white + walk * np.cumsum(rng.standard_normal((n, count)), axis=0) / np.sqrt(n)


def pull(found: FloatArray, truth: float | FloatArray, error: FloatArray) -> float:
    return float(np.sqrt(np.mean(((found - truth) / error) ** 2)))


def test_white_noise_gives_ordinary_least_squares_with_errors_that_allow_for_a_walk() -> None:
    time, series = series_of(1, 400, 50, walk=0.0)
    found = fit_trends(time, series, time[:, None])
    plain = [stats.linregress(time, own) for own in series.T]
    assert np.abs(found.slope[0] - [one.slope for one in plain]).max() < 0.25
    # Neighbours are averaged.
    assert len(time) > MOST
    ratio = found.error[0] / [one.stderr for one in plain]
    assert 1.0 <= np.median(ratio) < 1.3


def test_a_pure_walk_is_judged_by_its_steps() -> None:
    time, series = series_of(2, 120, 200, walk=1e4)
    found = fit_trends(time, series, time[:, None])
    # The best estimate of the slope of a walk is that of its ends, which differ by 10,000 (rms).
    assert found.slope[0] == pytest.approx(series[-1] - series[0], abs=1000.0)
    assert pull(found.slope, 0.0, found.error) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize(("n", "walk"), [(40, 0.0), (150, 0.0), (150, 10.0), (300, 30.0)])
def test_drift_jump_and_temperature_slope_are_recovered(n: int, walk: float) -> None:
    time, noise = series_of(3, n, 150, walk=walk)
    temperature = np.sin(9.0 * time + 1.0)
    jump = (np.arange(n) >= n // 3).astype(np.float64)
    pulls = []
    for regressor in (time, temperature, jump):
        found = fit_trends(time, noise + 20.0 * regressor[:, None], regressor[:, None])
        pulls.append(pull(found.slope, 20.0, found.error))
    assert 0.8 < np.sqrt(np.mean(np.square(pulls))) < 1.2


def test_a_jump_is_found_where_it_is() -> None:
    time, noise = series_of(4, 100, 100, walk=0.0)
    jumped = noise + 6.0 * (np.arange(100) >= 70)[:, None]
    found = find_jumps(time, jumped)
    assert np.mean(found.first == 70) > 0.9
    assert pull(found.size, 6.0, found.error) == pytest.approx(0.95, abs=0.2)
    assert (found.p_value < CALLED).all()
    assert np.mean(find_jumps(time, noise).p_value < CALLED) < 0.03


def test_a_jump_of_a_long_series_is_named_by_its_reading() -> None:
    time, noise = series_of(5, 1000, 3, walk=0.0)
    found = find_jumps(time, noise + 9.0 * (np.arange(1000) >= 333)[:, None])
    assert np.abs(found.first - 333).max() <= 5


@pytest.mark.parametrize("walk", [1.0, 3.0])
def test_walks_are_not_called_trends(walk: float) -> None:
    time, series = series_of(6, 100, 300, walk=walk)
    assert _called(time, series) <= 0.06


def _called(time: FloatArray, series: FloatArray) -> float:
    """Return the share of series in which anything is called, each judged alone."""
    temperatures = {"swing": np.sin(9.0 * time + 1.0), "drift": time + 0.05 * np.cos(40.0 * time)}
    labels = [("R22_S11", str(number)) for number in range(series.shape[1])]
    found = analyse(SeriesGroup("flux", "", series, labels), time, [str(number) for number in range(len(time))], temperatures)
    smallest: dict[str, float] = {}
    for row in found:
        if np.isfinite(row.p_adjusted):
            smallest[row.amp] = min(row.p_adjusted, smallest.get(row.amp, 1.0))
    assert len(smallest) == series.shape[1]
    return float(np.mean([chance <= CALLED for chance in smallest.values()]))


def test_scatter_and_its_error() -> None:
    for walk, tolerance in ((0.0, 0.12), (10.0, 0.25)):
        time, series = series_of(7, 120, 400, walk=walk)
        found = measure_scatter(time, series)
        assert found.whole == pytest.approx(series.std(axis=0, ddof=1))
        assert np.median(found.whole_error) / found.whole.std() == pytest.approx(1.0, abs=2 * tolerance)
    # Slow changes cancel.
    assert np.median(found.successive) == pytest.approx(1.2, abs=0.25)
    time, series = series_of(8, 120, 400, walk=0.0)
    found = measure_scatter(time, series)
    assert found.successive.std() / found.successive_error.mean() == pytest.approx(1.0, abs=0.12)


def test_series_without_an_answer() -> None:
    time = np.arange(20.0)
    few = fit_trends(time[: FEWEST - 1], np.zeros((FEWEST - 1, 2)), time[: FEWEST - 1, None])
    assert np.isnan(few.slope).all()
    assert few.slope.shape == (1, 2)
    assert np.isnan(find_jumps(np.zeros(20), np.zeros((20, 1))).size).all()
    assert np.isnan(measure_scatter(time[:5], np.zeros((5, 1))).whole).all()
    found = fit_trends(time, np.ones((20, 1)) * time[:, None], np.column_stack([np.full(20, 19.97), time]))
    assert np.isnan(found.slope[0, 0])
    assert found.slope[1, 0] == pytest.approx(1.0)


@given(shift=st.floats(-1e3, 1e3), factor=st.floats(1e-3, 1e3), unit=st.floats(1e-3, 1e3), seed=st.integers(0, 2**16))
@settings(max_examples=20, deadline=None)
def test_units_and_zero_points_do_not_matter(shift: float, factor: float, unit: float, seed: int) -> None:
    time, series = series_of(seed, 30, 1, walk=2.0)
    first = fit_trends(time, series, time[:, None])
    second = fit_trends(5.0 + unit * time, shift + factor * series, (unit * time)[:, None])
    assert second.slope[0, 0] * unit / factor == pytest.approx(
        first.slope[0, 0], rel=1e-3, abs=1e-5 * max(1.0, abs(shift) / factor)
    )
    assert second.p_value[0, 0] == pytest.approx(first.p_value[0, 0], rel=1e-2, abs=1e-4)


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8))
@settings(deadline=None)
def test_adjusted_p_values_are_those_of_the_definition(p_values: list[float]) -> None:
    given_values = np.array(p_values)
    order = np.argsort(given_values, kind="stable")
    largest, expected = 0.0, np.empty(len(order))
    for rank, place in enumerate(order):
        largest = max(largest, (len(order) - rank) * given_values[place])
        expected[place] = min(largest, 1.0)
    assert adjust_for_number(given_values) == pytest.approx(expected)


def test_calls_allow_for_the_number_of_series() -> None:
    time, series = series_of(9, 60, 400, walk=0.0)
    series[:, 7] += 60.0 * time
    labels = [("R22_S11", str(number)) for number in range(400)]
    found = call(analyse(SeriesGroup("flux", "", series, labels), time, [""] * 60, {}))
    assert {row.amp for row in found if row.called} == {"7"}


def test_missing_readings_and_temperatures() -> None:
    time, series = series_of(10, 60, 3, walk=0.0)
    series[:20, 0] = np.nan
    series[5:, 1] = np.nan
    temperature = np.where(np.arange(60) % 7 == 0, np.nan, np.cos(5.0 * time))
    found = analyse(
        SeriesGroup("flux", "", series, [("", "a"), ("", "b"), ("", "c")]), time, [""] * 60, {"led_temp": temperature}
    )
    assert {(row.amp, row.n) for row in found} == {("a", 40), ("c", 60)}
    assert {row.quantity for row in found} == {"scatter", "successive", "drift", "jump", "led_temp"}
    nothing = analyse(SeriesGroup("flux", "", series, [("", "a"), ("", "b"), ("", "c")]), time, [""] * 60, {"led_temp": 0 * time})
    assert "led_temp" not in {row.quantity for row in nothing}


def bench_series(seed: int, *, drift: float, step: float, walk: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return phases, and photodiode over light without and with the random walk and noise of the simulator."""
    phases = np.linspace(0.0, 1.0, 180)
    stepped = phases >= 0.4

    def response(walk: float) -> FloatArray:
        return photodiode_response(np.random.default_rng([seed, 1]), phases, stepped, drift=drift, walk=walk, step=step)

    noise = 1e-4 * np.random.default_rng([seed, 2]).standard_normal(len(phases))
    return phases, np.log(response(0.0)), np.log(response(walk)) + noise


@pytest.mark.full
def test_acceptance_recovery_with_fresh_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    """Drift and jump of the photodiode, and the temperature slope of a board, as the simulator makes them, 300 seeds each."""
    pulls: dict[str, list[float]] = {}
    for walk in (0.0, 1e-3):
        for seed in range(710_000, 710_300):
            phases, true, read = bench_series(seed, drift=3e-3, step=0.0, walk=walk)
            found = fit_trends(phases, read[:, None], phases[:, None])
            pulls.setdefault(f"drift, walk {walk:g}", []).append(
                float((found.slope[0, 0] - np.ptp(true) * np.sign(true[-1] - true[0])) / found.error[0, 0])
            )
            phases, true, read = bench_series(seed, drift=0.0, step=3e-3, walk=walk)
            jump = true[-1] - true[0]
            if abs(jump) > 1e-3:
                one = find_jumps(phases, read[:, None])
                pulls.setdefault(f"jump, walk {walk:g}", []).append(float((one.size[0] - jump) / one.error[0]))
    detector = load_camera("lsstcam-bin8")["R22_S11"]
    for seed in range(720_000, 720_060):
        config = SimulateConfig.model_validate(
            {
                "seed": seed,
                "leds": ["red"],
                "detectors": ["R22_S11"],
                "electronics": {"temperature_coefficient_rms": 3e-4, "temperature_amplitude": 0.5},
            }
        )
        bench = Bench(config)
        exposures = [exposure for exposure in bench.exposures if exposure.kind != "bias"]
        temperature = np.array([bench.board_temperature(detector, exposure) for exposure in exposures])
        rng = np.random.default_rng([seed, 3])
        counts = np.log([bench.counts_factor(detector, exposure) for exposure in exposures]) + 1e-4 * rng.standard_normal(
            len(exposures)
        )
        found = fit_trends(np.array([exposure.phase for exposure in exposures]), counts[:, None], temperature[:, None])
        pulls.setdefault("temperature", []).append(
            float((found.slope[0, 0] - bench.board_coefficient(detector)) / found.error[0, 0])
        )
    sizes = {name: float(np.sqrt(np.mean(np.square(own)))) for name, own in pulls.items()}
    with capsys.disabled():
        print("\npulls", {name: f"{size:.2f} ({len(pulls[name])})" for name, size in sizes.items()})
    pooled = np.sqrt(np.mean(np.square(np.concatenate(list(pulls.values())))))
    assert 0.85 <= pooled <= 1.15
    assert all(0.8 <= size <= 1.2 for size in sizes.values())


@pytest.mark.full
def test_acceptance_false_positives_with_fresh_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    """Random walks of every size, 600 each: anything at all called in at most 5 %."""
    rates = {}
    for number, walk in enumerate((0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 100.0)):
        for n in (30, 100, 200):
            time, series = series_of(730_000 + 10 * number + n, n, 600, walk=walk)
            rates[walk, n] = _called(time, series)
    with capsys.disabled():
        print("\ncalled", {f"{walk:g} ({n})": f"{rate:.3f}" for (walk, n), rate in rates.items()})
    assert max(rates.values()) <= 0.05
