"""Files of the colour of a detector, and flats that it cannot be measured from."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from permil.colour.detector import DetectorColour, LedCorrelation, ScaleCorrelation
from permil.colour.files import read_colour, read_led_flat, write_colour
from permil.colour.moments import Moments, Places
from permil.colour.pattern import Waves
from permil.colour.planes import light_gradient
from permil.errors import InputError
from permil.products import write_image


@pytest.fixture(scope="module")
def detector(bin8):
    return bin8["R22_S11"]


def colour_of(rng, *, waves=2):
    leds, regions = 2, 3

    def places(count):
        return Places(*rng.standard_normal((2, leds, count)), *rng.standard_normal((2, count)))

    def moments(parts):
        return Moments(*rng.standard_normal((2, parts, leds, leds)), rng.uniform(1, 2, parts))

    return DetectorColour(
        detector="R22_S11",
        leds=("uv", "red"),
        regions=("C00", "C01", "all"),
        medians=rng.standard_normal((leds, regions)),
        errors=rng.standard_normal((leds, regions)),
        pixels=np.array([3, 4, 7]),
        centres=rng.standard_normal((regions, 2)),
        planes=rng.standard_normal((leds, 3)),
        plane_covariance=rng.standard_normal((leds, 3, 3)),
        amplifiers=places(2),
        large=places(16),
        moments={"pixel": moments(2), "cell": moments(2), "amplifier": moments(1)},
        waves=Waves(rng.standard_normal((waves, 2)), rng.standard_normal((leds, waves, 2)), rng.standard_normal(leds)),
        correlations=(
            ScaleCorrelation("pixel", ("uv", "red"), True, LedCorrelation(0.5, 0.1, 0.6, 0.1, 1e-3, 40, 30.0, "")),
            ScaleCorrelation("rings", ("uv", "red"), False, LedCorrelation(reason="no tree rings")),
        ),
    )


def assert_same(one, other):
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b)
        elif hasattr(a, "__dataclass_fields__"):
            assert_same(a, b)
        elif isinstance(a, float) and np.isnan(a):
            assert np.isnan(b)
        elif field.name not in ("moments", "correlations"):
            assert a == b, field.name


@pytest.mark.parametrize("waves", [2, 0])
def test_what_is_written_comes_back(tmp_path, waves):
    written = colour_of(np.random.default_rng(1), waves=waves)
    write_colour(tmp_path / "R22_S11.fits", written, {"SEED": (1, "seed")})
    found = read_colour(tmp_path / "R22_S11.fits")
    assert_same(written, found)
    assert written.moments.keys() == found.moments.keys()
    for scale, moments in written.moments.items():
        assert_same(moments, found.moments[scale])
    for one, other in zip(written.correlations, found.correlations, strict=True):
        assert (one.scale, one.leds, one.apart) == (other.scale, other.leds, other.apart)
        assert_same(one.found, other.found)


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "R22_S11.fits"
    write_colour(path, colour_of(np.random.default_rng(1)), {})
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(InputError, match="permil colour CONFIG") as caught:
        read_colour(path)
    assert caught.value.path == str(path)


def divided_flat(path, detector, *, extensions=True, shape=None):
    shape = detector.shape if shape is None else shape
    places = Table({"x_pixel": [100.0, 400.0, 100.0, 400.0], "y_pixel": [100.0, 100.0, 400.0, 400.0]})
    root = 1e-3 * np.array([[1.0, 0, 0, 0], [0.5, 1, 0, 0], [0.2, 0, 1, 0], [0, 0.3, 0.1, 1]])
    covariance = root @ root.T
    further = [fits.BinTableHDU(places, name="PLACES"), fits.ImageHDU(covariance, name="COVARIANCE")] if extensions else []
    ones = np.ones(shape, np.float32)
    write_image(path, ones, np.zeros(shape, np.int32), 1e-6 * ones, header={"DETECTOR": "R22_S11"}, extensions=further)
    return covariance


def test_a_divided_flat_has_the_covariance_of_its_places(tmp_path, detector):
    covariance = divided_flat(tmp_path / "flat.fits", detector)
    modes = read_led_flat(tmp_path / "flat.fits", "uv", detector, super_pixel_mm=0.64).modes
    assert modes.block == 8
    at = [modes.patterns[:, round(y / 8), round(x / 8)] for x, y in ((100, 100), (400, 100), (100, 400), (400, 400))]
    np.testing.assert_allclose(np.array(at) @ np.array(at).T, covariance, atol=1e-12)


def test_flats_that_cannot_be_used_are_named(tmp_path, detector):
    with pytest.raises(InputError, match="the flat of R22_S11 in LED uv does not exist"):
        read_led_flat(tmp_path / "none.fits", "uv", detector, super_pixel_mm=0.64)
    divided_flat(tmp_path / "small.fits", detector, shape=(20, 30))
    with pytest.raises(InputError, match=r"a flat of 30 x 20 pixels for R22_S11, which has 512 x 500"):
        read_led_flat(tmp_path / "small.fits", "uv", detector, super_pixel_mm=0.64)
    divided_flat(tmp_path / "bare.fits", detector, extensions=False)
    with pytest.raises(InputError, match="no extension PLACES"):
        read_led_flat(tmp_path / "bare.fits", "uv", detector, super_pixel_mm=0.64)


def test_the_gradient_of_the_light_is_that_of_the_ratio_of_beams():
    def beam(slope):
        return lambda u: -(((u[:, 0] ** 2 + u[:, 1] ** 2) / 40.0**2) ** 2) + slope * u[:, 0]

    found = light_gradient((beam(2e-4), beam(-1e-4)), np.full(2, -30.0), np.full(2, 30.0))
    np.testing.assert_allclose(found.value, [3e-4, 0.0], atol=1e-9)
    assert found.rms < 1e-9
    structured = light_gradient(
        (lambda u: 1e-3 * np.sin(u[:, 1]), lambda u: np.zeros(len(u))), np.full(2, -10.0), np.full(2, 10.0)
    )
    assert 5e-4 < structured.rms < 2e-3


def test_beams_that_are_known_nowhere_together_have_no_gradient():
    unknown = (lambda u: np.full(len(u), np.nan), lambda u: np.zeros(len(u)))
    assert light_gradient(unknown, np.full(2, -5.0), np.full(2, 5.0)) is None
    assert light_gradient(unknown, np.full(2, 5.0), np.full(2, -5.0)) is None


def test_an_unknown_led_is_labelled_by_its_name(bin8):
    assert [bin8.led(name).label for name in ("uv", "nm960", "green")] == ["uv (u)", "nm960 (y, 960 nm)", "green"]
    assert bin8.sorted_leds(["nm850", "green", "blue", "uv"]) == ["uv", "blue", "nm850", "green"]
    assert np.isnan(bin8.led("red").wavelength_nm)
    assert replace(bin8.led("red"), band="").label == "red"
