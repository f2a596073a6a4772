"""The pages that compare stars with flats: from products with known numbers to what a person reads."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from synthetic_comparison import SENTENCE, STRIPES, write_comparison, write_tables
from synthetic_run import make_pages
from test_report import OUTSIDE, Page

from permil.camera import Camera, load_camera
from permil.config import Config
from permil.config.model import ReportConfig
from permil.errors import InputError
from permil.products import RunFolder, read_table
from permil.products.folder import CompareFolder
from permil.report.compare.figures import coarse
from permil.report.kit.results import MISSING

DETECTOR = "R22_S11"
GROUPS = ((DETECTOR, "red"), (DETECTOR, ""))


def report(folder: RunFolder, camera: Camera, **options: object) -> Path:
    config = Config(camera="spots-cutout", output=folder.root, report=ReportConfig(**options))
    return make_pages(config, camera, folder)


@pytest.fixture(scope="module")
def cutout() -> Camera:
    return load_camera("spots-cutout")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, cutout: Camera) -> RunFolder:
    """Return a run of comparisons alone: a band without a p-value, and one without a name that has one; tests must not change it."""
    root = tmp_path_factory.mktemp("compare") / "run"
    write_comparison(root, DETECTOR, "red")
    write_comparison(root, DETECTOR, "", p_value=0.2)
    write_tables(root, GROUPS)
    folder = RunFolder(root)
    report(folder, cutout)
    return folder


@pytest.fixture
def run(made: RunFolder, tmp_path: Path) -> RunFolder:
    """Return a copy that a test may change; the pages in it are up to date."""
    shutil.copytree(made.root, tmp_path / "run")
    return RunFolder(tmp_path / "run")


@pytest.fixture(scope="module")
def pages(made: RunFolder) -> dict[str, Page]:
    return {str(path.relative_to(made.report.parent)): Page(path) for path in made.report.parent.rglob("*.html")}


@pytest.fixture(scope="module")
def page(pages: dict[str, Page]) -> Page:
    return pages["compare/R22_S11_red.html"]


def test_there_is_a_page_for_each_detector_and_band(pages: dict[str, Page]) -> None:
    assert set(pages) == {"index.html", "compare/R22_S11_red.html", "compare/R22_S11.html"}
    for each in pages.values():
        assert len(each.ids) == len(set(each.ids))
        for link in each.links:
            address, _, place = link.partition("#")
            target = (each.path.parent / address).resolve() if address else each.path
            assert target.is_file(), link
            assert not place or f'id="{place}"' in target.read_text(encoding="utf-8")
    assert {"compare/R22_S11_red.html", "compare/R22_S11.html"} <= set(pages["index.html"].links)


def test_pages_need_nothing_from_elsewhere(pages: dict[str, Page]) -> None:
    for each in pages.values():
        assert all(picture.startswith("data:image/") for picture in each.pictures)
        assert all(len(picture) < 300_000 for picture in each.pictures)
        assert not OUTSIDE.search(re.sub(r'src="data:[^"]*"', "", each.text))


def test_the_sentence_is_on_top_in_the_units_of_pages(page: Page) -> None:
    sentence = "2.50 ‰ without and 1.80 ‰ with it, noise subtracted (change \N{MINUS SIGN}0.70 ± 0.10 ‰, 7.0 times its error)."
    assert sentence in page.body
    assert page.body.index(sentence) < page.body.index("Stars and flat")
    assert SENTENCE not in page.body


def test_the_naive_test_stands_beside_the_quoted_figures(page: Page) -> None:
    rows = {row[0]: row[1:] for row in page.tables["headline-table"][1:]}
    assert rows["correlation r, with its standard error"] == ["0.700 ± 0.030", "0.700 ± 0.010"]
    assert rows["independent values: scatter of r of unrelated maps with this texture"] == [
        "123",
        "2\N{NARROW NO-BREAK SPACE}000",
    ]
    assert rows["independent values in the residuals of the relation, for p"] == ["240", MISSING]
    assert rows["p: probability of such an r for unrelated maps"] == [MISSING, "< 10⁻⁹⁹"]
    assert "scatters like that of 123 independent values. The residuals of the relation are equivalent to 240" in page.body
    assert "that is 3.0 times too small" in page.body


def test_a_missing_p_value_has_its_reason_and_larger_cells_are_offered(page: Page, pages: dict[str, Page]) -> None:
    assert f"No p-value is given for single stars: {STRIPES}." in page.body
    assert "p = 1.0 \N{MULTIPLICATION SIGN} 10⁻⁴ (16 pixels), p = 1.0 \N{MULTIPLICATION SIGN} 10⁻⁴ (64 pixels)" in page.body
    other = pages["compare/R22_S11.html"]
    assert "p = 0.2: this is consistent with chance." in other.body
    assert "No p-value is given" not in other.body


def test_every_method_of_the_product_is_listed_whatever_its_name(page: Page) -> None:
    rows = {row[0]: row[1:] for row in page.tables["method-table"][1:]}
    assert list(rows) == ["quoted", "naive", "some new method", "phases"]
    assert rows["quoted"][1:] == ["0.030", MISSING]
    assert rows["some new method"] == ["", "0.040", "0.003"]


def test_a_p_value_at_its_floor_is_an_upper_limit_and_too_few_surrogates_have_none(page: Page) -> None:
    rows = {row[0]: row[1:] for row in page.tables["method-table"][1:]}
    assert rows["phases"][1:] == ["0.034", "< 0.005"]
    assert "shifts" not in rows


def test_fractions_slopes_and_verdicts_are_those_of_the_product(page: Page) -> None:
    fractions = {(row[0], row[1]): row[2:] for row in page.tables["fraction-table"][1:]}
    assert fractions["whole detector", "total"][:4] == ["0.600 ± 0.040", "0.350 ± 0.040", "0.050 ± 0.040", "1.000 ± 0.040"]
    assert fractions["mid line", "16-32 px"][:4] == [MISSING] * 4
    slopes = {row[0]: row[1:] for row in page.tables["slope-table"][1:]}
    assert slopes["expected: all pixel area"] == ["0", "1", "0"]
    assert slopes["found: whole detector"] == ["0.610 ± 0.020", "0.330 ± 0.020", "0.040 ± 0.020"]
    assert page.tables["verdict-table"][1][1:5] == ["lowers", "2.50", "1.80", "\N{MINUS SIGN}0.70 ± 0.10"]
    assert "edge: 12 stars are too few" in page.body


@pytest.mark.usefixtures("no_pictures")
def test_stars_that_were_divided_have_other_expected_slopes(run: RunFolder, cutout: Camera) -> None:
    path = CompareFolder(run.root).comparison(DETECTOR, "red")
    with fits.open(path, mode="update") as hdus:
        hdus[0].header["FLATFLD"], hdus[0].header["FINGERPR"] = True, "other"
    report(run, cutout)
    page = Page(run.report.parent / "compare" / "R22_S11_red.html")
    rows = {row[0]: row[1:] for row in page.tables["slope-table"][1:]}
    assert rows["expected: all efficiency"] == ["0", "0", "0"]
    assert "0 is expected if the flat shows the efficiency of pixels" in page.body
    assert rows["expected: all diffusion"] == ["\N{MINUS SIGN}1", "0", "1"]


def test_all_correlations_are_listed(page: Page) -> None:
    rows = page.tables["pair-table"][1:]
    assert len(rows) == 15
    assert rows[0][:4] == ["flux", "whole detector", "single stars", "0.700 ± 0.030"]
    unknown, region = rows[-2:]
    assert unknown[:4] == ["xy", "whole detector", "cells of 64 px", MISSING]
    assert region[1] == "edge"


def test_steps_of_amplifiers_and_tree_rings_are_reported(page: Page) -> None:
    assert "scatter by 1.100 ± 0.010 ‰; the means of the stars follow them with slope 0.90 ± 0.20." in page.body
    assert "x = \N{MINUS SIGN}40.0 ± 9.0 and y = \N{MINUS SIGN}50.0 ± 8.0 pixels" in page.body


def test_the_index_has_the_headline_of_each_detector(pages: dict[str, Page]) -> None:
    index = pages["index.html"]
    heading, *rows = index.tables["compare-table"]
    found = {row[1]: dict(zip(heading, row, strict=True)) for row in rows}
    assert set(found) == {"red", MISSING}
    red = found["red"]
    assert (red["r"], red["p"], red["effective number"]) == ("0.700 ± 0.030", MISSING, "123")
    assert red["fraction pixel area"] == "0.350 ± 0.040"
    assert red["effect of the plain flat on the scatter"] == "lowers"
    assert f"R22_S11 red: {STRIPES}" in index.body
    # Levels of cells of different sizes are in different tables.
    assert [row[0] for row in index.tables["level-table-2"][1:]] == ["between detectors"]
    assert "means over cells of 0.32 mm" in index.body
    levels = index.tables["level-table-1"][1:]
    assert [row[0] for row in levels] == ["between amplifiers"]
    assert levels[0][2] == "0.54 ± 0.10"
    assert levels[0][-1] == "response of the CCD or light source"
    assert "all cells lie on one raft" in index.body
    assert "Missing" not in index.body.replace("Missing: the resolved", "")


def test_the_summary_has_the_headline_figures(made: RunFolder) -> None:
    summary = read_table(made.summary)
    found = {(str(row["metric"]), str(row["led"])): (row["value"], row["error"]) for row in summary}
    assert found["correlation", "red"] == (0.7, 0.03)
    assert found["flux_slope", "-"] == (0.6, 0.025)
    assert found["fraction_pixel_area", "red"] == (0.35, 0.04)
    assert found["flux_scatter_change", "red"] == (-7e-4, 1e-4)
    assert set(summary["amp"]) == {"all"}
    assert set(summary["pass"]) == {"-"}


EXTENSIONS = (
    "STARS", "CORRELATIONS", "NULL", "BLOCKS", "HYPOTHESES", "VERDICTS", "SILENT", "RINGS", "FLUX", "FLUX_FLAT", "DX", "SHIFT_X",
)  # fmt: skip


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("without", [EXTENSIONS, ("CORRELATIONS",), ("FLUX",), ("STARS", "HYPOTHESES")])
def test_a_product_without_some_extensions_still_has_a_page(without: tuple[str, ...], tmp_path: Path, cutout: Camera) -> None:
    write_comparison(tmp_path, DETECTOR, "red", without=without)
    write_tables(tmp_path, GROUPS[:1], without=("hypotheses", "verdicts", "levels"))
    report(RunFolder(tmp_path), cutout)
    page = Page(tmp_path / "report" / "compare" / "R22_S11_red.html")
    for name in {"CORRELATIONS", "HYPOTHESES", "FLUX"} & set(without):
        assert name in page.body[page.body.index("Missing") : page.body.index("Stars and flat")]
    if "RINGS" in without:
        assert "No tree rings were found in the flat (p = 0.01 for a map without rings)." in page.body


def test_columns_may_be_missing_and_figures_nan(tmp_path: Path, cutout: Camera) -> None:
    path = write_comparison(tmp_path, DETECTOR, "red")
    write_tables(tmp_path, GROUPS[:1])
    with fits.open(path) as hdus:
        table = Table(hdus["CORRELATIONS"].data)
        for name in table.colnames:
            if table[name].dtype.kind == "f":
                table[name] = np.nan
        table.remove_columns(["slope", "naive_r_err", "reason", "r_low"])
        hdus["CORRELATIONS"] = fits.BinTableHDU(table, name="CORRELATIONS")
        hdus["STARS"].data["flux"] = np.nan
        hdus["FLUX"].data[:] = np.nan
        hdus.writeto(path, overwrite=True)
    report(RunFolder(tmp_path), cutout)
    page = Page(tmp_path / "report" / "compare" / "R22_S11_red.html")
    assert "No p-value is given for single stars." in page.body
    assert {row[3] for row in page.tables["pair-table"][1:]} == {MISSING}


@pytest.mark.usefixtures("no_pictures")
def test_pages_that_are_up_to_date_are_left(run: RunFolder, cutout: Camera) -> None:
    paths = sorted(run.report.parent.rglob("*.html"))
    report(run, cutout)
    before = {path: path.read_bytes() for path in paths}
    times = {path: path.stat().st_mtime_ns for path in paths}
    report(run, cutout)
    assert {path: path.stat().st_mtime_ns for path in paths} == times
    with fits.open(CompareFolder(run.root).comparison(DETECTOR, "red"), mode="update") as hdus:
        hdus[0].header["FINGERPR"] = "abc"
    report(run, cutout)
    assert [path.name for path in paths if path.read_bytes() != before[path]] == ["R22_S11_red.html"]
    stale = run.report.parent / "compare" / "R22_S10_red.html"
    stale.write_text("old", encoding="utf-8")
    report(run, cutout)
    assert not stale.exists()
    report(run, cutout, detector_pages=False)
    assert not list(run.report.parent.glob("compare/*.html"))
    assert "compare/" not in "".join(Page(run.report).links)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("length", [0, 4000, 40000])
def test_a_damaged_or_missing_product_is_named(run: RunFolder, cutout: Camera, length: int) -> None:
    path = CompareFolder(run.root).comparison(DETECTOR, "red")
    content = path.read_bytes()[:length]
    path.unlink()
    if content:
        path.write_bytes(content)
    (run.report.parent / "compare" / "R22_S11_red.html").unlink()
    with pytest.raises(
        InputError, match=r"compare_R22_S11_red\.fits: (damaged|cannot be read|the comparison of stars and flat does not exist)"
    ):
        report(run, cutout)


def test_coarse_cells_are_weighted_means() -> None:
    image = np.array([[1.0, 4.0, np.nan], [np.nan, 1.0, np.nan]])
    weight = np.array([[1.0, 2.0, 1.0], [5.0, 1.0, 1.0]])
    # (1 + 2 * 4 + 1) / 4, and a cell that has nothing; the last one is cut by the border.
    np.testing.assert_array_equal(coarse(image, weight, 2), [[2.5, np.nan]])
    np.testing.assert_array_equal(coarse(image, weight, 1), image)
