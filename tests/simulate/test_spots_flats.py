"""One campaign with artificial stars and flats of the same sensor."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from interruption import interrupted_after

from permil.camera import frames, load_camera
from permil.config import load_config
from permil.config.simulate import SPOTS_PRESETS, SimulateSpotsConfig
from permil.exposures import BIAS, POINTING, SCAN, SPOT
from permil.exposures.files import make_index
from permil.products import is_good, read_image
from permil.simulate.spots import SpotBench, SpotSimulationSummary, simulate_spots

CONFIG = SimulateSpotsConfig(
    seed=4,
    sensor={"mixture": {"rms": 5e-3}},
    campaign={"exposures": 2, "biases": 2, "filter": "red", "compressed": True},
    flats={"images": 2, "scan_size": 4},
)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> SpotSimulationSummary:
    return simulate_spots(CONFIG, tmp_path_factory.mktemp("stars_and_flats"), workers=1)


@pytest.fixture(scope="module")
def index(campaign: SpotSimulationSummary) -> Table:
    config = load_config(campaign.configuration)
    found = make_index(
        config.exposures.roots,
        load_camera("spots-cutout"),
        campaign.folder / "exposures.parquet",
        options=config.exposures,
        workers=1,
    )
    assert not found.unreadable
    return found.table


def test_headers_distinguish_scan_pointings_biases_and_stars(index: Table) -> None:
    assert Counter(index["purpose"]) == {SCAN: 16, POINTING: 10, BIAS: 2, SPOT: 2}
    pointings = index[index["purpose"] == POINTING]
    assert set(pointings["aimed"]) == {"R22_S11"}
    assert len(set(pointings["position_id"])) == 5
    assert set(index["led"][np.isin(index["purpose"], (SCAN, POINTING))]) == {"red"}
    assert set(index["filter"][index["purpose"] == SPOT]) == {"red"}


def test_exposures_have_names_of_their_own_in_the_order_of_time(index: Table) -> None:
    assert len(set(index["obsid"])) == len(index) == 30
    in_time = index[np.argsort(index["mjd"])]
    assert list(in_time["obsid"]) == sorted(index["obsid"])
    assert list(dict.fromkeys(in_time["purpose"])) == [SCAN, POINTING, BIAS, SPOT]


def test_scan_covers_what_the_pointings_need(index: Table) -> None:
    scan, pointings = (index[index["purpose"] == purpose] for purpose in (SCAN, POINTING))
    camera = load_camera("spots-cutout")
    detector, reference = camera["R22_S11"], camera.reference
    amplifier = detector.amplifier(reference.amp)
    rows, columns = frames.box_in_detector(amplifier, row=reference.row, column=reference.column, box=reference.box)
    place = frames.detector_to_ccs(detector, columns.start + 14.5, rows.start + 14.5)
    corners = np.array(frames.detector_to_ccs(detector, np.array([0, 1023, 0, 1023]), np.array([0, 0, 1023, 1023])))
    for axis, name in enumerate(("x_mm", "y_mm")):
        scanned = place[axis] - scan[name]
        needed = np.subtract.outer(corners[axis], np.asarray(pointings[name]))
        assert scanned.min() < needed.min()
        assert scanned.max() > needed.max()


def test_flat_and_amplifiers_are_those_of_the_stars(campaign: SpotSimulationSummary) -> None:
    bench = SpotBench(CONFIG)
    flat, of_maps = read_image(campaign.folder / "truth/flat/red/R22_S11.fits"), bench.maps.flat()
    scale = np.median(of_maps[is_good(flat.mask)])
    assert np.abs(flat.image - of_maps / scale).max() < 2e-6
    handed, true = Table.read(campaign.folder / "gains.ecsv"), Table.read(campaign.folder / "truth/gains.ecsv")
    assert list(handed["gain"]) == list(true["gain"])


def test_pointings_show_the_flat(campaign: SpotSimulationSummary, index: Table) -> None:
    gains = Table.read(campaign.folder / "gains.ecsv")["gain"]
    detector = load_camera("spots-cutout")["R22_S11"]
    flat = read_image(campaign.folder / "truth/flat/red/R22_S11.fits").image.astype(float)
    signal = np.zeros(detector.shape)
    for path in index["path"][index["purpose"] == POINTING]:
        with fits.open(path) as hdus:
            for amplifier, gain in zip(detector.amplifiers, gains, strict=True):
                raw = hdus[amplifier.extname].data.astype(float)
                level = np.median(raw[amplifier.serial_overscan_slices][:, 10:])
                signal[amplifier.slices] += gain * frames.place_segment(amplifier, raw[amplifier.data_slices] - level)
    # The beam, smooth on millimetres, is a polynomial in each amplifier; what is left is the flat, with photon noise of 1.5 per mil.
    for amplifier in detector.amplifiers:
        seen, true = (_without_polynomial(image[amplifier.slices]) for image in (signal, flat))
        slope = np.sum(seen * true) / np.sum(true**2)
        assert slope == pytest.approx(1.0, abs=5 * 1.5e-3 / np.sqrt(np.sum(true**2)) + 0.005)
        assert np.std(seen - true) == pytest.approx(1 / np.sqrt(signal.mean()), rel=0.03)


def _without_polynomial(image: np.ndarray) -> np.ndarray:
    y, x = (np.linspace(-1, 1, count) for count in image.shape)
    basis = np.stack([np.outer(y**i, x**j).ravel() for i in range(4) for j in range(4 - i)])
    relative = image.ravel() / np.median(image)
    # Columns of cosmic rays are clipped from the fit.
    fine = np.abs(relative - 1) < 0.05
    fit = np.linalg.lstsq(basis[:, fine].T, relative[fine], rcond=None)[0] @ basis
    return np.clip(relative / fit - 1, -0.05, 0.05).reshape(image.shape)


def test_an_interrupted_campaign_goes_on(campaign: SpotSimulationSummary, tmp_path: Path) -> None:
    with interrupted_after(27):
        simulate_spots(CONFIG, tmp_path, workers=1)
    rest = simulate_spots(CONFIG, tmp_path, workers=1)
    assert (rest.flats, rest.skipped) == (26, 27)
    assert not list(tmp_path.rglob("*.partial*"))
    files = sorted(path.relative_to(campaign.folder) for path in (campaign.folder / "raw").rglob("*.fits"))
    assert len(files) == 30
    for path in files:
        assert (tmp_path / path).read_bytes() == (campaign.folder / path).read_bytes()


def test_stars_are_the_same_with_and_without_flats(campaign: SpotSimulationSummary, tmp_path: Path) -> None:
    alone = simulate_spots(CONFIG.model_copy(update={"flats": SimulateSpotsConfig().flats}), tmp_path, workers=1)
    assert alone.flats == 0
    assert not (tmp_path / "truth/flat").exists()
    for first, second in zip((*alone.files, *alone.biases), (*campaign.files, *campaign.biases), strict=True):
        assert first.read_bytes() == second.read_bytes()


def test_truth_holds_the_parts_of_the_flat(campaign: SpotSimulationSummary) -> None:
    flat = read_image(campaign.truth / "flat.fits").image.astype(float)
    with fits.open(campaign.truth / "sensor.fits") as hdus:
        parts = [hdus["EFFICIENCY"].data - 1.0, hdus["AREA"].data, hdus["DIFFUSION_FLAT"].data]
    assert np.std(flat - 1 - np.sum(parts, axis=0)) < 0.03 * np.std(flat)


def test_explicit_keys_win_over_the_preset() -> None:
    config = SimulateSpotsConfig(preset="stars-and-flats", sensor={"mixture": {"area": 0.1}}, campaign={"exposures": 7})
    assert (config.sensor.mixture.rms, config.sensor.mixture.area) == (3e-3, 0.1)
    assert (config.campaign.exposures, config.campaign.filter) == (7, "red")
    for preset in SPOTS_PRESETS:
        given = SimulateSpotsConfig(preset=preset)
        assert SimulateSpotsConfig(**given.model_dump(mode="json")) == given
