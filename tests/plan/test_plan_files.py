"""Acquisition files of a plan: those of real campaigns, dialects, exposure times, costs, and what is read back."""

from __future__ import annotations

import configparser
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_bench import planned_positions, toy_camera

from permil.camera import Camera
from permil.config.plan import PlanConfig
from permil.errors import ConfigError, PositionError
from permil.plan.acquisition import AcquisitionFile, LedExposure, acquisition_text, read_acquisition
from permil.plan.campaign import plan_seconds, planned_files
from permil.plan.positions import in_order, planned_points

# Positions and settings of the files of campaigns of 2019 and 2020.
X_12 = [-29.985, -22.712, -15.440, -8.167, -0.894, 6.379, 13.651, 20.924, 28.197, 35.470, 42.742, 50.015]
Y_12 = [-37.435, -30.162, -22.890, -15.617, -8.344, -1.071, 6.201, 13.474, 20.747, 28.020, 35.292, 42.565]
SETTINGS = [
    ("nm960", 0.01, 0.32), ("nm850", 0.01, 0.09), ("nm750", 0.01, 0.13),
    ("red", 0.009, 0.07), ("blue", 0.006, 0.08), ("uv", 0.1, 0.03),
]  # fmt: skip
CENTRES_R22 = [
    (-42.185, -42.365), (-42.315, -0.085), (-42.365, 42.185), (0.085, -42.315), (0.005, 0.005), (-0.095, 42.285),
    (42.365, -42.185), (42.285, 0.105), (42.205, 42.365),
]  # fmt: skip
CENTRES_R02 = [
    (-296.285, -42.865), (-296.415, -0.585), (-296.465, 41.685), (-254.015, -42.815), (-254.095, -0.495), (-254.195, 41.785),
    (-211.735, -42.685), (-211.815, -0.395), (-211.895, 41.865),
]  # fmt: skip
OFFSETS_E2V = [(10.01, -10.24), (10.01, 10.24), (0, 0), (-10.01, -10.24), (-10.01, 10.24)]
OFFSETS_ITL = [(10.00, -10.18), (10.00, 10.18), (0, 0), (-10.00, -10.18), (-10.00, 10.18)]


def written(file, tmp_path, dialect="locations"):
    """Write a file and return its entries, read by the standard library, and its points, read by us."""
    path = tmp_path / file.name
    path.write_text(acquisition_text(file.content, dialect))
    parser = configparser.ConfigParser(allow_no_value=True, strict=False)
    parser.optionxform = str
    parser.read(path)
    return parser, read_acquisition(path)


def places_of(points):
    return np.array([(point.x_mm, point.y_mm) for point in points])


def test_scan_of_144_positions(lsstcam, tmp_path):
    (file,) = planned_files(PlanConfig(scan={}), lsstcam)
    assert file.name == "ccob_12x12_R22_S11_all.cfg"
    parser, points = written(file, tmp_path)
    np.testing.assert_array_equal(places_of(points), [(x, y) for x in X_12 for y in Y_12])
    assert {(point.images, point.location) for point in points} == {(1, "R22/Reb1")}
    assert acquisition_text(file.content, "locations").startswith("[ACQUIRE]\nbias\nccob\nbias\n")
    assert (parser["BIAS"]["COUNT"], parser["BIAS"]["LOCATIONS"]) == ("10", "R22/Reb1")
    assert dict(parser["CCOB"]) | {"expose": "", "point": ""} == {
        "BCOUNT": "0", "IMCOUNT": "1", "XOFFSET": "0", "YOFFSET": "0", "LOCATIONS": "R22/Reb1", "expose": "", "point": "",
    }  # fmt: skip
    exposures = [entry.split() for entry in parser["CCOB"]["expose"].split(",")]
    assert [(led, float(current), float(seconds)) for led, current, seconds in exposures] == SETTINGS
    # 864 exposures of 3 detectors with 16 segments of 576 x 2048 pixels, and 20 biases.
    assert file.exposures == 864
    assert file.size == pytest.approx((864 + 20) * 3 * 16 * 576 * 2048 * 1.4, rel=0.03)
    assert file.seconds == pytest.approx(144 * sum(each[2] for each in SETTINGS) + 884 * 3 + 144 * 5)


