"""Rows of raw segments that hold no measurement: found by their counts, and described.

A copy that was interrupted after the size of the file was set leaves blocks of one value, zero as a rule. The noise of an overscan never
repeats a count a dozen times, so that a row whose overscan ends in equal counts has no level, and the row is lost as a whole. A block
that ends, or lies, within the active pixels of a row costs these pixels only. Rows without any noise, as a simulation may write them,
step from their light to a constant overscan just where the overscan begins; these are not lost.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from permil.camera import Amplifier
from permil.products.masks import MaskPlane

LostRuns = NDArray[np.int64]
"""Active columns without a measurement: raw row, first column, that behind the last, value, whether the file is at fault; shape (n, 5)."""

FEWEST_EQUAL = 12
"""Equal counts at either end of a row that are not noise."""

_EQUAL_WITHIN = 48
_STEP_WITHIN = 112
_STEP_ADU = 100
_LARGEST_COUNT = 2**18 - 1
"""What a converter of 18 bits gives at most."""
_MOST_RANGES = 3
_NO_DATA = int(MaskPlane.NO_DATA)


@njit(cache=True, nogil=True)
def repeats_counts(counts: NDArray[np.int32], first: int, last: int) -> bool:
    """Return whether anything may be lost of a raw row (see `lost_columns`): counts repeat at either end, or somewhere between."""
    end = counts.size - 1
    found = (counts[end] == counts[end - 1]) & (counts[end] == counts[end - 2]) & (counts[end] == counts[end - 3])
    found |= (counts[0] == counts[1]) & (counts[0] == counts[2]) & (counts[0] == counts[3])
    for middle in range(first, last - 3, _STEP_WITHIN):
        found |= (counts[middle] == counts[middle + 1]) & (counts[middle] == counts[middle + 2])
    return found


@njit(cache=True, nogil=True)
def lost_columns(counts: NDArray[np.int32], first: int, last: int, saturation_adu: float) -> tuple[int, int, int, bool]:
    """Return which active columns of a raw row hold no measurement.

    Parameters
    ----------
    counts
        The whole raw row.
    first, last
        Its active columns are ``first`` to ``last - 1``.
    saturation_adu
        Raw count from which a pixel is saturated.

    Returns
    -------
    begin, end : int
        Columns ``begin`` to ``end - 1``, counted from ``first``; all of them where the level of the row is lost; 0, 0 for none.
    value : int
        The count that is repeated.
    is_fault : bool
        Whether the file is at fault: not so where the repeated count is saturated.
    """
    width, value = counts.size, counts[counts.size - 1]
    if counts[width - 2] == value and counts[width - 3] == value and counts[width - 4] == value:
        start = _start_of_end(counts)
        if width - start >= FEWEST_EQUAL:
            # Within the overscan, deferred charge of a row without noise ends in equal counts, too, but without a step.
            if start < last or (start > last and abs(int(counts[start - 1]) - int(value)) > _STEP_ADU):
                return 0, last - first, int(value), _is_fault(value, saturation_adu)
            return 0, 0, 0, False
    value = counts[0]
    if counts[1] == value and counts[2] == value and counts[3] == value:
        end = _end_of_block(counts, 0, width)
        if end >= FEWEST_EQUAL and end > first:
            return 0, min(end, last) - first, int(value), _is_fault(value, saturation_adu)
    for middle in range(first, last - 3, _STEP_WITHIN):
        value = counts[middle]
        if counts[middle + 1] == value and counts[middle + 2] == value and counts[middle + 3] == value:
            begin = middle
            while begin > first and counts[begin - 1] == value:
                begin -= 1
            if _end_of_block(counts, middle, last) - begin >= _EQUAL_WITHIN and value < saturation_adu:
                return _from_first_to_last(counts, first, last, begin, value, saturation_adu)
    return 0, 0, 0, False


@njit(cache=True, nogil=True)
def _start_of_end(counts: NDArray[np.int32]) -> int:
    """Return where the equal counts at the end of a row begin."""
    start = counts.size - 1
    while start > 0 and counts[start - 1] == counts[start]:
        start -= 1
    return start


@njit(cache=True, nogil=True)
def _end_of_block(counts: NDArray[np.int32], begin: int, last: int) -> int:
    """Return the column behind the last of equal counts, not more than ``last``."""
    end = begin + 1
    while end < last and counts[end] == counts[begin]:
        end += 1
    return end


@njit(cache=True, nogil=True)
def _from_first_to_last(
    counts: NDArray[np.int32], first: int, last: int, begin: int, value: int, saturation_adu: float
) -> tuple[int, int, int, bool]:
    """Return all columns from a block of a value to the last count that equals it; a plateau at the top of its row is no fault."""
    end, largest = begin, value
    for column in range(first, last):
        largest = max(largest, counts[column])
        if counts[column] == value and column > end and counts[column - 1] == value:
            end = column
    return begin - first, end + 1 - first, int(value), largest > value and _is_fault(value, saturation_adu)


@njit(cache=True, nogil=True)
def _is_fault(value: int, saturation_adu: float) -> bool:
    """Return whether a repeated count is a fault of the file: not saturated, or more than a converter gives."""
    return value < saturation_adu or value > _LARGEST_COUNT


@njit(cache=True, nogil=True)
def lost_runs(raw: NDArray[np.int32], n_rows: int, first: int, last: int, saturation_adu: float) -> LostRuns:
    """Return what is lost of the first rows of a raw segment; see `lost_columns`."""
    found = np.empty((0, 5), dtype=np.int64)
    n_found = 0
    for row in range(n_rows):
        begin, end, value, is_fault = lost_columns(raw[row], first, last, saturation_adu)
        if end > begin:
            found, n_found = add_run(found, n_found, (row, begin, end, value, int(is_fault)))
    return found[:n_found]


@njit(cache=True, nogil=True)
def look_for_lost(
    counts: NDArray[np.int32],
    columns: tuple[int, int],
    saturation_adu: float,
    place: tuple[int, ...],
    lost: NDArray[np.int64],
    runs: NDArray[np.int64],
    n_runs: int,
) -> tuple[NDArray[np.int64], int]:
    """Find what is lost of a row, and note it.

    Parameters
    ----------
    counts, columns, saturation_adu
        See `lost_columns`.
    place
        What is noted before the columns: file, segment, row.
    lost
        Filled with the first column and that behind the last.
    runs, n_runs
        Array of notes, of which the first ``n_runs`` rows are filled; it is exchanged for a longer one when it is full.
    """
    begin, end, value, is_fault = lost_columns(counts, columns[0], columns[1], saturation_adu)
    lost[0], lost[1] = begin, end
    return add_run(runs, n_runs, (*place, begin, end, value, int(is_fault))) if end > begin else (runs, n_runs)


@njit(cache=True, nogil=True)
def clear_lost(measured: NDArray[np.float32], lost: NDArray[np.int64]) -> None:
    """Take what is lost for no signal, so that it is no crosstalk and nothing that saturates."""
    for column in range(lost[0], lost[1]):
        measured[column] = 0.0


@njit(cache=True, nogil=True)
def flag_lost(planes: NDArray[np.int16], lost: NDArray[np.int64]) -> None:
    """Flag what is lost."""
    for column in range(lost[0], lost[1]):
        planes[column] |= _NO_DATA


@njit(cache=True, nogil=True)
def add_run(runs: NDArray[np.int64], n_runs: int, run: tuple[int, ...]) -> tuple[NDArray[np.int64], int]:
    """Append a run of any number of entries; the array is exchanged for a longer one when it is full."""
    if n_runs == runs.shape[0]:
        longer = np.empty((2 * n_runs + 64, runs.shape[1]), dtype=np.int64)
        for entry in range(n_runs):
            for number in range(runs.shape[1]):
                longer[entry, number] = runs[entry, number]
        runs = longer
    for number in range(len(run)):
        runs[n_runs, number] = run[number]
    return runs, n_runs + 1


def describe_lost(runs: Sequence[LostRuns], amplifiers: Sequence[Amplifier], *, rows: slice | None = None) -> tuple[str, ...]:
    """Return what a file is at fault for, a sentence for each segment.

    Parameters
    ----------
    runs
        Of each segment; none for a segment that is blank throughout.
    amplifiers
        The segments.
    rows
        Which raw rows those of the runs are, where not all are read.
    """
    first, step = (0, 1) if rows is None else (rows.start, rows.step)
    faults = [own[own[:, 4] == 1] for own in runs]
    return tuple(_sentence(own, each, first, step) for own, each in zip(faults, amplifiers, strict=True) if len(own))


def _sentence(faults: LostRuns, amplifier: Amplifier, first: int, step: int) -> str:
    rows = np.unique(faults[:, 0])
    parts = [part * step + first for part in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)]
    named = [f"{part[0]}" if part.size == 1 else f"{part[0]} to {part[-1]}" for part in parts[:_MOST_RANGES]]
    more = f" and {len(parts) - _MOST_RANGES} more ranges" if len(parts) > _MOST_RANGES else ""
    values = np.unique(faults[:, 3]).tolist()
    shown = ", ".join(str(value) for value in values[:_MOST_RANGES]) + (", ..." if len(values) > _MOST_RANGES else "")
    about = "about " if step > 1 else ""
    return (
        f"{'row' if rows.size == 1 else 'rows'} {about}{', '.join(named)}{more} of segment {amplifier.extname} repeat one count "
        f"({shown}) and are masked; copy the file again"
    )
