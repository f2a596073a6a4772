"""Raw files from a repository: the same bits as from folders; wrong queries, missing files and contradictions in one sentence."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits

from permil import load_config, open_run, run
from permil.butler import PutOptions, find_raws, put_run
from permil.butler.raws import local_files
from permil.camera import Camera
from permil.errors import ButlerError, ConfigError

from .conftest import STAGES, raw_files, write_config

SENSORS = ("R22_S11", "R22_S12")
Permil = Callable[..., tuple[int, str, str]]


def _refused(result: tuple[int, str, str], *patterns: str) -> None:
    """Check exit code 2 and one sentence on standard error."""
    code, _, messages = result
    lines = messages.strip().splitlines()
    assert code == 2, messages
    assert len(lines) == 1, messages
    for pattern in ("^permil: ", *patterns):
        assert re.search(pattern, lines[0]), (pattern, lines[0])


def test_a_run_from_a_repository_has_the_bits_of_one_from_folders(repo: Path, made: Path, tmp_path: Path) -> None:
    """Its products go back into the repository; those of the run from folders are the same ones."""
    found = run(write_config(made, tmp_path / "config.yaml", repo), stages=STAGES)
    expected = open_run(made / "out")
    for name in expected.exposures.colnames:
        own, other = (np.asarray(table.exposures[name]) for table in (found, expected))
        assert np.array_equal(own, other, equal_nan=own.dtype.kind == "f"), name
    for detector in ("R22_S11", "R22_S12"):
        own, other = found.flat("red", detector), expected.flat("red", detector)
        for plane in ("image", "mask", "variance"):
            assert getattr(own, plane).tobytes() == getattr(other, plane).tobytes()
    options = PutOptions(repo=str(repo), collection="u/test/flats", begin="2021-12-01")
    assert "permil_flat: 2 new" in put_run(tmp_path / "out", options)
    assert "permil_flat: 2 unchanged" in put_run(made / "out", options)


def test_a_query_takes_what_it_names(shared_repository: Path, made: Path, tmp_path: Path, permil: Permil) -> None:
    where = "exposure.science_program = '6841D' AND detector = 94 AND exposure.observation_type != 'bias'"
    config = write_config(made, tmp_path / "config.yaml", shared_repository, where=where)
    code, printed, messages = permil("butler", "index", config, "--json")
    assert (code, messages) == (0, "")
    facts = json.loads(printed)
    assert facts["groups"] == [{"program": "6841D", "kind": "ccob", "exposures": 5, "files": 5}]
    assert (facts["files"], facts["detectors"], facts["remote_files"], facts["missing"]) == (5, ["R22_S11"], 0, [])
    assert permil("index", config)[0] == 0
    assert set(open_run(tmp_path / "out").exposures["purpose"]) == {"pointing"}


@pytest.mark.parametrize(
    ("query", "pattern"),
    [
        ({"where": "detector = "}, "fails .*[Pp]arse.*check collections, where"),
        ({"where": "exposure.led = 'red'"}, "fails .*led.*check collections, where"),
        ({"where": "detector = 999"}, "there is no raw in LSSTCam/raw/all where detector = 999; check"),
        ({"where": "instrument = 'HSC'"}, "there is no raw|fails"),
        ({"collections": ["LSSTCam/raw/none"]}, "LSSTCam/raw/none.*check collections"),
        ({"collections": ["LSSTCam/*"]}, "without wildcards"),
        ({"dataset_type": "flatt"}, "flatt.*does not exist"),
        ({"dataset_type": "camera"}, "dimensions instrument, not exposure and detector; name a dataset type of raw"),
        ({"collections": []}, "no collections to search; name them in exposures.butler.collections"),
        ({"repo": "nowhere"}, "there is no Butler repository here; give the folder with butler.yaml"),
    ],
    ids=str,
)
def test_wrong_queries(
    lsst: Any,
    shared_repository: Path,
    repo: Path,
    made: Path,
    tmp_path: Path,
    permil: Permil,
    query: dict[str, Any],
    pattern: str,
) -> None:
    from lsst.daf.butler import Butler, DatasetType

    where = shared_repository
    if query.get("dataset_type") == "camera":
        with Butler.from_config(repo, writeable=True) as butler:
            camera = DatasetType("camera", {"instrument"}, "Camera", universe=butler.dimensions, isCalibration=True)
            butler.registry.registerDatasetType(camera)
        where = repo
    config = write_config(made, tmp_path / "config.yaml", query.pop("repo", where), **query)
    for command in (("butler", "index"), ("index",)):
        _refused(permil(*command, config), pattern)


def test_a_query_by_detector_in_a_collection_of_two_instruments(lsst: Any, repo: Path, made: Path, bin8: Camera) -> None:
    from lsst.daf.butler import Butler, DatasetRef, FileDataset

    with Butler.from_config(repo, writeable=True) as butler:
        source = butler.query_datasets("raw", collections=lsst.RAWS, limit=1, with_dimension_records=True, instrument="LSSTCam")[
            0
        ]
        records = source.dataId.records
        limits = {"detector_max": 9, "visit_max": 9, "exposure_max": 9}
        lsst.insert(butler, "instrument", {"instrument": "Other", "name": "Other", "class_name": "x", **limits})
        for element in ("detector", "physical_filter", "day_obs", "group", "exposure"):
            butler.registry.insertDimensionData(element, records[element].toDict() | {"instrument": "Other"})
        data_id = butler.registry.expandDataId(dict(source.dataId.required) | {"instrument": "Other"})
        ref = DatasetRef(source.datasetType, data_id, run=lsst.RAWS)
        butler.ingest(FileDataset(str(raw_files(made)[0]), ref, formatter=lsst.RawFormatter), transfer="direct")
    query = {"repo": str(repo), "collections": [lsst.RAWS], "where": "detector = 94"}
    with pytest.raises(ButlerError, match="add the instrument to the condition: instrument = 'LSSTCam' AND"):
        find_raws(load_config({"exposures": {"butler": query}}).exposures.butler, bin8)


def test_exposures_without_their_files_are_listed(
    lsst: Any, made: Path, repo: Path, tmp_path: Path, bin8: Camera, permil: Permil
) -> None:
    from lsst.daf.butler import Butler

    copies = shutil.copytree(made / "campaign" / "raw" / "6841D", tmp_path / "raw" / "6841D", copy_function=os.link)
    files = sorted(copies.rglob("*.fits"))
    own = tmp_path / "own"
    with lsst.make_repository(own, bin8, detectors=SENSORS) as butler:
        lsst.ingest_raws(butler, files, bin8)
        forgotten = butler.query_datasets("raw", collections=lsst.RAWS, limit=1, instrument="LSSTCam")
        butler.pruneDatasets(forgotten, disassociate=False, unstore=True)
        gone = next(ref for ref in butler.query_datasets("raw", collections=lsst.RAWS) if ref not in forgotten)
        Path(butler.getURI(gone).ospath).unlink()
    config = write_config(made, tmp_path / "config.yaml", own)
    code, _, messages = permil("index", config)
    assert code == 0
    unreadable = open_run(tmp_path / "out").table("unreadable")
    assert len(unreadable) == 2
    assert any("not in its datastore" in reason for reason in unreadable["reason"])
    assert any("does not exist" in reason for reason in unreadable["reason"])
    assert len(open_run(tmp_path / "out").exposures) == len(files) - 2
    assert "not in its datastore" in messages
    with Butler.from_config(own, writeable=True) as butler:
        butler.pruneDatasets(butler.query_datasets("raw", collections=lsst.RAWS), disassociate=False, unstore=True)
    _refused(permil("index", config), f"none of {len(files)} raw files is in the datastore; the first: .*restore")


def test_a_file_that_contradicts_the_registry_is_not_used(lsst: Any, made: Path, tmp_path: Path, bin8: Camera) -> None:
    """A file of another detector is left out; other times are noted."""
    from lsst.daf.butler import Butler, DatasetRef, FileDataset, Timespan

    pointings = [path for path in raw_files(made) if "6841D" in str(path) and "ccob" in path.parent.name]
    first = [path for path in pointings if "S11" in path.name]
    with lsst.make_repository(tmp_path / "repo", bin8, detectors=SENSORS) as butler:
        lsst.ingest_raws(butler, first[:1], bin8)
        dataset_type = butler.get_dataset_type("raw")
        record = butler.query_dimension_records("exposure", instrument="LSSTCam")[0].toDict()
        for number, (path, detector, late) in enumerate([(first[1], 95, False), (first[2], 94, True)]):
            header = fits.getheader(path)
            day, sequence = int(header["DAYOBS"]), int(header["SEQNUM"])
            wrong = record["timespan"] if late else Timespan(None, None)
            more = {"id": number, "seq_num": sequence, "day_obs": day, "obs_id": header["OBSID"], "timespan": wrong}
            butler.registry.insertDimensionData("exposure", record | more | ({"exposure_time": 9.0} if late else {}))
            data_id = butler.registry.expandDataId(instrument="LSSTCam", detector=detector, exposure=number)
            ref = DatasetRef(dataset_type, data_id, run=lsst.RAWS)
            butler.ingest(FileDataset(str(path), ref, formatter=lsst.RawFormatter), transfer="direct")
        shifted = Timespan(*(time + 1 * u.day for time in (record["timespan"].begin, record["timespan"].end)))
        assert isinstance(butler, Butler)
        butler.registry.syncDimensionData("exposure", record | {"timespan": shifted}, update=True)
    found = run(write_config(made, tmp_path / "config.yaml", tmp_path / "repo"), stages=["index"])
    assert sorted(Path(path).name for path in found.exposures["path"]) == sorted([first[0].name, first[2].name])
    reasons = found.table("unreadable")["reason"].tolist()
    assert reasons == [
        "the registry says detector R22_S12, the header R22_S11; correct the registry, or leave the file out of the query"
    ]
    notes = {Path(row["path"]).name: row["note"] for row in found.exposures}
    assert "(TAI) in the registry" in notes[first[0].name]
    assert "exposure time" not in notes[first[0].name]
    assert "s in the header, 9 s in the registry" in notes[first[2].name]


@pytest.mark.parametrize(
    "universe", [pytest.param(number, marks=[] if number in (0, 6) else pytest.mark.full) for number in range(9)]
)
def test_older_universes_of_dimensions(lsst: Any, made: Path, tmp_path: Path, bin8: Camera, universe: int) -> None:
    from importlib.resources import files

    from lsst.daf.butler import DimensionConfig

    old = files("lsst.daf.butler") / f"configs/old_dimensions/daf_butler_universe{universe}.yaml"
    paths = raw_files(made)[:2]
    with lsst.make_repository(tmp_path / "repo", bin8, detectors=SENSORS, dimensions=DimensionConfig(str(old))) as butler:
        assert butler.dimensions.version == universe
        lsst.ingest_raws(butler, paths, bin8)
    query = {"repo": str(tmp_path / "repo"), "collections": [lsst.RAWS], "where": "detector = 94"}
    selection = find_raws(load_config({"exposures": {"butler": query}}).exposures.butler, bin8)
    expected = [path for path in paths if "S11" in path.name]
    assert [Path(file.path) for file in selection.files] == expected
    entry = selection.files[0].entry
    assert (entry.detector, len(entry.day_obs)) == ("R22_S11", 8)
    assert entry.obsid in expected[0].name
    assert np.isfinite(entry.begin_mjd)
    options = PutOptions(repo=str(tmp_path / "repo"), collection="u/test/flats", begin="2021-12-01")
    assert "permil_flat: 2 new" in put_run(made / "out", options)
    assert "permil_flat: 2 unchanged" in put_run(made / "out", options)


def test_a_repository_of_another_version_is_refused(repo: Path, made: Path, tmp_path: Path, permil: Permil) -> None:
    database = sqlite3.connect(repo / "gen3.sqlite3")
    with database:
        changed = database.execute("UPDATE butler_attributes SET value = '99.0.0' WHERE name LIKE 'version:%'").rowcount
    database.close()
    assert changed > 0
    config = write_config(made, tmp_path / "config.yaml", repo)
    _refused(permil("butler", "index", config), "cannot be opened as a Butler repository", "installed is 3")


def test_a_folder_or_file_that_is_no_repository(lsst: Any, made: Path, tmp_path: Path, permil: Permil) -> None:
    (tmp_path / "empty").mkdir()
    config = write_config(made, tmp_path / "config.yaml", tmp_path / "empty")
    _refused(permil("butler", "index", config), "there is no Butler repository here")
    (tmp_path / "empty" / "butler.yaml").write_text("registry: {db: nonsense}\n")
    _refused(permil("butler", "index", config), "cannot be opened as a Butler repository")
    _refused(permil("butler", "index", config, "exposures.butler.repo=s3://bucket/repo"), r"pip install 'lsst-daf-butler\[s3\]'")


def test_copies_of_files_elsewhere(lsst: Any, made: Path, tmp_path: Path, bin8: Camera) -> None:
    """Files are copied once, with the names of their folders, after number and size were said."""
    from lsst.resources.file import FileResourcePath

    paths = [path for path in raw_files(made) if "6841D" in str(path) and "S11" in path.name][:3]
    with lsst.make_repository(tmp_path / "repo", bin8, detectors=SENSORS) as butler:
        lsst.ingest_raws(butler, paths, bin8)
    query = {"repo": str(tmp_path / "repo"), "collections": [lsst.RAWS]}
    with pytest.MonkeyPatch.context() as patch:
        # As an object store answers.
        patch.setattr(FileResourcePath, "isLocal", property(lambda uri: uri.getExtension() != ".fits"))
        selection = find_raws(load_config({"exposures": {"butler": query}}).exposures.butler, bin8)
    size = sum(path.stat().st_size for path in paths)
    assert len(selection.remote) == 3
    assert selection.facts()["remote_gigabytes"] == pytest.approx(size / 1e9)
    assert any("3 files" in line and "another machine" in line for line in selection.describe())
    said: list[str] = []
    found = local_files(selection, tmp_path / "copies", show=said.append)
    assert said == [f"copying 3 files ({size / 1e9:.3g} GB) to {tmp_path / 'copies'}"]
    copies = sorted(map(Path, found.registry))
    assert [copy.relative_to(tmp_path / "copies") for copy in copies] == [path.relative_to("/") for path in sorted(paths)]
    assert [copy.read_bytes() for copy in copies] == [path.read_bytes() for path in sorted(paths)]
    copies[0].write_bytes(b"half")
    for _ in range(2):
        local_files(selection, tmp_path / "copies", show=said.append)
    assert len(said) == 2
    assert said[1].startswith("copying 1 files")
    assert copies[0].read_bytes() == min(paths).read_bytes()


def test_copied_into_the_datastore(lsst: Any, made: Path, tmp_path: Path, bin8: Camera) -> None:
    """Names given by the datastore do not confuse the index; positions come from the headers."""
    paths = [path for path in raw_files(made) if "6841D" in str(path) and "S11" in path.name]
    with lsst.make_repository(tmp_path / "repo", bin8, detectors=SENSORS) as butler:
        lsst.ingest_raws(butler, paths, bin8, transfer="copy")
    found = run(write_config(made, tmp_path / "config.yaml", tmp_path / "repo"), stages=["index"])
    assert len(found.exposures) == len(paths)
    assert set(found.exposures["detector"]) == {"R22_S11"}
    assert all(str(tmp_path / "repo") in path for path in found.exposures["path"])
    assert found.leds["pointing_exposures"].tolist() == [len([path for path in paths if "ccob" in path.parent.name])]


@pytest.mark.parametrize(
    ("query", "pattern"),
    [
        ({"collections": ["a"]}, "name the repository"),
        ({"where": "x"}, "name the repository"),
    ],
)
def test_an_incomplete_query_is_refused(query: dict[str, Any], pattern: str) -> None:
    with pytest.raises(ConfigError, match=pattern):
        load_config({"exposures": {"butler": query}})


def test_repositories_are_paths_uris_or_labels(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    for given, expected in (
        ("here", str(tmp_path / "here")),
        ("embargo", "embargo"),
        ("./embargo", str(tmp_path / "embargo")),
        ("s3://bucket/repo", "s3://bucket/repo"),
        ("/repo/main", "/repo/main"),
    ):
        (tmp_path / "config.yaml").write_text(f"exposures: {{butler: {{repo: {given}, collections: [a]}}}}")
        assert load_config(tmp_path / "config.yaml").exposures.butler.repo == expected


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, bin8: Camera, made: Path, tmp_path: Path, permil: Permil) -> None:
    monkeypatch.setattr("permil.butler.repository.has_butler", lambda: False)
    config = write_config(made, tmp_path / "config.yaml", tmp_path)
    for arguments in (
        ("butler", "index", config),
        ("index", config),
        ("butler", "put", made / "out", "--repo", "x", "--collection", "y"),
    ):
        _refused(permil(*arguments), r"needs lsst-daf-butler; install it: pip install 'permil\[butler\]'")


def test_no_repository_named(made: Path, permil: Permil) -> None:
    _refused(
        permil("butler", "index", made / "campaign" / "config.yaml"), "no repository is named; name it in exposures.butler.repo"
    )


def test_folders_and_a_repository_together(shared_repository: Path, made: Path, tmp_path: Path) -> None:
    """A file that both hold counts once."""
    config = write_config(made, tmp_path / "config.yaml", shared_repository, where="exposure.science_program = '6841D'")
    both = run(config, [f"exposures.roots=[{made / 'campaign' / 'raw'}]"], stages=["index"])
    assert both.exposures["path"].tolist() == open_run(made / "out").exposures["path"].tolist()


def test_nothing_to_search_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"exposures\.butler"):
        run({"camera": "lsstcam-bin8", "output": str(tmp_path / "never")}, stages=["index"])
