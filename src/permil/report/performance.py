"""What the stages of a run cost, as a table of the index page."""

from __future__ import annotations

from typing import Any

from astropy.table import Table

from permil.engine.performance import WHOLE_STAGE
from permil.products import RunFolder, read_table
from permil.report.pages import Cell, Grid, count_cell, grid, text_cell

_COLUMNS = (
    "stage", "step", "tasks", "workers", "seconds", "task_seconds", "cpu_seconds", "gigabytes_read", "gigabytes_per_second",
    "peak_memory_mib", "restarted",
)  # fmt: skip
_HEADINGS = (
    "stage", "step", "tasks", "workers", "time (s)", "sum over tasks (s)", "processor (s)", "read (GB)", "GB/s",
    "most memory of a process (MiB)", "run again",
)  # fmt: skip


def performance_grid(folder: RunFolder) -> Grid | None:
    """Return a row for each stage and for each kind of task of it; None if nothing was recorded.

    Raises
    ------
    InputError
        If the table cannot be read.
    """
    if not folder.performance.is_file():
        return None
    table = read_table(folder.performance, columns=_COLUMNS, purpose="table of costs")
    return grid(_HEADINGS, [_row(row) for row in table if _has_tasks(row)], text_columns=2)


def _has_tasks(row: Table.Row) -> bool:
    return row["step"] == WHOLE_STAGE or row["tasks"] > 0


def _row(row: Table.Row) -> tuple[Cell, ...]:
    step = "" if row["step"] == WHOLE_STAGE else str(row["step"])
    return (
        text_cell(row["stage"]),
        text_cell(step),
        count_cell(row["tasks"]),
        count_cell(row["workers"]),
        _number(row["seconds"], 1),
        _number(row["task_seconds"], 1),
        _number(row["cpu_seconds"], 1),
        _number(row["gigabytes_read"], 3),
        _number(row["gigabytes_per_second"], 3),
        count_cell(row["peak_memory_mib"]),
        count_cell(row["restarted"]),
    )


def _number(entry: Any, digits: int) -> Cell:
    return Cell(f"{float(entry):.{digits}f}", float(entry))
