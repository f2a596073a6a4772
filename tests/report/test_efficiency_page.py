"""The efficiency flat on the pages that compare stars with flats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from synthetic_comparison import CHOICE, scatter_rows, write_choice, write_comparison, write_tables
from synthetic_run import make_pages
from test_report import Page

from permil.camera import Camera, load_camera
from permil.config import Config
from permil.errors import InputError
from permil.products import RunFolder, read_table, write_image
from permil.products.fits import image_of_cells
from permil.report.compare.efficiency import choice_measurements, choice_table, efficiency_part, read_choices

DETECTOR, BAND = "R22_S11", "red"
SHAPE = (1024, 1024)
SHOWN = CHOICE.replace("-0.496 +- 0.044 per mil", "\N{MINUS SIGN}0.496 ± 0.044 ‰")
PLAIN_EFFECT = "Dividing by the plain flat lowers the scatter of star fluxes here"


def filter_rows() -> list[dict[str, object]]:
    return [
        {
            "component": component, "region": "whole detector", "shortest": low, "longest": high, "efficiency": 0.6,
            "efficiency_err": 0.02, "weight": 0.6 if low else 1.0, "measured": low > 0,
        }
        for component in ("other", "rings")
        for low, high in ((0.0, 7.0), (7.0, 16.0), (16.0, 32.0), (32.0, np.inf))
    ]  # fmt: skip


def write_efficiency_product(folder: RunFolder, *, leave_out: str = "", use: str = "efficiency flat") -> None:
    """Write an efficiency flat, its plain flat and the table of the run."""
    rng = np.random.default_rng(0)
    image, mask, variance = 1 + 1e-3 * rng.standard_normal(SHAPE), np.zeros(SHAPE, dtype=np.int32), np.full(SHAPE, 1e-6)
    write_image(folder.flat("red", DETECTOR), image, mask, variance, header={"DETECTOR": DETECTOR, "LED": "red"})
    header = {
        "DETECTOR": DETECTOR, "LED": "red", "CHOICE": CHOICE, "SHIFTERR": 0.0123, "NLEFTOUT": 3210, "NLEFTEXP": 12,
        "NPARTS": 3, "DITHSPAN": 65.4, "PLAINFRA": 0.125,
    }  # fmt: skip
    header.pop(leave_out, None)
    extensions = [image_of_cells(name, rng.standard_normal((256, 256)), 4, "pixel") for name in ("SHIFT_X", "SHIFT_Y")]
    extensions += [
        fits.BinTableHDU(Table(rows=rows), name=name) for name, rows in (("FILTER", filter_rows()), ("SCATTER", scatter_rows()))
    ]
    kept = [extension for extension in extensions if extension.name != leave_out]
    write_image(
        folder.efficiency_flat("red", DETECTOR), image, mask, variance, header=header, extensions=kept, planes={"PLAIN_FLAT": 7}
    )
    write_choice(folder.root, DETECTOR, BAND, use=use)


def comparison_in(root: Path) -> RunFolder:
    """Write the products of a comparison into a run's folder, and return it."""
    write_comparison(root, DETECTOR, BAND)
    write_tables(root, ((DETECTOR, BAND),))
    return RunFolder(root)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return comparison_in(tmp_path / "run")


@pytest.fixture(scope="module")
def cutout() -> Camera:
    return load_camera("spots-cutout")


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory, cutout: Camera) -> RunFolder:
    """Return a run with an efficiency flat, and its pages; tests must not change it."""
    folder = comparison_in(tmp_path_factory.mktemp("efficiency") / "run")
    write_efficiency_product(folder)
    make_pages(Config(camera="spots-cutout", output=folder.root), cutout, folder)
    return folder


