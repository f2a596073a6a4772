"""Levels of the focal plane that a set of cells can separate, as groupings and smooth functions of position."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from permil.arrays import BoolArray, FloatArray, IntArray
from permil.errors import CompareError

LEVELS = ("place", "vendor", "raft", "detector", "amplifier", "cell", "measurement")
"""Levels from the whole focal plane down."""

COMMON, SPECIFIC, BOTH = "common", "LED", "both"
"""Part common to all LEDs, part that differs between LEDs, or both if measured with one LED."""

_ROWS_PER_TERM = 2
"""Smallest number of detectors (or amplifiers, cells) per term of the smooth function, so that it cannot follow single ones."""


@dataclass(frozen=True)
class CellPlaces:
    """Position and light of each measured cell; one entry per measurement, all of shape (n,).

    Attributes
    ----------
    detector
        Names of detectors.
    amplifier
        Names of amplifiers, unique within a detector; None if unknown.
    raft
        Names of rafts; None if unknown.
    vendor
        Vendors of the detectors; None if unknown.
    led
        Names of LEDs; None if all cells were measured in one light.
    cell
        Names or numbers of cells, unique within an amplifier: the same cell in two LEDs has the same name. None if no cell was
        measured twice.
    x_mm, y_mm
        Position in the focal plane, mm; None without a smooth function of position.
    """

    detector: NDArray[np.str_]
    amplifier: NDArray[np.str_] | None = None
    raft: NDArray[np.str_] | None = None
    led: NDArray[np.str_] | None = None
    cell: NDArray[np.generic] | None = None
    x_mm: FloatArray | None = None
    y_mm: FloatArray | None = None
    vendor: NDArray[np.str_] | None = None

    def __post_init__(self) -> None:
        """Check that all arrays have one entry per measurement."""
        size = np.asarray(self.detector).size
        for field in fields(self):
            given: ArrayLike | None = getattr(self, field.name)
            if given is None:
                continue
            array = np.asarray(given, dtype=np.float64) if field.name in ("x_mm", "y_mm") else np.asarray(given)
            if array.shape != (size,):
                raise CompareError(
                    f"{field.name} has shape {array.shape}, but there are {size} cells",
                    remedy="give one entry per cell, all arrays of one dimension",
                    value=array.shape,
                )
            object.__setattr__(self, field.name, array)
        if (self.x_mm is None) != (self.y_mm is None):
            raise CompareError("only one of x_mm and y_mm is given", remedy="give both or none")

    def __len__(self) -> int:
        """Return the number of measurements."""
        return int(self.detector.size)

    def take(self, chosen: BoolArray) -> CellPlaces:
        """Return some of the measurements."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: array[chosen] for name, array in arrays.items() if array is not None})


@dataclass(frozen=True)
class Grouping:
    """One random effect: its level and part, and the group of each measurement."""

    level: str
    part: str
    groups: IntArray
    degrees_of_freedom: int

    @property
    def count(self) -> int:
        """Number of groups."""
        return int(self.groups.max()) + 1


@dataclass(frozen=True)
class OmittedComponent:
    """A component that the cells cannot determine, and the reason."""

    level: str
    part: str
    reason: str


def numbered(*names: NDArray[np.generic]) -> IntArray:
    """Return 0-based numbers of the combinations of names."""
    numbers = np.zeros(names[0].size, dtype=np.int64)
    for name in names:
        distinct, index = np.unique(name, return_inverse=True)
        numbers = np.unique(numbers * distinct.size + index, return_inverse=True)[1]
    return numbers


def find_groupings(places: CellPlaces, *, has_errors: bool) -> tuple[list[Grouping], list[OmittedComponent]]:
    """Return the random effects that can be separated, and the omitted ones with the reason.

    Parameters
    ----------
    places
        The measurements.
    has_errors
        Whether errors of the measurements are known; otherwise the finest level includes them.
    """
    levels, left_out = _nested_levels(places)
    led = np.zeros(len(places), dtype=np.int64) if places.led is None else numbered(places.led)
    several = led.max() > 0
    groupings: list[Grouping] = []
    above, above_crossed = 1, int(led.max()) + 1
    for level, groups in levels:
        count = int(groups.max()) + 1
        crossed = numbered(groups, led)
        crossed_count = int(crossed.max()) + 1
        freedom, crossed_freedom = count - above, crossed_count - count - (above_crossed - above)
        if level == "measurement" or crossed_count == count or crossed_freedom < 1:
            reason = f"each {level} was measured in one LED only" if several else "all cells were measured in one LED"
            if level != "measurement":
                left_out.append(OmittedComponent(level, SPECIFIC, f"{reason}: light and response cannot be separated"))
            groupings.append(Grouping(level, BOTH, groups, freedom))
        else:
            groupings.append(Grouping(level, COMMON, groups, freedom))
            groupings.append(Grouping(level, SPECIFIC, crossed, crossed_freedom))
        above, above_crossed = count, crossed_count
    if not has_errors:
        finest = groupings[-1]
        left_out.append(
            OmittedComponent("noise", BOTH, f"no errors are given: the noise is part of {finest.level} ({finest.part})")
        )
    return groupings, left_out


