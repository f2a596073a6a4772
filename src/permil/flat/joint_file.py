"""The joint solution as a file, for the flats of its detectors, the report and other readers.

The number of extensions does not depend on the number of detectors. Tables and images of the whole solution are BEAM, REFLECTION,
EXPOSURES, DRIFT, BUDGET, BOARDS, BOARD_GAINS, GAIN_STEPS, LINEARITY and PLANES (the covariance of level and gradients along X and Y of
each detector in turn, in the order of DETECTORS). Errors of detectors are in a table with one row for each, and in
images on the super-pixels of all detectors, stacked, from which those of one detector are read without the others:

============ ====================================================================================================================
DETECTORS    ``detector``; ``rows``, ``columns`` of its grid; ``first``, the number of its first super-pixel in the stacks, which
             follow row by row; ``places``, shape (n, 2), and ``covariance``, shape (n, n)
MODES        [super-pixel, mode]
REMAINDER    [super-pixel]
HALVES       [super-pixel, 2]
============ ====================================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from scipy import ndimage

from permil.arrays import Float32Array, FloatArray, IntArray
from permil.beam.model import SplineTable
from permil.beam.parameters import Hull
from permil.camera import Detector, frames
from permil.errors import InputError
from permil.flat.combine import CELL, LightLattice
from permil.flat.joint.budget import Halves, PhotodiodeCheck
from permil.flat.joint.covariance import CorrelatedModes
from permil.flat.joint.gain_steps import BoardResult, board_results, solved_steps
from permil.flat.joint.solution import JointSolution
from permil.flat.joint.weather import PATTERNS, pattern_values
from permil.products import provenance, whole_file, write_hdus

FRAME_CARDS = ("WEATHRX", "WEATHRY", "WEATHRH")
"""Cards of EXPOSURES with the centre and the half side of the patterns of weather, mm."""

JOINT_FORMAT = 3
"""Version of the file's format. Increase it when older files cannot be read, or lack what later stages need."""

_DETECTORS, _PLANES = "DETECTORS", "PLANES"

_LATTICE_MM = 0.1
"""Longest cell of a lattice on which light is known: a beam has no structure a few tenths of a millimetre wide."""


@dataclass(frozen=True)
class DetectorErrors:
    """What the joint solution says of the errors of one detector.

    Parameters
    ----------
    places : ndarray, shape (n, 2)
        Pixels (x, y) at which shared errors are followed.
    covariance : ndarray, shape (n, n)
        Relative covariance there.
    modes, remainder : ndarray, shape (k, rows, columns) and (rows, columns)
        Largest modes of correlated errors on the super-pixels, in the size of one standard deviation (relative), and the variance of
        those that are not among them.
    halves : ndarray, shape (2, rows, columns)
        Half the difference of the flats from odd and even, and from earlier and later exposures; NaN where there is none.
    """

    places: FloatArray
    covariance: FloatArray
    modes: Float32Array
    remainder: Float32Array
    halves: Float32Array


@dataclass(frozen=True)
class ExposureLight:
    """Light of one exposure.

    Parameters
    ----------
    scale, error : float
        Photodiode units, and the relative error.
    x_mm, y_mm : float
        Where the projector stood (CCS).
    weather : tuple of float
        Coefficients of the patterns of weather (`permil.flat.joint.weather`); empty without weather.
    """

    scale: float
    error: float
    x_mm: float
    y_mm: float
    weather: tuple[float, ...] = ()


def mean_light(exposures: Sequence[ExposureLight]) -> ExposureLight:
    """Return the first of some exposures of one position with the means of their places and of their weather, for their stack."""
    x_mm, y_mm = np.mean([(exposure.x_mm, exposure.y_mm) for exposure in exposures], axis=0)
    weather = np.mean([exposure.weather for exposure in exposures], axis=0)
    return replace(exposures[0], x_mm=float(x_mm), y_mm=float(y_mm), weather=tuple(weather.tolist()))


@dataclass(frozen=True)
class StoredStep:
    """A step of the gain of one amplifier: its relative size, and the observations before it; the flat belongs to those after it."""

    detector: str
    amplifier: int
    size: float
    before: frozenset[str]


