"""Positions of a plan: grids, five points, what is read, acquisition files, exposures taken."""

from __future__ import annotations

import re

import numpy as np
import pytest
from plan_bench import planned_positions, toy_camera

from permil.config.plan import PlanConfig
from permil.errors import CameraError, ConfigError, InputError, PositionError
from permil.plan.acquisition import read_acquisition
from permil.plan.positions import amplifier_centre, named_detectors, quincunx, scan_grid

CFG = """\
# a scan and pointings
[ACQUIRE]
bias
ccob
Bias

[BIAS]\u00e9
COUNT = 10
LOCATIONS = R22/Reb1

[CCOB]
BCOUNT=0
IMCOUNT = 5
XOFFSET = 5.0
YOFFSET = -7.0
LOCATIONS = R22/Reb1
expose = nm960 0.01 0.32,
         red 0.009 0.07,
point = -29.985  -37.435,
        10.0 2.5
        10.0 9.8,
        1. 2. R43/Reb2,
"""


def write(tmp_path, text=CFG):
    path = tmp_path / "run.cfg"
    path.write_text(text, encoding="latin-1")
    return path


def test_five_points_are_those_of_the_acquisition_files(lsstcam):
    # Documented offsets from the centre: E2V (+10.01, -10.24) ..., ITL (+10.00, -10.18) ...
    for name, x, y in (("R22_S11", 10.01, 10.24), ("R02_S00", 10.00, 10.18)):
        places = np.array(quincunx(lsstcam[name]))
        np.testing.assert_allclose(places - places[2], [(x, -y), (x, y), (0, 0), (-x, -y), (-x, y)], atol=0.006)


def test_five_points_do_not_depend_on_binning(lsstcam, bin8):
    np.testing.assert_allclose(quincunx(lsstcam["R22_S11"]), quincunx(bin8["R22_S11"]), atol=0.05)


def test_the_default_scan_is_that_of_the_acquisition_files(lsstcam):
    positions = planned_positions(PlanConfig(scan={}), lsstcam)
    places = np.array([(position.x_mm, position.y_mm) for position in positions])
    np.testing.assert_allclose(places[[0, 1, -1]], [(-29.985, -37.435), (-29.985, -30.162), (50.015, 42.565)], atol=0.02)
    assert len(positions) == 144
    assert {position.read for position in positions} == {frozenset({"R22_S10", "R22_S11", "R22_S12"})}


def test_scan_sizes():
    places = np.array(scan_grid((1.0, 2.0), (3, 2), 5.0))
    np.testing.assert_allclose(places, [(-4, -0.5), (-4, 4.5), (1, -0.5), (1, 4.5), (6, -0.5), (6, 4.5)])


@pytest.mark.parametrize(
    "plan", [{"scan": {"pitch_mm": 4}, "pointings": {}}, {"detectors": ["R22"]}, {"scan": {"centre_mm": (1, 2)}}]
)
def test_a_plan_survives_its_own_yaml(lsstcam, plan):
    config = PlanConfig(**plan)
    again = PlanConfig(**config.model_dump(mode="json"))
    assert again == config
    assert planned_positions(again, lsstcam) == planned_positions(config, lsstcam)


def test_standard_plan_of_a_raft(lsstcam):
    positions = planned_positions(PlanConfig(detectors=["R22"]), lsstcam)
    assert len(positions) == 144 + 45
    assert sum(position.images for position in positions) == 144 + 225
    assert all(name.startswith("R22") for position in positions for name in position.read)


def test_the_scanned_detector_takes_part(lsstcam):
    positions = planned_positions(PlanConfig(detectors=["R10_S00"], scan={}, pointings={}), lsstcam)
    assert positions[0].read == {"R22_S11"}
    assert positions[-1].read == {"R10_S00"}


@pytest.mark.parametrize(("readout", "count"), [("detector", 1), ("board", 3), ("raft", 9), ("all", 189)])
def test_what_is_read(lsstcam, readout, count):
    plan = PlanConfig(pointings={"points": [(0.0, 0.0)], "read": readout})
    (position,) = planned_positions(plan, lsstcam)
    assert len(position.read) == count
    assert "R22_S11" in position.read


def test_acquisition_file_with_the_defects_of_real_ones(tmp_path):
    points = read_acquisition(write(tmp_path))
    places = [(point.x_mm, point.y_mm) for point in points]
    np.testing.assert_allclose(places, [(-24.985, -44.435), (15.0, -4.5), (15.0, 2.8), (6.0, -5.0)])
    assert {point.images for point in points} == {5}
    assert {point.leds for point in points} == {("nm960", "red")}
    assert [point.location for point in points] == ["R22/Reb1"] * 3 + ["R43/Reb2"]


