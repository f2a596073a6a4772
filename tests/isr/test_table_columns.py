"""Units, masks, labels and types of the columns of gain, linearity, crosstalk and defect tables."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Column, MaskedColumn, Table

from permil.config.isr import IsrConfig
from permil.errors import CalibrationError, PermilError
from permil.isr.calibration.crosstalk import crosstalk_from_table
from permil.isr.calibration.gains import gains_from_table, read_gains
from permil.isr.calibration.linearity import LinearityCurve, linearity_from_table
from permil.isr.calibration.masks import defect_boxes
from permil.isr.inputs import load_calibration


def amplifiers(detector, **columns):
    table = Table({"detector": [detector.name] * 16, "segment": [amplifier.name for amplifier in detector.amplifiers]})
    for name, column in columns.items():
        table[name] = column
    return table


@pytest.mark.parametrize(
    ("unit", "err_unit", "gain", "err"),
    [
        ("electron/adu", "electron/adu", 2.0, 0.1),
        ("e-/ADU", None, 2.0, 0.1),
        ("Ne/DN", "Ne/DN", 2.0, 0.1),
        ("adu/electron", "adu/electron", 0.5, 0.025),
        ("DN / e-", None, 0.5, 0.025),
        (None, "adu / electron", 0.5, 0.025),
        ("electron / dct", "electron / ct", 20.0, 0.1),
    ],
)
def test_gains_in_any_unit(detector, unit, err_unit, gain, err):
    table = amplifiers(detector, gain=Column(np.full(16, 2.0), unit=unit), gain_err=Column(np.full(16, 0.1), unit=err_unit))
    found = gains_from_table(table, detector)
    np.testing.assert_allclose(found.gain, gain, rtol=1e-12)
    np.testing.assert_allclose(found.gain_err, err, rtol=1e-12)


@pytest.mark.parametrize(
    ("gain", "unit", "stated"),
    [
        (1e30, "electron/adu", r"1e\+30 electrons per adu, but nominally 1\.09"),
        (1e-30, "electron/adu", "1e-30 electrons per adu"),
        (1e30, "adu/electron", "1e-30 electrons per adu"),
        (1.139e-3, None, "0.001139 electrons per adu"),
        (1.139e-3, "electron/adu", "0.001139 electrons per adu"),
        (0.0, "electron/adu", "0.0; gains are positive"),
        (-1.139, "electron/adu", "-1.139; gains are positive"),
        (0.0, "adu/electron", "0.0; gains are positive"),
    ],
)
def test_gains_that_no_readout_has(detector, gain, unit, stated):
    gains = np.where(np.arange(16) == 4, gain, 0.878 if unit == "adu/electron" else 1.139)
    table = amplifiers(detector, gain=Column(gains, unit=unit))
    with pytest.raises(CalibrationError, match=rf"gains\.ecsv: the gain of R22_S11 C14 is {stated}"):
        gains_from_table(table, detector, path="gains.ecsv")


@pytest.mark.parametrize(
    ("unit", "err_unit"),
    [("electron", None), ("mm", None), ("mag", None), ("electron/adu", "%"), ("adu/electron", "electron/adu"), ("fish", None)],
)  # fmt: skip
def test_gains_in_units_that_cannot_be_converted(detector, unit, err_unit):
    table = amplifiers(detector, gain=Column(np.full(16, 2.0), unit=unit), gain_err=Column(np.full(16, 0.1), unit=err_unit))
    with pytest.raises(CalibrationError, match=r"gains\.ecsv: the gain table: .*(cannot be converted|is unknown)"):
        gains_from_table(table, detector, path="gains.ecsv")


def test_an_unknown_error_of_a_gain_is_nan_and_a_negative_one_an_error(detector):
    errors = MaskedColumn(np.full(16, 0.1), mask=np.arange(16) == 3)
    found = gains_from_table(amplifiers(detector, gain=1.0, gain_err=errors), detector)
    np.testing.assert_array_equal(np.isnan(found.gain_err), np.arange(16) == 3)
    errors = np.where(np.arange(16) == 3, -0.1, 0.1)
    with pytest.raises(CalibrationError, match=r"-0\.1 in column gain_err \(row 4"):
        gains_from_table(amplifiers(detector, gain=1.0, gain_err=errors), detector)


@pytest.mark.parametrize(
    ("errors", "message"),
    [(["?"] * 16, r"'\?' in row 1"), (np.zeros((16, 2)), "2 values"), (np.ones(16, bool), "'True' in row 1"), (np.full(16, 1j), "row 1")],
)  # fmt: skip
def test_an_error_column_without_numbers(detector, errors, message):
    with pytest.raises(CalibrationError, match=rf"gains\.ecsv: .*column gain_err .*{message}"):
        gains_from_table(amplifiers(detector, gain=1.0, gain_err=errors), detector, path="gains.ecsv")


@pytest.mark.parametrize("name", ["sigma", "gain_std", "Error", "gain_error"])
def test_an_error_under_another_name_is_not_ignored(detector, name):
    table = amplifiers(detector, gain=1.0)
    table[name] = 0.1
    with pytest.raises(CalibrationError, match=rf"column '{name}', which would be ignored \(did you mean gain_err\?\)"):
        gains_from_table(table, detector)
    table["gain_err"] = 0.2
    np.testing.assert_array_equal(gains_from_table(table, detector).gain_err, 0.2)


LABELS = {
    "R22-S11": "R22-S11", "r22_s11": "r22_s11", "number": 94, "digits": "094", "real number": 94.0, "det094": "det094",
    "blanks": " R22_S11 ",
}  # fmt: skip


@pytest.mark.parametrize("label", [*LABELS.values(), "serial"], ids=[*LABELS, "serial"])
def test_detectors_in_any_spelling(detector, bin8, label):
    table = amplifiers(detector, gain=np.arange(1.0, 17.0))
    table["detector"] = [detector.serial if label == "serial" else label] * 16
    np.testing.assert_array_equal(gains_from_table(table, detector, camera=bin8).gain, np.arange(1.0, 17.0))


@pytest.mark.parametrize("label", ["R22_S13", "R99_S11", "205", "E2V-CCD250-999", "bright", ""])
@pytest.mark.parametrize("kind", ["gain", "crosstalk", "defect", "linearity"])
def test_a_detector_that_does_not_exist_is_named_with_its_row(detector, bin8, label, kind):
    three = {"detector": [detector.name] * 3}
    rows = {
        "gain": (gains_from_table, amplifiers(detector, gain=1.0)),
        "linearity": (linearity_from_table, amplifiers(detector, a1=0.0)),
        "crosstalk": (
            crosstalk_from_table,
            Table({**three, "victim": ["C10"] * 3, "source": ["C11", "C12", "C13"], "coefficient": [1e-4] * 3}),
        ),
        "defect": (defect_boxes, Table({**three, "x": [1, 2, 3], "y": [1, 2, 3]})),
    }  # fmt: skip
    reader, table = rows[kind]
    table["detector"] = [detector.name, label, *[detector.name] * (len(table) - 2)]
    with pytest.raises(CalibrationError, match=rf"t\.ecsv: the {kind} table names detector '?{label or 'nothing'}'? in row 2"):
        reader(table, detector, path="t.ecsv", camera=bin8)


def test_detectors_of_the_whole_camera_may_be_in_a_table_for_a_part_of_it(detector, bin8):
    table = Table({"detector": ["R00_SW0", "R22_S11"], "x": [5, 2], "y": [6, 3]})
    assert defect_boxes(table, detector, camera=bin8) == [(2, 3, 1, 1)]


def test_masked_labels_name_the_row(detector):
    table = amplifiers(detector, gain=1.0)
    for column in ("detector", "segment"):
        masked = table.copy()
        masked[column] = MaskedColumn(masked[column], mask=np.arange(16) == 4)
        with pytest.raises(CalibrationError, match=r"'nothing' in (row 5|column segment.*\(row 5)"):
            gains_from_table(masked, detector)


AMPLIFIERS = {
    "c14": ("segment", lambda amplifier: amplifier.name.lower()),
    "SEGMENT14": ("segment", lambda amplifier: f"SEGMENT{amplifier.name[1:]}"),
    "14": ("segment", lambda amplifier: int(amplifier.name[1:])),
    "Amp05": ("amp", lambda amplifier: f"Amp{amplifier.number:02d}"),
    "5.0": ("amp", lambda amplifier: float(amplifier.number)),
    "C14 in amp": ("amp", lambda amplifier: amplifier.name),
    "bytes": ("segment", lambda amplifier: amplifier.name.encode()),
}


@pytest.mark.parametrize(("column", "label"), AMPLIFIERS.values(), ids=AMPLIFIERS)
def test_amplifiers_in_any_spelling(detector, column, label):
    gain = np.arange(1.0, 17.0)
    table = Table(
        {"detector": [detector.name] * 16, column: [label(amplifier) for amplifier in detector.amplifiers], "gain": gain}
    )
    np.testing.assert_array_equal(gains_from_table(table, detector).gain, gain)


@pytest.mark.parametrize("label", ["C18", "17", "0", "1.5", "Amp17", "bright"])
def test_an_amplifier_that_does_not_exist(detector, label):
    table = amplifiers(detector, gain=1.0)
    table.rename_column("segment", "amp")
    table["amp"] = [label, *table["amp"][1:]]
    with pytest.raises(CalibrationError, match=rf"names amplifier '{label}' in column amp.*row 1"):
        gains_from_table(table, detector)


@pytest.mark.parametrize(("unit", "factor"), [("%", 1e-2), (None, 1.0), ("ppm", 1e-6), ("adu/adu", 1.0), ("per mil", 1e-3)])
def test_crosstalk_in_any_unit(detector, unit, factor):
    coefficient = Column([0.02, 0.05], unit=unit)
    table = Table(
        {"detector": [detector.name] * 2, "victim": ["C10", "C11"], "source": ["C11", "C12"], "coefficient": coefficient}
    )
    assert crosstalk_from_table(table, detector).max() == pytest.approx(0.05 * factor, rel=1e-12)


@pytest.mark.parametrize("unit", ["electron/adu", "adu", "mag"])
def test_crosstalk_in_a_unit_that_is_no_fraction(detector, unit):
    table = Table({"detector": [detector.name], "victim": ["C10"], "source": ["C11"], "coefficient": Column([0.02], unit=unit)})
    with pytest.raises(CalibrationError, match="cannot be converted to a plain number"):
        crosstalk_from_table(table, detector)


@pytest.mark.parametrize(
    ("unit", "factor"), [("1e-6 / adu", 1e-6), ("1/kadu", 1e-3), ("ADU-1", 1.0), ("ppm/ADU", 1e-6), (None, 1.0)]
)
def test_linearity_in_any_unit(detector, unit, factor):
    table = amplifiers(detector, a1=Column(np.full(16, 5e-8 / factor), unit=unit))
    assert linearity_from_table(table, detector)[0].coefficients[0][2] == pytest.approx(5e-8, rel=1e-12)


@pytest.mark.parametrize("a1", [0.05, 1e-5, -1e-5, -0.05])
def test_a_coefficient_in_another_unit_is_refused(detector, a1):
    """A negative one bends signals below saturation downwards."""
    values = np.full(16, 1e-7)
    values[3] = a1
    with pytest.raises(CalibrationError, match=r"l\.ecsv: the linearity of R22_S11 C13 maps \d+ adu to -?\d+; give a1 in 1/adu"):
        linearity_from_table(amplifiers(detector, a1=values), detector, path="l.ecsv")


@pytest.mark.parametrize("factor", [1e-3, 0.3, 1.6, 1e3])
def test_knots_in_another_unit_are_refused(detector, factor):
    rows = [(detector.name, amplifier.name, adu, factor * adu) for amplifier in detector.amplifiers for adu in (1e3, 5e4)]
    table = Table(rows=rows, names=("detector", "segment", "adu", "corrected_adu"))
    with pytest.raises(CalibrationError, match=r"the linearity of R22_S11 C10 maps 50000 adu to"):
        linearity_from_table(table, detector)


@pytest.mark.parametrize("name", ["a0", "a2", "A3", "c2", "p_2"])
def test_coefficients_of_another_polynomial_are_refused(detector, name):
    table = amplifiers(detector, a1=1e-7, a1_err=1e-9)
    assert linearity_from_table(table, detector)
    table[name] = 1e-12
    with pytest.raises(CalibrationError, match=rf"l\.ecsv: the linearity table has a column '{name}', which would be ignored"):
        linearity_from_table(table, detector, path="l.ecsv")


@pytest.mark.parametrize("kind", ["gain", "linearity"])
@pytest.mark.parametrize("wrong", [1, 0, "C12"], ids=str)
def test_two_columns_that_name_different_amplifiers_are_refused(detector, kind, wrong):
    """Tables of other programs count amplifiers from 0, or along the other half of the sensor."""
    reader = {"gain": gains_from_table, "linearity": linearity_from_table}[kind]
    table = amplifiers(detector, amp=[amplifier.number for amplifier in detector.amplifiers], gain=1.0, a1=1e-7)
    assert reader(table, detector)
    labels = table["amp"].tolist()
    labels[4] = wrong
    table["amp"] = labels if isinstance(wrong, int) else [str(label) for label in labels]
    with pytest.raises(CalibrationError, match=rf"t\.ecsv: the {kind} table names amplifier .*in column amp.*\(row 5"):
        reader(table, detector, path="t.ecsv")


@pytest.mark.parametrize("column", ["source_detector", "victim_detector"])
def test_crosstalk_between_detectors_is_refused(detector, column):
    table = Table(
        {"detector": [detector.name] * 2, "victim": ["C10", "C11"], "source": ["C11", "C12"], "coefficient": [1e-4] * 2}
    )
    table[column] = [detector.name, detector.id]
    assert crosstalk_from_table(table, detector).max() == 1e-4
    table[column] = [detector.name, "R22_S12"]
    with pytest.raises(CalibrationError, match=rf"x\.ecsv: .*R22_S12 in column {column}.*\(row 2"):
        crosstalk_from_table(table, detector, path="x.ecsv")


def test_knots_in_kadu_are_converted_and_in_electrons_refused(detector):
    table = amplifiers(
        detector, adu=Column(np.full(16, 50.0), unit="kadu"), corrected_adu=Column(np.full(16, 51000.0), unit="adu")
    )
    assert linearity_from_table(table, detector)[0](50000.0) == pytest.approx(51000.0)
    table["adu"].unit = "electron"
    with pytest.raises(CalibrationError, match="column adu is given in electron"):
        linearity_from_table(table, detector)
    with pytest.raises(PermilError, match="cannot be converted"):
        LinearityCurve.through(Column([1.0, 2.0], unit="electron"), [1.0, 2.0])


def test_a_knot_given_twice_names_its_row(detector):
    table = amplifiers(detector, adu=1e4, corrected_adu=1.01e4)
    table = table[[*range(16), 3]]
    with pytest.raises(CalibrationError, match=r"the knot at 10000 adu of C13 twice \(row 17"):
        linearity_from_table(table, detector)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x": Column([1.0], unit="mm")}, "column x is given in mm"),
        ({"x": [1.5]}, "not in whole pixels"),
        ({"x": MaskedColumn([1], mask=[True])}, "holds nothing in column x"),
        ({"widht": [5]}, "did you mean width"),
        ({"dy": [5]}, "did you mean height"),
        ({"width": ["five"]}, "'five' in row 1"),
    ],
)
def test_defects_that_cannot_be_understood(detector, columns, message):
    table = Table({"detector": [detector.name], "x": [1], "y": [2]})
    for name, column in columns.items():
        table[name] = column
    with pytest.raises(CalibrationError, match=message):
        defect_boxes(table, detector)


@pytest.mark.parametrize(
    "names",
    [("x1", "y1"), ("x2", "y2"), ("x_max", "y_max"), ("xmax", "ymax"), ("X_end", "Y_end"), ("radius",), ("length",), ("size",), ("npix",)],
    ids=str,
)  # fmt: skip
def test_sizes_of_defects_given_in_another_way_are_refused(detector, names):
    """They would be defects of one pixel."""
    table = Table({"detector": [detector.name], "x": [10], "y": [20]} | {name: [25] for name in names})
    for width in (None, 3):
        if width is not None:
            table["width"] = width
        with pytest.raises(
            CalibrationError, match=rf"d\.ecsv: the defect table has a column '{names[0]}', which would be ignored"
        ):
            defect_boxes(table, detector, path="d.ecsv")
    table["height"] = 4
    assert defect_boxes(table, detector) == [(10, 20, 3, 4)]


def test_a_detector_without_defects_has_none_and_one_without_crosstalk_is_an_error(detector):
    assert not defect_boxes(Table({"detector": ["R02_S02"], "x": [1], "y": [2]}), detector)
    table = Table({"detector": ["R02_S02"], "victim": ["C10"], "source": ["C11"], "coefficient": [1e-4]})
    with pytest.raises(CalibrationError, match="no row for detector R22_S11"):
        crosstalk_from_table(table, detector)


def test_fits_tables_of_gains_and_eotest_units(tmp_path, detector, bin8):
    table = amplifiers(detector, gain=Column(np.full(16, 0.5), unit="adu"))
    table["gain"].unit = None
    hdu = fits.BinTableHDU(table)
    hdu.columns["gain"].unit = "DN/e-"
    hdu.writeto(tmp_path / "gains.fits")
    config = IsrConfig(gains=str(tmp_path / "gains.fits"), bias="none")
    np.testing.assert_array_equal(load_calibration(detector, bin8, config).gains.gain, 2.0)
    results = Table({"AMP": np.arange(1, 17), "PTC_GAIN": np.full(16, 1.5), "PTC_GAIN_ERROR": np.full(16, 0.1)})
    hdu = fits.BinTableHDU(results, name="AMPLIFIER_RESULTS")
    hdu.columns["PTC_GAIN"].unit = "Ne/DN"
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(Table({"AMP": [1]}), name="OTHER"), hdu]).writeto(
        tmp_path / "r22-s11_6801D_eotest_results.fits.gz"
    )
    gains = read_gains(IsrConfig(gains=str(tmp_path)), detector)
    np.testing.assert_array_equal(gains.gain, 1.5)
    np.testing.assert_array_equal(gains.gain_err, 0.1)
    hdu.columns["PTC_GAIN"].unit = "DN"
    hdu.writeto(tmp_path / "r22-s11_6801D_eotest_results.fits.gz", overwrite=True)
    with pytest.raises(CalibrationError, match="column PTC_GAIN is given in"):
        read_gains(IsrConfig(gains=str(tmp_path)), detector)
