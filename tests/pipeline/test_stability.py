"""The stage `stability` in a run, as a single command, and the cards of origin in the products of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from permil.config import load_config
from permil.pipeline import run_pipeline
from permil.products import RunFolder, configuration_digest, read_table

from .conftest import DETECTOR, Permil


def test_a_run_has_tables_page_and_rows_of_the_summary(reduced: Path) -> None:
    folder = RunFolder(reduced)
    findings = read_table(folder.stability("red"))
    assert {"light", "photodiode", "photodiode_over_light", "stack"} <= set(findings["series"])
    amplifiers = read_table(folder.stability_amplifiers("red"))
    assert set(amplifiers["detector"]) == {DETECTOR}
    assert len(set(amplifiers["amp"])) == 16
    assert set(amplifiers["series"]) >= {"flux", "flux_over_photodiode", "flux_over_light", "overscan_level", "read_noise"}
    noise = read_table(folder.stability_readings("red"))["read_noise"]
    assert 3.0 < np.median(noise) < 9.0
    assert (reduced / "report" / "stability.html").is_file()
    summary = read_table(folder.summary)
    light = summary[summary["metric"] == "light_scatter"]
    assert len(light) == 1
    assert light["spec"][0] == 0.002
    # The lamp of the simulation scatters by 1 per mil.
    assert abs(light["value"][0] - 1e-3) < 3 * light["error"][0] + 5e-4


def test_all_products_say_where_they_come_from(reduced: Path) -> None:
    folder, config = RunFolder(reduced), load_config(reduced / "config.yaml")
    shared = {"CONFDIG": configuration_digest(config.model_dump(mode="json")), "ORIGIN": "permil"}
    of_led, of_sensor = {"LED": "red", "BAND": "r"}, {"DETECTOR": DETECTOR, "LSST_NUM": "E2V-CCD250-382"}
    for path, expected in (
        (folder.superbias(DETECTOR), shared | of_sensor | {"NEXPOSUR": 4}),
        (folder.beam("red"), shared | of_led | {"NEXPOSUR": 64}),
        (folder.joint("red"), shared | of_led),
        (folder.flat("red", DETECTOR), shared | of_led | of_sensor),
        (folder.focal_plane("red"), shared | of_led),
    ):
        header = fits.getheader(path)
        assert expected.items() <= dict(header).items(), path
        assert header["RUNNUM"], path
        assert header["MJD-BEG"] <= header["MJD-END"], path
        assert header["DATE-BEG"].startswith("2019-10-28"), path
    for path, expected in (
        (folder.stability("red"), shared | of_led | {"RUNNUM": header["RUNNUM"]}),
        (folder.defects(DETECTOR), shared | {"LSST_NUM": "E2V-CCD250-382", "RUNNUM": header["RUNNUM"]}),
    ):
        meta = read_table(path).meta
        assert {name: entry for name, entry in expected.items() if name != "ORIGIN"}.items() <= meta.items(), path
    assert shared["CONFDIG"] in (reduced / "report" / "index.html").read_text()


def test_the_command_of_one_led_makes_what_is_missing(copied: Path, permil: Permil) -> None:
    folder = RunFolder(copied)
    before = folder.stability("red").read_bytes()
    folder.stability("red").unlink()
    code, _, _ = permil("stability", copied / "config.yaml", f"output={copied}", "--led", "red")
    assert code == 0
    assert folder.stability("red").read_bytes() == before
    code, _, err = permil("stability", copied / "config.yaml", f"output={copied}", "--led", "uv")
    assert code == 2
    assert "LED uv has neither scan nor pointings" in err
    folder.joint("red").unlink()
    code, _, err = permil("stability", copied / "config.yaml", f"output={copied}", "--led", "red")
    assert code == 2
    assert "permil flat CONFIG --step solution --led red" in err


def test_divided_flats_have_the_stability_of_the_headers(copied: Path) -> None:
    config = load_config(copied / "config.yaml", [f"output={copied}", "flat.solver=divide", "pipeline.workers=1"])
    reports = run_pipeline(config, stages=("stability",))
    assert any("photodiode repeats to" in message for message in reports[0].messages)
    findings = read_table(RunFolder(copied).stability("red"))
    assert "light" not in set(findings["series"])


@pytest.mark.parametrize("option", ["validity.end=2031-01-01"])
def test_validity_makes_products_again(copied: Path, option: str) -> None:
    config = load_config(copied / "config.yaml", [f"output={copied}", option, "pipeline.workers=1"])
    reports = run_pipeline(config, stages=("isr",))
    assert reports[0].done == 1
    assert fits.getheader(RunFolder(copied).superbias(DETECTOR))["VALIDEND"] == "2031-01-01"