def test_page_says_which_flat_to_use(chosen: RunFolder) -> None:
    folder = chosen
    page = (folder.report.parent / "compare" / f"{DETECTOR}_{BAND}.html").read_text(encoding="utf-8")
    assert page.count(SHOWN) == 2
    assert PLAIN_EFFECT not in page
    assert "best possible with a filter of this flat (expected)" in page
    assert "3210 measurements of 12 exposures" in page
    assert "12.5 %" in page
    assert "0.012 pixels per axis" in page
    assert Page(folder.report.parent / "compare" / f"{DETECTOR}_{BAND}.html").body
    start = folder.report.read_text(encoding="utf-8")
    assert "Which flat to use" in start
    assert start.count(SHOWN) == 1
    assert PLAIN_EFFECT not in start
    table = choice_table(read_choices(folder))
    assert table is not None
    (row,) = table.rows
    assert [cell.text for cell in row] == [
        DETECTOR, BAND, "efficiency flat", "plain flat", "2.500 ± 0.020", "2.200 ± 0.020", "1.700 ± 0.020", "1.600 ± 0.050",
        "1.000 ± 0.010", "\N{MINUS SIGN}0.496 ± 0.044", "1.50 ± 0.10",
    ]  # fmt: skip


def test_summary_and_facts_have_the_choice(chosen: RunFolder, folder: RunFolder) -> None:
    summary = {str(row["metric"]): row for row in read_table(chosen.summary) if row["detector"] == DETECTOR}
    expected = {
        "left_out_scatter_undivided": (2.5e-3, 2e-5), "left_out_scatter_plain_flat": (2.2e-3, 2e-5),
        "left_out_scatter_efficiency_flat": (1.7e-3, 2e-5), "left_out_scatter_best_filter": (1.6e-3, 5e-5),
        "left_out_scatter_noise": (1e-3, 1e-5), "efficiency_flat_minus_plain_flat": (-4.96e-4, 4.4e-5),
        "efficiency_flat_left_in_sky": (1.5e-3, 1e-4), "flat_for_fluxes": (2.0, 0.0), "flat_for_sky": (1.0, 0.0),
    }  # fmt: skip
    for metric, (value, error) in expected.items():
        assert (summary[metric]["value"], summary[metric]["error"]) == (value, error), metric
        assert (summary[metric]["led"], summary[metric]["amp"], summary[metric]["pass"]) == (BAND, "all", "-")
    write_efficiency_product(folder, use="undecided")
    undecided = {entry.metric: entry.number for entry in choice_measurements(read_choices(folder))}
    assert np.isnan(undecided["flat_for_fluxes"])
    assert undecided["flat_for_sky"] == 1.0


@pytest.mark.usefixtures("no_pictures")
def test_pages_without_an_efficiency_flat(folder: RunFolder, cutout: Camera) -> None:
    make_pages(Config(camera="spots-cutout", output=folder.root), cutout, folder)
    page = (folder.report.parent / "compare" / f"{DETECTOR}_{BAND}.html").read_text(encoding="utf-8")
    assert "Which flat to use" not in page
    assert efficiency_part(folder, DETECTOR, BAND) is None
    assert PLAIN_EFFECT in page
    assert "Without an efficiency flat, the best possible is not known." in page
    assert read_choices(folder) == []
    assert choice_table([]) is None


@pytest.mark.parametrize("missing", ["FILTER", "SHIFT_X", "CHOICE", "DITHSPAN"])
def test_incomplete_products(folder: RunFolder, missing: str) -> None:
    write_efficiency_product(folder, leave_out=missing)
    with pytest.raises(InputError, match=f"{missing} is missing"):
        efficiency_part(folder, DETECTOR, BAND)


def test_maps_without_displacement_have_no_picture_of_it(folder: RunFolder) -> None:
    write_efficiency_product(folder)
    whole = efficiency_part(folder, DETECTOR, BAND)
    write_efficiency_product(folder, leave_out="SHIFTERR")
    part = efficiency_part(folder, DETECTOR, BAND)
    assert whole is not None
    assert part is not None
    assert len(part.pictures) == len(whole.pictures) - 1 == 3
