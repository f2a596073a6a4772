"""Which sensor an exposure is of: serial numbers, and one sensor for each detector of a run.

A bay may have held one sensor in one campaign and another in the next. A superbias or flat of both is that of neither.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from astropy.table import Table

from permil.camera import Camera, Detector
from permil.camera.names import SERIAL_PREFIX, serial_key
from permil.errors import InputError
from permil.exposures.cards import Cards

_RAFT = re.compile(r"(C?RTM)[-_ ]?(\d{3})(.*ETU)?", re.IGNORECASE)
_SHORTEST_SERIAL = 4
_NO_SERIAL = frozenset({"", "NONE", "UNKNOWN", "TBD", "NAN", "0"})


def sensor_serial(cards: Cards) -> str:
    """Return the serial number of the sensor that a primary header names, "" for none."""
    serial = cards.text("LSST_NUM")
    key = serial_key(serial)
    if key in _NO_SERIAL:
        return ""
    if len(key) < _SHORTEST_SERIAL or not any(map(str.isdigit, key)):
        cards.problems["LSST_NUM"] = f"card LSST_NUM has no serial number ({serial[:40]!r})"
        return ""
    return serial


def plain_serial(serial: str, detector: Detector) -> str:
    """Return a serial number in one spelling: that of the camera for the camera's sensor, else upper case with hyphens."""
    if not serial or serial_key(serial) == serial_key(detector.serial):
        return detector.serial if serial else ""
    return re.sub(r"[\s_]+", "-", SERIAL_PREFIX.sub("", serial).strip().upper())


def raft_key(serial: str) -> tuple[str, str, bool] | None:
    """Return kind and number of the raft that a raft's serial number names, and whether it is an engineering unit."""
    found = _RAFT.search(serial)
    return (found[1].upper(), found[2], found[3] is not None) if found else None


def foreign_sensor(serial: str, raft: str, detector: Detector, camera: Camera) -> list[str]:
    """Return what sensor and raft are where they are not those of the camera.

    Sensors were swapped, and a camera file is of one epoch: this is worth a note, and no error.
    """
    other_raft = raft_key(raft) not in (None, raft_key(detector.raft_serial))
    if serial and detector.serial and serial_key(serial) != serial_key(detector.serial):
        rafts = (f" of raft {raft}", f" of raft {detector.raft_serial}") if other_raft else ("", "")
        return [f"{detector.name} is sensor {serial}{rafts[0]}, in camera {camera.name} {detector.serial}{rafts[1]}"]
    if other_raft and detector.raft_serial:
        return [f"{detector.name} is of raft {raft}, in camera {camera.name} of {detector.raft_serial}"]
    return []


def require_one_sensor(exposures: Table, serials: Mapping[str, Sequence[str]], camera: Camera) -> None:
    """Make sure that the exposures that may enter one product of a detector are of one sensor.

    Parameters
    ----------
    exposures
        Classified index table; exposures without a purpose and headers without a serial do not count.
    serials
        Detectors whose sensors were named: several of one detector may be used together.

    Raises
    ------
    InputError
        If a detector has two sensors; the message names both, and files of each.
    """
    named = {detector.name for label in serials if (detector := camera.find(label)) is not None}
    detectors, found, purposes = (np.asarray(exposures[name], dtype=np.str_) for name in ("detector", "serial", "purpose"))
    mixed: list[str] = []
    first: dict[str, list[int]] = {}
    for name in np.unique(detectors):
        rows: dict[str, list[int]] = {}
        for row in np.flatnonzero((detectors == name) & (found != "") & (purposes != "other")):
            rows.setdefault(serial_key(found[row]), []).append(int(row))
        if len(rows) > 1 and str(name) not in named:
            mixed.append(str(name))
            first = first or rows
    if not mixed:
        return
    most = max(first.values(), key=len)
    parts = [f"{found[rows[0]]} in {len(rows)} files ({exposures['path'][rows[0]]})" for rows in first.values()]
    more = f"; {len(mixed) - 1} more detectors have two sensors, too" if len(mixed) > 1 else ""
    raise InputError(
        f"the exposures of {mixed[0]} are of different sensors: {' and '.join(parts)}{more}",
        remedy=f"search the folders of one campaign (exposures.roots), or name the sensor that is wanted, "
        f"for example exposures.serials: {{{mixed[0]}: {found[most[0]]}}}",
        detectors=mixed,
        serials=[str(found[rows[0]]) for rows in first.values()],
    )
