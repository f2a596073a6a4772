"""The pages of a run: complete, self-contained, correct, and made anew only when they must be."""

from __future__ import annotations

import importlib.util
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from synthetic_run import FAILING_STEP, SyntheticRun, make_pages, metric_rows, write_flat

from permil.camera import Camera
from permil.engine import LocalProcesses, session
from permil.errors import InputError, OutputError
from permil.flat.metrics import metrics_table
from permil.products import RunFolder, read_table, write_table
from permil.report.kit.results import MISSING

VOID = {"meta", "img", "br", "hr", "link", "input"}
OUTSIDE = re.compile(r"""(?:src|href)\s*=\s*["'](?:https?:)?//|@import|url\(""")


class Page(HTMLParser):
    """Elements, links, pictures and the text of each table of a page; complains about elements that are not closed."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.path = path
        self.text = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.pictures: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.body = ""
        self._table: list[list[str]] | None = None
        self.feed(self.text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        entries = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if entries.get("id"):
            self.ids.append(str(entries["id"]))
        if tag == "a":
            self.links.append(str(entries["href"]))
        if tag == "img":
            assert entries["alt"]
            self.pictures.append(str(entries["src"]))
        if tag == "image":
            self.pictures.append(str(entries["href"]))
        if tag == "table":
            self._table = self.tables[entries.get("id") or f"table {len(self.tables)}"] = []
        if tag == "tr" and self._table is not None:
            self._table.append([])
        if tag in ("td", "th") and self._table is not None:
            self._table[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        """Close an element, which must be the last that was opened."""
        assert self.open.pop() == tag
        if tag == "table":
            self._table = None

    def handle_data(self, data: str) -> None:
        """Note text."""
        if self.open and self.open[-1] in ("style", "script"):
            return
        self.body += data
        if self._table and self._table[-1] and data.strip():
            self._table[-1][-1] += data


def report(run: SyntheticRun, camera: Camera) -> Path:
    return make_pages(run.config, camera, run.folder)


@pytest.fixture(scope="module")
def made(written_run: SyntheticRun) -> dict[str, Page]:
    """Return all pages of a complete run by their path below the folder of the report."""
    index = written_run.folder.report
    return {str(path.relative_to(index.parent)): Page(path) for path in index.parent.rglob("*.html")}


def test_there_is_one_page_per_detector_and_led(made: dict[str, Page], written_run: SyntheticRun) -> None:
    expected = {f"detectors/{led}/{name}.html" for led in written_run.leds for name in written_run.detectors}
    assert set(made) == expected | {"index.html"}


def test_every_link_leads_somewhere(made: dict[str, Page]) -> None:
    ids = {page.path.resolve(): set(page.ids) for page in made.values()}
    for page in made.values():
        assert len(page.ids) == len(set(page.ids))
        for link in page.links:
            address, _, place = link.partition("#")
            target = (page.path.parent / address).resolve() if address else page.path.resolve()
            assert target in ids, f"{page.path} links to {link}"
            assert not place or place in ids[target], f"{page.path} links to {link}"
    reached = {(made["index.html"].path.parent / link.partition("#")[0]).resolve() for link in made["index.html"].links}
    assert reached >= set(ids) - {made["index.html"].path.resolve()}


def test_pages_need_nothing_from_elsewhere(made: dict[str, Page]) -> None:
    for page in made.values():
        assert page.pictures
        assert all(picture.startswith("data:image/") for picture in page.pictures)
        text = re.sub(r'(src|href)="data:[^"]*"', "", page.text)
        assert not OUTSIDE.search(text)
        assert "http" not in text
        assert all(len(picture) < 200_000 for picture in page.pictures)


def test_the_index_counts_exposures(made: dict[str, Page]) -> None:
    rows = {(row[0], row[1]): row[2:] for row in made["index.html"].tables["exposure-table"][1:]}
    # 36 positions of the scan, 3 pointings on each of 3 detectors, all read by 3 detectors; scan exposure 3 has no photodiode.
    assert rows["scan", "red"] == ["36", "108", "3", "36", "3"]
    assert rows["pointing", "nm960"] == ["9", "27", "3", "9", "0"]
    assert rows["bias", MISSING] == ["2", "6", "3", MISSING, "0"]


def test_the_index_shows_what_was_not_used(made: dict[str, Page]) -> None:
    index = made["index.html"]
    assert "1 \N{MULTIPLICATION SIGN} the file is cut short" in index.body
    assert "raw/<broken>.fits" in index.body
    assert "1 \N{MULTIPLICATION SIGN} photodiode is missing, zero or negative" in index.body
    assert index.tables["stage-table"][1:] == [["index", "1.2", "10", "0"], ["flat", "30.5", "4", "1"]]


def test_the_verdicts_name_what_fails(made: dict[str, Page]) -> None:
    rows = {(row[0], row[1]): row[2:] for row in made["index.html"].tables["verdict-table"][1:]}
    step = rows["amplifier step (‰)", "red"]
    assert step == ["fail", "3.60 ± 0.12", "R22_S00 C14", "3", "48", "1", "0"]
    scatter = rows["scatter between pointings in excess of noise (‰)", "red"]
    assert scatter[:2] == ["pass", "0.550 ± 0.050"]
    assert rows["noise of a beam node (‰)", "nm960"][0] in ("pass", "open", "fail")


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    ("scatter", "noise", "excess", "error", "verdict"),
    [
        # Nearly all of 5.04 per mil is photon noise.
        (5.04e-3, 4.98e-3, 0.78e-3, 0.3e-3, "pass"),
        (8.4e-3, 4.5e-3, 7.1e-3, 0.1e-3, "fail"),
        # One per cent of the variance of 60 per mil of noise is more than the specification.
        (60e-3, 59.9e-3, 3.4e-3, 3.5e-3, "open"),
    ],
)
def test_scatter_is_judged_by_what_is_beyond_noise(
    run: SyntheticRun, bin8: Camera, scatter: float, noise: float, excess: float, error: float, verdict: str
) -> None:
    folder, led = run.folder, "red"
    folder.metrics("nm960").unlink()
    numbers = {"scatter": scatter, "scatter_noise": noise, "scatter_excess": excess, "scatter_excess_err": error, "step": 2e-4}
    metrics = metrics_table([{**row, **numbers} for row in metric_rows(bin8["R22_S00"], led, first=False)])
    metrics.meta = {"fingerprint": "changed"}
    write_table(folder.metrics(led), metrics)
    few = run.config.model_copy(update={"report": run.config.report.model_copy(update={"detector_pages": False})})
    page = Page(make_pages(few, bin8, folder))
    rows = {row[0]: row[2:] for row in page.tables["verdict-table"][1:] if row[1] == led}
    assert rows["scatter between pointings in excess of noise (‰)"][0] == verdict
    assert ("Some results exceed their specification" in page.body) == (verdict == "fail")
    assert 'class="badge no"' not in page.text or verdict == "fail"


def test_the_table_of_detectors_has_the_numbers(made: dict[str, Page]) -> None:
    heading, *rows = made["index.html"].tables["detectors-red"]
    assert [row[0] for row in rows] == ["R01_S00", "R22_S00", "R22_S01"]
    found = dict(zip(heading, rows[1], strict=True))
    assert found["median"] == "1.00123 ± 0.00045"
    assert found["rms (‰)"] == "5.20 ± 0.10"
    assert found["gradient along X (10⁻⁶/mm)"] == "12.5 ± 2.1"
    assert found["gradient along Y (10⁻⁶/mm)"] == "\N{MINUS SIGN}3.4 ± 2.2"
    assert found["scatter from noise (‰)"] == "1.5"
    assert found["beyond noise (‰)"] == "0.550 ± 0.050"
    assert found["largest step (‰)"] == "3.60 ± 0.12"
    assert found["verdict"] == "1 beyond"
    assert rows[2][1] == "pass"
    # 512 rejected of 20 exposures of 500 x 512 pixels.
    assert float(found["rejected (10⁻⁶)"]) == pytest.approx(512 / (20 * 500 * 512) * 1e6, rel=5e-3)


def test_a_detector_page_has_the_numbers(made: dict[str, Page], bin8: Camera) -> None:
    page = made["detectors/red/R22_S00.html"]
    rows = {row[0]: row[1:] for row in page.tables["amplifier-table"][1:]}
    assert list(rows) == [amplifier.name for amplifier in bin8["R22_S00"].amplifiers]
    assert rows["C14"][-1] == "3.60 ± 0.12"
    assert rows["C13"][-1] == "0.40 ± 0.12"
    results = {row[0]: row[1:] for row in page.tables["result-table"][1:]}
    assert results["scatter between pointings"] == ["‰", "1.600 ± 0.020", MISSING, MISSING]
    assert results["scatter between pointings in excess of noise"] == ["‰", "0.550 ± 0.050", "5", "pass"]
    assert results["median response"] == ["", "1.00123 ± 0.00045", MISSING, MISSING]
    pointings = page.tables["pointing-table"][1:]
    assert [row[1] for row in pointings] == ["yes", "yes", "yes", "no"]
    assert [row[5] for row in pointings] == ["100", "150", "200", "62"]
    assert pointings[0][6:8] == ["4.200", "4.20000 ± 0.00084"]
    readout = {row[0]: row[1:] for row in page.tables["readout-table"][1:]}
    assert readout["C14"][:4] == ["1.100 ± 0.010", "gains.ecsv", "5.20 ± 0.10", "24000.0"]
    assert readout["C13"][0] == MISSING
    low, high = (float(entry.replace("\N{NARROW NO-BREAK SPACE}", "")) for entry in readout["C14"][4:])
    assert 40_000 < low < high < 60_000
    mask = {row[0]: row[1] for row in page.tables["mask-table"][1:]}
    # Columns 100 and 101 are bad outside the zone of four pixels along the edge.
    assert mask["BAD"] == str(2 * (500 - 8))
    cards = {row[0]: row[1] for row in page.tables["header-table"][1:]}
    assert cards["FLATSCAL"] == "12345.5"
    assert "Beyond specification" in page.body
    assert "amplifier step of C14" in page.body
    assert "Beyond specification" not in made["detectors/red/R22_S01.html"].body


def test_the_summary_agrees_with_the_metrics(made: dict[str, Page], written_run: SyntheticRun) -> None:
    summary = read_table(written_run.folder.summary)
    for led in written_run.leds:
        metrics = read_table(written_run.folder.metrics(led))
        chosen = summary[(summary["led"] == led) & (summary["metric"] == "step")]
        assert len(chosen) == np.isfinite(metrics["step"]).sum() == 48
        for row in chosen:
            own = metrics[(metrics["detector"] == row["detector"]) & (metrics["amp"] == row["amp"])]
            assert row["value"] == own["step"][0]
            assert row["error"] == own["step_err"][0]
            assert row["pass"] == ("no" if own["step"][0] == FAILING_STEP else "yes")
        of_beam = summary[(summary["led"] == led) & (summary["detector"] == "-")]
        assert {"beam_node_noise", "beam_maximum_x", "beam_centroid_y"} <= set(of_beam["metric"])
        assert (of_beam["error"] > 0).all()


@pytest.mark.usefixtures("no_pictures")
def test_pages_that_are_up_to_date_stay(run: SyntheticRun, bin8: Camera) -> None:
    # The index says where the run lies, and the copy of the run lies elsewhere: its index is made anew, once.
    index = report(run, bin8)
    pages = sorted(index.parent.rglob("*.html"))
    before = {path: path.stat().st_mtime_ns for path in pages}
    report(run, bin8)
    assert {path: path.stat().st_mtime_ns for path in pages} == before

    changed = run.folder.flat("red", "R22_S01")
    fits.setval(changed, "FINGERPR", value="another")
    report(run, bin8)
    renewed = {path.name for path in pages if path.stat().st_mtime_ns != before[path]}
    assert renewed == {"R22_S01.html", "index.html"}
    assert {path.parent.name for path in pages if path.stat().st_mtime_ns != before[path]} == {"red", "report"}


@pytest.mark.usefixtures("no_pictures")
def test_other_specifications_make_other_pages(run: SyntheticRun, bin8: Camera) -> None:
    for name in ("R22_S00", "R01_S00"):
        run.folder.flat("nm960", name).unlink()
    strict = run.config.model_copy(update={"report": run.config.report.model_copy(update={"scatter_limit": 0.0003})})
    make_pages(strict, bin8, run.folder)
    assert (
        "scatter between pointings in excess of noise: 0.550"
        in Page(run.folder.report.parent / "detectors/nm960/R22_S01.html").body
    )
    assert set(read_table(run.folder.summary)["spec"]) >= {0.0003}


@pytest.mark.usefixtures("no_pictures")
def test_pages_of_detectors_that_are_gone_vanish(run: SyntheticRun, bin8: Camera) -> None:
    index = run.folder.report
    assert len(list(index.parent.rglob("R01_S00.html"))) == 2
    for led in run.leds:
        run.folder.flat(led, "R01_S00").unlink()
    report(run, bin8)
    assert not list(index.parent.rglob("R01_S00.html"))
    page = Page(index.parent / "detectors/red/R22_S00.html")
    assert not any("R01_S00" in link for link in page.links)


@pytest.mark.usefixtures("no_pictures")
def test_without_detector_pages_the_index_links_to_none(run: SyntheticRun, bin8: Camera) -> None:
    few = run.config.model_copy(update={"report": run.config.report.model_copy(update={"detector_pages": False})})
    index = make_pages(few, bin8, run.folder)
    assert [path.name for path in index.parent.rglob("*.html")] == ["index.html"]
    page = Page(index)
    assert not any("detectors/" in link for link in page.links)
    assert len(page.tables["detectors-red"]) == 4


@pytest.mark.usefixtures("no_pictures")
def test_truth_is_shown_when_it_was_compared(run: SyntheticRun, bin8: Camera) -> None:
    comparison = Table(
        {
            "led": ["red", "nm960"],
            "detector": ["R22_S00", "R22_S00"],
            "level": [2.1e-4, -2e-4],
            "level_err": [2e-5, 2e-5],
            "level_pull": [10.5, -10.0],
            "rms_super": [4.1e-4, 3.9e-4],
            "rms_super_err": [1.1e-5, 1e-5],
            "chi_square": [1.012, 0.99],
            "chi_square_err": [0.003, 0.003],
        }
    )
    planes = {"chi_square": 12.34, "freedom": 8, "p_value": 0.1366, "tilt_x": 2.1e-6, "tilt_x_err": 6.3e-7, "tilt_y": 1e-7}
    comparison.meta["planes"] = {"red": planes | {"tilt_y_err": 5e-7, "super_pull": 1.31, "super_pull_err": 0.25}}
    write_table(run.folder.comparison, comparison)
    index = Page(report(run, bin8))
    heading, *rows = index.tables["truth-table"]
    assert heading[2:4] == ["rms per super-pixel (‰)", "small-scale χ² per pixel"]
    assert heading[4:] == ["level relative to all detectors (‰)", "over its error"]
    assert rows[0] == ["red", "R22_S00", "0.410 ± 0.011", "1.0120 ± 0.0030", "0.210 ± 0.020", "10.50"]
    together = index.tables["truth-led-table"][1]
    assert together == ["red", "1.31 ± 0.25", "2.10 ± 0.63", "3.33", "0.10 ± 0.50", "0.20", "12.3 of 8", "0.14"]
    page = Page(run.folder.report.parent / "detectors/red/R22_S00.html")
    assert page.tables["truth-table"][1][0] == "R22_S00"
    assert "Recovered flat over true flat" in page.body


def test_what_is_absent_is_named(run: SyntheticRun, bin8: Camera) -> None:
    folder = run.folder
    # One page of a detector is enough.
    for name in ("R22_S01", "R01_S00"):
        folder.flat("red", name).unlink()
    absent = (
        folder.configuration,
        folder.unreadable,
        folder.left_out,
        folder.stages,
        folder.beam("red"),
        folder.focal_plane("nm960"),
    )
    for path in (*absent, folder.metrics("red"), folder.truth_flat("red", "R22_S00")):
        path.unlink()
    write_flat(folder, bin8["R22_S00"], "red", np.random.default_rng(1), extensions=False)
    index = Page(report(run, bin8))
    for what in (
        "the resolved configuration (run.yaml)",
        "the list of unreadable files",
        "the list of exposures left out",
        "the times of the stages",
        "LED red: beam model",
        "LED nm960: mosaic of the focal plane",
        "LED red: metrics",
    ):
        assert what in index.body
    assert "There is no beam model of this LED." in index.body
    page = Page(folder.report.parent / "detectors/red/R22_S00.html")
    for what in ("metrics", "maps of the pointings", "list of pointings", "scatter between pointings"):
        assert what in page.body
    assert page.pictures


def test_an_index_alone_makes_a_page(run: SyntheticRun, bin8: Camera, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "begun")
    folder.root.mkdir()
    folder.exposures.write_bytes(run.folder.exposures.read_bytes())
    config = run.config.model_copy(update={"output": folder.root})
    page = Page(make_pages(config, bin8, folder))
    assert "beam models and flats" in page.body
    assert "No result has a specification." in page.body
    assert "exposure-table" in page.tables
    assert len(read_table(folder.summary)) == 0


def test_a_folder_without_a_run_is_an_error(run: SyntheticRun, bin8: Camera, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the run does not exist"):
        make_pages(run.config, bin8, RunFolder(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no products"):
        make_pages(run.config, bin8, RunFolder(tmp_path / "empty"))


@pytest.mark.usefixtures("no_pictures")
def test_a_damaged_flat_is_named(run: SyntheticRun, bin8: Camera) -> None:
    path = run.folder.flat("red", "R22_S01")
    path.write_text("not a FITS file", encoding="utf-8")
    # What was made from the file before it was damaged does not hide the damage.
    with pytest.raises(InputError, match=r"R22_S01\.fits: cannot be read as FITS"):
        report(run, bin8)


def test_a_flat_of_another_camera_is_named(run: SyntheticRun, lsstcam: Camera) -> None:
    with pytest.raises(InputError, match="camera lsstcam has"):
        make_pages(run.config.model_copy(update={"camera": "lsstcam"}), lsstcam, run.folder)


@pytest.mark.usefixtures("no_pictures")
def test_small_maps_that_do_not_fit_are_named(run: SyntheticRun, bin8: Camera) -> None:
    path = run.folder.flat("red", "R22_S00")
    with fits.open(path, mode="update") as hdus:
        hdus["SCATTER"].data = hdus["SCATTER"].data[:-3]
        hdus[0].header["FINGERPR"] = "changed"
    with pytest.raises(InputError, match="extension SCATTER"):
        report(run, bin8)


def test_missing_packages_are_named(run: SyntheticRun, bin8: Camera, monkeypatch: pytest.MonkeyPatch) -> None:
    present = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else present(name))
    with pytest.raises(OutputError, match=r"needs matplotlib, not installed.*permil\[report\]"):
        report(run, bin8)


def test_worker_processes_make_the_same_pages(written_run: SyntheticRun, run: SyntheticRun, bin8: Camera) -> None:
    name = "detectors/red/R22_S01.html"
    for path in run.folder.report.parent.glob("detectors/red/R22_S0*.html"):
        path.unlink()
    with session(LocalProcesses(2)):
        make_pages(run.config, bin8, run.folder)
    alone = Page(written_run.folder.report.parent / name)
    together = Page(run.folder.report.parent / name)
    assert together.tables == alone.tables
    assert together.pictures == alone.pictures
