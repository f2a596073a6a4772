"""Brighter-fatter effect against its definition and what is measured of it: variance, covariances, conservation of charge."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from permil._kernels.simulate import draw_charge
from permil.camera import frames
from permil.config.simulate import SimulateConfig
from permil.simulate import Bench
from permil.simulate.bench import ExposedDetector
from permil.simulate.electronics import repel_charge, strength
from permil.simulate.randoms import normal_state

SIDE, SEEDS = 700, range(7000, 7006)
LAGS = [(row, column) for row in range(-4, 5) for column in range(-4, 5)]
charges = arrays(np.float32, st.tuples(st.integers(3, 12), st.integers(3, 12)), elements=st.floats(0, 1e5, width=32))


def repelled(charge: np.ndarray, factor: float = strength(0.15)) -> np.ndarray:
    moved = charge.astype(np.float32)
    repel_charge(moved, factor)
    return moved


def drawn_flats(level: float) -> tuple[np.ndarray, np.ndarray]:
    """Return flats without and with the effect, shape (n_seeds, SIDE, SIDE)."""
    flats = np.empty((len(SEEDS), SIDE, SIDE), dtype=np.float32)
    for seed, flat in zip(SEEDS, flats, strict=True):
        draw_charge(
            np.ones((1, SIDE, SIDE), np.float32), level, np.zeros((1, SIDE, SIDE), np.float32), normal_state(seed), flat[None]
        )
    moved = flats.copy()
    for flat in moved:
        repel_charge(flat, strength(0.15))
    return flats, moved


def covariances(flats: np.ndarray) -> dict[tuple[int, int], float]:
    """Return the covariance of pixels each lag apart, over the mean, from Fourier transforms."""
    powers = [np.abs(np.fft.rfft2(flat - flat.mean(dtype=float))) ** 2 for flat in flats.astype(float)]
    table = np.fft.irfft2(np.mean(powers, axis=0), s=flats.shape[1:]) / flats[0].size / flats.mean(dtype=float)
    return {lag: float(table[lag]) for lag in LAGS}


def by_pixels(charge: np.ndarray, factor: float) -> np.ndarray:
    """Return the charge after the flows of the module's docstring, pixel by pixel."""
    rows, columns = charge.shape
    at = lambda row, column: charge[min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)]  # noqa: E731
    moved = charge.astype(float)
    for row in range(rows):
        for column in range(columns):
            for d_row, d_column in ((0, 1), (1, 0)):
                if row + d_row >= rows or column + d_column >= columns:
                    continue
                repulsion = 0.0
                for near in (0, 1):
                    for along in range(-2, 3):
                        shift = (near + 0.5) / ((near + 0.5) ** 2 + along**2 + 0.25) ** 2
                        this = at(row - near * d_row + along * d_column, column - near * d_column + along * d_row)
                        other = at(row + (near + 1) * d_row + along * d_column, column + (near + 1) * d_column + along * d_row)
                        repulsion += shift * (float(this) - float(other))
                light = (float(charge[row, column]) + float(charge[row + d_row, column + d_column])) / 2
                flow = 0.5 * light * factor * repulsion
                moved[row, column] -= flow
                moved[row + d_row, column + d_column] += flow
    return moved


@given(charges)
def test_flows_are_those_of_the_definition_and_conserve_charge(charge):
    moved = repelled(charge)
    np.testing.assert_allclose(moved, by_pixels(charge, strength(0.15)), atol=1e-5 * (1 + float(charge.max())))
    assert moved.sum(dtype=float) == pytest.approx(charge.sum(dtype=float), abs=1e-6 * charge.size * (1 + float(charge.max())))


@given(charges)
def test_axes_and_directions_are_alike(charge):
    moved, tolerance = repelled(charge), 1e-5 * (1 + float(charge.max()))
    np.testing.assert_allclose(repelled(charge.T), moved.T, atol=tolerance)
    np.testing.assert_allclose(repelled(charge[::-1]), moved[::-1], atol=tolerance)
    np.testing.assert_allclose(repelled(charge[:, ::-1]), moved[:, ::-1], atol=tolerance)


def test_uniform_light_stays_as_it_is():
    flat = np.full((40, 50), 51_234.5, dtype=np.float32)
    assert np.array_equal(repelled(flat), flat)


