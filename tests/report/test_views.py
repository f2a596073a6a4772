"""What the pages show of detectors and beams."""

from __future__ import annotations

import numpy as np
import pytest

from permil.beam import BeamModel, BeamNodes
from permil.products import MaskPlane
from permil.report.detector.figures import display_image, flat_histogram, pointing_residuals
from permil.report.detector.page import mask_table
from permil.report.index import beam_measurements, view_beam

BAD_NODE = 30


def _true_beam(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.exp(-((((x - 2) ** 2 + (y + 1) ** 2) / 70**2) ** 1.5))


@pytest.fixture(scope="module")
def beam() -> BeamModel:
    """Return a beam with its maximum at u = (2, -1) mm, 4e-4 of noise and one node 3 per cent too high."""
    ux, uy = (axis.ravel() for axis in np.meshgrid(np.linspace(-60, 60, 9), np.linspace(-50, 50, 9)))
    signal = 4e4 * _true_beam(ux, uy) * (1 + 4e-4 * np.random.default_rng(3).standard_normal(ux.size))
    signal[BAD_NODE] *= 1.03
    return BeamModel.from_nodes(BeamNodes.from_columns(-ux, -uy, signal))


def test_the_maps_of_a_beam_lie_where_the_beam_does(beam: BeamModel) -> None:
    view = view_beam(beam)
    left, right, bottom, top = view.extent
    rows, columns = view.beam.shape
    ux = left + (np.arange(columns) + 0.5) * (right - left) / columns
    uy = bottom + (np.arange(rows) + 0.5) * (top - bottom) / rows
    truth = _true_beam(ux[None, :], uy[:, None])
    known = np.isfinite(view.beam)
    assert known.mean() > 0.9
    np.testing.assert_allclose(view.beam[known], truth[known], atol=4e-3)
    np.testing.assert_allclose(view.along_x.beam, _true_beam(view.along_x.u, view.maximum[1]), atol=4e-3)
    np.testing.assert_allclose(view.along_y.beam, _true_beam(view.maximum[0], view.along_y.u), atol=4e-3)
    assert np.hypot(view.maximum[0] - 2, view.maximum[1] + 1) < 5 * np.hypot(*view.maximum_error) + 1.0


def test_nodes_are_compared_with_all_others(beam: BeamModel) -> None:
    view = view_beam(beam)
    assert view.outlier.sum() == 1
    assert view.deviation[view.outlier] == pytest.approx(0.03, abs=0.004)
    good = ~view.outlier
    # Nodes at the border are predicted from one side only, 10 mm away.
    assert np.std(view.deviation[good]) < 6e-3
    np.testing.assert_allclose(view.node_beam[good], _true_beam(view.node_x[good], view.node_y[good]), atol=4e-3)


def test_the_figures_of_a_beam_come_with_errors(beam: BeamModel) -> None:
    found = {entry.metric: entry for entry in beam_measurements(beam, "red")}
    assert all(np.isfinite(entry.error) and entry.error > 0 for entry in found.values())
    assert all(entry.led == "red" and not entry.detector for entry in found.values())
    assert found["beam_centroid_x"].number == pytest.approx(2.0, abs=1.5)
    noise = found["beam_node_noise"]
    assert abs(noise.number - 4e-4) < 4 * noise.error
    # 81 nodes that carry both structure and noise cannot tell the noise to 8 per cent, as 81 repeats would.
    assert noise.error > 2e-5


def test_a_large_image_is_binned_and_keeps_its_means() -> None:
    image = np.arange(600 * 900, dtype=np.float32).reshape(600, 900)
    usable = np.ones(image.shape, dtype=bool)
    usable[:8] = False
    shown = display_image(image, usable)
    assert shown.size == 4
    assert shown.image.shape == (150, 225)
    assert np.isnan(shown.image[:2]).all()
    np.testing.assert_allclose(shown.image[10, 20], image[40:44, 80:84].mean())
    assert shown.extent == (-0.5, 899.5, -0.5, 599.5)


def test_pure_noise_has_the_distribution_of_its_variance() -> None:
    rng = np.random.default_rng(11)
    sigma = np.where(np.arange(400)[:, None] < 200, 1e-3, 3e-3) * np.ones((400, 400))
    response = 1.25 * (1 + sigma * rng.standard_normal(sigma.shape))
    content = flat_histogram(response, (1.25 * sigma) ** 2, np.ones(sigma.shape, dtype=bool))
    assert content is not None
    assert content.counts.sum() == response.size
    assert content.expected.sum() == pytest.approx(response.size, rel=2e-3)
    crowded = content.expected > 100
    chi = (content.counts - content.expected)[crowded] / np.sqrt(content.expected[crowded])
    assert np.mean(chi**2) == pytest.approx(1.0, abs=0.5)
    assert content.median == pytest.approx(1.25, abs=1e-4)
    assert content.width == pytest.approx(np.percentile(np.abs(response / 1.25 - 1), 68.27), rel=0.01)


def test_without_good_pixels_there_is_no_distribution() -> None:
    image = np.ones((4, 4))
    assert flat_histogram(image, image, np.zeros((4, 4), dtype=bool)) is None


def test_each_pointing_is_compared_with_the_combined_flat() -> None:
    rng = np.random.default_rng(5)
    combined = 1 + 0.01 * rng.standard_normal((60, 60))
    levels = np.array([2e-3, -1e-3])
    responses = combined * (1 + levels[:, None, None] + 5e-4 * rng.standard_normal((2, 60, 60)))
    responses[0, :30] = np.nan
    found = pointing_residuals(responses, combined)
    assert (np.abs(found.level - levels) < 4 * found.level_error).all()
    np.testing.assert_allclose(found.rms, 5e-4, rtol=0.1)
    assert found.level_error[0] == pytest.approx(1.2533 * 5e-4 / np.sqrt(1800), rel=0.1)
    nothing = pointing_residuals(np.full((1, 3, 3), np.nan), np.ones((3, 3)))
    assert np.isnan(nothing.level).all()


def test_planes_of_a_mask_are_counted() -> None:
    mask = np.zeros((5, 5), dtype=np.int32)
    mask[0] = int(MaskPlane.BAD | MaskPlane.EDGE)
    mask[1, :2] = int(MaskPlane.EDGE)
    counts = {row[0].text: row[1].key for row in mask_table(mask).rows}
    assert counts["BAD"] == 5
    assert counts["EDGE"] == 7
    assert counts["SAT"] == 0
    assert counts["none"] == 18
