"""Errors shared by the flats of two LEDs of one run, for their ratio.

LEDs are solved for separately, but they share the photodiode with its electronics, stage moves, and readout boards. Such a term
changes level and gradients of a detector by ``G d``, with the response ``G`` (`permil.flat.joint.covariance.PlaneResponses`) to a
deviation ``d`` of the prior's mean from the truth. With the covariance ``C`` of the deviations of both LEDs::

    cov(planes of a, planes of b) = G_a C_ab G_b'

- Photodiode: drift and offsets of epochs belong to the electronics and are the same at the same time. The noise of each reading is
  independent.
- Stage: LEDs that were exposed one after the other at one position share a move and its error.
- Readout boards: the temperature coefficient belongs to the board. Its slow change in time is shared by LEDs exposed by turns.

A flat refers to the mean temperature of each readout board. If it differs between LEDs, or these were exposed one after the other,
the gains differ as well: this adds an error to the ratio, common to all detectors of a board.

Gains and linearity are the same for all LEDs of a run and cancel in a ratio. Photon noise, weather, and the errors of each LED's own
beam are independent between LEDs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

from permil.arrays import BoolArray, FloatArray, IntArray
from permil.flat.joint.covariance import FlatCovariance, PlaneResponses
from permil.flat.joint.gain_steps import board_results
from permil.flat.joint.gains import COMMON_COEFFICIENT, OWN_COEFFICIENT, TIME_FUNCTIONS, UNKNOWN_COEFFICIENT
from permil.flat.joint.photodiode import Drift, Effect, PhotodiodeModel, process_correlation

_EXTENSIONS = ("READING_PLANES", "MOVE_PLANES", "BOARD_PLANES", "PHOTODIODE")
_BY_TURNS = 0.9
"""Fraction of either LED's time that both must share for the slow change of a board to be common to them."""
_SAME_PLACE_MM = 1e-3