@dataclass(frozen=True)
class JointLight:
    """The light that the joint solution expects on any pixel.

    Parameters
    ----------
    tables : tuple
        Logarithm of each pattern as a table, and the sign with which it moves against the projector: -1 beam, +1 reflection.
    exposures : dict
        By observation; those that were left out are not there.
    weather_frame : tuple of float
        Centre of the patterns of weather in the beam's own coordinates, and half side of their square, mm; empty without weather.
    side_mm : float
        Side of the squares over which this light is averaged.
    gains : mapping
        Of each detector whose readout board's gain changes: logarithm of what that makes of its signals, by observation.
    gain_steps : tuple of StoredStep
        Steps of single amplifiers.
    """

    tables: tuple[tuple[SplineTable, float], ...]
    exposures: Mapping[str, ExposureLight]
    weather_frame: tuple[float, ...] = ()
    side_mm: float = 0.0
    gains: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    gain_steps: tuple[StoredStep, ...] = ()

    def averaged_over(self, side_mm: float) -> JointLight:
        """Return the same light, averaged over smaller squares (pixels instead of super-pixels).

        The mean over a square of side ``s`` is ``B + (s^2 / 24) (B_xx + B_yy)`` to second order. With ``b = log B`` and
        ``k = (side_mm_before^2 - side_mm^2) / 24`` the logarithm changes by ``-k (b_xx + b_yy + b_x^2 + b_y^2)``. Of a beam and its
        reflection each is treated as if it were alone.
        """
        excess = (self.side_mm**2 - side_mm**2) / 24.0
        tables = tuple((_less_averaged(table, excess), sign) for table, sign in self.tables)
        return replace(self, tables=tables, side_mm=side_mm)

    def scale_on(self, detector: str, obsid: str) -> float:
        """Return the scale of an exposure on a detector, with the gain of its readout board."""
        return self.exposures[obsid].scale * float(np.exp(self.gains.get(detector, {}).get(obsid, 0.0)))

    def log_amplifiers(self, detector: str, obsids: Sequence[str], count: int) -> FloatArray | None:
        """Return the logarithm of what steps make of each amplifier's signals, mean of some exposures, shape (count,); None without."""
        own = [step for step in self.gain_steps if step.detector == detector]
        changes = np.zeros(count)
        for step in own:
            changes[step.amplifier] -= np.log1p(step.size) * np.mean([obsid in step.before for obsid in obsids])
        return changes if own else None

    def log_gains(self, detector: str, obsids: Sequence[str], amplifier: IntArray) -> FloatArray:
        """Return the logarithm of what gains make of the signals of a detector in some exposures, shape (e, p).

        Parameters
        ----------
        amplifier : ndarray of int, shape (p,)
            Of each super-pixel.
        """
        of_board = self.gains.get(detector, {})
        result = np.tile([[of_board.get(obsid, 0.0)] for obsid in obsids], (1, len(amplifier)))
        for row, obsid in zip(result, obsids, strict=True):
            steps = self.log_amplifiers(detector, [obsid], int(amplifier.max()) + 1)
            row += 0.0 if steps is None else steps[amplifier]
        return result

    def on_detector(self, detector: Detector, exposure: ExposureLight) -> Callable[[slice, slice], Float32Array]:
        """Return what gives the beam on rows and columns of a detector, 1 at its maximum; NaN outside the splines.

        Between pixels of a lattice it is interpolated where these are near enough to each other.
        """
        if detector.pixel_mm * CELL <= _LATTICE_MM:
            first, shape = (-CELL, -CELL), LightLattice.node_shape(detector.shape)
            return LightLattice(self._on_pixels(detector, exposure, first, shape, (CELL, CELL)), detector.shape).on_pixels

        def on_pixels(rows: slice, columns: slice) -> Float32Array:
            y, x = range(detector.ny)[rows], range(detector.nx)[columns]
            return self._on_pixels(detector, exposure, (y.start, x.start), (len(y), len(x)), (y.step, x.step))

        return on_pixels

    def _on_pixels(
        self,
        detector: Detector,
        exposure: ExposureLight,
        first: tuple[int, int],
        shape: tuple[int, int],
        step: tuple[int, int],
    ) -> Float32Array:
        """Return the beam on ``shape`` rows and columns from the ``first`` ones on, by steps."""
        origin, matrix = frames.ccs_affine(detector)
        origin = origin + matrix @ [first[1], first[0]]
        logarithms = (
            table.image(shape, origin + sign * np.array([exposure.x_mm, exposure.y_mm]), matrix * [step[1], step[0]], extent)
            for (table, sign), extent in zip(self.tables, self._extents, strict=True)
        )
        total = next(logarithms)
        for logarithm in logarithms:
            total += logarithm
        if exposure.weather:
            columns, rows = step[1] * np.arange(shape[1]), step[0] * np.arange(shape[0])[:, None]
            centre_x, centre_y, half = self.weather_frame
            projector = (exposure.x_mm + centre_x, exposure.y_mm + centre_y)
            places = (
                (origin[axis] - projector[axis] + matrix[axis, 0] * columns + matrix[axis, 1] * rows) / half for axis in (0, 1)
            )
            total += np.tensordot(exposure.weather, pattern_values(*places), axes=1).astype(np.float32)
        return np.exp(total, out=total)

    @cached_property
    def _extents(self) -> tuple[Hull, ...]:
        return tuple(_extent(table) for table, _ in self.tables)


