"""Projector positions: measured (header) or commanded (folder name), never a mixture.

The header holds the measured position. The folder name holds the commanded one, in some runs before the constant XOFFSET, YOFFSET of the
acquisition configuration is added. Where both exist, their difference is measured; where the header position is missing, the difference
is added to the folder position.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from permil.arrays import FloatArray, IntArray
from permil.errors import PositionError

HEADER, FOLDER, FOLDER_WITH_OFFSET = "header", "folder", "folder+offset"
# A header minus folder difference above this is an offset; it may scatter by this much (mm). The stage repeats to 0.01 mm.
OFFSET_TOLERANCE_MM = 0.1

Preference = Literal["auto", "header", "folder"]


@dataclass(frozen=True)
class RunOffset:
    """Header minus folder position of a run, or of one of its jobs if they differ.

    Attributes
    ----------
    run, job
        ``job`` is "" when all jobs of the run agree.
    x_mm, y_mm
        Median difference, CCS.
    scatter_mm
        Largest distance of an exposure from the median.
    n_exposures
        Exposures that have both positions.
    """

    run: str
    job: str
    x_mm: float
    y_mm: float
    scatter_mm: float
    n_exposures: int

    @property
    def size_mm(self) -> float:
        """Length of the offset."""
        return float(np.hypot(self.x_mm, self.y_mm))

    @property
    def is_named(self) -> bool:
        """Whether the difference is large enough to be reported as an offset."""
        return self.size_mm > OFFSET_TOLERANCE_MM

    @property
    def is_constant(self) -> bool:
        """Whether the offset is the same for all exposures."""
        return self.scatter_mm <= OFFSET_TOLERANCE_MM


def groups(*keys: NDArray[np.str_]) -> Iterator[tuple[tuple[str, ...], IntArray]]:
    """Yield each combination of keys, in sorted order, with the indices of its rows."""
    if len(keys[0]) == 0:
        return
    combined, inverse = np.unique(np.stack(keys, axis=1), axis=0, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    starts = np.searchsorted(inverse[order], np.arange(len(combined) + 1))
    for number, key in enumerate(combined):
        yield tuple(str(part) for part in key), order[starts[number] : starts[number + 1]]


def measure_offsets(exposures: Table) -> list[RunOffset]:
    """Return header minus folder position of each run that has both.

    If the jobs of a run differ (each has its own acquisition configuration), one entry per job is returned.

    Parameters
    ----------
    exposures
        Index table.
    """
    x_difference, y_difference, usable = _differences(exposures)
    run, job = (np.asarray(exposures[name], dtype=np.str_) for name in ("run", "job"))
    offsets = []
    for (name,), members in groups(run[usable]):
        rows = usable[members]
        whole = _offset(name, "", x_difference[rows], y_difference[rows])
        jobs = [
            _offset(name, job_name, x_difference[rows[part]], y_difference[rows[part]]) for (job_name,), part in groups(job[rows])
        ]
        split = not whole.is_constant and len(jobs) > 1 and all(entry.is_constant for entry in jobs)
        offsets.extend(jobs if split else [whole])
    return offsets


def _differences(exposures: Table) -> tuple[FloatArray, FloatArray, IntArray]:
    """Return header minus folder, x and y, and the rows used: one per exposure that has both positions."""
    x_difference = np.asarray(exposures["x_header_mm"]) - np.asarray(exposures["x_folder_mm"])
    y_difference = np.asarray(exposures["y_header_mm"]) - np.asarray(exposures["y_folder_mm"])
    both = np.flatnonzero(np.isfinite(x_difference + y_difference))
    _, first = np.unique(np.asarray(exposures["obsid"], dtype=np.str_)[both], return_index=True)
    return x_difference, y_difference, both[np.sort(first)]


def _offset(run: str, job: str, x_mm: FloatArray, y_mm: FloatArray) -> RunOffset:
    centre_x, centre_y = float(np.median(x_mm)), float(np.median(y_mm))
    scatter = float(np.hypot(x_mm - centre_x, y_mm - centre_y).max())
    return RunOffset(run, job, centre_x, centre_y, scatter, len(x_mm))


def resolve_positions(exposures: Table, *, preference: Preference = "auto") -> list[RunOffset]:
    """Choose one kind of position per run and LED, and fill in ``x_mm``, ``y_mm`` and ``position_kind``.

    Parameters
    ----------
    exposures
        Index table; changed in place. Exposures without any position keep NaN.
    preference
        ``header`` or ``folder`` force one kind; ``auto`` takes the header if all exposures of a run and LED have it, else the folder
        position (plus the offset of the run, if measured) for all of them.

    Returns
    -------
    offsets
        Header minus folder position of the runs.

    Raises
    ------
    PositionError
        With ``auto``: if header and folder differ by more than a constant, or if some exposures of a run and LED have only a header
        position and others only a folder position.
    """
    offsets = measure_offsets(exposures)
    if preference == "auto":
        for offset in offsets:
            if not offset.is_constant:
                raise _scattered(exposures, offset)
    known = {(offset.run, offset.job): offset for offset in offsets if offset.is_constant}
    header = np.stack([exposures["x_header_mm"], exposures["y_header_mm"]], axis=1)
    folder = np.stack([exposures["x_folder_mm"], exposures["y_folder_mm"]], axis=1)
    has_header, has_folder = (np.isfinite(place).all(axis=1) for place in (header, folder))
    run, job, led = (np.asarray(exposures[name], dtype=np.str_) for name in ("run", "job", "led"))
    place = np.full((len(exposures), 2), np.nan)
    kind = np.full(len(exposures), "", dtype="U16")
    for (run_name, led_name), rows in groups(run, led):
        placed = rows[has_header[rows] | has_folder[rows]]
        if preference == "header" or (preference == "auto" and has_header[placed].all()):
            chosen = rows[has_header[rows]]
            place[chosen], kind[chosen] = header[chosen], HEADER
            continue
        if preference == "auto" and not has_folder[placed].all():
            raise _mixed(run_name, led_name, int(has_header[placed].sum()), int(has_folder[placed].sum()), len(placed))
        for (job_name,), part in groups(job[rows]):
            chosen = rows[part][has_folder[rows[part]]]
            offset_found = known.get((run_name, "")) or known.get((run_name, job_name))
            shift = (offset_found.x_mm, offset_found.y_mm) if offset_found else (0.0, 0.0)
            place[chosen], kind[chosen] = folder[chosen] + shift, FOLDER_WITH_OFFSET if offset_found else FOLDER
    exposures["x_mm"][:], exposures["y_mm"][:] = place.T
    exposures["position_kind"] = _like(exposures["position_kind"], kind)
    return offsets


def _like(column: NDArray[np.str_], content: NDArray[np.str_]) -> NDArray[np.str_]:
    """Return a column with new text and the description of the old one."""
    replacement = column.astype(content.dtype)
    replacement[:] = content
    return replacement


def _scattered(exposures: Table, offset: RunOffset) -> PositionError:
    x_difference, y_difference, rows = _differences(exposures)
    rows = rows[np.asarray(exposures["run"], dtype=np.str_)[rows] == offset.run]
    distance = np.hypot(x_difference[rows] - offset.x_mm, y_difference[rows] - offset.y_mm)
    worst = rows[distance.argmax()]
    return PositionError(
        f"run {offset.run}: header minus folder position scatters by {offset.scatter_mm:.3f} mm around its median "
        f"({offset.x_mm:.3f}, {offset.y_mm:.3f}) mm; the worst file is {exposures['path'][worst]}",
        remedy="exclude that file, or choose the position to use with exposures.position: header or folder",
        run=offset.run,
        scatter_mm=offset.scatter_mm,
        worst=str(exposures["path"][worst]),
    )


def _mixed(run: str, led: str, n_header: int, n_folder: int, n_files: int) -> PositionError:
    return PositionError(
        f"run {run}, LED {led or 'none'}: of {n_files} files {n_header} have a header position and {n_folder} a folder position, "
        "so that neither kind covers all of them",
        remedy="choose one with exposures.position (header or folder); files without it are left out",
        run=run,
        led=led,
    )


def require_one_kind(*tables: Table) -> None:
    """Check that all exposures of one fit have comparable positions.

    Header positions and folder positions with a measured offset are comparable. Folder positions with an unknown offset are comparable only
    among themselves.

    Parameters
    ----------
    tables
        Rows of the index, for example the scan and the pointings of one LED.

    Raises
    ------
    PositionError
        If they are not comparable; the message lists the runs of each kind.
    """
    runs: dict[str, set[str]] = {}
    for table in tables:
        for kind, run in zip(table["position_kind"], table["run"], strict=True):
            runs.setdefault(str(kind), set()).add(str(run))
    if FOLDER in runs and len(runs.keys() - {""}) > 1:
        known = sorted(set().union(*(names for kind, names in runs.items() if kind not in (FOLDER, ""))))
        raise PositionError(
            f"the position of run {', '.join(sorted(runs[FOLDER]))} is known from folder names only, with an unknown offset, but that of "
            f"run {', '.join(known)} from headers",
            remedy="use folder positions for all (exposures.position: folder), or add exposures that have both",
            kinds={kind: sorted(names) for kind, names in runs.items()},
        )
