"""The camera files against the reference tables, and files that are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from astropy.table import Table

import permil
from permil.camera import Camera, camera_names, load_camera
from permil.camera.frames import detector_to_ccs
from permil.errors import CameraError
from permil.yaml_file import plain, read_yaml


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
        CameraError, match="camera 'hubble' does not exist; give one of lsstcam, lsstcam-bin8, spots-cutout or the path"
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
        ({"extends": "hubble"}, "camera 'hubble' does not exist"),
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
    with pytest.raises(CameraError, match="detector R22_S11 is given twice"):
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


def test_extends_is_relative_to_the_file_that_says_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bases").mkdir()
    write(tmp_path / "bases" / "one.yaml", {"extends": "lsstcam-bin8", "name": "one", "title": "base", "midline_mm": 0.5})
    write(tmp_path / "bases" / "two.yaml", {"extends": "one.yaml", "name": "two", "edge_mm": 0.25})
    path = write(tmp_path / "three.yaml", {"extends": "bases/two.yaml", "name": "three"})
    monkeypatch.chdir("/")
    camera = load_camera(path)
    assert (camera.name, camera.title, camera.edge_mm, camera.midline_mm) == ("three", "base", 0.25, 0.5)
    write(tmp_path / "four.yaml", {"extends": str(tmp_path / "bases" / "two.yaml"), "name": "four"})
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_camera("~/four.yaml").edge_mm == 0.25
    # A long chain is no loop.
    for number in range(60):
        write(
            tmp_path / f"c{number}.yaml", {"extends": f"c{number - 1}.yaml" if number else "lsstcam-bin8", "name": f"c{number}"}
        )
    assert load_camera(tmp_path / "c59.yaml").name == "c59"


def test_extends_that_leads_back(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    write(first, {"extends": "first.yaml"})
    with pytest.raises(CameraError, match=r"first\.yaml: key extends = 'first\.yaml' is circular .first\.yaml"):
        load_camera(first)
    write(first, {"extends": "second.yaml"})
    write(second, {"extends": str(first)})
    with pytest.raises(CameraError, match=r"second\.yaml: key extends = .* is circular .first\.yaml"):
        load_camera(first)
    link = tmp_path / "link.yaml"
    link.symlink_to(second)
    write(second, {"extends": "link.yaml"})
    with pytest.raises(CameraError, match="is circular"):
        load_camera(second)


def test_name_of_the_package_is_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is named as a camera of the package extends that camera, and is itself found by its path."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "lsstcam", {"extends": "lsstcam", "name": "mine"})
    assert load_camera("lsstcam").name == "lsstcam"
    assert load_camera("./lsstcam").name == "mine"
    assert load_camera(tmp_path / "lsstcam").name == "mine"
    with pytest.raises(CameraError, match=r"camera .* does not exist"):
        load_camera("../cameras/lsstcam")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"extends: lsstcam\ntitle: Gr\xf6\xdfe\n", r"not UTF-8 text \(byte 0xf6 in line 2\); give a camera file"),
        (b"extends: [lsstcam]\n", r"key extends = \['lsstcam'\]: expected is the name of a camera"),
        (b"extends: 3\n", "key extends = 3: "),
        (b"extends:\n", "key extends = None: "),
        (b"extends: nothing.yaml\n", r"camera\.yaml: camera 'nothing\.yaml' does not exist"),
        (b"extends: .\n", "the camera file cannot be read"),
        (b"extends: lsstcam\nname: a\npixel_mm: 0.01\nname: b\n", "key name is given twice, in line 2 and in line 4"),
        (b"extends: lsstcam\nlayouts:\n  E2V: {vendor: a}\n  'E2V': {vendor: b}\n", r"layouts\.E2V is given twice, in line 3"),
        (b"extends: lsstcam\npixel_mm: .nan\n", "key pixel_mm: .*finite"),
        (b"extends: lsstcam\npixel_mm: true\n", "key pixel_mm: .*truth value"),
        (b"extends: lsstcam\nlayouts: {E2V: {reference_pixel: [.inf, 0]}}\n", r"key layouts\.E2V\.reference_pixel\.0: .*finite"),
        (b"extends: lsstcam\nlayouts: {E2V: {segment: {columns: 3}}}\n", r"key layouts\.E2V\.segment\.columns"),
        (b"extends: lsstcam\ndetectors: []\n", "there are no detectors"),
        (b"extends: lsstcam\nnominal_gains: {R22_S91: {C10: 1.0}}\n", "the unknown detector 'R22_S91'"),
        (b"extends: lsstcam\nnominal_gains: {R22_S11: {C19: 1.0}}\n", "of R22_S11 names the unknown amplifier 'C19'"),
        (b"extends: lsstcam\nnominal_gains: {R22_S11: {C10: .nan}}\n", r"key nominal_gains\.R22_S11\.C10: "),
        (b"extends: lsstcam\nlayouts: {E2V: {halves: {middle: {flip_x: true, flip_y: true}}}}\n", r"key layouts\.E2V\.halves"),
    ],
)
def test_camera_files_that_are_refused(tmp_path: Path, text: bytes, reason: str) -> None:
    path = tmp_path / "camera.yaml"
    path.write_bytes(text)
    with pytest.raises(CameraError, match=reason):
        load_camera(path)


def test_gains_of_what_is_left_out_are_no_mistake(tmp_path: Path) -> None:
    """A file with fewer detectors and amplifiers keeps the gains of the file that it extends."""
    for name in camera_names():
        load_camera(name)
    entry = {
        "name": "R01_S00",
        "id": 0,
        "kind": "science",
        "layout": "ITL",
        "serial": "",
        "raft_serial": "",
        "centre": [0.0, 0.0],
    }
    reference = {"detector": "R01_S00", "amp": "C10"}
    path = write(tmp_path / "one.yaml", {"extends": "lsstcam", "detectors": [entry], "reference": reference})
    assert load_camera(path).detectors.keys() == {"R01_S00"}


def test_mistake_in_a_base_names_the_base(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_bytes(b"extends: lsstcam\ntitle: \xe9\n")
    write(tmp_path / "mine.yaml", {"extends": "base.yaml"})
    with pytest.raises(CameraError, match=r"base\.yaml: not UTF-8 text"):
        load_camera(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": 95}, "detector id 95 is given twice"),
        ({"serial": "E2V-2"}, "detector serial E2V-2 is given twice"),
        ({"name": "R22_S12"}, "detector R22_S12 is given twice"),
        ({"serial": ""}, ""),
    ],
)
def test_detectors_that_are_the_same(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    entry = {
        "name": "R22_S11",
        "id": 94,
        "kind": "science",
        "layout": "E2V",
        "serial": "E2V-1",
        "raft_serial": "R-1",
        "centre": [0.0, 0.0],
    }
    others = [
        entry | {"name": "R22_S12", "id": 95, "serial": "E2V-2", "centre": [0.0, 42.0]},
        entry | {"name": "R22_S10", "id": 93, "serial": "", "centre": [0.0, -42.0]},
    ]
    path = write(tmp_path / "camera.yaml", {"extends": "lsstcam", "detectors": [*others, entry | change]})
    if reason:
        with pytest.raises(CameraError, match=reason):
            load_camera(path)
    else:
        # Serials may be unknown.
        assert len(load_camera(path).detectors) == 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"number": 2}, "amplifier number 2 is given twice"),
        ({"name": "C11"}, "amplifier name C11 is given twice"),
        ({"extname": "Segment11"}, "amplifier extname Segment11 is given twice"),
        ({"column": 1}, "amplifier place column 1 of the top half is given twice"),
        ({"column": 9}, r"layout E2V: the amplifiers of the top half have the columns \[1, 2, 3, 4, 5, 6, 7, 9\]"),
        ({"half": "bottom", "column": 8}, r"layout E2V: the amplifiers of the top half have the columns"),
    ],
)
def test_amplifiers_that_are_the_same(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    first, *others = plain(read_yaml(Path(permil.__file__).parent / "cameras" / "lsstcam.yaml"))["amplifiers"]
    path = write(tmp_path / "camera.yaml", {"extends": "lsstcam", "amplifiers": [first | change, *others]})
    with pytest.raises(CameraError, match=reason):
        load_camera(path)
