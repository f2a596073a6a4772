"""The products of a run that is finished, half-finished, moved, or none."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.nddata import CCDData, StdDevUncertainty

import permil


def test_a_half_finished_run(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    folder.mkdir()
    for name in ("run.yaml", "exposures.parquet"):
        shutil.copy(made / "out" / name, folder)
    run = permil.open_run(folder)
    assert run.leds["led"].tolist() == ["nm960", "red"]
    assert not run.leds["has_beam"].any()
    assert run.leds["flats"].sum() == run.detectors["flats"].sum() == 0
    assert "flats: none yet" in repr(run)
    for missing in (lambda: run.metrics, lambda: run.summary, lambda: run.beam("red"), lambda: run.flat("red", "R22_S11")):
        with pytest.raises(permil.PermilError, match=r"there is no .*; "):
            missing()


def test_a_run_that_has_only_begun(made: Path, tmp_path: Path) -> None:
    shutil.copy(made / "out" / "run.yaml", tmp_path)
    run = permil.open_run(tmp_path)
    assert len(run.leds) == len(run.detectors) == 0
    with pytest.raises(permil.PermilError, match="there is no index yet"):
        _ = run.exposures


def test_a_run_that_was_moved(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "out", tmp_path / "moved")
    run = permil.open_run(tmp_path / "moved")
    assert run.folder.root == tmp_path / "moved"
    assert run.flat("red", "R22_S11").path == tmp_path / "moved" / "flat" / "red" / "R22_S11.fits"
    assert "<table" in run._repr_html_()


def test_tables_by_name(made: Path) -> None:
    run = permil.open_run(made / "out")
    assert "stage" in run.table("stages").colnames
    with pytest.raises(permil.PermilError, match="this run has no table nothing"):
        run.table("nothing")


def test_a_stage_that_does_not_exist() -> None:
    with pytest.raises(permil.PermilError, match=r"there is no stage polish; stages are index, isr"):
        permil.run({}, stages=["polish"])


def test_a_wrong_key_is_one_sentence() -> None:
    with pytest.raises(permil.PermilError, match=r"unknown key plan\.electron; did you mean electrons\?"):
        permil.check_plan([(0.0, 0.0)], electron=3)
    with pytest.raises(permil.PermilError, match=r"unknown key flat\.solvers"):
        permil.load_config({"flat": {"solvers": "joint"}})


def test_the_unit_of_an_uncertainty_counts(made: Path) -> None:
    flat = permil.Flat.read(made / "out" / "flat" / "red" / "R22_S11.fits")
    errors = [
        StdDevUncertainty(np.full(flat.shape, size), unit=unit) for unit, size in (("electron", 30.0), ("1000 electron", 0.03))
    ]
    results = [flat.apply(CCDData(np.full(flat.shape, 1e3), unit="electron", uncertainty=error)) for error in errors]
    np.testing.assert_allclose(results[1].uncertainty.array[flat.usable], results[0].uncertainty.array[flat.usable], rtol=1e-5)


def test_magnitudes_are_refused(made: Path) -> None:
    flat = permil.Flat.read(made / "out" / "flat" / "red" / "R22_S11.fits")
    with pytest.raises(permil.PermilError, match="a logarithmic unit"):
        flat.apply(np.ones(flat.shape) * u.mag)
