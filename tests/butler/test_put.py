"""Products in a repository: found by date and detector, bit by bit; unchanged, changed and replaced products."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.time import Time

from permil import Flat
from permil.butler import PutOptions, curated, put_run
from permil.butler import put as put_module
from permil.butler.repository import RepositoryNames
from permil.camera import Camera
from permil.errors import ButlerError, InputError, PermilError
from permil.products import read_image, write_table

Permil = Callable[..., tuple[int, str, str]]
COLLECTION = "u/test/flats"
FIRST, SECOND = {"begin": "2021-12-01", "end": "2022-02-01"}, {"begin": "2022-02-01", "end": "2022-06-01T12:00:00"}


def put(root: Path, repository: Path, **options: Any) -> list[str]:
    """Put the products of a run into the collection of the tests."""
    return put_run(root, PutOptions(**({"repo": str(repository), "collection": COLLECTION, **FIRST} | options)))


@pytest.fixture
def found(lsst: Any, repo: Path) -> Callable[..., Any]:
    """Return a function that reads the dataset that is valid at a date, None if there is none."""

    def find(date: str, detector: int = 94, dataset_type: str = "permil_flat") -> Any:
        from lsst.daf.butler import Butler, Timespan

        with Butler.from_config(repo) as butler:
            instant = Timespan.fromInstant(Time(date, scale="tai"))
            data_id = {"instrument": "LSSTCam", "detector": detector, "physical_filter": "red"}
            ref = butler.find_dataset(dataset_type, data_id, collections=COLLECTION, timespan=instant)
            return None if ref is None else butler.get(ref)

    return find


FRESH = """
import sys, hashlib
import permil.butler
from astropy.time import Time
from lsst.daf.butler import Butler, Timespan
with Butler.from_config(sys.argv[1], collections=[sys.argv[2]]) as butler:
    for date in sys.argv[3:]:
        for detector in (94, 95):
            instant = Timespan.fromInstant(Time(date, scale="tai"))
            data_id = dict(instrument="LSSTCam", detector=detector, physical_filter="red")
            flat = butler.get(butler.find_dataset("permil_flat", data_id, timespan=instant))
            planes = flat.image.tobytes() + flat.mask.tobytes() + flat.variance.tobytes()
            print(type(flat).__module__, type(flat).__name__, flat.detector.name, flat.led, hashlib.sha256(planes).hexdigest())
