"""Residuals on the detector."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from campaigns import SHAPE, draw_campaign, no_throughput, throughput
from scipy.stats import binned_statistic_2d

from permil.camera import load_camera
from permil.camera.frames import amplifier_at
from permil.errors import SpotError
from permil.spots.calibration import calibrate
from permil.spots.flux_model import TensorSplines
from permil.spots.measurements import gather
from permil.spots.residuals import amplifier_table, bin_residuals, grouped_means, model_map, radial_profile, ring_edges


@pytest.fixture(scope="module")
def detector():
    return load_camera("spots-cutout")["R22_S11"]


@pytest.fixture(scope="module")
def calibration():
    campaign = draw_campaign(np.random.default_rng(0))
    return calibrate(gather(campaign.catalogs, columns=15, rows=15), splines=TensorSplines(SHAPE, 64.0, 3))


def test_maps_are_weighted_means_of_cells(calibration, detector):
    binned = bin_residuals(calibration.residuals, "flux", detector, cell=64)
    residuals = calibration.residuals
    edges = np.arange(17) * 64 - 0.5
    weight = residuals.flux_error**-2.0
    sums, *_ = binned_statistic_2d(residuals.y, residuals.x, weight, "sum", bins=[edges, edges])
    products, *_ = binned_statistic_2d(residuals.y, residuals.x, weight * residuals.flux, "sum", bins=[edges, edges])
    full = binned.count > 0
    np.testing.assert_allclose(binned.mean[full], (products / np.where(full, sums, 1))[full], rtol=1e-10)
    assert binned.count.sum() == residuals.used.sum()
    assert np.isnan(binned.mean[~full]).all()
    assert np.isnan(binned.error[~full]).all()


def test_flux_map_shows_the_throughput(calibration, detector):
    binned = bin_residuals(calibration.residuals, "flux", detector, cell=32)
    model = model_map(calibration.solution, detector, cell=32, count=binned.count)
    good = binned.count > 10
    centre = np.arange(32) * 32 + 15.5
    x, y = np.meshgrid(centre, centre)
    truth = throughput(x, y)[good]
    matrix = np.stack([np.ones(good.sum()), x[good], y[good]], axis=1)
    for values in (binned.mean[good], model.mean[good]):
        both = [entry - matrix @ np.linalg.lstsq(matrix, entry, rcond=None)[0] for entry in (truth, values)]
        assert (both[0] @ both[1]) / (both[0] @ both[0]) == pytest.approx(1.0, abs=0.05)
    assert (model.error[good] < binned.error[good].max()).all()


def test_errors_of_maps(detector):
    campaign = draw_campaign(np.random.default_rng(1), response=no_throughput)
    residuals = calibrate(gather(campaign.catalogs, columns=15, rows=15), splines=TensorSplines(SHAPE, 128.0, 3)).residuals
    for quantity in ("flux", "dx", "dy", "xx", "yy", "xy"):
        binned = bin_residuals(residuals, quantity, detector, cell=64)
        good = binned.count > 20
        pull = binned.mean[good] / binned.error[good]
        assert np.sqrt(np.mean(pull**2)) == pytest.approx(0.97, abs=0.15), quantity


def test_amplifiers(calibration, detector):
    table = amplifier_table(calibration.residuals, detector)
    assert list(table["amp"]) == [amplifier.name for amplifier in detector.amplifiers]
    residuals = calibration.residuals
    of = amplifier_at(detector, residuals.x, residuals.y)
    for row, entry in enumerate(table):
        inside = of == row
        assert entry["flux_count"] == inside.sum()
        assert entry["dx"] == pytest.approx(np.average(residuals.dx[inside], weights=residuals.errors["dx"][inside] ** -2))


def test_rings_show_radial_displacement(calibration, detector):
    """Displacements along the radius, as tree rings make them, come out as radial and not as tangential."""
    centre = (-300.0, 200.0)
    residuals = calibration.residuals
    x, y = residuals.x - centre[0], residuals.y - centre[1]
    radius = np.hypot(x, y)
    ring = 0.02 * np.sin(2 * np.pi * radius / 80)
    along_x, along_y = x / radius, y / radius
    moved = replace(
        residuals,
        dx=residuals.dx + ring * along_x,
        dy=residuals.dy + ring * along_y,
        xx=along_x**2,
        yy=along_y**2,
        xy=along_x * along_y,
    )
    table = radial_profile(moved, centre=centre, edges=ring_edges(detector, centre, 10.0))
    table = table[table["radial_count"] > 100]
    expected = 0.02 * np.sin(2 * np.pi * table["radius"] / 80)
    pull = (table["radial"] - expected) / table["radial_err"]
    assert np.sqrt(np.mean(pull**2)) < 1.3
    assert np.sqrt(np.mean((table["tangential"] / table["tangential_err"]) ** 2)) < 1.3
    np.testing.assert_allclose(table["rr"], 1.0, rtol=1e-10)


def test_ring_edges_cover_the_detector(detector):
    for centre in ((-300.0, 200.0), (500.0, 500.0), (2000.0, -50.0)):
        edges = ring_edges(detector, centre, 20.0)
        x, y = np.meshgrid([0, detector.nx], [0, detector.ny])
        farthest = np.hypot(x - centre[0], y - centre[1]).max()
        assert edges[-1] >= farthest
        np.testing.assert_allclose(np.diff(edges), 20.0)


def test_means_know_a_scatter_beyond_the_errors():
    values = np.random.default_rng(0).normal(0, 3.0, 4000)
    means = grouped_means(values, np.ones(4000), np.repeat([0, 1], 2000), 3)
    np.testing.assert_allclose(means.error[:2], 3.0 / np.sqrt(2000), rtol=0.06)
    assert means.count.tolist() == [2000, 2000, 0]
    assert np.isnan(means.mean[2])


def test_another_detector_is_noticed(calibration, bin8):
    with pytest.raises(SpotError, match="lie outside R22_S11"):
        bin_residuals(calibration.residuals, "flux", bin8["R22_S11"], cell=16)