def _nested_levels(places: CellPlaces) -> tuple[list[tuple[str, IntArray]], list[OmittedComponent]]:
    """Return nested groupings from the coarsest to the finest, each finer than the one before."""
    names = {
        "vendor": places.vendor,
        "raft": places.raft,
        "detector": places.detector,
        "amplifier": places.amplifier,
        "cell": places.cell,
    }
    if places.cell is None:
        names["cell"] = np.arange(len(places))
    led = np.zeros(len(places), dtype=np.int64) if places.led is None else numbered(places.led)
    levels: list[tuple[str, IntArray]] = []
    left_out: list[OmittedComponent] = []
    within: list[NDArray[np.generic]] = []
    for level, name in names.items():
        if name is None:
            left_out.append(OmittedComponent(level, BOTH, f"no {level}s are given"))
            continue
        within.append(name)
        groups = numbered(*within)
        count = int(groups.max()) + 1
        if count == 1:
            left_out.append(OmittedComponent(level, BOTH, f"all cells lie on one {level}"))
        elif levels and count == int(levels[-1][1].max()) + 1:
            coarser = levels[-1][0]
            # A raft with one detector counts as a detector; an amplifier with one cell remains an amplifier.
            if level == "detector":
                levels[-1] = (level, groups)
                left_out.append(OmittedComponent(coarser, BOTH, f"no {coarser} has more than one {level}: given as {level}"))
            else:
                left_out.append(OmittedComponent(level, BOTH, f"no {coarser} has more than one {level}: given as {coarser}"))
        else:
            levels.append((level, groups))
    if levels and int(numbered(levels[-1][1], led).max()) + 1 < len(places):
        levels.append(("measurement", np.arange(len(places))))
    return levels, left_out


def smooth_terms(
    places: CellPlaces, led: IntArray, weights: FloatArray, *, degree: int
) -> tuple[FloatArray, list[OmittedComponent]]:
    """Return polynomials of position, orthonormal over all measurements and without mean, shape (n, terms).

    The degree is lowered until every LED has at least two detectors (amplifiers on a single detector, cells on a single amplifier)
    per term; a smooth function that could follow single detectors would absorb their component.
    """
    if places.x_mm is None or places.y_mm is None:
        return np.zeros((len(places), 0)), [OmittedComponent("place", BOTH, "no positions in the focal plane are given")]
    unit, groups = _units(places)
    fewest = min(np.unique(groups[led == number]).size for number in range(int(led.max()) + 1))
    possible = degree
    while possible > 0 and fewest < _ROWS_PER_TERM * _term_count(possible):
        possible -= 1
    left_out = []
    if possible < degree:
        terms = f"polynomial of degree {degree} ({_term_count(degree)} terms) of position"
        reason = f"{fewest} {unit}s are too few for a {terms}: " + (f"degree {possible} is used" if possible else "none is used")
        left_out.append(OmittedComponent("place", BOTH, reason))
    if possible == 0:
        return np.zeros((len(places), 0)), left_out
    share = weights / weights.sum()
    x, y = (_standardised(place, share) for place in (places.x_mm, places.y_mm))
    terms_of_place = [x**i * y**j for i in range(possible + 1) for j in range(possible + 1 - i) if i + j > 0]
    design = np.column_stack([np.ones(len(places)), *terms_of_place]) * np.sqrt(share)[:, None]
    basis, triangle = np.linalg.qr(design)
    size = np.abs(np.diag(triangle))
    if size.min() < 1e-8 * size.max():
        return np.zeros((len(places), 0)), [
            OmittedComponent("place", BOTH, "the cells have too few positions for a smooth function")
        ]
    return np.asarray(basis[:, 1:] / np.sqrt(share)[:, None]), left_out


def _units(places: CellPlaces) -> tuple[str, IntArray]:
    """Return the coarsest of detectors, amplifiers and cells with more than one member."""
    within: list[NDArray[np.generic]] = []
    for unit, name in (("detector", places.detector), ("amplifier", places.amplifier), ("cell", places.cell)):
        if name is not None:
            within.append(name)
            groups = numbered(*within)
            if groups.max() > 0:
                return unit, groups
    return "cell", np.arange(len(places))


def _term_count(degree: int) -> int:
    return (degree + 1) * (degree + 2) // 2 - 1


def _standardised(place: FloatArray, share: FloatArray) -> FloatArray:
    from_mean = place - share @ place
    spread = np.sqrt(share @ from_mean**2)
    return from_mean if spread == 0 else np.asarray(from_mean / spread)
