"""Which detector a cell of a mosaic shows, and what is drawn around it."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from permil.camera import Camera, frames
from permil.errors import InputError
from permil.flat.composite import MosaicGrid, mosaic_grid
from permil.report.kit import focal_plane

# A science raft of either vendor, and a corner raft with rotated sensors.
NAMES = ("R22_S00", "R22_S11", "R01_S12", "R00_SG0", "R00_SW1", "R44_SG1")


def _centres(grid: MosaicGrid) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.indices(grid.shape)
    return grid.x_low + (columns + 0.5) * grid.cell_mm, grid.y_low + (rows + 0.5) * grid.cell_mm


def test_cells_belong_to_the_detector_that_the_camera_names(bin8: Camera) -> None:
    detectors = [bin8[name] for name in NAMES]
    grid = mosaic_grid(detectors, 2.5)
    found = focal_plane.detector_cells(grid, detectors)
    names = np.array([*NAMES, ""])[found]
    expected = bin8.detector_at(*frames.dvcs_to_ccs(*_centres(grid)))
    np.testing.assert_array_equal(names, np.where(np.isin(expected, NAMES), expected, ""))
    assert set(names.ravel()) == {*NAMES, ""}


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_shows_the_super_pixel_below_its_centre(bin8: Camera, name: str) -> None:
    detector, block = bin8[name], 20
    shape = -(-detector.ny // block), -(-detector.nx // block)
    rows, columns = np.indices(shape)
    grid = mosaic_grid([detector], 0.9)
    shown = focal_plane.sample(grid, {detector: rows * 1000.0 + columns}, block_pixels=block)
    x, y = frames.dvcs_to_detector(detector, *_centres(grid))
    inside = np.isfinite(shown)
    assert inside.sum() == pytest.approx(detector.nx * detector.ny * (detector.pixel_mm / 0.9) ** 2, rel=0.05)
    pixel_x, pixel_y = np.round(x[inside]), np.round(y[inside])
    np.testing.assert_array_equal(shown[inside], pixel_y // block * 1000 + pixel_x // block)


def test_each_detector_is_divided_by_its_own_median() -> None:
    index = np.array([[0, 0, 0, -1, 1, 1]])
    image = np.array([[2.0, 4.0, 8.0, 5.0, 10.0, np.nan]])
    flattened = focal_plane.over_detector_median(image, index)
    np.testing.assert_array_equal(flattened, [[0.5, 1.0, 2.0, np.nan, 1.0, np.nan]])


def test_the_grid_is_found_again_in_the_header(bin8: Camera) -> None:
    grid = mosaic_grid(bin8.science, 0.64)
    found = focal_plane.grid_of(grid.cards(), grid.shape)
    assert found.shape == grid.shape
    np.testing.assert_allclose([found.x_low, found.y_low, found.cell_mm], [grid.x_low, grid.y_low, grid.cell_mm])
    left, right, bottom, top = focal_plane.extent(found)
    assert right - left == pytest.approx(grid.shape[1] * 0.64)
    assert top - bottom == pytest.approx(grid.shape[0] * 0.64)


def test_a_mosaic_without_coordinates_is_named() -> None:
    with pytest.raises(InputError, match="CDELT1"):
        focal_plane.grid_of(fits.Header(), (3, 3))


def test_outlines_enclose_the_active_area(bin8: Camera) -> None:
    detector = bin8["R22_S11"]
    corners = focal_plane.outline(detector)
    np.testing.assert_allclose(np.ptp(corners, axis=0), [detector.nx * 0.08, detector.ny * 0.08])
    np.testing.assert_allclose(corners[0], corners[-1])
    np.testing.assert_allclose(corners[:4].mean(axis=0), focal_plane.centre(detector))
    amplifiers = focal_plane.amplifier_outlines(detector)
    areas = [np.prod(np.ptp(box, axis=0)) for box in amplifiers]
    assert sum(areas) == pytest.approx(np.prod(np.ptp(corners, axis=0)))
    centres = focal_plane.raft_centres([bin8[f"R22_S{row}{column}"] for row in range(3) for column in range(3)])
    np.testing.assert_allclose(centres["R22"], focal_plane.centre(detector), atol=0.01)
