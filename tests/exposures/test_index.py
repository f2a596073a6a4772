"""The index of whole folders: what is found, what is left out and said, how fast."""

from __future__ import annotations

import gzip
import itertools
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table

from permil.camera import Camera
from permil.config.exposures import ExposuresConfig
from permil.errors import ConfigError, InputError, OutputError, PositionError
from permil.exposures import Index, build_index, find_files
from permil.exposures.files import make_index, read_index

from .campaigns import REB1, quincunx, raft, scan_nodes
from .conftest import RawWriter


class Bench:
    """Writes a small campaign: a scan, pointings and biases, in the real tree."""

    def __init__(self, write: RawWriter, camera: Camera) -> None:
        self.write, self.camera, self.numbers = write, camera, itertools.count(1)

    def ccob(self, run: str, led: str, place: tuple[float, float], detectors: Any, **cards: Any) -> list[Path]:
        """Write one CCOB exposure."""
        number = next(self.numbers)
        folder = f"{run}/BOT_acq/v0/{run}9/ccob_{led}_{place[0]}_{place[1]}_{number:03d}"
        header = {
            "seqnum": number,
            "RUNNUM": run,
            "CCOBLED": led,
            "BOTXCAM": place[0] + 0.004,
            "BOTYCAM": place[1] - 0.003,
        } | cards
        return [self.write(detector, folder=folder, **header) for detector in detectors]

    def campaign(self, leds: tuple[str, ...] = ("red", "blue")) -> None:
        """Write a scan of 16 nodes, two images at each pointing of two detectors, and biases."""
        for place, led in itertools.product(scan_nodes(4), leds):
            self.ccob("6840D", led, place, REB1[:2])
        for detector in raft(self.camera, "R22")[:2]:
            for place, led, _ in itertools.product(quincunx(detector), leds, range(2)):
                self.ccob("6841D", led, place, [detector.name])
        for number in range(3):
            self.write(
                folder=f"6841D/BOT_acq/v0/68419/bias_bias_{number:03d}",
                seqnum=next(self.numbers),
                IMGTYPE="BIAS",
                TESTTYPE="CCOB",
                RUNNUM="6841D",
            )


@pytest.fixture
def bench(write_primary: RawWriter, bin8: Camera) -> Bench:
    return Bench(write_primary, bin8)


def test_campaign(bench: Bench, bin8: Camera, tmp_path: Path) -> None:
    bench.campaign()
    (tmp_path / "6840D" / "ccob_all.cfg").write_text("[ACQUIRE]\nbias\n")
    index = build_index([tmp_path], bin8)
    assert len(index.table) == 2 * 2 * 16 + 2 * 10 * 2 + 3
    assert index.unreadable == []
    assert index.duplicates == []
    assert index.off_detector == []
    assert index.leds == ["blue", "red"]
    rows = {(row["run"], row["purpose"], row["led"]): list(row)[3:] for row in index.summary()}
    assert rows == {
        ("6840D", "scan", "red"): [16, 32, 2, 16],
        ("6840D", "scan", "blue"): [16, 32, 2, 16],
        ("6841D", "pointing", "red"): [20, 20, 2, 10],
        ("6841D", "pointing", "blue"): [20, 20, 2, 10],
        ("6841D", "bias", ""): [3, 3, 1, 0],
    }
    assert len(index.select(purpose="pointing", led="red", detector="R22_S00")) == 10
    assert [(offset.run, offset.is_named) for offset in index.offsets] == [("6840D", False), ("6841D", False)]
    assert index.offsets[0].x_mm == pytest.approx(0.004)
    order = list(zip(index.table["obsid"], index.table["detector"], strict=True))
    assert order == sorted(order)


