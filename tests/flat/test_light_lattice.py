"""Light between the nodes of a lattice against the light itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from permil.beam.model import SplineTable
from permil.camera import Detector, frames, load_camera
from permil.flat.joint.light import CELL, ExposureLight, JointLight, LightLattice, mean_light
from permil.simulate.projector import weather_on_detector

KNOTS_MM = 2.0
EXPOSURE = ExposureLight(scale=1e5, error=1e-4, x_mm=3.0, y_mm=-5.0)
DETECTOR = load_camera("lsstcam")["R22_S11"]


def _light() -> JointLight:
    """Return a beam with structure of a per cent from knot to knot."""
    rng = np.random.default_rng(3)
    u = KNOTS_MM * (np.arange(60) - 30)
    logarithm = -np.add.outer(u**2, u**2) / 5000 + rng.normal(0, 0.01, (60, 60))
    return JointLight(((SplineTable(logarithm, np.full(2, u[0]), KNOTS_MM), -1.0),), {})


def _exact(light: JointLight, detector: Detector, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    (table, sign), (origin, matrix) = light.tables[0], frames.ccs_affine(detector)
    places = origin + np.column_stack([x, y]) @ matrix.T + sign * np.array([EXPOSURE.x_mm, EXPOSURE.y_mm])
    return np.exp(table.at(places))


def test_it_is_the_light_itself_to_single_precision() -> None:
    light, rng = _light(), np.random.default_rng(0)
    on_pixels = light.on_detector(DETECTOR, EXPOSURE)
    image = on_pixels(slice(None), slice(None))
    y, x = rng.integers(0, DETECTOR.ny, 20_000), rng.integers(0, DETECTOR.nx, 20_000)
    y[:4], x[:4] = [0, 0, DETECTOR.ny - 1, DETECTOR.ny - 1], [0, DETECTOR.nx - 1, 0, DETECTOR.nx - 1]
    error = image[y, x] / _exact(light, DETECTOR, y, x) - 1
    assert np.abs(error).max() < 1e-6
    assert error.std() < 2e-7


def test_weather_of_the_light_is_the_simulated_one() -> None:
    clean, coefficients, half = _light(), (2e-4, -3e-4, 1e-4, 4e-4, -2e-4), 40.0
    light = replace(clean, weather_frame=(1.0, 2.0, half))
    exposure = replace(EXPOSURE, weather=coefficients)
    columns = slice(5, None, 40)
    ratio = light.on_detector(DETECTOR, exposure)(columns, columns) / clean.on_detector(DETECTOR, EXPOSURE)(columns, columns)
    centre = (EXPOSURE.x_mm + 1.0, EXPOSURE.y_mm + 2.0)
    expected = weather_on_detector(coefficients, DETECTOR, centre, half_window=half)[columns, columns]
    np.testing.assert_allclose(ratio, np.exp(expected - 1.0), atol=2e-6)
    opposite = replace(exposure, weather=tuple(-each for each in coefficients))
    assert mean_light([exposure, opposite]).weather == (0.0,) * 5


@pytest.mark.parametrize("rows", [slice(0, 1), slice(1000, 1033), slice(3999, None), slice(8, None, 16), slice(5, 3000, 7)])
@pytest.mark.parametrize("columns", [slice(None), slice(8, None, 16)])
def test_parts_have_the_bits_of_the_whole(rows: slice, columns: slice) -> None:
    on_pixels = _light().on_detector(DETECTOR, EXPOSURE)
    np.testing.assert_array_equal(on_pixels(rows, columns), on_pixels(slice(None), slice(None))[rows, columns])


@pytest.mark.parametrize("shape", [(1, 1), (7, 9), (16, 16), (33, 50)])
def test_cubic_surfaces_are_exact_for_every_shape(shape: tuple[int, int]) -> None:
    def cubic(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return 1 + 1e-2 * x - 2e-3 * y**2 + 1e-5 * x**3 - 3e-4 * x * y

    rows, columns = LightLattice.node_shape(shape)
    nodes = cubic(CELL * (np.arange(rows)[:, None] - 1.0), CELL * (np.arange(columns) - 1.0)).astype(np.float32)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    found = LightLattice(nodes, shape).on_pixels(slice(None), slice(None))
    np.testing.assert_allclose(found, cubic(y, x), atol=1e-5, rtol=0)


def test_coarse_pixels_are_not_interpolated() -> None:
    light, coarse = _light(), load_camera("lsstcam-bin8")["R22_S11"]
    image = light.on_detector(coarse, EXPOSURE)(slice(100, 120), slice(3, None, 4))
    y, x = (grid.ravel() for grid in np.meshgrid(np.arange(100, 120), np.arange(3, coarse.nx, 4), indexing="ij"))
    np.testing.assert_allclose(image.ravel(), _exact(light, coarse, y, x), rtol=1e-6)