def test_scans_of_3600_positions(lsstcam, tmp_path):
    files = planned_files(PlanConfig(scan={"nx": 60, "ny": 60}, interleaved=False), lsstcam)
    assert [file.name for file in files] == [f"ccob_60x60_R22_S11_{led}.cfg" for led, _, _ in SETTINGS]
    x, y = (np.round(np.linspace(start, start + 80, 60), 3) for start in (-29.985, -37.435))
    _, points = written(files[3], tmp_path)
    np.testing.assert_array_equal(places_of(points), [(first, second) for first in x for second in y])
    assert {point.leds for point in points} == {("red",)}
    _, points = written(planned_files(PlanConfig(scan={"nx": 60, "ny": 60}, led="uv"), lsstcam)[0], tmp_path)
    assert {point.leds for point in points} == {("uv",)}


def geometry_of_2019(camera, raft, centres, moved_mm):
    """Return a camera with the detectors of a raft where the central pointings of that time put them."""
    detectors = dict(camera.detectors)
    for name, (x, y) in zip(sorted(name for name in detectors if name.startswith(raft)), centres, strict=True):
        detectors[name] = replace(detectors[name], centre_dvcs=(y - moved_mm, x - moved_mm))
    return Camera(camera.name, camera.title, camera.pixel_mm, camera.edge_mm, camera.midline_mm, camera.reference, detectors)


@pytest.mark.parametrize(
    ("raft", "centres", "offsets", "moved_mm"),
    # The aim of the central pointing: pixel (2048, 2002) of E2V at 2047.5, 2001.5; (2036, 2000) of ITL at 2036.5, 2000.5.
    [("R22", CENTRES_R22, OFFSETS_E2V, 0.005), ("R02", CENTRES_R02, OFFSETS_ITL, -0.005)],
)
def test_45_pointings_of_a_raft(lsstcam, tmp_path, raft, centres, offsets, moved_mm):
    camera = geometry_of_2019(lsstcam, raft, centres, moved_mm)
    (file,) = planned_files(PlanConfig(pointings={"aim": [raft]}), camera)
    assert (file.name, file.exposures) == (f"ccob_qe_{raft}_all.cfg", 1350)
    _, points = written(file, tmp_path)
    expected = [(x + dx, y + dy) for x, y in centres for dx, dy in offsets]
    np.testing.assert_allclose(places_of(points), expected, atol=1e-9)
    assert {(point.images, point.location) for point in points} == {(5, raft)}


def test_one_file_of_all_boards(lsstcam, tmp_path):
    plan = PlanConfig(
        pointings={"read": "board"}, files={"dialect": "columns", "per": "all", "offset_mm": (5.0, -7.0), "biases": 0}
    )
    (file,) = planned_files(plan, lsstcam)
    assert file.name == "ccob_qe_all_all.cfg"
    parser, points = written(file, tmp_path, "columns")
    assert "LOCATIONS" not in parser["CCOB"]
    assert "BIAS" not in parser
    assert (parser["CCOB"]["XOFFSET"], parser["CCOB"]["YOFFSET"]) == ("5", "-7")
    boards, counts = np.unique([point.location for point in points], return_counts=True)
    assert (len(points), len(boards), set(counts.tolist())) == (945, 63, {15})
    planned = [(position.x_mm, position.y_mm) for position in planned_positions(plan, lsstcam)]
    np.testing.assert_allclose(places_of(points) - (5.0, -7.0), planned, atol=6e-4)
    again = PlanConfig(acquisition=[str(tmp_path / file.name)], led="red")
    assert [position.read for position in planned_positions(again, lsstcam)] == [
        position.read for position in planned_positions(plan, lsstcam)
    ]


