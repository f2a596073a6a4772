"""Provenance cards of a product: run, dates, sensor, light, configuration, validity; common to all products of a run.

The program and its version are in the cards of `permil.products.provenance`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from astropy.time import Time

from permil.camera import Camera
from permil.products.sensor_identity import SERIAL_CARD

_NO_FILTER = {"", "NONE", "NULL", "EMPTY"}
_LONGEST = 60
_OTHER_SECTIONS = ("output", "pipeline", "report", "plan", "simulate", "simulate_spots")
"""Parts of the configuration that have no effect on the numbers in a product."""


def origin_cards(
    exposures: Table, camera: Camera, *, config: Mapping[str, Any], detector: str = "", led: str = ""
) -> dict[str, tuple[Any, str]]:
    """Return the cards of a product that was made from some exposures.

    Parameters
    ----------
    exposures
        Rows of the index, one for each file; they may be of several detectors.
    config
        Complete configuration, as plain values.
    detector, led
        Of the product; empty if it is of several detectors, or of no LED.

    Returns
    -------
    dict
        Value and comment by card: DETECTOR, LSST_NUM, LED, BAND, WAVELEN, FILTER, RUNNUM, DATE-BEG, DATE-END, MJD-BEG, MJD-END, NEXPOSUR,
        CONFDIG, VALIDBEG, VALIDEND. Those that are not known are None, and are not written (`permil.products.provenance`).
    """
    own = exposures[np.asarray(exposures["detector"], dtype=np.str_) == detector] if detector else exposures
    light = camera.led(led)
    mjd = np.asarray(own["mjd"], dtype=np.float64)
    mjd = mjd[np.isfinite(mjd)]
    first, last = (float(mjd.min()), float(mjd.max())) if mjd.size else (None, None)
    validity = config["validity"]
    filters = [name for name in _entries(own, "filter") if name.upper() not in _NO_FILTER]
    return {
        "DETECTOR": (detector or None, "detector"),
        SERIAL_CARD: (_only(_entries(own, "serial")) if detector else None, "serial number of the sensor"),
        "LED": (led or None, "LED"),
        "BAND": (light.band or None, "band of the LED"),
        "WAVELEN": (light.wavelength_nm if math.isfinite(light.wavelength_nm) else None, "[nm] wavelength of the LED"),
        "FILTER": (_joined(filters), "filter of the projector"),
        "RUNNUM": (_joined(_entries(own, "run")), "run"),
        "DATE-BEG": (_date(first), "first exposure read out"),
        "DATE-END": (_date(last), "last exposure read out"),
        "MJD-BEG": (first, "[d] first exposure read out"),
        "MJD-END": (last, "[d] last exposure read out"),
        "NEXPOSUR": (len(set(_entries(own, "obsid"))), "exposures"),
        "CONFDIG": (configuration_digest(config), "digest of the configuration"),
        "VALIDBEG": (validity["begin"] or None, "valid from this date"),
        "VALIDEND": (validity["end"] or None, "valid until this date"),
    }


def origin_entries(cards: Mapping[str, tuple[Any, str]]) -> dict[str, Any]:
    """Return the cards of `origin_cards` that are known as plain entries, for the metadata of a table.

    Examples
    --------
    >>> from permil.products.origin import origin_entries
    >>> origin_entries({"LED": ("red", "LED"), "WAVELEN": (None, "[nm] wavelength of the LED")})
    {'LED': 'red'}
    """
    return {name: entry for name, (entry, _) in cards.items() if entry is not None}


def configuration_digest(config: Mapping[str, Any]) -> str:
    """Return a digest of a complete configuration, given as plain values.

    Sections without effect on the numbers (workers, report, simulation) and the folders of files do not change it.

    Examples
    --------
    >>> import permil
    >>> from permil.products.origin import configuration_digest
    >>> config = permil.Config(camera="lsstcam-bin8")
    >>> moved = permil.Config(camera="lsstcam-bin8", output="elsewhere")
    >>> configuration_digest(config.model_dump(mode="json")) == configuration_digest(moved.model_dump(mode="json"))
    True
    """
    content = {name: _without_folders(entry) for name, entry in config.items() if name not in _OTHER_SECTIONS}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _without_folders(entry: Any) -> Any:
    if isinstance(entry, Mapping):
        return {name: _without_folders(each) for name, each in entry.items()}
    if isinstance(entry, list | tuple):
        return [_without_folders(each) for each in entry]
    return Path(entry).name if isinstance(entry, str) and Path(entry).is_absolute() else entry


def _entries(rows: Table, name: str) -> list[str]:
    """Return the different entries of a column, in order, without empty ones."""
    return sorted({str(entry).strip() for entry in rows[name]} - {""})


def _only(entries: list[str]) -> str | None:
    return entries[0] if len(entries) == 1 else None


def _joined(entries: list[str]) -> str | None:
    """Return entries as one text that fits a card; the number of those that do not fit is added."""
    if not entries:
        return None
    text, shown = entries[0][:_LONGEST], 1
    for entry in entries[1:]:
        if len(text) + len(entry) + 1 > _LONGEST - 10:
            return f"{text} and {len(entries) - shown} more"
        text, shown = f"{text},{entry}", shown + 1
    return text


def _date(mjd: float | None) -> str | None:
    return None if mjd is None else str(Time(mjd, format="mjd").isot)
