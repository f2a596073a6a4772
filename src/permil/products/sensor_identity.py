"""Identify the sensor of a file from its headers and compare it with the expected sensor.

Programs identify a sensor by raft bay and slot, by number, or by serial number, in cards of the primary header or of an extension, or in
the name of an extension. All of these statements must agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from permil.camera.model import SERIAL_PREFIX, detector_key, is_bay_and_slot, serial_key
from permil.errors import InputError, PermilError

if TYPE_CHECKING:
    from astropy.io.fits import Header

    from permil.camera import Camera, Detector

SERIAL_CARD = "LSST_NUM"
"""Card with the serial number of a sensor, in raw files and in products."""

_BUTLER = "LSST BUTLER DATAID DETECTOR"
_NAME_CARDS = (
    "DETECTOR", "DETNAME", "DET_NAME", "DET-NAME", "DETNAM", "CHIPID", "CCDNAME", "CCDID", "CCDNUM", "CCDCHIP", "DET-ID", "DETID",
    "DET_ID", "DETNUM", _BUTLER,
)  # fmt: skip
_SERIAL_CARDS = (SERIAL_CARD, "DETSER", "DET_SER", "DETSERNO", "DETSERIA")
_KIND_CARDS = ("PRODUCT", "LSST BUTLER DATASETTYPE", "OBSTYPE", "IMGTYPE", "IMAGETYP", "OBS-TYPE")
_KINDS = ("superbias", "bias", "zero", "dark", "flat", "raw", "defects", "fringe")
_DEFAULT_CAMERA = "lsstcam"
_UNDEFINED = {"", "NONE", "NULL", "UNKNOWN", "UNDEFINED", "UNDEF", "N/A", "NA", "NAN", "TBD"}
_TYPE = re.compile(r"(?:E2V|ITL|STA)?[\s_\-]*(?:CCD[\s_\-]?250|3800C?)|E2V|ITL|STA|CCD", re.IGNORECASE)
_BAY_AND_SLOT = re.compile(r"(?<![A-Z\d])(R\d\d)[\s_\-./]*(S[A-Z\d]\d)(?![A-Z\d])", re.IGNORECASE)
_PART = re.compile(r"S[A-Z\d]\d|R\d\d", re.IGNORECASE)
# CCD250 is a sensor type.
_NUMBERED = re.compile(r"(?<![A-Z\d])(?:DET(?:ECTOR)?[\s_\-]*\d{1,3}|CCD[\s_\-]*\d{1,2})(?!\d)", re.IGNORECASE)
_SERIAL = re.compile(r"(?<![A-Z\d])(?:E2V-CCD250|ITL-3800C)-\d+(?:-DEV)?(?![A-Z\d])", re.IGNORECASE)
_SHORTEST_SERIAL = 4
_CALIB_ID = re.compile(r"\bdetector=(\d+)\b")


@dataclass(frozen=True)
class SensorStatement:
    """The identification of a sensor in one place of a file.

    Attributes
    ----------
    label
        Name, number or serial number.
    source
        Location in the file, for messages.
    kind
        ``detector``: position in the focal plane; ``part``: raft bay or slot alone; ``serial``: serial number.
    """

    label: Any
    source: str
    kind: Literal["detector", "part", "serial"] = "detector"

    def __str__(self) -> str:
        """Return the statement for a message."""
        return f"{self.source} says {self.label}"


@dataclass(frozen=True)
class Sensor:
    """The expected sensor.

    Attributes
    ----------
    name
        Name of its position in the focal plane.
    serial
        Serial number; if empty, serial numbers are not compared.
    camera
        Camera that translates numbers and serial numbers; None if unknown.
    """

    name: str
    serial: str = ""
    camera: Camera | None = None

    def __str__(self) -> str:
        """Return name and serial number."""
        return f"{self.name} ({self.serial})" if self.serial else self.name

    @property
    def detector(self) -> Detector | None:
        """Geometry; None if the camera is unknown or has no such detector."""
        return None if self.camera is None else self.camera.find(self.name)

    def agrees(self, statement: SensorStatement) -> bool | None:
        """Return whether a statement identifies this sensor; None if undecided."""
        key = detector_key(statement.label)
        if statement.kind == "serial" and self.serial:
            return serial_key(statement.label) == serial_key(self.serial)
        if statement.kind == "part":
            return key in (self.name[:3], self.name[4:]) if is_bay_and_slot(self.name) else None
        detector = self.detector
        if key == detector_key(self.name) or (detector is not None and detector.is_called(statement.label)):
            return True
        if statement.kind == "serial":
            return None
        known = detector is not None and self.camera is not None and self.camera.find(statement.label) is not None
        number = isinstance(key, int) and detector is not None
        return False if known or number or (is_bay_and_slot(key) and is_bay_and_slot(self.name)) else None

    def is_other(self, statement: SensorStatement) -> bool:
        """Return whether a label identifies another detector of the camera."""
        found = None if self.camera is None else self.camera.find(statement.label)
        return found is not None and found.name != self.name

    def verdict(self, statements: Iterable[SensorStatement]) -> bool | None:
        """Return whether statements identify this sensor: False if one contradicts, None if all are undecided."""
        answers = [self.agrees(statement) for statement in statements]
        return False if False in answers else True if True in answers else None


def card_of(header: Header, keyword: str) -> Any:
    """Return the value of a card, None if it is missing, undefined or cannot be parsed."""
    try:
        value = header[keyword]
    # Astropy passes on any exception of its parsers.
    except Exception:  # noqa: BLE001
        return None
    if isinstance(value, str | int | float | bool) and str(value).strip().upper() not in _UNDEFINED:
        return value.strip() if isinstance(value, str) else value
    return None


def product_kind(*headers: Header) -> str:
    """Return the kind of a product (``flat``, ``superbias``, ``bias``, ``dark``, ...) from its headers; empty if unknown.

    Only calibrations, which can be mistaken for each other, have a kind; other exposures have none.
    """
    for header in headers:
        for keyword in _KIND_CARDS:
            parts = re.split(r"[\s_\-]+", str(card_of(header, keyword) or "").lower())
            kind = next((kind for kind in _KINDS if kind in parts), "")
            if kind:
                return kind
        # permil products from before the card PRODUCT was introduced.
        if card_of(header, "FLATSCAL") is not None or card_of(header, "BEAMLED") is not None:
            return "flat"
        if card_of(header, "NFRAMES") is not None and card_of(header, "OVERSCAN") is not None:
            return "superbias"
    return ""


def sensor_statements(*headers: Header, camera: Camera | None = None) -> list[SensorStatement]:
    """Return all identifications of the sensor in headers.

    Parameters
    ----------
    camera
        Used to recognise extension names that are detector names but not of the form ``R22_S11``.
    """
    found = dict.fromkeys(statement for header in headers for statement in _statements(header, camera))
    return list(found)


def _statements(header: Header, camera: Camera | None) -> Iterator[SensorStatement]:
    bay, slot = card_of(header, "RAFTBAY"), card_of(header, "CCDSLOT")
    if bay is not None and slot is not None:
        yield SensorStatement(f"{bay}_{slot}", "RAFTBAY, CCDSLOT")
    elif slot is not None:
        yield SensorStatement(slot, "card CCDSLOT", "part")
    elif bay is not None:
        yield SensorStatement(bay, "card RAFTBAY", "part")
    for keyword in _NAME_CARDS:
        label = card_of(header, keyword)
        # Some programs write the sensor type, which is not unique.
        if label is not None and not isinstance(label, bool) and not _TYPE.fullmatch(str(label)):
            yield _statement(label, f"card {keyword}")
    for keyword in _SERIAL_CARDS:
        label = card_of(header, keyword)
        key = "" if label is None else serial_key(label)
        if len(key) >= _SHORTEST_SERIAL and any(map(str.isdigit, key)):
            yield SensorStatement(SERIAL_PREFIX.sub("", str(label)), f"card {keyword}", "serial")
    match = _CALIB_ID.search(str(card_of(header, "CALIB_ID") or ""))
    if match:
        yield SensorStatement(int(match[1]), "card CALIB_ID")
    name = str(card_of(header, "EXTNAME") or "")
    label = label_in(name) or (name if camera is not None and not name.isdecimal() and camera.find(name) is not None else "")
    if label:
        yield _statement(label, "EXTNAME")


def _statement(label: Any, source: str) -> SensorStatement:
    text = str(label)
    place = _BAY_AND_SLOT.search(text)
    if place:
        return SensorStatement(f"{place[1]}_{place[2]}".upper(), source)
    if _SERIAL.search(text):
        return SensorStatement(text, source, "serial")
    return SensorStatement(label, source, "part" if _PART.fullmatch(text) else "detector")


def label_in(text: str) -> str:
    """Return the detector named in a text (``R22_S11``, ``det094``, a serial number), empty if there is none."""
    match = _label_in(text)
    return "" if match is None else match[0]


def without_label(text: str) -> str:
    """Return a text without the detector named in it, and without separators at its ends."""
    match = _label_in(text)
    rest = text if match is None else text[: match.start()] + text[match.end() :]
    return rest.strip(" _-./,;:")


def _label_in(text: str) -> re.Match[str] | None:
    return next((match for pattern in (_BAY_AND_SLOT, _SERIAL, _NUMBERED) if (match := pattern.search(text))), None)


def identify_sensor(*headers: Header, path: Path) -> Sensor | None:
    """Return the sensor of a product from its headers; None if they do not name one.

    The camera is that of the card CAMERA, or ``lsstcam`` if that camera is unknown.

    Raises
    ------
    InputError
        If two statements identify different sensors.
    """
    from permil.camera.load import shared_camera

    named = next((str(name) for header in headers if (name := card_of(header, "CAMERA")) is not None), "")
    try:
        camera, is_own = shared_camera(named or _DEFAULT_CAMERA), True
    except PermilError:
        camera, is_own = shared_camera(_DEFAULT_CAMERA), False
    statements = sensor_statements(*headers, camera=camera)
    serials = [str(statement.label) for statement in statements if statement.kind == "serial"]
    places = [statement for statement in statements if statement.kind == "detector"]
    found = {camera.find(statement.label): statement for statement in reversed(places)}
    detector = next((entry for entry in reversed(found) if entry is not None), None) or next(
        (entry for serial in serials if (entry := camera.find(serial)) is not None), None
    )
    if detector is None:
        return Sensor(str(places[0].label), serials[0] if serials else "") if places else None
    sensor = Sensor(detector.name, serials[0] if serials else detector.serial if is_own else "", camera)
    wrong = next((statement for statement in statements if sensor.agrees(statement) is False), None)
    if wrong is not None:
        other = next((statement for statement in statements if sensor.agrees(statement)), None)
        raise InputError(
            f"the headers contradict each other: {wrong}, {other or sensor}",
            path=path,
            remedy="correct the header",
            value=wrong.label,
        )
    return sensor


def check_sensor(
    wanted: Sensor, statements: Sequence[SensorStatement], path: Path, *, what: str, kind: type[PermilError] = InputError
) -> str:
    """Check that a file is of the expected sensor; return the evidence: ``cards``, ``file name``, ``part`` or ``nothing``.

    The file name is used only if the headers name no sensor; ``part`` means that they name only a raft bay or a slot.

    Parameters
    ----------
    statements
        Statements in the headers of the file.
    what
        Name of the file in messages (``the image``).
    kind
        Class of the error.

    Raises
    ------
    PermilError
        If a statement identifies another sensor, or all statements are unknown sensors.
    """
    telling, known_by = list(statements), "cards"
    if not telling:
        label, known_by = label_in(path.name), "file name"
        telling = [_statement(label, "the file name")] if label else []
    answers = [wanted.agrees(statement) for statement in telling]
    wrong = next((statement for statement, answer in zip(telling, answers, strict=True) if answer is False), None)
    if wrong is None and True not in answers:
        wrong = next((statement for statement in telling if statement.kind == "detector" or wanted.is_other(statement)), None)
    if wrong is not None:
        raise kind(
            f"{what} is of {wrong.label} ({wrong.source}), not of {wanted}",
            path=path,
            remedy=f"give a file of {wanted.name}, or correct the header if it names the sensor wrongly",
            value=wrong.label,
            detector=wanted.name,
        )
    agreeing = [statement for statement, answer in zip(telling, answers, strict=True) if answer]
    if agreeing and len({statement.label for statement in agreeing}) == 1 and agreeing[0].kind == "part":
        return "part"
    return known_by if agreeing else "nothing"
