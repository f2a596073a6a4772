"""The colour of a small campaign in two LEDs, from raw files to the page."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from permil.config import load_config
from permil.pipeline import run_pipeline
from permil.products import RunFolder, is_good, read_image, read_table
from permil.products.folder import ColourFolder
from permil.simulate.stage import simulate_bench

from .conftest import FillOnce, Permil, small_campaign
from .test_engine_run import products

pytestmark = pytest.mark.full

DETECTORS = ["R22_S11", "R22_S12"]


@pytest.fixture(scope="module")
def coloured(fill_once: FillOnce) -> Path:
    def fill(folder: Path) -> None:
        campaign = {"scan_size": 7, "images": 2, "biases": 3, "readout": "target"}
        simulate_bench(small_campaign(detectors=DETECTORS, leds=["red", "uv"], campaign=campaign), folder, workers=1)
        with (folder / "config.yaml").open("a") as stream:
            stream.write(
                "flat: {joint: {spacing_mm: 6.0, checks: false}}\npipeline: {workers: 1}\nreport: {detector_pages: true}\n"
            )
        run_pipeline(load_config(folder / "config.yaml"))

    return fill_once("coloured", fill)


def test_ratios_agree_with_the_truth(coloured: Path) -> None:
    folder = RunFolder(coloured)
    table = read_table(ColourFolder(coloured).table("ratios"))
    assert set(table["led"]) == {"uv"}
    assert set(table["over_led"]) == {"red"}
    pulls = []
    for name in DETECTORS:
        rows = table[table["detector"] == name]
        assert len(rows) == 17
        true = [read_image(folder.truth_flat(led, name)).image for led in ("uv", "red")]
        good = np.logical_and.reduce([is_good(read_image(folder.flat(led, name)).mask) for led in ("uv", "red")])
        whole = rows[rows["amp"] == "all"]
        expected = float(np.median(true[0][good]) / np.median(true[1][good]))
        pulls.append(np.log(float(whole["ratio"][0]) / expected) / (float(whole["ratio_err"][0]) / expected))
    # The common factor is a convention.
    assert abs(pulls[0] - pulls[1]) / 2 < 4


def test_every_table_and_map_is_there(coloured: Path) -> None:
    products = ColourFolder(coloured)
    responses = read_table(products.table("responses"))
    assert fits.getheader(products.detector("R22_S11"))["LSST_NUM"]
    assert responses.meta["CONFDIG"]
    assert set(responses["band"]) == {"u", "r"}
    assert np.isnan(np.asarray(responses["wavelength_nm"], dtype=float)).all()
    variances = read_table(products.table("variances"))
    assert {"pixel", "cell", "amplifier", "pattern"} == set(variances["scale"])
    waves = read_table(products.table("waves"))
    strongest = waves[(waves["led"] == "uv") & (waves["wave"] == 1)]
    assert np.allclose(strongest["period_mm"], 1.5, atol=0.02)
    assert np.allclose(strongest["amplitude"], 7e-3, rtol=0.05)
    assert len(read_table(products.table("vendors"))) == 0
    with fits.open(products.ratio("uv", "red")) as hdus:
        assert hdus["IMAGE"].header["CTYPE1"] == "DVCS_X"
        assert hdus[0].header["RUNNUM"]
        assert np.nanmedian(hdus["IMAGE"].data) == pytest.approx(1.0, abs=0.05)


def test_the_page_answers_the_questions(coloured: Path) -> None:
    html = (coloured / "report" / "colour.html").read_text(encoding="utf-8")
    for words in (
        "Response against wavelength",
        "uv (u)",
        "red (r)",
        "Light or sensor",
        "Variance common to LEDs",
        "Periodic pattern",
    ):
        assert words in html
    assert "nan" not in re.sub(r'data:image/[^"]*|<svg.*?</svg>', "", html, flags=re.DOTALL).lower().split()
    index = (coloured / "report" / "index.html").read_text(encoding="utf-8")
    assert 'href="colour.html"' in index
    metrics = set(read_table(coloured / "summary.ecsv")["metric"])
    assert {"led_ratio", "colour_gradient_x"} <= metrics


def test_nothing_is_made_twice(coloured: Path, permil: Permil) -> None:
    code, _, messages = permil("colour", str(coloured / "config.yaml"))
    assert code == 0
    assert "colour: 0 done, 3 up to date" in messages


def test_tasks_one_by_one_make_what_a_run_makes(coloured: Path, tmp_path: Path, permil: Permil) -> None:
    folder = shutil.copytree(coloured, tmp_path / "run", ignore=shutil.ignore_patterns("raw", "truth", "report", "colour"))
    config, quick = folder / "config.yaml", ("pipeline.workers=1",)
    for words in (*(("--detector", name) for name in DETECTORS), ("--step", "colour_tables")):
        code, _, messages = permil("colour", config, *quick, *words)
        assert code == 0, messages
    by_tasks = products(folder, "colour")
    code, _, messages = permil("colour", config, *quick)
    assert (code, "colour: 0 done, 3 up to date" in messages) == (0, True)
    shutil.rmtree(folder / "colour")
    assert permil("colour", config, *quick)[0] == 0
    assert products(folder, "colour") == by_tasks


def test_flats_in_one_led_have_no_colour(reduced: Path, permil: Permil) -> None:
    code, _, messages = permil("colour", str(reduced / "config.yaml"))
    assert code == 2
    assert "no science detector has flats in two LEDs" in messages
    assert not (reduced / "colour").exists()