def test_workers_change_nothing(bench: Bench, bin8: Camera, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.campaign(("red",))
    monkeypatch.setattr("permil.exposures.index._FILES_PER_TASK", 7)
    alone, together = (build_index([tmp_path], bin8, workers=workers).table for workers in (1, 2))
    for name in alone.colnames:
        np.testing.assert_array_equal(alone[name], together[name])


def test_data_spread_over_roots(bench: Bench, bin8: Camera, tmp_path: Path) -> None:
    bench.campaign(("red",))
    whole = build_index([tmp_path], bin8)
    parts = build_index([tmp_path / "6841D", str(tmp_path / "6840D"), tmp_path / "6840D" / "BOT_acq"], bin8)
    assert parts.table["path"].tolist() == whole.table["path"].tolist()
    assert parts.duplicates == []


def test_links_are_followed_once(bench: Bench, bin8: Camera, tmp_path: Path) -> None:
    paths = bench.ccob("6840D", "red", (0.0, 0.0), REB1)
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "6840D" / "again").symlink_to(paths[0].parent)
    (tmp_path / "nowhere.fits").symlink_to(tmp_path / "absent")
    (tmp_path / "self.fits").symlink_to(tmp_path / "self.fits")
    files, unreadable = find_files([tmp_path])
    assert len(files) == 3
    assert sorted(Path(entry.path).name for entry in unreadable) == ["nowhere.fits", "self.fits"]


@pytest.mark.parametrize("suffix", [".fits.bz2", ".fits.xz", ".FITS.Z", ".fit.zip", ".fits.fz.zst"])
def test_packed_files_that_are_not_read_are_listed(bench: Bench, bin8: Camera, tmp_path: Path, suffix: str) -> None:
    first, second, third = bench.ccob("6840D", "red", (0.0, 0.0), REB1)
    second.rename(second.with_suffix(suffix))
    index = build_index([tmp_path], bin8)
    assert index.table["path"].tolist() == sorted([str(first), str(third)])
    (entry,) = index.unreadable
    assert entry.path == str(second.with_suffix(suffix))
    assert "decompress it, or compress it with gzip or fpack" in entry.reason
    for path in (first, third):
        path.rename(path.with_suffix(suffix))
    with pytest.raises(InputError, match=r"none of 3 FITS files can be used.*decompress it"):
        build_index([tmp_path], bin8)


def test_every_suffix_of_fits_is_found(bench: Bench, bin8: Camera, tmp_path: Path) -> None:
    suffixes = iter([".fts", ".FIT", ".fts.gz"])
    for path in bench.ccob("6840D", "red", (0.0, 0.0), REB1):
        path.rename(path.with_suffix(next(suffixes)))
    assert len(build_index([tmp_path], bin8).table) == 3


def test_a_path_that_is_not_utf8_is_listed(bench: Bench, bin8: Camera, tmp_path: Path) -> None:
    """It cannot be written into an index."""
    first, second, third = bench.ccob("6840D", "red", (0.0, 0.0), REB1)
    odd = Path(os.fsdecode(os.fsencode(second.parent) + b"_\xff"))
    try:
        odd.mkdir()
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    second.rename(odd / second.name)
    index = build_index([tmp_path], bin8)
    assert index.table["path"].tolist() == sorted([str(first), str(third)])
    (entry,) = index.unreadable
    assert entry.path.endswith(f"_\\xff/{second.name}")
    assert entry.reason == "the path is not UTF-8; rename the file or its folder"
    make_index([tmp_path], bin8, tmp_path / "index.parquet")
    assert len(read_index(tmp_path / "index.parquet").table) == 2


