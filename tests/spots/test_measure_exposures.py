"""From raw spot exposures to catalogs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from scipy.spatial import cKDTree

from permil.camera import Camera, load_camera
from permil.config import load_config
from permil.config.simulate import SimulateSpotsConfig
from permil.config.spots import MeasureConfig
from permil.errors import InputError
from permil.isr import Calibration
from permil.isr.bias_exposures import build_superbias
from permil.isr.inputs import load_calibration
from permil.simulate.spots import SpotBench, SpotSimulationSummary, simulate_spots
from permil.spots.inputs import measure_exposure

# Strong tree rings, so that what they do to places is well above the noise.
CONFIG = SimulateSpotsConfig(seed=4, sensor={"tree_ring_rms": 5e-3}, campaign={"exposures": 2, "biases": 3, "filter": "SDSSr"})


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> SpotSimulationSummary:
    return simulate_spots(CONFIG, tmp_path_factory.mktemp("spots"), workers=1)


@pytest.fixture(scope="module")
def camera() -> Camera:
    return load_camera(CONFIG.camera)


@pytest.fixture(scope="module")
def calibration(campaign: SpotSimulationSummary, camera: Camera) -> Calibration:
    config, detector = load_config(campaign.configuration), camera["R22_S11"]
    bias = build_superbias(campaign.biases, detector, camera, config.isr, campaign.folder / "superbias.fits")
    return load_calibration(detector, camera, config.isr, superbias=bias)


def test_catalog_agrees_with_the_truth(campaign: SpotSimulationSummary, camera: Camera, calibration: Calibration) -> None:
    bench = SpotBench(CONFIG)
    for path, exposure in zip(campaign.files, bench.exposures(), strict=True):
        catalog = measure_exposure(path, camera, calibration).catalog
        assert (catalog.projector_x, catalog.projector_y) == pytest.approx(exposure.projector, abs=1e-9)
        light = bench.spot_light(exposure)
        distance, index = cKDTree(np.column_stack([catalog.x, catalog.y])).query(np.column_stack([light.x, light.y]))
        bright = np.flatnonzero((light.flux > 5e5) & (distance < 1))
        bright = bright[catalog.good[index[bright]]]
        assert bright.size > 40
        # Tree rings move spots by up to a tenth of a pixel, which is theirs to measure and not an error.
        rows = index[bright]
        moved = np.array([catalog.x[rows] - light.x[bright], catalog.y[rows] - light.y[bright]])
        columns, lines = np.rint(catalog.x[rows]).astype(int), np.rint(catalog.y[rows]).astype(int)
        assert np.std(moved - bench.maps.displacement[:, lines, columns]) < 0.5 * np.std(moved)
        ratio = catalog.flux[rows] / light.flux[bright]
        assert np.std(ratio) / np.mean(ratio) < 0.006
        assert catalog.flux_unit == "electron"


def test_what_the_header_says(campaign: SpotSimulationSummary, camera: Camera, calibration: Calibration) -> None:
    catalog = measure_exposure(campaign.files[0], camera, calibration).catalog
    header = fits.getheader(campaign.files[0])
    assert (catalog.detector, catalog.exposure, catalog.exposure_time) == ("R22_S11", header["OBSID"], 15.0)
    assert header["CCOBLED"] == "uv"
    assert catalog.band == "SDSSr"
    named = measure_exposure(campaign.files[0], camera, calibration, band="nm960").catalog
    assert named.band == "nm960"


def test_stale_lamp_is_no_band(tmp_path: Path, campaign: SpotSimulationSummary, camera: Camera, calibration: Calibration) -> None:
    without = tmp_path / campaign.files[0].name
    with fits.open(campaign.files[0]) as hdus:
        del hdus[0].header["FILTER"]
        hdus.writeto(without, checksum=True)
    assert measure_exposure(without, camera, calibration).catalog.band == ""


def test_options_reach_the_measurement(campaign: SpotSimulationSummary, camera: Camera, calibration: Calibration) -> None:
    options = MeasureConfig(flux_radius=9.0)
    measurement = measure_exposure(campaign.files[0], camera, calibration, options=options)
    assert measurement.catalog.aperture == 9.0
    assert np.array_equal(measurement.catalog.flux, measurement.apertures.flux[:, 3])


def test_exposure_that_is_not_of_spots_is_an_error(
    campaign: SpotSimulationSummary, camera: Camera, calibration: Calibration
) -> None:
    with pytest.raises(InputError, match=r"not a spot exposure \(IMGTYPE BIAS") as raised:
        measure_exposure(campaign.biases[0], camera, calibration)
    assert raised.value.path == str(campaign.biases[0])


def test_exposure_of_another_detector_is_an_error(
    campaign: SpotSimulationSummary, camera: Camera, calibration: Calibration
) -> None:
    other = replace(calibration, detector=camera["R02_S02"])
    with pytest.raises(InputError, match="the file holds detector R22_S11, not R02_S02"):
        measure_exposure(campaign.files[0], camera, other)


@pytest.mark.full
def test_whole_sensor_from_a_raw_file(tmp_path: Path) -> None:
    config = SimulateSpotsConfig(
        camera="lsstcam", detector="R02_S02", mask={"spots": 49}, campaign={"exposures": 1, "biases": 0, "compressed": True}
    )
    written = simulate_spots(config, tmp_path, workers=1)
    camera, run = load_camera("lsstcam"), load_config(written.configuration)
    calibration = load_calibration(camera["R02_S02"], camera, run.isr)
    catalog = measure_exposure(written.files[0], camera, calibration).catalog
    bench = SpotBench(config)
    light = bench.spot_light(bench.exposures()[0])
    distance, _ = cKDTree(np.column_stack([catalog.x, catalog.y])).query(np.column_stack([light.x, light.y]))
    assert np.mean(distance < 1) > 0.99
