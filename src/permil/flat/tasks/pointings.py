"""Which exposures make the flat of a detector: groups at one projector position."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from permil.camera import Camera, Detector
from permil.camera.frames import detector_to_ccs, projector_relative
from permil.config import Config
from permil.errors import FlatError
from permil.exposures import SCAN

_SAMPLES = 17
"""Places along each side of a detector at which light is looked for."""


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


def wanted_detectors(config: Config, camera: Camera, exposures: Table) -> list[str]:
    """Return the detectors whose flats are asked for, in the order of the camera.

    Raises
    ------
    FlatError
        If a detector that is asked for was not read.
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
    exposures: Table, detector: Detector, is_lit: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.bool_]]
) -> Iterator[PointingGroup]:
    """Yield the groups of exposures of one detector that put light on it, scan and pointings numbered each in the order of time.

    Parameters
    ----------
    exposures
        Rows of the index, of one detector.
    is_lit
        Tells where, in the beam's coordinates (mm), there is light that is known.
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
