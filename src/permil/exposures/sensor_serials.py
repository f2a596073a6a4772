"""Serial numbers of sensors in raw headers, and the check that each detector of a run has one sensor.

A bay may hold different sensors in different campaigns. A superbias or flat that mixes them is wrong for both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from astropy.table import Table

from permil.camera import Camera, Detector
from permil.camera.detector_names import SERIAL_PREFIX, serial_key
from permil.errors import InputError
from permil.exposures.cards import Cards

_RAFT = re.compile(r"(C?RTM)[-_ ]?(\d{3})(.*ETU)?", re.IGNORECASE)
_SHORTEST_SERIAL = 4
_NO_SERIAL = frozenset({"", "NONE", "UNKNOWN", "TBD", "NAN", "0"})


def sensor_serial(cards: Cards) -> str:
    """Return the serial number of the sensor in a primary header, "" if missing."""
    serial = cards.text("LSST_NUM")
    key = serial_key(serial)
    if key in _NO_SERIAL:
        return ""
    if len(key) < _SHORTEST_SERIAL or not any(map(str.isdigit, key)):
        cards.problems["LSST_NUM"] = f"card LSST_NUM is not a serial number ({serial[:40]!r})"
        return ""
    return serial


def plain_serial(serial: str, detector: Detector) -> str:
    """Normalise a serial number: the spelling of the camera for its own sensor, else upper case with hyphens."""
    if not serial or serial_key(serial) == serial_key(detector.serial):
        return detector.serial if serial else ""
    return re.sub(r"[\s_]+", "-", SERIAL_PREFIX.sub("", serial).strip().upper())


def raft_key(serial: str) -> tuple[str, str, bool] | None:
    """Parse the serial number of a raft: kind, number, and whether it is an engineering unit."""
    found = _RAFT.search(serial)
    return (found[1].upper(), found[2], found[3] is not None) if found else None


def foreign_sensor(serial: str, raft: str, detector: Detector, camera: Camera) -> list[str]:
    """Describe sensor and raft if they differ from those of the camera.

    Sensors have been swapped and a camera file describes one epoch, so a difference is a note, not an error.
    """
    other_raft = raft_key(raft) not in (None, raft_key(detector.raft_serial))
    if serial and detector.serial and serial_key(serial) != serial_key(detector.serial):
        rafts = (f" of raft {raft}", f" of raft {detector.raft_serial}") if other_raft else ("", "")
        return [f"{detector.name} is sensor {serial}{rafts[0]}, but {detector.serial}{rafts[1]} in camera {camera.name}"]
    if other_raft and detector.raft_serial:
        return [f"{detector.name} is in raft {raft}, but in {detector.raft_serial} in camera {camera.name}"]
    return []


def require_one_sensor(exposures: Table, serials: Mapping[str, Sequence[str]], camera: Camera) -> None:
    """Check that all exposures that may enter a product of a detector are of one sensor.

    Parameters
    ----------
    exposures
        Classified index table; exposures without a purpose and headers without a serial number are ignored.
    serials
        Sensors requested by detector: several of one detector may be used together.

    Raises
    ------
    InputError
        If a detector has two sensors; the message names both, with an example file of each.
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
    more = f"; {len(mixed) - 1} more detectors also have two sensors" if len(mixed) > 1 else ""
    raise InputError(
        f"the exposures of {mixed[0]} are of different sensors: {' and '.join(parts)}{more}",
        remedy=f"search the folders of one campaign (exposures.roots), or name the sensor to use, "
        f"for example exposures.serials: {{{mixed[0]}: {found[most[0]]}}}",
        detectors=mixed,
        serials=[str(found[rows[0]]) for rows in first.values()],
    )
