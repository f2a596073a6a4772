"""Frames: round trips of any point, the worked examples of the instrument's reference, and independent formulas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from permil.camera import Camera, Detector, load_camera
from permil.camera.frames import (
    amplifier_at,
    box_in_detector,
    ccs_affine,
    ccs_to_detector,
    ccs_to_dvcs,
    detector_to_ccs,
    detector_to_detsec,
    detector_to_dvcs,
    detector_to_eotest_mosaic,
    detector_to_segment,
    detsec_to_detector,
    detsec_view,
    dvcs_to_ccs,
    dvcs_to_detector,
    eotest_mosaic_to_detector,
    eotest_mosaic_view,
    place_segment,
    projector_relative,
    segment_to_detector,
    take_segment,
)
from permil.errors import CameraError

CAMERAS = {name: load_camera(name) for name in ("lsstcam", "lsstcam-bin8")}
detectors = st.sampled_from([detector for camera in CAMERAS.values() for detector in camera.detectors.values()])
coordinates = st.floats(-10_000, 10_000)
millimetres = st.floats(-500, 500)


@given(detectors, coordinates, coordinates)
def test_pixel_round_trips(detector: Detector, x: float, y: float) -> None:
    for there, back in (
        (detector_to_dvcs, dvcs_to_detector),
        (detector_to_ccs, ccs_to_detector),
        (detector_to_detsec, detsec_to_detector),
        (detector_to_eotest_mosaic, eotest_mosaic_to_detector),
    ):
        np.testing.assert_allclose(back(detector, *there(detector, x, y)), (x, y), rtol=0, atol=1e-8)


@given(detectors, millimetres, millimetres)
def test_millimetre_round_trips(detector: Detector, x_mm: float, y_mm: float) -> None:
    for there, back in ((dvcs_to_detector, detector_to_dvcs), (ccs_to_detector, detector_to_ccs)):
        np.testing.assert_allclose(back(detector, *there(detector, x_mm, y_mm)), (x_mm, y_mm), rtol=0, atol=1e-9)
    assert dvcs_to_ccs(*ccs_to_dvcs(x_mm, y_mm)) == (x_mm, y_mm)


@given(st.data(), detectors)
def test_segment_round_trip(data: st.DataObject, detector: Detector) -> None:
    number = data.draw(st.integers(0, len(detector.amplifiers) - 1))
    amplifier = detector.amplifiers[number]
    column = data.draw(st.integers(0, amplifier.nx - 1))
    row = data.draw(st.integers(0, amplifier.ny - 1))
    x, y = segment_to_detector(amplifier, column, row)
    assert detector_to_segment(amplifier, x, y) == (column, row)
    assert amplifier_at(detector, x, y) == number
    assert detector.amplifier_map()[int(y), int(x)] == number


@given(st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=20), detectors)
def test_arrays_are_points_one_by_one(points: list[tuple[float, float]], detector: Detector) -> None:
    x, y = np.array(points).T
    together = np.stack(detector_to_ccs(detector, x, y))
    one_by_one = np.array([detector_to_ccs(detector, *point) for point in points]).T
    np.testing.assert_array_equal(together, one_by_one)


@given(detectors, coordinates, coordinates)
def test_affine_map_is_the_frame(detector: Detector, x: float, y: float) -> None:
    origin, matrix = ccs_affine(detector)
    np.testing.assert_allclose(origin + matrix @ [x, y], detector_to_ccs(detector, x, y), atol=1e-8)


def test_example_1_the_transpose(lsstcam: Camera) -> None:
    assert ccs_to_dvcs(-211.815, -0.395) == (-0.395, -211.815)
    assert lsstcam.detector_at(-211.815, -0.395) == "R02_S21"
    np.testing.assert_allclose(ccs_to_detector(lsstcam["R02_S21"], -211.815, -0.395), (1997.0, 1994.0), atol=1e-9)
    # Without the swap the point lands, without any error, on another detector.
    assert lsstcam.detector_at(-0.395, -211.815) == "R20_S12"
    np.testing.assert_allclose(dvcs_to_detector(lsstcam["R20_S12"], -211.815, -0.395), (2030.0, 1961.0), atol=1e-9)


def test_example_2_the_reference_pixel_of_the_scans(lsstcam: Camera) -> None:
    detector = lsstcam["R22_S11"]
    assert lsstcam.detector_at(10.015, 2.565) == "R22_S11"
    x, y = ccs_to_detector(detector, 10.015, 2.565)
    np.testing.assert_allclose((x, y), (2304.0, 3003.0), atol=1e-9)
    amplifier = detector.amplifiers[int(amplifier_at(detector, x, y))]
    assert (amplifier.name, amplifier.number) == ("C14", 5)
    assert amplifier.slices == (slice(2002, 4004), slice(2048, 2560))
    np.testing.assert_allclose(detector_to_segment(amplifier, x, y), (255, 1000), atol=1e-9)


def test_example_3_first_pointing_of_r12(lsstcam: Camera) -> None:
    assert lsstcam.detector_at(-159.175, -32.325) == "R12_S00"
    np.testing.assert_allclose(ccs_to_detector(lsstcam["R12_S00"], -159.175, -32.325), (3040.0, 3009.0), atol=1e-9)


def test_example_4_spot_projector(lsstcam: Camera) -> None:
    assert lsstcam.detector_at(-296.50668, 41.69999) == "R02_S02"
    np.testing.assert_allclose(ccs_to_detector(lsstcam["R02_S02"], -296.50668, 41.69999), (1981.5, 1974.8), atol=0.05)


def test_serialized_camera_positions(lsstcam: Camera) -> None:
    """Corner pixel and quarter turn that the reference quotes from the serialized camera of obs_lsst."""
    np.testing.assert_allclose(detector_to_dvcs(lsstcam["R02_S21"], 0, 0), (-20.365, -231.755), atol=1e-9)
    guider = lsstcam["R00_SG0"]
    assert guider.yaw_deg == 90
    origin = np.array(detector_to_dvcs(guider, 100, 200))
    np.testing.assert_allclose(np.array(detector_to_dvcs(guider, 101, 200)) - origin, (0.0, 0.01), atol=1e-9)
    np.testing.assert_allclose(np.array(detector_to_dvcs(guider, 100, 201)) - origin, (-0.01, 0.0), atol=1e-9)


def test_nominal_formula_of_the_slots(lsstcam: Camera) -> None:
    for detector in lsstcam.science:
        a, b, i, j = (int(digit) for digit in (detector.name[1], detector.name[2], detector.name[5], detector.name[6]))
        place = (127 * (b - 2) + 42.25 * (j - 1), 127 * (a - 2) + 42.25 * (i - 1))
        np.testing.assert_allclose(detector.centre_dvcs, place, atol=1e-9)
        np.testing.assert_allclose(detector_to_ccs(detector, *detector.reference_pixel), place[::-1], atol=1e-9)


@pytest.mark.parametrize("yaw", [30.0, 90.0, -90.0, 360.0])
def test_any_yaw_is_a_rotation(lsstcam: Camera, yaw: float) -> None:
    import dataclasses

    turned = dataclasses.replace(lsstcam["R22_S11"], yaw_deg=yaw)
    points = np.random.default_rng(1).uniform(0, 4000, (2, 20))
    offsets = (points - np.array(turned.reference_pixel)[:, None]) * 0.01
    rotated = (offsets[0] + 1j * offsets[1]) * np.exp(1j * np.deg2rad(yaw))
    x, y = detector_to_dvcs(turned, *points)
    np.testing.assert_allclose(x + 1j * y - complex(*turned.centre_dvcs), rotated, atol=1e-9)
    np.testing.assert_allclose(dvcs_to_detector(turned, x, y), points, atol=1e-8)


def test_beam_coordinates_are_pixel_minus_projector() -> None:
    u_x, u_y = projector_relative([10.0, 11.0], 5.0, 4.0, [1.0, 2.0])
    assert (u_x.tolist(), u_y.tolist()) == ([6.0, 7.0], [4.0, 3.0])


@pytest.mark.parametrize("name", ["lsstcam", "lsstcam-bin8"])
@pytest.mark.parametrize("detector", ["R22_S11", "R02_S21", "R00_SW0", "R44_SG1"])
def test_placing_segments_agrees_with_the_points(name: str, detector: str) -> None:
    for amplifier in CAMERAS[name][detector].amplifiers:
        rows, columns = np.indices((amplifier.ny, amplifier.nx))
        marks = rows * 10_000 + columns
        image = np.full(CAMERAS[name][detector].shape, -1)
        image[amplifier.slices] = place_segment(amplifier, marks)
        row, column = np.array([0, 3, amplifier.ny - 1]), np.array([0, amplifier.nx - 1, 5])
        x, y = segment_to_detector(amplifier, column, row)
        np.testing.assert_array_equal(image[y.astype(int), x.astype(int)], row * 10_000 + column)
        np.testing.assert_array_equal(take_segment(amplifier, image), marks)


@pytest.mark.parametrize("name", ["lsstcam", "lsstcam-bin8"])
def test_views_agree_with_the_points(name: str) -> None:
    for detector in (CAMERAS[name]["R22_S11"], CAMERAS[name]["R02_S21"], CAMERAS[name]["R04_SW1"]):
        image = np.arange(detector.nx * detector.ny).reshape(detector.shape)
        x, y = np.array([0, 7, detector.nx - 1]), np.array([0, detector.ny - 1, 11])
        xd, yd = (part.astype(int) for part in detector_to_detsec(detector, x, y))
        # DETSEC counts from 1.
        np.testing.assert_array_equal(detsec_view(image)[yd - 1, xd - 1], image[y, x])
        row, column = (part.astype(int) for part in detector_to_eotest_mosaic(detector, x, y))
        np.testing.assert_array_equal(eotest_mosaic_view(image)[row, column], image[y, x])
        # The mosaic is the DETSEC image turned by 180 degrees: row = ny - yd, column = nx - xd.
        np.testing.assert_array_equal(row, detector.ny - yd)
        np.testing.assert_array_equal(column, detector.nx - xd)
        np.testing.assert_array_equal(eotest_mosaic_view(image), np.rot90(detsec_view(image), 2))


@given(st.data())
def test_box_holds_the_pixels_of_the_segment(data: st.DataObject) -> None:
    detector = CAMERAS["lsstcam-bin8"][data.draw(st.sampled_from(["R22_S11", "R02_S21"]))]
    amplifier = detector.amplifiers[data.draw(st.integers(0, 15))]
    box = data.draw(st.integers(1, 40))
    row = data.draw(st.integers(box // 2, amplifier.ny - box + box // 2))
    column = data.draw(st.integers(box // 2, amplifier.nx - box + box // 2))
    marks = np.arange(amplifier.nx * amplifier.ny).reshape(amplifier.ny, amplifier.nx)
    image = np.full(detector.shape, -1)
    image[amplifier.slices] = place_segment(amplifier, marks)
    first_row, first_column = row - box // 2, column - box // 2
    expected = marks[first_row : first_row + box, first_column : first_column + box]
    found = image[box_in_detector(amplifier, row=row, column=column, box=box)]
    assert found.shape == (box, box)
    assert sorted(found.ravel().tolist()) == sorted(expected.ravel().tolist())


@pytest.mark.parametrize(("row", "column"), [(10, 32), (245, 32), (125, 5), (125, 60)])
def test_box_that_leaves_the_segment(bin8: Camera, row: int, column: int) -> None:
    with pytest.raises(CameraError, match="extends beyond amplifier C14; its active pixels are 250 rows by 64 columns"):
        box_in_detector(bin8["R22_S11"].amplifier("C14"), row=row, column=column, box=30)


def test_outside_every_amplifier(bin8: Camera) -> None:
    detector = bin8["R22_S11"]
    assert amplifier_at(detector, [-0.6, 0.0, detector.nx - 0.4], [0.0, -0.6, 0.0]).tolist() == [-1, -1, -1]
