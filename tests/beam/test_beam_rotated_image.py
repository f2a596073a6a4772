"""The beam on images at any angle: exact places inside the hull, nothing outside."""

from __future__ import annotations

import numpy as np
import pytest

from permil.beam import BeamModel, BeamNodes

SHAPE = (120, 150)
PIXEL_MM = 0.62


@pytest.fixture(scope="module")
def model():
    axis = np.linspace(-40.0, 40.0, 12)
    ux, uy = (grid.ravel() for grid in np.meshgrid(axis, axis, indexing="ij"))
    signal = np.exp(-(((ux**2 + uy**2) / 60.0**2) ** 1.5))
    signal *= 1.0 + 3e-4 * np.random.default_rng(0).standard_normal(signal.size)
    return BeamModel.from_nodes(BeamNodes.from_columns(-ux, -uy, signal))


@pytest.mark.parametrize("angle_deg", [0, 1.3, 37, 90, 135, 180, -91, 270])
def test_images_agree_with_places(model, angle_deg):
    # The cosine of 90 degrees is 6e-17 here, not 0: rows run nearly, not quite, along a side of the hull.
    angle = np.deg2rad(angle_deg)
    matrix = PIXEL_MM * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    origin = -matrix @ np.array([SHAPE[1] / 2, SHAPE[0] / 2])
    beam, error = model.evaluate_image(SHAPE, origin, matrix)
    rows, columns = np.indices(SHAPE)
    u = origin[:, None] + matrix @ np.stack([columns.ravel(), rows.ravel()])
    expected, expected_err = (values.reshape(SHAPE) for values in model.evaluate(*u))
    edge = np.isnan(expected) != np.isnan(beam)
    # Places on the very side of the hull may fall to either side.
    assert np.count_nonzero(edge) <= 2 * sum(SHAPE)
    inside = ~np.isnan(expected) & ~edge
    assert inside.mean() > 0.5
    np.testing.assert_allclose(beam[inside], expected[inside], rtol=2e-6)
    # The table of errors is coarse where they change fast, at the sides of the hull.
    assert np.quantile(np.abs(error[inside] / expected_err[inside] - 1), 0.95) < 0.05
    outside = np.isnan(expected) & ~edge
    assert outside.any() or angle_deg in (0, 180)
    assert np.isnan(beam[outside]).all()
