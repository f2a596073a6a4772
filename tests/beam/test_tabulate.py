"""Fast evaluation on whole detectors."""

from __future__ import annotations

import numpy as np
import pytest
from beams import plateau, scan, structured_beam

from permil.beam import BeamModel
from permil.beam.model import SplineTable
from permil.beam.parameters import Hull
from permil.camera import Camera
from permil.camera.frames import ccs_affine


@pytest.fixture(scope="module")
def model() -> BeamModel:
    return BeamModel.from_nodes(scan(structured_beam(2), 12, 2))


def places(shape: tuple[int, int], origin: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.indices(shape)
    return (
        origin[0] + matrix[0, 0] * columns + matrix[0, 1] * rows,
        origin[1] + matrix[1, 0] * columns + matrix[1, 1] * rows,
    )


@pytest.mark.parametrize("angle", [0.0, 0.4, np.pi / 2, -2.0])
def test_image_equals_evaluate(model: BeamModel, angle: float) -> None:
    matrix = 1.3 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shape = (50, 70)
    origin = -matrix @ [34.0, 26.0]
    beam, error = model.evaluate_image(shape, origin, matrix)
    expected, expected_error = model.evaluate(*places(shape, origin, matrix))
    np.testing.assert_array_equal(np.isnan(beam), np.isnan(expected))
    np.testing.assert_array_equal(np.isnan(error), np.isnan(expected))
    inside = np.isfinite(expected)
    assert 0.1 < inside.mean() < 0.95
    assert np.abs(beam[inside] / expected[inside] - 1.0).max() < 1e-6
    assert np.median(np.abs(error[inside] / expected_error[inside] - 1.0)) < 0.1
    assert error[inside].min() >= 0.0


def test_image_on_a_detector_with_swapped_axes(model: BeamModel, bin8: Camera) -> None:
    detector = bin8["R22_S11"]
    origin, matrix = ccs_affine(detector)
    beam, _ = model.evaluate_image(detector.shape, origin - [3.0, -7.0], matrix)
    ux, uy = places(detector.shape, origin - [3.0, -7.0], matrix)
    row, column = 100, 300
    assert beam[row, column] == pytest.approx(float(model.evaluate(ux[row, column], uy[row, column])[0]), rel=1e-6)
    assert matrix[0, 0] == 0.0


def test_image_off_the_beam_is_empty(model: BeamModel) -> None:
    beam, error = model.evaluate_image((10, 12), np.array([200.0, 0.0]), np.eye(2))
    assert np.isnan(beam).all()
    assert np.isnan(error).all()


def test_spline_reproduces_a_cubic_exactly() -> None:
    rng = np.random.default_rng(0)
    hull = Hull.of(rng.uniform(-10.0, 10.0, (30, 2)))

    def cubic(u: np.ndarray) -> np.ndarray:
        x, y = u.T / 10.0
        return 3.0 + x - 0.5 * x * y + 0.2 * x**3 - 0.1 * y**2 * x

    table = SplineTable.of(cubic, hull, 1.0)
    points = hull.lattice(17)
    np.testing.assert_allclose(table.at(points), cubic(points), atol=2e-7)


def test_hull_of_a_triangle() -> None:
    hull = Hull.of(np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 3.0], [1.0, 1.0]]))
    assert hull.area == pytest.approx(6.0)
    np.testing.assert_array_equal(
        hull.contains([1.0, 4.0, 2.0, 2.0, -1e-3, 0.0], [1.0, 0.0, 1.5, 1.501, 1.0, 3.0]), [1, 1, 1, 0, 0, 1]
    )


@pytest.mark.full
def test_full_detector_is_that_of_single_places() -> None:
    model = BeamModel.from_nodes(scan(plateau, 12, 1))
    matrix, origin = np.array([[0.0, 0.01], [0.01, 0.0]]), np.array([-20.0, -20.5])
    beam, _ = model.evaluate_image((4004, 4096), origin, matrix)
    assert np.isfinite(beam).all()
    rows, columns = np.random.default_rng(2).integers(0, 4004, (2, 500))
    expected, _ = model.evaluate(*(origin[:, None] + matrix @ np.array([columns, rows])))
    np.testing.assert_allclose(beam[rows, columns], expected, rtol=2e-6)
