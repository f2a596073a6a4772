"""Trees of curated calibrations, and comparisons with a registry: both without lsst-daf-butler."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from astropy.io import fits
from astropy.table import Table

from permil import Flat
from permil.butler import export_curated
from permil.errors import OutputError
from permil.exposures.consistency import RegistryEntry, compare_with_registry
from permil.exposures.exposure import Exposure
from permil.products import read_table, write_table

Permil = Callable[..., tuple[int, str, str]]


def test_a_tree_of_curated_calibrations(made: Path, tmp_path: Path, permil: Permil) -> None:
    root = shutil.copytree(made / "out", tmp_path / "run")
    write_table(root / "defects" / "R22_S12.ecsv", Table({"x0": [1], "y0": [2], "width": [3], "height": [4]}))
    Flat.read(root / "flat" / "red" / "R22_S12.fits").write(root / "flat" / "red" / "R22_S12_efficiency.fits")
    tree = tmp_path / "tree"
    code, printed, messages = permil(
        "export", root, "--curated", tree, "--begin", "2021-12-01T18:00:00", "--instrument", "LSSTCam"
    )
    assert (code, messages) == (0, "")
    assert printed.strip() == f"5 files written to {tree}, 0 were there already"
    assert sorted(str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()) == [
        "lsstcam/defects/r22_s12/20211201T180000.ecsv",
        "lsstcam/efficiency_flat/r22_s12/red/20211201T180000.fits",
        "lsstcam/flat/r22_s11/red/20211201T180000.fits",
        "lsstcam/flat/r22_s12/red/20211201T180000.fits",
        "lsstcam/mosaic/red/20211201T180000.fits",
    ]
    path = tree / "lsstcam" / "flat" / "r22_s12" / "red" / "20211201T180000.fits"
    # The checks of the LSST stack: instrument, number, kind and date agree with the path.
    header = fits.getheader(path)
    assert [header[name] for name in ("INSTRUME", "DETECTOR", "OBSTYPE", "CALIBDATE")] == [
        "LSSTCam",
        95,
        "flat",
        "2021-12-01T18:00:00",
    ]
    meta = read_table(tree / "lsstcam" / "defects" / "r22_s12" / "20211201T180000.ecsv").meta
    assert [meta[name] for name in ("INSTRUME", "DETECTOR", "OBSTYPE", "CALIBDATE")] == [
        "LSSTCam",
        95,
        "defects",
        "2021-12-01T18:00:00",
    ]
    written, original = Flat.read(path), Flat.read(root / "flat" / "red" / "R22_S12.fits")
    assert written.detector.name == "R22_S12"
    for plane in ("image", "mask", "variance"):
        assert getattr(written, plane).tobytes() == getattr(original, plane).tobytes()


def test_a_tree_is_added_to_and_never_overwritten(made: Path, changed: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    assert export_curated(made / "out", tree) == [f"3 files written to {tree}, 0 were there already"]
    before = {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    assert all(path.stem == "19700101T000000" for path in before)
    assert export_curated(made / "out", tree) == [f"0 files written to {tree}, 3 were there already"]
    with pytest.raises(OutputError, match="a flat with different content already exists; choose"):
        export_curated(changed, tree)
    assert {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()} == before
    export_curated(changed, tree, begin="2022-01-01")
    assert len(list(tree.rglob("*.fits"))) == 6
    next(iter(before)).write_text("not a calibration")
    with pytest.raises(OutputError, match="different content"):
        export_curated(made / "out", tree)


def test_an_instrument_without_a_name_is_refused(made: Path, tmp_path: Path, permil: Permil) -> None:
    code, _, messages = permil("export", made / "out", "--curated", tmp_path / "tree", "--instrument", " ")
    assert code == 2
    assert "the name of the instrument is empty; give --instrument, such as LSSTCam" in messages


EXPOSURE = {"path": "a.fits", "obsid": "MC_C_20191028_000005", "day_obs": "20191028", "seqnum": 5, "detector": "R22_S11"}
REGISTRY = {"obsid": "MC_C_20191028_000005", "day_obs": "20191028", "seqnum": 5, "detector": "R22_S11"}


@pytest.mark.parametrize(
    ("registry", "reason"),
    [
        ({}, ""),
        ({"detector": "R22_S12"}, "the registry says detector R22_S12, the header R22_S11"),
        ({"obsid": "MC_C_20191028_000006"}, "exposure MC_C_20191028_000006"),
        ({"obsid": "a name of its own"}, ""),
        ({"day_obs": "20191029"}, "day 20191029"),
        ({"seqnum": 6}, "exposure number 6"),
        ({"detector": "", "obsid": "", "day_obs": "", "seqnum": -1}, ""),
    ],
    ids=str,
)
def test_identity_in_the_registry(registry: dict[str, Any], reason: str) -> None:
    exposure = Exposure(**EXPOSURE)  # type: ignore[arg-type]
    kept, others = compare_with_registry([exposure], {"a.fits": RegistryEntry(**(REGISTRY | registry))})
    assert len(kept) + len(others) == 1
    assert kept == ([] if reason else [exposure])
    assert all(reason in sentence for _, sentence in others)


@pytest.mark.parametrize(
    ("mjd", "exposure_s", "registry", "note"),
    [
        (58785.1, 0.3, {"begin_mjd": 58785.1, "end_mjd": 58785.10001, "exposure_s": 0.3}, ""),
        # UTC of the readout is 37 s before TAI.
        (58785.1, 0.3, {"begin_mjd": 58785.1 + 37 / 86400, "end_mjd": 58785.1 + 38 / 86400, "exposure_s": 0.3}, ""),
        (
            58785.1,
            0.3,
            {"begin_mjd": 58785.2, "end_mjd": 58785.3},
            "MJD is 58785.10000 in the header, 58785.20000 to 58785.30000",
        ),
        (58785.4, 0.3, {"begin_mjd": 58785.2, "end_mjd": 58785.3}, "MJD is 58785.40000"),
        (58785.1, 0.3, {"exposure_s": 0.6}, "the exposure time is 0.3 s in the header, 0.6 s in the registry"),
        (float("nan"), 0.3, {"begin_mjd": 58785.2, "end_mjd": 58785.3}, ""),
        (58785.1, 0.3, {}, ""),
    ],
)
def test_times_in_the_registry(mjd: float, exposure_s: float, registry: dict[str, float], note: str) -> None:
    exposure = Exposure(**EXPOSURE, mjd=mjd, exposure_s=exposure_s, note="first")  # type: ignore[arg-type]
    kept, others = compare_with_registry([exposure], {"a.fits": RegistryEntry(**REGISTRY, **registry)})  # type: ignore[arg-type]
    assert others == []
    assert kept[0].note.startswith("first")
    assert note in kept[0].note
    assert ("; " in kept[0].note) == bool(note)
