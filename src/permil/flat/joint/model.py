"""The joint model: its unknowns, their places in one vector, and the projector position of each exposure.

In logarithms, with the beam ``b = log B``, exposure scales ``s``, response ``f = log F`` on super-pixels::

    log d_ep = b(x_p - c_e) + s_e + f_p [+ r(x_p + c_e)] [+ weather] [+ gains],     c_e = (1 + m) R(theta) c_e(recorded) + j_e

``r`` is a reflected pattern (it moves against the projector), ``theta`` and ``m`` rotation and scale of the stage's axes, ``j`` the
position error of a stage move, the weather five smooth patterns of each exposure (`permil.flat.joint.weather`), the gains those of the
readout boards and steps of single amplifiers (`permil.flat.joint.gains`). A stage offset is a shift of the beam's own coordinates.
One vector holds all unknowns but ``f``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, wraps
from typing import TypeVar

import numpy as np
from scipy import sparse

from permil.arrays import FloatArray, IntArray
from permil.errors import FlatError
from permil.flat.joint.data import DetectorSignals, ExposureList
from permil.flat.joint.gains import BoardTerms, StepTerm
from permil.flat.joint.spline import SplineGrid
from permil.flat.joint.weather import PATTERNS, WeatherFrame

Result = TypeVar("Result")

MOST_UNKNOWNS = 20_000
"""Their dense matrix takes 3.2 GB, and a solution holds several of its size at a time."""

_MARGIN_MM = 0.5
"""Largest shift of positions by the fit of rotation, scale and position errors."""


def _kept(method: Callable[[JointModel, FloatArray], Result]) -> Callable[[JointModel, FloatArray], Result]:
    """Keep the result of a method for the last vector: it is the same for all detectors of a pass."""
    name = f"_kept_{method.__name__}"

    @wraps(method)
    def kept(model: JointModel, vector: FloatArray) -> Result:
        known = model.__dict__.get(name)
        if known is None or not np.array_equal(known[0], vector):
            known = model.__dict__[name] = vector.copy(), method(model, vector)
        result: Result = known[1]
        return result

    return kept


@dataclass(frozen=True)
class Pattern:
    """A pattern of light: a spline of ``x_p + sign * c_e``; sign -1 for the beam, +1 for a reflection."""

    grid: SplineGrid
    sign: float


@dataclass(frozen=True)
class BeamDetails:
    """Structure of the beam between the knots of its pattern, in addition to it and known (`permil.flat.joint.details`).

    Parameters
    ----------
    grid : SplineGrid
        Of finer knots: the beam's grid, halved once or several times.
    coefficients : ndarray, shape (grid.size,)
    prolongation : sparse array
        Turns coefficients of the beam's pattern into those on the finer grid.
    """

    grid: SplineGrid
    coefficients: FloatArray = field(repr=False)
    prolongation: sparse.csr_array = field(repr=False)


@dataclass(frozen=True)
class GainGroup:
    """Super-pixels of a detector whose gains change alike.

    Parameters
    ----------
    pixels : ndarray of int, shape (p,)
    columns : ndarray of int, shape (m,)
        Places of the unknowns, rising.
    values : ndarray, shape (e, m)
        Derivatives of the logarithm in each exposure of the detector.
    offset : ndarray, shape (e,)
        Part of the logarithm that no unknown changes.
    """

    pixels: IntArray
    columns: IntArray
    values: FloatArray
    offset: FloatArray

    def change(self, vector: FloatArray) -> FloatArray:
        """Return the gains' part of the logarithm in each exposure, shape (e,)."""
        return self.offset + self.values @ vector[self.columns]


def _as_arrays(columns: Sequence[int], values: Sequence[FloatArray], count: int) -> tuple[IntArray, FloatArray]:
    """Return places, and values as columns, shapes (m,) and (count, m)."""
    return np.array(columns, dtype=np.int64), np.array(values, dtype=np.float64).reshape(len(columns), count).T


