"""The exposures of one LED as the joint solution takes them, from the rows of the index."""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from permil.flat.joint.data import ExposureList, epochs_between_pauses


def unique_exposures(rows: Table) -> Table:
    """Return one row for each exposure, in the order of time; its detectors share all that is used of it."""
    ordered = rows.copy()
    ordered.sort(["mjd", "day_obs", "seqnum", "obsid"])
    _, first = np.unique(np.asarray(ordered["obsid"], dtype=np.str_), return_index=True)
    return ordered[np.sort(first)]


def exposure_list(exposures: Table, *, with_photodiode: bool) -> ExposureList:
    """Return the exposures as the joint solution takes them.

    Exposures one after the other at one position share a stage move; their mean recorded position is taken. The temperature of the
    LED is a regressor where all exposures have it and it changes. Without times, the order of the rows stands for time.

    Parameters
    ----------
    exposures
        From `unique_exposures`.
    with_photodiode
        Whether the photodiode is used.
    """
    count = len(exposures)
    position = np.asarray(exposures["position_id"])
    begins = np.concatenate([[True], (np.diff(position) != 0) | (position[1:] < 0)]) if count else np.zeros(0, dtype=bool)
    move = np.cumsum(begins) - 1
    members = np.maximum(np.bincount(move), 1)
    x_mm, y_mm = ((np.bincount(move, weights=np.asarray(exposures[name])) / members)[move] for name in ("x_mm", "y_mm"))
    time = np.asarray(exposures["mjd"], dtype=np.float64)
    if not np.isfinite(time).all():
        time = np.arange(count, dtype=np.float64)
    reading = np.asarray(exposures["photodiode"], dtype=np.float64)
    usable = np.isfinite(reading) & (reading > 0) if with_photodiode else np.zeros(count, dtype=bool)
    temperature = np.asarray(exposures["led_temp"], dtype=np.float64)
    varies = count > 0 and np.isfinite(temperature).all() and np.ptp(temperature) > 0
    return ExposureList(
        x_mm,
        y_mm,
        np.log(np.where(usable, reading, np.nan)),
        time,
        move.astype(np.int64),
        temperature[:, None] if varies else np.zeros((count, 0)),
        _epochs(exposures, time),
    )


def unit_seconds(exposures: Table) -> float:
    """Return the unit of the times of `exposure_list` in seconds; NaN where the order of the rows stands for time."""
    return 86400.0 if np.isfinite(np.asarray(exposures["mjd"], dtype=np.float64)).all() else float("nan")


def _epochs(exposures: Table, time: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the epoch of each exposure: one for each run, job and kind of exposure, and a new one after each pause."""
    labels = [np.asarray(exposures[name]).astype(str) for name in ("run", "job", "purpose") if name in exposures.colnames]
    labels.append(epochs_between_pauses(time).astype(str))
    return np.unique(np.stack(labels), axis=1, return_inverse=True)[1].ravel().astype(np.int64)
