"""The page of many sensors: from tables of several runs to what a person reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from synthetic_comparison import write_choice, write_comparison, write_tables
from synthetic_run import make_pages
from test_report import Page

from permil.camera import Camera, load_camera
from permil.compare.sensors.stage import read_results
from permil.compare.sensors.tables import ALL, DIFFERENCE, VENDOR, combined_rows, sensor_rows, significance_rows
from permil.config import Config
from permil.errors import InputError
from permil.products import RunFolder, write_table
from permil.products.folder import CompareFolder
from permil.report.kit.results import MISSING
from pictures import without_pictures

E2V, ITL = "R22_S11", "R02_S02"
ORIGINS = {
    "part": ["mask: fluxes of the spots", "lamp: between exposures", "vendor", "sensor", "sum of the parts"],
    "variance": [0.01, 4e-6, np.nan, 1e-4, 0.010104],
    "variance_err": [1e-3, 1e-6, np.nan, 2e-5, 1e-3],
    "rms_per_mil": [100.0, 2.0, np.nan, 10.0, 100.5],
    "rms_per_mil_err": [5.0, 0.25, np.nan, 1.0, 5.0],
    "reason": ["-", "-", "no vendor has more than one detector: given as detector", "-", "-"],
}


@pytest.fixture(scope="module")
def cutout() -> Camera:
    return load_camera("spots-cutout")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, cutout: Camera) -> list:
    """Return the results of an E2V sensor in two bands, and of an ITL sensor in one of them, in two runs."""
    root = tmp_path_factory.mktemp("sensors")
    for name, groups in (("first", [(E2V, "red"), (E2V, "blue")]), ("second", [(ITL, "red")])):
        for detector, band in groups:
            write_comparison(root / name, detector, band)
        write_tables(root / name, groups, p_value=1e-4)
    return [each for name in ("first", "second") for each in read_results(root / name, name, cutout)]


def write_sensors(results: list, root: Path) -> None:
    """Write the tables of many sensors into the folder of the first run."""
    products, combined = CompareFolder(root), combined_rows(results)
    tables = {
        products.sensors: sensor_rows(results),
        products.combined: [{"p_value": np.nan, "estimates": np.nan} | row for row in combined],
        products.tests: significance_rows(results, combined),
    }
    columns = ("heterogeneity", "heterogeneity_low", "heterogeneity_high")
    for path, rows in tables.items():
        names = list(dict.fromkeys(name for row in rows for name in row))
        table = Table({name: [row.get(name, np.nan) for row in rows] for name in names})
        assert path is not products.combined or set(columns) <= set(table.colnames)
        write_table(path, table)
    write_table(products.origins, Table(ORIGINS))


@pytest.fixture(scope="module")
def page(results: list, cutout: Camera) -> Page:
    root = Path(results[0].folder)
    write_sensors(results, root)
    write_choice(root, E2V, "red")
    write_choice(root.parent / "second", ITL, "red", use="undecided")
    folder = RunFolder(root)
    with without_pictures():
        make_pages(Config(camera="spots-cutout", output=root), cutout, folder)
    return Page(root / "report" / "compare" / "index.html")


def test_results_have_vendor_led_and_place(results: list) -> None:
    assert [(each.detector, each.vendor, each.band, each.led) for each in results] == [
        (E2V, "E2V", "red", "red"), (E2V, "E2V", "blue", "red"), (ITL, "ITL", "red", "red"),
    ]  # fmt: skip
    assert (results[2].x_mm, results[2].y_mm) == (-296.25, 42.25)
    assert results[0].value("fraction_pixel_area") == (0.35, 0.04)
    assert results[0].value("r", "edge") == (0.5, 0.03)
    assert np.isnan(results[0].value("r", "mid line")).all()


def test_means_count_a_sensor_once_and_differences_name_the_vendors(results: list) -> None:
    rows = {(row["quantity"], row["region"], row["kind"], row["of"]): row for row in combined_rows(results)}
    whole = rows["r", "whole detector", ALL, "-"]
    assert (whole["sensors"], whole["estimates"]) == (2, 3)
    assert rows["r", "whole detector", VENDOR, "E2V"]["error"] == pytest.approx(0.03)
    apart = rows["fraction_efficiency", "whole detector", DIFFERENCE, "E2V - ITL"]
    assert apart["value"] == pytest.approx(0.0, abs=1e-12)
    assert apart["p_value"] == pytest.approx(1.0)


def test_every_p_value_is_a_test(results: list) -> None:
    combined = combined_rows(results)
    rows = significance_rows(results, combined)
    of_correlations = sum(int(np.isfinite(np.asarray(each.correlations["p_value"], dtype=float)).sum()) for each in results)
    others = [row for row in combined if row["kind"] in (ALL, VENDOR, DIFFERENCE) and np.isfinite(row.get("p_value", np.nan))]
    assert len(rows) == of_correlations + len(others)
    chances = [row["p_value"] for row in rows]
    assert chances == sorted(chances)
    assert all(row["false_discovery_rate"] >= row["p_value"] for row in rows)
    assert all(row["significant"] == (row["false_discovery_rate"] <= 0.05) for row in rows)


def test_the_page_answers_the_questions(page: Page) -> None:
    assert "Mean over 2 sensors: r = 0.700" in page.body
    assert "tests were made" in page.body
    assert "Only one sensor of E2V and ITL was measured" in page.body
    combined = {tuple(row[:2]): row[2:] for row in page.tables["combined-table"][1:]}
    assert combined["fraction pixel area", "all sensors"][1:3] == ["2", "3"]
    assert combined["fraction pixel area", "E2V"][0] == "0.350 ± 0.040"
    assert combined["correlation r", "ITL"][3] == MISSING
    assert any(row[:3] == ["correlation r", "edge", "E2V \N{MINUS SIGN} ITL"] for row in page.tables["difference-table"][1:])
    assert len(page.tables["tests-table"]) > 50
    origins = {row[0]: row[1:] for row in page.tables["origin-table"][1:]}
    assert origins["lamp: between exposures"][:3] == ["2.00 ± 0.25", "4.0 ± 1.0", "3.85 ± 0.96"]
    assert origins["vendor"] == [MISSING, MISSING, MISSING, "no vendor has more than one detector: given as detector"]
    assert len(page.pictures) >= 2
    heading, *choices = page.tables["choice-table"]
    assert heading[:5] == ["detector", "band", "run", "for fluxes", "for the sky"]
    assert [row[:5] for row in choices] == [
        [E2V, "red", "first", "efficiency flat", "plain flat"],
        [ITL, "red", "second", "undecided", "plain flat"],
    ]
    assert "R22_S11 red (first) Use the efficiency flat for fluxes of stars and the plain flat for the sky" in page.body
    # A map for each band; a cell of few stars is not drawn.
    assert page.text.count("residuals of stars, ") == 2


def test_the_start_page_links_to_it(page: Page) -> None:
    start = Page(page.path.parents[1] / "index.html")
    assert "compare/index.html" in start.links
    for link in page.links:
        address = link.partition("#")[0]
        assert not address or (page.path.parent / address).resolve().is_file(), link


def test_a_detector_of_another_camera_is_an_error(results: list, bin8: Camera, tmp_path: Path) -> None:
    write_tables(tmp_path, [("X01_Y02", "red")])
    with pytest.raises(InputError, match="detector X01_Y02 does not belong to camera lsstcam-bin8"):
        read_results(tmp_path, "other", bin8)
