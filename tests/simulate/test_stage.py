"""Whole campaigns: bytes, truth, resumption, and inputs of the reduction."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from astropy.io import fits
from astropy.table import Table
from interruption import interrupted_after

from permil.camera import Camera
from permil.camera.frames import detector_to_ccs, place_segment
from permil.config.simulate import SimulateConfig
from permil.errors import OutputError
from permil.products import is_good, read_image
from permil.simulate import Bench, SimulationSummary, simulate_bench

TINY = {"detectors": ["R22_S11"], "leds": ["red"], "campaign": {"scan_size": 2, "images": 1, "biases": 1}}


def digests(folder: Path) -> dict[str, str]:
    files = sorted((folder / "raw").rglob("*.fits"))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def signal(path: Path, detector, gains) -> np.ndarray:
    """Return electrons in the detector frame: overscan median of each segment subtracted, multiplied by gain."""
    image = np.empty(detector.shape)
    with fits.open(path) as hdus:
        for amplifier, gain in zip(detector.amplifiers, gains, strict=True):
            raw = hdus[amplifier.extname].data.astype(float)
            level = np.median(raw[amplifier.serial_overscan_slices][:, 10:])
            image[amplifier.slices] = place_segment(amplifier, raw[amplifier.data_slices] - level) * gain
    return image


def test_same_seed_gives_the_same_bytes_by_any_number_of_workers(small_campaign: SimulationSummary, tmp_path, small_config):
    again = simulate_bench(small_config, tmp_path, workers=2)
    assert digests(again.folder) == digests(small_campaign.folder)
    assert len(digests(again.folder)) == small_campaign.files == 4 * 2 + 5 * 2 * 2 + 2


def test_other_seed_gives_other_pixels(tmp_path):
    first = simulate_bench(SimulateConfig(**TINY, seed=1), tmp_path / "a", workers=1)
    second = simulate_bench(SimulateConfig(**TINY, seed=2), tmp_path / "b", workers=1)
    a, b = digests(first.folder), digests(second.folder)
    assert a.keys() == b.keys()
    assert not set(a.values()) & set(b.values())


def test_a_restricted_campaign_draws_the_same_noise_and_response(tmp_path, bin8: Camera):
    one = Bench(SimulateConfig(seed=3, detectors=["R22_S11"], leds=["red"]))
    all_of_raft = Bench(SimulateConfig(seed=3))
    detector = bin8["R22_S11"]
    assert np.array_equal(one.sensors.response(detector, "red"), all_of_raft.sensors.response(detector, "red"))
    assert np.array_equal(one.gains(detector), all_of_raft.gains(detector))
    assert one.beam("red")(12.0, 3.0) == all_of_raft.beam("red")(12.0, 3.0)


def test_an_interrupted_simulation_goes_on(tmp_path):
    config = SimulateConfig(**TINY)
    whole = simulate_bench(config, tmp_path / "whole", workers=1)
    with interrupted_after(4):
        simulate_bench(config, tmp_path / "cut", workers=1)
    rest = simulate_bench(config, tmp_path / "cut", workers=1)
    assert rest.skipped == 4
    assert digests(rest.folder) == digests(whole.folder)
    assert not list(rest.folder.rglob("*.partial*"))


def test_a_folder_of_another_simulation_is_refused(tmp_path):
    simulate_bench(SimulateConfig(**TINY), tmp_path, workers=1)
    with pytest.raises(OutputError, match="other parameters"):
        simulate_bench(SimulateConfig(**TINY, seed=9), tmp_path, workers=1)


@pytest.mark.parametrize("name", ["raw", "config.yaml"])
def test_a_folder_with_other_content_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(OutputError, match=f"{name} in this folder"):
        simulate_bench(SimulateConfig(**TINY), tmp_path, workers=1)


def test_full_disk_is_an_error_and_leaves_no_half_file(tmp_path, monkeypatch):
    def no_space(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", no_space)
    with pytest.raises(OutputError, match="No space left"):
        simulate_bench(SimulateConfig(**TINY), tmp_path, workers=1)
    assert not list(tmp_path.rglob("*.partial*"))


@pytest.mark.skipif(shutil.which("fitsverify") is None, reason="the program fitsverify is not installed")
def test_fitsverify_passes_every_file(small_folder: Path):
    files = [str(path) for path in sorted(small_folder.rglob("*.fits"))]
    answer = subprocess.run(["fitsverify", "-q", *files], capture_output=True, text=True, check=False)  # noqa: S603, S607
    verdicts = [line for line in answer.stdout.splitlines() if line.startswith("verification")]
    assert len(verdicts) == len(files)
    assert [line for line in verdicts if not line.startswith("verification OK")] == []


def test_plain_and_rice_hold_the_same_pixels(tmp_path):
    plain = simulate_bench(
        SimulateConfig(**TINY | {"campaign": TINY["campaign"] | {"compression": "none"}}), tmp_path / "a", workers=1
    )
    rice = simulate_bench(
        SimulateConfig(**TINY | {"campaign": TINY["campaign"] | {"compression": "rice"}}), tmp_path / "b", workers=1
    )
    assert rice.size < 0.6 * plain.size
    for path in sorted((plain.folder / "raw").rglob("*.fits"))[:4]:
        with fits.open(path) as one, fits.open(rice.folder / path.relative_to(plain.folder)) as two:
            for first, second in zip(one[1:17], two[1:17], strict=True):
                assert first.data.dtype == second.data.dtype == np.int32 or first.data.dtype == np.dtype(">i4")
                assert np.array_equal(first.data, second.data)


def test_true_flats_are_on_the_composite_scale(tmp_path):
    config = SimulateConfig(
        detectors=["R22_S11", "R01_S00"], rafts=["R22", "R01"], leds=["blue"], campaign={"scan_size": 2, "images": 1, "biases": 0}
    )
    folder = simulate_bench(config, tmp_path, workers=1).folder
    flats = [read_image(folder / "truth" / "flat" / "blue" / f"{name}.fits") for name in ("R22_S11", "R01_S00")]
    good = np.concatenate([flat.image[is_good(flat.mask)] for flat in flats])
    assert np.median(good) == pytest.approx(1.0, abs=1e-6)
    medians = [np.median(flat.image[is_good(flat.mask)]) for flat in flats]
    assert abs(medians[0] - medians[1]) > 1e-4, "detectors keep their response"


def test_pixels_follow_from_the_truth(tmp_path, bin8: Camera):
    """With nothing but the flat, the beam and photon noise, pixels are level times beam times flat within the photon limit."""
    config = SimulateConfig(
        **TINY,
        nuisances=False,
        effects={"ring": True, "structure": True, "jitter": True, "offset": True, "rotation": True, "read_noise": False},
    )
    folder = simulate_bench(config, tmp_path, workers=1).folder
    detector = bin8["R22_S11"]
    flat = read_image(folder / "truth" / "flat" / "red" / "R22_S11.fits").image
    gains = Table.read(folder / "gains.ecsv")["gain"]
    positions = Table.read(folder / "truth" / "positions.ecsv")
    scales = Table.read(folder / "truth" / "scales.ecsv")
    beam = Bench(config).beam("red")
    x_ccs, y_ccs = detector_to_ccs(detector, np.arange(detector.nx)[None, :], np.arange(detector.ny)[:, None])
    for index in (0, 6):
        assert positions["obsid"][index] == scales["obsid"][index]
        path = next((folder / "raw").rglob(f"{positions['obsid'][index]}_R22_S11.fits"))
        light = beam(x_ccs - positions["beam_x_mm"][index], y_ccs - positions["beam_y_mm"][index])
        expected = scales["electrons"][index] * light * flat
        measured = signal(path, detector, gains)
        usable = expected > 100
        pulls = (measured - expected)[usable] / np.sqrt(expected[usable] + np.mean(gains) ** 2 / 12)
        assert abs(pulls.mean()) < 5 / pulls.size**0.5 + 0.01
        assert pulls.std() == pytest.approx(1.0, abs=5 / (2 * pulls.size) ** 0.5 + 1e-3)


def test_headers_record_where_the_lamp_was(small_folder: Path):
    positions = Table.read(small_folder / "truth" / "positions.ecsv")
    for row in positions[::7]:
        header = fits.getheader(next((small_folder / "raw").rglob(f"{row['obsid']}_R22_S11.fits")))
        assert header["BOTXCAM"] == pytest.approx(row["recorded_x_mm"], abs=1e-9)
        assert header["BOTYCAM"] == pytest.approx(row["recorded_y_mm"], abs=1e-9)
    misses = np.hypot(positions["lamp_x_mm"] - positions["commanded_x_mm"], positions["lamp_y_mm"] - positions["commanded_y_mm"])
    assert 1e-3 < misses.max() < 0.06
    assert np.abs(positions["recorded_x_mm"] - positions["lamp_x_mm"]).max() < 1e-3
    assert np.mean(positions["beam_x_mm"] - positions["lamp_x_mm"]) == pytest.approx(0.9, abs=0.02)
    assert np.mean(positions["beam_y_mm"] - positions["lamp_y_mm"]) == pytest.approx(-0.9, abs=0.02)


def test_photodiode_follows_the_light(small_folder: Path):
    scales = Table.read(small_folder / "truth" / "scales.ecsv")
    red = scales[scales["led"] == "red"]
    light = red["electrons"] / 50_000
    assert light.std() > 3e-4
    noise = red["photodiode"] / 0.3319 / light / red["photodiode_response"] - 1
    assert 0.4e-4 < np.std(noise) < 1.7e-4


def test_folder_names_before_the_offset(tmp_path):
    config = SimulateConfig(**TINY, stage={"folder_before_offset_mm": (5.0, -7.0)})
    truths = Bench(config).exposure_truths()
    for exposure, truth in zip(Bench(config).exposures, truths, strict=True):
        if exposure.kind != "bias":
            difference = np.subtract(truth.recorded, exposure.commanded)
            np.testing.assert_allclose(difference, (5.0, -7.0), atol=0.06)
            np.testing.assert_allclose(np.subtract(truth.beam_centre, exposure.commanded), (0.9, -0.9), atol=0.08)


def test_unrecorded_jitter_stays_hidden():
    bench = Bench(SimulateConfig(**TINY, stage={"recorded": False}))
    for exposure, truth in zip(bench.exposures, bench.exposure_truths(), strict=True):
        if exposure.kind != "bias":
            assert truth.recorded == exposure.commanded
            assert truth.lamp != exposure.commanded


def test_nuisances_off_leaves_exact_positions_and_photodiode():
    bench = Bench(SimulateConfig(**TINY, nuisances=False))
    for exposure, truth in zip(bench.exposures, bench.exposure_truths(), strict=True):
        if exposure.kind != "bias":
            assert truth.recorded == truth.lamp == truth.beam_centre == exposure.commanded
            assert truth.electrons == 50_000.0
            assert truth.photodiode == 0.3319
    electronics = bench.electronics(bench.camera["R22_S11"])
    assert not electronics.crosstalk.any()
    assert not electronics.curvature.any()
    assert all(np.ptp(segment) == 0 for segment in electronics.bias)
    assert np.ptp(electronics.gain) > 0


def test_temperature_changes_counts_and_header_together(tmp_path, bin8: Camera):
    swing = {"temperature_amplitude": 20.0, "temperature_period_s": 30.0}
    warm = {"electronics": swing, "nuisances": False, "effects": {"temperature_drift": True}}
    folder = simulate_bench(SimulateConfig(**TINY, **warm), tmp_path, workers=1).folder
    scales, boards = (Table.read(folder / "truth" / f"{name}.ecsv") for name in ("scales", "boards"))
    temperatures = dict(zip(boards["obsid"], boards["temperature"], strict=True))
    assert np.ptp(boards["temperature"]) > 20.0
    flat = read_image(folder / "truth" / "flat" / "red" / "R22_S11.fits").image
    gains = Table.read(folder / "gains.ecsv")["gain"]
    bench = Bench(SimulateConfig(**TINY, **warm))
    for row, truth in zip(scales, [entry for entry in bench.exposure_truths() if entry.electrons], strict=True):
        path = next((folder / "raw").rglob(f"{row['obsid']}_R22_S11.fits"))
        board = fits.getval(path, "TEMP3", extname="REB_COND")
        above = temperatures[row["obsid"]]
        assert board - (-4.3125) == pytest.approx(above, abs=0.032)
        expected = bench.beam("red").on_detector(bin8["R22_S11"], truth.beam_centre) * flat * row["electrons"]
        ratio = np.sum(signal(path, bin8["R22_S11"], gains)) / np.sum(expected, dtype=float)
        assert ratio == pytest.approx(1 - 6.5e-4 * above, abs=2e-4)
    np.testing.assert_allclose(boards["counts_factor"], 1 - 6.5e-4 * boards["temperature"], rtol=1e-12)
    handed = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["isr"]
    assert handed["temperature_coefficient"] == 6.5e-4
    assert handed["temperature_reference"] == pytest.approx(np.mean([9.875, 9.875, -4.3125, -0.4375, -1.5625, -0.5]))


def test_tables_for_the_reduction(small_campaign: SimulationSummary):
    folder = small_campaign.folder
    truth = Table.read(folder / "truth" / "gains.ecsv")
    gains, linearity = Table.read(folder / "gains.ecsv"), Table.read(folder / "linearity.ecsv")
    assert np.array_equal(gains["gain"], truth["gain"])
    assert np.array_equal(linearity["a1"], truth["a1"])
    assert np.std(truth["gain"]) / np.mean(truth["gain"]) < 0.06
    crosstalk = Table.read(folder / "crosstalk.ecsv")
    assert set(zip(crosstalk["victim"], crosstalk["source"], strict=True)) >= {("C10", "C11"), ("C11", "C10"), ("C07", "C06")}
    assert len(Table.read(folder / "defects.ecsv")) == 12
    config = yaml.safe_load(small_campaign.configuration.read_text(encoding="utf-8"))
    assert config["camera"] == "lsstcam-bin8"
    assert config["beam"]["reference"][0] == {"detector": "R22_S11", "amp": "C14", "row": 125, "column": 32, "box": 30}
    for name in ("gains", "linearity", "crosstalk", "defects"):
        assert (folder / config["isr"][name]).is_file()


def test_true_beam_is_an_image_against_u(small_folder: Path, small_config: SimulateConfig):
    product = read_image(small_folder / "truth" / "beam" / "red.fits")
    header = product.image_header
    column, row = 100, 320
    u_x = header["CRVAL1"] + (column + 1 - header["CRPIX1"]) * header["CDELT1"]
    u_y = header["CRVAL2"] + (row + 1 - header["CRPIX2"]) * header["CDELT2"]
    assert product.image[row, column] == pytest.approx(float(Bench(small_config).beam("red")(u_x, u_y)), abs=1e-6)
    assert product.header["OFFSETX"] == 0.9
    assert product.image.max() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.full
def test_full_size_detector(tmp_path, lsstcam: Camera):
    config = SimulateConfig(
        preset="raft", detectors=["R22_S11"], leds=["red"], campaign={"scan_size": 2, "images": 1, "biases": 1}
    )
    folder = simulate_bench(config, tmp_path, workers=2).folder
    path = next((folder / "raw").rglob("*_000001_R22_S11.fits"))
    with fits.open(path) as hdus:
        assert hdus["Segment14"].data.shape == (2048, 576)
    assert read_image(folder / "truth" / "flat" / "red" / "R22_S11.fits").image.shape == lsstcam["R22_S11"].shape
