"""A new kind of pages is one entry of the registry: its pages are written, skipped, removed, and linked from the index page."""

from __future__ import annotations

from functools import partial

import pytest
from markupsafe import Markup
from synthetic_run import SyntheticRun, make_pages
from test_report import Page as ParsedPage

from permil.camera import Camera
from permil.products import read_table
from permil.report import registry
from permil.report.kit.elements import Link
from permil.report.kit.pages import (
    Declaration,
    IndexPart,
    LedContext,
    LedProducts,
    Page,
    PageKind,
    RunProducts,
    index_address,
    page_path,
    relative_address,
    render,
)
from permil.report.kit.results import Measurement


def _html(run: RunProducts, led: str, fingerprint: str) -> str:
    home = Link("index", relative_address(page_path(run.folder, "toys", led), run.folder.report))
    return render("product.html", fingerprint=fingerprint, title=led, links=[home], facts=[("LED", led)])


def _pages(run: RunProducts) -> list[Page]:
    return [
        Page((run.folder.metrics(led.led),), {}, partial(_html, run, led.led), page_path(run.folder, "toys", led.led))
        for led in run.leds
    ]


def _block(run: RunProducts, led: LedProducts) -> Declaration:
    return Declaration((run.folder.metrics(led.led),), {}, _make_block)


def _make_block(context: LedContext) -> IndexPart:
    address = index_address(context.config, context.folder, page_path(context.folder, "toys", context.products.led))
    return IndexPart(Markup('<p><a href="{}">toy</a></p>').format(address))


def _section(run: RunProducts) -> Declaration:
    return Declaration((run.folder.comparison,), {}, _make_section)


def _make_section() -> IndexPart:
    found = [Measurement("spots", "red", 12.0, 0.0)]
    return IndexPart(Markup("<p>Twelve.</p>"), found)


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> PageKind:
    """Return a kind of pages that is in the registry during a test."""
    kind = PageKind("toys", "toys", _pages, led_block=_block, section=_section, link="Toys & tools", heading="All toys")
    monkeypatch.setattr(registry, "PAGE_KINDS", (*registry.PAGE_KINDS, kind))
    return kind


@pytest.mark.usefixtures("no_pictures")
def test_one_entry_makes_a_kind_of_pages(run: SyntheticRun, bin8: Camera, toys: PageKind) -> None:
    make_pages(run.config, bin8, run.folder)
    folder = run.folder.report.parent / "toys"
    pages = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert set(pages) == {"red.html", "nm960.html"}
    assert ParsedPage(folder / "red.html").links == ["../index.html"] * 2
    index = ParsedPage(run.folder.report)
    assert {"toys/red.html", "toys/nm960.html", "#toys"} <= set(index.links)
    assert "composite flat field · toys & tools" in index.body
    assert "Twelve." in index.body
    assert 12.0 in read_table(run.folder.summary)["value"]

    # What has not changed is skipped; what the run has no longer is removed.
    make_pages(run.config, bin8, run.folder)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == pages
    for path in (run.folder.beam("nm960"), *(run.folder.root / "flat" / "nm960").rglob("*.*")):
        path.unlink()
    (run.folder.root / "flat" / "nm960").rmdir()
    make_pages(run.config, bin8, run.folder)
    assert [path.name for path in folder.iterdir()] == ["red.html"]
    assert "toys/nm960.html" not in ParsedPage(run.folder.report).links


def test_folders_of_kinds_differ() -> None:
    folders = [kind.folder for kind in registry.PAGE_KINDS]
    assert len(set(folders)) == len(folders)


@pytest.mark.usefixtures("no_pictures")
def test_without_pages_the_index_links_to_none(run: SyntheticRun, bin8: Camera, toys: PageKind) -> None:
    few = run.config.model_copy(update={"report": run.config.report.model_copy(update={"detector_pages": False})})
    index = ParsedPage(make_pages(few, bin8, run.folder))
    assert not any(link.startswith("toys/") for link in index.links)
    assert not list((run.folder.report.parent / "toys").rglob("*.html"))
