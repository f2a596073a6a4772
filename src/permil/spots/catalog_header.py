"""Metadata of a catalog from its headers and name: exposure, detector, sensor, time, projector position, band.

Cards are read with `permil.exposures.cards`: unusable values count as missing and are listed.

Names of the spot measurements of 2019 have the form
``MC_C_20191030_000363_R22_S11_15.0s_0.1x_-3.5y_processed_grid.fits``; detectors are also written ``R22-S11`` or ``r22_s11``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.time import Time

from permil.camera import detector_key
from permil.errors import InputError
from permil.exposures import LEDS
from permil.exposures.cards import Cards
from permil.exposures.file_names import parse_file_name

_EXPOSURE = re.compile(r"[A-Z]{2}_[A-Z]_\d{8}_\d{6}")
_DETECTOR = re.compile(r"(?<![A-Z])(R\d\d)[_-]?(S[\dGW]\d)(?!\d)", re.IGNORECASE)
_NUMBER = r"([-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)"
_CONDITIONS = re.compile(rf"_{_NUMBER}s_{_NUMBER}x_{_NUMBER}y(?:_|\.|$)")

_NOTHING = frozenset({"", "none", "empty", "null", "undefined", "undef", "unknown", "n/a", "na", "nan", "-"})
_ISO_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d*)?)?Z?)?")
# Exposures take less than a day, projectors move by less than a metre; modified Julian dates of this and the last century.
_LONGEST_S, _FARTHEST_MM = 86400.0, 1000.0
_FIRST_MJD, _LAST_MJD = 15000.0, 120000.0


def exposure_key(name: str) -> str:
    """Normalise the name of an exposure: the number ``3019103000363`` is ``MC_C_20191030_000363``."""
    numbered = parse_file_name(f"{name}-R22-S11-det094.fits") if name.isdigit() else None
    return numbered.obsid if numbered else name


@dataclass(frozen=True)
class NameFacts:
    """Information in a file name; empty or NaN if absent."""

    exposure: str
    detector: str
    exposure_time: float
    projector_x: float
    projector_y: float


def facts_of_name(path: str | Path) -> NameFacts:
    """Parse a file name."""
    name = Path(path).name
    exposure, detector, conditions = _EXPOSURE.search(name), _DETECTOR.search(name), _CONDITIONS.search(name)
    seconds, x, y = (float(entry) for entry in conditions.groups()) if conditions else (np.nan,) * 3
    return NameFacts(
        exposure=exposure.group() if exposure else "",
        detector="_".join(detector.groups()).upper() if detector else "",
        exposure_time=seconds,
        projector_x=x,
        projector_y=y,
    )


@dataclass(frozen=True)
class CatalogHeader:
    """The cards of a catalog, from the primary header and from the table header, which some programs use.

    Attributes
    ----------
    primary, table
        The headers.
    further
        Clauses about impossible values.
    """

    primary: Cards
    table: Cards
    further: list[str] = field(default_factory=list)

    def text(self, *names: str) -> str:
        """Return the first text among some cards in either header, "" if there is none or it marks a missing value."""
        for name in names:
            for cards in (self.primary, self.table):
                text = cards.text(name)
                if text.lower() not in _NOTHING:
                    return text
        return ""

    def number(self, *names: str, unit: str | None = None) -> float:
        """Return the first number among some cards in either header, NaN if there is none."""
        found = (cards.number(name, unit=unit) for name in names for cards in (self.primary, self.table))
        return next((number for number in found if number == number), float("nan"))

    def number_between(self, low: float, high: float, *names: str, unit: str | None = None) -> float:
        """Return the first number among some cards; outside an open interval, NaN with a clause in `problems`."""
        number = self.number(*names, unit=unit)
        if number == number and not low < number < high:
            self.further.append(f"card {names[0]} has an impossible value ({number:g})")
            return float("nan")
        return number

    def problems(self) -> list[str]:
        """Return clauses about faults of the requested cards."""
        known = [*self.primary.problems.values(), *self.table.problems.values(), *self.further]
        return [f"{clause}: not used" for clause in dict.fromkeys(known)]


def catalog_facts(header: CatalogHeader, path: Path, *, name: str = "") -> dict[str, Any]:
    """Return the metadata of a `SpotCatalog` by field.

    Parameters
    ----------
    header, path
        Headers and path of the catalog.
    name
        Name of the exposure if neither header nor file name contains it; empty: the file name without suffix.

    Raises
    ------
    InputError
        If the headers or the file name contradict each other about detector or exposure.
    """
    in_name = facts_of_name(path)
    serial, slot = header.text("LSST_NUM"), "_".join(filter(None, (header.text("RAFTBAY"), header.text("CCDSLOT"))))
    _require_one(path, "detector", [*_texts(header, "DETECTOR"), slot, in_name.detector], detector_key)
    exposures = [*_texts(header, "EXPOSURE", "OBSID"), in_name.exposure]
    # Only identifiers of the camera's controller are comparable; other names may denote the same exposure.
    _require_one(path, "exposure", [entry for entry in exposures if facts_of_name(entry).exposure == entry], str)
    band = header.text("BAND", "FILTER")
    return {
        "detector": header.text("DETECTOR") or slot or in_name.detector or serial,
        "serial": serial,
        "exposure": header.text("EXPOSURE", "OBSID") or in_name.exposure or name or stem_of(path),
        "exposure_time": _or(header.number_between(-1e-9, _LONGEST_S, "EXPTIME", unit="s"), in_name.exposure_time),
        "projector_x": _or(
            header.number_between(-_FARTHEST_MM, _FARTHEST_MM, "PROJX", "BOTXCAM", unit="mm"), in_name.projector_x
        ),
        "projector_y": _or(
            header.number_between(-_FARTHEST_MM, _FARTHEST_MM, "PROJY", "BOTYCAM", unit="mm"), in_name.projector_y
        ),
        "band": band.lower() if band.lower() in LEDS else band,
        "mjd": _date(header),
        "aperture": header.number_between(0.0, 1e4, "APERTURE", unit="pixel"),
    }


def _texts(header: CatalogHeader, *names: str) -> list[str]:
    return [cards.text(name) for name in names for cards in (header.primary, header.table)]


def _require_one(path: Path, what: str, statements: list[str], key: Any) -> None:
    stated = {key(text): text for text in reversed(statements) if text.lower() not in _NOTHING}
    # A number or serial number may denote the same detector as a name, which only the camera can decide.
    comparable = {entry: text for entry, text in stated.items() if facts_of_name(text).detector} if what == "detector" else stated
    if len(comparable) > 1:
        first, second = list(comparable.values())[:2]
        raise InputError(
            f"header and file name contradict each other: {what} {second} and {first}",
            path=path,
            remedy="correct the wrong one",
            value=first,
            other=second,
        )


def _date(header: CatalogHeader) -> float:
    """Return the modified Julian date; a calendar date is converted."""
    for name in ("MJD", "MJD-OBS"):
        text = header.text(name)
        if _ISO_DATE.fullmatch(text):
            try:
                return float(Time(text.removesuffix("Z").replace(" ", "T")).mjd)
            except ValueError:
                header.further.append(f"card {name} is not a date ({text!r})")
        else:
            number = header.number_between(_FIRST_MJD, _LAST_MJD, name, unit="d")
            if number == number:
                return number
    return float("nan")


def _or(number: float, otherwise: float) -> float:
    return number if number == number else otherwise


def stem_of(path: Path) -> str:
    """Return the name of a file without the suffixes of its format and compression."""
    name = path.name
    for suffix in (".gz", ".fz", ".bz2", ".xz"):
        name = name.removesuffix(suffix)
    return Path(name).stem