def test_bad_files_are_listed_and_the_rest_goes_on(bench: Bench, bin8: Camera, tmp_path: Path) -> None:
    good = bench.ccob("6840D", "red", (0.0, 0.0), REB1)
    lost = bench.ccob("6840D", "red", (1.0, 0.0), REB1)
    lost[0].write_bytes(lost[0].read_bytes()[:1000])
    lost[1].write_bytes(b"")
    packed = gzip.compress(lost[2].read_bytes(), 1)
    lost[2].write_bytes(packed[: len(packed) // 2])
    bench.ccob("6840D", "green", (2.0, 0.0), ["R22_S11"])
    Table({"a": [1.0]}).write(tmp_path / "R22_S11_6801D_eotest_results.fits")
    (tmp_path / ".MC_C_20191028_000009_R22_S11.fits").write_text("being written")
    index = build_index([tmp_path], bin8)
    assert index.table["path"].tolist() == sorted(str(path) for path in good)
    reasons = {Path(entry.path).name: entry.reason for entry in index.unreadable}
    assert len(reasons) == 5
    assert "cut short inside a header" in reasons[lost[0].name]
    assert "empty" in reasons[lost[1].name]
    assert "damaged or cut short" in reasons[lost[2].name]
    assert "unknown LED 'green'; known LEDs are uv, blue" in reasons["MC_C_20191028_000003_R22_S11.fits"]
    assert "not a raw exposure" in reasons["R22_S11_6801D_eotest_results.fits"]


def test_nothing_usable(bench: Bench, bin8: Camera, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no FITS files in"):
        build_index([tmp_path], bin8)
    with pytest.raises(InputError, match="no folders to search"):
        build_index([], bin8)
    with pytest.raises(InputError, match="the folder does not exist"):
        build_index([tmp_path / "absent"], bin8)
    (path,) = bench.ccob("6840D", "green", (2.0, 0.0), ["R22_S11"])
    with pytest.raises(InputError, match="none of 1 FITS files can be used; the first reason: unknown LED 'green'"):
        build_index([tmp_path], bin8)
    assert build_index([tmp_path], bin8, options=ExposuresConfig(leds=["green"])).table["path"].tolist() == [str(path)]


def test_folder_without_permission(bench: Bench, bin8: Camera, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.ccob("6840D", "red", (0.0, 0.0), REB1)
    closed = tmp_path / "closed"
    closed.mkdir()
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    index = build_index([tmp_path], bin8)
    assert len(index.table) == 3
    assert [(entry.path, entry.reason) for entry in index.unreadable] == [(str(closed), "cannot be opened (Permission denied)")]


def test_identical_duplicates_count_once(bench: Bench, bin8: Camera, tmp_path: Path) -> None:
    first, *_ = bench.ccob("6840D", "red", (0.0, 0.0), REB1)
    copy = tmp_path / "copy" / first.parent.name / first.name
    copy.parent.mkdir(parents=True)
    copy.write_bytes(gzip.compress(first.read_bytes(), 1))
    index = build_index([tmp_path], bin8)
    assert len(index.table) == 3
    assert [(entry.kept, entry.left_out) for entry in index.duplicates] == [(str(first), str(copy))]


def test_different_duplicates_are_an_error(bench: Bench, bin8: Camera, tmp_path: Path) -> None:
    first, *_ = bench.ccob("6840D", "red", (0.0, 0.0), REB1)
    other = tmp_path / "other" / first.name
    other.parent.mkdir()
    other.write_bytes(first.read_bytes() + bytes(2880))
    with pytest.raises(InputError, match="although both hold R22_S10 of exposure MC_C_20191028_000001") as caught:
        build_index([tmp_path], bin8)
    assert str(first) in str(caught.value)
    assert str(other) in str(caught.value)


def test_offset_of_a_run_is_named(bench: Bench, bin8: Camera, tmp_path: Path) -> None:
    for x, y in scan_nodes(4):
        bench.ccob("13260", "red", (x, y), ["R22_S11"], BOTXCAM=x + 5.0, BOTYCAM=y - 7.0)
        bench.ccob("13260", "blue", (x, y), ["R22_S11"], BOTXCAM=None, BOTYCAM=None)
    index = build_index([tmp_path], bin8)
    (offset,) = index.offsets
    assert offset.is_named
    assert (offset.x_mm, offset.y_mm) == (pytest.approx(5.0), pytest.approx(-7.0))
    blue = index.select(purpose="scan", led="blue")
    assert set(blue["position_kind"]) == {"folder+offset"}
    np.testing.assert_allclose(blue["x_mm"], blue["x_folder_mm"] + 5.0)


def test_scattered_positions(bench: Bench, bin8: Camera, tmp_path: Path) -> None:
    for number, place in enumerate(scan_nodes(4)):
        bench.ccob("13260", "red", place, ["R22_S11"], BOTXCAM=place[0] + 0.1 * number)
    with pytest.raises(PositionError, match=r"run 13260.*exposures.position"):
        build_index([tmp_path], bin8)
    assert set(build_index([tmp_path], bin8, options=ExposuresConfig(position="folder")).table["position_kind"]) == {"folder"}


def test_pointing_off_every_detector_is_listed(bench: Bench, bin8: Camera, tmp_path: Path) -> None:
    bench.ccob("1", "red", (0.0, 0.0), ["R22_S11"])
    bench.ccob("1", "red", (500.0, 0.0), ["R22_S11"])
    index = build_index([tmp_path], bin8)
    assert index.off_detector == ["MC_C_20191028_000002"]
    assert index.table["purpose"].tolist() == ["pointing", "other"]


def test_unusable_photodiodes_stay_in_the_index(bench: Bench, bin8: Camera, tmp_path: Path) -> None:
    for reading in (0.0, None, "NaN", 0.33):
        bench.ccob("1", "red", (0.0, 0.0), ["R22_S11"], CCOBADC=reading)
    photodiode = build_index([tmp_path], bin8).table["photodiode"]
    np.testing.assert_array_equal(photodiode, [np.nan, np.nan, np.nan, 0.33])


def test_written_and_read(bench: Bench, bin8: Camera, tmp_path: Path) -> None:
    bench.campaign(("red",))
    bench.ccob("6841D", "red", (500.0, 0.0), ["R22_S11"])
    first, *_ = bench.ccob("6840D", "green", (0.0, 0.0), REB1)
    shutil.copytree(tmp_path / "6840D", tmp_path / "copy" / "6840D")
    path = tmp_path / "out" / "exposures.parquet"
    index = make_index([tmp_path / "6840D", tmp_path / "6841D", tmp_path / "copy"], bin8, path, options=ExposuresConfig())
    found = read_index(path)
    assert first.name in {Path(entry.path).name for entry in index.unreadable}
    assert len(index.duplicates) == 32
    assert found.table.colnames == index.table.colnames
    for name in index.table.colnames:
        np.testing.assert_array_equal(found.table[name], index.table[name])
        assert found.table[name].dtype.kind == index.table[name].dtype.kind
        assert found.table[name].unit == index.table[name].unit
    for name in ("unreadable", "duplicates", "offsets", "off_detector"):
        assert getattr(found, name) == getattr(index, name)
        assert len(getattr(index, name)) > 0


def test_files_that_are_no_index(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the index does not exist"):
        read_index(tmp_path / "exposures.parquet")
    (tmp_path / "broken.parquet").write_text("PAR1")
    with pytest.raises(InputError, match="cannot be read as"):
        read_index(tmp_path / "broken.parquet")
    with pytest.raises(InputError, match="not an index of this version"):
        Index.from_table(Table({"a": [1]}))


def test_output_that_cannot_be_written(bench: Bench, bin8: Camera, tmp_path: Path) -> None:
    bench.ccob("6840D", "red", (0.0, 0.0), REB1)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        make_index([tmp_path], bin8, tmp_path / "file" / "exposures.parquet")


def test_configuration() -> None:
    content = {"roots": ["raw"], "scan": {"runs": [13260, "6840D"]}}
    options = ExposuresConfig.model_validate(content, context={"folder": Path("/data")})
    assert options.scan.runs == ["13260", "6840D"]
    assert options.roots == [Path("/data/raw")]
    with pytest.raises((ConfigError, ValueError), match="position"):
        ExposuresConfig.model_validate({"position": "stage"})
