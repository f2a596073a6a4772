"""Mask planes: zones in pixels, boxes of defects, hot pixels, growth."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table
from scipy.ndimage import binary_dilation

from permil.errors import CalibrationError
from permil.isr.calibration.masks import defect_boxes, grow_saturated, hot_pixel_mask, mask_of_boxes, zone_mask, zone_pixels
from permil.products import MaskPlane


@pytest.mark.parametrize(
    ("width_mm", "pixel_mm", "pixels"),
    [(0.16, 0.08, 2), (0.16, 0.01, 16), (0.02, 0.01, 2), (0.08, 0.08, 1), (0.081, 0.08, 2), (0.001, 0.01, 1), (0.0, 0.01, 0)],
)
def test_a_zone_covers_what_it_touches(width_mm, pixel_mm, pixels):
    assert zone_pixels(width_mm, pixel_mm) == pixels


def test_zones_are_frames_and_rows(detector):
    mask = zone_mask(detector, edge_mm=0.16, midline_mm=0.08)
    edge = (mask & MaskPlane.EDGE) != 0
    midline = (mask & MaskPlane.MIDLINE) != 0
    assert edge.sum() == detector.nx * detector.ny - (detector.nx - 4) * (detector.ny - 4)
    assert edge[:2].all()
    assert edge[:, -2:].all()
    assert not edge[2:-2, 2:-2].any()
    assert np.flatnonzero(midline.all(axis=1)).tolist() == [249, 250]
    assert midline.sum() == 2 * detector.nx


def test_a_sensor_of_one_half_has_no_midline(bin8):
    wavefront = next(entry for entry in bin8.detectors.values() if entry.kind == "wavefront")
    assert not (zone_mask(wavefront, edge_mm=0.16, midline_mm=0.08) & MaskPlane.MIDLINE).any()


def test_defects_are_boxes_in_the_detector_frame(detector):
    table = Table(
        rows=[("R22_S11", 10, 20, 3, 2), ("R22_S11", 511, 499, 1, 1), ("R01_S00", 0, 0, 9, 9)],
        names=("detector", "x", "y", "width", "height"),
    )
    bad = (mask_of_boxes(defect_boxes(table, detector), detector) & MaskPlane.BAD) != 0
    assert bad.sum() == 7
    assert bad[20:22, 10:13].all()
    assert bad[499, 511]
    assert len(defect_boxes(table["detector", "x", "y"], detector)) == 2


@pytest.mark.parametrize("box", [(-1, 0, 1, 1), (512, 0, 1, 1), (500, 0, 20, 1), (0, 499, 1, 2), (0, 0, 0, 1)])
def test_a_defect_off_the_detector_is_an_error(detector, box):
    table = Table(rows=[("R22_S11", *box)], names=("detector", "x", "y", "width", "height"))
    with pytest.raises(CalibrationError, match="leaves detector R22_S11"):
        defect_boxes(table, detector, path="defects.ecsv")


def test_hot_pixels_of_the_superbias_are_bad_and_column_structure_is_not(detector):
    rng = np.random.default_rng(1)
    superbias = rng.normal(0, 1.5, detector.shape) + np.linspace(-30, 30, detector.nx)
    superbias[100, 200] += 200
    superbias[300, 17] -= 200
    bad = hot_pixel_mask(superbias.astype(np.float32), detector, threshold=20.0)
    assert np.argwhere(bad).tolist() == [[100, 200], [300, 17]]


@pytest.mark.parametrize("pixels", [0, 1, 2])
def test_saturation_grows_as_a_dilation(pixels):
    rng = np.random.default_rng(2)
    saturated = rng.uniform(size=(40, 50)) < 0.01
    saturated[0, 0] = saturated[-1, -1] = True
    mask = np.where(saturated, MaskPlane.SAT, MaskPlane.EDGE).astype(np.int16)
    grow_saturated(mask, pixels)
    side = np.ones((2 * pixels + 1, 2 * pixels + 1))
    np.testing.assert_array_equal((mask & MaskPlane.SAT) != 0, binary_dilation(saturated, side))
    assert ((mask & MaskPlane.EDGE) != 0).sum() == (~saturated).sum()