def _less_averaged(table: SplineTable, excess_mm2: float) -> SplineTable:
    """Return ``b - k (b_xx + b_yy + b_x^2 + b_y^2)`` of a logarithm ``b``, from its derivatives on the lattice."""
    padded = np.pad(table.coefficients, 1, mode="reflect", reflect_type="odd")
    level_x, slope_x, bend_x = _derivatives(padded, table.step)
    slope_y, bend_y = _derivatives(level_x.T, table.step)[1:]
    slope_x, bend_x = (_derivatives(part.T, table.step)[0].T for part in (slope_x, bend_x))
    correction = excess_mm2 * (bend_x + bend_y.T + slope_x**2 + slope_y.T**2)
    return replace(table, coefficients=table.coefficients - ndimage.spline_filter(correction, order=3, mode="mirror"))


def _derivatives(coefficients: FloatArray, step: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return values, first and second derivatives of cubic B-splines at the inner centres along the first axis."""
    before, here, after = coefficients[:-2], coefficients[1:-1], coefficients[2:]
    return (before + 4 * here + after) / 6, (after - before) / (2 * step), (after - 2 * here + before) / step**2


def _extent(table: SplineTable) -> Hull:
    """Return the rectangle in which a spline is defined."""
    low = table.origin + table.step
    high = table.origin + table.step * (np.array(table.coefficients.shape) - 2)
    return Hull.of(np.array([low, high, [low[0], high[1]], [high[0], low[1]]]))


def joint_hdus(
    solution: JointSolution,
    *,
    obsids: list[str],
    errors: Mapping[str, DetectorErrors],
    check: PhotodiodeCheck,
    budget: Table,
    cards: Mapping[str, Any],
    log_unit: float,
    side_mm: float,
) -> list[Any]:
    """Return the HDUs of a joint solution.

    Parameters
    ----------
    obsids
        Of the exposures in their order.
    errors
        Of each detector.
    check
        Photodiode against scales.
    budget
        The error budget of the whole.
    cards
        Of the primary header.
    log_unit
        Logarithm of the solution's scale for a photodiode reading of 1, median of all exposures; their median without readings.
    side_mm
        Side of the super-pixels.
    """
    hdus: list[Any] = [fits.PrimaryHDU(header=provenance(dict(cards)))]
    patterns = zip(solution.model.patterns, solution.model.pattern_slices, strict=True)
    for number, (pattern, where) in enumerate(patterns):
        grid, coefficients = solution.model.beam(solution.vector) if number == 0 else (pattern.grid, solution.vector[where])
        level = np.array(coefficients).reshape(grid.shape)
        hdu = fits.ImageHDU(
            level - (beam_maximum(solution) if number == 0 else 0.0), name="BEAM" if number == 0 else "REFLECTION"
        )
        hdu.header["ORIGINX"] = (grid.origin[0], "[mm] place of the first coefficient")
        hdu.header["ORIGINY"] = (grid.origin[1], "[mm] place of the first coefficient")
        hdu.header["STEP"] = (grid.spacing, "[mm] distance of the knots")
        hdu.header["SIGN"] = (pattern.sign, "function of place + SIGN * projector")
        hdu.header["SIDE"] = (round(side_mm, 9), "[mm] side of the squares of its means")
        hdu.header["MEANING"] = "coefficients [x, y] of cubic B-splines of the logarithm"
        hdus.append(hdu)
    hdus += [
        _exposures_hdu(solution, obsids, check, log_unit),
        fits.BinTableHDU(_drift_table(solution), name="DRIFT"),
        fits.BinTableHDU(budget, name="BUDGET"),
        *_gain_hdus(solution, obsids),
        *error_hdus(errors),
    ]
    return hdus


def planes_hdu(planes: FloatArray) -> fits.ImageHDU:
    """Return the covariance of level (relative) and gradients (1/mm) of all detectors in turn, shape (3 n, 3 n), as an HDU."""
    hdu = fits.ImageHDU(planes, name=_PLANES)
    hdu.header["MEANING"] = "covariance: level, gradients X, Y (1/mm) of DETECTORS"
    return hdu


def read_planes(path: Path) -> tuple[list[str], FloatArray]:
    """Read the detectors of a joint solution, and the covariance of their levels and gradients (see `planes_hdu`).

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    with open_joint(path) as hdus:
        return [str(name) for name in hdus[_DETECTORS].data["detector"]], np.array(hdus[_PLANES].data, dtype=np.float64)


def error_hdus(errors: Mapping[str, DetectorErrors]) -> list[Any]:
    """Return the errors of all detectors as a table and stacks of super-pixels."""
    shapes = np.array([found.remainder.shape for found in errors.values()])
    sizes = shapes.prod(axis=1)
    table = Table(
        {
            "detector": list(errors),
            "rows": shapes[:, 0],
            "columns": shapes[:, 1],
            "first": np.cumsum(sizes) - sizes,
            "places": [found.places for found in errors.values()],
            "covariance": [found.covariance for found in errors.values()],
        }
    )
    stacks = (
        ("MODES", [found.modes.reshape(-1, found.remainder.size).T for found in errors.values()], "[super-pixel, mode]"),
        ("REMAINDER", [found.remainder.ravel() for found in errors.values()], "[super-pixel]"),
        ("HALVES", [found.halves.reshape(2, -1).T for found in errors.values()], "[super-pixel, half]"),
    )
    hdus: list[Any] = [fits.BinTableHDU(table, name=_DETECTORS)]
    for name, parts, axes in stacks:
        hdu = fits.ImageHDU(np.concatenate(parts), name=name)
        hdu.header["AXES"] = (axes, "of all detectors, see DETECTORS")
        hdus.append(hdu)
    return hdus


def errors_in(hdus: Any, names: Sequence[str] | None = None) -> dict[str, DetectorErrors]:
    """Return the errors of some detectors (of all, if None) in an open joint solution; nothing else is read.

    Raises
    ------
    ValueError
        If a stack does not have the super-pixels that DETECTORS lists.
    KeyError
        If a detector is not in the solution.
    """
    rows = {str(row["detector"]): row for row in hdus[_DETECTORS].data}
    stacks = [hdus[name] for name in ("MODES", "REMAINDER", "HALVES")]
    count = sum(int(row["rows"]) * int(row["columns"]) for row in rows.values())
    for stack in stacks:
        if len(stack.shape) != 1 + (stack.name != "REMAINDER") or stack.shape[0] != count:
            raise ValueError(f"extension {stack.name} has the shape {stack.shape}, but DETECTORS lists {count} super-pixels")
    found = {}
    for name in rows if names is None else names:
        row = rows[name]
        shape, first = (int(row["rows"]), int(row["columns"])), int(row["first"])
        modes, remainder, halves = (stack.section[first : first + shape[0] * shape[1]].astype(np.float32).T for stack in stacks)
        places, covariance = (np.asarray(row[column]).astype(np.float64) for column in ("places", "covariance"))
        stacked = (np.ascontiguousarray(part).reshape(-1, *shape) for part in (modes, halves))
        found[name] = DetectorErrors(places, covariance, next(stacked), remainder.reshape(shape), next(stacked))
    return found


def beam_maximum(solution: JointSolution) -> float:
    """Return the largest ``log B`` near the lit knots, the reference of the beam."""
    grid = solution.model.patterns[0].grid
    x, y = (np.linspace(low, high, 400) for low, high in zip(grid.lower, grid.upper, strict=True))
    return float(np.nanmax(solution.log_beam(x[:, None], y[None, :])))


def _exposures_hdu(solution: JointSolution, obsids: list[str], check: PhotodiodeCheck, log_unit: float) -> fits.BinTableHDU:
    hdu = fits.BinTableHDU(exposures_table(solution, obsids, check, log_unit), name="EXPOSURES")
    frame = solution.model.weather_frame
    if frame is not None:
        for card, value in zip(FRAME_CARDS, (*frame.centre, frame.half_mm), strict=True):
            hdu.header[card] = (float(value), "[mm] weather: centre in the beam, half side")
    return hdu


def exposures_table(solution: JointSolution, obsids: list[str], check: PhotodiodeCheck, log_unit: float) -> Table:
    """Return one row for each exposure: recorded and fitted position, scale against photodiode, tests."""
    model, tests = solution.model, solution.tests
    centres, findings = model.centres(solution.vector), solution.findings()
    table = Table(
        {
            "obsid": np.array(obsids, dtype=np.str_),
            "time": model.exposures.time,
            "x_mm": model.exposures.x_mm,
            "y_mm": model.exposures.y_mm,
            "fitted_x_mm": centres[:, 0],
            "fitted_y_mm": centres[:, 1],
            "photodiode": np.exp(model.exposures.log_photodiode),
            "scale": np.exp(solution.log_scales - log_unit),
            "scale_err": check.scale_errors,
            "deviation": check.deviation,
            "chi_square": tests.chi_square,
            "excess": tests.excess,
            "shift_x_mm": tests.shift[:, 0],
            "shift_y_mm": tests.shift[:, 1],
            "shift_x_err_mm": tests.shift_err[:, 0],
            "shift_y_err_mm": tests.shift_err[:, 1],
            "epoch": model.exposures.epoch,
            "move": model.move_numbers,
            "left_out": solution.left_out,
            "finding": np.array([findings.get(number, "") for number in range(len(obsids))], dtype=np.str_),
        }
    )
    for pattern, coefficients in zip(PATTERNS, model.weather_of(solution.vector).T, strict=False):
        table[f"weather_{pattern}"] = coefficients
    for name in table.colnames:
        if name.endswith("_mm"):
            table[name].unit = "mm"
    return table


def _gain_hdus(solution: JointSolution, obsids: Sequence[str]) -> list[Any]:
    """Return the readout boards, what they make of the signals in each exposure, and the steps of amplifiers; none without these."""
    hdus: list[Any] = []
    boards, places = solution.model.boards, solution.model.board_gains
    if boards is not None:
        detectors = [[name for name, board in boards.board_of.items() if board == number] for number in range(len(boards.names))]
        rows = [
            (*astuple(one), one.limit, one.is_dominated, " ".join(own))
            for one, own in zip(board_results(solution), detectors, strict=True)
        ]
        names = (*(each.name for each in fields(BoardResult)), "limit", "dominated", "detectors")
        hdus.append(fits.BinTableHDU(Table(rows=rows, names=names), name="BOARDS"))
        changes = np.where(boards.read, boards.changes(solution.vector[places]), np.nan)
        hdu = fits.ImageHDU(changes, name="BOARD_GAINS")
        hdu.header["MEANING"] = "logarithm of the signals' change [exposure, board]"
        hdus.append(hdu)
    if solution.model.gain_steps:
        steps = [
            (step.detector, step.amplifier, obsids[step.exposure], step.size, step.size_err) for step in solved_steps(solution)
        ]
        table = Table(rows=steps, names=("detector", "amplifier", "obsid", "size", "size_err"))
        hdu = fits.BinTableHDU(table, name="GAIN_STEPS")
        hdu.header["MEANING"] = "size: (after - before) / before; the flat is that after"
        hdus.append(hdu)
    return hdus


def _read_gains(hdus: Any) -> tuple[dict[str, dict[str, float]], tuple[StoredStep, ...]]:
    """Return what `JointLight` has of gains."""
    names = {hdu.name for hdu in hdus}
    exposures = hdus["EXPOSURES"].data
    obsids = [str(obsid) for obsid in exposures["obsid"]]
    gains: dict[str, dict[str, float]] = {}
    if "BOARDS" in names:
        for row, changes in zip(hdus["BOARDS"].data, hdus["BOARD_GAINS"].data, strict=True):
            read = {obsid: float(change) for obsid, change in zip(obsids, changes, strict=True) if np.isfinite(change)}
            gains |= dict.fromkeys(str(row["detectors"]).split(), read)
    steps = []
    if "GAIN_STEPS" in names:
        rank = np.argsort(np.argsort(exposures["time"], kind="stable"))
        for row in hdus["GAIN_STEPS"].data:
            first = rank[obsids.index(str(row["obsid"]))]
            before = frozenset(obsid for obsid, place in zip(obsids, rank, strict=True) if place < first)
            steps.append(StoredStep(str(row["detector"]), int(row["amplifier"]), float(row["size"]), before))
    return gains, tuple(steps)


def _drift_table(solution: JointSolution) -> Table:
    drifts = solution.prior.photodiode.drifts
    rows = [(drift.amplitude, drift.length, drift.probability) for drift in drifts]
    return Table(rows=rows or None, names=("amplitude", "length", "probability"), dtype=("f8", "f8", "f8"))


def detector_errors(
    modes: CorrelatedModes,
    name: str,
    places: FloatArray,
    covariance: FloatArray,
    shape: tuple[int, int],
    where: tuple[Any, Any],
    halves: Halves | None,
) -> DetectorErrors:
    """Return what the modes, and halves of the exposures, say of one detector, on its grid of super-pixels.

    Super-pixels without a response, as those at an edge that hold few pixels, have the correlated errors of the nearest one with a
    response: their pixels are divided by the same light.

    Parameters
    ----------
    where
        Row and column of each super-pixel.
    """
    pattern = np.zeros((len(modes.variance), *shape), dtype=np.float32)
    pattern[:, where[0], where[1]] = modes.patterns[name]
    remainder = np.zeros(shape, dtype=np.float32)
    remainder[where] = np.nan_to_num(modes.remainder[name])
    known = np.zeros(shape, dtype=np.bool_)
    known[where] = np.isfinite(modes.independent[name])
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    pattern, remainder = pattern[:, *nearest], remainder[*nearest]
    differences = np.full((2, *shape), np.nan, dtype=np.float32)
    if halves is not None:
        differences[:, where[0], where[1]] = np.array([halves.odd.difference[name], halves.early.difference[name]]) / 2
    return DetectorErrors(places, covariance, pattern, remainder, differences)


def is_converged(header: Mapping[str, Any]) -> bool:
    """Return whether the solution with this primary header converged.

    It did if its Newton decrement (card ``DECREMEN``) is within the limit (``DECRETOL``); without these cards it did not.
    """
    decrement, limit = (float(header.get(card, np.nan)) for card in ("DECREMEN", "DECRETOL"))
    return decrement <= limit


def write_joint(path: Path, hdus: list[Any]) -> None:
    """Write a joint solution.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    write_hdus(path, hdus)


def read_light(path: Path) -> JointLight:
    """Read what light a joint solution expects.

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    with open_joint(path) as hdus:
        tables = []
        for hdu in hdus:
            if hdu.name in ("BEAM", "REFLECTION"):
                origin = np.array([hdu.header["ORIGINX"], hdu.header["ORIGINY"]], dtype=np.float64)
                coefficients = np.array(hdu.data, dtype=np.float64)
                tables.append((SplineTable(coefficients, origin, float(hdu.header["STEP"])), float(hdu.header["SIGN"])))
        frame = tuple(float(hdus["EXPOSURES"].header[name]) for name in FRAME_CARDS if name in hdus["EXPOSURES"].header)
        exposures = {
            str(row["obsid"]): ExposureLight(
                float(row["scale"]),
                float(row["scale_err"]),
                float(row["fitted_x_mm"]),
                float(row["fitted_y_mm"]),
                tuple(float(row[f"weather_{pattern}"]) for pattern in PATTERNS) if frame else (),
            )
            for row in hdus["EXPOSURES"].data
            if not row["left_out"]
        }
        side_mm = float(hdus["BEAM"].header["SIDE"])
        return JointLight(tuple(tables), exposures, frame, side_mm, *_read_gains(hdus))


def read_errors(path: Path, detector: str) -> tuple[DetectorErrors, Table]:
    """Read what a joint solution says of the errors of a detector, and its error budget.

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    with open_joint(path) as hdus:
        return errors_in(hdus, [detector])[detector], Table(hdus["BUDGET"].data)


@contextmanager
def open_joint(path: Path) -> Iterator[Any]:
    """Open a joint solution; only what is used of its HDUs is read.

    Raises
    ------
    InputError
        If the file is missing, damaged, or of an older format.
    """
    try:
        with whole_file(path), fits.open(path, memmap=False, lazy_load_hdus=True) as hdus:
            if _DETECTORS not in hdus and any(hdu.name.startswith("COVARIANCE_") for hdu in hdus):
                raise InputError("has the format of an older version of permil", path=path, remedy="run `permil flat` again")
            yield hdus
    except InputError:
        raise
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"cannot be read as a joint solution ({error})", path=path, remedy="make the flat again") from error