def test_acquisition_file_as_a_plan(tmp_path, lsstcam):
    positions = planned_positions(PlanConfig(acquisition=[str(write(tmp_path))], led="red"), lsstcam)
    assert positions[0].read == {"R22_S10", "R22_S11", "R22_S12"}
    assert positions[3].read == {"R43_S20", "R43_S21", "R43_S22"}


def test_acquisition_files_of_different_leds(tmp_path, lsstcam):
    first, second = tmp_path / "a.cfg", tmp_path / "b.cfg"
    first.write_text("[ACQUIRE]\nccob\n[CCOB]\nexpose = red 1 1\npoint = 0 0\n")
    second.write_text("[ACQUIRE]\nccob\n[CCOB]\nexpose = blue 1 1\npoint = 1 1\n")
    files = [str(first), str(second)]
    with pytest.raises(ConfigError, match=r"no LED in common; choose one with plan\.led: blue, red"):
        planned_positions(PlanConfig(acquisition=files), lsstcam)
    assert [position.x_mm for position in planned_positions(PlanConfig(acquisition=files, led="blue"), lsstcam)] == [1.0]
    with pytest.raises(ConfigError, match=r"'uv'.*can be blue, red"):
        planned_positions(PlanConfig(acquisition=files, led="uv"), lsstcam)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not an acquisition file with points"),
        ("[ACQUIRE]\nccob\n", r"step ccob of \[ACQUIRE\] has no section"),
        ("[ACQUIRE]\nccob\n[CCOB]\npoint = 1 two\n", "point: 'two' is not a number"),
        ("[ACQUIRE]\nccob\n[CCOB]\npoint = 1 nan\n", "'nan' is not a number"),
        ("[ACQUIRE]\nccob\n[CCOB]\npoint = 1\n", "the point '1' is not valid"),
        ("[ACQUIRE]\nccob\n[CCOB]\nIMCOUNT = 0\npoint = 1 1\n", "IMCOUNT = 0 is not a valid number of images"),
        ("[ACQUIRE]\nccob\n[CCOB]\nXOFFSET = left\npoint = 1 1\n", "XOFFSET: 'left'"),
    ],
)
def test_bad_acquisition_files(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_acquisition(write(tmp_path, text))


def test_missing_acquisition_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_acquisition(tmp_path / "none.cfg")


@pytest.mark.parametrize(
    ("plan", "error", "message"),
    [
        ({"detectors": ["R99"]}, PositionError, "no science detector and no raft 'R99'"),
        ({"pointings": {"aim": ["R22_S33"]}}, PositionError, "R22_S33"),
        ({"scan": {"detector": "R22_S11", "amp": "C99"}}, CameraError, "no amplifier 'C99'"),
        ({"scan": {"detector": "R22_X11"}}, CameraError, "no detector 'R22_X11'"),
        ({"taken": "/nowhere"}, InputError, "the index does not exist"),
    ],
)
def test_what_is_not_there(lsstcam, plan, error, message):
    with pytest.raises(error, match=message):
        planned_positions(PlanConfig(**plan), lsstcam)


@pytest.mark.parametrize("content", ["LOCATIONS = R99\npoint = 1 1\n", "point = 1 1 R22/Reb1, 2 2 R99\n"])
def test_unknown_readout_location(tmp_path, lsstcam, content):
    path = write(tmp_path, f"[ACQUIRE]\nccob\n[CCOB]\n{content}")
    with pytest.raises(PositionError, match=rf"{re.escape(str(path))}: .*no readout location 'R99'"):
        planned_positions(PlanConfig(acquisition=[str(path)]), lsstcam)


@pytest.mark.parametrize(
    ("scan", "message"),
    [({"width_mm": 80, "pitch_mm": 5}, "not both"), ({"centre_mm": (0, 0), "detector": "R22_S11"}, "not both")],
)
def test_contradicting_scans(scan, message):
    with pytest.raises(ValueError, match=message):
        PlanConfig(scan=scan)


def test_centre_of_a_detector_without_an_amplifier():
    camera = toy_camera()
    np.testing.assert_allclose(amplifier_centre(camera, "R00_S00"), (-16.45, -16.45))


def test_a_byte_order_mark_does_not_hide_the_first_section(tmp_path):
    plain = read_acquisition(write(tmp_path))
    path = tmp_path / "mark.cfg"
    path.write_bytes(b"\xef\xbb\xbf" + CFG.removeprefix("# a scan and pointings\n").encode())
    assert read_acquisition(path) == plain


@pytest.mark.parametrize("names", [["R22-S11"], ["94"], ["det094"], ["r22_s11"]])
def test_detectors_of_a_plan_in_any_spelling(bin8, names):
    assert [detector.name for detector in named_detectors(bin8, names)] == ["R22_S11"]
    assert len(named_detectors(bin8, ["r22"])) == 9
    with pytest.raises(PositionError, match="no science detector and no raft 'R22_S13'"):
        named_detectors(bin8, ["R22_S13"])
