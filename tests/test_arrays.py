"""The gate for arrays: masks, units and byte orders of all array types that users have."""

import numpy as np
import pytest
from astropy import units as u
from astropy.table import Column, MaskedColumn
from astropy.utils.masked import Masked

from permil.arrays import mask_of, parse_unit, plain_array, unit_factor, unit_of
from permil.errors import InputError

MASKED = {
    "masked array": np.ma.array([1.0, 2.0], mask=[False, True]),
    "masked integers": np.ma.array([1, 2], mask=[False, True]),
    "masked column": MaskedColumn([1.0, 2.0], mask=[False, True]),
    "Masked": Masked([1.0, 2.0], mask=[False, True]),
    "masked quantity": Masked([1.0, 2.0] * u.mm, mask=[False, True]),
    "list with None": [1.0, None],
    "list with a masked entry": [1.0, np.ma.masked],
    "objects": np.array([1.0, None], dtype=object),
    "big-endian masked array": np.ma.array(np.array([1.0, 2.0], dtype=">f4"), mask=[False, True]),
}


@pytest.mark.parametrize("values", MASKED.values(), ids=MASKED.keys())
def test_what_is_masked_becomes_nan(values):
    result = plain_array(values, name="signal")
    assert result.dtype == np.dtype("=f8")
    assert result[0] == 1.0
    assert np.isnan(result[1])


def test_mask_of_a_masked_quantity_is_kept():
    np.testing.assert_array_equal(mask_of(MASKED["masked quantity"]), [False, True])


@pytest.mark.parametrize("kind", [">i2", ">i4", ">f4", ">f8", "u1", "f2", bool])
def test_any_type_of_number_becomes_a_native_double(kind):
    result = plain_array(np.array([1, 0], dtype=kind), name="signal")
    assert result.dtype == np.dtype("=f8")
    np.testing.assert_array_equal(result, [1.0, 0.0])


def test_the_input_is_not_changed():
    values = np.ma.array([1.0, 2.0], mask=[False, True])
    plain_array(values, name="signal")
    np.testing.assert_array_equal(values.data, [1.0, 2.0])


@pytest.mark.parametrize(
    "values",
    [Column([2.0], unit="cm"), [2.0] * u.cm, MaskedColumn([20000.0], unit="um"), [20 * u.mm], Column([20.0])],
    ids=["column in cm", "quantity in cm", "column in um", "list of quantities", "no unit"],
)
def test_units_are_converted(values):
    np.testing.assert_allclose(plain_array(values, name="x", unit="mm"), [20.0], rtol=1e-12)


@pytest.mark.parametrize("unit", ["pixel", "mag", "s", "furlongs"])
def test_a_unit_that_cannot_be_converted_is_refused(unit):
    with pytest.raises(InputError, match=r"cannot be converted|is unknown"):
        plain_array(Column([1.0], unit=unit), name="x", unit="mm")


@pytest.mark.parametrize(
    "values", [["a"], [1j], np.array(["2019-10-28"], dtype="M8[D]"), [b"1"], np.array([1.0, "x"], dtype=object)]
)
def test_what_is_no_real_number_is_refused(values):
    with pytest.raises(InputError, match="signal does not hold real numbers"):
        plain_array(values, name="signal")


def test_wrong_shapes_are_refused():
    with pytest.raises(InputError, match="2 dimensions, not 1"):
        plain_array([[1.0]], name="signal", ndim=1)
    with pytest.raises(InputError, match=r"shape \(2,\), not \(3,\)"):
        plain_array([1.0, 2.0], name="signal", shape=(3,))


@pytest.mark.parametrize(
    ("text", "factor", "wanted"),
    [
        ("e-/ADU", 1.0, "electron/adu"),
        ("electron / DN", 1.0, "electron/adu"),
        ("1e-6 / ct", 1e-6, "1/adu"),
        ("%", 1e-2, ""),
        ("microns", 1e-3, "mm"),
        ("(electron)2", 1.0, "electron2"),
        ("electron^2", 1.0, "electron2"),
    ],
)
def test_usual_spellings_of_units(text, factor, wanted):
    assert unit_factor(parse_unit(text), wanted, name="x") == pytest.approx(factor, rel=1e-12)


def test_an_empty_unit_declares_nothing():
    assert parse_unit("") is None
    assert unit_of(Column([1.0], unit="")) is None
    assert unit_of([1.0]) is None
