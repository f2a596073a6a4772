"""Serial numbers of sensors in tables of gains, linearity, crosstalk and defects: those of another sensor are refused."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table, vstack

from permil.config.isr import IsrConfig
from permil.errors import CalibrationError
from permil.isr.inputs import check_serials

OWN, OTHER = "E2V-CCD250-382", "E2V-CCD250-999"


def tables_of(one, **columns):
    """Return one table of each kind for a detector, by the key of the section ``isr``."""
    segments = [amplifier.name for amplifier in one.amplifiers]
    every = {"detector": [one.name] * 16, "segment": segments}
    parts = {
        "gains": every | {"gain": np.full(16, 1.2)},
        "linearity": every | {"a1": np.zeros(16)},
        "crosstalk": {
            "detector": [one.name] * 2,
            "victim": segments[:2],
            "source": segments[2:4],
            "coefficient": [1e-4] * 2,
        },
        "defects": {"detector": [one.name] * 3, "x": [1, 2, 3], "y": [1, 2, 3]},
    }
    return {
        key: Table(part | {name: [label] * len(part["detector"]) for name, label in columns.items()})
        for key, part in parts.items()
    }


def check(tmp_path, key, table, detector, camera, serial=OWN):
    path = tmp_path / "table.ecsv"
    table.write(path, format="ascii.ecsv", overwrite=True)
    check_serials(IsrConfig(**{key: str(path)}), detector, serial, camera=camera)


KEYS = ("gains", "linearity", "crosstalk", "defects")


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("column", ["serial", "LSST_NUM", "det_ser", "Serial_Number", "detector"])
def test_a_table_of_another_sensor_is_refused(tmp_path, bin8, key, column):
    detector = bin8["R22_S11"]
    for label in (OWN, "e2v ccd250 382"):
        check(tmp_path, key, tables_of(detector, **{column: label})[key], detector, bin8)
    # The camera has the sensor 382 there, the exposures are of 999.
    with pytest.raises(
        CalibrationError, match=rf"table.ecsv: the \w+ table is of sensor {OWN}, the exposures of R22_S11 are of {OTHER}"
    ):
        check(tmp_path, key, tables_of(detector, **{column: OWN})[key], detector, bin8, serial=OTHER)


@pytest.mark.parametrize("key", KEYS)
def test_without_a_serial_number_in_the_exposures_that_of_the_camera_counts(tmp_path, bin8, key):
    detector = bin8["R22_S11"]
    with pytest.raises(
        CalibrationError, match=rf"is of sensor {OTHER}, R22_S11 of the camera is {OWN}; .*set isr.{key} to (none|nominal)"
    ):
        check(tmp_path, key, tables_of(detector, serial=OTHER)[key], detector, bin8, serial="")
    check(tmp_path, key, tables_of(detector, serial=OTHER)[key], detector, bin8, serial=OTHER)
    for silent in ("", "unknown", "nan"):
        check(tmp_path, key, tables_of(detector, serial=silent)[key], detector, bin8)


@pytest.mark.parametrize("key", KEYS)
def test_serial_numbers_of_other_detectors_do_not_matter(tmp_path, bin8, key):
    detector, itl = bin8["R22_S11"], bin8["R02_S21"]
    both = vstack([tables_of(detector, serial=OWN)[key], tables_of(itl, serial=itl.serial)[key]])
    both.meta["LSST_NUM"] = itl.serial
    for one in (detector, itl):
        check(tmp_path, key, both, one, bin8, serial=one.serial)
    with pytest.raises(CalibrationError, match=f"is of sensor {itl.serial}, the exposures of R02_S21 are of ITL-3800C-999"):
        check(tmp_path, key, both, itl, bin8, serial="ITL-3800C-999")


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("card", ["LSST_NUM", "DET_SER"])
def test_the_header_of_a_table_of_one_detector(tmp_path, bin8, key, card):
    detector = bin8["R22_S11"]
    table = tables_of(detector)[key]
    for stated in (OWN, "", "UNKNOWN"):
        table.meta[card] = stated
        check(tmp_path, key, table, detector, bin8)
    table.meta[card] = OTHER
    with pytest.raises(CalibrationError, match=f"is of sensor {OTHER}"):
        check(tmp_path, key, table, detector, bin8)


def test_a_folder_of_defects(tmp_path, bin8):
    detector = bin8["R22_S11"]
    table = Table({"x0": [5.0], "y0": [7.0], "width": [1.0], "height": [1.0]}, meta={"DET_SER": OTHER})
    table.write(tmp_path / "R22_S11.ecsv", format="ascii.ecsv")
    config = IsrConfig(defects=str(tmp_path))
    check_serials(config, detector, OTHER, camera=bin8)
    with pytest.raises(CalibrationError, match=rf"R22_S11\.ecsv: the defect table is of sensor {OTHER}, the exposures of"):
        check_serials(config, detector, OWN, camera=bin8)


@pytest.mark.parametrize("extension", [0, 1])
def test_results_of_eotest(tmp_path, bin8, extension):
    detector = bin8["R22_S11"]
    table = fits.table_to_hdu(Table({"AMP": np.arange(1, 17), "PTC_GAIN": np.full(16, 1.2)}))
    table.header["EXTNAME"] = "AMPLIFIER_RESULTS"
    hdus = fits.HDUList([fits.PrimaryHDU(), table])
    hdus[extension].header["LSST_NUM"] = OTHER
    hdus.writeto(tmp_path / "R22_S11_6852D_eotest_results.fits")
    for source in (tmp_path, tmp_path / "R22_S11_6852D_eotest_results.fits"):
        config = IsrConfig(gains=str(source))
        check_serials(config, detector, OTHER, camera=bin8)
        with pytest.raises(CalibrationError, match=f"eotest_results.fits: the gain table is of sensor {OTHER}, the exposures of"):
            check_serials(config, detector, OWN, camera=bin8)


def test_no_tables_state_no_serial_number(bin8):
    check_serials(IsrConfig(gains="nominal"), bin8["R22_S11"], OTHER, camera=bin8)
    check_serials(IsrConfig(gains="none"), bin8["R22_S11"], "", camera=bin8)