def test_a_spot_gets_lower_and_wider():
    y, x = np.mgrid[-20:21, -20:21]
    spot = 1e5 * np.exp(-(x**2 + y**2) / (2 * 2.0**2))
    moved = repelled(spot).astype(float)
    assert moved[20, 20] < 0.99 * spot[20, 20]
    widths = [np.sum(image * x**2) / image.sum() for image in (spot, moved)]
    assert 1.003 < widths[1] / widths[0] < 1.1
    assert abs(np.sum(moved * x)) / moved.sum() < 1e-6


@pytest.mark.parametrize("level", [10_000.0, 25_000.0, 50_000.0, 80_000.0])
def test_variance_falls_in_proportion_to_the_mean_and_goes_into_covariances(level):
    before, after = (covariances(flats) for flats in drawn_flats(level))
    pixels = len(SEEDS) * SIDE**2
    loss = 1.0 - after[0, 0]
    # To first order 0.15 of the reference, as the level; the second order is of the size of the loss squared.
    assert loss == pytest.approx(0.15 * level / 50_000, abs=5 * (2 / pixels) ** 0.5 + (0 if level == 50_000 else 0.4 * 0.15**2))
    # The same draws without the effect take most of the scatter out of the covariances.
    gained = {lag: after[lag] - before[lag] for lag in LAGS if lag != (0, 0)}
    assert min(value for lag, value in gained.items() if max(map(abs, lag)) <= 1) > 0
    nearest = [gained[lag] for lag in ((0, 1), (1, 0), (0, -1), (-1, 0))]
    assert np.ptp(nearest) < 0.1 * np.mean(nearest)
    assert np.mean(nearest) > 3 * gained[1, 1]
    assert sum(gained.values()) == pytest.approx(before[0, 0] - after[0, 0], rel=0.03)


def test_sums_of_blocks_keep_the_variance_of_photons():
    before, after = drawn_flats(50_000.0)
    sums = [flats.reshape(len(SEEDS), SIDE // 50, 50, SIDE // 50, 50).sum(axis=(2, 4), dtype=float) for flats in (before, after)]
    variances = [np.var(blocks) / 2500 / 50_000 for blocks in sums]
    assert variances[1] == pytest.approx(variances[0], abs=0.02)
    assert np.var(after) / 50_000 < 0.87


@pytest.mark.parametrize("loss", [0.0, 0.05, 0.3])
def test_other_losses_are_those_asked_for(loss):
    flats, _ = drawn_flats(50_000.0)
    moved = np.array([repelled(flat, strength(loss)) for flat in flats[:3]])
    assert np.var(moved, axis=(1, 2)).mean() / np.var(flats[:3], axis=(1, 2)).mean() == pytest.approx(1 - loss, abs=3e-3)


def raw_pair(**effects: bool) -> tuple[np.ndarray, Bench]:
    """Return the difference of two images of one pointing in the detector frame, electrons, over the root of the mean."""
    config = SimulateConfig(
        seed=91, nuisances=False, detectors=["R22_S11"], leds=["red"], effects={"read_noise": False} | effects,
        campaign={"scan_size": 2, "images": 2, "biases": 0},
    )  # fmt: skip
    bench = Bench(config)
    detector = bench.camera["R22_S11"]
    exposed, gains = ExposedDetector(bench, detector, {"red": 1.0}), bench.gains(detector)
    electronics, images = bench.electronics(detector), []
    chosen = [
        (e, t) for e, t in zip(bench.exposures, bench.exposure_truths(), strict=True) if e.kind == "pointing" and e.point == 2
    ]
    for exposure, truth in chosen:
        counts = exposed.raw_segments(exposure, truth) - electronics.bias
        image = np.empty(detector.shape)
        for number, amplifier in enumerate(detector.amplifiers):
            image[amplifier.slices] = gains[number] * frames.place_segment(amplifier, counts[number][amplifier.data_slices])
        images.append(image)
    return (images[0] - images[1]) / np.sqrt(images[0] + images[1]), bench


def test_raw_files_lose_variance_and_correlate_across_amplifiers():
    plain, bench = raw_pair()
    fat, _ = raw_pair(brighter_fatter=True)
    centre = (slice(150, -150), slice(150, -150))
    assert np.var(fat[centre]) / np.var(plain[centre]) == pytest.approx(0.85, abs=0.012)
    borders = sorted({amplifier.x_min for amplifier in bench.camera["R22_S11"].amplifiers} - {0})
    across = np.mean([fat[:, column - 1] * fat[:, column] for column in borders])
    within = np.mean(fat[:, 20:-20][:, 1:] * fat[:, 20:-20][:, :-1])
    assert across == pytest.approx(within, abs=5 / (len(borders) * fat.shape[0]) ** 0.5)
    assert within > 0.015
