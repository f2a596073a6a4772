"""Flats named by URIs of a repository: found, compared and applied like files; wrong URIs in one sentence."""

from __future__ import annotations

import json
import re
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from permil import Flat
from permil.butler import PutOptions, dataset_files, put_run
from permil.butler.datasets import DatasetFile, detector_of, parse_query
from permil.camera import Camera
from permil.errors import ButlerError, PermilError
from permil.products import read_image

Permil = Callable[..., tuple[int, str, str]]
FillOnce = Callable[[str, Callable[[Path], object]], Path]
FLATS, FOREIGN = "u/test/flats", "u/test/foreign"
SLOPE = 1e-3


@pytest.fixture(scope="session")
def filled(lsst: Any, made: Path, bin8: Camera, fill_once: FillOnce) -> Path:
    """Return a folder with a repository (``repo``) of our flats, and one of cp_pipe whose formatter cannot be imported."""

    def fill(folder: Path) -> None:
        with lsst.make_repository(folder / "repo", bin8):
            pass
        put_run(made / "out", PutOptions(repo=str(folder / "repo"), collection=FLATS, begin="2021-12-01", end="2022-02-01"))
        flat = Flat.read(made / "out" / "flat" / "red" / "R22_S11.fits")
        write_foreign(folder / "foreign.fits", flat)
        ingest_foreign(folder / "repo", folder / "foreign.fits", lsst.RawFormatter)

    return fill_once("datasets", fill)


def write_foreign(path: Path, flat: Flat) -> None:
    """Write a flat times a slope in the layout of cp_pipe, without any card that names the sensor."""
    slope = 1 + SLOPE * np.linspace(-1, 1, flat.shape[1])
    planes = (("IMAGE", flat.image * slope), ("MASK", flat.mask), ("VARIANCE", flat.variance))
    hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(data, name=name) for name, data in planes)]
    for hdu in hdus[1:]:
        hdu.header["EXTTYPE"] = hdu.name
    hdus[2].header["HIERARCH MP_NO_DATA"] = 8
    hdus[2].data = (np.isnan(flat.image) << 8).astype(np.int32)
    fits.HDUList(hdus).writeto(path)


def ingest_foreign(repo: Path, path: Path, formatter: type) -> None:
    """Ingest a flat of the LSST stack with a formatter of a module that only this function has."""
    from lsst.daf.butler import Butler, DatasetRef, DatasetType, FileDataset

    module = types.ModuleType("a_package_of_the_stack")
    module.Formatter = type("Formatter", (formatter,), {"__module__": module.__name__})  # type: ignore[attr-defined]
    with Butler.from_config(repo, writeable=True) as butler:
        dimensions = {"instrument", "detector", "physical_filter"}
        dataset_type = DatasetType("flat", dimensions, "ExposureF", universe=butler.dimensions, isCalibration=True)
        butler.registry.registerDatasetType(dataset_type)
        butler.collections.register(FOREIGN)
        data_id = butler.registry.expandDataId(instrument="LSSTCam", detector=94, physical_filter="red")
        sys.modules[module.__name__] = module
        try:
            dataset = FileDataset(str(path), DatasetRef(dataset_type, data_id, run=FOREIGN), formatter=module.Formatter)
            butler.ingest(dataset, transfer="copy")
        finally:
            del sys.modules[module.__name__]


def uri_of(repo: Path, collection: str = FLATS, dataset_type: str = "permil_flat", **values: object) -> str:
    """Return the URI of a dataset."""
    named = "".join(f"&{name}={entry}" for name, entry in values.items())
    return f"butler:{repo}?collection={collection}&dataset_type={dataset_type}{named}"


@pytest.mark.parametrize(
    "values",
    [
        {"detector": "R22_S11"},
        {"detector": "r22-s11", "physical_filter": "red", "date": "2021-12-24T12:00:00"},
        {"detector": 94, "instrument": "LSSTCam", "band": "unknown"},
    ],
    ids=str,
)
def test_a_flat_of_ours_is_found(filled: Path, made: Path, values: dict[str, object]) -> None:
    with dataset_files([uri_of(filled / "repo", **values)]) as (found,):
        flat = Flat.read(found.path)
    assert (found.detector, flat.detector.name) == ("R22_S11", "R22_S11")
    assert found.description.startswith("permil_flat of instrument LSSTCam, detector 94, physical_filter red, in u/test/flats/")
    assert flat.image.tobytes() == Flat.read(made / "out" / "flat" / "red" / "R22_S11.fits").image.tobytes()


