"""Gains from the noise of repeated images, against amplifiers whose gains and brighter-fatter effect are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from amplifier_noise import IMAGES, NOISE, Amplifiers, campaign, moments_of, repeated, slope

from permil.errors import CalibrationError
from permil.isr.photon_transfer import CurvaturePrior, TransferGains, TransferPoints, fit_gains
from permil.isr.repeated_images import REACH, NoiseMoments, noise_moments

SHAPE = (256, 384)


def measured(points: TransferPoints, count: int, *, shared: float = 0.0, own: float = 0.0) -> TransferGains:
    return fit_gains(points, count, curvature=CurvaturePrior(shared, np.full(count, own)))


def flat_light(level: float, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    return np.full(shape, level, dtype=np.float32)


def average(moments: NoiseMoments) -> tuple[float, np.ndarray, float]:
    """Return variance over mean, covariances over mean, and the degrees of freedom."""
    weights = moments.freedom
    ratio = np.average(moments.variance / moments.mean, weights=weights)
    return float(ratio), np.average(moments.covariance / moments.mean[:, None], axis=0, weights=weights), float(weights.sum())


def variance_alone(points: TransferPoints, count: int) -> np.ndarray:
    """Return gains of a method without the brighter-fatter effect."""
    total, weight = np.zeros(count), np.zeros(count)
    np.add.at(total, points.amplifier, points.freedom * points.variance / points.mean)
    np.add.at(weight, points.amplifier, points.freedom)
    return weight / total


# The noise of repeated images.


def test_white_noise_has_the_variance_of_the_photons_and_no_covariance() -> None:
    rng = np.random.default_rng(101)
    images = repeated(rng, flat_light(40_000.0), loss=0.0)
    ratio, covariance, freedom = average(moments_of(images))
    assert freedom == pytest.approx(SHAPE[0] * SHAPE[1] * (IMAGES - 1), rel=1e-3)
    assert ratio * 1.45 == pytest.approx(1.0, abs=4 * (2 / freedom) ** 0.5)
    lags = 8.0 * np.arange(1, REACH + 1)
    assert np.all(np.abs(covariance * 1.45) < 4 * (2 * lags / freedom) ** 0.5)


def test_moments_are_those_of_plain_sums_over_pairs() -> None:
    rng = np.random.default_rng(102)
    shape = (60, 70)
    images = repeated(rng, flat_light(30_000.0, shape))
    found = moments_of(images)
    # One cell: deviations from the mean image at the light of each image.
    light = images.mean(axis=(1, 2), dtype=float)
    light /= light.mean()
    deviations = (images - light[:, None, None] * images.mean(axis=0, dtype=float)) / np.sqrt(light)[:, None, None]
    pixels = shape[0] * shape[1]
    rows, columns = np.arange(REACH, shape[0] - REACH), np.arange(REACH, shape[1] - REACH)
    shells = np.zeros(REACH + 1)
    for row in range(-REACH, REACH + 1):
        for column in range(-REACH, REACH + 1):
            pairs = deviations[:, rows][:, :, columns] * deviations[:, rows + row][:, :, columns + column]
            shells[max(abs(row), abs(column))] += pairs.mean() * IMAGES / (IMAGES - 1)
    shells[0] = np.sum(deviations**2) / pixels / (IMAGES - 1)
    shells += shells.sum() / (1 - (2 * REACH + 1) ** 2 / pixels) / pixels * np.array([1.0, 8.0, 16.0, 24.0])
    assert found.mean == pytest.approx([images.mean(dtype=float)], rel=1e-6)
    assert found.variance + found.noise == pytest.approx([shells[0]], rel=1e-4)
    assert found.covariance[0] == pytest.approx(shells[1:], abs=1e-4 * shells[0])


def test_brighter_fatter_moves_variance_into_covariances() -> None:
    rng = np.random.default_rng(103)
    images = repeated(rng, flat_light(50_000.0, (700, 700)))
    ratio, covariance, freedom = average(moments_of(images))
    assert ratio * 1.45 == pytest.approx(0.85, abs=4 * (2 / freedom) ** 0.5)
    assert (ratio + covariance.sum()) * 1.45 == pytest.approx(1.0, abs=4 * (96 / freedom) ** 0.5)


def test_changes_of_the_light_and_the_flat_are_no_noise() -> None:
    rng = np.random.default_rng(104)
    response = 1 + 0.02 * rng.standard_normal(SHAPE, dtype=np.float32)
    plain = repeated(rng, flat_light(40_000.0), loss=0.0)
    changed = plain.copy()
    for image, along in zip(changed, rng.normal(0, 1e-4, (IMAGES, 2)), strict=True):
        image *= slope(SHAPE, *along) * response
    expected, found = (average(moments_of(images))[0] for images in (plain, changed))
    # The square of the response acts on the noise, once on the mean.
    assert found == pytest.approx(expected * float(np.mean(response**2)), rel=2e-4)


def test_images_without_a_usable_pixel_or_light_have_no_moments() -> None:
    rng = np.random.default_rng(105)
    images = repeated(rng, flat_light(40_000.0), loss=0.0)
    nothing = noise_moments(images, np.zeros(SHAPE, dtype=bool), noise_variance=np.zeros(IMAGES), level_variance=np.zeros(IMAGES))
    assert nothing.mean.size == nothing.merged().mean.size == 0
    assert moments_of(np.full_like(images, np.nan)).mean.size == 0


@pytest.mark.parametrize("seed", [106, 107])
def test_cosmic_rays_do_not_add_to_the_variance(seed: int) -> None:
    """Tracks of muons in a sensor 0.1 mm thick, 700 times as many as in exposures of 3 seconds."""
    rng = np.random.default_rng(seed)
    shape = (700, 700)
    images = repeated(rng, flat_light(40_000.0, shape))
    clean, clean_covariance, _ = average(moments_of(images))
    hit = images.copy()
    for image in hit:
        for _ in range(30):
            cosine, azimuth = max(rng.uniform() ** (1 / 3), 0.05), rng.uniform(0, 2 * np.pi)
            along = np.arange(0.25, max(10 * (1 - cosine**2) ** 0.5 / cosine, 0.5), 0.5)
            rows, columns = rng.uniform(0, 700) + along * np.sin(azimuth), rng.uniform(0, 700) + along * np.cos(azimuth)
            inside = (rows >= 0) & (rows < 700) & (columns >= 0) & (columns < 700)
            charge = 8000 / cosine / along.size / 1.45
            np.add.at(image, (rows[inside].astype(int), columns[inside].astype(int)), np.float32(charge))
    left, left_covariance, _ = average(moments_of(hit))
    raw = np.mean(np.var(hit, axis=0, ddof=1, dtype=float)) - (NOISE / 1.45) ** 2 - 1 / 12
    assert raw / hit.mean(dtype=float) > clean * 1.02
    assert left == pytest.approx(clean, rel=3e-3)
    assert left_covariance.sum() == pytest.approx(clean_covariance.sum(), abs=0.01)


# Gains.


@pytest.mark.full
def test_gain_ratios_have_their_errors_and_no_bias_with_the_light() -> None:
    settings = Amplifiers()
    pulls, errors, levels, naive = [], [], [], []
    for seed in range(3100, 3104):
        gains, light, points = campaign(seed, settings)
        found = measured(points, settings.count).ratio(gains)
        assert not found.contradicts.any()
        pulls.append(found.pull)
        errors.append(found.ratio - 1)
        levels.append(light)
        alone = np.log(variance_alone(points, settings.count) / gains)
        naive.append(alone - alone.mean())
    bright = np.concatenate(levels) > 0.8 * 50_000
    # 64 pulls: 4 standard deviations of their rms.
    assert np.sqrt(np.mean(np.square(pulls)) * 16 / 15) == pytest.approx(1.0, abs=0.36)
    assert abs(np.concatenate(errors)[bright].mean()) < 1e-3
    assert abs(np.concatenate(naive)[bright].mean()) > 5e-3


@pytest.mark.full
def test_gain_ratios_of_full_size_amplifiers() -> None:
    """Seeds that were not used in development: 5 detectors of 16 amplifiers, 3 groups of 5 images."""
    settings = Amplifiers(shape=(2002, 512))
    pulls, errors, levels, naive, absolute = [], [], [], [], []
    for seed in range(78_000, 78_005):
        gains, light, points = campaign(seed, settings)
        fit = measured(points, settings.count)
        found = fit.ratio(gains)
        pulls.append(found.pull)
        errors.append(found.ratio - 1)
        levels.append(light)
        absolute.append((found.level - 1) / np.mean(fit.gain_err / fit.gain))
        alone = np.log(variance_alone(points, settings.count) / gains)
        naive.append(alone - alone.mean())
    bright = np.concatenate(levels) > 0.8 * 50_000
    rms = float(np.sqrt(np.mean(np.square(pulls)) * 16 / 15))
    bias = float(np.concatenate(errors)[bright].mean())
    print(f"pulls {rms:.3f}; rms {np.std(errors):.2e}; bias {bias:.1e}, without brighter-fatter", end=" ")
    print(f"{np.concatenate(naive)[bright].mean():.1e}; absolute pulls {np.sqrt(np.mean(np.square(absolute))):.2f}")
    assert 0.85 < rms < 1.15
    assert abs(bias) < 1e-3
    assert np.std(errors) < 1e-3
    assert abs(np.concatenate(naive)[bright].mean()) > 5e-3
    assert np.sqrt(np.mean(np.square(absolute))) < 2.0


def test_absolute_gains_and_the_loss_of_variance_are_those_of_the_truth() -> None:
    settings = Amplifiers(count=8)
    gains, _, points = campaign(3110, settings)
    found = measured(points, settings.count)
    assert found.gain == pytest.approx(gains, rel=4 * float(np.max(found.gain_err / found.gain)))
    assert found.loss == pytest.approx(0.15, abs=4 * found.loss_err)
    assert found.loss_err < 0.005


@pytest.mark.full
def test_a_strength_that_differs_between_amplifiers_is_in_the_errors() -> None:
    settings = Amplifiers(strength_rms=0.03)
    alone, deviations = [], []
    for seed in (3120, 3121, 3122, 3123):
        gains, _, points = campaign(seed, settings)
        fit = measured(points, settings.count)
        found = fit.ratio(gains)
        alone.append(found.pull)
        deviations.append((found.ratio - 1) / np.hypot(found.error, fit.unseen))
        assert max(fit.scatter, fit.scatter_limit) >= 0.015
    assert np.sqrt(np.mean(np.square(deviations))) < 1.6
    assert np.sqrt(np.mean(np.square(alone))) > 1.6


@pytest.mark.full
def test_an_unknown_bend_of_the_response_is_in_the_errors() -> None:
    settings = Amplifiers(bend_rms=4e-3)
    held, free = [], []
    for seed in (3130, 3131, 3132):
        gains, _, points = campaign(seed, settings)
        held.append(measured(points, settings.count).ratio(gains).pull)
        free.append(measured(points, settings.count, own=4e-3).ratio(gains).pull)
    assert np.sqrt(np.mean(np.square(held))) > 2.0
    # 48 pulls: 4 standard deviations of their rms.
    assert np.sqrt(np.mean(np.square(free)) * 16 / 15) == pytest.approx(1.0, abs=0.42)


def test_wrong_gains_are_found_and_no_others() -> None:
    settings = Amplifiers(shape=(700, 512), count=12, groups=2)
    gains, _, points = campaign(3140, settings)
    configured = gains.copy()
    configured[[3, 11]] *= [1.02, 0.98]
    found = measured(points, settings.count).ratio(configured)
    assert np.flatnonzero(found.contradicts).tolist() == [3, 11]
    assert found.ratio[[3, 11]] == pytest.approx([1 / 1.02, 1 / 0.98], abs=4 * float(found.error.max()))
    # Amplifiers that agree have the mean 1, whatever the others are.
    assert np.delete(found.ratio, [3, 11]).mean() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.full
def test_gains_with_errors_of_5e3_are_corrected() -> None:
    settings = Amplifiers(shape=(1000, 512), count=16, groups=3)
    gains, _, points = campaign(3150, settings)
    configured = gains * (1 + 5e-3 * np.random.default_rng(3151).standard_normal(settings.count))
    found = measured(points, settings.count).ratio(configured)
    corrected = np.log(configured * found.ratio / gains)
    assert np.std(np.log(configured / gains)) > 3e-3
    assert np.std(corrected) < 1.5e-3


def test_an_amplifier_whose_gain_steps_is_inconsistent_and_does_not_disturb_the_others() -> None:
    settings = Amplifiers(shape=(700, 512), count=8, groups=2)
    gains, _, points = campaign(3160, settings)
    # Counts of the second group are those of a gain that is higher by 2 %.
    stepped = (points.amplifier == 5) & (points.group == 1)
    factor = np.where(stepped, 1 / 1.02, 1.0)
    changed = replace(
        points,
        mean=points.mean * factor,
        variance=points.variance * factor**2,
        covariance=points.covariance * (factor**2)[:, None],
        noise=points.noise * factor**2,
    )
    plain, found = measured(points, settings.count), measured(changed, settings.count)
    assert np.flatnonzero(found.inconsistent > 5).tolist() == [5]
    assert not (plain.inconsistent > 5).any()
    others = np.arange(settings.count) != 5
    assert found.gain[others] / gains[others] == pytest.approx(plain.gain[others] / gains[others], abs=1e-3)


def test_amplifiers_without_points_have_no_gain() -> None:
    gains, _, points = campaign(3170, Amplifiers(shape=(256, 256), count=4, groups=2))
    fit = measured(points.only(points.amplifier != 2), 4)
    assert np.isnan(fit.gain).tolist() == [False, False, True, False]
    ratio = fit.ratio(gains)
    assert np.isnan(ratio.ratio[2])
    assert not ratio.contradicts[2]
    assert np.isfinite(np.delete(ratio.error, 2)).all()


def test_no_points_are_an_error_with_a_remedy() -> None:
    with pytest.raises(CalibrationError, match="no repeated images have light"):
        measured(TransferPoints.of([]), 3)
