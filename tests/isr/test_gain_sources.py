"""Gains from every source, and every way in which a source can be wrong."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from hypothesis import given, settings
from hypothesis import strategies as st

from permil.config.isr import IsrConfig
from permil.errors import CalibrationError, InputError
from permil.isr.calibration.gains import eotest_detector, gains_from_table, read_gains, temperature_factor


def table_of(detector, *, column="segment", label=lambda amplifier: amplifier.name, gain=None):
    gain = np.linspace(1.0, 1.5, len(detector.amplifiers)) if gain is None else gain
    return Table(
        {
            "detector": [detector.name] * len(gain),
            column: [label(amplifier) for amplifier in detector.amplifiers],
            "gain": gain,
        }
    )


def write_eotest(path, size=16):
    columns = {
        "AMP": np.arange(1, size + 1, dtype=np.int16),
        "GAIN": np.linspace(1.0, 1.15, size, dtype=np.float32),
        "GAIN_ERROR": np.full(size, 1e-3, dtype=np.float32),
        "PTC_GAIN": np.linspace(1.01, 1.16, size, dtype=np.float32),
        "PTC_GAIN_ERROR": np.full(size, 2e-3, dtype=np.float32),
    }
    fits.BinTableHDU(Table(columns), name="AMPLIFIER_RESULTS").writeto(path)
    return path


@settings(max_examples=30)
@given(
    gain=st.lists(st.floats(0.1, 10), min_size=16, max_size=16),
    order=st.permutations(range(16)),
    naming=st.sampled_from(["name", "extname", "number", "digits"]),
)
def test_a_table_gives_each_amplifier_its_gain_in_any_order_and_naming(detector, gain, order, naming):
    column, label = {
        "name": ("segment", lambda amplifier: amplifier.name),
        "extname": ("segment", lambda amplifier: amplifier.extname),
        "number": ("amp", lambda amplifier: amplifier.number),
        "digits": ("segment", lambda amplifier: amplifier.name[1:]),
    }[naming]
    table = table_of(detector, column=column, label=label, gain=np.array(gain))[list(order)]
    np.testing.assert_array_equal(gains_from_table(table, detector).gain, gain)


def test_names_in_a_column_amp_are_names(detector):
    assert gains_from_table(table_of(detector, column="amp"), detector).gain[0] == 1.0


def test_rows_of_other_detectors_do_not_matter_and_errors_are_kept(detector, itl):
    table = table_of(detector)
    table["gain_err"] = 0.01
    other = table_of(itl, gain=np.full(16, 9.0))
    other["gain_err"] = 0.5
    table = Table(np.concatenate([other.as_array(), table.as_array()]))
    gains = gains_from_table(table, detector)
    assert gains.gain.max() == 1.5
    np.testing.assert_array_equal(gains.gain_err, 0.01)


def test_a_missing_amplifier_is_named_with_detector_and_file(detector):
    table = table_of(detector)[np.arange(16) != 4]
    with pytest.raises(CalibrationError, match=r"gains\.ecsv.*R22_S11.*C14") as caught:
        gains_from_table(table, detector, path="gains.ecsv")
    assert caught.value.amplifier == ["C14"]


@pytest.mark.parametrize("gain", [0.0, -1.0, np.nan, np.inf])
def test_an_impossible_gain_is_an_error(detector, gain):
    table = table_of(detector)
    table["gain"][3] = gain
    with pytest.raises(CalibrationError, match="gain"):
        gains_from_table(table, detector, path="gains.ecsv")


def test_masked_repeated_unknown_and_missing_entries_are_errors(detector):
    masked = table_of(detector)
    masked["gain"] = MaskedColumn(masked["gain"], mask=np.arange(16) == 2)
    with pytest.raises(CalibrationError, match="finite"):
        gains_from_table(masked, detector)
    repeated = table_of(detector)[[*range(16), 0]]
    with pytest.raises(CalibrationError, match="C10 is given twice"):
        gains_from_table(repeated, detector)
    with pytest.raises(CalibrationError, match="X1"):
        gains_from_table(table_of(detector, label=lambda amplifier: f"X{amplifier.number}"), detector)
    for column in ("detector", "segment", "gain"):
        table = table_of(detector)
        table.remove_column(column)
        with pytest.raises(CalibrationError, match="column"):
            gains_from_table(table, detector)


def test_eotest_results_give_either_gain(tmp_path, detector):
    path = write_eotest(tmp_path / "R22_S11_6801D_eotest_results.fits")
    fe55 = read_gains(IsrConfig(gains=str(path), gain_column="GAIN"), detector)
    ptc = read_gains(IsrConfig(gains=str(tmp_path), gain_column="PTC_GAIN"), detector)
    np.testing.assert_allclose(fe55.gain, np.linspace(1.0, 1.15, 16), rtol=1e-6)
    np.testing.assert_allclose(ptc.gain, np.linspace(1.01, 1.16, 16), rtol=1e-6)
    assert fe55.gain_err[0] == pytest.approx(1e-3)
    assert ptc.gain_err[0] == pytest.approx(2e-3)


def test_eotest_results_that_do_not_fit_are_errors(tmp_path, detector, itl):
    path = write_eotest(tmp_path / "R22_S11_6801D_eotest_results.fits", size=15)
    with pytest.raises(CalibrationError, match=r"R22_S11.*C00"):
        read_gains(IsrConfig(gains=str(path)), detector)
    with pytest.raises(CalibrationError, match="R02_S02"):
        read_gains(IsrConfig(gains=str(path)), itl)
    with pytest.raises(CalibrationError, match="R02_S02"):
        read_gains(IsrConfig(gains=str(tmp_path)), itl)
    with pytest.raises(CalibrationError, match="name"):
        eotest_detector("results.fits")
    broken = tmp_path / "R22_S11_1_eotest_results.fits"
    broken.write_bytes(b"SIMPLE")
    with pytest.raises(InputError):
        read_gains(IsrConfig(gains=str(broken)), detector)


def test_a_table_file_is_read_and_a_missing_one_is_an_error(tmp_path, detector):
    path = tmp_path / "gains.ecsv"
    table_of(detector).write(path)
    gains = read_gains(IsrConfig(gains=str(path)), detector)
    assert gains.source == str(path)
    assert gains.gain[-1] == 1.5
    with pytest.raises(InputError, match="absent"):
        read_gains(IsrConfig(gains=str(tmp_path / "absent.ecsv")), detector)


def test_nominal_gains_are_those_of_the_policy_and_none_is_one(detector):
    # obs_lsst policy of 2021-01 for R22_S11, as in the reference notes.
    nominal = read_gains(IsrConfig(gains="nominal"), detector)
    assert nominal.gain[[0, 15]] == pytest.approx([1.07111, 1.05399])
    none = read_gains(IsrConfig(gains="none"), detector)
    assert none.source == "none"
    np.testing.assert_array_equal(none.gain, 1)


def test_the_gain_rises_with_the_temperature_of_the_board():
    assert temperature_factor(30.0, coefficient=6.5e-4, reference=20.0) == pytest.approx(1.0065)
    assert temperature_factor(20.0, coefficient=6.5e-4, reference=20.0) == 1
    for temperature in (np.nan, 1e5):
        with pytest.raises(CalibrationError, match="temperature"):
            temperature_factor(temperature, coefficient=-6.5e-4, reference=20.0)
