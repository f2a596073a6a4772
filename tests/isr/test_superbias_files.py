"""Superbiases of any program, by any name of the detector; those of other sensors, and other products, are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from permil.camera import Camera
from permil.config.isr import IsrConfig
from permil.errors import CalibrationError, InputError, PermilError
from permil.isr.calibration.gains import nominal_gains, unit_gains
from permil.isr.calibration.superbias import check_superbias_serial, read_superbias, superbias_path
from permil.isr.inputs import load_calibration
from permil.isr.stage import common_serial
from permil.products import MaskPlane, write_image

DETECTOR = "R22_S11"
LEVEL = 2.0


def write(path: Path, bin8: Camera, *, value: float = LEVEL, unit: str = "adu", variance: float = 0.01, **cards: Any) -> Path:
    shape = bin8[DETECTOR].shape
    header = {"DETECTOR": DETECTOR} | cards
    write_image(
        path, np.full(shape, value), np.zeros(shape), np.full(shape, variance), header=header,
        image_cards={"BUNIT": unit} if unit else None,
    )  # fmt: skip
    return path


@pytest.mark.parametrize(
    "name",
    [
        "superbias_R22_S11.fits", "superbias_R22-S11.fits", "superbias_r22_s11.fits", "superbias_det094.fits",
        "superbias_E2V-CCD250-382.fits", "bias_LSSTCam_R22_S11_u_calib_20211209.fits", "bias_LSSTCam_R22_S11.fits.gz",
    ],
)  # fmt: skip
def test_the_file_of_a_folder_is_found_by_any_name_of_the_detector(bin8: Camera, tmp_path: Path, name: str) -> None:
    write(tmp_path / name, bin8)
    for other in ("superbias_R22_S12.fits", "superbias_det095.fits", "notes.txt"):
        (tmp_path / other).write_text("of no use here")
    assert superbias_path(str(tmp_path), bin8[DETECTOR], None) == tmp_path / name


def test_a_folder_without_or_with_several_files_of_the_detector(bin8: Camera, tmp_path: Path) -> None:
    config = IsrConfig(bias=str(tmp_path))
    (tmp_path / "superbias_R22_S12.fits").touch()
    with pytest.raises(InputError, match=r"there is no superbias of R22_S11; put superbias_R22_S11\.fits there"):
        superbias_path(config.bias, bin8[DETECTOR], None)
    for name in ("superbias_det094.fits", "superbias_R22-S11.fits"):
        (tmp_path / name).touch()
    with pytest.raises(
        CalibrationError, match=r"several files may be the superbias of R22_S11: superbias_R22-S11\.fits, superbias"
    ):
        superbias_path(config.bias, bin8[DETECTOR], None)


@pytest.mark.parametrize("stated", [{"DETECTOR": 94}, {"DETECTOR": "r22-s11"}, {"RAFTBAY": "R22", "CCDSLOT": "S11"}], ids=str)
def test_a_superbias_of_the_lsst_stack(bin8: Camera, tmp_path: Path, stated: dict[str, Any]) -> None:
    detector = bin8[DETECTOR]
    image, mask = np.full(detector.shape, LEVEL, np.float32), np.zeros(detector.shape, np.int32)
    image[1, 1], mask[2, 2], mask[3, 3] = np.nan, 1 << 5, 1 << 6
    planes = {"IMAGE": image, "MASK": mask, "VARIANCE": np.full(detector.shape, 0.01, np.float32)}
    hdus = [
        fits.PrimaryHDU(),
        *(fits.CompImageHDU(plane, quantize_level=0, compression_type="GZIP_1") for plane in planes.values()),
    ]
    for hdu, name in zip(hdus[1:], planes, strict=True):
        hdu.header["EXTTYPE"] = name
    hdus[0].header.update({"OBSTYPE": "bias", **stated})
    hdus[2].header.update({"MP_BAD": 5, "HIERARCH MP_DETECTED": 6, "MP_SAT": 0})
    fits.HDUList(hdus).writeto(tmp_path / "bias.fits")
    bias, unusable = read_superbias(tmp_path / "bias.fits", detector, camera=bin8)
    assert np.argwhere(unusable == MaskPlane.NO_DATA).tolist() == [[1, 1]]
    assert np.argwhere(unusable == MaskPlane.BAD).tolist() == [[2, 2]]
    assert bias.image[1, 1] == 0
    assert (bias.image[unusable == 0] == LEVEL).all()


@pytest.mark.parametrize(("unit", "adu"), [("electron", False), ("e-", False), ("adu", True), ("DN", True), ("", True)])
def test_the_unit_of_a_superbias_counts(bin8: Camera, tmp_path: Path, unit: str, adu: bool) -> None:
    detector = bin8[DETECTOR]
    path = write(tmp_path / "bias.fits", bin8, unit=unit)
    gains = nominal_gains(detector)
    bias, _ = read_superbias(path, detector, camera=bin8, gains=gains)
    for amplifier, gain in zip(detector.amplifiers, gains.gain, strict=True):
        factor = 1 if adu else 1 / gain
        np.testing.assert_allclose(bias.image[amplifier.slices], LEVEL * factor, rtol=1e-6)
        np.testing.assert_allclose(bias.variance[amplifier.slices], 0.01 * factor**2, rtol=1e-6)
    if not adu:
        with pytest.raises(CalibrationError, match=r"the superbias is in .*isr\.gains"):
            read_superbias(path, detector, camera=bin8, gains=unit_gains(detector))


@pytest.mark.parametrize(
    ("cards", "message"),
    [
        ({"DETECTOR": "R22_S12"}, "the superbias is of R22_S12"),
        ({"DETECTOR": 95}, "the superbias is of 95"),
        ({"CCDSLOT": "S12"}, "the superbias is of S12"),
        ({"PRODUCT": "flat"}, "this is a flat, not a superbias"),
        ({"OBSTYPE": "dark"}, "this is a dark, not a superbias"),
        # A flat of an earlier version.
        ({"FLATSCAL": 1e5, "LED": "red"}, "this is a flat, not a superbias"),
        ({"value": 24_000.0}, "the superbias has a median of 24000 adu: it still contains the bias level"),
        ({"unit": "s"}, "the superbias is given in s"),
        ({"unit": "%"}, "the superbias is given in %"),
    ],
)
def test_what_is_not_the_superbias_of_the_detector_is_refused(
    bin8: Camera, tmp_path: Path, cards: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "bias.fits", bin8, **cards)
    config = IsrConfig(bias=str(path))
    with pytest.raises(CalibrationError, match=rf"bias\.fits: {message}"):
        load_calibration(bin8[DETECTOR], bin8, config)


@pytest.mark.parametrize("spelling", ["E2V-CCD250-999", "e2v_ccd250_999"])
def test_a_superbias_of_another_sensor_at_the_same_place(bin8: Camera, tmp_path: Path, spelling: str) -> None:
    config = IsrConfig(bias=str(write(tmp_path / "bias.fits", bin8, LSST_NUM=spelling)))
    check_superbias_serial(config.bias, bin8[DETECTOR], bin8, "E2V-CCD250-999")
    check_superbias_serial(config.bias, bin8[DETECTOR], bin8, "")
    with pytest.raises(CalibrationError, match="999, the exposures of R22_S11 are of E2V-CCD250-382"):
        check_superbias_serial(config.bias, bin8[DETECTOR], bin8, "E2V-CCD250-382")
    # A sensor that is not the camera's may be read out: the reduction itself compares only the place.
    assert load_calibration(bin8[DETECTOR], bin8, config).superbias is not None


def test_the_serial_number_of_a_product_is_that_of_its_exposures() -> None:
    rows = Table({"detector": ["A", "A", "B", "B", "C"], "serial": ["one", "one ", "one", "two", ""]})
    assert [common_serial(rows, name) for name in "ABCD"] == ["one", "", "", ""]


def test_errors_say_which_file(bin8: Camera, tmp_path: Path) -> None:
    for content in (b"no FITS at all", b"", b"\x00" * 3000):
        (tmp_path / "bias.fits").write_bytes(content)
        with pytest.raises(PermilError, match=r"bias\.fits: cannot be read as a superbias"):
            read_superbias(tmp_path / "bias.fits", bin8[DETECTOR], camera=bin8)
