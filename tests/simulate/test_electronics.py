"""Counts against what their physics says."""

from __future__ import annotations

import numpy as np
import pytest

from permil._kernels.simulate import convert_charge, draw_charge, read_out
from permil.camera import Camera
from permil.simulate.electronics import (
    ADC_LARGEST,
    Electronics,
    bias_pattern,
    cosmic_rays,
    crosstalk_matrix,
    level_drift,
)
from permil.simulate.randoms import generator, normal_state

SHAPE = (2, 200, 300)


def counts_of(light, *, level=50_000.0, well=np.inf, gain=1.5, curvature=0.0):
    counts = np.empty(light.shape, dtype=np.float32)
    amplifiers = len(light)
    dark = np.zeros(light.shape, dtype=np.float32)
    draw_charge(light.astype(np.float32), level, dark, normal_state(1, "counts"), counts)
    convert_charge(counts, np.full(amplifiers, well), np.full(amplifiers, gain), np.full(amplifiers, curvature))
    return counts


def raw_of(counts, *, crosstalk=None, noise=0.0, deferred=(), prescan=3, overscan=20, parallel=5, bias=25_000.0):
    amplifiers, ny, nx = counts.shape
    raw = np.empty((amplifiers, ny + parallel, prescan + nx + overscan), dtype=np.int32)
    ones = np.ones(amplifiers)
    electronics = Electronics(
        gain=ones,
        read_noise=ones,
        full_well=ones,
        curvature=ones,
        crosstalk=np.zeros((amplifiers, amplifiers)) if crosstalk is None else crosstalk,
        bias=np.full(raw.shape, bias, dtype=np.float32),
        deferred=np.asarray(deferred, dtype=float),
    )
    drift = np.zeros(raw.shape[:2], dtype=np.float32)
    read_out(counts, electronics, drift, np.full(amplifiers, noise), prescan, normal_state(2, "raw"), raw)
    return raw


@pytest.mark.parametrize("level", [0.0, 30.0, 2000.0, 90_000.0])
def test_photon_transfer_gives_gain_and_noise(level):
    gain, noise = 1.5, 4.0
    raw = raw_of(counts_of(np.ones(SHAPE), level=level, gain=gain), noise=noise / gain)[:, :200, 3:303] - 25_000
    pixels = raw.size
    mean, variance = raw.mean(), raw.var()
    expected = (level + noise**2) / gain**2 + 1 / 12
    assert mean == pytest.approx(level / gain, abs=4 * (expected / pixels) ** 0.5)
    assert variance == pytest.approx(expected, rel=4 * (2 / pixels) ** 0.5)


def test_nonlinearity_is_undone_by_its_table():
    linear = counts_of(np.ones(SHAPE), level=80_000.0)
    measured = counts_of(np.ones(SHAPE), level=80_000.0, curvature=5e-8).astype(np.float64)
    assert np.all(measured < linear)
    np.testing.assert_allclose(measured * (1 + 5e-8 * measured), linear, rtol=1e-6)


@pytest.mark.parametrize("curvature", [5e-8, -5e-8, -1e-4])
def test_counts_are_finite_whatever_the_sign_of_the_curvature(curvature):
    linear = counts_of(np.ones(SHAPE), level=80_000.0)
    measured = counts_of(np.ones(SHAPE), level=80_000.0, curvature=curvature).astype(np.float64)
    assert np.all(measured < linear) if curvature > 0 else np.all(measured > linear)
    if abs(curvature) < 1e-5:
        np.testing.assert_allclose(measured * (1 + curvature * measured), linear, rtol=1e-6)


def test_full_well_cuts_off():
    counts = counts_of(np.linspace(0, 3, np.prod(SHAPE)).reshape(SHAPE), well=100_000.0, gain=2.0)
    assert counts.max() == 50_000.0
    assert np.all(counts.ravel()[-1000:] == 50_000.0)


def test_crosstalk_copies_the_source_at_the_same_raw_place():
    counts = np.zeros(SHAPE, dtype=np.float32)
    counts[1, 40:60, 100:120] = 60_000.0
    matrix = np.array([[0.0, 1e-3], [0.0, 0.0]])
    ghost = raw_of(counts, crosstalk=matrix)[0, :200, 3:303] - 25_000
    assert np.all(ghost[40:60, 100:120] == 60)
    assert np.count_nonzero(ghost) == 400


def test_overscans_hold_the_bias_and_the_tail():
    raw = raw_of(np.full(SHAPE, 40_000.0, dtype=np.float32), deferred=[1e-3, 1e-4])
    assert np.all(raw[:, :, :3] == 25_000)
    assert np.all(raw[:, :200, 303] == 25_040)
    assert np.all(raw[:, :200, 304] == 25_004)
    assert np.all(raw[:, :200, 305:] == 25_000)
    assert np.all(raw[:, 200, 3:303] == 25_040)
    assert np.all(raw[:, 202:] == 25_000)


def test_converter_ends_at_18_bits():
    raw = raw_of(np.full(SHAPE, 1e6, dtype=np.float32))
    assert raw.max() == ADC_LARGEST == 2**18 - 1


def test_level_drift_is_common_to_a_row_and_correlated():
    drift = level_drift(generator(1, "drift"), (400, 500), exposure=2.0, row=0.5)
    means = drift.mean(axis=1)
    assert means.std() == pytest.approx(2.0, rel=0.15)
    rows = drift - means[:, None]
    assert rows.std() == pytest.approx(0.5, rel=0.1)
    assert np.mean(rows[:, 1:] * rows[:, :-1]) / rows.var() == pytest.approx(0.95, abs=0.03)


def test_bias_pattern_in_the_overscan_depends_on_the_row_alone(bin8: Camera):
    amplifier = bin8["R22_S11"].amplifier("C14")
    pattern = bias_pattern(amplifier, generator(4, "bias"), size=3.0)
    overscan = pattern[:, amplifier.prescan + amplifier.nx :]
    assert np.ptp(overscan, axis=1).max() == 0
    light = pattern[amplifier.data_slices] - overscan[: amplifier.ny, :1]
    assert light.std() > 0.1
    assert not bias_pattern(amplifier, generator(4, "bias"), size=0.0).any()


def test_crosstalk_couples_neighbours_of_one_half(bin8: Camera):
    detector = bin8["R22_S11"]
    matrix = crosstalk_matrix(detector, generator(1, "crosstalk"), coefficient=2.5e-4, rms=0.3)
    names = [amplifier.name for amplifier in detector.amplifiers]
    for victim, source in zip(*np.nonzero(matrix), strict=True):
        first, second = names[victim], names[source]
        assert first[1] == second[1]
        assert abs(int(first[2]) - int(second[2])) == 1
    assert np.count_nonzero(matrix) == 28
    assert matrix[matrix != 0].mean() == pytest.approx(2.5e-4, rel=0.2)


def test_cosmic_rays_come_at_their_rate_and_deposit_ionisation(bin8: Camera):
    detector = bin8["R22_S11"]
    rng = generator(1, "rays")
    deposits = [cosmic_rays(detector, rng, rate=0.5, seconds=10.0) for _ in range(20)]
    flat = [deposit for rays in deposits for deposit in rays]
    rows, columns, electrons = (np.array(column) for column in zip(*flat, strict=True))
    assert rows.min() >= 0
    assert columns.max() < detector.nx
    # 16.4 cm2 at 0.5 per cm2 and s for 200 s; at least 100 um of silicon each, 80 electrons per um.
    area = detector.nx * detector.ny * (detector.pixel_mm / 10) ** 2
    assert electrons.sum() / (area * 0.5 * 200) > 0.9 * 8000
