"""Overscan level and read noise against known truth, an independent formula and a real file."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from permil.errors import ConfigError
from permil.isr.overscan import OverscanOptions, measure_overscan, median_variance_factor, running_mean

METHODS = ("row_median", "row_mean", "smoothed", "constant")


def segment(amplifier, rng, *, noise=5.0, drift=0.0):
    true_level = 25000.3 + drift * np.arange(amplifier.ny_raw)
    raw = true_level[:, np.newaxis] + rng.normal(0, noise, (amplifier.ny_raw, amplifier.nx_raw))
    return np.rint(raw).astype(np.int32), true_level[: amplifier.ny]


@pytest.mark.parametrize("method", METHODS)
def test_the_level_is_that_of_the_row_and_its_variance_is_true(detector, method):
    rng = np.random.default_rng(1)
    amplifier = detector.amplifiers[0]
    pulls = []
    for _ in range(100):
        raw, truth = segment(amplifier, rng)
        overscan = measure_overscan(raw, amplifier, OverscanOptions(method=method))
        pulls.append((overscan.level - truth) / np.sqrt(overscan.level_variance))
    pulls = np.array(pulls)
    # A constant level has one pull per segment, 25000 otherwise; smoothed ones are correlated over 31 rows.
    independent = {"constant": 100, "smoothed": 25000 / 31}.get(method, 25000)
    assert np.mean(pulls**2) == pytest.approx(1, abs=4 * np.sqrt(2 / independent))
    assert np.mean(pulls) == pytest.approx(0, abs=4 / np.sqrt(independent))


def test_a_drifting_level_is_followed_by_rows_and_not_by_a_constant(detector):
    amplifier = detector.amplifiers[3]
    raw, truth = segment(amplifier, np.random.default_rng(2), drift=0.5)
    followed = measure_overscan(raw, amplifier).level - truth
    constant = measure_overscan(raw, amplifier, OverscanOptions(method="constant")).level - truth
    assert np.std(followed) < 1.2
    assert np.std(constant) > 30


@pytest.mark.parametrize("size", [1, 5, 21, 47])
def test_the_variance_of_a_median_agrees_with_drawn_medians(size):
    rng = np.random.default_rng(3)
    medians = np.median(rng.standard_normal((40000, size)), axis=1)
    assert median_variance_factor(size) == pytest.approx(medians.var(), rel=0.035)


def test_read_noise_is_that_of_the_overscan_with_its_error(detector):
    rng = np.random.default_rng(4)
    # Rounding to whole counts adds 1/12.
    truth = np.sqrt(4.3**2 + 1 / 12)
    pulls = []
    for _ in range(30):
        for amplifier in detector.amplifiers[:8]:
            overscan = measure_overscan(segment(amplifier, rng, noise=4.3, drift=0.3)[0], amplifier)
            pulls.append((overscan.read_noise - truth) / overscan.read_noise_err)
    assert np.std(pulls) == pytest.approx(1, abs=0.15)
    assert np.mean(pulls) == pytest.approx(0, abs=0.3)


def test_read_noise_and_level_do_not_follow_outliers(detector):
    rng = np.random.default_rng(5)
    amplifier = detector.amplifiers[0]
    raw, truth = segment(amplifier, rng)
    clean = measure_overscan(raw, amplifier)
    rows = rng.integers(0, amplifier.ny, 100)
    columns = rng.integers(amplifier.nx_raw - 40, amplifier.nx_raw - 5, 100)
    raw[rows, columns] += 3000
    dirty = measure_overscan(raw, amplifier)
    assert dirty.read_noise == pytest.approx(clean.read_noise, rel=0.01)
    assert np.abs(dirty.level - truth).max() < 5


def test_deferred_charge_is_skipped(detector):
    amplifier = detector.amplifiers[0]
    raw, truth = segment(amplifier, np.random.default_rng(6))
    first = amplifier.serial_overscan_slices[1].start
    raw[:, first : first + 5] += np.array([200, 100, 50, 25, 12])
    raw[:, -2:] -= 300
    skipped = measure_overscan(raw, amplifier, OverscanOptions(method="row_mean")).level - truth
    taken = measure_overscan(raw, amplifier, OverscanOptions(method="constant", skip_first=0, skip_last=0)).level - truth
    assert abs(skipped.mean()) < 0.2
    assert taken.mean() > 0.3


def test_rows_of_the_parallel_overscan_do_not_count(detector):
    amplifier = detector.amplifiers[0]
    raw, truth = segment(amplifier, np.random.default_rng(7))
    raw[amplifier.ny :] += 5000
    overscan = measure_overscan(raw, amplifier)
    assert overscan.level.shape == (amplifier.ny,)
    assert np.abs(overscan.level - truth).max() < 8


@settings(max_examples=25)
@given(shift=st.integers(-20000, 200000), method=st.sampled_from(METHODS), seed=st.integers(0, 2**32 - 1))
def test_a_common_shift_moves_the_level_and_nothing_else(detector, shift, method, seed):
    amplifier = detector.amplifiers[2]
    raw, _ = segment(amplifier, np.random.default_rng(seed))
    options = OverscanOptions(method=method)
    before, after = measure_overscan(raw, amplifier, options), measure_overscan(raw + shift, amplifier, options)
    np.testing.assert_allclose(after.level, before.level + shift, rtol=0, atol=1e-6)
    assert after.read_noise == pytest.approx(before.read_noise, rel=1e-9)


def test_big_endian_counts_are_read_alike(detector):
    amplifier = detector.amplifiers[0]
    raw, _ = segment(amplifier, np.random.default_rng(8))
    np.testing.assert_array_equal(measure_overscan(raw.astype(">i4"), amplifier).level, measure_overscan(raw, amplifier).level)


def test_a_dead_channel_has_no_read_noise(detector):
    amplifier = detector.amplifiers[0]
    assert measure_overscan(np.zeros((amplifier.ny_raw, amplifier.nx_raw), dtype=np.int32), amplifier).read_noise == 0


def test_skipping_all_columns_is_an_error(detector):
    amplifier = detector.amplifiers[0]
    raw, _ = segment(amplifier, np.random.default_rng(9))
    with pytest.raises(ConfigError, match="overscan columns"):
        measure_overscan(raw, amplifier, OverscanOptions(skip_first=50, skip_last=2))


@given(
    samples=st.lists(st.floats(-1e5, 1e5), min_size=1, max_size=60),
    window=st.integers(1, 60),
)
def test_running_mean_agrees_with_slices(samples, window):
    samples = np.array(samples)
    expected = [
        samples[max(0, centre - window // 2) : max(0, centre - window // 2 + window)].mean() for centre in range(samples.size)
    ]
    np.testing.assert_allclose(running_mean(samples, window), expected, rtol=0, atol=1e-8 * (1 + np.abs(samples).max()))


def test_a_real_segment_has_the_documented_level_and_noise(shared_data, lsstcam):
    path = shared_data / "raw" / "201807241028453-RTM-010-S11-det067.fits"
    amplifier = lsstcam["R22_S11"].amplifier("C00")
    raw = fits.getdata(path, "Segment00")
    overscan = measure_overscan(raw, amplifier)
    assert np.median(overscan.level) == pytest.approx(27026, abs=0.6)
    assert overscan.read_noise == pytest.approx(6.4, abs=0.1)
    # Independent: the scatter of neighbouring columns, which no level or drift enters.
    columns = raw[: amplifier.ny, amplifier.nx_raw - 49 : amplifier.nx_raw - 2].astype(float)
    differences = np.diff(columns, axis=1)
    assert overscan.read_noise == pytest.approx(1.4826 * np.median(np.abs(differences)) / np.sqrt(2), rel=0.12)
