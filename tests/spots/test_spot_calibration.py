"""Calibration against the truth of simulated catalogs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from campaigns import SHAPE, draw_campaign, no_throughput, throughput

from permil.errors import SpotError
from permil.spots.calibration import apply_spots, calibrate
from permil.spots.catalog import SpotFlag
from permil.spots.flux_model import TensorSplines, fit_fluxes
from permil.spots.measurements import gather
from permil.spots.residuals import repeatability

SPLINES = TensorSplines(SHAPE, 64.0, 3)


def _without_plane(values, *coordinates):
    matrix = np.stack([np.ones_like(values), *coordinates], axis=1)
    return values - matrix @ np.linalg.lstsq(matrix, values, rcond=None)[0]


def _dithered(seed=0, **options):
    campaign = draw_campaign(np.random.default_rng(seed), **options)
    return campaign, gather(campaign.catalogs, columns=15, rows=15)


@pytest.mark.parametrize(("seed", "outliers"), [(0, 0.0), (1, 0.01), (2, 0.0)])
def test_dithers_recover_the_throughput(seed, outliers):
    campaign, measurements = _dithered(seed, outliers=outliers)
    solution = fit_fluxes(measurements, splines=SPLINES)
    x, y = measurements.quantities["x"], measurements.quantities["y"]
    truth = _without_plane(throughput(x, y), x, y)
    found = _without_plane(solution.throughput, x, y)
    assert truth.std() > 0.002
    assert (truth @ found) / (truth @ truth) == pytest.approx(1.0, abs=0.01)
    assert 0.95 < solution.chi_square / solution.freedom < 1.05
    # Fluxes of spots up to the degenerate modes: a factor and a gradient over the mask.
    i, j = np.divmod(np.arange(225), 15)
    error = solution.spot_error / campaign.fluxes
    pull = (solution.spot_flux / campaign.fluxes - 1) / error
    matrix = np.stack([np.ones(225), i, j], axis=1) / error[:, None]
    pull = pull - matrix @ np.linalg.lstsq(matrix, pull, rcond=None)[0]
    assert np.sqrt((pull**2).sum() / 222) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("seeds", [12, pytest.param(25, marks=pytest.mark.full)])
def test_throughput_errors(seeds):
    """Pulls of the map at the centre of the detector over many campaigns (errors in the gauge of the fit)."""
    pulls = []
    for seed in range(seeds):
        _, measurements = _dithered(seed, exposures=40, response=no_throughput)
        solution = fit_fluxes(measurements, splines=TensorSplines(SHAPE, 128.0, 1))
        places = np.array([400.0, 500.0, 600.0])
        index, values = solution.splines.local(places, places)
        covariance = solution.covariance[-solution.splines.terms :, -solution.splines.terms :]
        for row, entry in zip(index, values, strict=True):
            pulls.append(solution.coefficients[row] @ entry / np.sqrt(entry @ covariance[np.ix_(row, row)] @ entry))
    assert np.sqrt(np.mean(np.square(pulls))) == pytest.approx(1.0, abs=1.25 / np.sqrt(seeds))


def test_gauge_is_as_stated():
    _, measurements = _dithered(3)
    solution = fit_fluxes(measurements, splines=SPLINES)
    x, y = measurements.quantities["x"], measurements.quantities["y"]
    assert np.mean(solution.exposure_scale) == pytest.approx(1.0, abs=1e-12)
    assert np.mean(solution.throughput) == pytest.approx(0.0, abs=1e-8)
    assert np.mean(solution.throughput * (x - x.mean()) / x.std()) == pytest.approx(0.0, abs=1e-7)
    assert np.mean(solution.throughput * (y - y.mean()) / y.std()) == pytest.approx(0.0, abs=1e-7)


def test_a_throughput_gradient_shows_up_as_a_trend_of_the_exposures():
    gradient = 0.02  # per 1000 pixels
    campaign = draw_campaign(np.random.default_rng(4), response=lambda x, _y: gradient * (x - 511.5) / 1000, lamp=0.0005)
    calibration = calibrate(gather(campaign.catalogs, columns=15, rows=15), splines=SPLINES)
    along_x, along_y = calibration.degeneracies
    assert abs(along_x.exposure_trend - gradient) < 4 * along_x.exposure_trend_error
    assert along_x.exposure_trend_error < 0.1 * gradient
    assert abs(along_y.exposure_trend) < 4 * along_y.exposure_trend_error
    # Left free, the data themselves tell next to nothing of the gradient.
    assert along_x.free_error > 20 * along_x.exposure_trend_error


def test_cells_are_splines_of_degree_zero():
    x, y = np.random.default_rng(0).uniform(0, 1000, (2, 50))
    cells = TensorSplines(SHAPE, 100.0, 0)
    index, values = cells.local(x, y)
    np.testing.assert_array_equal(values, 1.0)
    np.testing.assert_array_equal(index[:, 0], np.floor((y + 0.5) / 100) * 11 + np.floor((x + 0.5) / 100))
    for degree in range(4):
        np.testing.assert_allclose(TensorSplines(SHAPE, 77.0, degree).local(x, y)[1].sum(axis=1), 1.0, rtol=1e-12)


def test_means_are_the_stated_alternative():
    campaign, measurements = _dithered(5, response=no_throughput)
    calibration = calibrate(measurements, method="mean")
    assert calibration.solution is None
    pull = (calibration.spots.flux / campaign.fluxes / np.median(calibration.spots.flux / campaign.fluxes) - 1) / (
        calibration.spots.flux_error / calibration.spots.flux
    )
    assert pull.std() == pytest.approx(1.0, abs=0.2)
    residuals = calibration.residuals
    expected = (
        measurements.quantities["flux"] - calibration.spots.flux[residuals.spot] * calibration.exposures.scale[residuals.exposure]
    )
    np.testing.assert_allclose(residuals.flux_difference, expected)


def test_negative_fluxes_of_faint_spots_do_not_bias():
    campaign = draw_campaign(np.random.default_rng(6), flux=150.0, response=no_throughput, exposures=200)
    measurements = gather(campaign.catalogs, columns=15, rows=15)
    assert (measurements.quantities["flux"] < 0).any()
    solution = fit_fluxes(measurements, splines=None)
    ratio = np.nansum(solution.spot_flux) / campaign.fluxes[np.isfinite(solution.spot_flux)].sum()
    error = np.sqrt(np.nansum(solution.spot_error**2)) / campaign.fluxes.sum()
    assert abs(ratio - 1) < 4 * error + 0.002


def test_places_and_moments():
    campaign, measurements = _dithered(7)
    calibration = calibrate(measurements, splines=SPLINES)
    i, j = np.divmod(np.arange(225), 15)
    places = calibration.spots.places
    for axis in (0, 1):
        # Five parameters of the grid are degenerate with the shifts; a plane holds them all.
        off = _without_plane(places.shift[:, axis] - campaign.offsets[:, axis], i.astype(float), j.astype(float))
        assert np.sqrt(np.mean((off / places.error[:, axis]) ** 2)) == pytest.approx(1.0, abs=0.15)
    residuals = calibration.residuals
    for name in ("dx", "dy", "xx", "yy", "xy"):
        assert np.nanstd(getattr(residuals, name) / residuals.errors[name]) == pytest.approx(1.0, abs=0.05), name
    assert calibration.mode == "dithered"


def test_a_change_of_focus_is_an_offset_of_the_exposure():
    campaign = draw_campaign(np.random.default_rng(8), exposures=30)
    change = np.linspace(-0.2, 0.2, 30)
    catalogs = [replace(catalog, xx=catalog.xx + step) for catalog, step in zip(campaign.catalogs, change, strict=True)]
    calibration = calibrate(gather(catalogs, columns=15, rows=15), method="mean")
    np.testing.assert_allclose(calibration.exposures.offsets["xx"], change, atol=5 * 0.01 / np.sqrt(200))
    assert np.nanstd(calibration.residuals.xx) == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("step", [-3.0, 0.6, 4.0])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_exposures_out_of_focus_are_an_offset_and_not_outliers(count, step):
    """By more than the values of one spot scatter: all of an exposure were rejected, and all moments were NaN."""
    campaign = draw_campaign(np.random.default_rng(8), exposures=12)
    change = np.where(np.arange(12) < count, step, 0.0)
    catalogs = [replace(catalog, xx=catalog.xx + each) for catalog, each in zip(campaign.catalogs, change, strict=True)]
    calibration = calibrate(gather(catalogs, columns=15, rows=15), method="mean")
    offsets = calibration.exposures.offsets["xx"]
    np.testing.assert_allclose(offsets, change - change.mean(), atol=5 * 0.01 / np.sqrt(200))
    in_focus = calibrate(gather(campaign.catalogs, columns=15, rows=15), method="mean").spots.moments["xx"]
    np.testing.assert_allclose(calibration.spots.moments["xx"] - change.mean(), in_focus, atol=0.02)
    assert np.nanstd(calibration.residuals.xx) == pytest.approx(0.01, rel=0.1)


def test_applied_to_other_exposures():
    campaign = draw_campaign(np.random.default_rng(9), exposures=120)
    first = gather(campaign.catalogs[:100], columns=15, rows=15)
    others = gather(campaign.catalogs[100:], columns=15, rows=15)
    spots = calibrate(first, splines=SPLINES).spots
    exposures, residuals = apply_spots(spots, others)
    x, y = others.quantities["x"], others.quantities["y"]
    truth = throughput(x, y)
    by_exposure = np.array([truth[others.exposure == k].mean() for k in range(20)])
    ratio = exposures.scale / campaign.scales[100:] / (1 + by_exposure)
    assert np.std(ratio) < 0.002
    # What is left of each flux is the throughput, up to the exposure's factor and the gradient of the calibration.
    means = np.array([residuals.flux[others.exposure == k].mean() for k in range(20)])
    left = _without_plane(residuals.flux - means[others.exposure], x, y)
    expected = _without_plane(truth - by_exposure[others.exposure], x, y)
    slope = (left @ expected) / (expected @ expected)
    assert slope == pytest.approx(1.0, abs=0.03)
    assert np.nanstd(residuals.dx) == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.full) for seed in (2, 3))])
def test_fixed_place_finds_the_drift_of_the_lamp(seed):
    campaign = draw_campaign(
        np.random.default_rng(seed), fixed=True, drift=0.001, lamp=0.0002, exposures=100, response=no_throughput
    )
    measurements = gather(campaign.catalogs, columns=15, rows=15)
    calibration = calibrate(measurements, splines=SPLINES)
    assert calibration.mode == "fixed"
    repeated = repeatability(calibration.residuals, calibration.exposures, spots=225)
    assert repeated.in_time
    assert repeated.drift_error <= 0.0001
    assert abs(repeated.drift - 0.001) < 3 * repeated.drift_error
    assert abs(repeated.ratio - 1) < 4 * repeated.ratio_error
    assert repeated.lamp_scatter == pytest.approx(0.0002, rel=0.35)


@pytest.mark.parametrize("seeds", [16, pytest.param(50, marks=pytest.mark.full)])
def test_drift_errors(seeds):
    pulls = []
    for seed in range(seeds):
        campaign = draw_campaign(
            np.random.default_rng(seed), fixed=True, drift=0.001, lamp=0.0003, exposures=25, size=(6, 6), response=no_throughput
        )
        calibration = calibrate(gather(campaign.catalogs, columns=6, rows=6))
        repeated = repeatability(calibration.residuals, calibration.exposures, spots=36)
        pulls.append((repeated.drift - 0.001) / repeated.drift_error)
    # Two and a half standard deviations of the rms.
    assert np.sqrt(np.mean(np.square(pulls))) == pytest.approx(1.0, abs=2.5 / np.sqrt(2 * seeds))


def test_scatter_beyond_the_errors_is_seen():
    campaign = draw_campaign(np.random.default_rng(0), fixed=True, exposures=60, response=no_throughput)
    rng = np.random.default_rng(1)
    noisy = [
        replace(entry, flux=entry.flux + entry.flux_err * rng.normal(0, np.sqrt(3), len(entry))) for entry in campaign.catalogs
    ]
    calibration = calibrate(gather(noisy, columns=15, rows=15))
    repeated = repeatability(calibration.residuals, calibration.exposures, spots=225)
    assert repeated.ratio == pytest.approx(2.0, abs=5 * repeated.ratio_error)


def test_saturated_spots_are_kept_out():
    campaign = draw_campaign(np.random.default_rng(0), exposures=20)
    bright = [replace(entry, flags=np.where(entry.grid_i < 5, int(SpotFlag.SATURATED), 0)) for entry in campaign.catalogs]
    calibration = calibrate(gather(bright, columns=15, rows=15), method="mean")
    np.testing.assert_array_equal(np.isnan(calibration.spots.flux), np.arange(225) // 15 < 5)
    assert not calibration.residuals.used[calibration.residuals.spot // 15 < 5].any()
    everything = [replace(entry, flags=np.full(len(entry), int(SpotFlag.SATURATED))) for entry in campaign.catalogs]
    with pytest.raises(SpotError, match="saturated"):
        gather(everything, columns=15, rows=15)


def test_bad_collections():
    campaign = draw_campaign(np.random.default_rng(0), exposures=3)
    first, second, third = campaign.catalogs
    with pytest.raises(SpotError, match=r"different detectors \(R02_S02, R22_S11"):
        gather([first, replace(second, detector="R02_S02")], columns=15, rows=15)
    with pytest.raises(SpotError, match="different bands"):
        gather([first, replace(second, band="uv")], columns=15, rows=15)
    with pytest.raises(SpotError, match="different apertures: 9, 12"):
        gather([replace(first, aperture=12.0), replace(second, aperture=9.0)], columns=15, rows=15)
    with pytest.raises(SpotError, match="outside a mask of 10 x 10"):
        gather([first, third], columns=10, rows=10)
    with pytest.raises(SpotError, match="duplicate label"):
        gather([replace(first, grid_i=first.grid_i * 0)], columns=15, rows=15)
    with pytest.raises(SpotError, match="no catalog"):
        gather([], columns=15, rows=15)
    with pytest.raises(SpotError, match="at least two exposures"):
        calibrate(gather([first], columns=15, rows=15))
