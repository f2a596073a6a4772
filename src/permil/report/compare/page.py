"""The pages that compare stars with flats and their section of the index page: dependencies and content."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from permil.camera import Detector
from permil.compare.comparison import WHOLE
from permil.products import RunFolder
from permil.products.folder import CompareFolder
from permil.report.compare.efficiency import choice_measurements, choice_table, efficiency_part, efficiency_source, read_choices
from permil.report.compare.figures import (
    chance_pictures,
    fraction_picture,
    map_pictures,
    ring_picture,
    scale_picture,
    scatter_picture,
)
from permil.report.compare.inputs import (
    CompareProducts,
    CompareTables,
    headline,
    read_compare_tables,
    read_comparison,
)
from permil.report.compare.sensors_page import sensors_page, sensors_path
from permil.report.compare.text import (
    amplifier_text,
    chance_text,
    compare_measurements,
    correlation_text,
    facts,
    fraction_table,
    group_sentences,
    group_table,
    headline_sentence,
    headline_table,
    level_reasons,
    level_tables,
    method_table,
    missing_chances,
    pair_table,
    plain_sentence,
    ring_text,
    slope_table,
    slope_text,
    verdict_table,
)
from permil.report.kit.elements import header_grid, number_in, text_in
from permil.report.kit.pages import (
    Declaration,
    IndexSection,
    Page,
    PageKind,
    group_addresses,
    group_links,
    group_name,
    group_path,
    index_address,
    render,
)
from permil.report.kit.run import RunProducts

_EXPECTED_TABLES = {
    "CORRELATIONS": "the table of correlations (CORRELATIONS)",
    "NULL": "correlations of unrelated maps (NULL)",
    "BLOCKS": "the error against the size of blocks (BLOCKS)",
    "HYPOTHESES": "fractions and slopes (HYPOTHESES)",
    "VERDICTS": "the effect of dividing by the flat (VERDICTS)",
}


def compare_pages(run: RunProducts) -> list[Page]:
    """Return one page for each detector and band with a comparison."""
    tables = read_compare_tables(run.folder)
    if tables is None:
        return []
    groups = tuple(tables.groups)
    options = {"camera": run.config.camera, "groups": groups}
    pages = []
    for detector, band in groups:
        make = partial(make_compare_page, run.folder, groups, run.camera[detector], band)
        efficiency = efficiency_source(run.folder, detector, band)
        sources = (CompareFolder(run.folder.root).comparison(detector, band), *([] if efficiency is None else [efficiency]))
        pages.append(Page(sources, options, make, group_path(run.folder, COMPARE_PAGES.folder, detector, band)))
    together = sensors_page(run, COMPARE_PAGES.folder)
    return [*pages, together] if together is not None else pages


def make_compare_page(
    folder: RunFolder, groups: Sequence[tuple[str, str]], detector: Detector, band: str, fingerprint: str
) -> str:
    """Return the page of one detector and band as HTML.

    Parameters
    ----------
    groups
        All detectors and bands of the run.

    Raises
    ------
    InputError
        If the comparison is missing or cannot be read.
    """
    products = read_comparison(CompareFolder(folder.root).comparison(detector.name, band))
    absent = [name for table, name in _EXPECTED_TABLES.items() if table not in products.tables]
    verdicts = products.rows("VERDICTS", region=WHOLE)
    cards = {str(card.keyword): float(card.value) for card in products.header.cards if isinstance(card.value, int | float)}
    first, rings = headline(products), ring_picture(products)
    efficiency = efficiency_part(folder, detector.name, band)
    return render(
        "compare/page.html",
        fingerprint=fingerprint,
        title=f"{group_name(detector.name, band)}, stars against flat - permil",
        links=group_links(folder, COMPARE_PAGES.folder, (detector.name, band), groups, home="all detectors and bands"),
        detector=detector.name,
        band=band,
        facts=facts(products, detector, band),
        sentence=headline_sentence(efficiency.sentence if efficiency else "", verdicts),
        correlation=_correlation_texts(products),
        headline=headline_table(first) if first is not None else None,
        scatter=scatter_picture(products, absent),
        maps=map_pictures(products, absent),
        absent=absent,
        scales=scale_picture(products),
        chance=chance_pictures(products, first) if first is not None else (),
        methods=method_table(first) if first is not None else None,
        fraction_picture=fraction_picture(products),
        fractions=fraction_table(products),
        slopes=slope_table(products),
        verdicts=verdict_table(products),
        efficiency=efficiency,
        silent=[(text_in(row, "of"), plain_sentence(text_in(row, "reason"))) for row in products.rows("SILENT")],
        amplifiers=amplifier_text(cards),
        rings=ring_text(cards, found=rings is not None),
        ring_picture=rings,
        pairs=pair_table(products),
        header=header_grid(products.header),
    )


def declare_section(run: RunProducts) -> Declaration | None:
    """Declare the section of the index page, None if the run compares no stars with flats."""
    tables = read_compare_tables(run.folder)
    if tables is None:
        return None
    products = CompareFolder(run.folder.root)
    sources = (
        products.correlations, products.hypotheses, products.verdicts, products.levels, products.sensors, products.efficiency,
    )  # fmt: skip
    return Declaration(sources, {}, partial(make_section, run, tables))


def make_section(run: RunProducts, tables: CompareTables) -> IndexSection:
    """Return the section of the index page."""
    choices = read_choices(run.folder)
    return IndexSection(
        anchor="compare",
        link="Stars against flats",
        subject="stars against flats",
        heading="Do the stars see what the flat sees?",
        content=render(
            "compare/section.html",
            together=_together(run),
            sentences=group_sentences(tables, {(choice.detector, choice.band): choice.sentence for choice in choices}),
            groups=group_table(tables, group_addresses(run, COMPARE_PAGES.folder, tables.groups)),
            choices=choice_table(choices),
            no_chance=missing_chances(tables),
            levels=level_tables(tables.levels),
            not_separated=level_reasons(tables.levels),
        ),
        measurements=[*compare_measurements(tables), *choice_measurements(choices)],
    )


def _together(run: RunProducts) -> str:
    """Return the address of the page of many sensors, "" without it."""
    products = CompareFolder(run.folder.root)
    return (
        index_address(run.config, run.folder, sensors_path(run.folder, COMPARE_PAGES.folder))
        if products.sensors.is_file()
        else ""
    )


def _correlation_texts(products: CompareProducts) -> list[str]:
    """Return the sentences about correlation, significance and slope of single stars, none without a correlation."""
    row = headline(products)
    if row is None:
        return []
    coarser = [entry for entry in products.rows("CORRELATIONS", quantity="flux", region=WHOLE) if number_in(entry, "cell") > 0]
    sentences = (
        correlation_text(row, float(products.header.get("NSTARS", math.nan))),
        chance_text(row, coarser),
        slope_text(row, divided=bool(products.header.get("FLATFLD", False))),
    )
    return [sentence for sentence in sentences if sentence]


COMPARE_PAGES = PageKind("compare", "pages of stars against flats", compare_pages, section=declare_section)
