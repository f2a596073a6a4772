"""The content of the page that compares stars with the flat, of its section in the index page, and its rows of the summary."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from permil.camera import Detector
from permil.compare.comparison import WHOLE
from permil.flat.metrics import WHOLE_DETECTOR
from permil.report.compare_inputs import CompareProducts, CompareRun, number, text
from permil.report.compare_pictures import (
    chance_pictures,
    fraction_picture,
    headline,
    map_pictures,
    ring_picture,
    scale_picture,
    scatter_picture,
)
from permil.report.compare_tables import (
    GROUP_HEADINGS,
    fraction_table,
    group_cells,
    headline_table,
    level_reasons,
    level_table,
    method_table,
    pair_table,
    slope_table,
    total_fractions,
    verdict_table,
    whole_rows,
)
from permil.report.compare_words import (
    amplifier_words,
    chance_words,
    correlation_words,
    plain_sentence,
    ring_words,
    slope_words,
)
from permil.report.inputs import provenance_cards
from permil.report.pages import ComparePage, CompareSection, Grid, Link, Picture, grid, text_cell
from permil.report.quantities import MISSING, QUANTITIES, format_count
from permil.report.spots_page import group_name
from permil.report.summary import Measurement

_REFERENCES = {"amplifier": "mean of its amplifier", "detector": "mean of the detector"}
_EXPECTED_TABLES = {
    "CORRELATIONS": "the table of correlations (CORRELATIONS)",
    "NULL": "correlations of maps without relation (NULL)",
    "BLOCKS": "the error against the size of blocks (BLOCKS)",
    "HYPOTHESES": "fractions and slopes (HYPOTHESES)",
    "VERDICTS": "what dividing by the flat does (VERDICTS)",
}


@dataclass(frozen=True)
class _Headline:
    """The part of a page that stands on the correlation of single stars."""

    words: tuple[str, ...] = ()
    table: Grid | None = None
    methods: Grid | None = None
    pictures: tuple[Picture, ...] = ()


def compare_page(
    products: CompareProducts,
    detector: Detector,
    band: str,
    *,
    home: Link,
    others: Sequence[Link],
    fingerprint: str,
) -> ComparePage:
    """Return the content of the page of one detector and band.

    Parameters
    ----------
    home, others
        Links to the index and to related pages.
    """
    absent = [words for name, words in _EXPECTED_TABLES.items() if name not in products.tables]
    top = _headline(products)
    verdicts = products.rows("VERDICTS", region=WHOLE)
    cards = {str(card.keyword): float(card.value) for card in products.header.cards if isinstance(card.value, int | float)}
    rings = ring_picture(products)
    return ComparePage(
        title=f"{group_name(detector.name, band)}, stars against flat - permil",
        detector=detector.name,
        band=band,
        facts=_facts(products, detector, band),
        sentence=plain_sentence(text(verdicts[0], "sentence")) if verdicts else "",
        words=top.words,
        headline=top.table,
        scatter=scatter_picture(products, absent),
        maps=tuple(map_pictures(products, absent)),
        scales=scale_picture(products),
        chance=top.pictures,
        methods=top.methods,
        fraction_picture=fraction_picture(products),
        fractions=fraction_table(products),
        slopes=slope_table(products),
        verdicts=verdict_table(products),
        silent=tuple((text(row, "of"), plain_sentence(text(row, "reason"))) for row in products.rows("SILENT")),
        amplifiers=amplifier_words(cards),
        rings=ring_words(cards, found=rings is not None),
        ring_picture=rings,
        pairs=pair_table(products),
        provenance=grid(
            ("card", "content", "meaning"),
            [[text_cell(part) for part in card] for card in provenance_cards(products.header)],
            text_columns=3,
        ),
        absent=tuple(absent),
        home=home,
        others=tuple(others),
        fingerprint=fingerprint,
    )


def compare_section(run: CompareRun, address: Callable[[str, str], str]) -> CompareSection:
    """Return the section of the index page; ``address`` is that of the page of a detector and band, "" without pages."""
    rows, sentences, reasons = [], [], []
    for detector, band in run.groups:
        first = whole_rows(run.correlations, detector, band, quantity="flux", cell=0)
        verdicts = whole_rows(run.verdicts, detector, band)
        cells = group_cells(first, total_fractions(run.hypotheses, detector, band), verdicts)
        rows.append((text_cell(detector, link=address(detector, band)), text_cell(band or MISSING), *cells))
        name = group_name(detector, band)
        sentences += [(name, plain_sentence(text(row, "sentence"))) for row in verdicts if text(row, "sentence")]
        reasons += [
            (name, text(row, "reason")) for row in first if text(row, "reason") and not math.isfinite(number(row, "p_value"))
        ]
    content = grid(("detector", "band", *GROUP_HEADINGS), rows, text_columns=2)
    numeric = tuple(name != GROUP_HEADINGS[-1] and flag for name, flag in zip(content.headings, content.numeric, strict=True))
    return CompareSection(
        groups=Grid(content.headings, content.rows, numeric),
        sentences=tuple(sentences),
        no_chance=tuple(reasons),
        levels=level_table(run.levels),
        not_told_apart=level_reasons(run.levels),
    )


def compare_measurements(run: CompareRun) -> list[Measurement]:
    """Return the headline figures of all detectors and bands; what is NaN was not found and is left out."""
    found = []
    for detector, band in run.groups:
        figures = []
        for row in whole_rows(run.correlations, detector, band, quantity="flux", cell=0):
            figures += [
                ("correlation", number(row, "r"), number(row, "r_err")),
                ("correlation_without_noise", number(row, "r_corrected"), number(row, "r_corrected_err")),
                ("flux_slope", number(row, "slope"), number(row, "slope_err")),
            ]
        for row in total_fractions(run.hypotheses, detector, band):
            figures.append((f"fraction_{text(row, 'of').replace(' ', '_')}", number(row, "value"), number(row, "error")))
        for row in whole_rows(run.verdicts, detector, band):
            figures.append(("flux_scatter_change", number(row, "change"), number(row, "change_err")))
        found += [
            Measurement(metric, band, value, error, detector, WHOLE_DETECTOR)
            for metric, value, error in figures
            if metric in QUANTITIES and math.isfinite(value)
        ]
    return found


def _headline(products: CompareProducts) -> _Headline:
    row = headline(products)
    if row is None:
        return _Headline()
    coarser = [entry for entry in products.rows("CORRELATIONS", quantity="flux", region=WHOLE) if number(entry, "cell") > 0]
    words = (
        correlation_words(row, float(products.header.get("NSTARS", math.nan))),
        chance_words(row, coarser),
        slope_words(row, divided=bool(products.header.get("FLATFLD", False))),
    )
    return _Headline(
        words=tuple(sentence for sentence in words if sentence),
        table=headline_table(row),
        methods=method_table(row),
        pictures=tuple(chance_pictures(products, row)),
    )


def _facts(products: CompareProducts, detector: Detector, band: str) -> tuple[tuple[str, str], ...]:
    header = products.header

    def shown(card: str, unit: str = "") -> str:
        content = header.get(card)
        return MISSING if content is None else f"{content:g}{unit}" if isinstance(content, float) else f"{content}{unit}"

    compared, lost = header.get("NSTARS"), header.get("NLOST")
    stars = MISSING if compared is None else format_count(int(compared)) + (f" ({lost} left out)" if lost else "")
    reference = str(header.get("REFERENC", ""))
    return (
        ("sensor", f"{detector.serial}, {detector.kind}"),
        ("band of the stars", band or MISSING),
        ("LED of the flat", shown("LED")),
        ("exposures of stars", shown("NEXPOSUR")),
        ("measurements of stars", stars),
        ("structure taken off above", shown("HIGHPASS", " pixels (sigma)")),
        ("cells of the maps", f"{products.cell} pixels"),
        ("flat is relative to", _REFERENCES.get(reference, reference or MISSING)),
        ("stars divided by the flat", {True: "yes", False: "no"}.get(header.get("FLATFLD"), MISSING)),
        ("seed", shown("SEED")),
    )