@dataclass(frozen=True)
class SharedTerms:
    """Errors of one LED's flats from the photodiode, the stage and the readout boards.

    Attributes
    ----------
    time, x_mm, y_mm : ndarray, shape (e,)
        Of the exposures.
    epoch, move : ndarray of int, shape (e,)
        Epoch of the photodiode, and number of the stage move, from 0 without gaps.
    photodiode : PhotodiodeModel
    position_error_mm : float
        Standard deviation of the error of a move.
    boards : tuple of str
    coefficient_deviation : float
        Standard deviation that the boards' temperature coefficients have in common.
    board_time_rms : float
        Rms of the change in time of a board's gain.
    responses : PlaneResponses
    board_levels : ndarray of bool, shape (boards, 3 detectors)
        Levels of the detectors of each board.
    board_temperature, board_coefficient : ndarray, shape (boards,)
        Mean temperature of each board (deg C, NaN if it is not known), and rms size of its temperature coefficient beyond what the
        reduction has applied.
    """

    time: FloatArray
    x_mm: FloatArray
    y_mm: FloatArray
    epoch: IntArray
    move: IntArray
    photodiode: PhotodiodeModel
    position_error_mm: float
    boards: tuple[str, ...]
    coefficient_deviation: float
    board_time_rms: float
    responses: PlaneResponses
    board_levels: BoolArray
    board_temperature: FloatArray
    board_coefficient: FloatArray

    @classmethod
    def of(cls, errors: FlatCovariance, temperatures: Mapping[str, float] | None = None) -> SharedTerms:
        """Return the terms of a joint solution.

        Parameters
        ----------
        temperatures
            Mean temperature of each readout board over its exposures, deg C.
        """
        solution = errors.solution
        exposures, boards = solution.model.exposures, solution.prior.boards
        names = () if boards is None else boards.terms.names
        board_of = {} if boards is None else boards.terms.board_of
        numbers = np.repeat([board_of.get(detector.name, -1) for detector in errors.detectors], 3)
        is_level = np.arange(numbers.size) % 3 == 0
        known = temperatures or {}
        return cls(
            exposures.time,
            exposures.x_mm,
            exposures.y_mm,
            exposures.epoch,
            solution.model.move_numbers,
            solution.prior.photodiode,
            solution.prior.position_error_mm,
            names,
            COMMON_COEFFICIENT if boards is None else boards.terms.coefficient.common_deviation,
            0.0 if boards is None else boards.time_rms,
            errors.plane_responses(),
            (numbers == np.arange(len(names))[:, None]) & is_level,
            np.array([known.get(name, np.nan) for name in names]),
            np.array(
                [] if boards is None else [np.hypot(one.coefficient, one.coefficient_err) for one in board_results(solution)]
            ),
        )

    def of_planes(self, rows: IntArray) -> SharedTerms:
        """Return the same for some of the planes."""
        responses = PlaneResponses(
            *(part[rows] for part in (self.responses.readings, self.responses.moves, self.responses.boards))
        )
        return replace(self, responses=responses, board_levels=self.board_levels[:, rows])

    def hdus(self) -> list[Any]:
        """Return the terms as HDUs of a joint solution."""
        rows = [("linear", self.photodiode.linear_rms, np.nan, np.nan), ("epoch", self.photodiode.epoch_rms, np.nan, np.nan)]
        rows += [
            ("smooth" if drift.smooth else "rough", drift.probability**0.5 * drift.amplitude, drift.length, np.nan)
            for drift in self.photodiode.drifts
        ]
        rows += [("step", step.rms, np.nan, step.time) for step in self.photodiode.steps]
        parts = (
            ("READING_PLANES", self.responses.readings, "per relative deviation of a reading [plane, exposure]"),
            ("MOVE_PLANES", self.responses.moves, "per mm of a stage move [plane, x and y of move]"),
            ("BOARD_PLANES", self.responses.boards, "per unknown of a board [plane, term and board]"),
        )
        hdus: list[Any] = []
        for name, values, meaning in parts:
            hdu = fits.ImageHDU(values.astype(np.float32) if values.size else None, name=name)
            hdu.header["MEANING"] = meaning
            hdus.append(hdu)
        hdus[2].header["COEFDEV"] = (self.coefficient_deviation, "common deviation of coefficients")
        hdus[2].header["TIMERMS"] = (self.board_time_rms, "rms of the change in time")
        table = Table(rows=rows, names=("kind", "rms", "length", "time"), dtype=("U8", "f8", "f8", "f8"))
        hdus.append(fits.BinTableHDU(table, name="PHOTODIODE"))
        if self.boards:
            means = {"name": list(self.boards), "temperature": self.board_temperature, "coefficient": self.board_coefficient}
            hdus.append(fits.BinTableHDU(Table({**means, "levels": self.board_levels}), name="BOARD_MEANS"))
        return hdus

    @classmethod
    def read(cls, hdus: Any) -> SharedTerms | None:
        """Return the terms in an open joint solution; None if an older version wrote it."""
        if any(name not in hdus for name in _EXTENSIONS) or "move" not in hdus["EXPOSURES"].columns.names:
            return None
        exposures, planes = hdus["EXPOSURES"].data, 3 * len(hdus["DETECTORS"].data)
        parts = [
            np.zeros((planes, 0)) if hdus[name].data is None else np.asarray(hdus[name].data, dtype=np.float64)
            for name in _EXTENSIONS[:3]
        ]
        time, x_mm, y_mm = (np.asarray(exposures[name], dtype=np.float64) for name in ("time", "x_mm", "y_mm"))
        epoch, move = (np.asarray(exposures[name], dtype=np.int64) for name in ("epoch", "move"))
        header = hdus["BOARD_PLANES"].header
        means = hdus["BOARD_MEANS"].data if "BOARD_MEANS" in hdus else None
        return cls(
            time,
            x_mm,
            y_mm,
            epoch,
            move,
            _photodiode_in(hdus["PHOTODIODE"].data),
            float(hdus[0].header.get("POSERROR", 0.0)),
            () if means is None else tuple(str(name) for name in means["name"]),
            float(header["COEFDEV"]),
            float(header["TIMERMS"]),
            PlaneResponses(*parts),
            np.zeros((0, planes), dtype=bool) if means is None else np.asarray(means["levels"], dtype=bool).reshape(-1, planes),
            *(
                np.zeros(0) if means is None else np.array(means[name], dtype=np.float64)
                for name in ("temperature", "coefficient")
            ),
        )


