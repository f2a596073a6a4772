"""Parse names of detectors in every spelling, for headers, tables, file names and configurations.

``R22_S11`` is also written ``R22-S11``, ``r22_s11``, ``R22S11``, ``94``, ``det094`` or by the serial number of its sensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np

SERIAL_PREFIX = re.compile(r"^\s*LCA[-_ ]", re.IGNORECASE)
"""Prefix that some programs write before a serial number."""

_SEPARATORS = re.compile(r"[\s_\-./]+")
_NUMBER = re.compile(r"(?:DET(?:ECTOR)?|CCD)?0*(\d+)")
_BAY_AND_SLOT = re.compile(r"R\d\dS[A-Z\d]\d")


def detector_key(label: Any) -> str | int:
    """Return the canonical spelling of a detector label.

    Parameters
    ----------
    label
        Text, bytes or number, as headers, tables and configurations hold it.

    Returns
    -------
    str or int
        The number of the detector for ``94``, ``"94"``, ``94.0`` and ``"det094"``, else the upper-case text without separators.
        An empty or undefined label gives ``""``.

    Examples
    --------
    >>> detector_key("r22-s11"), detector_key("det094"), detector_key("E2V-CCD250-382")
    ('R22S11', 94, 'E2VCCD250382')
    """
    if label is None or label is np.ma.masked or isinstance(label, bool | np.bool_):
        return ""
    if isinstance(label, bytes):
        label = label.decode("ascii", "replace")
    if isinstance(label, int | np.integer) or (isinstance(label, float | np.floating) and float(label).is_integer()):
        return int(label)
    return _key_of(str(label))


@lru_cache(maxsize=4096)
def _key_of(text: str) -> str | int:
    key = _SEPARATORS.sub("", text.upper())
    number = _NUMBER.fullmatch(key)
    return int(number[1]) if number else key


def serial_key(serial: Any) -> str:
    """Normalise a serial number for comparison: case, blanks, hyphens and a leading LCA are ignored."""
    return str(detector_key(SERIAL_PREFIX.sub("", str(serial))))


def is_bay_and_slot(label: Any) -> bool:
    """Return whether a label has the form raft bay and slot (``R22_S11``), whether or not a camera has it."""
    key = detector_key(label)
    return isinstance(key, str) and _BAY_AND_SLOT.fullmatch(key) is not None


def keys_of(name: str, number: int, serial: str) -> Iterable[str | int]:
    """Return the canonical spellings of name, number and serial number of a detector."""
    keys = (detector_key(name), number, detector_key(serial))
    return tuple(key for key in keys if key != "")
