"""Acquisition files of the test stand: points that are read, the text of files to be written, currents and exposure times of LEDs.

The format is INI-like, with two dialects. In one, the key LOCATIONS restricts the readout of a whole file; in the other, a third word
does so for each point.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from permil.config.plan import PlanConfig, PlanLed
from permil.errors import ConfigError, InputError, PositionError

Dialect = Literal["locations", "columns"]
"""The readout is given by the key LOCATIONS, or by a third column of the points."""

# Text may follow the closing bracket directly, as in a file in use.
_SECTION = re.compile(r"^\[([^\]]+)\]")
_ENTRY = re.compile(r"^\s*([A-Za-z_]\w*)\s*=(.*)$")
_COMMENTS = ("#", ";")


@dataclass(frozen=True)
class AcquisitionPoint:
    """A projector position of an acquisition file.

    Parameters
    ----------
    x_mm, y_mm : float
        CCS, including the offset of the file.
    images : int
        Number of images per LED.
    leds : tuple of str
        LEDs that are switched on.
    location : str
        Part of the camera that is read out: ``R22/Reb1``, ``R02``; empty for all.
    path : Path
        The file; points of two files may be equal.
    """

    x_mm: float
    y_mm: float
    images: int
    leds: tuple[str, ...]
    location: str
    path: Path = field(compare=False)


def read_acquisition(path: str | Path) -> list[AcquisitionPoint]:
    """Return the points of an acquisition file in the order of acquisition.

    Raises
    ------
    InputError
        If the file cannot be read, has no points, or has text in place of a number.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise InputError(f"the acquisition file cannot be read ({error.strerror})", path=path, remedy="check the path") from error
    sections = _sections(text)
    points: list[AcquisitionPoint] = []
    for step in sections.get("acquire", {}).get("", []):
        section = sections.get(step.lower())
        if section is None:
            raise InputError(f"step {step} of [ACQUIRE] has no section", path=path, remedy=f"add a section [{step.upper()}]")
        if "point" in section:
            points += _points(section, path)
    if not points:
        raise InputError(
            "not an acquisition file with points",
            path=path,
            remedy="a step of its section [ACQUIRE] must name a section with the entry `point = x y, ...`",
        )
    return points


def _sections(text: str) -> dict[str, dict[str, list[str]]]:
    """Return the lines of each entry of each section; lines without an entry are listed under an empty name."""
    sections: dict[str, dict[str, list[str]]] = {}
    section: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        content = line.strip()
        header, entry = _SECTION.match(content), _ENTRY.match(line)
        if not content or content.startswith(_COMMENTS):
            continue
        if header:
            section, name = sections.setdefault(header[1].strip().lower(), {}), ""
        elif entry:
            name = entry[1].lower()
            section.setdefault(name, []).append(entry[2].strip())
        else:
            section.setdefault(name, []).append(content)
    return sections


def _points(section: dict[str, list[str]], path: Path) -> list[AcquisitionPoint]:
    offset = [_number(" ".join(section.get(name, ["0"])), name.upper(), path) for name in ("xoffset", "yoffset")]
    images = _number(" ".join(section.get("imcount", ["1"])), "IMCOUNT", path)
    if images < 1 or images != round(images):
        raise InputError(
            f"IMCOUNT = {images:g} is not a valid number of images", path=path, remedy="give 1 or more", value=images
        )
    leds = tuple(fields[0] for fields in _fields(section.get("expose", [])))
    locations = " ".join(section.get("locations", []))
    points = []
    for fields in _fields(section["point"]):
        if len(fields) not in (2, 3):
            raise InputError(
                f"the point {' '.join(fields)!r} is not valid", path=path, remedy="write x y, or x y location", value=fields
            )
        x, y = (_number(word, "point", path) for word in fields[:2])
        location = fields[2] if len(fields) == 3 else locations
        points.append(AcquisitionPoint(x + offset[0], y + offset[1], int(images), leds, location, path))
    return points


def _fields(lines: list[str]) -> list[list[str]]:
    """Split entries, separated by commas or lines, into fields; one comma is missing in files in use."""
    return [entry.split() for line in lines for entry in line.split(",") if entry.strip()]


def _number(text: str, what: str, path: Path) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{what}: {text!r} is not a number", path=path, remedy="correct it there", value=text)
    return number


@dataclass(frozen=True)
class LedExposure:
    """Current (A) and exposure time (s) of an LED."""

    led: str
    current_a: float
    exposure_s: float


