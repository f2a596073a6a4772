"""Classify exposures by purpose: bias, beam scan, pointing of the flat, or other.

Run numbers and folder names are not reliable, so positions decide. For each LED, the projector positions are searched for regular
grids. A grid with one exposure per node is a scan. A grid with several consecutive exposures per node is a set of pointings, and so is
every position off a grid. Runs may be named explicitly instead.

A scan steps the projector over a rectangular grid, which is recognised by its steps: its nodes have neighbours one step away along X or Y.
The quincunx of five pointings per detector does not link up in this way: the gap between the pointings of one detector differs from the gap
to the next detector, so that only a few of them join. Missing nodes, missing columns, an unfinished last column, a slight rotation and
jitter are allowed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from permil.arrays import BoolArray, FloatArray, IntArray
from permil.camera import Camera
from permil.errors import PositionError
from permil.exposures.positions import groups

# Fewer nodes do not constrain a beam model, and nine pointings in a raft can look like a grid.
MIN_NODES = 16
# Fraction of the crossings of rows and columns that must be occupied.
MIN_FILL = 0.5
# Fraction of the sites inside the window of a grid that must be nodes: pointings at all detectors form five interleaved grids.
MIN_SHARE = 0.28
_GAPS_TRIED = 5
_CELLS_PER_TOLERANCE = 10


@dataclass(frozen=True)
class Lattice:
    """A regular grid among sites.

    Attributes
    ----------
    nodes
        Sorted indices of the sites that form the grid.
    continued
        Sorted indices of the nodes and of further sites on the extended grid, up to one grid length away: nodes of an unfinished scan, or
        sites that coincide with the grid by chance.
    """

    nodes: IntArray
    continued: IntArray


def cluster(x: FloatArray, y: FloatArray, *, tolerance_mm: float, require_compact: bool = True) -> IntArray:
    """Return a label for each position; positions within the tolerance of each other, directly or by a chain, share a label.

    Labels are numbered in the order of the clusters' mean positions (x, then y), whatever the order of the input.

    Raises
    ------
    PositionError
        If ``require_compact`` and a chain of close positions is longer than twice the tolerance, so that jitter cannot be distinguished
        from steps.
    """
    if len(x) == 0:
        return np.zeros(0, dtype=np.int64)
    points = np.stack([x, y], axis=1)
    # Thousands of images at one position would make millions of pairs: positions in one cell count as one point.
    cell = tolerance_mm / _CELLS_PER_TOLERANCE
    cells, member_of = np.unique(np.rint(points / cell).astype(np.int64), axis=0, return_inverse=True)
    pairs = cKDTree(cells).query_pairs(_CELLS_PER_TOLERANCE, output_type="ndarray")
    labels = _components(len(cells), pairs)[member_of]
    counts = np.bincount(labels)
    means = np.stack([np.bincount(labels, weights=axis) / counts for axis in (x, y)], axis=1)
    if require_compact:
        distance = np.hypot(*(points - means[labels]).T)
        if distance.max() > tolerance_mm:
            worst = distance.argmax()
            raise PositionError(
                f"positions near ({x[worst]:.3f}, {y[worst]:.3f}) mm form a chain longer than {2 * tolerance_mm:g} mm with gaps below "
                f"{tolerance_mm:g} mm: steps cannot be distinguished from jitter",
                remedy="set exposures.same_position_mm below the smallest step",
                value=float(distance.max()),
            )
    rank = np.empty(len(means), dtype=np.int64)
    rank[np.lexsort((means[:, 1], means[:, 0]))] = np.arange(len(means))
    return rank[labels]


def _components(n_points: int, pairs: IntArray) -> IntArray:
    links = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n_points, n_points))
    labels: IntArray = connected_components(links, directed=False)[1].astype(np.int64)
    return labels


def find_lattices(x: FloatArray, y: FloatArray, *, tolerance_mm: float) -> list[Lattice]:
    """Return the regular grids among sites, the largest first.

    Parameters
    ----------
    x, y : ndarray, shape (n,)
        Distinct sites, mm.
    tolerance_mm
        Largest distance of a node from its nominal position in the grid.
    """
    free = np.arange(len(x))
    found: list[Lattice] = []
    while len(free) >= MIN_NODES:
        lattice = _largest_lattice(np.stack([x[free], y[free]], axis=1), tolerance_mm)
        if lattice is None:
            break
        found.append(Lattice(free[lattice.nodes], free[lattice.continued]))
        free = np.delete(free, lattice.nodes)
    return found


def _largest_lattice(points: FloatArray, tolerance_mm: float) -> Lattice | None:
    tree = cKDTree(points)
    x, y = points.T
    gaps = [_frequent_gaps(x, y, tolerance_mm), _frequent_gaps(y, x, tolerance_mm)]
    # A scan that has only begun may have a single gap along X, probably the same as along Y.
    links = [
        [_step_links(tree, points, step * direction, tolerance_mm) for step in [*gaps[axis], *gaps[1 - axis][:1]]]
        for axis, direction in enumerate(np.eye(2))
    ]
    none = np.zeros((0, 2), dtype=np.int64)
    best: Lattice | None = None
    for pairs_x in links[0] or [none]:
        for pairs_y in links[1] or [none]:
            labels = _components(len(points), np.concatenate([pairs_x, pairs_y]))
            counts = np.bincount(labels)
            for label in np.flatnonzero(counts >= MIN_NODES):
                nodes = np.flatnonzero(labels == label)
                if best is not None and len(nodes) <= len(best.nodes):
                    continue
                lattice = _completed(points, nodes, pairs_x, pairs_y, tolerance_mm)
                if _is_filled_grid(points, lattice.nodes, tolerance_mm) and (
                    best is None or len(lattice.nodes) > len(best.nodes)
                ):
                    best = lattice
    return best


def _frequent_gaps(along: FloatArray, across: FloatArray, tolerance_mm: float) -> list[float]:
    """Return the distances to the next site in the same row, the most frequent first."""
    order = np.argsort(across, kind="stable")
    row = np.empty(len(along), dtype=np.int64)
    row[order] = np.cumsum(np.concatenate([[0], np.diff(across[order]) > tolerance_mm]))
    order = np.lexsort((along, row))
    gaps = np.diff(along[order])[np.diff(row[order]) == 0]
    gaps = np.sort(gaps[gaps > tolerance_mm])
    steps: list[float] = []
    while len(gaps) and len(steps) < _GAPS_TRIED:
        ends = np.searchsorted(gaps, gaps + 2 * tolerance_mm, side="right")
        start = int((ends - np.arange(len(gaps))).argmax())
        steps.append(float(np.median(gaps[start : ends[start]])))
        gaps = np.delete(gaps, slice(start, ends[start]))
    return steps


def _step_links(tree: cKDTree, points: FloatArray, step: FloatArray, tolerance_mm: float) -> IntArray:
    """Return the pairs of sites that are one step apart."""
    distance, neighbour = (np.asarray(part) for part in tree.query(points + step, distance_upper_bound=tolerance_mm))
    start = np.flatnonzero(np.isfinite(distance))
    return np.stack([start, neighbour[start]], axis=1).astype(np.int64)


def _completed(points: FloatArray, nodes: IntArray, pairs_x: IntArray, pairs_y: IntArray, tolerance_mm: float) -> Lattice:
    """Add sites that continue a grid across one missing row or column, and find those farther away."""
    steps = [_mean_step(points, nodes, pairs, axis) for axis, pairs in enumerate((pairs_x, pairs_y))]
    # An axis without steps cannot be extended.
    has_step = np.array([step > 0 for step in steps])
    while True:
        cells = _cells(points, nodes, steps)
        origin_and_steps, _, _, _ = np.linalg.lstsq(_design(cells[nodes]), points[nodes], rcond=None)
        fits = np.abs(points - _design(cells) @ origin_and_steps).max(axis=1) < tolerance_mm
        low, high = cells[nodes].min(axis=0), cells[nodes].max(axis=0)
        length = max(2, int((high - low).max()))
        near, far = (
            np.flatnonzero(fits & ((cells >= low - reach) & (cells <= high + reach)).all(axis=1))
            for reach in (2 * has_step, length * has_step)
        )
        grown = np.union1d(nodes, near)
        if len(grown) == len(nodes):
            return Lattice(nodes, np.union1d(nodes, far))
        nodes = grown


def _mean_step(points: FloatArray, nodes: IntArray, pairs: IntArray, axis: int) -> float:
    inside = pairs[np.isin(pairs[:, 0], nodes)]
    return float((points[inside[:, 1], axis] - points[inside[:, 0], axis]).mean()) if len(inside) else 0.0


def _cells(points: FloatArray, nodes: IntArray, steps: list[float]) -> IntArray:
    """Return column and row numbers of all sites in the grid of the nodes."""
    origin = points[nodes[0]]
    columns = [
        np.rint((points[:, axis] - origin[axis]) / step) if step > 0 else np.zeros(len(points)) for axis, step in enumerate(steps)
    ]
    return np.stack(columns, axis=1).astype(np.int64)


def _design(cells: IntArray) -> FloatArray:
    return np.concatenate([np.ones((len(cells), 1)), cells], axis=1)


def _is_filled_grid(points: FloatArray, nodes: IntArray, tolerance_mm: float) -> bool:
    """Return whether the nodes fill rows times columns, and are not one of several interleaved grids."""
    labels = []
    for axis in (0, 1):
        order = np.argsort(points[nodes, axis], kind="stable")
        label = np.empty(len(nodes), dtype=np.int64)
        label[order] = np.cumsum(np.concatenate([[0], np.diff(points[nodes, axis][order]) > tolerance_mm]))
        labels.append(label)
    occupied = np.zeros((labels[0].max() + 1, labels[1].max() + 1), dtype=bool)
    occupied[labels[0], labels[1]] = True
    low, high = points[nodes].min(axis=0) - tolerance_mm, points[nodes].max(axis=0) + tolerance_mm
    inside = ((points >= low) & (points <= high)).all(axis=1).sum()
    return _fill(occupied) >= MIN_FILL and len(nodes) >= MIN_SHARE * inside


def _fill(occupied: BoolArray) -> float:
    # The last column or row may be unfinished: the least occupied one is ignored if there are others.
    fills = [occupied.mean()]
    for axis in (0, 1):
        if occupied.shape[axis] > 1:
            per_line = occupied.mean(axis=1 - axis)
            fills.append(np.delete(occupied, per_line.argmin(), axis=axis).mean())
    return float(max(fills))


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
    current_a: FloatArray
    exposure_s: FloatArray
    x_mm: FloatArray
    y_mm: FloatArray
    detectors: list[frozenset[str]]
    rows: list[IntArray]

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
    aimed = camera.detector_at(np.asarray(exposures["x_mm"]), np.asarray(exposures["y_mm"]))
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


def _on_scan_grid(listed: CcobExposures, members: IntArray, tolerance_mm: float) -> BoolArray:
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


def _units(listed: CcobExposures, members: IntArray, site: IntArray) -> list[_Unit]:
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


def _position_ids(listed: CcobExposures, purpose: NDArray[np.str_], tolerance_mm: float) -> IntArray:
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
