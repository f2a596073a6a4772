"""The page of colour and its section of the index page: dependencies and content."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from permil.camera import shared_camera
from permil.config import Config
from permil.products import RunFolder
from permil.products.folder import ColourFolder
from permil.report.colour.figures import ratio_pictures, response_picture, variance_picture
from permil.report.colour.inputs import colour_sources, read_tables
from permil.report.colour.text import (
    amplifier_table,
    colour_measurements,
    correlation_summary,
    detector_table,
    facts,
    gradient_rule,
    gradient_table,
    headline,
    linearity_sentences,
    variance_table,
    vendor_table,
    wave_table,
)
from permil.report.kit.elements import Link
from permil.report.kit.pages import Declaration, IndexSection, Page, PageKind, index_address, page_path, relative_address, render
from permil.report.kit.run import RunProducts


@dataclass(frozen=True)
class ColourRequest:
    """The page of one run."""

    config: Config
    folder: RunFolder


def colour_path(folder: RunFolder) -> Path:
    """Return the path of the page."""
    return page_path(folder, "colour")


def colour_pages(run: RunProducts) -> list[Page]:
    """Return the page of a run, none without the colour."""
    declared = _declared(run)
    if declared is None:
        return []
    sources, options = declared
    return [Page(sources, options, partial(make_page, ColourRequest(run.config, run.folder)), colour_path(run.folder))]


def make_page(request: ColourRequest, fingerprint: str) -> str:
    """Return the page as HTML.

    Raises
    ------
    InputError
        If a product cannot be read.
    """
    tables = read_tables(request.folder, shared_camera(request.config.camera), with_maps=True)
    home = relative_address(colour_path(request.folder), request.folder.report)
    return render(
        "colour/page.html",
        fingerprint=fingerprint,
        title="Colour of the flats - permil",
        links=[Link("all results", f"{home}#colour")],
        facts=facts(tables),
        sentence=headline(tables),
        response=response_picture(tables),
        vendors=vendor_table(tables),
        detectors=detector_table(tables),
        amplifiers=amplifier_table(tables),
        maps=ratio_pictures(tables),
        gradients=gradient_table(tables),
        rule=gradient_rule(),
        linearity=linearity_sentences(tables),
        variance_picture=variance_picture(tables),
        variances=variance_table(tables),
        correlations=correlation_summary(tables),
        shortest=tables.label(tables.leds[0]),
        waves=wave_table(tables),
    )


def declare_section(run: RunProducts) -> Declaration | None:
    """Declare the section of the index page, None without the colour."""
    declared = _declared(run)
    if declared is None:
        return None
    sources, options = declared
    return Declaration(sources, options, partial(make_section, run))


def make_section(run: RunProducts) -> IndexSection:
    """Return the section of the index page."""
    tables = read_tables(run.folder, run.camera, with_maps=False)
    content = render(
        "colour/section.html",
        sentence=headline(tables),
        vendors=vendor_table(tables),
        address=index_address(run.config, run.folder, colour_path(run.folder)),
    )
    return IndexSection(
        anchor="colour",
        link="Colour",
        subject="colour",
        heading="The flat against wavelength",
        content=content,
        measurements=colour_measurements(tables),
    )


def _declared(run: RunProducts) -> tuple[tuple[Path, ...], dict[str, object]] | None:
    """Return sources and options of the page, None without the colour."""
    leds = run.camera.sorted_leds(led.led for led in run.leds)
    names, maps = colour_sources(run.folder, leds)
    if not names:
        return None
    products = ColourFolder(run.folder.root)
    sources = (*(products.table(name) for name in names), *(products.ratio(*pair) for pair in maps))
    return sources, {"camera": run.config.camera, "maps": maps}


COLOUR_PAGES = PageKind("colour", "page of colour", colour_pages, section=declare_section)
