"""From raw files and configured inputs to calibrations and stacks, and what happens when they are bad."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from segments_in_memory import reduce_segments

from permil.config.isr import IsrConfig
from permil.errors import CalibrationError, InputError, PhotodiodeError
from permil.isr.bias_exposures import build_superbias
from permil.isr.calibration.gains import board_temperature, read_gains, write_gains_table
from permil.isr.calibration.superbias import read_superbias
from permil.isr.exposure_group import stack_group
from permil.isr.inputs import load_calibration
from permil.isr.reduce import reduce_file
from permil.products import MaskPlane, read_image, read_table

GAIN = 1.25
TEMPERATURES = {f"TEMP{number}": 10.0 + 0.4 * (number - 1) for number in range(1, 7)} | {"TEMP7": 99.0}


@pytest.fixture(scope="module")
def files(tmp_path_factory, detector, make_raw, write_raw):
    """Write five bias exposures and six exposures of one scene with their photodiode readings."""
    folder = tmp_path_factory.mktemp("raw")
    rng = np.random.default_rng(1)
    structure = rng.normal(0, 4, detector.shape)
    biases = [write_raw(folder / f"bias_{number}.fits", detector, make_raw(detector, structure, rng)) for number in range(5)]
    electrons = 40000 * (1 + 0.1 * np.mgrid[: detector.ny, : detector.nx][1] / detector.nx) * rng.normal(1, 0.007, detector.shape)
    light = np.array([1.0, 1.02, 0.97, 1.3, 1.0, 1.01])
    readings = 0.5 * light * (1 + 2e-3 * rng.standard_normal(6))
    paths = []
    for number, amount in enumerate(light):
        adu = structure + rng.poisson(amount * electrons) / GAIN
        hit = rng.uniform(size=adu.shape) < 1e-3
        adu[hit] += rng.uniform(500, 20000, np.count_nonzero(hit))
        path = folder / f"light_{number}.fits"
        paths.append(write_raw(path, detector, make_raw(detector, adu, rng), temperatures=TEMPERATURES))
    return {"folder": folder, "biases": biases, "paths": paths, "readings": readings, "electrons": electrons}


@pytest.fixture(scope="module")
def config(tmp_path_factory, detector):
    path = tmp_path_factory.mktemp("inputs") / "gains.ecsv"
    Table(
        {
            "detector": [detector.name] * 16,
            "segment": [amplifier.name for amplifier in detector.amplifiers],
            "gain": np.full(16, GAIN),
        }
    ).write(path)
    return IsrConfig(gains=str(path), saturation=100000.0)


@pytest.fixture(scope="module")
def superbias(files, detector, bin8, config):
    return build_superbias(
        files["biases"], detector, bin8, config, files["folder"] / "calib" / "superbias_R22_S11.fits", fingerprint="made of five"
    )


@pytest.fixture(scope="module")
def loaded(detector, bin8, config, superbias):
    return load_calibration(detector, bin8, config, superbias=superbias)


def test_the_superbias_product_states_its_contents(superbias, detector):
    product = read_image(superbias)
    assert product.image.shape == detector.shape
    assert product.header["DETECTOR"] == "R22_S11"
    assert product.header["NFRAMES"] == 5
    assert product.image_header["BUNIT"] == "adu"
    assert product.header["FINGERPR"] == "made of five"
    table = Table(product.extensions["AMPLIFIERS"].data)
    assert table["read_noise"] == pytest.approx(np.full(16, np.sqrt(25 + 1 / 12)), rel=0.02)
    # Five frames of noise 5 and the level of each row.
    assert np.median(product.variance) == pytest.approx((25 + 25 * np.pi / 94 + 0.1) / 5, rel=0.03)


def test_a_stack_is_the_scene_at_the_mean_photodiode(files, bin8, loaded):
    result = stack_group(files["paths"], files["readings"], bin8, loaded)
    stack = result.stack
    assert result.used == tuple(files["paths"])
    assert result.photodiode == pytest.approx(files["readings"].mean())
    true_light_per_reading = 2.0
    expected = files["electrons"] * result.photodiode * true_light_per_reading
    good = stack.mask & ~MaskPlane.REJECTED == 0
    scale = np.median(stack.image[good] / expected[good])
    assert scale == pytest.approx(1, abs=3 * 2e-3 / np.sqrt(6))
    assert 2e-4 < result.scale_error < 2e-3
    # Structure: nothing but the noise of the variance plane is left, in spite of the noisy photodiode.
    residual = stack.image / scale - expected
    assert np.mean(residual[good] ** 2 / stack.variance[good]) == pytest.approx(1, abs=0.03)
    assert np.nanmean(stack.chi_square) == pytest.approx(1, abs=0.02)
    assert stack.n_rejected == pytest.approx(6e-3 * stack.image.size, rel=0.15)
    assert result.read_noise == pytest.approx(np.full(16, GAIN * 5), rel=0.03)


def test_a_wrong_reading_is_listed_and_does_not_set_the_scale(files, bin8, loaded):
    readings = files["readings"].copy()
    readings[2] *= 1.1
    result = stack_group(files["paths"], readings, bin8, loaded)
    reference = stack_group(files["paths"], files["readings"], bin8, loaded)
    assert result.photodiode_outliers == (files["paths"][2],)
    ratio = np.nanmedian(result.stack.image) / result.photodiode
    assert ratio == pytest.approx(np.nanmedian(reference.stack.image) / reference.photodiode, rel=2e-3)


def test_unusable_readings_and_files_are_left_out_and_listed(files, bin8, loaded, tmp_path):
    truncated = tmp_path / "cut.fits"
    truncated.write_bytes(files["paths"][0].read_bytes()[:400000])
    paths = [*files["paths"], truncated, tmp_path / "absent.fits"]
    readings = [*files["readings"], 0.5, 0.5]
    readings[1], readings[4] = np.nan, None
    result = stack_group(paths, readings, bin8, loaded)
    assert [entry.path for entry in result.left_out] == [paths[1], paths[4], truncated, tmp_path / "absent.fits"]
    assert result.used == tuple(paths[index] for index in (0, 2, 3, 5))
    assert result.stack.n_frames == 4


def test_no_usable_exposure_is_an_error(files, bin8, loaded, tmp_path):
    with pytest.raises(PhotodiodeError, match=r"isr\.photodiode"):
        stack_group(files["paths"], [np.nan] * 6, bin8, loaded)
    with pytest.raises(InputError, match="none of 1 exposures"):
        stack_group([tmp_path / "absent.fits"], [1.0], bin8, loaded)
    with pytest.raises(InputError, match="no exposure of R22_S11"):
        stack_group([], [], bin8, loaded)


def test_without_photodiode_the_stack_is_at_the_mean_light(files, bin8, loaded):
    result = stack_group(files["paths"], [np.nan] * 6, bin8, loaded, normalise=False)
    assert result.photodiode == 1
    assert np.isnan(result.scale_error)
    expected = files["electrons"] * np.mean([1.0, 1.02, 0.97, 1.3, 1.0, 1.01])
    assert np.nanmedian(result.stack.image / expected) == pytest.approx(1, abs=2e-4)


@pytest.mark.parametrize("first", [True, False])
def test_an_exposure_whose_lamp_failed_is_left_out_wherever_it_stands(files, bin8, loaded, first):
    dark = files["biases"][0]
    paths, readings = list(files["paths"][:3]), list(files["readings"][:3])
    without = stack_group(paths, readings, bin8, loaded)
    at = 0 if first else 3
    paths.insert(at, dark)
    readings.insert(at, 0.5)
    result = stack_group(paths, readings, bin8, loaded)
    assert [entry.path for entry in result.left_out] == [dark]
    assert "contradicts" in result.left_out[0].reason
    np.testing.assert_array_equal(result.stack.image, without.stack.image)


def test_two_exposures_that_contradict_each_other_are_an_error(files, bin8, loaded):
    with pytest.raises(InputError, match="contradict each other"):
        stack_group([files["paths"][0], files["biases"][0]], [files["readings"][0], 0.5], bin8, loaded)


def test_frames_without_light_go_by_the_photodiode(files, bin8, loaded):
    result = stack_group(files["biases"], [1.0, 2.0, 1.0, 1.0, 1.0], bin8, loaded)
    np.testing.assert_allclose(result.stack.light, [1, 2, 1, 1, 1])
    assert abs(np.median(result.stack.image)) < 1
    assert np.isnan(result.scale_error)


def test_the_board_temperature_is_read_when_it_is_needed(files, bin8, config, loaded, detector):
    from permil.exposures.raw_file import read_raw

    raw = read_raw(files["paths"][0], bin8, segments=["C10"])
    assert board_temperature(raw, config) is None
    following = config.model_copy(update={"temperature_coefficient": 6.5e-4})
    assert board_temperature(raw, following) == 11.0
    assert board_temperature(raw, following.model_copy(update={"temperature_card": "TEMP7"})) == 99.0
    assert board_temperature(raw, following.model_copy(update={"temperature_card": ["TEMP2", "TEMP7"]})) == 54.7
    unknown = following.model_copy(update={"temperature_card": "TEMP8"})
    with pytest.raises(InputError, match=r"light_0\.fits: .*card TEMP8 is missing"):
        board_temperature(raw, unknown)
    calibration = load_calibration(detector, bin8, unknown.model_copy(update={"bias": "none"}))
    with pytest.raises(InputError, match=r"light_0\.fits.*temperature"):
        reduce_file(files["paths"][0], bin8, calibration)


def test_an_exposure_without_a_board_temperature_is_left_out(files, bin8, config, detector, tmp_path):
    following = config.model_copy(update={"temperature_coefficient": 6.5e-4})
    calibration = load_calibration(detector, bin8, following.model_copy(update={"bias": "none"}))
    broken = tmp_path / "light_0.fits"
    content = files["paths"][0].read_bytes()
    place = content.index(b"TEMP3   =")
    broken.write_bytes(content[:place] + b"TEMP3   =                  NaN".ljust(80) + content[place + 80 :])
    others = files["paths"][1:]
    result = stack_group([broken, *others], files["readings"], bin8, calibration)
    assert [(entry.path, entry.reason[:46]) for entry in result.left_out] == [
        (broken, "there is no board temperature: card TEMP3 is n")
    ]
    reference = stack_group(others, files["readings"][1:], bin8, calibration)
    np.testing.assert_array_equal(result.stack.image, reference.stack.image)
    with pytest.raises(InputError, match=r"none of 1 exposures of R22_S11 can be used .there is no board temperature"):
        stack_group([broken], files["readings"][:1], bin8, calibration)


def test_a_file_of_another_detector_is_an_error(files, bin8, config, itl):
    calibration = load_calibration(itl, bin8, config.model_copy(update={"bias": "none", "gains": "nominal"}))
    with pytest.raises(InputError, match="R22_S11, not R02_S02"):
        reduce_file(files["paths"][0], bin8, calibration)


def test_missing_bias_is_an_error_unless_none_is_wanted(bin8, detector, config, tmp_path):
    with pytest.raises(CalibrationError, match=r"no bias exposure of R22_S11.*isr\.bias"):
        load_calibration(detector, bin8, config)
    with pytest.raises(CalibrationError, match="no usable bias exposure"):
        build_superbias([tmp_path / "absent.fits"], detector, bin8, config, tmp_path / "superbias.fits")
    without = load_calibration(detector, bin8, config.model_copy(update={"bias": "none"}))
    assert without.superbias is None
    assert without.superbias_variance() is None


def test_a_superbias_is_found_by_file_and_by_folder_and_must_fit(superbias, bin8, detector, itl, config):
    by_file = load_calibration(detector, bin8, config.model_copy(update={"bias": str(superbias)}))
    by_folder = load_calibration(detector, bin8, config.model_copy(update={"bias": str(superbias.parent)}))
    np.testing.assert_array_equal(by_file.superbias.image, by_folder.superbias.image)
    with pytest.raises(CalibrationError, match="superbias is of R22_S11"):
        load_calibration(itl, bin8, config.model_copy(update={"bias": str(superbias), "gains": "nominal"}))
    with pytest.raises(InputError):
        load_calibration(itl, bin8, config.model_copy(update={"bias": str(superbias.parent), "gains": "nominal"}))


def test_a_channel_that_was_dead_in_the_biases_has_no_data(files, bin8, detector, config, make_raw, write_raw, tmp_path):
    segments = make_raw(detector, np.zeros(detector.shape), np.random.default_rng(3))
    segments["C02"] = np.zeros_like(segments["C02"])
    path = write_raw(tmp_path / "bias.fits", detector, segments)
    product = build_superbias([path], detector, bin8, config, tmp_path / "superbias_R22_S11.fits")
    bias, mask = read_superbias(product, detector)
    dead = np.zeros(detector.shape, dtype=bool)
    dead[detector.amplifier("C02").slices] = True
    np.testing.assert_array_equal(mask == MaskPlane.NO_DATA, dead)
    assert np.isfinite(bias.image).all()
    calibration = load_calibration(detector, bin8, config, superbias=product)
    result = stack_group(files["paths"][:2], files["readings"][:2], bin8, calibration)
    np.testing.assert_array_equal(np.isnan(result.stack.image), dead)


def test_all_inputs_are_read_from_their_tables(tmp_path, bin8, detector, config, superbias):
    names = [amplifier.name for amplifier in detector.amplifiers]
    Table({"detector": [detector.name] * 16, "segment": names, "a1": [1e-7] * 16}).write(tmp_path / "linearity.ecsv")
    Table(rows=[(detector.name, "C10", "C11", 3e-4)], names=("detector", "victim", "source", "coefficient")).write(
        tmp_path / "crosstalk.ecsv"
    )
    Table(rows=[(detector.name, 3, 4)], names=("detector", "x", "y")).write(tmp_path / "defects.ecsv")
    inputs = {name: str(tmp_path / f"{name}.ecsv") for name in ("linearity", "crosstalk", "defects")}
    full = config.model_copy(update={**inputs, "edge_mm": 0.0, "midline_mm": 0.0, "saturation": "nominal"})
    calibration = load_calibration(detector, bin8, full, superbias=superbias)
    assert np.argwhere(calibration.static_mask).tolist() == [[4, 3]]
    assert calibration.needed_segments("C10") == ["C10", "C11"]
    assert calibration.curve(0)(1e4) == pytest.approx(1e4 + 10)
    # PTC turnoff of the reference notes for this epoch.
    assert calibration.saturation[0] == 112396
    for name in inputs:
        with pytest.raises(InputError, match="absent"):
            load_calibration(detector, bin8, full.model_copy(update={name: str(tmp_path / "absent.ecsv")}), superbias=superbias)


def test_used_gains_are_written_and_can_be_given_again(tmp_path, loaded, bin8, detector, config):
    path = tmp_path / "calib" / "gains.ecsv"
    write_gains_table(path, {"R22_S11": loaded.gains}, bin8)
    assert len(read_table(path)) == 16
    again = read_gains(config.model_copy(update={"gains": str(path)}), detector)
    np.testing.assert_array_equal(again.gain, GAIN)


def test_calibrations_travel_between_processes(loaded):
    copy = pickle.loads(pickle.dumps(loaded))  # noqa: S301
    np.testing.assert_array_equal(copy.superbias.image, loaded.superbias.image)
    np.testing.assert_array_equal(copy.gains.gain, loaded.gains.gain)


def test_a_real_segment_reduces_to_its_level(shared_data, lsstcam):
    path: Path = shared_data / "raw" / "201807241028453-RTM-010-S11-det067.fits"
    raft = next(entry for entry in lsstcam.science if entry.vendor == "E2V" and entry.slot == "S11")
    with fits.open(path) as hdus:
        segments = {amplifier.name: hdus[amplifier.extname].data for amplifier in raft.amplifiers}

    calibration = load_calibration(raft, lsstcam, IsrConfig(bias="none", gains="none"))
    reduced = reduce_segments(segments, calibration)
    amplifier = raft.amplifier("C00")
    assert reduced.overscan_level[15] == pytest.approx(27026, abs=0.6)
    # 47808 adu is the median of the segment as it is in the file.
    assert np.median(reduced.image[amplifier.slices]) == pytest.approx(47808 - 27026, abs=30)
    # The other segments of this file hold nothing.
    assert (reduced.mask & MaskPlane.NO_DATA).astype(bool).sum() == 15 * amplifier.nx * amplifier.ny
