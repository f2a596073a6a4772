"""The tables of a page that compares stars with the flat, and of the section of the index page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from astropy.table import Table

from permil.compare.comparison import SINGLE, WHOLE
from permil.compare.hypotheses.fractions import KINDS, SUM, TOTAL
from permil.report.compare_inputs import CompareProducts, number, rows_of, text
from permil.report.compare_words import NAIVE, MethodLine, method_lines
from permil.report.pages import Cell, Grid, ReasonList, count_cell, grid, text_cell
from permil.report.quantities import MISSING, format_chance, format_measurement

_SLOPES = ("flux", "shift", "size")
_LEVELS = {
    "place": "smooth trend over the focal plane",
    "raft": "between rafts",
    "detector": "between detectors",
    "amplifier": "between amplifiers",
    "cell": "within amplifiers",
    "measurement": "repeated measurements",
}


def measured_cell(row: Table.Row, name: str, *, scale: float = 1.0, error: str = "") -> Cell:
    """Return a number of a row with its error (column ``<name>_err``), times ``scale``."""
    found, uncertainty = scale * number(row, name), scale * number(row, error or f"{name}_err")
    return Cell(format_measurement(found, uncertainty), found if math.isfinite(found) else "")


def chance_cell(chance: float) -> Cell:
    """Return a p-value."""
    return Cell(format_chance(chance), chance if math.isfinite(chance) else "")


def headline_table(row: Table.Row) -> Grid:
    """Return the headline beside what a test says that takes every star as independent."""
    r, naive_error = number(row, "r"), number(row, f"{NAIVE}_r_err")
    low, high = number(row, "r_low"), number(row, "r_high")
    interval = f"{low:.3f} to {high:.3f}" if math.isfinite(low + high) else MISSING
    has_naive = math.isfinite(naive_error)
    empty = Cell(MISSING)
    lines = (
        (
            "correlation r, with its standard error",
            measured_cell(row, "r"),
            Cell(format_measurement(r, naive_error), r) if has_naive else empty,
        ),
        (
            "68 % interval of r",
            Cell(interval, low if math.isfinite(low) else ""),
            Cell(f"{r - naive_error:.3f} to {r + naive_error:.3f}", r - naive_error) if has_naive else empty,
        ),
        ("independent values", count_cell(number(row, "n_eff")), count_cell(number(row, "n")) if has_naive else empty),
        (
            "p: chance of such an r without any relation",
            chance_cell(number(row, "p_value")),
            chance_cell(number(row, f"{NAIVE}_p_value")),
        ),
        ("correlation of ranks (Spearman: outliers count little)", measured_cell(row, "rank"), empty),
        ("r without measurement errors", measured_cell(row, "r_corrected"), empty),
        ("slope, star flux on flat", measured_cell(row, "slope"), empty),
    )
    rows = [(text_cell(name), ours, naive) for name, ours, naive in lines]
    return grid(("single stars", "neighbours counted as what they are worth", "naive test: every star independent"), rows)


def method_table(row: Table.Row) -> Grid:
    """Return the error and the p-value of every method."""
    return grid(
        ("method", "what it does", "error of r", "p"), [_method_cells(line) for line in method_lines(row)], text_columns=2
    )


def _method_cells(line: MethodLine) -> tuple[Cell, ...]:
    known = math.isfinite(line.error)
    error = Cell(f"{line.error:.4f}", line.error) if known else Cell(MISSING)
    return text_cell(line.name), text_cell(line.what), error, chance_cell(line.chance)


def pair_table(products: CompareProducts) -> Grid | None:
    """Return all correlations of a product, None if it has none."""
    table = products.tables.get("CORRELATIONS")
    if table is None:
        return None
    rows = []
    for row in table:
        cell = number(row, "cell")
        scale = "single stars" if text(row, "scale") == SINGLE else f"cells of {cell:.0f} px"
        rows.append(
            (
                text_cell(text(row, "quantity")),
                text_cell(text(row, "region")),
                Cell(scale, cell if math.isfinite(cell) else ""),
                measured_cell(row, "r"),
                count_cell(number(row, "n")),
                count_cell(number(row, "n_eff")),
                chance_cell(number(row, "p_value")),
                chance_cell(number(row, f"{NAIVE}_p_value")),
                measured_cell(row, "r_corrected"),
                measured_cell(row, "slope"),
            )
        )
    headings = (
        "quantity", "region", "scale", "r", "values", "worth", "p", "p, naive", "r without measurement errors", "slope",
    )  # fmt: skip
    content = grid(headings, rows, text_columns=2)
    return Grid(content.headings, content.rows, (False, False, True, *([True] * 7)))


def fraction_table(products: CompareProducts) -> Grid | None:
    """Return all fractions, one row per region and scale; None if there are none."""
    found: dict[tuple[str, str], dict[str, Table.Row]] = {}
    for row in products.rows("HYPOTHESES", figure="fraction"):
        found.setdefault((text(row, "region"), text(row, "scale")), {})[text(row, "of")] = row
    if not found:
        return None
    rows = []
    for (region, scale), of in found.items():
        some = next(iter(of.values()))
        cells = [measured_cell(of[kind], "value", error="error") if kind in of else Cell(MISSING) for kind in (*KINDS, SUM)]
        rms = 1e3 * number(some, "flat_rms")
        level = Cell(f"{rms:.2f}", rms) if math.isfinite(rms) else Cell(MISSING)
        rows.append((text_cell(region), text_cell(scale), *cells, level, count_cell(number(some, "stars"))))
    return grid(("region", "period", *KINDS, "sum of the three", "flat, rms (‰)", "measurements"), rows, text_columns=2)


def slope_table(products: CompareProducts) -> Grid | None:
    """Return the slopes by region below what each hypothesis alone would give; None if there are none."""
    found: dict[str, dict[str, Table.Row]] = {}
    for row in products.rows("HYPOTHESES", figure="slope"):
        found.setdefault(text(row, "region"), {})[text(row, "of")] = row
    if not found:
        return None
    divided = bool(products.header.get("FLATFLD", False))
    rows = []
    for number_of_kind, kind in enumerate(KINDS):
        expected = [float(number_of_kind == of) for of in range(len(KINDS))]
        expected[0] -= float(divided)
        rows.append((text_cell(f"expected: all {kind}"), *(Cell(format_measurement(slope), slope) for slope in expected)))
    for region, of in found.items():
        cells = [measured_cell(of[name], "value", error="error") if name in of else Cell(MISSING) for name in _SLOPES]
        rows.append((text_cell(f"found: {region}"), *cells))
    return grid(("slope of", "flux", "shift (dx, dy)", "size (XX, YY)"), rows)


def verdict_table(products: CompareProducts) -> Grid | None:
    """Return what dividing does by region, None if nothing is known."""
    table = products.tables.get("VERDICTS")
    if table is None:
        return None
    rows = []
    for row in table:
        before, after, strength = (number(row, name) for name in ("before", "after", "significance"))
        rows.append(
            (
                text_cell(text(row, "region")),
                text_cell(text(row, "outcome")),
                Cell(format_measurement(1e3 * before), before if math.isfinite(before) else ""),
                Cell(format_measurement(1e3 * after), after if math.isfinite(after) else ""),
                measured_cell(row, "change", scale=1e3),
                Cell(f"{abs(strength):.1f}", abs(strength)) if math.isfinite(strength) else Cell(MISSING),
                count_cell(number(row, "stars")),
            )
        )
    headings = (
        "region", "dividing by the flat", "scatter before (‰)", "after (‰)", "change (‰)", "change over its error", "measurements",
    )  # fmt: skip
    return grid(headings, rows, text_columns=2)


def level_table(levels: Table | None) -> Grid | None:
    """Return the variation of flats and stars by level, None where nothing was split."""
    known = [row for row in levels if not text(row, "reason")] if levels is not None else []
    if not known:
        return None
    rows = []
    for row in known:
        freedom = number(row, "degrees_of_freedom")
        rows.append(
            (
                text_cell(text(row, "of")),
                text_cell(_LEVELS.get(text(row, "level"), text(row, "level"))),
                text_cell({"both": "", "common": "common to all LEDs", "LED": "differs between LEDs"}.get(text(row, "part"), "")),
                *(measured_cell(row, name) for name in ("flat_rms_per_mil", "star_rms_per_mil", "r", "slope")),
                count_cell(freedom if freedom >= 0 else math.nan),
                text_cell(text(row, "origin")),
            )
        )
    headings = (
        "of", "level", "part", "flat, rms (‰)", "stars, rms (‰)", "r without noise", "slope", "degrees of freedom", "where it comes from",
    )  # fmt: skip
    content = grid(headings, rows, text_columns=3)
    return Grid(content.headings, content.rows, (False, False, False, *([True] * 5), False))


def level_reasons(levels: Table | None) -> tuple[ReasonList, ...]:
    """Return what cannot be told apart, grouped by the reason."""
    groups: dict[str, list[str]] = {}
    for row in levels if levels is not None else ():
        if text(row, "reason"):
            groups.setdefault(text(row, "reason"), []).append(f"{text(row, 'of')}: {text(row, 'level')}, {text(row, 'part')}")
    return tuple(ReasonList(reason, len(names), tuple(names)) for reason, names in groups.items())


def group_cells(
    headline: Sequence[Table.Row], hypotheses: Sequence[Table.Row], verdicts: Sequence[Table.Row]
) -> tuple[Cell, ...]:
    """Return the cells of a detector and band in the index: r, p, stars, worth, slope, fractions, what dividing does."""
    empty = Cell(MISSING)
    fractions = {text(row, "of"): row for row in hypotheses}
    outcome = text_cell(text(verdicts[0], "outcome")) if verdicts else empty
    first = headline[0] if headline else None
    return (
        measured_cell(first, "r") if first is not None else empty,
        chance_cell(number(first, "p_value")) if first is not None else empty,
        count_cell(number(first, "n")) if first is not None else empty,
        count_cell(number(first, "n_eff")) if first is not None else empty,
        measured_cell(first, "slope") if first is not None else empty,
        *(measured_cell(fractions[kind], "value", error="error") if kind in fractions else empty for kind in KINDS),
        outcome,
    )


GROUP_HEADINGS = ("r", "p", "measurements", "worth", "slope", *(f"fraction {kind}" for kind in KINDS), "dividing by the flat")


def whole_rows(table: Table | None, detector: str, band: str, **wanted: str | int) -> list[Table.Row]:
    """Return the rows of the whole detector in a table of the run."""
    return rows_of(table, detector=detector, band=band, region=WHOLE, **wanted)


def total_fractions(table: Table | None, detector: str, band: str) -> list[Table.Row]:
    """Return the fractions of the whole detector on all scales together."""
    return whole_rows(table, detector, band, figure="fraction", scale=TOTAL)
