"""Elements of a page: tables of results and others, pictures, links, lists of files by reason."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from astropy.table import Table
from markupsafe import Markup
from matplotlib.figure import Figure

from permil.config.model import ReportConfig
from permil.report.kit.figures import embedded, png, svg
from permil.report.kit.results import (
    MISSING,
    NO,
    OPEN,
    QUANTITIES,
    YES,
    Measurement,
    format_count,
    format_measurement,
    judge,
    specification,
    with_minus,
)

_MOST_PATHS = 50
_STRUCTURAL_CARDS = {"SIMPLE", "BITPIX", "NAXIS", "EXTEND", "CHECKSUM", "DATASUM", "COMMENT", "HISTORY", ""}


@dataclass(frozen=True)
class Cell:
    """One cell of a table: its text, the key that sorts it, the verdict that marks it (no or open), the address it links to."""

    text: str
    key: float | str = ""
    verdict: str = ""
    link: str = ""

    def attributes(self, is_numeric: bool) -> Markup:
        """Return the attributes of the cell in HTML: its class, and its key unless that is the text."""
        classes = ["number"] * is_numeric + [self.verdict] * (self.verdict in ("no", "open"))
        key = f"{self.key:.7g}" if isinstance(self.key, float) else str(self.key)
        return Markup("").join(
            Markup(' {}="{}"').format(name, content)
            for name, content, is_given in (("class", " ".join(classes), classes), ("data-key", key, key != self.text))
            if is_given
        )


@dataclass(frozen=True)
class Grid:
    """A table of a page; ``numeric`` marks columns aligned to the right."""

    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numeric: tuple[bool, ...]


@dataclass(frozen=True)
class Picture:
    """A picture, embedded in ``address`` or drawn by ``markup``, with its caption."""

    address: str
    caption: str
    narrow: bool = False
    markup: Markup | str = ""


@dataclass(frozen=True)
class Link:
    """A link; ``relation`` is its HTML relation (prev, next), "" for none."""

    text: str
    address: str
    relation: str = ""


@dataclass(frozen=True)
class ReasonList:
    """Files that share a reason; ``paths`` may be truncated, ``count`` is the total number."""

    reason: str
    count: int
    paths: tuple[str, ...]


def raster(figure: Figure, caption: str, *, narrow: bool = False) -> Picture:
    """Return a figure as a PNG picture, for maps."""
    return Picture(embedded(png(figure), "png"), caption, narrow)


def drawing(figure: Figure, caption: str, *, narrow: bool = False) -> Picture:
    """Return a figure as an SVG picture, for lines and points."""
    return Picture(embedded(svg(figure), "svg+xml"), caption, narrow)


def text_cell(text: object, *, link: str = "") -> Cell:
    """Return a cell with a text."""
    return Cell(str(text), str(text), link=link)


def number_cell(text: str, number: float, *, verdict: str = "") -> Cell:
    """Return a cell that shows a text and is sorted by a number; NaN is sorted last."""
    return Cell(text, float(number) if math.isfinite(number) else "", verdict)


def count_cell(number: float) -> Cell:
    """Return a cell with a whole number, a dash for NaN."""
    return number_cell(format_count(round(number)), number) if math.isfinite(number) else Cell(MISSING)


def decimal_cell(number: float, decimals: int) -> Cell:
    """Return a cell with a number of fixed decimals, a dash for NaN."""
    return number_cell(with_minus(f"{number:.{decimals}f}"), number) if math.isfinite(number) else Cell(MISSING)


def measured_cell(number: float, error: float, *, scale: float = 1.0, verdict: str = "") -> Cell:
    """Return a cell with a number and its error, both multiplied by ``scale``."""
    return number_cell(format_measurement(scale * number, scale * error), number, verdict=verdict)


def result_cell(name: str, number: float, error: float, *, verdict: str = "") -> Cell:
    """Return a cell with a reported quantity and its error, in the unit of pages."""
    return number_cell(QUANTITIES[name].show(number, error), number, verdict=verdict)


def grid(headings: Sequence[str], rows: Sequence[Sequence[Cell]], *, text_columns: Collection[int] = (0,)) -> Grid:
    """Return a table; the columns with the numbers ``text_columns`` hold text, all others numbers."""
    numeric = tuple(number not in text_columns for number in range(len(headings)))
    return Grid(tuple(headings), tuple(tuple(row) for row in rows), numeric)


def header_grid(header: fits.Header) -> Grid:
    """Return the cards of a primary header that record how a product was made, as a table."""
    rows = [
        (text_cell(card.keyword), text_cell(card.value), text_cell(card.comment))
        for card in header.cards
        if card.keyword not in _STRUCTURAL_CARDS
    ]
    return grid(("card", "content", "meaning"), rows, text_columns=(0, 1, 2))


def reason_lists(table: Table | None, *, column: str = "path") -> tuple[ReasonList, ...]:
    """Return the entries of ``column`` grouped by the column ``reason``; none without a table."""
    groups: dict[str, list[str]] = {}
    for row in table if table is not None else ():
        groups.setdefault(str(row["reason"]), []).append(str(row[column]))
    return tuple(ReasonList(reason, len(names), tuple(names[:_MOST_PATHS])) for reason, names in groups.items())


_TRUTH_COLUMNS = (
    "rms_pixel", "rms_super", "super_pull", "chi_square", "level", "level_pull", "gradient_x", "gradient_x_pull", "gradient_y",
    "gradient_y_pull",
)  # fmt: skip
_PULL = "_pull"
_VERDICTS = {YES: "pass", NO: "fail", OPEN: "open"}


def measurement_cell(entry: Measurement | None, limits: ReportConfig) -> Cell:
    """Return a cell with a result and its error, marked by its verdict; a dash for None."""
    if entry is None:
        return Cell(MISSING)
    return result_cell(entry.metric, entry.number, entry.error, verdict=judge(entry, limits))


def result_cells(entry: Measurement, limits: ReportConfig) -> tuple[Cell, ...]:
    """Return the cells of one result: name, unit, value with error, specification."""
    quantity, spec = QUANTITIES[entry.metric], specification(entry.metric, limits)
    return (
        text_cell(quantity.label),
        text_cell(quantity.unit),
        measurement_cell(entry, limits),
        number_cell(quantity.show(spec), spec),
    )


def result_grid(rows: Sequence[Sequence[Cell]]) -> Grid:
    """Return the table of results: name, unit, value, specification, verdict."""
    return grid(("result", "unit", "value", "specification", "verdict"), rows, text_columns=(0, 1, 4))


def verdict_cell(verdict: str) -> Cell:
    """Return a cell with a verdict, a dash without a specification."""
    return Cell(_VERDICTS.get(verdict, MISSING), verdict, verdict)


def pull_cell(number: float) -> Cell:
    """Return a cell with a deviation relative to its error."""
    return number_cell(with_minus(f"{number:.2f}"), number) if np.isfinite(number) else Cell(MISSING)


def truth_grid(comparison: Table, *, with_led: bool) -> Grid:
    """Return the comparison of recovered and true flats as a table; absent columns are skipped."""
    columns = [name for name in _TRUTH_COLUMNS if name in comparison.colnames]
    names = ("led", "detector") if with_led else ("detector",)
    rows = []
    for row in comparison:
        cells = [text_cell(row[name]) for name in names]
        for name in columns:
            error = float(row[f"{name}_err"]) if f"{name}_err" in comparison.colnames else np.nan
            number = float(row[name])
            cells.append(pull_cell(number) if name.endswith(_PULL) else result_cell(name, number, error))
        rows.append(cells)
    headings = [name.upper() if name == "led" else name for name in names]
    for name in columns:
        over_error = "super-pixels over error" if name == "super_pull" else "over its error"
        headings.append(over_error if name.endswith(_PULL) else QUANTITIES[name].heading)
    return grid(headings, rows, text_columns=range(len(names)))
