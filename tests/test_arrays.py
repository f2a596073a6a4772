"""The gate for arrays: masks, units and byte orders of all array types that users have."""

import numpy as np
import pytest
from astropy import units as u
from astropy.table import Column, MaskedColumn
from astropy.utils.masked import Masked

from permil.arrays import mask_of, median, parse_unit, plain_array, plain_flags, plain_image, require_linear, unit_factor, unit_of
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
    "list of masked quantities": [Masked(1.0 * u.mm), Masked(0.2 * u.cm, mask=True)],
    "nested list": (1.0, np.float32("nan")),
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
        ("Ne/DN", 1.0, "electron/adu"),
        ("electrons per ADU", 1.0, "electron/adu"),
        ("kct", 1e3, "adu"),
        ("ppm / adu", 1e-6, "1/adu"),
        ("per mil", 1e-3, ""),
        ("[mm]", 1.0, "mm"),
        ("days", 86400.0, "s"),
        ("msec", 1e-3, "s"),
        ("adu / ct", 1.0, ""),
    ],
)
def test_usual_spellings_of_units(text, factor, wanted):
    assert unit_factor(parse_unit(text), wanted, name="x") == pytest.approx(factor, rel=1e-12)


def test_an_empty_unit_declares_nothing():
    assert parse_unit("") is None
    assert unit_of(Column([1.0], unit="")) is None
    assert unit_of([1.0]) is None


@pytest.mark.parametrize("text", ["None", "-", "--", "dimensionless", "n/a"])
def test_names_that_declare_no_unit(text):
    assert parse_unit(text) is None


@pytest.mark.parametrize("unit", ["mag", "mmag", "mag(ct)", "dB", "dex", "mag(AB)"])
def test_logarithms_are_distinguished_from_fluxes(unit):
    with pytest.raises(InputError, match="a logarithmic unit"):
        require_linear(u.Unit(unit), name="signal")
    with pytest.raises(InputError, match="cannot be converted"):
        plain_array(Column([1.0], unit=unit), name="signal", unit="adu")


class Series:
    """What pandas, xarray and Dask have in common: a class of its own that NumPy can make an array of."""

    def __init__(self, values, dtype=None):
        self.values = np.array(values, dtype=dtype)

    def __array__(self, dtype=None, copy=None):
        """Return the values."""
        return self.values if dtype is None else self.values.astype(dtype)

    def mask(self):
        """Fail: this is no mask."""
        raise AssertionError("the method of pandas is no mask")


class PintQuantity:
    """A quantity of Pint: magnitude and units."""

    magnitude, units = np.array([1.0, 2.0]), "centimeter"


def test_series_and_quantities_of_other_packages():
    missing = type("NAType", (), {})()
    np.testing.assert_array_equal(plain_array(Series([1.0, missing], dtype=object), name="x"), [1.0, np.nan])
    np.testing.assert_array_equal(plain_array(Series([1, 2]), name="x"), [1.0, 2.0])
    np.testing.assert_allclose(plain_array(PintQuantity(), name="x", unit="mm"), [10.0, 20.0])


@pytest.mark.parametrize(
    "values",
    [
        np.float64(2.0), np.array(2.0), 2, np.array([2.0, 0.0, 3.0, 0.0])[::2][:1], np.array([[2.0]])[0], range(2, 3),
        np.array([2.0], dtype=np.longdouble), np.array([2.0], dtype=np.float16),
    ],
)  # fmt: skip
def test_scalars_views_and_other_widths(values):
    assert plain_array(values, name="x").ravel().tolist() == [2.0]


def test_a_read_only_array_is_copied():
    values = np.ma.array([1.0, 2.0], mask=[False, True])
    values.flags.writeable = False
    assert np.isnan(plain_array(values, name="x")[1])


@pytest.mark.parametrize("values", [[[1.0, 2.0], [3.0]], [1.0 * u.mm, 2.0 * u.s], [1.0 * u.mm, 2.0]])
def test_lists_that_are_no_array(values):
    with pytest.raises(InputError, match="x cannot be converted to an array"):
        plain_array(values, name="x")


def test_images_are_copied_only_where_needed():
    image = np.ones((2, 2), dtype=np.float32)
    assert plain_image(image, name="image") is image
    assert plain_image(image.astype(">f4"), name="image").dtype == np.dtype("=f8")
    assert np.isnan(plain_image(np.ma.array(image, mask=[[True, False], [False, False]]), name="image")[0, 0])
    with pytest.raises(InputError, match=r"image has the shape \(2, 2\), not \(3, 3\)"):
        plain_image(image, name="image", shape=(3, 3))


def test_flags():
    assert plain_flags(np.ma.array([True, True, False], mask=[True, False, False]), name="good").tolist() == [False, True, False]
    assert plain_flags([1, 0], name="good").tolist() == [True, False]
    with pytest.raises(InputError, match="neither true nor false"):
        plain_flags([1, 2], name="good")


@pytest.mark.parametrize("kind", ["f4", "f8", "i2", "i4"])
@pytest.mark.parametrize("size", [1, 2, 3, 16, 17, 1000, 1001])
def test_medians_have_the_bits_of_numpy(size, kind):
    rng = np.random.default_rng(size)
    values = (100 * rng.standard_normal((3, size))).astype(kind)
    assert median(values) == np.median(values)
    for axis in (0, 1):
        found, expected = median(values, axis), np.median(values, axis=axis)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    if values.dtype.kind == "f":
        values[1, size // 2] = np.nan
        assert np.isnan(median(values))
        np.testing.assert_array_equal(median(values, axis=1), np.median(values, axis=1))
