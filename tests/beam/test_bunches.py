"""Bunches of pixels measured from a few rows of a file: the same bits as from all of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from permil.beam import stage
from permil.beam.stage import box_signals, shared_box_calibration
from permil.camera import Camera, ReferenceBox
from permil.config import Config
from permil.errors import CalibrationError, InputError
from permil.exposures import read_raw
from permil.isr import measure_box
from permil.isr.inputs import load_calibration
from permil.products import MaskPlane, RunFolder, write_image

DETECTOR = "R22_S11"
BOXES = (
    ReferenceBox(DETECTOR, "C14", 125, 32, 30),
    ReferenceBox(DETECTOR, "C03", 40, 20, 20),
    ReferenceBox(DETECTOR, "C13", 200, 40, 11),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, bin8: Camera) -> Path:
    """Write a raw file, a superbias with a hot pixel and a hole in the bunches, and tables of gains, crosstalk and defects."""
    root = tmp_path_factory.mktemp("bunches")
    rng = np.random.default_rng(4)
    detector = bin8[DETECTOR]
    hdus: list[fits.PrimaryHDU | fits.CompImageHDU] = [fits.PrimaryHDU()]
    hdus[0].header["RAFTBAY"], hdus[0].header["CCDSLOT"] = detector.raft, detector.slot
    for amplifier in detector.amplifiers:
        pixels = 25000 + rng.normal(0, 6, (amplifier.ny_raw, amplifier.nx_raw)) + rng.normal(0, 9, (amplifier.ny_raw, 1))
        pixels[amplifier.data_slices] += rng.normal(40000, 170, (amplifier.ny, amplifier.nx))
        hdus.append(
            fits.CompImageHDU(
                np.rint(pixels).astype(np.int32),
                name=amplifier.extname,
                compression_type="RICE_1",
                tile_shape=(1, amplifier.nx_raw),
            )
        )
    fits.HDUList(hdus).writeto(root / "raw.fits")
    image = rng.normal(0, 2, detector.shape)
    for box in BOXES:
        amplifier = detector.amplifier(box.amp)
        row = amplifier.ny - 1 - box.row if amplifier.flip_y else box.row
        column = amplifier.nx - 1 - box.column if amplifier.flip_x else box.column
        image[amplifier.slices][row, column] = 900.0
        image[amplifier.slices][row + 2, column] = np.nan
    variance = np.ones(detector.shape)
    variance[rng.random(detector.shape) < 0.01] = np.nan
    write_image(RunFolder(root).superbias(DETECTOR), image, np.zeros(detector.shape), variance, header={"DETECTOR": DETECTOR})
    names = [amplifier.name for amplifier in detector.amplifiers]
    pairs = [(victim, source) for victim in names for source in names if victim != source and rng.random() < 0.3]
    Table(
        {
            "detector": [DETECTOR] * len(pairs),
            "victim": [victim for victim, _ in pairs],
            "source": [source for _, source in pairs],
            "coefficient": rng.normal(0, 1e-3, len(pairs)),
        }
    ).write(root / "crosstalk.ecsv")
    return root


def _config(folder: Path, **isr: object) -> Config:
    return Config.model_validate(
        {"camera": "lsstcam-bin8", "output": str(folder), "isr": {"crosstalk": str(folder / "crosstalk.ecsv"), **isr}}
    )


def _in_full(folder: Path, config: Config, camera: Camera, boxes: Sequence[ReferenceBox]) -> list[object]:
    calibration = load_calibration(camera[DETECTOR], camera, config.isr, superbias=RunFolder(folder).superbias(DETECTOR))
    segments = read_raw(folder / "raw.fits", camera).segments
    threshold = config.isr.rejection_threshold
    return [measure_box(lambda each, rows: segments[each.name][rows], calibration, box, threshold=threshold) for box in boxes]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"overscan": "row_mean"},
        {"overscan": "smoothed"},
        {"overscan": "constant"},
        {"crosstalk": "none"},
        {"bias": "none"},
        {"hot_pixel_threshold": 3.0},
    ],
)
def test_they_are_those_of_the_whole_file_and_calibration(folder: Path, bin8: Camera, options: dict[str, object]) -> None:
    config = _config(folder, **options)
    calibration = shared_box_calibration(config, RunFolder(folder), BOXES)
    found = box_signals(folder / "raw.fits", BOXES, bin8, calibration, threshold=config.isr.rejection_threshold)
    assert found == _in_full(folder, config, bin8, BOXES)
    assert all(np.isfinite(signal.error) for signal in found)


def test_hot_pixels_are_left_out(folder: Path) -> None:
    calibration = shared_box_calibration(_config(folder), RunFolder(folder), BOXES)
    hot = (calibration.static_mask & MaskPlane.BAD) != 0
    for box in BOXES:
        assert hot[calibration.detector.amplifier(box.amp).slices].sum() == 1


def test_a_superbias_of_its_own_is_found_by_file_and_by_folder(folder: Path) -> None:
    path = RunFolder(folder).superbias(DETECTOR)
    images = [
        shared_box_calibration(_config(folder, bias=bias), RunFolder(folder), BOXES).superbias
        for bias in ("auto", str(path), str(path.parent))
    ]
    assert all(image is not None and image.image.any() for image in images)
    assert all(np.array_equal(image.image, images[0].image) for image in images)


def test_the_calibration_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _config(folder, rejection_threshold=4.5)
    first = shared_box_calibration(config, RunFolder(folder), BOXES)
    monkeypatch.setattr(stage, "load_calibration", None)
    assert shared_box_calibration(config, RunFolder(folder), BOXES) is first


def test_a_superbias_that_does_not_fit_is_refused(folder: Path, tmp_path: Path, bin8: Camera) -> None:
    missing = _config(folder, bias=str(tmp_path / "absent.fits"))
    with pytest.raises(InputError, match=r"absent\.fits: cannot be read as a superbias"):
        shared_box_calibration(missing, RunFolder(folder), BOXES)
    shape = bin8[DETECTOR].shape
    for name, size in (("R22_S12", shape), (DETECTOR, (9, 9))):
        path = tmp_path / f"{name}.fits"
        write_image(path, np.zeros(size), np.zeros(size), np.ones(size), header={"DETECTOR": name})
        with pytest.raises(CalibrationError, match=rf"the superbias is (that )?of {name}"):
            shared_box_calibration(_config(folder, bias=str(path)), RunFolder(folder), BOXES)
    path = RunFolder(folder).superbias(DETECTOR)
    cut = tmp_path / "cut.fits"
    cut.write_bytes(path.read_bytes()[:-200_000])
    with pytest.raises(InputError, match=r"cut\.fits"):
        shared_box_calibration(_config(folder, bias=str(cut)), RunFolder(folder), BOXES)


def test_a_file_of_another_detector_is_refused(folder: Path, bin8: Camera) -> None:
    calibration = load_calibration(bin8["R22_S12"], bin8, _config(folder, bias="none", crosstalk="none").isr)
    with pytest.raises(InputError, match=r"raw\.fits: the file holds detector R22_S11, not R22_S12"):
        box_signals(folder / "raw.fits", BOXES, bin8, calibration, threshold=5.0)


def test_a_bunch_without_a_usable_pixel_names_the_file(folder: Path, bin8: Camera, tmp_path: Path) -> None:
    defects = tmp_path / "defects.ecsv"
    Table({"detector": [DETECTOR], "x": [0], "y": [0], "width": [bin8[DETECTOR].nx], "height": [bin8[DETECTOR].ny]}).write(
        defects
    )
    config = _config(folder, defects=str(defects))
    calibration = shared_box_calibration(config, RunFolder(folder), BOXES)
    with pytest.raises(CalibrationError, match=r"raw\.fits.*no usable pixel"):
        box_signals(folder / "raw.fits", BOXES, bin8, calibration, threshold=config.isr.rejection_threshold)