def _photodiode_in(rows: Any) -> PhotodiodeModel:
    """Return the shared part of the photodiode; processes have their whole variance, with probability 1."""
    of_kind: Mapping[str, list[Any]] = {
        name: [row for row in rows if row["kind"] == name] for name in ("linear", "epoch", "step")
    }
    drifts = tuple(
        Drift(float(row["rms"]), float(row["length"]), 1.0, smooth=row["kind"] == "smooth")
        for row in rows
        if row["kind"] in ("smooth", "rough")
    )
    steps = tuple(Effect(np.nan, np.nan, float(row["rms"]), float(row["time"])) for row in of_kind["step"])
    linear, epoch = (float(of_kind[name][0]["rms"]) for name in ("linear", "epoch"))
    return PhotodiodeModel(0.0, 0.0, drifts, linear, steps, epoch)


@dataclass(frozen=True)
class SharedCovariance:
    """Covariances of the planes of two LEDs from their shared terms.

    Attributes
    ----------
    cross : ndarray, shape (3 n, 3 m)
        Covariance of the planes of the first LED with those of the second.
    first, second : ndarray, shape (3 n, 3 n) and (3 m, 3 m)
        Change of the covariance within each where both LEDs have the mean of their variances of the drift.
    gains : ndarray, shape (3 n, 3 n)
        Covariance of the differences between the mean gains of readout boards in both LEDs, on the planes of the first.
    """

    cross: FloatArray
    first: FloatArray
    second: FloatArray
    gains: FloatArray


def covariance_between(first: SharedTerms, second: SharedTerms) -> SharedCovariance:
    """Return the covariances of the planes of two LEDs from their shared terms.

    The drift of the photodiode is one process. Each LED estimates its size by itself; for their ratio both have the mean of the two
    variances, so that it cancels as far as both respond to it alike.
    """
    a, b = first.responses, second.responses
    common = _mean_model(first.photodiode, second.photodiode)
    span = max((np.ptp(first.time) + np.ptp(second.time)) / 2, np.finfo(float).tiny)
    cross = a.readings @ drift_between(first, second, common, span) @ b.readings.T
    moves = np.kron(_shared_moves(first, second), np.eye(2))
    cross += first.position_error_mm * second.position_error_mm * (a.moves @ moves @ b.moves.T)
    if a.boards.size and b.boards.size:
        cross += a.boards @ _board_covariance(first, second) @ b.boards.T
    changes = []
    for terms in (first, second):
        own_span = max(float(np.ptp(terms.time)), np.finfo(float).tiny)
        own = drift_between(terms, terms, terms.photodiode, own_span)
        readings = terms.responses.readings
        changes.append(readings @ (drift_between(terms, terms, common, span) - own) @ readings.T)
    levels = first.board_levels.astype(np.float64)
    gains = (levels.T * _gain_variances(first, second)) @ levels
    return SharedCovariance(np.asarray(cross), changes[0], changes[1], gains)


def _gain_variances(first: SharedTerms, second: SharedTerms) -> FloatArray:
    """Return the variance of the difference between the gains of each board of the first LED and those in the second."""
    variances = np.zeros(len(first.boards))
    middles = [(terms.time.min() + terms.time.max()) / 2 for terms in (first, second)]
    apart = 0.0 if _by_turns(first, second) else abs(middles[0] - middles[1]) / max(np.ptp(first.time), np.finfo(float).tiny)
    for number, name in enumerate(first.boards):
        if name not in second.boards:
            continue
        other = second.boards.index(name)
        difference = first.board_temperature[number] - second.board_temperature[other]
        sizes = first.board_coefficient[number], second.board_coefficient[other]
        variances[number] = np.nan_to_num(difference**2 * np.mean(np.square(sizes)))
        # A random walk.
        variances[number] += first.board_time_rms * second.board_time_rms * apart
    return variances


def _by_turns(first: SharedTerms, second: SharedTerms) -> bool:
    """Return whether two LEDs were exposed by turns, over nearly the same time."""
    together = min(first.time.max(), second.time.max()) - max(first.time.min(), second.time.min())
    return bool(together >= _BY_TURNS * max(np.ptp(first.time), np.ptp(second.time)))


