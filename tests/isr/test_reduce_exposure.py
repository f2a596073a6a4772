"""From raw counts back to the electrons that were put in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from segments_in_memory import reduce_segments, stack_segments

from permil.camera.frames import take_segment
from permil.errors import CalibrationError
from permil.isr import Gains, LinearityCurve, OverscanOptions, Superbias
from permil.isr.bias_exposures import bias_calibration
from permil.products import MaskPlane


def scene(shape, rng, *, level=40000.0):
    y, x = np.mgrid[: shape[0], : shape[1]]
    return level * (1 + 0.2 * x / shape[1] - 0.1 * y / shape[0]) * rng.normal(1, 0.01, shape)


def bent(light, a1):
    """Return measured adu that ``measured (1 + a1 measured)`` turns into `light`."""
    return 2 * light / (1 + np.sqrt(1 + 4 * a1 * light))


@pytest.mark.parametrize("name", ["R22_S11", "R02_S02"])
def test_the_whole_chain_is_undone(bin8, make_raw, gain_map, name):
    detector = bin8[name]
    rng = np.random.default_rng(1)
    electrons = scene(detector.shape, rng)
    gain = rng.uniform(0.9, 1.5, 16)
    a1 = rng.uniform(-3e-8, 3e-7, 16)
    matrix = np.zeros((16, 16))
    for victim, source in ((0, 1), (1, 0), (5, 9), (12, 3)):
        matrix[victim, source] = rng.uniform(2e-4, 2e-3)
    structure = rng.normal(0, 20, detector.shape)
    adu = bent(electrons / gain_map(detector, gain), gain_map(detector, a1))
    outputs = {amplifier.name: take_segment(amplifier, adu).copy() for amplifier in detector.amplifiers}
    names = list(outputs)
    for victim, source in np.argwhere(matrix):
        amplifier = detector.amplifiers[victim]
        take_segment(amplifier, adu)[:] += matrix[victim, source] * outputs[names[source]]
    row_level = np.cumsum(rng.normal(0, 2, 300))
    segments = make_raw(detector, adu + structure, rng, noise=1e-3, row_level=row_level)
    calibration = replace(
        bias_calibration(detector, overscan=OverscanOptions()),
        gains=Gains(gain, np.zeros(16), "test"),
        superbias=Superbias(structure.astype(np.float32), np.zeros(detector.shape, dtype=np.float32)),
        linearity=tuple(LinearityCurve.quadratic(each) for each in a1),
        crosstalk=matrix,
    )
    reduced = reduce_segments(segments, calibration)
    # What is left is rounding to whole counts, of the pixel and of the level of its row.
    error = (reduced.image - electrons) / gain_map(detector, gain)
    assert np.abs(error).max() < 1.05
    assert error.std() < 0.5
    assert not reduced.mask.any()
    plain = reduce_segments(segments, replace(calibration, linearity=None, crosstalk=None))
    assert np.abs(plain.image - electrons).max() > 100


def test_noise_is_what_the_variance_plane_says(detector, calibration, make_raw, gain_map):
    rng = np.random.default_rng(2)
    electrons = scene(detector.shape, rng, level=5000.0)
    gain = gain_map(detector, calibration.gains.gain)
    chi_squares, pulls = [], []
    for _ in range(8):
        segments = make_raw(detector, rng.poisson(electrons) / gain, rng)
        reduced = reduce_segments(segments, calibration)
        chi_squares.append(np.mean((reduced.image - electrons) ** 2 / (reduced.variance() - reduced.image + electrons)))
        pulls.append((reduced.read_noise / calibration.gains.gain - np.sqrt(25 + 1 / 12)) * calibration.gains.gain)
        pulls[-1] = pulls[-1] / reduced.read_noise_err
    assert np.mean(chi_squares) == pytest.approx(1, abs=0.005)
    assert np.std(pulls) == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("n_frames", [5, pytest.param(25, marks=pytest.mark.full)])
def test_stacked_frames_with_superbias_scatter_as_their_variance(
    detector, bin8, calibration, make_raw, gain_map, tmp_path, n_frames
):
    rng = np.random.default_rng(3)
    gain = gain_map(detector, calibration.gains.gain)
    structure = rng.normal(0, 3, detector.shape)
    bias = bias_calibration(detector, overscan=OverscanOptions())
    biases = [make_raw(detector, structure, rng) for _ in range(5)]
    stack = stack_segments(biases, bin8, bias, tmp_path, light=[1.0] * 5, poisson=False)
    full = replace(calibration, superbias=Superbias(stack.image, stack.variance))
    # At 60 electrons the variance is read noise and superbias; at 40000 it is photons.
    for level in (60.0, 40000.0):
        electrons = scene(detector.shape, rng, level=level)
        segments = [make_raw(detector, structure + rng.poisson(electrons) / gain, rng) for _ in range(n_frames)]
        stack = stack_segments(segments, bin8, full, tmp_path, light=[1.0] * n_frames)
        chi_square = np.mean((stack.image - electrons) ** 2 / (stack.variance + full.superbias_variance()))
        assert chi_square == pytest.approx(1, abs=0.03)
        assert np.mean(stack.image - electrons) == pytest.approx(0, abs=0.02 * np.sqrt(level / n_frames))
        # 5 sigma of a Poisson law of 60 electrons is passed ten times more often than of a normal law.
        assert stack.n_rejected < 30


def test_superbias_recovers_the_structure_with_its_variance(detector, bin8, make_raw, tmp_path):
    rng = np.random.default_rng(4)
    structure = rng.normal(0, 5, detector.shape)
    calibration = bias_calibration(detector, overscan=OverscanOptions())

    def frames():
        for _ in range(8):
            image = structure + np.where(rng.uniform(size=detector.shape) < 1e-3, rng.uniform(100, 5000, detector.shape), 0)
            yield make_raw(detector, image, rng)

    segments = list(frames())
    reduced = [reduce_segments(each, calibration) for each in segments]
    stack = stack_segments(segments, bin8, calibration, tmp_path, light=[1.0] * 8, poisson=False)
    residual = stack.image - structure
    assert np.mean(residual**2 / stack.variance) == pytest.approx(1, abs=0.03)
    assert stack.n_rejected == pytest.approx(8e-3 * structure.size, rel=0.1)
    assert np.mean([frame.read_noise for frame in reduced], axis=0) == pytest.approx(np.full(16, np.sqrt(25 + 1 / 12)), rel=0.02)
    assert reduced[0].overscan_level == pytest.approx(np.full(16, 25000), abs=0.5)


def test_saturation_by_electrons_and_by_counts_grows(detector, calibration, make_raw, gain_map):
    rng = np.random.default_rng(5)
    electrons = np.full(detector.shape, 1000.0)
    electrons[100, 100] = 101000
    electrons[200, 50] = 300000
    segments = make_raw(detector, electrons / gain_map(detector, calibration.gains.gain), rng)
    saturated = (reduce_segments(segments, calibration).mask & MaskPlane.SAT) != 0
    assert saturated[99:102, 99:102].all()
    assert saturated[199:202, 49:52].all()
    assert saturated.sum() == 18
    by_counts = replace(calibration, saturation=np.full(16, np.inf), saturation_adu=262143.0, saturation_grow=0)
    assert np.argwhere(reduce_segments(segments, by_counts).mask & MaskPlane.SAT).tolist() == [[200, 50]]


def test_signal_beyond_the_linearity_table_is_suspect(detector, calibration, make_raw, gain_map):
    rng = np.random.default_rng(6)
    electrons = np.full(detector.shape, 1000.0)
    electrons[10, 10] = 60000
    segments = make_raw(detector, electrons / gain_map(detector, calibration.gains.gain), rng)
    curves = tuple(LinearityCurve.through([0.0, 50000.0], [0.0, 50000.0]) for _ in range(16))
    reduced = reduce_segments(segments, replace(calibration, linearity=curves))
    assert np.argwhere(reduced.mask == MaskPlane.SUSPECT).tolist() == [[10, 10]]


def test_a_dead_channel_has_no_data(detector, calibration, make_raw):
    segments = make_raw(detector, np.full(detector.shape, 1000.0), np.random.default_rng(7))
    segments["C05"] = np.full_like(segments["C05"], 262142)
    reduced = reduce_segments(segments, calibration)
    dead = np.zeros(detector.shape, dtype=bool)
    dead[detector.amplifier("C05").slices] = True
    np.testing.assert_array_equal((reduced.mask & MaskPlane.NO_DATA) != 0, dead)
    np.testing.assert_array_equal(np.isnan(reduced.image), dead)
    assert np.isnan(reduced.variance()[dead]).all()


def test_the_gain_follows_the_board(detector, calibration, make_raw):
    segments = make_raw(detector, np.full(detector.shape, 10000.0), np.random.default_rng(8))
    following = replace(calibration, temperature_coefficient=6.5e-4, temperature_reference=20.0)
    cold, warm = (reduce_segments(segments, following, temperature=each).image for each in (20.0, 30.0))
    np.testing.assert_allclose(warm / cold, 1.0065, rtol=1e-6)
    with pytest.raises(CalibrationError, match="temperature"):
        reduce_segments(segments, following)


def test_static_planes_are_in_every_mask(detector, calibration, make_raw):
    static = np.zeros(detector.shape, dtype=np.int16)
    static[7, 8] = MaskPlane.BAD
    segments = make_raw(detector, np.zeros(detector.shape), np.random.default_rng(10))
    masked = replace(calibration, static_mask=static)
    reduced = reduce_segments(segments, masked)
    np.testing.assert_array_equal(reduced.mask, static)
    reduced.mask[:] = MaskPlane.SAT
    assert masked.static_mask[0, 0] == 0