"""


def _digest(flat: Flat) -> str:
    return hashlib.sha256(flat.image.tobytes() + flat.mask.tobytes() + flat.variance.tobytes()).hexdigest()


def test_products_are_found_by_date_and_detector_in_a_fresh_process(
    repo: Path, made: Path, changed: Path, permil: Permil
) -> None:
    for root, dates in ((made / "out", FIRST), (changed, SECOND)):
        code, printed, messages = permil(
            "butler", "put", root, "--repo", repo, "--collection", COLLECTION, "--begin", dates["begin"], "--end", dates["end"]
        )
        assert (code, messages) == (0, "")
        assert "lsst.obs.base cannot be imported" in printed
    # In the second range only the changed flat is new; the other one and the mosaic are certified for further dates.
    assert "permil_flat: 1 certified for further dates, 1 new" in printed
    assert "permil_mosaic: 1 certified for further dates" in printed
    arguments = [sys.executable, "-W", "error", "-c", FRESH, str(repo), COLLECTION, "2021-12-24", "2022-06-01T11:59:59"]
    lines = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.splitlines()  # noqa: S603
    assert lines == [
        f"permil.flat.flat Flat {name} red {_digest(Flat.read(root / 'flat' / 'red' / f'{name}.fits'))}"
        for root in (made / "out", changed)
        for name in ("R22_S11", "R22_S12")
    ]


def test_the_same_again_changes_nothing(repo: Path, made: Path) -> None:
    first = put(made / "out", repo)
    before = {path: path.read_bytes() for path in repo.rglob("*") if path.is_file()}
    again = put(made / "out", repo)
    assert any(line.startswith("written to") for line in first)
    assert [line for line in again if "permil_" in line] == ["permil_flat: 2 unchanged", "permil_mosaic: 1 unchanged"]
    assert {path: path.read_bytes() for path in repo.rglob("*") if path.is_file()} == before


def test_a_product_made_again_is_the_same(repo: Path, made: Path, tmp_path: Path) -> None:
    """Times of writing, versions and fingerprints are no content."""
    put(made / "out", repo)
    root = shutil.copytree(made / "out", tmp_path / "again")
    path = root / "flat" / "red" / "R22_S11.fits"
    with fits.open(path, mode="update", checksum=True) as hdus:
        hdus[0].header.update({"DATE": "2030-01-01T00:00:00", "PERMILVE": "9.9", "FINGERPR": "0" * 32})
    assert "permil_flat: 2 unchanged" in put(root, repo)


def test_a_changed_product_is_refused_and_replaced_on_demand(
    repo: Path, made: Path, changed: Path, found: Callable[..., Any], permil: Permil
) -> None:
    put(made / "out", repo)
    before = {path: path.read_bytes() for path in repo.rglob("*.fits")}
    arguments = (
        "butler",
        "put",
        changed,
        "--repo",
        repo,
        "--collection",
        COLLECTION,
        "--begin",
        "2022-01-01",
        "--end",
        "2022-01-11",
    )
    code, _, messages = permil(*arguments)
    assert code == 2
    expected = f"permil: {repo}: 1 products differ from those in {COLLECTION} for these dates: permil_flat 94 red; choose"
    assert messages.startswith(expected)
    assert len(messages.strip().splitlines()) == 1
    code, printed, _ = permil(*arguments, "--replace")
    assert code == 0
    assert "permil_flat: 1 replaced, 1 unchanged" in printed
    old, new = (Flat.read(root / "flat" / "red" / "R22_S11.fits") for root in (made / "out", changed))
    for date, expected_flat in (("2021-12-31", old), ("2022-01-05", new), ("2022-01-11", old)):
        assert _digest(found(date)) == _digest(expected_flat)
    # Nothing was overwritten or removed, and the old product can be valid again.
    after = {path: path.read_bytes() for path in repo.rglob("*.fits")}
    assert before.items() <= after.items()
    assert len(after) == len(before) + 1
    assert "permil_flat: 1 replaced, 1 unchanged" in put(made / "out", repo, replace=True)
    assert _digest(found("2022-01-05")) == _digest(old)
    assert len(list(repo.rglob("*.fits"))) == len(after)


def test_overlapping_ranges_of_one_product_are_joined(repo: Path, made: Path, found: Callable[..., Any]) -> None:
    put(made / "out", repo, begin="2022-01-01", end="2022-01-10")
    put(made / "out", repo, begin="2022-01-20", end="2022-02-01")
    lines = put(made / "out", repo, begin="2022-01-05", end="2022-01-25")
    assert "permil_flat: 2 certified for further dates" in lines
    assert found("2022-01-15") is not None
    assert found("2022-02-02") is None
    assert "permil_flat: 2 certified for further dates" in put(made / "out", repo, begin="", end="")
    assert found("1999-01-01") is not None
    assert "permil_flat: 2 unchanged" in put(made / "out", repo, begin="2050-01-01", end="")


def test_a_repository_survives_a_put_that_fails(
    repo: Path, made: Path, found: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fail(*arguments: Any, **more: Any) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        curated.write_curated(*arguments, **more)

    monkeypatch.setattr(put_module, "write_curated", fail)
    with pytest.raises(ButlerError, match=r"cannot be put .*No space left"):
        put(made / "out", repo)
    monkeypatch.undo()
    assert found("2022-01-01") is None
    assert not list(repo.rglob("*.fits"))
    assert "permil_flat: 2 new" in put(made / "out", repo)
    assert found("2022-01-01", 95) is not None


def test_tables_and_mosaic_are_read_back(repo: Path, made: Path, tmp_path: Path, found: Callable[..., Any]) -> None:
    root = shutil.copytree(made / "out", tmp_path / "run")
    summary = Table({"metric": ["median"], "value": [1.0]})
    defects = Table({"x0": [1], "y0": [2], "width": [3], "height": [4], "reason": ["dead"]}, meta={"fingerprint": "abc"})
    gains = Table({"detector": ["R22_S11"], "amp": ["C10"], "ratio": [1.01]})
    write_table(root / "summary.ecsv", summary)
    write_table(root / "defects" / "R22_S11.ecsv", defects)
    write_table(root / "calib" / "measured_gains.ecsv", gains)
    lines = put(root, repo)
    assert {line for line in lines if line.endswith(": 1 new")} == {
        f"permil_{kind}: 1 new" for kind in ("mosaic", "defects", "gain_ratios", "summary")
    }
    for kind, expected in (("defects", defects), ("gain_ratios", gains), ("summary", summary)):
        table = found("2022-01-01", dataset_type=f"permil_{kind}")
        assert table.colnames == expected.colnames
        assert all(np.array_equal(table[name], expected[name]) for name in expected.colnames)
        assert table.meta["OBSTYPE"] == kind
    assert found("2022-01-01", dataset_type="permil_defects").meta["DETECTOR"] == 94
    mosaic = found("2022-01-01", dataset_type="permil_mosaic")
    assert mosaic.image.tobytes() == read_image(root / "flat" / "red" / "focal_plane.fits").image.tobytes()
    defects["reason"] = ["hot"]
    write_table(root / "defects" / "R22_S11.ecsv", defects)
    with pytest.raises(ButlerError, match=r"1 products differ.*permil_defects 94;"):
        put(root, repo)


def test_an_efficiency_flat_is_a_dataset_of_its_own(repo: Path, made: Path, tmp_path: Path, found: Callable[..., Any]) -> None:
    root = shutil.copytree(made / "out", tmp_path / "run")
    plain, path = Flat.read(root / "flat" / "red" / "R22_S11.fits"), root / "flat" / "red" / "R22_S11_efficiency.fits"
    plain.header["FLATKIND"] = "efficiency"
    (plain * 1.01).write(path)
    with fits.open(path, mode="append", checksum=True) as hdus:
        hdus.append(fits.ImageHDU(np.zeros((4, 4), np.float32), name="SHIFT_X"))
    assert {"permil_flat: 2 new", "permil_efficiency_flat: 1 new"} <= set(put(root, repo))
    flat = found("2022-01-01", dataset_type="permil_efficiency_flat")
    assert (type(flat), flat.detector.name, flat.header["FLATKIND"], flat.header["OBSTYPE"]) == (
        Flat,
        "R22_S11",
        "efficiency",
        "efficiency_flat",
    )
    assert _digest(flat) == _digest(Flat.read(path))
    assert found("2022-01-01", 95, "permil_efficiency_flat") is None
    assert _digest(found("2022-01-01")) == _digest(plain)
    assert "permil_efficiency_flat: 1 unchanged" in put(root, repo)
    stored = next(file for file in repo.rglob("*.fits") if "efficiency" in file.name)
    assert fits.getheader(stored, "SHIFT_X")["NAXIS"] == 2
    (plain * 1.02).write(path)
    with pytest.raises(ButlerError, match=r"1 products differ.*permil_efficiency_flat 94 red;"):
        put(root, repo)


def test_dataset_types_of_the_stack(repo: Path, made: Path, tmp_path: Path, lsst: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for obs_base, which pip cannot install: file, formatter and storage class are what the stack expects."""
    for module, name in (("fitsExposure", "FitsExposureFormatter"), ("fitsGeneric", "FitsGenericFormatter")):
        stand_in = types.ModuleType(f"lsst.obs.base.formatters.{module}")
        setattr(stand_in, name, type(name, (lsst.RawFormatter,), {"__module__": stand_in.__name__}))
        monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    for name in ("lsst.obs", "lsst.obs.base", "lsst.obs.base.formatters"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    root = shutil.copytree(made / "out", tmp_path / "run")
    write_table(root / "defects" / "R22_S11.ecsv", Table({"x0": [1], "y0": [2], "width": [3], "height": [4], "reason": ["dead"]}))
    lines = put(root, repo)
    assert {"flat: 2 new", "defects: 1 new"} <= set(lines)
    assert not any("obs.base" in line for line in lines)
    assert {"flat: 2 unchanged", "defects: 1 unchanged"} <= set(put(root, repo))
    from lsst.daf.butler import Butler

    with Butler.from_config(repo) as butler:
        assert butler.get_dataset_type("flat").storageClass_name == "ExposureF"
        assert butler.get_dataset_type("flat").dimensions.required == {"instrument", "detector", "physical_filter"}
        assert butler.get_dataset_type("defects").storageClass_name == "Defects"
        refs = {}
        for name in ("flat", "defects"):
            for entry in butler.registry.queryDatasetAssociations(name, collections=[COLLECTION]):
                refs[name, entry.ref.dataId["detector"]] = butler.getURI(entry.ref).ospath
    with fits.open(refs["flat", 94]) as hdus:
        assert [hdu.header["EXTTYPE"] for hdu in hdus[1:]] == ["IMAGE", "MASK", "VARIANCE"]
        assert hdus["IMAGE"].data.tobytes() == fits.getdata(root / "flat" / "red" / "R22_S11.fits", "IMAGE").tobytes()
        assert (hdus[2].header["MP_BAD"], hdus[2].header["MP_SAT"]) == (0, 1)
    with fits.open(refs["defects", 94]) as hdus:
        assert [hdus[1].data[name].tolist() for name in ("x0", "y0", "width", "height")] == [[1], [2], [3], [4]]
        assert (hdus[1].header["OBSTYPE"], hdus[1].header["DETECTOR"]) == ("defects", 94)


def test_cards_of_a_calibration(repo: Path, made: Path, lsst: Any) -> None:
    put(made / "out", repo)
    path = next(path for path in repo.rglob("*.fits") if "R22_S11" in path.name)
    header = fits.getheader(path)
    expected = {
        "OBSTYPE": "flat", "INSTRUME": "LSSTCam", "DETECTOR": 94, "DET_NAME": "R22_S11", "RAFTNAME": "R22", "SLOTNAME": "S11",
        "DET_SER": "E2V-CCD250-382", "FILTER": "red", "LED": "red", "CALIBDATE": "2021-12-01T00:00:00",
        "VALIDBEG": "2021-11-30T23:59:23", "VALIDEND": "2022-01-31T23:59:23",
        "CALIB_ID": "instrument=LSSTCam raftName=R22 detectorName=R22_S11 detector=94 filter=red calibDate=2021-12-01T00:00:00",
    }  # fmt: skip
    assert {name: header[name] for name in expected} == expected
    with fits.open(path, checksum=True) as hdus:
        hdus.verify("exception")


def test_validity_of_the_run_is_the_default(repo: Path, made: Path, tmp_path: Path, found: Callable[..., Any]) -> None:
    """Cards of a run are UTC; a date that is given takes precedence."""
    root = shutil.copytree(made / "out", tmp_path / "run")
    for path in (root / "flat" / "red").glob("R*.fits"):
        with fits.open(path, mode="update", checksum=True) as hdus:
            hdus[0].header.update({"VALIDBEG": "2021-12-01", "VALIDEND": "2022-01-01T00:00:00"})
    lines = put(root, repo, begin="", end="2022-02-01")
    assert f"{COLLECTION}: valid from 2021-12-01T00:00:37.000 until 2022-02-01T00:00:00.000 (TAI)" in lines
    assert found("2022-01-15") is not None


WRONG_DATES = (
    "2021",
    "20211201",
    "59549.0",
    "2021-02-30",
    "2021-12-01T00:00:00Z",
    "2021-12-01T00:00:00+01:00",
    "01.12.2021",
    "now",
)
WRONG_COLLECTIONS = ("", " ", "u/me/*", "u//me", "/u/me", "u/me/", "../me", "u/./me", "u/my flats", "a,b")


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"begin": "yesterday"}, "--begin 'yesterday' is not a date; write 2021-12-03"),
        ({"begin": "2022-03-01"}, "end of the validity .* is not after its beginning"),
        ({"instrument": "HSC"}, "there is no instrument HSC in this repository; give --instrument: LSSTCam"),
        ({"collection": "LSSTCam/raw/all"}, "LSSTCam/raw/all is a collection of type RUN, not CALIBRATION; give another"),
        ({"filters": {"red": "i_39"}}, "no physical filter i_39 for LED red; give --filter red=NAME, one of: red"),
        ({"filters": {"blue": "red"}}, "there is no flat of LED blue; check --filter"),
        ({"repo": "nowhere"}, "there is no Butler repository here"),
        (
            {"begin": "1900-01-01"},
            "a repository cannot store the date 1900-01-01T00:00:00.000 .TAI.; .* leave --begin out for no bound",
        ),
        (
            {"end": "9999-12-31"},
            "a repository cannot store the date 9999-12-31T00:00:00.000 .TAI.; .* leave --end out for no bound",
        ),
        ({"begin": "2021-12-01", "end": "2021-12-01"}, "end of the validity .2021-12-01T00:00:00.000. is not after"),
        *(({"begin": date}, "is not a date; write 2021-12-03, or 2021-12-03T18:00:00 .TAI.") for date in WRONG_DATES),
        *(({"collection": name}, "is not the name of a collection; write words separated by /") for name in WRONG_COLLECTIONS),
    ],
    ids=str,
)
def test_wrong_options(repo: Path, made: Path, options: dict[str, Any], pattern: str) -> None:
    with pytest.raises(PermilError) as caught:
        put(made / "out", repo, **options)
    assert re.search(pattern, str(caught.value))
    assert not list(repo.rglob("*.fits"))


