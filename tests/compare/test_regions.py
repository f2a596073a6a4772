"""Regions of a detector: by hand, by counting pixels, and on three cameras."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from permil.camera import Camera, load_camera
from permil.compare.regions import Region, RegionWidths, region_image, region_labels
from permil.compare.rings.profile import RingZone
from permil.errors import CompareError

CAMERAS = ("lsstcam", "lsstcam-bin8", "spots-cutout")


@pytest.fixture(scope="module")
def cutout() -> Camera:
    return load_camera("spots-cutout")


@pytest.mark.parametrize("vendor", ["R22_S11", "R02_S02"])
@pytest.mark.parametrize("camera", CAMERAS)
def test_pixel_counts_are_those_of_the_geometry(camera, vendor):
    """E2V and ITL: count pixels of each region from sizes and numbers of segments alone."""
    detector = load_camera(camera)[vendor]
    edge, mid, boundary = 5, 3, 2
    image = region_image(detector, widths=RegionWidths(edge, mid, boundary, unit="pixel"))
    assert image.shape == detector.shape
    ny, nx = detector.shape
    segments = len(detector.amplifiers) // 2
    inner_x, inner_y = nx - 2 * edge, ny - 2 * edge
    counts = {region: int(np.sum(image == region)) for region in Region}
    assert counts[Region.EDGE] == nx * ny - inner_x * inner_y
    assert counts[Region.MID_LINE] == 2 * mid * inner_x
    assert counts[Region.AMPLIFIER_BOUNDARY] == (segments - 1) * 2 * boundary * (inner_y - 2 * mid)
    assert counts[Region.TREE_RINGS] == counts[Region.OUTSIDE] == 0
    assert sum(counts.values()) == nx * ny


def test_boundaries_lie_where_the_amplifier_changes(bin8):
    detector = bin8["R22_S11"]
    image = region_image(detector, widths=RegionWidths(0, 1, 1, unit="pixel"))
    amplifiers = detector.amplifier_map()
    across, along = np.zeros(detector.shape, bool), np.zeros(detector.shape, bool)
    change_x, change_y = np.diff(amplifiers, axis=1) != 0, np.diff(amplifiers, axis=0) != 0
    across[:, 1:] |= change_x
    across[:, :-1] |= change_x
    along[1:] |= change_y
    along[:-1] |= change_y
    np.testing.assert_array_equal(image == Region.MID_LINE, along)
    np.testing.assert_array_equal(image == Region.AMPLIFIER_BOUNDARY, across & ~along)


def test_points_by_hand(cutout):
    detector = cutout["R22_S11"]
    widths = RegionWidths(edge=0.3, mid_line=0.1, amplifier_boundary=0.05)
    x = np.array([29.0, 30.0, 511.5, 516.4, 517.0, 300.0, 300.0, -0.6, np.nan, 1023.4, 1023.6])
    y = np.array([500.0, 300.0, 300.0, 300.0, 300.0, 521.0, 522.0, 300.0, 300.0, 300.0, 300.0])
    expected = [1, 5, 3, 3, 5, 2, 5, 0, 0, 1, 0]
    np.testing.assert_array_equal(region_labels(detector, x, y, widths=widths), expected)


def test_aperture_that_touches_belongs(cutout):
    detector = cutout["R22_S11"]
    widths = RegionWidths(edge=30, mid_line=10, amplifier_boundary=10, unit="pixel")
    assert region_labels(detector, 45.0, 300.0, widths=widths) == Region.BULK
    assert region_labels(detector, 45.0, 300.0, widths=widths, reach_px=16) == Region.EDGE
    assert region_labels(detector, 45.0, 300.0, widths=widths, reach_px=15) == Region.BULK


@pytest.mark.parametrize("camera", CAMERAS)
def test_millimetres_are_the_same_on_all_cameras(camera):
    """Half a millimetre of edge covers the same area but for the size of a pixel."""
    detector = load_camera(camera)["R22_S11"]
    image = region_image(detector, widths=RegionWidths(0.5, 0, 0))
    depth = int(np.argmax(image[detector.ny // 3] != Region.EDGE)) * detector.pixel_mm
    assert 0.5 <= depth < 0.5 + detector.pixel_mm


def test_tree_rings_yield_to_borders_and_fill_the_bulk(cutout):
    detector = cutout["R22_S11"]
    radius = np.arange(0.5, 2000)
    zone = RingZone((-100.0, -100.0), radius, (radius > 600) & (radius < 800), np.full(radius.size, 1e-3))
    image = region_image(detector, rings=zone)
    y, x = np.indices(detector.shape)
    distance = np.hypot(x + 100, y + 100)
    plain = region_image(detector)
    inside = (distance > 601) & (distance < 799)
    np.testing.assert_array_equal(image[inside & (plain == Region.BULK)], Region.TREE_RINGS)
    outside = (distance < 599) | (distance > 801) | (plain != Region.BULK)
    np.testing.assert_array_equal(image[outside], plain[outside])


@given(cell=st.integers(2, 40))
def test_cells_belong_to_what_they_touch(cell):
    """A cell has the first region (by number) that any of its pixels has, where widths are whole pixels."""
    detector = load_camera("spots-cutout")["R02_S02"]
    widths = RegionWidths(7, 4, 3, unit="pixel")
    pixels, cells = region_image(detector, widths=widths), region_image(detector, widths=widths, cell_px=cell)
    starts = [np.arange(0, size, cell) for size in detector.shape]
    first = np.minimum.reduceat(np.minimum.reduceat(pixels, starts[0], axis=0), starts[1], axis=1)
    assert cells.shape == first.shape
    full = tuple(slice(0, size // cell) for size in detector.shape)
    np.testing.assert_array_equal(cells[full], first[full])


def test_titles_are_words():
    assert Region.AMPLIFIER_BOUNDARY.title == "amplifier boundary"


@pytest.mark.parametrize("widths", [{"edge": -1.0}, {"mid_line": np.nan}, {"amplifier_boundary": np.inf}, {"unit": "inch"}])
def test_impossible_widths(widths):
    with pytest.raises(CompareError):
        RegionWidths(**widths)


def test_impossible_cells_and_reach(cutout):
    with pytest.raises(CompareError, match="cells of 0"):
        region_image(cutout["R22_S11"], cell_px=0)
    with pytest.raises(CompareError, match="reach"):
        region_labels(cutout["R22_S11"], 1.0, 1.0, reach_px=-1.0)