def test_the_uris_of_the_butler_are_understood(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lsst.daf.butler import Butler

    with Butler.from_config(filled / "repo") as butler:
        ref = butler.query_datasets("flat", collections=[FOREIGN], instrument="LSSTCam")[0]
        place = butler.getURI(ref)
    index = tmp_path / "index.yaml"
    index.write_text(f"main: {filled / 'repo'}\n")
    monkeypatch.setenv("DAF_BUTLER_REPOSITORY_INDEX", str(index))
    by_query = uri_of(filled / "repo", FOREIGN, "flat")
    uris = (
        f"ivo://org.rubinobs/usdac/dr1?repo={filled / 'repo'}&id={ref.id}",
        f"butler://main/{ref.id}",
        by_query,
        by_query.replace(str(filled / "repo"), "main"),
        str(place),
    )
    with dataset_files([*uris, Path(place.ospath)]) as found:
        assert {each.path for each in found} == {Path(place.ospath)}
    assert [each.detector for each in found] == ["R22_S11"] * 4 + [""] * 2


def test_flats_of_a_repository_are_compared(filled: Path, made: Path, tmp_path: Path, permil: Permil) -> None:
    """The flat of the stack is read without its formatter; the registry names its sensor."""
    mine, theirs = uri_of(filled / "repo", detector=94), uri_of(filled / "repo", FOREIGN, "flat")
    smooth = tmp_path / "smooth.fits"
    code, printed, messages = permil("flat", "diff", theirs, mine, "--smooth", smooth, "--degree", 2, "--json")
    assert (code, messages) == (0, "")
    facts = json.loads(printed)
    assert facts["detector"] == "R22_S11"
    assert [entry.split(": ")[1].split(" of ")[0] for entry in facts["datasets"]] == ["flat", "permil_flat"]
    product = read_image(smooth)
    columns = np.linspace(-1, 1, product.image.shape[1])
    known = product.mask == 0
    assert np.nanmax(np.abs(product.image - 1 - SLOPE * columns)[known]) < 1e-6 + 1e-2 * SLOPE
    path = made / "out" / "flat" / "red" / "R22_S11.fits"
    code, printed, _ = permil("flat", "diff", path, theirs)
    assert code == 0
    assert re.search(
        r"^  flat_LSSTCam.*: flat of instrument LSSTCam, detector 94, physical_filter red, in u/test/foreign$",
        printed,
        re.MULTILINE,
    )


def test_a_flat_of_a_repository_is_applied(filled: Path, made: Path, tmp_path: Path, permil: Permil) -> None:
    path = made / "out" / "flat" / "red" / "R22_S11.fits"
    for flat, image in ((uri_of(filled / "repo", detector=94), path), (path, uri_of(filled / "repo", detector=94))):
        code, printed, messages = permil("flat", "apply", flat, image, "--out", tmp_path / "out.fits")
        assert (code, messages) == (0, "")
        assert "permil_flat of instrument LSSTCam, detector 94" in printed
        out = read_image(tmp_path / "out.fits")
        assert np.nanmax(np.abs(out.image - 1)) < 1e-6
        (tmp_path / "out.fits").unlink()


def test_flats_of_different_sensors_are_refused(filled: Path, made: Path, tmp_path: Path, permil: Permil) -> None:
    other, theirs = uri_of(filled / "repo", detector=95), uri_of(filled / "repo", FOREIGN, "flat")
    path = made / "out" / "flat" / "red" / "R22_S12.fits"
    for command, pattern in (
        (("diff", other, theirs), r"flat&?: this dataset is of R22_S11, not of R22_S12; name a dataset of R22_S12"),
        (("diff", theirs, path), r"R22_S12\.fits: the flat is of R22_S12 .*, not of R22_S11"),
        (("apply", theirs, path, "--out", tmp_path / "out.fits"), r"R22_S12\.fits: the image is of R22_S12 .*, not of R22_S11"),
    ):
        assert_refused(permil("flat", *command), pattern)
    assert not (tmp_path / "out.fits").exists()


def assert_refused(result: tuple[int, str, str], pattern: str) -> None:
    """Check exit code 2 and one sentence on standard error."""
    code, _, messages = result
    assert code == 2, messages
    assert len(messages.strip().splitlines()) == 1, messages
    assert re.search(f"^permil: .*{pattern}", messages), messages


UNKNOWN = "01a22b7f-91b2-7536-bf43-9d406f7aa526"


@pytest.mark.parametrize(
    ("uri", "pattern"),
    [
        ("butler:nowhere?{flat}", "nowhere: there is no Butler repository here; give the folder with butler.yaml"),
        ("butler:nowhere/at/all?{flat}", "nowhere/at/all: there is no Butler repository here"),
        ("butler:{repo}/butler.toml?{flat}", "there is no Butler repository here|cannot be opened as a Butler repository"),
        ("butler:{repo}", r"no collection is named; write butler:REPO\?collection=NAME"),
        ("butler:{repo}?collection=a", "no dataset_type is named; write"),
        ("butler:?{flat}", "no repository is named; write"),
        ("butler:{repo}?{flat}&detector", "'detector' is not KEY=VALUE, or repeats a key; write"),
        ("butler:{repo}?{flat}&detector=94&detector=95", "'detector=95' is not KEY=VALUE, or repeats a key"),
        ("butler:{repo}?{flat}", r"2 datasets match; add detector= \(one of 94, 95\)"),
        ("butler:{repo}?{flat}&sensor=94", "permil_flat has no dimension sensor; its dimensions are .*detector"),
        ("butler:{repo}?{flat}&detector=R99_S11", "instrument LSSTCam has no detector R99_S11; give its name or number"),
        ("butler:{repo}?{flat}&detector=900", "instrument LSSTCam has no detector 900"),
        (
            "butler:{repo}?{flat}&detector=94&instrument=HSC",
            "there is no instrument HSC in this repository; give instrument=NAME",
        ),
        ("butler:{repo}?{flat}&detector=93", "u/test/flats has no permil_flat, detector 93; check collection"),
        ("butler:{repo}?{flat}&detector=94&physical_filter=blue", "has no permil_flat, detector 94, physical_filter blue"),
        ("butler:{repo}?{flat}&detector=94&date=2022-02-01", r"no dataset is valid on 2022-02-01 \(TAI\); give another date"),
        ("butler:{repo}?{flat}&detector=94&date=today", "date 'today' is not a date; write 2021-12-03"),
        (
            "butler:{repo}?collection=a&dataset_type=permil_flat&detector=94",
            "No collection with name 'a' found.; check collection",
        ),
        (
            "butler:{repo}?collection=u/test/flats&dataset_type=nothing",
            "Dataset type 'nothing' does not exist.; check collection",
        ),
        (f"ivo://org.rubinobs/dr1?repo={{repo}}&id={UNKNOWN}", f"there is no dataset {UNKNOWN} in .*; check the id"),
        ("ivo://org.rubinobs/dr1?repo={repo}&id=1", "this does not name a dataset .*; write ivo://AUTHORITY"),
        ("ivo://org.rubinobs/dr1?id=1", "this does not name a dataset .*'repo' and/or 'id'"),
        ("butler://main/1", "this does not name a dataset"),
        ("file:///nowhere/flat.fits", "file:///nowhere/flat.fits: the file does not exist .*; restore the file"),
        ("gopher://nowhere/flat.fits", "this is not the URI of a file .*; write butler:REPO"),
        ("s3://bucket/flat.fits", r"No module named 'boto.*'\); install it: pip install 'lsst-daf-butler\[s3\]'"),
    ],
)
def test_wrong_uris(filled: Path, made: Path, permil: Permil, uri: str, pattern: str) -> None:
    named = uri.format(repo=filled / "repo", flat="collection=u/test/flats&dataset_type=permil_flat")
    assert_refused(permil("flat", "diff", made / "out" / "flat" / "red" / "R22_S11.fits", named), pattern)


def test_datasets_without_a_file_and_damaged_ones(filled: Path, made: Path, tmp_path: Path, permil: Permil) -> None:
    from lsst.daf.butler import Butler

    path = made / "out" / "flat" / "red" / "R22_S11.fits"
    repo = shutil.copytree(filled / "repo", tmp_path / "repo")
    changed = next(file for file in (repo / FLATS).rglob("*.fits") if "S11" in file.name)
    changed.write_bytes(changed.read_bytes()[:200_000])
    assert_refused(permil("flat", "diff", path, uri_of(repo, detector=94)), rf"{changed}: ")
    changed.write_text("not a flat")
    assert_refused(permil("flat", "diff", path, uri_of(repo, detector=94)), rf"{changed}: ")
    changed.unlink()
    assert_refused(
        permil("flat", "diff", path, uri_of(repo, detector=94)), "the file of permil_flat of .* does not exist .*; restore"
    )
    with Butler.from_config(repo, writeable=True) as butler:
        refs = butler.query_datasets("permil_flat", collections=[FLATS], find_first=False, detector=95, instrument="LSSTCam")
        butler.pruneDatasets(refs, disassociate=False, unstore=True)
    assert_refused(
        permil("flat", "diff", path, uri_of(repo, detector=95)), "is in the registry, but not in the datastore; name another"
    )


def test_other_flats_on_other_dates_need_the_date(filled: Path, made: Path, changed: Path, tmp_path: Path) -> None:
    repo = shutil.copytree(filled / "repo", tmp_path / "repo")
    put_run(changed, PutOptions(repo=str(repo), collection=FLATS, begin="2022-02-01"))
    with (
        pytest.raises(ButlerError, match=r"2 datasets are valid on different dates; add date="),
        dataset_files([uri_of(repo, detector=94)]),
    ):
        pass
    # The flat of the other detector is the same one on all dates.
    with dataset_files([uri_of(repo, detector=95)]):
        pass
    for date, root in (("2022-01-31T23:59:59", made / "out"), ("2022-02-01", changed)):
        with dataset_files([uri_of(repo, detector=94, date=date)]) as (found,):
            assert Flat.read(found.path).image.tobytes() == Flat.read(root / "flat" / "red" / "R22_S11.fits").image.tobytes()


def test_a_copy_of_a_file_elsewhere_is_removed(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lsst.resources.file import FileResourcePath

    # As an object store answers.
    monkeypatch.setattr(FileResourcePath, "isLocal", property(lambda uri: uri.getExtension() != ".fits"))
    uri = uri_of(filled / "repo", FOREIGN, "flat")
    with dataset_files([uri]) as (found,):
        assert filled not in found.path.parents
        assert found.path.read_bytes() == (filled / "foreign.fits").read_bytes()
    assert not found.path.exists()


def test_an_error_names_what_the_user_named_and_not_a_copy(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lsst.resources.file import FileResourcePath

    def read(uri: str) -> Flat:
        with dataset_files([uri]) as (found,):
            return Flat.read(found.path, detector="R22_S12")

    monkeypatch.setattr(FileResourcePath, "isLocal", property(lambda uri: uri.getExtension() != ".fits"))
    uri = uri_of(filled / "repo", detector=94)
    with pytest.raises(PermilError, match="the flat is of 94") as caught:
        read(uri)
    assert caught.value.path == uri


def test_queries_are_parsed(tmp_path: Path) -> None:
    query = parse_query(f"butler:{tmp_path}?collection=u/a+b&dataset_type=flat&physical_filter=ef_43~red%20%26&date=2021-12-24")
    assert (query.repo, query.collection, query.dataset_type, query.date) == (str(tmp_path), "u/a+b", "flat", "2021-12-24")
    assert query.data_id == {"physical_filter": "ef_43~red &"}
    for repo, expected in (("main", "main"), ("s3://bucket/repo", "s3://bucket/repo"), ("~/repo", str(Path.home() / "repo"))):
        assert parse_query(f"butler:{repo}?collection=a&dataset_type=flat").repo == expected
    with pytest.raises(ButlerError, match=r"environment variables such as \$REPO are not expanded"):
        parse_query("butler:$REPO/main?collection=a&dataset_type=flat")


def test_detectors_of_other_cameras_are_not_named(bin8: Camera) -> None:
    files = [DatasetFile(Path("a.fits"), "a", detector=name) for name in ("RXX_S00", "R22_S11", "")]
    assert detector_of(files[:1], bin8) == ""
    assert detector_of(files, bin8) == "R22_S11"
    assert detector_of(files, bin8, "94") == "R22_S11"


def test_without_the_extra_only_paths_are_files(monkeypatch: pytest.MonkeyPatch, made: Path, permil: Permil) -> None:
    monkeypatch.setattr("permil.butler.repository.has_butler", lambda: False)
    path = made / "out" / "flat" / "red" / "R22_S11.fits"
    for uri in ("butler:/repo?collection=a&dataset_type=flat", "file:///flat.fits", f"ivo://a/b?repo=c&id={UNKNOWN}"):
        assert_refused(permil("flat", "diff", path, uri), r"needs lsst-daf-butler; install it: pip install 'permil\[butler\]'")