def test_spellings_of_a_repository_and_of_dates(
    repo: Path, made: Path, permil: Permil, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A folder, its configuration, a URI, a label, a path from the home folder: the same repository. Dates with T, with a blank, short."""
    (tmp_path / "index.yaml").write_text(f"main: {repo}\n")
    monkeypatch.setenv("DAF_BUTLER_REPOSITORY_INDEX", str(tmp_path / "index.yaml"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    places = ("repo", "./repo", "~/repo", str(repo), repo / "butler.yaml", repo.as_uri(), "main")
    dates = ("2021-12-01", "2021-12-01 00:00:00", "2021-12-01T00:00", "2021-12-01T00:00:00.000")
    for number, place in enumerate(places):
        options = ("--repo", place, "--collection", "u/test/flats", "--begin", dates[number % len(dates)])
        code, printed, messages = permil("butler", "put", made / "out", *options)
        assert (code, messages) == (0, "")
        assert ("permil_flat: 2 unchanged" if number else "permil_flat: 2 new") in printed


@pytest.mark.parametrize("name", ["run.yaml", "exposures.parquet"])
def test_a_file_that_is_no_repository_is_left_alone(lsst: Any, made: Path, tmp_path: Path, permil: Permil, name: str) -> None:
    shutil.copy(made / "out" / name, tmp_path)
    code, _, messages = permil("butler", "put", made / "out", "--repo", tmp_path / name, "--collection", "u/test/flats")
    assert code == 2
    assert messages.startswith(
        f"permil: {tmp_path / name}: this file is not the configuration of a Butler repository; give the folder"
    )
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("arguments", [["--filter", "red"], ["--filter", "red=a", "--filter", "red=b"]], ids=str)
def test_wrong_filters_on_the_command_line(permil: Permil, made: Path, arguments: list[str]) -> None:
    code, _, messages = permil("butler", "put", made / "out", "--repo", "x", "--collection", "y", *arguments)
    assert code == 2
    assert "write --filter red=NAME" in messages


def test_folders_that_are_no_run_or_have_no_flats(made: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not the folder of a run"):
        put(tmp_path, tmp_path)
    shutil.copy(made / "out" / "run.yaml", tmp_path)
    with pytest.raises(InputError, match=r"no flat in this run.*permil flat CONFIG"):
        put(tmp_path, tmp_path)


def test_a_damaged_product_is_not_put(made: Path, repo: Path, tmp_path: Path) -> None:
    root = shutil.copytree(made / "out", tmp_path / "run")
    path = root / "flat" / "red" / "R22_S11.fits"
    content = bytearray(path.read_bytes())
    content[100_000] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="do not match the checksum"):
        put(root, repo)
    path.write_bytes(content[:200_000])
    with pytest.raises(InputError, match=re.escape(str(path))):
        put(root, repo)


def test_an_unknown_detector(lsst: Any, made: Path, tmp_path: Path, bin8: Camera) -> None:
    from lsst.daf.butler import Butler

    with lsst.make_repository(tmp_path / "repo", bin8, detectors=["R22_S11"]):
        pass
    with pytest.raises(ButlerError, match="instrument LSSTCam has no detector R22_S12 in this repository; give"):
        put(made / "out", tmp_path / "repo")
    with Butler.from_config(tmp_path / "repo", writeable=True) as butler:
        lsst.insert(butler, "detector", {"id": 7, "full_name": "R22_S12"})
    with pytest.raises(ButlerError, match="detector R22_S12 as number 7, not 95"):
        put(made / "out", tmp_path / "repo")


def test_names_of_filters(bin8: Camera) -> None:
    def names(**bands: str) -> RepositoryNames:
        return RepositoryNames("repo", "LSSTCam", {}, {name.replace("__", "~"): band for name, band in bands.items()})

    assert names(red="", ef_43__red="").physical_filter("red", {}) == "red"
    assert names(ef_43__red="", ef_43__uv="").physical_filter("red", {}) == "ef_43~red"
    assert names(r_57="r").physical_filter("red", {"red": "r_57"}) == "r_57"
    with pytest.raises(ButlerError, match=r"several filters for LED red; give --filter red=NAME, one of: ef_1~red, ef_43~red"):
        names(ef_43__red="", ef_1__red="").physical_filter("red", {})
    with pytest.raises(ButlerError, match=r"red is a filter of the sky .band r.; give --filter red=red"):
        names(red="r").physical_filter("red", {})
    with pytest.raises(ButlerError, match="no physical filter red for LED red; give --filter red=NAME, one of: r_57, r_57~red"):
        names(r_57="r", r_57__red="r").physical_filter("red", {})
    with pytest.raises(ButlerError, match="register the filters"):
        names().physical_filter("red", {})
    assert names(red="r").physical_filter("red", {"red": "red"}) == "red"
    with pytest.raises(ButlerError, match="no detector"):
        names().detector_number(bin8["R22_S11"])
