"""Exposures from the rows of the index: groups at one projector position for the flat of a detector, lists for the joint solution.

Also the request for the flat of one detector, and the treatment of exposures that cannot be used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from permil.arrays import BoolArray, FloatArray, IntArray
from permil.camera import Camera, Detector
from permil.camera.frames import detector_to_ccs, projector_relative
from permil.config import Config
from permil.errors import FlatError, InputError, PermilError, PhotodiodeError
from permil.exposures import SCAN, in_time_order
from permil.flat.joint.data import ExposureList, epochs_between_pauses
from permil.flat.pointings import Pointing
from permil.isr import LeftOut

LEAVES_OUT = (FlatError, InputError, PhotodiodeError)
"""Errors for which a pointing, a detector or an LED is left out while the others continue."""

PART_OF_EXPOSURES = 0.9
"""Fraction of the run time of a flat spent on its exposures; the rest is for its figures and files."""

_SAMPLES = 17
"""Places along each side of a detector at which the light is tested."""


@dataclass(frozen=True)
class PointingGroup:
    """Exposures of one detector at one projector position."""

    number: int
    x_mm: float
    y_mm: float
    paths: tuple[str, ...]
    obsids: tuple[str, ...]
    photodiodes: tuple[float, ...]
    aimed: bool
    scan: bool

    def pointing(self, exposures: int, *, scale_error: float, photodiode: float, chi_square: float = float("nan")) -> Pointing:
        """Return the group as a pointing; see `Pointing` for the arguments."""
        return Pointing(
            number=self.number,
            x_mm=self.x_mm,
            y_mm=self.y_mm,
            scale_error=scale_error,
            exposures=exposures,
            chi_square=chi_square,
            aimed=self.aimed,
            scan=self.scan,
            photodiode=photodiode,
        )

    def left_out(self, error: PermilError) -> list[LeftOut]:
        """Return the exposures as left out because of an error."""
        kind = "scan position" if self.scan else "pointing"
        place = f"{kind} {self.number} at ({self.x_mm:.2f}, {self.y_mm:.2f}) mm is left out"
        return [LeftOut(Path(path), f"{place}: {error.what}") for path in self.paths]


@dataclass(frozen=True)
class FlatRequest:
    """The flat of one detector and LED.

    Attributes
    ----------
    groups
        Exposures, by projector position.
    nearest
        Files of the exposures whose projector was nearest to the middle of the detector; for the solver `joint`.
    origin
        Cards that say where the exposures come from.
    """

    config: Config
    root: Path
    detector: str
    led: str
    groups: tuple[PointingGroup, ...]
    fingerprint: str
    solver: str = "divide"
    nearest: tuple[str, ...] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)


def require_pointings(used: int, request: FlatRequest, noted: Sequence[LeftOut]) -> None:
    """Raise an error if no exposure of a detector was used.

    Raises
    ------
    FlatError
        With the first reason.
    """
    if not used:
        why = f" ({noted[0].path.name}: {noted[0].reason})" if noted else ""
        raise FlatError(
            f"no exposure of {request.detector} with LED {request.led} can be used{why}",
            remedy="take its exposures again, or leave the detector out with flat.detectors",
            detector=request.detector,
            led=request.led,
        )


def wanted_detectors(config: Config, camera: Camera, exposures: Table) -> list[str]:
    """Return the detectors whose flats are requested, in the order of the camera.

    Raises
    ------
    FlatError
        If a requested detector was not read.
    """
    present = [detector.name for detector in camera.detectors.values() if detector.name in set(exposures["detector"])]
    if not config.flat.detectors:
        return present
    chosen = [name for name in present if name in config.flat.detectors or name[:3] in config.flat.detectors]
    for wanted in config.flat.detectors:
        if not any(wanted in (name, name[:3]) for name in chosen):
            raise FlatError(
                f"{wanted} was not read in any pointing",
                remedy=f"detectors that were: {', '.join(present)}; check flat.detectors",
                value=wanted,
            )
    return chosen


def pointing_groups(
    exposures: Table, detector: Detector, is_lit: Callable[[FloatArray, FloatArray], BoolArray]
) -> Iterator[PointingGroup]:
    """Yield the groups of exposures that illuminate a detector; scan and pointings are each numbered in the order of time.

    Parameters
    ----------
    exposures
        Rows of the index, of one detector.
    is_lit
        Returns where, in the beam's coordinates (mm), the light is known.
    """
    exposures = exposures.copy()
    exposures.sort(["mjd", "obsid"])
    corner_x, corner_y = np.meshgrid(np.linspace(0, detector.nx - 1, _SAMPLES), np.linspace(0, detector.ny - 1, _SAMPLES))
    x_ccs, y_ccs = detector_to_ccs(detector, corner_x, corner_y)
    order = list(dict.fromkeys(int(number) for number in exposures["position_id"]))
    numbers = {True: 0, False: 0}
    for position in order:
        members = exposures[exposures["position_id"] == position]
        x_mm, y_mm = float(np.mean(members["x_mm"])), float(np.mean(members["y_mm"]))
        if not is_lit(*projector_relative(x_ccs, y_ccs, x_mm, y_mm)).any():
            continue
        scan = str(members["purpose"][0]) == SCAN
        numbers[scan] += 1
        yield PointingGroup(
            number=numbers[scan],
            x_mm=x_mm,
            y_mm=y_mm,
            paths=tuple(str(path) for path in members["path"]),
            obsids=tuple(str(obsid) for obsid in members["obsid"]),
            photodiodes=tuple(float(reading) for reading in members["photodiode"]),
            aimed=bool(np.any(members["aimed"] == detector.name)) and not scan,
            scan=scan,
        )


def unique_exposures(rows: Table) -> Table:
    """Return one row for each exposure, in the order of time; the used columns are common to its detectors."""
    ordered = in_time_order(rows)
    _, first = np.unique(np.asarray(ordered["obsid"], dtype=np.str_), return_index=True)
    return ordered[np.sort(first)]


def exposure_list(exposures: Table, *, with_photodiode: bool) -> ExposureList:
    """Return the exposures in the form of the joint solution.

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
    """Return the unit of the times of `exposure_list` in seconds; NaN if the order of the rows replaces time."""
    return 86400.0 if np.isfinite(np.asarray(exposures["mjd"], dtype=np.float64)).all() else float("nan")


def _epochs(exposures: Table, time: FloatArray) -> IntArray:
    """Return the epoch of each exposure: one for each run, job and kind of exposure, and a new one after each pause."""
    labels = [np.asarray(exposures[name]).astype(str) for name in ("run", "job", "purpose") if name in exposures.colnames]
    labels.append(epochs_between_pauses(time).astype(str))
    return np.unique(np.stack(labels), axis=1, return_inverse=True)[1].ravel().astype(np.int64)
