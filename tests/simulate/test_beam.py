"""The true beam against its documented numbers."""

from __future__ import annotations

import numpy as np
import pytest

from permil.camera import Camera, frames
from permil.config.simulate import SimulateConfig
from permil.errors import ConfigError
from permil.simulate import BeamTruth, Bench
from permil.simulate.randoms import generator

AZIMUTH = np.linspace(0, 2 * np.pi, 73)


@pytest.mark.parametrize("ring_break", [0.0, 2e-3])
def test_smooth_beam_has_the_documented_levels(ring_break):
    beam = BeamTruth(generator(1, "beam"), ring_break=ring_break)
    radius = np.linspace(0, 18, 200)
    assert beam(radius, 0.0).min() > 1 - 0.012
    np.testing.assert_allclose(beam([40, -40, 0, 0], [0, 0, 40, -40]), 0.83, atol=1e-9)
    np.testing.assert_allclose(beam([40, -40, 40, -40], [40, 40, -40, -40]), 0.66, atol=1e-9)
    far = beam(np.linspace(0, 200, 500), 0.0)
    assert np.all(np.diff(far) <= 0)
    assert far[175] > 0.4, "light reaches out to 70 mm"


def test_default_beam_of_every_led_is_near_the_documented_levels():
    bench = Bench(SimulateConfig(preset="focal-plane", detectors=["R22_S11"]))
    for led in bench.leds:
        beam = bench.beam(led)
        inner = beam(18 * np.cos(AZIMUTH), 18 * np.sin(AZIMUTH))
        # Structure of 3e-3 rms rides on the plateau and lifts the maximum.
        assert inner.min() > 1 - 0.012 - 4 * 3e-3
        assert beam([40, -40, 0, 0], [0, 0, 40, -40]).mean() == pytest.approx(0.83, abs=0.012)
        assert beam([40, -40, 40, -40], [40, 40, -40, -40]).mean() == pytest.approx(0.66, abs=0.012)


def test_maximum_is_one():
    beam = BeamTruth(generator(3, "beam"), ring_break=2e-3, structure_rms=3e-3)
    steps = np.arange(-40, 40, 0.1)
    assert beam(steps[:, None], steps).max() == pytest.approx(1.0, abs=1e-5)


def test_slope_breaks_at_the_ring():
    with_ring = BeamTruth(generator(1, "beam"), ring_break=2e-3, ring_radius=25.0)
    step = 1e-3
    for azimuth in (0.0, 1.0, 4.0):
        radius = np.array([25 - 2 * step, 25 - step, 25 + step, 25 + 2 * step])
        levels = with_ring(radius * np.cos(azimuth), radius * np.sin(azimuth))
        slopes = np.diff(np.log(levels))[[0, 2]] / step
        assert slopes[1] - slopes[0] == pytest.approx(-2e-3, rel=0.02)


@pytest.mark.parametrize("sigma", [2.5, 4.0])
def test_structure_has_its_size_and_its_correlation(sigma):
    plain = BeamTruth(generator(1, "beam"), structure_sigma=sigma)
    rough = BeamTruth(generator(1, "beam"), structure_rms=3e-3, structure_sigma=sigma)
    steps = np.arange(-150, 150, 1.0)
    ratio = rough(steps[:, None], steps) / plain(steps[:, None], steps)
    structure = ratio / ratio.mean() - 1
    assert structure.std() == pytest.approx(3e-3, rel=0.1)
    # White noise smoothed by a Gaussian of sigma s is correlated as exp(-d^2 / 4 s^2).
    for lag in (4, 8):
        correlation = np.mean(structure[lag:] * structure[:-lag]) / structure.var()
        assert correlation == pytest.approx(np.exp(-(lag**2) / (4 * sigma**2)), abs=0.08)


@pytest.mark.parametrize("name", ["R22_S11", "R01_S20", "R00_SG0", "R00_SG1"])
def test_whole_detectors_equal_single_points(bin8: Camera, name):
    detector = bin8[name]
    beam = BeamTruth(generator(2, "beam"), ring_break=2e-3, structure_rms=3e-3, ellipticity=0.1)
    x_ccs, y_ccs = frames.detector_to_ccs(detector, np.arange(detector.nx)[None, :], np.arange(detector.ny)[:, None])
    centre = (float(x_ccs.mean()) + 7.0, float(y_ccs.mean()) - 3.0)
    points = beam(x_ccs - centre[0], y_ccs - centre[1])
    np.testing.assert_allclose(beam.on_detector(detector, centre), points, atol=1e-7)


def test_leds_have_different_beams():
    bench = Bench(SimulateConfig())
    steps = np.arange(-30, 30, 1.0)
    difference = bench.beam("red")(steps[:, None], steps) - bench.beam("nm960")(steps[:, None], steps)
    assert difference.std() > 2e-3


def test_levels_that_make_no_beam_are_an_error():
    with pytest.raises(ConfigError, match=r"simulate\.beam\.edge"):
        Bench(SimulateConfig(beam={"edge": 0.6, "corner": 0.7}))
