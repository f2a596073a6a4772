"""The pages of artificial stars and their section of the index page: dependencies and content."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from permil.camera import Detector
from permil.config.model import ReportConfig
from permil.products import RunFolder
from permil.report.kit.elements import Link, header_grid, reason_lists
from permil.report.kit.pages import (
    Declaration,
    IndexSection,
    Page,
    PageKind,
    group_addresses,
    group_links,
    group_name,
    group_path,
    relative_address,
    render,
)
from permil.report.kit.run import RunProducts
from permil.report.spots.figures import lamp_picture, mask_pictures, repeatability_picture, sensor_pictures
from permil.report.spots.inputs import SpotsTables, read_spots, read_spots_tables
from permil.report.spots.text import (
    amplifier_table,
    degeneracy_table,
    excess_text,
    exposure_table,
    facts,
    group_table,
    result_table,
    spots_measurements,
)
from permil.spots.folder import SpotsFolder


@dataclass(frozen=True)
class SpotsRequest:
    """The page of one detector and band."""

    folder: RunFolder
    tables: SpotsTables
    detector: Detector
    band: str
    limits: ReportConfig


def spots_pages(run: RunProducts) -> list[Page]:
    """Return one page for each detector and band with artificial stars."""
    tables = read_spots_tables(run.folder)
    if tables is None:
        return []
    spots, limits = SpotsFolder(run.folder.root), run.config.report
    options = {"camera": run.config.camera, "groups": tables.groups, "limits": limits.model_dump(mode="json")}
    pages = []
    for detector, band in tables.groups:
        products = (path(detector, band) for path in (spots.residuals, spots.throughput, spots.calibration))
        request = SpotsRequest(run.folder, tables, run.camera[detector], band, limits)
        path = group_path(run.folder, SPOTS_PAGES.folder, detector, band)
        pages.append(Page((spots.summary, *products), options, partial(make_spots_page, request), path))
    return pages


def make_spots_page(request: SpotsRequest, fingerprint: str) -> str:
    """Return the page of one detector and band as HTML.

    Raises
    ------
    InputError
        If a product is missing or cannot be read.
    """
    folder, detector, band = request.folder, request.detector, request.band
    products = read_spots(folder, detector, band)
    results = request.tables.rows(detector.name, band)
    degeneracy = products.calibration.degeneracy if products.calibration is not None else None
    absent: list[str] = []
    return render(
        "spots/page.html",
        fingerprint=fingerprint,
        title=f"{group_name(detector.name, band)}, artificial stars - permil",
        links=_links(request),
        detector=detector.name,
        band=band,
        facts=facts(products, detector),
        results=result_table(results, request.limits),
        excess=excess_text(results, request.limits),
        mask=mask_pictures(products, detector, absent),
        absent=absent,
        sensor=sensor_pictures(products, detector),
        amplifiers=amplifier_table(products.amplifiers),
        repeatability=repeatability_picture(products),
        lamp=lamp_picture(products),
        degeneracy=degeneracy_table(degeneracy) if degeneracy is not None else None,
        exposures=exposure_table(products.exposures),
        header=header_grid(products.header),
    )


def declare_section(run: RunProducts) -> Declaration | None:
    """Declare the section of the index page, None if the run has no artificial stars."""
    tables = read_spots_tables(run.folder)
    if tables is None:
        return None
    spots, options = SpotsFolder(run.folder.root), {"limits": run.config.report.model_dump(mode="json")}
    return Declaration((spots.summary, spots.left_out), options, partial(make_section, run, tables))


def make_section(run: RunProducts, tables: SpotsTables) -> IndexSection:
    """Return the section of the index page."""
    return IndexSection(
        anchor="spots",
        link="Artificial stars",
        subject="artificial stars",
        heading="Artificial stars",
        content=render(
            "spots/section.html",
            groups=group_table(tables, group_addresses(run, SPOTS_PAGES.folder, tables.groups), run.config.report),
            left_out=reason_lists(tables.left_out, column="exposure"),
        ),
        measurements=spots_measurements(tables),
    )


def _links(request: SpotsRequest) -> list[Link]:
    own, folder = (request.detector.name, request.band), request.folder
    home = relative_address(group_path(folder, SPOTS_PAGES.folder, *own), folder.report)
    return [Link("all artificial stars", f"{home}#spots"), *group_links(folder, SPOTS_PAGES.folder, own, request.tables.groups)]


SPOTS_PAGES = PageKind("spots", "pages of artificial stars", spots_pages, section=declare_section)
