"""Defects on the pages: counts, sizes with errors, agreement of LEDs, links; nothing where they were not searched."""

from __future__ import annotations

import pytest
from synthetic_run import SyntheticRun, make_pages
from test_report import Page

from permil.camera import Camera
from permil.defects import DefectBox, DefectKind, defect_table
from permil.products import read_table, write_table
from permil.report.defects import FAMILIES
from permil.report.kit.results import MISSING, with_minus
from pictures import without_pictures

LEDS = ("red", "nm960")


def boxes() -> list[DefectBox]:
    """Return a dark pixel seen in both LEDs, one seen in one, a column, an L of two boxes, a hot pixel, and a given box."""
    dark = {
        "reason": "dark_pixel",
        "quantity": "deviation",
        "value_err": 0.01,
        "significance": 30.0,
        "searched": LEDS,
        "amp": "C00",
    }
    return [
        DefectBox(10, 10, 1, 1, **dark, value=-0.30, leds=LEDS, defect=1),
        DefectBox(20, 10, 1, 1, **dark, value=-0.40, leds=("red",), defect=2),
        DefectBox(30, 10, 1, 1, **dark, value=-0.50, leds=LEDS, defect=3),
        DefectBox(40, 50, 1, 200, **(dark | {"reason": "weak_column"}), value=-0.1234, leds=LEDS, defect=4),
        DefectBox(70, 60, 1, 3, **(dark | {"reason": "dark_cluster", "amp": "C01"}), value=-0.2, leds=LEDS, defect=5),
        DefectBox(71, 60, 2, 1, **(dark | {"reason": "dark_cluster", "amp": "C01"}), value=-0.2, leds=LEDS, defect=5),
        DefectBox(100, 300, 1, 1, "hot_bias", "both", "C16", 6, 123.4, 2.1, "electrons", 60.0),
        DefectBox(100, 300, 2, 2, "given", "both", defect=7),
    ]


@pytest.fixture(scope="module")
def run(written_run: SyntheticRun, tmp_path_factory: pytest.TempPathFactory, bin8: Camera) -> SyntheticRun:
    """Return a copy of the run with tables of defects and the pages that show them; tests must not change it."""
    run = written_run.copy(tmp_path_factory.mktemp("defects") / "run")
    cards = {"leds": list(LEDS), "exposures_searched": {"red": 24, "nm960": 24}, "fingerprint": "dd"}
    write_table(run.folder.defects(run.detectors[0]), defect_table(boxes(), cards=cards))
    write_table(run.folder.defects(run.detectors[1]), defect_table([], cards={"leds": ["red"], "fingerprint": "ee"}))
    with without_pictures():
        make_pages(run.config, bin8, run.folder)
    return run


def page(run: SyntheticRun, detector: str) -> Page:
    return Page(run.folder.report.parent / "detectors" / "red" / f"{detector}.html")


def test_a_run_without_defects_searched_has_no_section(written_run: SyntheticRun) -> None:
    assert "#defects" not in Page(written_run.folder.report).links
    assert "Defects of the sensor" not in page(written_run, written_run.detectors[0]).body


def test_counts_on_the_index_page(run: SyntheticRun) -> None:
    index = Page(run.folder.report)
    name, clean, _ = run.detectors
    assert "#defects" in index.links
    heading, *rows = index.tables["defects-table"]
    assert heading[:5] == ["detector", "defects", "dark", "bright, vampire", "columns"]
    counts = {row[0]: row[1:] for row in rows}
    pixels = 3 + 200 + 5 + 4
    assert counts[name] == ["7", "4", "0", "1", "1", "0", "0", "1", f"{1e3 * pixels / (500 * 512):.3g}"]
    assert counts[clean] == ["0"] * 9
    assert f"detectors/red/{name}.html" in index.links
    # Four of the five that either LED shows are in both.
    assert index.tables["agreement-table"][1][2].startswith("80 ± ")
    summary = read_table(run.folder.summary)
    found = {(row["metric"], row["detector"]): row["value"] for row in summary if str(row["metric"]).startswith("defect")}
    assert found["defects", name] == 7
    assert found["defective_pixels", clean] == 0


def test_page_of_a_detector(run: SyntheticRun) -> None:
    shown = page(run, run.detectors[0])
    assert "7 defects cover 212 pixels" in shown.body
    assert "single exposures (24 of nm960, 24 of red)" in shown.body
    kinds = {row[0]: row[1:] for row in shown.tables["defect-kind-table"][1:]}
    assert kinds["dark pixel"][:2] == ["3", "3"]
    assert kinds["dark pixel"][2].startswith(with_minus("-40"))
    assert kinds["dark pixel"][2].endswith(" %")
    assert kinds["dark pixel"][3] == "2 of 3"
    assert kinds["dark cluster"][:2] == ["1", "5"]
    assert kinds["weak column"][2] == with_minus("-12.3 ± 1.0 %")
    assert kinds["hot bias"][2:] == ["123.4 ± 2.1 e⁻", MISSING, "1"]
    assert kinds["given"][2] == MISSING
    amplifiers = {row[0]: row[1:] for row in shown.tables["defect-amplifier-table"][1:]}
    assert sum(int(row[0]) for row in amplifiers.values()) == 4
    listed = shown.tables["defect-table"]
    assert len(listed) == 8
    assert listed[1][0] == "hot bias"
    assert "All 7 defects (" in shown.body


def test_page_of_a_detector_without_defects(run: SyntheticRun) -> None:
    shown = page(run, run.detectors[1])
    assert "0 defects cover 0 pixels (0 ‰)" in shown.body
    assert "no single exposures" in shown.body
    assert "defect-table" not in shown.tables


def test_every_kind_belongs_to_one_family() -> None:
    kinds = [kind for family in FAMILIES for kind in family.kinds]
    assert sorted(kinds) == sorted(DefectKind)