def _mean_model(a: PhotodiodeModel, b: PhotodiodeModel) -> PhotodiodeModel:
    """Return drift and epochs with the mean of the variances of two LEDs."""
    variances = [model.process_variances for model in (a, b)]
    drifts = tuple(
        Drift(
            float(np.sqrt((variances[0].get(kernel, 0.0) + variances[1].get(kernel, 0.0)) / 2)), kernel[0], 1.0, smooth=kernel[1]
        )
        for kernel in dict.fromkeys([*variances[0], *variances[1]])
    )
    linear, epoch = (float(np.sqrt((getattr(a, name) ** 2 + getattr(b, name) ** 2) / 2)) for name in ("linear_rms", "epoch_rms"))
    return PhotodiodeModel(0.0, 0.0, drifts, linear, (), epoch)


def drift_between(first: SharedTerms, second: SharedTerms, model: PhotodiodeModel, span: float) -> FloatArray:
    """Return the covariance of the readings of two LEDs due to drift and epochs of a photodiode, shape (e, f).

    Steps are not contained: two LEDs find them at slightly different times, and have them as their own.

    Parameters
    ----------
    span
        Duration to which lengths and linear drift of the model refer.
    """
    middle = (first.time.min() + first.time.max()) / 2
    phases = [(terms.time - middle) / span for terms in (first, second)]
    result = model.linear_rms**2 * np.multiply.outer(*phases)
    distance = np.abs(first.time[:, None] - second.time) / span
    for drift in model.drifts:
        result += drift.probability * drift.amplitude**2 * process_correlation(distance / drift.length, smooth=drift.smooth)
    if np.array_equal(np.unique(first.epoch), np.unique(second.epoch)):
        result += model.epoch_rms**2 * (first.epoch[:, None] == second.epoch)
    return np.asarray(result)


def _shared_moves(first: SharedTerms, second: SharedTerms) -> FloatArray:
    """Return 1 for moves common to two LEDs, exposed one after the other at one position; shape (moves, moves)."""
    time = np.concatenate([first.time, second.time])
    order = np.argsort(time, kind="stable")
    x, y = (np.concatenate([getattr(first, name), getattr(second, name)])[order] for name in ("x_mm", "y_mm"))
    moved = (np.abs(np.diff(x)) > _SAME_PLACE_MM) | (np.abs(np.diff(y)) > _SAME_PLACE_MM)
    stay = np.empty(len(order), dtype=np.int64)
    stay[order] = np.concatenate([[0], np.cumsum(moved)])
    of_first, of_second = stay[: len(first.time)], stay[len(first.time) :]
    shared = np.zeros((first.responses.moves.shape[1] // 2, second.responses.moves.shape[1] // 2))
    for number in np.intersect1d(of_first, of_second):
        own, other = (np.unique(terms.move[of == number]) for terms, of in ((first, of_first), (second, of_second)))
        if shared.size and len(own) == 1 and len(other) == 1:
            shared[own[0], other[0]] = 1.0
    return shared


def _board_covariance(first: SharedTerms, second: SharedTerms) -> FloatArray:
    """Return the covariance of the unknowns of the boards of two LEDs: coefficients, then functions of time."""
    same = np.array([[float(one == other) for other in second.boards] for one in first.boards])
    common = min(first.coefficient_deviation, second.coefficient_deviation, UNKNOWN_COEFFICIENT)
    of_time = np.zeros((TIME_FUNCTIONS, TIME_FUNCTIONS))
    if _by_turns(first, second):
        of_function = (np.pi * np.arange(1, TIME_FUNCTIONS + 1)) ** -2.0
        of_time = np.diag(first.board_time_rms * second.board_time_rms * of_function)
    rows, columns = len(first.boards), len(second.boards)
    result = np.zeros((rows * (1 + TIME_FUNCTIONS), columns * (1 + TIME_FUNCTIONS)))
    result[:rows, :columns] = OWN_COEFFICIENT**2 * same + common**2
    result[rows:, columns:] = np.kron(of_time, same)
    return result
