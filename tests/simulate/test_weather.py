"""Weather against its definition: rms over window and time, correlation in time, patterns up to the second order."""

from __future__ import annotations

import numpy as np
import pytest

from permil.camera import Camera, frames
from permil.config.simulate import SimulateConfig
from permil.simulate import Bench
from permil.simulate.bench import ExposedDetector
from permil.simulate.handover import scale_table
from permil.simulate.projector import WEATHER_TERMS, weather_on_detector, weather_series
from permil.simulate.randoms import generator

SHORT = {"detectors": ["R22_S11"], "leds": ["red"], "campaign": {"scan_size": 4, "images": 3, "biases": 1}}


def test_series_are_stationary_and_correlated_in_time():
    seconds = np.concatenate([np.arange(0.0, 30.0, 3.0), np.arange(100.0, 400.0, 10.0)])
    series = np.array([weather_series(generator(seed, "w"), seconds, rms=5e-4, correlation_s=60.0) for seed in range(6000, 6800)])
    size = 5e-4 / 5**0.5
    draws = series.shape[0] * series.shape[2]
    np.testing.assert_allclose(np.mean(series**2, axis=(0, 2)) / size**2, 1.0, atol=5 * (2 / draws) ** 0.5)
    for first, second in ((0, 3), (2, 12), (15, 25), (0, 39)):
        expected = np.exp(-abs(seconds[second] - seconds[first]) / 60.0)
        correlation = np.mean(series[:, first] * series[:, second]) / size**2
        assert correlation == pytest.approx(expected, abs=5 * (2 / draws) ** 0.5)
    between = np.corrcoef(series[:, 20].T) - np.eye(5)
    assert np.abs(between).max() < 5 / series.shape[0] ** 0.5


@pytest.mark.parametrize("correlation_s", [1e-3, 1e9])
def test_limits_are_white_noise_and_a_constant(correlation_s):
    series = weather_series(generator(6900, "w"), np.arange(1000.0), rms=1.0, correlation_s=correlation_s)
    if correlation_s < 1:
        assert np.abs(np.mean(series[1:] * series[:-1], axis=0) * 5).max() < 5 / 1000**0.5
    else:
        assert np.ptp(series, axis=0).max() < 0.02


@pytest.mark.parametrize("name", ["R22_S11", "R01_S20", "R00_SG0", "R00_SG1"])
def test_patterns_have_unit_rms_over_the_window_and_are_orthogonal(bin8: Camera, name):
    """The mean over a fine grid of the window, which the detector's pixels are a part of, is 1 on the diagonal."""
    detector = bin8[name]
    x_ccs, y_ccs = frames.detector_to_ccs(detector, np.arange(detector.nx)[None, :], np.arange(detector.ny)[:, None])
    # A window that the detector fills: legendre polynomials of its own places, by numpy.
    centre, half = (float(x_ccs.mean()) + 1.0, float(y_ccs.mean()) - 2.0), 20.0
    x, y = (x_ccs - centre[0]) / half, (y_ccs - centre[1]) / half
    legendre = np.polynomial.legendre.legval
    expected = {
        "x": 3**0.5 * legendre(x, [0, 1]),
        "y": 3**0.5 * legendre(y, [0, 1]),
        "xx": 5**0.5 * legendre(x, [0, 0, 1]),
        "xy": 3 * legendre(x, [0, 1]) * legendre(y, [0, 1]),
        "yy": 5**0.5 * legendre(y, [0, 0, 1]),
    }
    for number, term in enumerate(WEATHER_TERMS):
        coefficients = tuple(0.1 * (number == other) for other in range(5))
        factor = weather_on_detector(coefficients, detector, centre, half_window=half)
        assert factor.shape == detector.shape
        np.testing.assert_allclose(factor, np.broadcast_to(1 + 0.1 * expected[term], detector.shape), atol=2e-6)
    nodes, weights = np.polynomial.legendre.leggauss(6)
    products = {"x": nodes * 3**0.5, "xx": 5**0.5 * legendre(nodes, [0, 0, 1])}
    assert all(np.sum(weights * values**2) / 2 == pytest.approx(1.0) for values in products.values())


def quiet_bench(seed: int, rms: float, **changes: object) -> Bench:
    options = {"nuisances": False, "effects": {"weather": True, "read_noise": False, "prnu": False}, "seed": seed}
    return Bench(SimulateConfig.model_validate(SHORT | options | {"weather": {"rms": rms, "correlation_s": 20.0}} | changes))


def test_light_of_each_exposure_has_the_weather_of_its_time():
    stormy, calm = quiet_bench(71, 0.05), quiet_bench(71, 0.0)
    detector = stormy.camera["R22_S11"]
    exposed = [ExposedDetector(bench, detector, {"red": 1.0}) for bench in (stormy, calm)]
    images = [exposure for exposure in stormy.exposures if exposure.kind == "pointing"][:3]
    truths = dict(zip(stormy.exposures, zip(stormy.exposure_truths(), calm.exposure_truths(), strict=True), strict=True))
    gains = stormy.gains(detector)[:, None, None]
    level = np.array([amplifier.ny for amplifier in detector.amplifiers])[0]
    first = detector.amplifiers[0]
    data = slice(None), slice(0, level), slice(first.prescan, first.prescan + first.nx)
    bias = stormy.electronics(detector).bias
    for exposure in images:
        with_weather, without = (
            gains * (one.raw_segments(exposure, truth) - bias)[data] for one, truth in zip(exposed, truths[exposure], strict=True)
        )
        truth = truths[exposure][0]
        factor = weather_on_detector(truth.weather, detector, truth.beam_centre, half_window=40.0)
        expected = np.stack([frames.take_segment(amplifier, factor) for amplifier in detector.amplifiers])
        # Both have the same draws of photon noise, which scales with the root of the light.
        ratios = with_weather.mean(axis=(1, 2)) / (without * expected).mean(axis=(1, 2))
        assert np.abs(ratios - 1).max() < 2e-4
        assert np.ptp(factor) > 0.01
    weather = [truths[exposure][0].weather for exposure in images]
    assert weather[0] != weather[1] != weather[2]
    assert all(truths[exposure][0].photodiode == truths[exposure][1].photodiode for exposure in images)


def test_truth_records_the_coefficients():
    bench = quiet_bench(72, 1e-3)
    truths = bench.exposure_truths()
    table = scale_table(bench, truths)
    recorded = np.array([table[f"weather_{term}"] for term in WEATHER_TERMS]).T
    np.testing.assert_array_equal(recorded, [truth.weather for truth in truths if truth.electrons])


def test_weather_that_is_off_leaves_no_trace():
    off = quiet_bench(73, 0.5, effects={"weather": False, "read_noise": False, "prnu": False})
    assert off.exposure_truths() == quiet_bench(73, 0.0).exposure_truths()