@dataclass(frozen=True)
class JointModel:
    """Unknowns of the joint solution and their places in its vector.

    Parameters
    ----------
    patterns : tuple of Pattern
        The beam, and a reflected pattern where asked.
    exposures : ExposureList
    position_errors, geometry : bool
        Whether the stage's position errors (two per move), and its rotation and scale, are unknowns.
    weather_frame : WeatherFrame, optional
        Where the patterns of weather stand whose coefficients are unknowns; without it there are none.
    boards : BoardTerms, optional
        Readout boards whose gains change.
    gain_steps : tuple of StepTerm
        Steps of single amplifiers whose sizes are unknowns.
    details : BeamDetails, optional
        Structure of the beam between its knots.
    """

    patterns: tuple[Pattern, ...]
    exposures: ExposureList
    position_errors: bool = False
    geometry: bool = False
    weather_frame: WeatherFrame | None = None
    boards: BoardTerms | None = None
    gain_steps: tuple[StepTerm, ...] = ()
    details: BeamDetails | None = None

    @property
    def pattern_slices(self) -> list[slice]:
        """Places of the coefficients of each pattern."""
        ends = np.cumsum([pattern.grid.size for pattern in self.patterns])
        return [slice(int(end) - pattern.grid.size, int(end)) for end, pattern in zip(ends, self.patterns, strict=True)]

    @property
    def scales(self) -> slice:
        """Place of the exposure scales ``s``."""
        start = sum(pattern.grid.size for pattern in self.patterns)
        return slice(start, start + len(self.exposures))

    @cached_property
    def move_numbers(self) -> IntArray:
        """Number of the stage move of each exposure, from 0 without gaps."""
        return np.unique(self.exposures.move, return_inverse=True)[1].astype(np.int64)

    @property
    def errors(self) -> slice:
        """Place of the position errors (x and y of each stage move in turn), mm."""
        start = self.scales.stop
        return slice(start, start + (2 * (int(self.move_numbers.max()) + 1) if self.position_errors else 0))

    @property
    def stage(self) -> slice:
        """Place of rotation (radians) and scale (relative)."""
        start = self.errors.stop
        return slice(start, start + (2 if self.geometry else 0))

    @property
    def board_gains(self) -> slice:
        """Place of the unknowns of the readout boards."""
        start = self.stage.stop
        return slice(start, start + (0 if self.boards is None else self.boards.count))

    @property
    def step_sizes(self) -> slice:
        """Place of the sizes of the steps of amplifiers, relative."""
        start = self.board_gains.stop
        return slice(start, start + len(self.gain_steps))

    @property
    def weather(self) -> slice:
        """Place of the coefficients of the weather: of one pattern in all exposures, then of the next."""
        start = self.step_sizes.stop
        return slice(start, start + (0 if self.weather_frame is None else len(PATTERNS) * len(self.exposures)))

    @property
    def frames(self) -> FloatArray:
        """Place and half side of the patterns of weather in each exposure, shape (n, 3)."""
        return np.zeros((len(self.exposures), 3)) if self.weather_frame is None else self.weather_frame.rows

    @property
    def size(self) -> int:
        """Number of unknowns besides the response."""
        return int(self.weather.stop)

    def start(self) -> FloatArray:
        """Return a first vector: a constant beam, exposure scales from the photodiode."""
        vector = np.zeros(self.size)
        reading = self.exposures.log_photodiode
        known = np.isfinite(reading)
        vector[self.scales] = np.where(known, reading, np.median(reading[known]) if known.any() else 0.0)
        return vector

    def _turned(self, vector: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the recorded positions, rotated and scaled, and their derivatives with respect to angle and scale."""
        positions = self.exposures.positions
        angle, scale = vector[self.stage] if self.geometry else (0.0, 0.0)
        cosine, sine = np.cos(angle), np.sin(angle)
        turned = positions @ np.array([[cosine, sine], [-sine, cosine]])
        moved = (1.0 + scale) * turned
        return moved, np.stack([(1.0 + scale) * np.column_stack([-turned[:, 1], turned[:, 0]]), turned], axis=1)

    @_kept
    def centres(self, vector: FloatArray) -> FloatArray:
        """Return the projector position in each exposure, shape (n, 2), mm."""
        moved, _ = self._turned(vector)
        if self.position_errors:
            moved = moved + vector[self.errors].reshape(-1, 2)[self.move_numbers]
        return moved

    def weather_of(self, vector: FloatArray) -> FloatArray:
        """Return the coefficients of the weather in each exposure, shape (n, 5), or (n, 0) without weather."""
        return np.ascontiguousarray(vector[self.weather].reshape(-1, len(self.exposures)).T)

    def gain_groups(self, detector: DetectorSignals) -> list[GainGroup]:
        """Return the super-pixels of a detector in groups whose gains change alike: one, or more where amplifiers step.

        The gains' part of the logarithm does not depend on other unknowns: it is ``offset + values . vector[columns]``.
        """
        chosen, count = detector.exposures, len(detector.x_mm)
        columns, values, offset = [], [], np.zeros(len(chosen))
        if self.boards is not None and detector.name in self.boards.board_of:
            board, first = self.boards.board_of[detector.name], self.board_gains.start
            terms, boards = self.boards.values.shape[:2]
            columns += [first + board + boards * term for term in range(terms)]
            values += list(self.boards.values[:, board, chosen])
            offset = self.boards.offset[board, chosen]
        own = [(number, step) for number, step in enumerate(self.gain_steps) if step.detector == detector.name]
        amplifiers = sorted({step.amplifier for _, step in own})
        groups = []
        rest = np.ones(count, dtype=bool)
        for amplifier in amplifiers:
            its = [(self.step_sizes.start + number, step) for number, step in own if step.amplifier == amplifier]
            pixels = its[0][1].pixels
            rest &= ~pixels
            places, parts = columns + [place for place, _ in its], values + [-1.0 * step.before[chosen] for _, step in its]
            groups.append(GainGroup(np.flatnonzero(pixels), *_as_arrays(places, parts, len(chosen)), offset))
        if rest.any() or not groups:
            groups.insert(0, GainGroup(np.flatnonzero(rest), *_as_arrays(columns, values, len(chosen)), offset))
        return groups

    @_kept
    def further_columns(self, vector: FloatArray) -> tuple[IntArray, FloatArray]:
        """Return the unknowns of each exposure besides the patterns, and how the logarithm depends on them.

        Returns
        -------
        columns : ndarray of int, shape (n, m)
            Places in the vector, rising.
        parts : ndarray, shape (n, m, 3) or (n, m, 8)
            The derivative is ``parts[0] + parts[1:3] . d(log signal) / d(projector position)``, with weather ``+ parts[3:] . patterns``.
        """
        count = len(self.exposures)
        columns = [np.arange(count) + self.scales.start]
        parts = [np.tile([1.0, 0.0, 0.0], (count, 1))]
        if self.position_errors:
            first = self.errors.start + 2 * self.move_numbers
            columns += [first, first + 1]
            parts += [np.tile([0.0, 1.0, 0.0], (count, 1)), np.tile([0.0, 0.0, 1.0], (count, 1))]
        if self.geometry:
            _, derivatives = self._turned(vector)
            for number in range(2):
                columns.append(np.full(count, self.stage.start + number))
                parts.append(np.column_stack([np.zeros(count), derivatives[:, number]]))
        if self.weather_frame is None:
            return np.column_stack(columns).astype(np.int64), np.stack(parts, axis=1)
        known = np.stack(parts, axis=1)
        of_weather = np.zeros((count, len(PATTERNS), 3 + len(PATTERNS)))
        of_weather[:, :, 3:] = np.eye(len(PATTERNS))
        columns += [self.weather.start + number * count + np.arange(count) for number in range(len(PATTERNS))]
        padded = np.concatenate([known, np.zeros((count, known.shape[1], len(PATTERNS)))], axis=2)
        return np.column_stack(columns).astype(np.int64), np.concatenate([padded, of_weather], axis=1)

    def beam(self, vector: FloatArray) -> tuple[SplineGrid, FloatArray]:
        """Return grid and coefficients of ``log B``, with its details."""
        coefficients = vector[self.pattern_slices[0]]
        if self.details is None:
            return self.patterns[0].grid, coefficients
        return self.details.grid, self.details.prolongation @ coefficients + self.details.coefficients

    @_kept
    def light_arrays(self, vector: FloatArray) -> tuple[IntArray, FloatArray, FloatArray]:
        """Return the arguments of loops that predict the light: see `pattern_arrays`, and the vector with the whole beam behind it."""
        counts, places = self.pattern_arrays()
        if self.details is None:
            return counts, places, vector
        grid, coefficients = self.beam(vector)
        counts[0] = (*grid.shape, len(vector))
        places[0, :3] = (*grid.origin, grid.spacing)
        return counts, places, np.concatenate([vector, coefficients])

    def pattern_arrays(self) -> tuple[IntArray, FloatArray]:
        """Return the arguments of compiled loops for the patterns.

        Returns
        -------
        counts : ndarray of int, shape (patterns, 3)
            B-splines along the axes, place of the first coefficient.
        places : ndarray, shape (patterns, 4)
            Origin, spacing, sign.
        """
        counts = [(*pattern.grid.shape, where.start) for pattern, where in zip(self.patterns, self.pattern_slices, strict=True)]
        places = [(*pattern.grid.origin, pattern.grid.spacing, pattern.sign) for pattern in self.patterns]
        return np.array(counts, dtype=np.int64), np.array(places, dtype=np.float64)


@dataclass(frozen=True)
class Start:
    """Starting point of a solution: a vector of a model without reflection, position errors or geometry.

    Parameters
    ----------
    model : JointModel
    vector : ndarray, shape (n,)
    """

    model: JointModel
    vector: FloatArray

    def of(self, model: JointModel) -> FloatArray | None:
        """Return the vector for another model of the same exposures and patterns, new unknowns at 0; None if these differ."""
        if model.patterns != self.model.patterns or len(model.exposures) != len(self.model.exposures):
            return None
        return np.concatenate([self.vector, np.zeros(model.size - len(self.vector))])


def make_model(
    exposures: ExposureList,
    detectors: Sequence[DetectorSignals],
    *,
    spacing_mm: float,
    reflection: bool = False,
    position_errors: bool = False,
    geometry: bool = False,
    boards: BoardTerms | None = None,
) -> JointModel:
    """Return a model whose patterns cover all signals.

    Parameters
    ----------
    spacing_mm
        Distance of the knots.
    reflection
        Whether there is a reflected pattern.
    position_errors, geometry, boards
        See `JointModel`.

    Raises
    ------
    FlatError
        If there is no signal, or the knots are too many to be solved for.
    """
    signs = (-1.0, 1.0) if reflection else (-1.0,)
    patterns = []
    for sign in signs:
        lower, upper = _extent(exposures, detectors, sign)
        patterns.append(Pattern(SplineGrid.covering(lower - _MARGIN_MM, upper + _MARGIN_MM, spacing_mm), sign))
    model = JointModel(tuple(patterns), exposures, position_errors, geometry, boards=boards)
    if model.size > MOST_UNKNOWNS:
        raise FlatError(
            f"knots {spacing_mm} mm apart make {model.size} unknowns", remedy="choose a larger spacing", value=model.size
        )
    return model


@contextmanager
def require_determined(model: JointModel) -> Iterator[None]:
    """Convert the failure of a factorisation into an error: the exposures do not determine the unknowns.

    Raises
    ------
    FlatError
        If there is a matrix that is not positive definite.
    """
    try:
        yield
    except np.linalg.LinAlgError as error:
        raise FlatError(
            f"{len(model.exposures)} exposures do not determine {model.size} unknowns ({error})",
            remedy="set a larger flat.joint.spacing_mm, scan more positions, or set flat.solver: divide",
            unknowns=model.size,
        ) from error


def _extent(exposures: ExposureList, detectors: Sequence[DetectorSignals], sign: float) -> tuple[FloatArray, FloatArray]:
    lower, upper = np.full(2, np.inf), np.full(2, -np.inf)
    for detector in detectors:
        lit = np.isfinite(detector.log_signal)
        if not lit.any():
            continue
        moved = sign * exposures.positions[detector.exposures[lit.any(axis=1)]]
        places = np.column_stack([detector.x_mm, detector.y_mm])[lit.any(axis=0)]
        lower = np.minimum(lower, places.min(axis=0) + moved.min(axis=0))
        upper = np.maximum(upper, places.max(axis=0) + moved.max(axis=0))
    if not np.isfinite(lower).all():
        raise FlatError("no detector has a signal in any exposure", remedy="check masks and positions")
    return lower, upper
