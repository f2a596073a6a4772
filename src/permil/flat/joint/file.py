"""File of a joint solution, for the flats of its detectors, the report and other readers.

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

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from scipy import ndimage

from permil.arrays import Float32Array, FloatArray
from permil.beam.model import SplineTable
from permil.errors import InputError
from permil.flat.joint.budget import Halves, PhotodiodeCheck
from permil.flat.joint.covariance import CorrelatedModes
from permil.flat.joint.gain_steps import BoardResult, board_results, solved_steps
from permil.flat.joint.light import ExposureLight, JointLight, StoredStep
from permil.flat.joint.solution import JointSolution
from permil.flat.joint.weather import PATTERNS
from permil.products import provenance, whole_file

FRAME_CARDS = ("WEATHRX", "WEATHRY", "WEATHRH")
"""Cards of EXPOSURES with the centre and the half side of the patterns of weather, mm."""

JOINT_FORMAT = 3
"""Version of the file's format. Increase it when older files cannot be read, or lack what later stages need."""

_DETECTORS, _PLANES = "DETECTORS", "PLANES"


@dataclass(frozen=True)
class DetectorErrors:
    """Errors of the flat of one detector from the joint solution.

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
            level - (_beam_maximum(solution) if number == 0 else 0.0), name="BEAM" if number == 0 else "REFLECTION"
        )
        hdu.header["ORIGINX"] = (grid.origin[0], "[mm] position of the first coefficient")
        hdu.header["ORIGINY"] = (grid.origin[1], "[mm] position of the first coefficient")
        hdu.header["STEP"] = (grid.spacing, "[mm] distance of the knots")
        hdu.header["SIGN"] = (pattern.sign, "function of position + SIGN * projector")
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


def _beam_maximum(solution: JointSolution) -> float:
    """Return the largest ``log B`` near the lit knots, the reference of the beam."""
    grid = solution.model.patterns[0].grid
    x, y = (np.linspace(low, high, 400) for low, high in zip(grid.lower, grid.upper, strict=True))
    return float(np.nanmax(solution.log_beam(x[:, None], y[None, :])))


def _exposures_hdu(solution: JointSolution, obsids: list[str], check: PhotodiodeCheck, log_unit: float) -> fits.BinTableHDU:
    hdu = fits.BinTableHDU(_exposures_table(solution, obsids, check, log_unit), name="EXPOSURES")
    frame = solution.model.weather_frame
    if frame is not None:
        for card, value in zip(FRAME_CARDS, (*frame.centre, frame.half_mm), strict=True):
            hdu.header[card] = (float(value), "[mm] weather: centre in the beam, half side")
    return hdu


def _exposures_table(solution: JointSolution, obsids: list[str], check: PhotodiodeCheck, log_unit: float) -> Table:
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
    """Return the readout boards, the changes of the signals that they cause in each exposure, and the steps of amplifiers, as HDUs."""
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
        hdu.header["MEANING"] = "size: (after - before) / before; the flat refers to after"
        hdus.append(hdu)
    return hdus


def _read_gains(hdus: Any) -> tuple[dict[str, dict[str, float]], tuple[StoredStep, ...]]:
    """Return the gains of boards and the steps of amplifiers for a `JointLight`."""
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
    """Return the errors of one detector on its grid of super-pixels, from the modes and from halves of the exposures.

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


def read_light(path: Path) -> JointLight:
    """Read the light that a joint solution expects.

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
    """Read the errors of a detector by a joint solution, and its error budget.

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    with open_joint(path) as hdus:
        return errors_in(hdus, [detector])[detector], Table(hdus["BUDGET"].data)


@contextmanager
def open_joint(path: Path) -> Iterator[Any]:
    """Open a joint solution; HDUs are read when they are used.

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
