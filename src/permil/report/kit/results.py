"""Tables of results with their specifications and verdicts, and of deviations from the truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from astropy.table import Table

from permil.config.model import ReportConfig
from permil.report.kit.elements import Cell, Grid, grid, number_cell, result_cell, text_cell
from permil.report.kit.quantities import MISSING, QUANTITIES, with_minus
from permil.report.kit.summary import NO, OPEN, YES, Measurement, judge, specification

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