@dataclass(frozen=True)
class AcquisitionFile:
    """Content of an acquisition file.

    Parameters
    ----------
    places : sequence of tuple
        CCS X and Y, mm, without the offset, in the order of acquisition.
    locations : sequence of str
        Part of the camera that is read out at each: ``R22/Reb1``, ``R22``; empty for all.
    images : int
        Images of each LED at each place.
    leds : sequence of LedExposure
        In the order of acquisition.
    offset_mm : tuple of float
        Added to each place by the program of the test stand.
    biases : int
        Biases before and after.
    notes : sequence of str
        Comments at the top, one line each.
    """

    places: Sequence[tuple[float, float]]
    locations: Sequence[str]
    images: int
    leds: Sequence[LedExposure]
    offset_mm: tuple[float, float] = (0.0, 0.0)
    biases: int = 10
    notes: Sequence[str] = ()


def acquisition_text(file: AcquisitionFile, dialect: Dialect) -> str:
    """Return the text of an acquisition file; positions are rounded to 0.001 mm.

    Raises
    ------
    PositionError
        If several parts of the camera are read out, and the dialect names one for the whole file.
    """
    shared = sorted(set(file.locations))
    if dialect == "locations" and len(shared) > 1:
        raise PositionError(
            f"one file cannot read out {shared[0] or 'all detectors'} at one point and {shared[1]} at another in the dialect locations",
            remedy="choose plan.files.dialect: columns, or one file per readout with plan.files.per",
            value=shared,
        )
    readout = [f"LOCATIONS = {shared[0]}"] if dialect == "locations" and shared[0] else []
    words = file.locations if dialect == "columns" else [""] * len(file.places)
    points = [f"{_millimetres(x)}  {_millimetres(y)} {word}".rstrip() for (x, y), word in zip(file.places, words, strict=True)]
    exposures = [f"{each.led} {each.current_a:g} {each.exposure_s:g}" for each in file.leds]
    biases = ["bias"] if file.biases else []
    offsets = [f"{axis}OFFSET = {offset:g}" for axis, offset in zip("XY", file.offset_mm, strict=True)]
    lines = [f"# {note}" for note in file.notes]
    lines += ["[ACQUIRE]", *biases, "ccob", *biases, ""]
    if file.biases:
        lines += ["[BIAS]", f"COUNT = {file.biases}", *readout, ""]
    lines += ["[CCOB]", "BCOUNT = 0", f"IMCOUNT = {file.images}", *offsets, *readout, ""]
    lines += [*_listed("expose", exposures), "", *_listed("point", points)]
    return "\n".join(lines) + "\n"


def _millimetres(value: float) -> str:
    # Adding zero turns a rounded -0 into 0.
    return f"{round(value, 3) + 0.0:.3f}"


def _listed(key: str, entries: Sequence[str]) -> list[str]:
    """Return the lines of an entry with one value in each, separated by commas."""
    start = f"{key} = "
    last = len(entries) - 1
    return [f"{start if not n else ' ' * len(start)}{entry}{',' if n < last else ''}" for n, entry in enumerate(entries)]


USUAL = {
    "nm960": (0.01, 0.32),
    "nm850": (0.01, 0.09),
    "nm750": (0.01, 0.13),
    "red": (0.009, 0.07),
    "blue": (0.006, 0.08),
    "uv": (0.1, 0.03),
}
"""Current (A) and exposure time (s) of each LED in the campaigns of the test stand, in the order of their files."""


def led_exposures(plan: PlanConfig) -> list[LedExposure]:
    """Return the LEDs of a plan in the order of acquisition; exposure times are scaled to ``plan.electrons`` where the signal is known.

    Raises
    ------
    ConfigError
        If an LED has no usual current or exposure time and none is given, or ``plan.led`` is not among them.
    """
    listed = plan.files.leds or [PlanLed(led=name) for name in USUAL]
    if plan.led:
        listed = [entry for entry in listed if entry.led == plan.led] or [PlanLed(led=plan.led)]
    return [_exposure(entry, plan.electrons) for entry in listed]


def _exposure(entry: PlanLed, electrons: float) -> LedExposure:
    current, seconds = USUAL.get(entry.led, (None, None))
    current, seconds = entry.current_a or current, entry.exposure_s or seconds
    if current is None or seconds is None:
        raise ConfigError(
            f"current and exposure time of the LED {entry.led!r} are not known",
            remedy=f"give current_a and exposure_s in plan.files.leds; known LEDs are {', '.join(USUAL)}",
            value=entry.led,
        )
    if entry.electrons is not None:
        # Charge grows with the time.
        seconds *= electrons / entry.electrons
    return LedExposure(entry.led, current, float(f"{seconds:.3g}"))


def unknown_signals(plan: PlanConfig) -> list[str]:
    """Return the LEDs whose exposure time is used unchanged, since its signal is unknown."""
    known = {entry.led for entry in plan.files.leds if entry.electrons is not None}
    return [each.led for each in led_exposures(plan) if each.led not in known]
