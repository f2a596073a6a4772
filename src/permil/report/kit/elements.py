"""Elements of a page: tables declared by their columns, pictures, links, lists of files by reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal

import numpy as np
from astropy.io import fits
from astropy.table import Row, Table
from markupsafe import Markup
from matplotlib.figure import Figure

from permil.config.model import ReportConfig
from permil.report.kit.figures import Arguments, embedded, png, styled, svg
from permil.report.kit.results import (
    MISSING,
    NO,
    OPEN,
    QUANTITIES,
    YES,
    Measurement,
    format_chance,
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
class Column:
    """A column of a table: its heading, the function that returns the cell of a row, and whether it holds text."""

    heading: str
    cell: Callable[[Any], Cell]
    is_text: bool = False

    def of(self, find: Callable[[Any], Any], *, heading: str = "") -> Column:
        """Return a column that shows, for each row of the table, the object that a function finds for it."""
        return Column(heading or self.heading, lambda row: self.cell(find(row)), self.is_text)


Entry = str | Callable[[Any], Any]
"""Content of a column for a row: the name of an entry or attribute (`entry_in`), or a function of the row."""


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


def captioned(
    caption: str, *, kind: Literal["png", "svg"] = "png", narrow: bool = False
) -> Callable[[Callable[Arguments, Figure]], Callable[Arguments, Picture]]:
    """Decorate a function so that it returns its figure, drawn in the style of the pages, as a picture: png for maps, svg for lines."""

    def decorate(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Picture]:
        drawn = styled(draw)

        @wraps(drawn)
        def picture(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Picture:
            return (raster if kind == "png" else drawing)(drawn(*args, **kwargs), caption, narrow=narrow)

        return picture

    return decorate


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


def significant_cell(number: float) -> Cell:
    """Return a cell with the four leading digits of a number without an error, zeros at the end included; a dash for NaN."""
    return number_cell(with_minus(f"{number:#.4g}"), number) if math.isfinite(number) else Cell(MISSING)


def measured_cell(number: float, error: float, *, scale: float = 1.0, verdict: str = "") -> Cell:
    """Return a cell with a number and its error, both multiplied by ``scale``."""
    return number_cell(format_measurement(scale * number, scale * error), number, verdict=verdict)


def result_cell(name: str, number: float, error: float, *, verdict: str = "") -> Cell:
    """Return a cell with a reported quantity and its error, in the unit of pages."""
    return number_cell(QUANTITIES[name].show(number, error), number, verdict=verdict)


def table_of(rows: Iterable[Any], columns: Iterable[Column]) -> Grid:
    """Return a table with one row for each of some objects."""
    columns = tuple(columns)
    return Grid(
        headings=tuple(column.heading for column in columns),
        rows=tuple(tuple(column.cell(row) for column in columns) for row in rows),
        numeric=tuple(not column.is_text for column in columns),
    )


def entry_in(row: Any, name: str) -> Any:
    """Return an entry of the row of a table, or an attribute of another object; None if it is missing or masked, or for no row."""
    if not isinstance(row, Row):
        return None if row is None else getattr(row, name)
    return None if name not in row.colnames or np.ma.is_masked(row[name]) else row[name]


def number_in(row: Any, name: str) -> float:
    """Return a number of a row, NaN if it is missing; see `entry_in`."""
    entry = entry_in(row, name)
    return math.nan if entry is None else float(entry)


def text_in(row: Any, name: str) -> str:
    """Return a text of a row, "" if it is missing; see `entry_in`."""
    entry = entry_in(row, name)
    return "" if entry is None else str(entry)


def _reader(of: Entry, read: Callable[[Any, str], Any]) -> Callable[[Any], Any]:
    if callable(of):
        return of
    name = of
    return lambda row: read(row, name)


def text_column(heading: str, of: Entry = "", *, absent: str = "") -> Column:
    """Return a column of text, by default the entry with the name of the heading; ``absent`` is shown for an empty text."""
    text = _reader(of or heading, text_in)
    return Column(heading, lambda row: text_cell(text(row) or absent), is_text=True)


def number_column(heading: str, of: Entry, show: Callable[[float], str], *, scale: float = 1.0) -> Column:
    """Return a column of numbers as a function shows them, multiplied by ``scale``."""
    number = _reader(of, number_in)
    return Column(heading, lambda row: number_cell(show(scale * number(row)), number(row)))


def count_column(heading: str, of: Entry = "") -> Column:
    """Return a column of whole numbers, by default the entry with the name of the heading."""
    number = _reader(of or heading, number_in)
    return Column(heading, lambda row: count_cell(number(row)))


def decimal_column(heading: str, of: Entry, decimals: int) -> Column:
    """Return a column of numbers with fixed decimals."""
    number = _reader(of, number_in)
    return Column(heading, lambda row: decimal_cell(number(row), decimals))


def measured_column(heading: str, of: Entry = "", *, error: str = "", scale: float = 1.0) -> Column:
    """Return a column of numbers with their errors, both multiplied by ``scale``.

    Parameters
    ----------
    of
        Name of the number, by default the heading; or a function that returns the number and its error.
    error
        Name of the error, by default that of the number with the suffix ``_err``.
    """
    pair = _reader(of or heading, lambda row, name: (number_in(row, name), number_in(row, error or f"{name}_err")))
    return Column(heading, lambda row: measured_cell(*pair(row), scale=scale))


def result_column(quantity: str, of: Entry, *, heading: str = "") -> Column:
    """Return a column of a reported quantity and its error, in the unit of pages; ``of`` as for `measured_column`."""
    return measured_column(heading or QUANTITIES[quantity].heading, of, scale=QUANTITIES[quantity].scale)


def chance_column(heading: str, of: Entry = "p_value") -> Column:
    """Return a column of p-values."""
    return number_column(heading, of, format_chance)


def header_grid(header: fits.Header) -> Grid:
    """Return the cards of a primary header that record how a product was made, as a table."""
    cards = (card for card in header.cards if card.keyword not in _STRUCTURAL_CARDS)
    return table_of(cards, (text_column("card", "keyword"), text_column("content", "value"), text_column("meaning", "comment")))


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


def result_columns(limits: ReportConfig) -> tuple[Column, ...]:
    """Return the columns of a table of results (`Measurement`): name, unit, value with error, specification."""
    return (
        text_column("result", lambda entry: QUANTITIES[entry.metric].label),
        text_column("unit", lambda entry: QUANTITIES[entry.metric].unit),
        Column("value", lambda entry: measurement_cell(entry, limits)),
        Column("specification", lambda entry: specification_cell(entry.metric, limits)),
    )


def specification_cell(metric: str, limits: ReportConfig) -> Cell:
    """Return a cell with the limit of a metric, a dash without one."""
    spec = specification(metric, limits)
    return number_cell(QUANTITIES[metric].show(spec), spec)


def verdict_cell(verdict: str) -> Cell:
    """Return a cell with a verdict, a dash without a specification."""
    return Cell(_VERDICTS.get(verdict, MISSING), verdict, verdict)


def truth_grid(comparison: Table, *, with_led: bool) -> Grid:
    """Return the comparison of recovered and true flats as a table; absent columns are skipped."""
    columns = [text_column("LED", "led")] * with_led + [text_column("detector")]
    for name in _TRUTH_COLUMNS:
        if name in comparison.colnames:
            columns.append(_truth_column(name))
    return table_of(comparison, columns)


def _truth_column(name: str) -> Column:
    if name.endswith(_PULL):
        heading = "super-pixels over error" if name == "super_pull" else "over its error"
        return decimal_column(heading, name, 2)
    return result_column(name, name)
