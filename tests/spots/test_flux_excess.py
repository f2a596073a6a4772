"""Scatter of fluxes beyond their errors: its size, whether it belongs to the sensor, and errors that contain it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from campaigns import SHAPE, Campaign, draw_campaign, no_throughput
from numpy.typing import NDArray
from scipy import ndimage

from permil.spots.calibration import SpotCalibration, calibrate
from permil.spots.flux_model import TensorSplines, fit_excess, own_excess
from permil.spots.measurements import gather

SPLINES = TensorSplines(SHAPE, 64.0, 3)
RMS = 2.3e-3
PITCH = 65.32


def _structure(rng: np.random.Generator, rms: float):
    """Return a random throughput with structure of 12 pixels (sigma), none wider than 30: finer than knots 64 pixels apart."""
    field = ndimage.gaussian_filter(rng.standard_normal((1100, 1100)), 12.0, mode="wrap")
    field -= ndimage.gaussian_filter(field, 30.0, mode="wrap")
    field *= rms / field.std()
    return lambda x, y: ndimage.map_coordinates(field, [y + 20, x + 20], order=1)


def _calibrated(
    seed: int, *, rms: float = RMS, error_factor: float = 1.0, fixed: bool = False, unstable: float = 0.0
) -> tuple[Campaign, SpotCalibration]:
    """Return a campaign of 40 dithers and its calibration; catalogs state errors too small by ``error_factor``."""
    rng = np.random.default_rng(seed)
    response = _structure(rng, rms) if rms else no_throughput
    campaign = draw_campaign(rng, exposures=40, pitch=PITCH, response=response, flux=1.5e6, fixed=fixed)
    catalogs = [
        replace(
            entry,
            flux=entry.flux * (1 + unstable * rng.standard_normal(len(entry))),
            flux_err=entry.flux_err / error_factor,
        )
        for entry in campaign.catalogs
    ]
    return campaign, calibrate(gather(catalogs, columns=15, rows=15), splines=SPLINES)


def _pull_square(deviation: NDArray[np.float64], error: NDArray[np.float64], *trends: NDArray[np.float64]) -> tuple[float, int]:
    """Return chi-square and degrees of freedom of deviations, up to a constant and trends, which are degenerate."""
    known = np.isfinite(deviation)
    matrix = np.stack([np.ones(known.sum()), *(trend[known] for trend in trends)], axis=1) / error[known, None]
    pull = deviation[known] / error[known]
    pull = pull - matrix @ np.linalg.lstsq(matrix, pull, rcond=None)[0]
    return float(pull @ pull), int(known.sum()) - matrix.shape[1]


@pytest.mark.parametrize("seeds", [range(301, 303), pytest.param(range(301, 305), marks=pytest.mark.full)])
def test_errors_of_spots_and_exposures_contain_structure_finer_than_the_knots(seeds: range) -> None:
    """Without the excess these pulls have a square of 5."""
    spots, exposures = np.zeros(2), np.zeros(2)
    i, j = np.divmod(np.arange(225.0), 15)
    for seed in seeds:
        campaign, calibration = _calibrated(seed)
        table = calibration.spots
        spots += _pull_square(table.flux / campaign.fluxes - 1, table.flux_error / table.flux, i, j)
        pointing = np.array(
            [[np.mean(c.x - (c.grid_i - 7) * PITCH), np.mean(c.y - (c.grid_j - 7) * PITCH)] for c in campaign.catalogs]
        )
        found = calibration.exposures
        exposures += _pull_square(found.scale / campaign.scales - 1, found.scale_error / found.scale, *pointing.T)
        assert calibration.chi_square / calibration.freedom > 3
        # Part of the structure is in the splines: the excess is what they leave.
        assert 0.7 * RMS < calibration.excess.scatter[0] < RMS
    for chi_square, freedom in (spots, exposures):
        assert chi_square / freedom == pytest.approx(1.0, abs=4 * np.sqrt(2 / freedom) + 0.05)


@pytest.mark.parametrize("seeds", [range(311, 314), pytest.param(range(311, 317), marks=pytest.mark.full)])
def test_structure_of_the_sensor_is_distinguished_from_errors_that_are_too_small(seeds: range) -> None:
    pulls = []
    for seed in seeds:
        excess = _calibrated(seed)[1].excess
        assert excess.pairs > 1000
        pulls.append(excess.own / excess.own_error)
        assert excess.structure[0] > 0.9 * excess.scatter[0]
    # Structure of twelve pixels is smooth over the distance of neighbours.
    assert np.sqrt(np.mean(np.square(pulls))) == pytest.approx(1.0, abs=0.75)
    assert abs(np.mean(pulls)) < 1.3
    _, unstable = _calibrated(320, rms=0.0, unstable=2e-3)
    assert unstable.excess.own == pytest.approx(4e-6, abs=4 * unstable.excess.own_error)
    assert unstable.excess.unexplained[0] == pytest.approx(unstable.excess.scatter[0], rel=0.15)
    _, both = _calibrated(321, unstable=2e-3)
    assert both.excess.own == pytest.approx(4e-6, abs=4 * both.excess.own_error)
    assert both.excess.structure[0] > 0.6 * RMS


def test_true_errors_leave_no_excess_and_change_nothing() -> None:
    _, calibration = _calibrated(330, rms=0.0)
    excess = calibration.excess
    assert excess.variance <= 4 * excess.variance_error
    assert excess.scatter[0] < 0.3e-3
    assert calibration.chi_square / calibration.freedom == pytest.approx(1.0, abs=0.08)


def test_at_one_place_the_sensor_explains_nothing() -> None:
    _, calibration = _calibrated(331, fixed=True, error_factor=2.0)
    assert calibration.mode == "fixed"
    assert calibration.excess.own == calibration.excess.variance > 10 * calibration.excess.variance_error


def test_catalogs_without_errors_say_nothing_of_an_excess() -> None:
    campaign = draw_campaign(np.random.default_rng(332), exposures=8, with_errors=False)
    measurements = gather(campaign.catalogs, columns=15, rows=15)
    for method in ("joint", "mean"):
        assert np.isnan(calibrate(measurements, splines=SPLINES, method=method).excess.variance)


@pytest.mark.parametrize("excess", [0.0, 1e-6, 3e-5])
def test_the_excess_of_drawn_residuals(excess: float) -> None:
    rng = np.random.default_rng(340)
    pulls = []
    for _ in range(200):
        variance = 10 ** rng.uniform(-6.5, -4.5, 2000)
        residual = np.sqrt(variance + excess) * rng.standard_normal(2000)
        found, error = fit_excess(residual, variance, 2000)
        pulls.append((found - excess) / error)
    if excess:
        assert abs(np.mean(pulls)) < 0.35
        assert np.std(pulls) == pytest.approx(1.0, abs=0.2)
    else:
        assert np.min(pulls) == 0.0
        assert np.max(pulls) < 4.5


def test_few_neighbours_give_no_result() -> None:
    rng = np.random.default_rng(341)
    places = np.stack(np.meshgrid(np.arange(20) * 50.0, np.arange(20) * 50.0), axis=-1).reshape(-1, 2)
    numbers = np.arange(400)
    own, error, pairs = own_excess(rng.normal(0, 2e-3, 400), np.full(400, 1e-6), 3e-6, places, numbers, numbers)
    assert np.isnan(own)
    assert np.isnan(error)
    assert pairs == 0
