"""Array arguments of the public functions of flats: masks, byte orders, units, shapes."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units as u
from astropy.utils.masked import Masked

from permil.errors import FlatError, PermilError
from permil.flat.apply import apply_flat
from permil.flat.boundaries import amplifier_factors, fit_boundary_steps
from permil.flat.composite import response_histogram
from permil.flat.difference import flat_difference
from permil.flat.flat import Flat
from permil.flat.shared_errors import fit_plane
from permil.flat.superpixel import super_pixels
from permil.isr import photodiode_scale, select_by_photodiode
from permil.products import MaskPlane

RNG = np.random.default_rng(0)
IMAGE, FLAT = RNG.normal(1000.0, 1.0, (6, 8)), RNG.normal(1.0, 0.01, (6, 8))
HOLE = np.zeros((6, 8), dtype=bool)
HOLE[2, 3] = True
NO_PLANES = np.zeros((6, 8), dtype=np.int32)


def divided(**change: object) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    arguments: dict = {"image": IMAGE, "variance": IMAGE, "mask": NO_PLANES, "flat": FLAT, "flat_variance": 1e-6 + 0 * FLAT}
    return apply_flat(**arguments | {"flat_mask": NO_PLANES} | change)


@pytest.mark.parametrize(
    "change",
    [
        {"image": np.ma.array(np.where(HOLE, -9999.0, IMAGE), mask=HOLE)},
        {"image": Masked(np.where(HOLE, -9999.0, IMAGE), mask=HOLE)},
        {"flat": np.ma.array(np.where(HOLE, -9999.0, FLAT), mask=HOLE)},
        {"flat": np.where(HOLE, np.nan, FLAT)},
        {"mask": HOLE, "image": np.where(HOLE, np.nan, IMAGE)},
        {"flat_mask": HOLE},
        {"flat_mask": np.ma.array(NO_PLANES, mask=HOLE)},
    ],
    ids=["masked image", "Masked image", "masked flat", "NaN in the flat", "mask of bool", "flat mask of bool", "masked mask"],
)
def test_masked_pixels_have_no_data(change: dict[str, object]) -> None:
    image, _, mask = divided(**change)
    np.testing.assert_array_equal((mask & MaskPlane.NO_DATA) != 0, HOLE)
    np.testing.assert_array_equal(np.isnan(image), HOLE)


@pytest.mark.parametrize(
    "change",
    [
        {"image": IMAGE.astype(">f8"), "flat": FLAT.astype(">f8"), "mask": NO_PLANES.astype(">i2")},
        {"image": IMAGE.tolist(), "flat": FLAT.tolist(), "mask": NO_PLANES.tolist()},
        {"image": np.asfortranarray(IMAGE), "flat": FLAT[::-1][::-1]},
        {"image": IMAGE / 1e3 * u.Unit("kadu"), "variance": (IMAGE * u.adu**2).to(u.Unit("kadu2"))},
    ],
    ids=["big-endian", "lists", "other layouts", "units"],
)
def test_other_kinds_of_images(change: dict[str, object]) -> None:
    factor = 1e-3 if hasattr(change["image"], "unit") else 1.0
    for found, expected, power in zip(divided(**change)[:2], divided()[:2], (1, 2), strict=True):
        np.testing.assert_allclose(found, expected * factor**power, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flat": FLAT * u.adu}, "flat is given in adu"),
        ({"variance": np.ones((6, 7))}, "variance has the shape"),
        ({"mask": NO_PLANES[:2]}, "mask has the shape"),
        ({"mask": FLAT}, "mask holds no mask planes"),
        ({"image": IMAGE + 1j}, "image does not hold real numbers"),
        ({"image": IMAGE * u.adu, "variance": IMAGE * u.adu}, "variance is given in adu"),
    ],
)
def test_images_that_cannot_be_divided(change: dict[str, object], message: str) -> None:
    with pytest.raises(PermilError, match=message):
        divided(**change)


@pytest.mark.parametrize("kind", ["masked", "big-endian", "masked good"])
def test_other_public_functions(bin8, kind: str) -> None:
    detector = bin8["R22_S11"]
    rng = np.random.default_rng(1)
    first, second = rng.normal(1.0, 0.01, (2, *detector.shape))
    hole = np.zeros(detector.shape, dtype=bool)
    hole[100:140, 90:130] = True
    good, variance = ~hole, np.full(detector.shape, 1e-4)
    junk = np.where(hole, 50.0, first)
    given, flags = {
        "masked": (np.ma.array(junk, mask=hole), np.ones(detector.shape, dtype=bool)),
        "big-endian": (first.astype(">f8"), good.astype(">i2")),
        "masked good": (junk, np.ma.array(np.ones(detector.shape, dtype=bool), mask=hole)),
    }[kind]
    options = {"detector": detector, "super_pixel_mm": 1.6}
    expected = flat_difference(first, variance, second, variance, good, **options)
    found = flat_difference(given, variance, second, variance, flags, **options)
    assert (found.scale, found.rms_super, found.gradient_x) == (expected.scale, expected.rms_super, expected.gradient_x)
    np.testing.assert_array_equal(super_pixels(given, flags, 20).mean, super_pixels(first, good, 20).mean)
    np.testing.assert_array_equal(response_histogram(given, flags).counts, response_histogram(first, good).counts)
    np.testing.assert_array_equal(
        fit_boundary_steps(given, flags, detector).factor, fit_boundary_steps(first, good, detector).factor
    )


def test_masked_places_and_factors(bin8) -> None:
    detector = bin8["R22_S11"]
    factor = np.ma.array(np.full(16, 9.0), mask=np.arange(16) > 0)
    assert set(np.unique(amplifier_factors(detector, factor)).tolist()) == {1.0, np.float32(np.exp(9.0))}
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(4.0), np.arange(4.0)))
    places = (np.array([0.0, 3.0, 0.0, 3.0]), np.array([0.0, 0.0, 3.0, 3.0]))
    response = np.ma.array(1.0 + 0.1 * x, mask=x == 3)
    response[x == 3] = np.ma.masked
    plane = fit_plane(response, 0.1 * x * u.cm, y, centre=(0.0, 0.0), places=places, covariance=np.eye(4) * 1e-6)
    assert (plane.level, plane.gradient_x) == pytest.approx((1.0, 0.1))


def test_masked_readings_of_the_photodiode_are_left_out() -> None:
    readings = np.ma.array([1.0, -9999.0, 2.0], mask=[False, True, False])
    selection = select_by_photodiode(readings, ["a", "b", "c"])
    assert selection.used.tolist() == [True, False, True]
    assert selection.left_out[0].reason == "photodiode reading is missing"
    assert photodiode_scale(np.array([1.0, 2.0], dtype=">f4"), [1, 2]).factor == pytest.approx(1.0)


@pytest.mark.parametrize("factor", [2, 2.0, np.float64(2), np.float32(2), np.int64(2)], ids=lambda factor: type(factor).__name__)
def test_flats_are_scaled_by_numbers(factor: float) -> None:
    flat = Flat(FLAT)
    for scaled in (flat * factor, factor * flat, flat / (1 / factor)):
        assert isinstance(scaled, Flat)
        np.testing.assert_allclose(scaled.image, 2 * FLAT, rtol=1e-6)


def test_products_of_flats_and_arrays_are_refused() -> None:
    """NumPy made an array with a flat for each pixel."""
    flat = Flat(FLAT)
    for product in (
        lambda: flat * IMAGE,
        lambda: IMAGE * flat,
        lambda: flat / IMAGE,
        lambda: IMAGE / flat,
        lambda: np.multiply(IMAGE, flat),
        lambda: u.Quantity(IMAGE, "adu") / flat,
    ):
        with pytest.raises(TypeError):
            product()


@pytest.mark.parametrize("zero", [0, 0.0, np.float32(0)])
def test_flats_are_not_divided_by_zero(zero: float) -> None:
    with pytest.raises(FlatError, match="give a positive number"):
        Flat(FLAT) / zero


def test_flats_are_compared_with_flats() -> None:
    with pytest.raises(FlatError, match=r"cannot be compared with ndarray; give a permil\.Flat"):
        Flat(FLAT).difference(FLAT)  # type: ignore[arg-type]
