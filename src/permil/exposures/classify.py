"""Classify exposures by purpose: bias, beam scan, pointing of the flat, or other.

Run numbers and folder names are not reliable, so positions decide. For each LED, the projector positions are searched for regular
grids (see `permil.exposures.lattice`). A grid with one exposure per node is a scan. A grid with several consecutive exposures per node
is a set of pointings, and so is every position off a grid. Runs may be named explicitly instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from permil.camera import Camera
from permil.errors import PositionError
from permil.exposures.lattice import Lattice, cluster, find_lattices
from permil.exposures.positions import groups

BIAS, SCAN, POINTING, SPOT, OTHER = "bias", "scan", "pointing", "spot", "other"
# Positions within this distance count as one; the stage repeats to 0.01 mm.
SAME_POSITION_MM = 0.1

# A node may be exposed twice after an interruption; more exposures at one position are intentional.
_MAX_IMAGES_OF_NODE = 2
# A job belongs to a grid if at least this number or this fraction of its positions are nodes; chance coincidences reach neither.
_MIN_NODES_OF_JOB = 16
_MIN_SHARE_OF_JOB = 0.5
# Up to this number of exposures of a job off the grid are displaced nodes, or the first nodes of a new column.
_MAX_STRAGGLERS = 3
# A set of detectors belongs to a scan if it was read at this fraction of the nodes (files may be missing at some).
_MIN_SHARE_OF_READOUT = 0.1


@dataclass(frozen=True)
class _Unit:
    """Consecutive images at one position, of one job, with the same detectors and settings."""

    site: int
    run: str
    job: str
    detectors: frozenset[str]
    exposures: tuple[int, ...]


@dataclass(frozen=True)
class CcobExposures:
    """The CCOB exposures of an index, one entry per exposure.

    Attributes
    ----------
    rows : list of ndarray
        Rows of the index table (detectors) of each exposure.
    """

    led: NDArray[np.str_]
    run: NDArray[np.str_]
    job: NDArray[np.str_]
    current_a: NDArray[np.float64]
    exposure_s: NDArray[np.float64]
    x_mm: NDArray[np.float64]
    y_mm: NDArray[np.float64]
    detectors: list[frozenset[str]]
    rows: list[NDArray[np.int64]]

    def settings(self, index: int) -> str:
        """Return LED current and exposure time of an exposure as text (so that NaN equals NaN)."""
        return f"{self.current_a[index]:.6g} {self.exposure_s[index]:.6g}"

    @classmethod
    def from_table(cls, exposures: Table, *, tolerance_mm: float) -> CcobExposures:
        """Group the files of each CCOB exposure that has a position.

        Raises
        ------
        PositionError
            If the files of one exposure disagree about the position.
        """
        led, obsid, detector = (np.asarray(exposures[name], dtype=np.str_) for name in ("led", "obsid", "detector"))
        x_mm, y_mm = np.asarray(exposures["x_mm"]), np.asarray(exposures["y_mm"])
        placed = np.flatnonzero((led != "") & np.isfinite(x_mm + y_mm))
        rows = [placed[members] for _, members in groups(led[placed], obsid[placed])]
        for members in rows:
            if max(np.ptp(x_mm[members]), np.ptp(y_mm[members])) > tolerance_mm:
                raise PositionError(
                    f"the files of exposure {obsid[members[0]]} disagree about the position of the projector",
                    path=str(exposures["path"][members[0]]),
                    remedy="exclude the wrong files",
                    obsid=str(obsid[members[0]]),
                )
        first = np.array([members[0] for members in rows], dtype=np.int64)
        return cls(
            led=led[first],
            run=np.asarray(exposures["run"], dtype=np.str_)[first],
            job=np.asarray(exposures["job"], dtype=np.str_)[first],
            current_a=np.asarray(exposures["current_a"])[first],
            exposure_s=np.asarray(exposures["exposure_s"])[first],
            x_mm=x_mm[first],
            y_mm=y_mm[first],
            detectors=[frozenset(detector[members].tolist()) for members in rows],
            rows=rows,
        )


def aimed_detector(camera: Camera, x_mm: NDArray[np.float64], y_mm: NDArray[np.float64]) -> NDArray[np.str_]:
    """Return the name of the detector that the projector points at, "" if there is none or no position is known.

    Parameters
    ----------
    x_mm, y_mm
        Projector positions, CCS mm.
    """
    return camera.detector_at(x_mm, y_mm)


def classify(
    exposures: Table,
    camera: Camera,
    *,
    scan_runs: Collection[str] = (),
    pointing_runs: Collection[str] = (),
    same_position_mm: float = SAME_POSITION_MM,
) -> None:
    """Fill in ``purpose``, ``position_id`` and ``aimed``.

    Parameters
    ----------
    exposures
        Index table with resolved positions; changed in place.
    camera
        Used to find the detector that the projector points at. A pointing at no detector becomes ``other``.
    scan_runs, pointing_runs
        Runs that hold scans or pointings. A run named in one of them holds nothing else; exposures of a run named in both are classified by
        their positions. If one of them is given, no other run is used for that purpose.
    same_position_mm
        Positions within this distance count as one.

    Raises
    ------
    PositionError
        If jitter cannot be distinguished from steps, or the files of one exposure disagree.
    """
    table_purpose = _purpose_by_header(exposures)
    table_position = np.full(len(exposures), -1, dtype=np.int64)
    aimed = aimed_detector(camera, np.asarray(exposures["x_mm"]), np.asarray(exposures["y_mm"]))
    listed = CcobExposures.from_table(exposures, tolerance_mm=same_position_mm)
    purpose = np.full(len(listed.led), OTHER, dtype="U8")
    for _, members in groups(listed.led):
        on_grid = _on_scan_grid(listed, members, same_position_mm)
        for index, is_node in zip(members, on_grid, strict=True):
            purpose[index] = _decide(str(listed.run[index]), bool(is_node), scan_runs, pointing_runs)
    for index, rows in enumerate(listed.rows):
        if purpose[index] == POINTING and aimed[rows[0]] == "":
            purpose[index] = OTHER
        table_purpose[rows] = purpose[index]
    position = _position_ids(listed, purpose, same_position_mm)
    for index, rows in enumerate(listed.rows):
        table_position[rows] = position[index]
    for name, content in (("purpose", table_purpose), ("aimed", aimed), ("position_id", table_position)):
        column = exposures[name].astype(content.dtype)
        column[:] = content
        exposures[name] = column


def _purpose_by_header(exposures: Table) -> NDArray[np.str_]:
    """Return the purpose that follows from the image and test types alone."""
    image_type, test_type = (np.asarray(exposures[name], dtype=np.str_) for name in ("image_type", "test_type"))
    is_bias = image_type == BIAS
    is_spot = (image_type == SPOT) | (np.char.startswith(test_type, SPOT) & ~np.isin(image_type, (BIAS, "dark")))
    return np.select([is_bias, is_spot], [BIAS, SPOT], OTHER).astype("U8")


def _decide(run: str, is_node: bool, scan_runs: Collection[str], pointing_runs: Collection[str]) -> str:
    in_scan, in_pointings = run in scan_runs, run in pointing_runs
    if in_scan != in_pointings:
        return SCAN if in_scan else POINTING
    by_position = SCAN if is_node else POINTING
    if not in_scan and (scan_runs if is_node else pointing_runs):
        return OTHER
    return by_position


def _on_scan_grid(listed: CcobExposures, members: NDArray[np.int64], tolerance_mm: float) -> NDArray[np.bool_]:
    """Return a mask of the exposures of one LED that are nodes of a scan."""
    # Nearly coincident positions of different runs are merged into one site, which does not affect the grid.
    site = cluster(listed.x_mm[members], listed.y_mm[members], tolerance_mm=tolerance_mm, require_compact=False)
    counts = np.bincount(site)
    x, y = (np.bincount(site, weights=axis[members]) / counts for axis in (listed.x_mm, listed.y_mm))
    units = _units(listed, members, site)
    is_node = np.zeros(len(members), dtype=bool)
    for lattice in find_lattices(x, y, tolerance_mm=tolerance_mm):
        for unit in _scan_units(units, lattice):
            is_node[list(unit.exposures)] = True
    return is_node


def _units(listed: CcobExposures, members: NDArray[np.int64], site: NDArray[np.int64]) -> list[_Unit]:
    together: dict[tuple[int, str, str, frozenset[str], str], list[int]] = {}
    for number, index in enumerate(members):
        key = (int(site[number]), str(listed.run[index]), str(listed.job[index]), listed.detectors[index], listed.settings(index))
        together.setdefault(key, []).append(number)
    return [_Unit(*key[:4], tuple(numbers)) for key, numbers in together.items()]


def _scan_units(units: list[_Unit], lattice: Lattice) -> list[_Unit]:
    """Return the units that belong to a scan over a grid; none if its positions were exposed repeatedly."""
    nodes, continued = set(lattice.nodes.tolist()), set(lattice.continued.tolist())
    sites_of_job: dict[tuple[str, str], set[int]] = {}
    for unit in units:
        sites_of_job.setdefault((unit.run, unit.job), set()).add(unit.site)
    taking_part = {
        job
        for job, sites in sites_of_job.items()
        if len(sites & nodes) >= min(_MIN_NODES_OF_JOB, _MIN_SHARE_OF_JOB * len(sites)) and sites & nodes
    }
    candidates = [unit for unit in units if unit.site in nodes and (unit.run, unit.job) in taking_part]
    if not candidates:
        return []
    repeats = np.median([len(unit.exposures) for unit in candidates])
    if repeats > 1:
        return []
    counts = Counter(unit.detectors for unit in candidates)
    usual = [detectors for detectors, count in counts.items() if count >= _MIN_SHARE_OF_READOUT * len(candidates)]
    read = frozenset().union(*usual)
    eligible = [
        unit
        for unit in units
        if (unit.run, unit.job) in taking_part and len(unit.exposures) <= _MAX_IMAGES_OF_NODE and unit.detectors <= read
    ]
    off_grid = Counter((unit.run, unit.job) for unit in eligible if unit.site not in continued)
    return [unit for unit in eligible if unit.site in continued or off_grid[unit.run, unit.job] <= _MAX_STRAGGLERS]


def _position_ids(listed: CcobExposures, purpose: NDArray[np.str_], tolerance_mm: float) -> NDArray[np.int64]:
    """Number the groups of exposures that may be stacked: same LED, purpose, run, position, current and exposure time."""
    identifiers = np.full(len(purpose), -1, dtype=np.int64)
    settings = np.array([listed.settings(index) for index in range(len(purpose))], dtype=np.str_)
    number = 0
    for _, members in groups(listed.led, purpose, listed.run):
        place = cluster(listed.x_mm[members], listed.y_mm[members], tolerance_mm=tolerance_mm)
        ordered = np.char.zfill(place.astype(np.str_), 9)
        for _, part in groups(ordered, settings[members]):
            identifiers[members[part]] = number
            number += 1
    return identifiers


def position_table(exposures: Table) -> Table:
    """Return one row per group of exposures that may be stacked.

    Parameters
    ----------
    exposures
        Classified index table.

    Returns
    -------
    positions
        Columns ``position_id``, ``led``, ``purpose``, ``run``, ``x_mm``, ``y_mm`` (means), ``position_kind``, ``aimed``,
        ``current_a``, ``exposure_s``, ``n_exposures`` and ``n_detectors``.
    """
    position = np.asarray(exposures["position_id"])
    order = np.argsort(position, kind="stable")
    order = order[np.searchsorted(position[order], 0) :]
    numbers, starts, counts = np.unique(position[order], return_index=True, return_counts=True)
    positions = Table({"position_id": numbers})
    for name in ("led", "purpose", "run", "x_mm", "y_mm", "position_kind", "aimed", "current_a", "exposure_s"):
        column = exposures[name][order]
        positions[name] = np.add.reduceat(column, starts) / counts if name in ("x_mm", "y_mm") and len(order) else column[starts]
    for name, counted in (("n_exposures", "obsid"), ("n_detectors", "detector")):
        pairs = np.unique(np.stack([position[order].astype(np.str_), np.asarray(exposures[counted][order], np.str_)]), axis=1)
        owners, distinct = np.unique(pairs[0].astype(np.int64), return_counts=True)
        positions[name] = distinct[np.searchsorted(owners, numbers)]
    return positions
