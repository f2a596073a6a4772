"""The camera files against the reference tables, and files that are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from astropy.table import Table

from permil.camera import Camera, camera_names, load_camera
from permil.camera.frames import detector_to_ccs
from permil.errors import CameraError


@pytest.fixture(scope="module")
def focal_plane(shared_reference: Path) -> Table:
    return Table.read(shared_reference / "lsstcam_focal_plane.ecsv")


def test_focal_plane_table(lsstcam: Camera, focal_plane: Table) -> None:
    assert len(lsstcam.detectors) == len(focal_plane) == 205
    assert len(lsstcam.science) == 189
    for row in focal_plane:
        detector = lsstcam[row["name"]]
        assert (detector.id, detector.raft, detector.slot) == (row["detector_id"], row["raft"], row["slot"])
        assert (detector.kind.upper(), detector.vendor) == (row["sensor_type"], row["vendor"])
        assert (detector.serial, detector.raft_serial) == (row["serial"], row["raft_serial"])
        assert detector.reb == ("" if np.ma.is_masked(row["reb"]) else row["reb"])
        assert (detector.nx, detector.ny, detector.pixel_mm) == (row["nx"], row["ny"], row["pixel_um"] / 1000)
        assert detector.centre_dvcs == (row["fp_x_mm"], row["fp_y_mm"])
        assert detector.reference_pixel == (row["ref_x_pix"], row["ref_y_pix"])
        assert detector.yaw_deg % 360 == row["yaw_deg"]
        assert detector.z_mm == row["fp_z_mm"]
        np.testing.assert_allclose(
            detector_to_ccs(detector, row["ref_x_pix"], row["ref_y_pix"]), (row["ccs_x_mm"], row["ccs_y_mm"]), atol=1e-9
        )


def test_detectors_hold_their_own_places_and_do_not_overlap(lsstcam: Camera, focal_plane: Table) -> None:
    found = lsstcam.detector_at(focal_plane["ccs_x_mm"], focal_plane["ccs_y_mm"])
    assert found.tolist() == focal_plane["name"].tolist()
    corners = [(x, y) for x in (0.0, 1.0) for y in (0.0, 1.0)]
    for detector in lsstcam.detectors.values():
        pixels = np.array([(x * (detector.nx - 1), y * (detector.ny - 1)) for x, y in corners]).T
        assert set(lsstcam.detector_at(*detector_to_ccs(detector, *pixels))) == {detector.name}


def test_no_detector_there(lsstcam: Camera) -> None:
    x, y = np.meshgrid([-400.0, 0.0, 400.0], [-400.0, 21.13, 0.0])
    # 21.13 mm from the centre is the gap between S11 and S12.
    assert lsstcam.detector_at(x, y).tolist() == [["", "", ""], ["", "", ""], ["", "R22_S11", ""]]
    assert lsstcam.detector_at(np.nan, 0.0) == ""


@pytest.mark.parametrize("vendor", ["E2V", "ITL"])
def test_amplifier_layout_table(lsstcam: Camera, shared_reference: Path, vendor: str) -> None:
    layout = Table.read(shared_reference / "amplifier_layout.ecsv")
    rows = layout[layout["vendor"] == vendor]
    assert len(rows) == 16
    for detector in (entry for entry in lsstcam.science if entry.vendor == vendor):
        assert len(detector.amplifiers) == 16
        for row in rows:
            amplifier = detector.amplifier(row["segment"])
            assert amplifier is detector.amplifier(int(row["amp"]))
            assert amplifier is detector.amplifier(row["extname"])
            for name, column in {"nx": "nx_data", "ny": "ny_data", "number": "amp"}.items():
                assert getattr(amplifier, name) == row[column]
            for name in (
                "channel",
                "nx_raw",
                "ny_raw",
                "prescan",
                "serial_overscan",
                "parallel_overscan",
                "datasec",
                "detsec",
                "detsize",
                "x_min",
                "y_min",
                "flip_x",
                "flip_y",
            ):
                assert getattr(amplifier, name) == row[name], (detector.name, amplifier.name, name)
            y_slice, x_slice = amplifier.slices
            assert (x_slice.stop - 1, y_slice.stop - 1) == (row["x_max"], row["y_max"])
            rows_of, columns_of = amplifier.serial_overscan_slices
            section = f"[{columns_of.start + 1}:{columns_of.stop},{rows_of.start + 1}:{rows_of.stop}]"
            assert section == row["serial_overscan_sec"]


@pytest.mark.parametrize("name", ["lsstcam", "lsstcam-bin8"])
def test_amplifiers_tile_their_detector(name: str) -> None:
    for detector in load_camera(name).detectors.values():
        covered = np.zeros(detector.shape, dtype=np.int8)
        for amplifier in detector.amplifiers:
            covered[amplifier.slices] += 1
        assert (covered == 1).all()


def test_corner_sensors(lsstcam: Camera) -> None:
    kinds = {kind: [d for d in lsstcam.detectors.values() if d.kind == kind] for kind in ("guider", "wavefront")}
    assert {kind: len(found) for kind, found in kinds.items()} == {"guider": 8, "wavefront": 8}
    for detector in kinds["guider"]:
        assert (detector.vendor, detector.shape, len(detector.amplifiers), detector.reb) == ("ITL", (4000, 4072), 16, "")
    for detector in kinds["wavefront"]:
        assert detector.shape == (2000, 4072)
        assert [amplifier.name for amplifier in detector.amplifiers] == [f"C1{digit}" for digit in range(8)]
        with pytest.raises(CameraError, match="no amplifier 'C00'"):
            detector.amplifier("C00")
    assert {detector.yaw_deg for detector in kinds["guider"] + kinds["wavefront"]} == {0, 90, 180, 270}


def test_binned_camera_has_the_same_millimetres(lsstcam: Camera, bin8: Camera) -> None:
    assert bin8.detectors.keys() == lsstcam.detectors.keys()
    assert bin8.pixel_mm == pytest.approx(8 * lsstcam.pixel_mm)
    for fine, coarse in zip(lsstcam.detectors.values(), bin8.detectors.values(), strict=True):
        assert (fine.name, fine.serial, fine.centre_dvcs) == (coarse.name, coarse.serial, coarse.centre_dvcs)
        # The outer gap of what does not fill a binned pixel is the same on both sides.
        middle_fine = detector_to_ccs(fine, *fine.centre_pixel)
        middle_coarse = detector_to_ccs(coarse, *coarse.centre_pixel)
        np.testing.assert_allclose(middle_fine, middle_coarse, atol=1e-9)
        assert all(0 <= size - 8 * binned < 64 for size, binned in ((fine.nx, coarse.nx), (fine.ny, coarse.ny))), (
            fine.name,
            fine.shape,
            coarse.shape,
        )
    x, y = np.random.default_rng(1).uniform(-300, 300, (2, 3000))
    found, binned = lsstcam.detector_at(x, y), bin8.detector_at(x, y)
    assert set(binned) <= set(found) | {""}
    assert np.mean(found == binned) > 0.97
    assert ((found == binned) | (binned == "")).all()


def test_binned_raw_segments(bin8: Camera) -> None:
    sizes = {
        detector.layout: (amplifier.nx_raw, amplifier.ny_raw, amplifier.nx, amplifier.ny, amplifier.serial_overscan)
        for detector in bin8.detectors.values()
        for amplifier in detector.amplifiers
    }
    assert sizes == {"E2V": (128, 256, 64, 250, 54), "ITL": (130, 256, 63, 250, 64), "ITL_WF": (130, 256, 63, 250, 64)}


def test_nominal_values(lsstcam: Camera) -> None:
    """Gains of R22_S11 as in the policy of 2021-01, vendor medians elsewhere."""
    assert lsstcam["R22_S11"].amplifier("C10").gain == 1.07111
    assert lsstcam["R22_S11"].amplifier("C00").gain == 1.05399
    assert {amplifier.gain for amplifier in lsstcam["R22_S12"].amplifiers} == {1.139}
    assert {amplifier.read_noise for amplifier in lsstcam["R02_S21"].amplifiers} == {6.55}


def test_names_that_do_not_exist(lsstcam: Camera) -> None:
    with pytest.raises(CameraError, match="camera lsstcam has no detector 'R99_S00'; names look like R22_S11"):
        lsstcam["R99_S00"]
    with pytest.raises(CameraError, match="R22_S11 has no amplifier 'C18'; its amplifiers are C10, C11") as caught:
        lsstcam["R22_S11"].amplifier("C18")
    assert caught.value.data["value"] == "C18"
    with pytest.raises(
        CameraError, match="there is no camera 'hubble'; give one of lsstcam, lsstcam-bin8, spots-cutout or the path"
    ):
        load_camera("hubble")
    assert camera_names() == ["lsstcam", "lsstcam-bin8", "spots-cutout"]


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_camera_of_the_users_own(tmp_path: Path, lsstcam: Camera) -> None:
    path = write(
        tmp_path / "stand.yaml",
        {
            "extends": "lsstcam",
            "name": "stand",
            "layouts": {"E2V": {"segment": {"serial_overscan": 20, "parallel_overscan": 20}}},
        },
    )
    camera = load_camera(path)
    amplifier = camera["R22_S11"].amplifier("C14")
    # The 542 x 2022 pixels of older test stands.
    assert (camera.name, amplifier.nx_raw, amplifier.ny_raw) == ("stand", 542, 2022)
    assert amplifier.detsec == lsstcam["R22_S11"].amplifier("C14").detsec


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("name: [", "not valid YAML"),
        ("just text", "not a camera file"),
        ("", "not a camera file"),
        ({"extends": "lsstcam", "pixel_size": 0.01}, "key pixel_size"),
        ({"extends": "lsstcam", "pixel_mm": -1}, "key pixel_mm"),
        ({"extends": "lsstcam", "pixel_mm": "small"}, "key pixel_mm"),
        ({"extends": "hubble"}, "there is no camera 'hubble'"),
        ({"name": "empty"}, "key "),
        ({"extends": "lsstcam", "layouts": {"E2V": {"segment": {"nx": 0}}}}, r"key layouts\.E2V\.segment\.nx"),
        ({"extends": "lsstcam", "reference": {"detector": "R99_S00"}}, "no detector 'R99_S00'"),
        ({"extends": "lsstcam", "reference": {"amp": "C99"}}, "no amplifier 'C99'"),
    ],
)
def test_wrong_camera_files(tmp_path: Path, change: Any, reason: str) -> None:
    with pytest.raises(CameraError, match=reason):
        load_camera(write(tmp_path / "camera.yaml", change))


def test_detector_twice_or_without_layout(tmp_path: Path) -> None:
    entry = {
        "name": "R22_S11",
        "id": 0,
        "kind": "science",
        "layout": "E2V",
        "serial": "E2V-1",
        "raft_serial": "R-1",
        "centre": [0.0, 0.0],
    }
    content = {"extends": "lsstcam", "name": "one", "detectors": [entry, entry]}
    with pytest.raises(CameraError, match="detector R22_S11 stands twice"):
        load_camera(write(tmp_path / "twice.yaml", content))
    content["detectors"] = [entry | {"layout": "HAWAII"}]
    with pytest.raises(CameraError, match="unknown layout 'HAWAII'; layouts are E2V, ITL, ITL_WF"):
        load_camera(write(tmp_path / "layout.yaml", content))
    content["detectors"] = [entry]
    assert load_camera(write(tmp_path / "one.yaml", content)).detector_at(0.0, 0.0) == "R22_S11"


@pytest.mark.parametrize(
    "label",
    ["R22_S11", "R22-S11", "r22_s11", "R22S11", "R22/S11", " R22_S11 ", b"R22_S11", 94, 94.0, np.int16(94), "94", "det094", "DET94",
     "E2V-CCD250-382", "e2v_ccd250_382"],
)  # fmt: skip
def test_a_detector_is_found_by_every_spelling(label):
    camera = load_camera("lsstcam")
    assert camera[label].name == "R22_S11"
    assert camera["R22_S11"].is_called(label)
    assert not camera["R22_S12"].is_called(label)


@pytest.mark.parametrize("label", ["S11", "R22", "R2_S11", "", None, np.ma.masked, np.nan, True, "E2V", 999, "R22_S11_C10", 94.5])
def test_a_label_of_no_detector_is_not_one(label):
    camera = load_camera("lsstcam")
    assert camera.find(label) is None
    with pytest.raises(CameraError, match="has no detector"):
        camera[label]


def test_every_spelling_of_every_detector_is_its_own():
    camera = load_camera("lsstcam")
    for name, detector in camera.detectors.items():
        for label in (name, name.replace("_", "-").lower(), detector.id, f"det{detector.id:03d}", detector.serial):
            assert camera[label].name == name
