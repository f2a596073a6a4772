"""Defects of sensors with known truth: dark and vampire pixels, clusters, weak and dead columns, unstable and non-linear pixels.

Each object has a cell of `CELL` x `CELL` pixels of its own, inside one amplifier and away from the edges of the sensor, so that no two
of them overlap. A column takes the pixels from its defect to the mid-line.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.table import Table

from permil.arrays import BoolArray, FloatImage
from permil.camera import Detector
from permil.config.simulate import SimulateSensor

CELL = 12
"""Side of the cell of an object, pixels."""

REFERENCE_ELECTRONS = 50_000.0
"""Charge at which the loss of a non-linear pixel is given."""

_MARGIN = 4
_CLUSTER = 3
_LEAST_LENGTH = 20


@dataclass(frozen=True)
class DrawnDefect:
    """A defect: kind, box in pixels of the detector, and strength.

    The strength is the relative loss of ``dark``, ``cluster``, ``weak_column`` and ``dead_column``; the excess of the middle of a
    ``vampire`` over its neighbours, which lose it in equal parts; the relative rms of ``unstable``, whose response has two levels; and
    the relative loss of ``nonlinear`` at `REFERENCE_ELECTRONS`.
    """

    kind: str
    x: int
    y: int
    width: int
    height: int
    strength: float

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns of the box."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)


def draw_defects(detector: Detector, settings: SimulateSensor, rng: np.random.Generator, *, edge: int) -> tuple[DrawnDefect, ...]:
    """Draw the defects of a detector; fewer than asked for if there is no place left.

    Parameters
    ----------
    edge
        Width of the zone along the edges without defects, pixels.
    """
    free = _free_cells(detector, edge)
    defects: list[DrawnDefect] = []
    sites = _column_sites(detector, rng)
    columns = (
        ("weak_column", settings.weak_columns, settings.weak_column_depth),
        ("dead_column", settings.dead_columns, (0.85, 1.0)),
    )
    for kind, count, strengths in columns:
        for number, column in sites[:count]:
            defects.append(_draw_column(detector, free, rng, (number, column), kind=kind, strengths=strengths))
        del sites[:count]
    places = np.argwhere(free)
    rng.shuffle(places)
    pixels = (
        ("dark", settings.dark_pixels, settings.pixel_strength),
        ("vampire", settings.vampire_pixels, settings.pixel_strength),
        ("cluster", settings.dark_clusters, settings.pixel_strength),
        ("unstable", settings.unstable_pixels, settings.unstable_strength),
        ("nonlinear", settings.nonlinear_pixels, settings.nonlinear_strength),
    )
    used = 0
    for kind, count, strengths in pixels:
        side = _CLUSTER if kind in ("cluster", "vampire") else 1
        for row, column in places[used : used + count]:
            y, x = (int(cell * CELL + rng.integers(_MARGIN, CELL - _MARGIN)) for cell in (row, column))
            defects.append(DrawnDefect(kind, x - side // 2, y - side // 2, side, side, float(rng.uniform(*strengths))))
        used += count
    return tuple(defects)


def _free_cells(detector: Detector, edge: int) -> BoolArray:
    """Return which cells lie inside one amplifier and away from edges and mid-line."""
    amplifiers = detector.amplifier_map()
    inner = np.zeros(detector.shape, dtype=bool)
    inner[edge : detector.ny - edge, edge : detector.nx - edge] = True
    rows, columns = (length // CELL for length in detector.shape)
    blocks = amplifiers[: rows * CELL, : columns * CELL].reshape(rows, CELL, columns, CELL)
    inside = inner[: rows * CELL, : columns * CELL].reshape(rows, CELL, columns, CELL).all(axis=(1, 3))
    free: BoolArray = inside & (blocks.min(axis=(1, 3)) == blocks.max(axis=(1, 3)))
    return free


def _column_sites(detector: Detector, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Return the numbers of amplifiers and the columns of their cells, shuffled."""
    sites = [
        (number, column)
        for number, amplifier in enumerate(detector.amplifiers)
        for column in range(-(-amplifier.x_min // CELL), (amplifier.x_min + amplifier.nx) // CELL)
        if 0 < column < detector.nx // CELL - 1
    ]
    return [sites[index] for index in rng.permutation(len(sites))]


def _draw_column(
    detector: Detector,
    free: BoolArray,
    rng: np.random.Generator,
    site: tuple[int, int],
    *,
    kind: str,
    strengths: tuple[float, float],
) -> DrawnDefect:
    """Draw a column from a defect to the mid-line, and take its cells from those that are free."""
    amplifier, column = detector.amplifiers[site[0]], site[1]
    rows, _ = amplifier.slices
    x = int(column * CELL + rng.integers(_MARGIN, CELL - _MARGIN))
    length = int(rng.integers(_LEAST_LENGTH, rows.stop - rows.start - 2 * CELL))
    begin, end = (rows.start, rows.start + length) if amplifier.flip_y else (rows.stop - length, rows.stop)
    free[begin // CELL : -(-end // CELL), column] = False
    return DrawnDefect(kind, x, begin, 1, length, float(rng.uniform(*strengths)))


def apply_to_response(response: FloatImage, defects: tuple[DrawnDefect, ...]) -> None:
    """Multiply a response by that of defects that do not depend on exposure and signal, in place."""
    for defect in defects:
        if defect.kind in ("dark", "cluster", "weak_column", "dead_column"):
            response[defect.slices] *= np.float32(1.0 - defect.strength)
        elif defect.kind == "vampire":
            factors = np.full((_CLUSTER, _CLUSTER), 1.0 - defect.strength / (_CLUSTER**2 - 1), dtype=np.float32)
            factors[_CLUSTER // 2, _CLUSTER // 2] = 1.0 + defect.strength
            response[defect.slices] *= factors


def defect_table(named: dict[str, tuple[DrawnDefect, ...]]) -> Table:
    """Return the defects of some detectors as a table."""
    rows = [
        (name, each.kind, each.x, each.y, each.width, each.height, each.strength)
        for name, defects in named.items()
        for each in defects
    ]
    names = ("detector", "kind", "x0", "y0", "width", "height", "strength")
    return Table(rows=rows, names=names, dtype=("U16", "U16", *("i4",) * 4, "f8"))
