"""Rows of raw segments that hold no measurement: found by their counts, and described.

A copy that was interrupted after the size of the file was set leaves blocks of one value, zero as a rule. The noise of an overscan never
repeats a count a dozen times, so that a row whose overscan ends in equal counts has no level, and the row is lost as a whole. A block
that ends, or lies, within the active pixels of a row costs these pixels only. Rows without any noise, as a simulation may write them,
step from their light to a constant overscan just where the overscan begins; these are not lost.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from permil._kernels import isr as kernels
from permil.camera import Amplifier

LostRuns = NDArray[np.int64]
"""Active columns without a measurement: raw row, first column, that behind the last, value, whether the file is at fault; shape (n, 5)."""

_MOST_RANGES = 3


def lost_runs(raw: NDArray[np.int32], n_rows: int, columns: slice, saturation_adu: float) -> LostRuns:
    """Return what is lost of the first rows of a raw segment.

    Parameters
    ----------
    raw
        Whole raw rows, C-contiguous.
    columns
        The active ones.
    saturation_adu
        Raw count from which a pixel is saturated; where the repeated count is saturated the file is not at fault.
    """
    return kernels.find_lost(raw, n_rows, (columns.start, columns.stop), saturation_adu)


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
