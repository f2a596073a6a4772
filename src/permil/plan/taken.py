"""Positions of exposures that were already taken, from the index of a run."""

from __future__ import annotations

import numpy as np
from astropy.table import Table

from permil.errors import InputError
from permil.exposures import POINTING, SCAN
from permil.exposures.index import Index
from permil.plan.positions import PlannedPosition


def positions_taken(index: Index, led: str = "") -> list[PlannedPosition]:
    """Return the positions of scans and pointings of one LED in time order.

    Parameters
    ----------
    index
        Index of a run.
    led
        LED; empty: the only one.

    Raises
    ------
    InputError
        If there are several LEDs and none is named, or the LED has no scan or pointing.
    """
    purposes = np.asarray(index.table["purpose"], dtype=np.str_)
    rows = index.table[(purposes == SCAN) | (purposes == POINTING)]
    names = np.asarray(rows["led"], dtype=np.str_)
    present = sorted(set(names.tolist()))
    if not led and len(present) > 1:
        raise InputError(
            f"the exposures have several LEDs ({', '.join(present)})", remedy="choose one with plan.led", allowed=present
        )
    rows = rows[names == led] if led else rows
    rows = rows[np.isfinite(np.asarray(rows["x_mm"], dtype=float)) & np.isfinite(np.asarray(rows["y_mm"], dtype=float))]
    if not len(rows):
        listed = f"the LEDs are {', '.join(present)}" if present else "the index has no scan or pointing"
        raise InputError(
            f"the index has no scan or pointing{f' of LED {led}' if led else ''} with a position", remedy=listed, allowed=present
        )
    rows.sort("mjd")
    numbers = np.asarray(rows["position_id"])
    _, first = np.unique(numbers, return_index=True)
    return [_position(rows[numbers == number]) for number in numbers[np.sort(first)]]


def _position(rows: Table) -> PlannedPosition:
    read = frozenset(str(name) for name in rows["detector"])
    x_mm, y_mm = (float(np.mean(np.asarray(rows[name], dtype=float))) for name in ("x_mm", "y_mm"))
    return PlannedPosition(x_mm, y_mm, len(set(rows["obsid"])), read)
