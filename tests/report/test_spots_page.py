"""The pages of artificial stars: from catalogs through the stage `spots` to what a person reads."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray
from synthetic_run import make_pages, write_run
from test_report import OUTSIDE, Page

from permil.camera import Camera, load_camera
from permil.config import Config
from permil.config.model import ReportConfig
from permil.config.spots import SpotsConfig
from permil.context import Run
from permil.errors import InputError
from permil.products import RunFolder, read_table
from permil.products.folder import SpotsFolder
from permil.report.spots.inputs import read_spots
from permil.spots.catalog import SpotCatalog, write_catalog
from permil.spots.grid import RigidGrid
from permil.spots.stage import run_spots

FloatArray = NDArray[np.float64]

SIDE, STEP, ANGLE = 15, 55.0, 0.2
DETECTOR, BAND = "R22_S11", "red"
DRIFT = 0.004
GROWTH = ([3.0, 12.0, 25.0], [0.5, 0.95, 1.0], [1e-3, 1e-4, 0.0])


def catalogs(
    rng: np.random.Generator,
    *,
    exposures: int,
    dither: float,
    band: str = BAND,
    structure: Callable[[FloatArray, FloatArray], FloatArray] = lambda x, _y: np.zeros_like(x),
    unstable: float = 0.0,
) -> list[SpotCatalog]:
    """Return catalogs of a mask whose spot (i, j) is shifted by 0.01 (j - 7) pixels along i; the lamp brightens by `DRIFT`.

    The sensor's throughput is ``1 + structure(x, y)``; fluxes scatter from exposure to exposure by ``unstable``, of which the errors in
    the catalogs say nothing.
    """
    i, j = (index.ravel() for index in np.indices((SIDE, SIDE)))
    flux = 10 ** rng.uniform(4.5, 6, i.size)
    found = []
    for number, scale in enumerate(np.linspace(1 - DRIFT / 2, 1 + DRIFT / 2, exposures)):
        x0, y0 = 511.5 + dither * rng.uniform(-1, 1, 2)
        place = RigidGrid(x0, y0, STEP, STEP, ANGLE, SIDE, SIDE).positions(i + 0.01 * (j - 7) ** 2 / STEP, j)
        measured = scale * flux * (1 + structure(*place.T)) + np.sqrt(flux) * rng.standard_normal(i.size)
        measured *= 1 + unstable * rng.standard_normal(i.size)
        noise = rng.standard_normal((5, i.size))
        inside = ((place > 20) & (place < 1003)).all(axis=1)
        error = np.full(i.size, 0.01)
        catalog = SpotCatalog(
            x=place[:, 0] + 0.01 * noise[0], y=place[:, 1] + 0.01 * noise[1],
            xx=5.0 + 0.01 * noise[2], yy=5.5 + 0.01 * noise[3], xy=0.01 * noise[4], flux=measured,
            x_err=error, y_err=error, xx_err=error, yy_err=error, xy_err=error, flux_err=np.sqrt(flux), grid_i=i, grid_j=j,
            detector=DETECTOR, exposure=f"{band or 'none'}{number:03d}", band=band, mjd=59000 + number / 1440, aperture=12.0,
        )  # fmt: skip
        found.append(catalog.select(inside))
    return found


def write_products(root: Path, camera: Camera, *groups: list[SpotCatalog], calibration: Path | None = None) -> RunFolder:
    """Run the stage `spots` on catalogs; all but the unnamed band have a growth curve."""
    folder = RunFolder(root)
    columns = [
        fits.Column(name, "D", array=np.array(entry)) for name, entry in zip(("radius", "fraction", "error"), GROWTH, strict=True)
    ]
    growth = fits.BinTableHDU.from_columns(columns, name="GROWTH")
    growth.header["REFRAD"], growth.header["NSPOTS"] = 25.0, 107
    paths = []
    for catalog in (entry for group in groups for entry in group):
        paths.append(SpotsFolder(root).catalog(DETECTOR, catalog.exposure))
        write_catalog(paths[-1], catalog, extensions=[growth] if catalog.band else [])
    options = SpotsConfig(
        catalogs=[str(path) for path in paths], columns=SIDE, rows=SIDE, cell_px=128, knot_px=256.0, rings=(-100.0, 50.0),
        ring_px=60.0, calibration=str(calibration or ""),
    )  # fmt: skip
    run_spots(Run(Config(spots=options), camera, folder))
    return folder


def report(folder: RunFolder, camera: Camera, **options: object) -> Path:
    config = Config(camera="spots-cutout", output=folder.root, report=ReportConfig(**options))
    return make_pages(config, camera, folder)


@pytest.fixture(scope="module")
def cutout() -> Camera:
    return load_camera("spots-cutout")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, cutout: Camera) -> RunFolder:
    """Return a run that holds spots only: one band at one place, one dithered without a name; tests must not change it."""
    rng = np.random.default_rng(5)
    groups = catalogs(rng, exposures=12, dither=0.2), catalogs(rng, exposures=12, dither=60.0, band="")
    folder = write_products(tmp_path_factory.mktemp("spots") / "run", cutout, *groups)
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


def test_there_is_a_page_for_each_detector_and_band(pages: dict[str, Page]) -> None:
    assert set(pages) == {"index.html", "spots/R22_S11_red.html", "spots/R22_S11.html"}
    for page in pages.values():
        for link in page.links:
            address, _, place = link.partition("#")
            target = (page.path.parent / address).resolve() if address else page.path
            assert target.is_file(), link
            assert not place or f'id="{place}"' in target.read_text(encoding="utf-8")
    assert {"spots/R22_S11_red.html", "spots/R22_S11.html"} <= set(pages["index.html"].links)
    assert "R22_S11.html" in pages["spots/R22_S11_red.html"].links


def fine_structure(x: FloatArray, y: FloatArray) -> FloatArray:
    """Return a throughput with a period of 50 pixels: much finer than knots 256 pixels apart."""
    return 0.004 * np.sin(2 * np.pi * x / 50) * np.sin(2 * np.pi * y / 50)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    ("options", "verdict", "words"),
    [
        ({"structure": fine_structure, "exposures": 40}, "pass", "Spots at the same position share"),
        ({"unstable": 0.004, "exposures": 20}, "fail", "Find the cause before using this calibration"),
    ],
)
def test_a_large_chi_square_is_explained_or_fails(
    tmp_path: Path, cutout: Camera, options: dict[str, Any], verdict: str, words: str
) -> None:
    group = catalogs(np.random.default_rng(21), dither=110.0, **options)
    folder = write_products(tmp_path / "run", cutout, group)
    index = Page(report(folder, cutout))
    rows = {row[0]: row[2:] for row in index.tables["verdict-table"][1:]}
    assert rows["unexplained scatter of fluxes (‰)"][0] == verdict
    assert ('class="badge no"' in index.text) == (verdict == "fail")
    page = Page(folder.report.parent / "spots" / "R22_S11_red.html")
    chi_square = float(page.body.split("have a chi-square of ")[1].split()[0])
    assert chi_square > 2
    assert words in page.body


def test_pages_need_nothing_from_elsewhere(pages: dict[str, Page]) -> None:
    for page in pages.values():
        assert all(picture.startswith("data:image/") for picture in page.pictures)
        assert not OUTSIDE.search(re.sub(r'src="data:[^"]*"', "", page.text))


def test_the_index_has_the_figures_of_the_summary(pages: dict[str, Page], made: RunFolder) -> None:
    index = pages["index.html"]
    heading, *rows = index.tables["spots-table"]
    found = {row[1]: dict(zip(heading, row, strict=True)) for row in rows}
    assert found["red"]["spots"] == "225"
    assert found["red"]["exposures"] == "12"
    drift, error = map(float, found["red"]["drift of the lamp, first to last (‰)"].split(" ± "))
    assert abs(drift - 1e3 * DRIFT) < 4 * error
    assert error < 0.2
    # Positions were drawn with errors of 0.01 pixels.
    assert float(found["red"]["scatter of dx (10⁻³ px)"].split(" ± ")[0]) == pytest.approx(10.0, rel=0.1)
    assert "Missing" not in index.body.replace("Missing: the resolved", "")
    summary = read_table(made.summary)
    assert set(summary["led"]) == {"red", "-"}
    row = summary[(summary["metric"] == "lamp_drift") & (summary["led"] == "red")][0]
    assert abs(row["value"] - DRIFT) < 4 * row["error"]


def test_the_page_of_exposures_at_one_place(pages: dict[str, Page]) -> None:
    page = pages["spots/R22_S11_red.html"]
    results = {row[0]: row[1:] for row in page.tables["result-table"][1:]}
    assert results["drift of the lamp, first to last"][0] == "‰"
    assert "repeatability" in page.ids
    assert "sqrt((XX + YY) / 2)" in page.body
    assert "squared length" in page.body
    assert "median of 107 bright spots" in page.body
    assert "only noise remains" in page.body
    assert [row[0] for row in page.tables["exposure-table"][1:]] == [f"red{number:03d}" for number in range(12)]
    steps = {row[3].split(" ± ")[0][:4] for row in page.tables["exposure-table"][1:]}
    assert steps <= {"55.0", "54.9"}
    assert "degeneracy-table" not in page.tables


def test_the_page_of_dithered_exposures(pages: dict[str, Page], cutout: Camera) -> None:
    page = pages["spots/R22_S11.html"]
    assert "repeatability" not in page.ids
    assert "a growth curve: only catalogs measured by permil have one" in page.body
    assert [row[0] for row in page.tables["degeneracy-table"][1:]] == ["x", "y"]
    amplifiers = page.tables["amplifier-table"][1:]
    assert [row[0] for row in amplifiers] == [amplifier.name for amplifier in cutout[DETECTOR].amplifiers]
    assert "Throughput of the sensor from the joint fit" in page.body


def test_spots_are_placed_as_the_catalog_has_them(made: RunFolder, cutout: Camera) -> None:
    products = read_spots(made, cutout[DETECTOR], BAND)
    assert products.calibration is not None
    assert products.reference is not None
    row = products.exposures[products.reference]
    catalog = fits.getdata(SpotsFolder(made.root).catalog(DETECTOR, str(row["exposure"])), "SPOTS")
    place, regular = products.calibration.places(row)
    assert np.allclose(
        place[catalog["grid_i"] * SIDE + catalog["grid_j"]], np.column_stack([catalog["x"], catalog["y"]]), atol=0.06
    )
    # The shift is along i, which is turned from x.
    shift = place - regular
    along, across = shift @ [np.cos(ANGLE), np.sin(ANGLE)], shift @ [-np.sin(ANGLE), np.cos(ANGLE)]
    rows = np.arange(SIDE * SIDE) % SIDE
    bend = 0.01 * (rows - 7.0) ** 2
    assert np.allclose(along, bend - bend.mean(), atol=0.02)
    assert np.allclose(across, 0.0, atol=0.02)


@pytest.mark.usefixtures("no_pictures")
def test_pages_that_are_up_to_date_are_left(run: RunFolder, cutout: Camera) -> None:
    paths = sorted(run.report.parent.rglob("*.html"))
    before = report(run, cutout) and {path: path.read_bytes() for path in paths}
    times = {path: path.stat().st_mtime_ns for path in paths}
    report(run, cutout)
    assert {path: path.stat().st_mtime_ns for path in paths} == times
    throughput = SpotsFolder(run.root).throughput(DETECTOR, BAND)
    with fits.open(throughput, mode="update") as hdus:
        hdus[0].header["FINGERPR"] = "abc"
    report(run, cutout)
    changed = [path.name for path in paths if path.read_bytes() != before[path]]
    assert changed == ["R22_S11_red.html"]
    stale = run.report.parent / "spots" / "R22_S10_red.html"
    stale.write_text("old", encoding="utf-8")
    report(run, cutout, detector_pages=False)
    assert not list(run.report.parent.glob("spots/*.html"))
    assert "spots/" not in "".join(Page(run.report).links)


@pytest.mark.usefixtures("no_pictures")
def test_exposures_left_out_are_named(run: RunFolder, cutout: Camera) -> None:
    table = Table({"exposure": ["red099"], "detector": [DETECTOR], "reason": ["it has no grid"]})
    table.write(SpotsFolder(run.root).left_out, format="ascii.ecsv")
    page = Page(report(run, cutout))
    assert "1 \N{MULTIPLICATION SIGN} it has no grid" in page.body
    assert "red099" in page.body


@pytest.mark.usefixtures("no_pictures")
def test_an_applied_calibration_leaves_its_pictures_out(made: RunFolder, tmp_path: Path, cutout: Camera) -> None:
    others = [
        replace(entry, exposure=f"other{number}")
        for number, entry in enumerate(catalogs(np.random.default_rng(5), exposures=3, dither=0.2))
    ]
    calibration = SpotsFolder(made.root).calibration(DETECTOR, BAND)
    folder = write_products(tmp_path / "run", cutout, others, calibration=calibration)
    # A calibration of an earlier run in this folder is not that of these exposures.
    shutil.copy(calibration, SpotsFolder(folder.root).calibration(DETECTOR, BAND))
    report(folder, cutout)
    page = Page(folder.report.parent / "spots" / "R22_S11_red.html")
    assert "calibration_R22_S11_red.fits was applied" in page.body
    assert "mean fluxes" not in page.body.lower()
    assert "median of 107 bright spots" in page.body


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("length", [2000, 20000])
def test_a_damaged_product_is_named(run: RunFolder, cutout: Camera, length: int) -> None:
    path = SpotsFolder(run.root).throughput(DETECTOR, BAND)
    path.write_bytes(path.read_bytes()[:length])
    (run.report.parent / "spots" / "R22_S11_red.html").unlink()
    with pytest.raises(InputError, match=r"throughput_R22_S11_red\.fits: (damaged|cannot be read as a product of spots)"):
        report(run, cutout)


@pytest.mark.usefixtures("no_pictures")
def test_flats_and_spots_share_an_index(made: RunFolder, tmp_path: Path, bin8: Camera) -> None:
    run = write_run(tmp_path / "run", bin8, leds=("red",), detectors=("R22_S11",))
    config = run.config.model_copy(update={"report": ReportConfig(detector_pages=False)})
    before = Page(make_pages(config, bin8, run.folder))
    assert "spots" not in before.ids
    shutil.copytree(made.root / "spots", run.folder.root / "spots")
    page = Page(make_pages(config, bin8, run.folder))
    assert {"spots", "led-red", "verdicts"} <= set(page.ids)
