"""Campaigns of spot exposures: truth, raw files, determinism."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from permil.camera import frames, load_camera
from permil.config import load_config
from permil.config.simulate import SimulateSpotsConfig
from permil.errors import CameraError, OutputError
from permil.exposures.exposure import read_exposure
from permil.products import read_image
from permil.simulate.spots import SpotBench, SpotSimulationSummary, draw_exposure, simulate_spots

CONFIG = SimulateSpotsConfig(seed=7, camera="spots-cutout", detector="R02_S02", campaign={"exposures": 2, "biases": 1})


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> SpotSimulationSummary:
    return simulate_spots(CONFIG, tmp_path_factory.mktemp("spots"), workers=1)


def test_headers_are_those_of_spot_exposures(campaign: SpotSimulationSummary) -> None:
    header = fits.getheader(campaign.files[1])
    assert (header["IMGTYPE"], header["TESTTYPE"], header["LSST_NUM"]) == ("SPOT", "SPOT_FLAT", "ITL-3800C-205")
    assert (header["EXPTIME"], header["EXPTIME2"], header["DARKTIME"]) == (15.0, 0.0, 17.859)
    assert header["BOTX"] + header["BOTXCAM"] == pytest.approx(405.0)
    # Leftovers of the last CCOB exposure, as in the real files.
    stale = ("CCOBLED", "CCOBCURR", "CCOBADC", "TEMPLED1", "TEMPSPH")
    assert [header[name] for name in stale] == ["uv", 0.1, 0.459757, 391.866, -64.086]
    assert "FILTER" not in header
    exposure = read_exposure(campaign.files[1], load_camera("spots-cutout"))
    assert (exposure.image_type, exposure.led, exposure.detector) == ("spot", "", "R02_S02")


def test_files_are_valid_fits_of_four_segments(campaign: SpotSimulationSummary) -> None:
    for path in (*campaign.files, *campaign.biases):
        with warnings.catch_warnings(), fits.open(path, checksum=True) as hdus:
            warnings.simplefilter("error")
            names = [hdu.name.upper() for hdu in hdus[1:]]
            assert names == ["SEGMENT13", "SEGMENT14", "SEGMENT04", "SEGMENT03", "REB_COND", "CONFIG_COND"]
            assert hdus[1].data.shape == (560, 579)


def test_same_configuration_gives_the_same_bytes(campaign: SpotSimulationSummary, tmp_path: Path) -> None:
    again = simulate_spots(CONFIG, tmp_path / "again", workers=2)
    for first, second in zip((*campaign.files, *campaign.biases), (*again.files, *again.biases), strict=True):
        assert first.read_bytes() == second.read_bytes()
    one = CONFIG.campaign.model_copy(update={"exposures": 1, "biases": 0})
    other = simulate_spots(CONFIG.model_copy(update={"seed": 8, "campaign": one}), tmp_path / "other", workers=1)
    assert other.files[0].read_bytes() != campaign.files[0].read_bytes()


def test_a_campaign_that_is_there_is_not_written_again(campaign: SpotSimulationSummary) -> None:
    files = sorted(path for path in campaign.folder.rglob("*") if path.is_file())
    before = [path.stat().st_mtime_ns for path in files]
    again = simulate_spots(CONFIG, campaign.folder, workers=1)
    assert again.skipped == len(campaign.files) + len(campaign.biases)
    assert sorted(path for path in campaign.folder.rglob("*") if path.is_file()) == files
    assert [path.stat().st_mtime_ns for path in files] == before


def test_folder_with_raw_files_is_not_overwritten(campaign: SpotSimulationSummary) -> None:
    with pytest.raises(OutputError, match="other parameters"):
        simulate_spots(CONFIG.model_copy(update={"seed": 9}), campaign.folder, workers=1)


def test_unknown_detector_is_an_error() -> None:
    with pytest.raises(CameraError, match="no detector 'R99_S99'"):
        SpotBench(SimulateSpotsConfig(detector="R99_S99"))


def test_truth_is_written(campaign: SpotSimulationSummary) -> None:
    bench = SpotBench(CONFIG)
    flat = read_image(campaign.truth / "flat.fits")
    assert np.allclose(flat.image, bench.maps.flat(), atol=1e-6)
    with fits.open(campaign.truth / "sensor.fits") as hdus:
        assert np.allclose(hdus["EFFICIENCY"].data, bench.maps.efficiency, atol=1e-6)
        assert np.allclose(hdus["DISPLACEMENT_Y"].data, bench.maps.displacement[1], atol=1e-6)
        assert hdus["DIFFUSION"].header["BUNIT"] == "pix2"
    mask = Table.read(campaign.truth / "mask.ecsv")
    assert len(mask) == 225
    assert mask["flux"] == pytest.approx(bench.mask.flux)
    exposures = Table.read(campaign.truth / "exposures.ecsv")
    assert list(exposures["exposure"]) == [path.name[:20] for path in campaign.files]


def test_configuration_can_be_read(campaign: SpotSimulationSummary) -> None:
    config = load_config(campaign.configuration)
    assert config.camera == "spots-cutout"
    assert Path(config.isr.gains).is_file()


def test_raw_counts_are_gain_times_charge(tmp_path: Path) -> None:
    quiet = dict.fromkeys(
        (
            "bias_structure", "cosmic_rays", "crosstalk", "dark_current", "deferred_charge", "nonlinearity", "offset_drift",
            "read_noise", "gain_scatter",
        ),
        False,
    )  # fmt: skip
    config = SimulateSpotsConfig(effects=quiet, campaign={"exposures": 1, "biases": 0})
    written = simulate_spots(config, tmp_path, workers=1)
    bench = SpotBench(config)
    charge = bench.charge(bench.exposures()[0])
    with fits.open(written.files[0]) as hdus:
        for amplifier in bench.detector.amplifiers:
            raw = hdus[amplifier.extname].data.astype(float)
            level = np.median(raw[amplifier.serial_overscan_slices])
            electrons = amplifier.gain * (raw[amplifier.data_slices] - level)
            # Whole counts, and a level that is known to half a count.
            assert np.abs(electrons - frames.take_segment(amplifier, charge)).max() < 1.6 * amplifier.gain


def test_dithers_fill_their_window_and_the_mask_follows_the_projector() -> None:
    bench = SpotBench(SimulateSpotsConfig(campaign={"exposures": 60}))
    centres = np.array([exposure.centre for exposure in bench.exposures()])
    side = 10.5 * 65.32
    for axis in (0, 1):
        counts, _ = np.histogram(centres[:, axis], bins=6, range=(511.5 - side / 2 - 5, 511.5 + side / 2 + 5))
        assert counts.min() >= 6
    first = bench.exposures()[1]
    X, Y = frames.detector_to_ccs(bench.detector, *first.centre)
    assert pytest.approx(first.projector, abs=1e-9) == (X, Y)
    # CCS is the transpose of the pixel frame of this detector.
    assert first.projector[0] == pytest.approx((first.centre[1] - 511.5) * 0.01, abs=1e-9)


def test_fixed_campaign_stays_at_one_place_and_its_lamp_drifts() -> None:
    config = SimulateSpotsConfig(
        campaign={"mode": "fixed", "exposures": 11, "jitter_um": 0.0}, lamp={"drift": 1e-3, "scatter": 0.0}
    )
    exposures = SpotBench(config).exposures()
    assert len({exposure.centre for exposure in exposures}) == 1
    lamp = np.array([exposure.lamp for exposure in exposures])
    assert lamp[-1] - lamp[0] == pytest.approx(1e-3)
    assert np.diff(lamp) == pytest.approx(np.full(10, 1e-4))


def test_light_spans_a_factor_of_100_with_a_disc_and_a_skirt() -> None:
    bench = SpotBench(SimulateSpotsConfig(camera="lsstcam", mask={"spots": 49}))
    mask = bench.mask
    distance = np.hypot(mask.x, mask.y)
    assert np.median(mask.flux[distance < 800]) == pytest.approx(1.5e6, rel=0.03)
    # Medians of a real catalog at these radii from the disc's centre are 2 to 5 % and below 1 % of the disc.
    assert 0.005 < np.median(mask.flux[(distance > 1400) & (distance < 1600)]) / 1.5e6 < 0.06
    assert mask.flux.max() / mask.flux.min() > 100


def test_photon_noise_is_that_of_the_mean_charge() -> None:
    config = SimulateSpotsConfig(
        campaign={"mode": "fixed", "exposures": 12}, effects={"jitter": False, "lamp_scatter": False, "lamp_drift": False}
    )
    bench = SpotBench(config)
    mean = bench.mean_charge(bench.exposures()[0])
    images = np.array([bench.charge(exposure) for exposure in bench.exposures()])
    variance = images.var(axis=0, ddof=1) / mean
    assert np.mean(variance) == pytest.approx(1.0, abs=5 * np.sqrt(2 / 11 / mean.size))
    assert np.mean((images.mean(axis=0) - mean) / np.sqrt(mean / 12)) == pytest.approx(0.0, abs=5 / np.sqrt(mean.size))


def test_read_noise_of_perfect_images_is_that_of_the_camera() -> None:
    bench = SpotBench(SimulateSpotsConfig(campaign={"exposures": 1}))
    exposure = bench.exposures()[0]
    noise = draw_exposure(bench, exposure) - bench.charge(exposure)
    assert np.std(noise) == pytest.approx(bench.detector.amplifiers[0].read_noise, rel=0.01)


def test_brighter_fatter_exposure_has_the_same_light() -> None:
    small = {"spots": 3, "electrons": 3e4, "disc_radius": 2.0}
    exposures = []
    for switch in (False, True):
        config = SimulateSpotsConfig(
            mask=small, effects={"brighter_fatter": switch, "background": False}, campaign={"exposures": 1}
        )
        bench = SpotBench(config)
        exposures.append(bench.charge(bench.exposures()[0]))
    assert exposures[1].sum() == pytest.approx(exposures[0].sum(), rel=0.01)