@pytest.mark.parametrize(
    ("per", "names"),
    [
        ("board", ["R22_Reb0", "R22_Reb1", "R22_Reb2"]),
        ("detector", [f"R22_S{row}{column}" for row in range(3) for column in range(3)]),
    ],
)
def test_a_file_for_each_board_or_detector(lsstcam, per, names):
    plan = PlanConfig(pointings={"aim": ["R22"], "read": "detector"}, files={"per": per})
    files = planned_files(plan, lsstcam)
    assert [file.name for file in files] == [f"ccob_qe_{name}_all.cfg" for name in names]
    assert {location for file in files for location in file.content.locations} == {"R22/Reb0", "R22/Reb1", "R22/Reb2"}


def test_a_sequence_is_read_back_in_its_order(lsstcam, tmp_path):
    plan = PlanConfig(
        detectors=["R22_S11"],
        scan={"nx": 3, "ny": 3},
        pointings={"images": 3},
        order="shuffled",
        passes=2,
        fiducial_every=4,
        files={"dialect": "columns"},
    )
    (file,) = planned_files(plan, lsstcam, seed=5)
    assert file.name == "ccob_sequence_all.cfg"
    _, points = written(file, tmp_path, "columns")
    visited = in_order(planned_points(plan, lsstcam), plan, seed=5)
    listed = [(visit.position.x_mm, visit.position.y_mm) for visit in visited for _ in range(visit.position.images)]
    np.testing.assert_allclose(places_of(points), listed, atol=6e-4)
    assert {point.images for point in points} == {1}
    assert file.exposures == 6 * len(points)
    # The images of a visit need one move.
    assert file.seconds < plan_seconds(plan.model_copy(update={"passes": 3}), lsstcam, seed=5)


def test_exposure_times_for_a_wanted_signal():
    camera = toy_camera(1, 1)
    leds = [{"led": "red", "electrons": 70_000}, {"led": "uv"}, {"led": "laser", "current_a": 0.5, "exposure_s": 2.0}]
    (file,) = planned_files(PlanConfig(scan={}, electrons=35_000, files={"leds": leds}), camera)
    assert file.content.leds == [LedExposure("red", 0.009, 0.035), LedExposure("uv", 0.1, 0.03), LedExposure("laser", 0.5, 2.0)]
    with pytest.raises(ConfigError, match=r"current and exposure time of the LED 'laser' are not known; give current_a"):
        planned_files(PlanConfig(scan={}, files={"leds": [{"led": "laser"}]}), camera)


def test_what_cannot_be_written(lsstcam, tmp_path):
    path = tmp_path / "a.cfg"
    path.write_text("[ACQUIRE]\nccob\n[CCOB]\nexpose = red 1 1\npoint = 0 0\n")
    with pytest.raises(ConfigError, match=r"no scan and no pointings to write; add plan\.scan"):
        planned_files(PlanConfig(acquisition=[str(path)]), lsstcam)
    (file,) = planned_files(PlanConfig(detectors=["R22"], pointings={"read": "board"}), lsstcam)
    with pytest.raises(PositionError, match=r"one file cannot read out R22/Reb0 at one point and R22/Reb1 at another"):
        acquisition_text(file.content, "locations")


millimetres = st.floats(-400, 400).map(lambda value: round(value, 3))


@settings(deadline=None, max_examples=40)
@given(
    places=st.lists(st.tuples(millimetres, millimetres), min_size=1),
    offset=st.tuples(millimetres, millimetres),
    images=st.integers(1, 9),
    biases=st.integers(0, 3),
    location=st.sampled_from(["", "R22", "R22/Reb1"]),
    dialect=st.sampled_from(["locations", "columns"]),
)
def test_files_are_read_back(tmp_path_factory, places, offset, images, biases, location, dialect):
    leds = [LedExposure("red", 0.009, 0.07), LedExposure("uv", 0.1, 0.03)]
    file = AcquisitionFile(places, [location] * len(places), images, leds, offset, biases, ["a note = 1", "[NOTE]"])
    path = tmp_path_factory.mktemp("cfg") / "a.cfg"
    path.write_text(acquisition_text(file, dialect))
    points = read_acquisition(path)
    np.testing.assert_allclose(places_of(points), np.array(places) + offset, atol=1e-6)
    assert {(point.images, point.leds, point.location) for point in points} == {(images, ("red", "uv"), location)}
