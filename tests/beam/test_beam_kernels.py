"""The kernels of the beam against SciPy, at every level of instructions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import NdBSpline

from kernel_levels import LEVELS, kernels_of
from permil._kernels import beam as kernels
from permil.beam.model import SplineTable
from permil.beam.parameters import Hull

STEP, START = 0.7, np.array([-9.0, -8.0])
HULL = Hull.of(np.array([[-4.0, -5.0], [5.0, -4.0], [6.0, 3.0], [-1.0, 6.0], [-5.0, 2.0]]))


def table() -> tuple[SplineTable, NdBSpline]:
    coefficients = np.random.default_rng(1).uniform(0.5, 1.0, (28, 25))
    knots = [start + STEP * (np.arange(n + 4) - 2) for start, n in zip(START, coefficients.shape, strict=True)]
    return SplineTable(coefficients, START, STEP), NdBSpline(tuple(knots), coefficients, 3)


@pytest.mark.parametrize("angle", [0.0, 0.6, np.pi / 2, -2.5])
@pytest.mark.parametrize("level", LEVELS)
def test_an_image_is_the_spline_inside_the_hull(level: str, angle: float) -> None:
    own, spline = table()
    matrix = np.array([[0.11 * np.cos(angle), -0.13 * np.sin(angle)], [0.11 * np.sin(angle), 0.13 * np.cos(angle)]])
    origin = -matrix @ np.array([60.0, 45.0])
    with kernels_of(level):
        image = own.image((91, 123), origin, matrix, HULL)
    rows, columns = np.indices(image.shape)
    u = origin + np.stack([columns, rows], axis=-1) @ matrix.T
    height = (HULL.half_planes[:, :2] @ u.reshape(-1, 2).T + HULL.half_planes[:, 2:]).max(axis=0).reshape(image.shape)
    clear = np.abs(height) > 1e-6
    np.testing.assert_array_equal(np.isfinite(image)[clear], (height < 0)[clear])
    inside = np.isfinite(image)
    assert 0.2 < inside.mean() < 0.9
    np.testing.assert_allclose(image[inside], spline(u[inside]), rtol=1e-7)


@pytest.mark.parametrize("level", LEVELS)
def test_points_have_the_values_of_the_spline(level: str) -> None:
    own, spline = table()
    points = np.random.default_rng(2).uniform([-8.0, -7.0], [8.0, 7.0], (200, 2))
    # On lines of the lattice.
    points[:20] = START + STEP * np.round((points[:20] - START) / STEP)
    with kernels_of(level):
        np.testing.assert_allclose(own.at(points), spline(points), rtol=1e-13)


def test_all_levels_have_the_same_bits() -> None:
    own, _ = table()
    images = []
    for level in LEVELS:
        with kernels_of(level):
            images.append(own.image((40, 70), np.array([-3.0, -4.0]), np.array([[0.1, 0.02], [-0.03, 0.2]]), HULL))
    for other in images[1:]:
        np.testing.assert_array_equal(images[0], other)


def test_tables_that_are_too_small_are_refused() -> None:
    values, origin = np.empty(1), np.zeros(2)
    with pytest.raises(ValueError, match="fewer than four"):
        kernels.values_at(np.zeros((1, 2)), np.zeros((3, 9)), origin, 1.0, values)
    with pytest.raises(ValueError, match="no step"):
        kernels.values_at(np.zeros((1, 2)), np.zeros((9, 9)), origin, 0.0, values)
    with pytest.raises(ValueError, match="those of the points"):
        kernels.values_at(np.zeros((2, 2)), np.zeros((9, 9)), origin, 1.0, values)
