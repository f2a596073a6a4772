"""The products of a run that is finished, half-finished, moved, or none."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.table import Table

import permil
from permil.products import write_table

from .conftest import OPTIONS


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


def test_a_table_of_several_leds_is_named_by_its_path(made: Path, tmp_path: Path) -> None:
    """The first one in the order of names would be that of nm960."""
    shutil.copytree(made / "out", tmp_path / "out")
    run = permil.open_run(tmp_path / "out")
    with pytest.raises(permil.PermilError, match=r"has 2 tables metrics; name one of flat/nm960/metrics, flat/red/metrics"):
        run.table("metrics")
    found = run.table("flat/red/metrics")
    np.testing.assert_array_equal(found["median"], Table.read(made / "out" / "flat" / "red" / "metrics.ecsv")["median"])
    # A table of the whole run needs no path.
    write_table(tmp_path / "out" / "flat" / "stages.ecsv", found)
    assert "stage" in run.table("stages").colnames


def test_leds_in_any_letter_case(made: Path) -> None:
    run = permil.open_run(made / "out")
    assert run.flat("RED", "R22_S11").path == run.flat("red", "R22_S11").path
    assert run.beam("Red").facts() == run.beam("red").facts()
    with pytest.raises(permil.PermilError, match="there is no flat of R22_S11, LED blue; LEDs: nm960, red"):
        run.flat("Blue", "R22_S11")


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


def _states(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return the modification time and the bytes of all files below a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_a_campaign_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    options = OPTIONS | {"leds": ["red"], "campaign": OPTIONS["campaign"] | {"scan_size": 2, "images": 1}}
    campaign = permil.simulate_campaign(tmp_path / "campaign", **options)
    before = _states(campaign.folder)
    for _ in range(2):
        permil.run(campaign.configuration, [f"output={tmp_path / 'out'}", "pipeline.workers=1"], stages=["index", "isr"])
        permil.simulate_campaign(campaign.folder, **options)
        assert _states(campaign.folder) == before
    stages = permil.open_run(tmp_path / "out").table("stages")
    assert stages["done"][stages["stage"] == "isr"] == [0]
    # A table that was changed is that of the simulation again; the others stay.
    gains = campaign.folder / "gains.ecsv"
    gains.write_text(gains.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    permil.simulate_campaign(campaign.folder, **options)
    after = _states(campaign.folder)
    assert {name for name in before if after[name] != before[name]} == {"gains.ecsv"}
    assert gains.read_bytes() == before["gains.ecsv"][1]


def test_a_stack_is_of_different_exposures_of_one_led_and_position(made: Path, tmp_path: Path) -> None:
    run = permil.open_run(made / "out")
    index = run.exposures
    red = index[(index["purpose"] == "pointing") & (index["led"] == "red")]
    first = red[red["position_id"] == red["position_id"][0]]["path"]
    calibration = run.calibration("R22_S11")
    copy = shutil.copy(first[0], tmp_path)
    others = {
        "repeats exposure MC_C_.*of": copy,
        "its LED is nm960, that of .* is red": index["path"][(index["purpose"] == "pointing") & (index["led"] == "nm960")][0],
        r"its LED is none, that of .* is red": index["path"][index["purpose"] == "bias"][0],
        r"its projector is \d+\.\d mm from the position of": red["path"][red["position_id"] != red["position_id"][0]][0],
    }
    for message, path in others.items():
        for photodiode in (None, np.ones(3)):
            with pytest.raises(permil.PermilError, match=message):
                permil.stack([*first, path], calibration, camera=run.camera, photodiode=photodiode)
